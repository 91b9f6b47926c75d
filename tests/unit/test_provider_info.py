from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from importlib.metadata import distribution, entry_points
from pathlib import Path
from typing import Any

import airflow
import jsonschema  # type: ignore[import-untyped]
import pytest

from airflow_provider_cio.get_provider_info import get_provider_info
from airflow_provider_cio.hooks.customerio import CustomerIOHook
from airflow_provider_cio.hooks.segment import SegmentHook
from airflow_provider_cio.stream.settings import StreamOptions, read_streams

INFO = get_provider_info()
TYPES = {one["connection-type"]: one for one in INFO["connection-types"]}
HOOKS: dict[str, type[CustomerIOHook | SegmentHook]] = {"customerio": CustomerIOHook, "segment_source": SegmentHook}
FIELDS = [(kind, name) for kind, one in TYPES.items() for name in one["conn-fields"]]
KEY = "key-0123456789abcdef"
#: Methods of `ConnectionFields` that read the field they are given.
METHODS = ("number", "flag", "text", "extra_secret")
NO_DEFAULT = {"message_id_namespace", "webhook_signing_secret", "webhook_signing_secret_previous"}


def schema_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(airflow.__path__[0]) / name).read_text())
    return found


def field(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = TYPES[kind]["conn-fields"][name]["schema"]
    return found


def read(monkeypatch: pytest.MonkeyPatch, kind: str, **extra: Any) -> tuple[Any, ...]:
    """Return everything that the hook makes of a connection with this extra."""
    monkeypatch.setenv("AIRFLOW_CONN_ITS_ID", json.dumps({"conn_type": kind, "password": KEY, "extra": extra}))
    if kind == "customerio":
        customerio = CustomerIOHook(customerio_conn_id="its_id")
        return customerio.settings, customerio.webhook_signing_secrets
    hook = SegmentHook(segment_conn_id="its_id")
    return hook.settings, hook.message_id_namespace


def test_info_fits_airflows_schema() -> None:
    schema = schema_of("provider_info.schema.json")
    jsonschema.validators.validator_for(schema).check_schema(schema)
    jsonschema.validate(INFO, schema)
    assert set(INFO) <= {*schema["properties"], "description"}


@pytest.mark.parametrize(
    "part", ["connection-types", "integrations", "operators", "hooks", "transfers", "asset-uris", "config"]
)
def test_parts_fit_the_stricter_schema(part: str) -> None:
    whole = schema_of("provider.yaml.schema.json")
    schema = whole["properties"][part] | {"definitions": whole["definitions"]}
    if part == "integrations":  # a page of Airflow's own documentation is for its own providers
        schema["items"]["required"] = ["integration-name", "external-doc-url", "tags"]
    jsonschema.validate(INFO[part], schema)


def test_entry_point() -> None:
    [ours] = [
        one for one in entry_points(group="apache_airflow_provider") if one.module.startswith("airflow_provider_cio")
    ]
    assert ours.load() is get_provider_info
    assert ours.dist is not None
    assert INFO["package-name"] == ours.dist.name == distribution("airflow-provider-cio").name


def test_paths_can_be_imported() -> None:
    modules = [path for part in ("operators", "hooks") for one in INFO[part] for path in one["python-modules"]]
    assert len(modules) == 4
    for path in modules:
        import_module(path)
    integrations = {one["integration-name"] for one in INFO["integrations"]}
    assert {one["integration-name"] for part in ("operators", "hooks") for one in INFO[part]} == integrations


def test_transfers_name_an_operator() -> None:
    integrations = {one["integration-name"] for one in INFO["integrations"]}
    operators = {path for one in INFO["operators"] for path in one["python-modules"]}
    for one in INFO["transfers"]:
        assert one["python-module"] in operators
        assert {one["source-integration-name"], one["target-integration-name"]} <= integrations


def test_asset_uris_name_functions() -> None:
    (uris,) = INFO["asset-uris"]
    for path in (uris["handler"], uris["to_openlineage_converter"]):
        module, _, name = path.rpartition(".")
        assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize("kind", HOOKS)
def test_connection_types_match_hooks(kind: str) -> None:
    assert set(TYPES) == set(HOOKS)
    hook, one = HOOKS[kind], TYPES[kind]
    module, _, name = one["hook-class-name"].rpartition(".")
    assert getattr(import_module(module), name) is hook
    assert hook.conn_type == kind
    assert hook.hook_name == one["hook-name"]
    assert hook(**{hook.conn_name_attr: "its_id"}).__dict__[hook.conn_name_attr] == "its_id"
    assert hook().__dict__[hook.conn_name_attr] == hook.default_conn_name


@pytest.mark.parametrize("kind", HOOKS)
def test_form_fields_match_the_hook(kind: str) -> None:
    source = Path(str(sys.modules[HOOKS[kind].__module__].__file__)).read_text()
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    by_method = [(call.func.attr, call.args) for call in calls if isinstance(call.func, ast.Attribute)]
    read = {ast.literal_eval(args[0]) for method, args in by_method if method in METHODS}
    read |= {"region" for method, _ in by_method if method == "region"}
    assert len(read) >= 3
    assert set(TYPES[kind]["conn-fields"]) == read


@pytest.mark.parametrize("kind", HOOKS)
def test_standard_fields_are_consistent(kind: str) -> None:
    behaviour = TYPES[kind]["ui-field-behaviour"]
    hidden = set(behaviour["hidden-fields"])
    assert not hidden & {*behaviour["relabeling"], *behaviour["placeholders"]}
    assert not hidden & {"host", "port", "password"}, "the hook reads these"


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_form_defaults_match_the_hook(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = field(kind, name)
    if name in NO_DEFAULT:
        assert "default" not in schema
        return
    jsonschema.validate(schema["default"], schema)
    plain = read(monkeypatch, kind)
    assert read(monkeypatch, kind, **{name: schema["default"]}) == plain
    written = {True: "on", False: "off"}.get(schema["default"], str(schema["default"]))
    assert f"Default: {written}." in TYPES[kind]["conn-fields"][name]["description"]


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_hook_accepts_form_values(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = field(kind, name)
    candidates = [None, *schema.get("enum", []), True, False, 0, 0.5, 1, 2000, "/v2/events", "text"]
    taken = [value for value in candidates if fits(value, schema)]
    assert len(taken) >= 2
    different = {read(monkeypatch, kind, **{name: value}) for value in taken}
    assert len(different) >= 2, "it makes no difference"


def fits(value: Any, schema: dict[str, Any]) -> bool:
    if schema.get("default") == "/v1/batch" and value == "text":
        return False  # JSON Schema could say it, Airflow's form could not show it
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


def test_options_match_their_use() -> None:
    read: set[tuple[str, ...]] = set()
    for path in Path(str(sys.modules["airflow_provider_cio"].__file__)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("conf.get", "conf.getboolean", "conf.getint"):
                read.add(tuple(ast.literal_eval(argument) for argument in node.args))
    ours = {(section, option) for section, one in INFO["config"].items() for option in one["options"]}
    assert ours == {(section, option) for section, option in read if section == "customerio"}
    assert ours == {("customerio", option) for option in ("streams", "mount_streams", "flow", "dag_tab")}


def test_option_example_is_usable() -> None:
    option = INFO["config"]["customerio"]["options"]["streams"]
    assert isinstance(read_streams(option["example"])["main"], StreamOptions)
    assert option["default"] == "", "nothing is mounted"


def test_airflow_cli_shows_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """These commands read all providers, so one wrong entry breaks them."""
    text = '{"main": {"collections": ["Email Opened"]}}'
    monkeypatch.setenv("AIRFLOW__CUSTOMERIO__STREAMS", text)
    assert airflow_says("config", "get-value", "customerio", "streams")[-1] == text
    monkeypatch.delenv("AIRFLOW__CUSTOMERIO__STREAMS")
    description = INFO["config"]["customerio"]["options"]["streams"]["description"].splitlines()
    said = airflow_says("config", "list", "--section", "customerio", "--include-descriptions")
    section = said[said.index("[customerio]") :]  # some versions print lines of their log before it
    described = [INFO["config"]["customerio"]["description"], *description]
    assert [line for line in section if line.startswith(("# ", "["))][: 1 + len(described)] == [
        "[customerio]",
        *(f"# {line}" for line in described),
    ]
    assert "streams =" in [line.removeprefix("# ") for line in section], "only some versions comment out what is unset"
    assert any(line.startswith("airflow-provider-cio ") for line in airflow_says("providers", "list"))


def airflow_says(*command: str) -> list[str]:
    """Return the lines that a command of Airflow's prints."""
    ran = subprocess.run(
        [sys.executable, "-m", "airflow", *command], capture_output=True, text=True, check=True, timeout=110
    )
    return [line.rstrip() for line in ran.stdout.splitlines()]


def test_module_imports_nothing_else() -> None:
    """`airflow` itself imports the module at every start, and a failure in it breaks every command."""
    code = (
        "import sys; from airflow_provider_cio.get_provider_info import get_provider_info; get_provider_info()\n"
        "print(sorted(name for name in sys.modules if name.startswith(('airflow', 'msgspec', 'requests'))))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ast.literal_eval(ran.stdout) == ["airflow_provider_cio", "airflow_provider_cio.get_provider_info"]


def test_each_call_gives_a_new_dict() -> None:
    get_provider_info().clear()
    assert get_provider_info() == INFO

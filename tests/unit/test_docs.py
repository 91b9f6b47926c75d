"""Check the docs against the package and Airflow."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import msgspec
import pytest
import yaml  # type: ignore[import-untyped]

import airflow_provider_cio
from airflow_provider_cio.events.catalog import CATALOG, DEFAULT_COLLECTIONS
from airflow_provider_cio.events.event import encode
from airflow_provider_cio.events.mapping import Mapper, Properties
from airflow_provider_cio.events.occurrence import Device, Id, Identifiers, Message, Occurrence
from airflow_provider_cio.get_provider_info import get_provider_info
from airflow_provider_cio.operators.base import CustomerIOOperator
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from airflow_provider_cio.operators.customerio_to_warehouse import CustomerIOToWarehouseOperator
from airflow_provider_cio.warehouse import DATABASES, database_for
from airflow_provider_cio.warehouse.postgres import Postgres
from airflow_provider_cio.warehouse.tables import columns_of
from tests.airflow_names import CronDataIntervalTimetable
from tests.sandbox import Settings
from tests.sandbox.__main__ import exports

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PACKAGE = Path(str(airflow_provider_cio.__file__)).parent
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


class Block(NamedTuple):
    """Code block of a page."""

    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text()
        for found in re.finditer(r"^( *)```(\w*)\n(.*?)^ *```$", text, re.M | re.S):
            yield Block(page, text[: found.start()].count("\n") + 1, found[2], dedent(found[3]))


BLOCKS = list(blocks())


def of(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", [one for one in BLOCKS if one.language in languages], ids=str)


def table(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table after a heading, without its head."""
    after = (REPOSITORY / "docs" / page).read_text().partition(f"# {heading}\n")[2]
    rows = re.search(r"(?:^\|.*\n)+", after, re.M)
    assert rows, f"no table after {heading!r}"
    return [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows[0].splitlines()[2:]]


# Pages and links


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_readme_links_every_page() -> None:
    readme = PAGES[0].read_text()
    assert [page.name for page in PAGES[2:] if f"docs/{page.name}" not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    named = re.findall(r"`((?:tests|dags|docs|airflow_provider_cio)/[\w/.]+)`", page.read_text())
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


# Code

WHEEL = f"airflow_provider_cio-{airflow_provider_cio.__version__}-py3-none-any.whl"


@of("python")
def test_python_compiles_and_imports(block: Block) -> None:
    tree = compile(block.code, str(block), "exec", ast.PyCF_ONLY_AST)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module([*imports], []), str(block), "exec"), {})


@of("python")
def test_a_dag_is_parsed_by_airflow(block: Block, tmp_path: Path) -> None:
    if "with DAG(" not in block.code:
        return
    from airflow.dag_processing.dagbag import DagBag

    (tmp_path / "dag.py").write_text(block.code)
    bag = DagBag(tmp_path)
    assert bag.import_errors == {}
    assert len(bag.dags) == block.code.count("with DAG(")
    for dag in bag.dags.values():
        assert_no_day_is_left_out(dag)


def test_dags_are_found() -> None:
    pages = [block.page.name for block in BLOCKS if "with DAG(" in block.code]
    assert {"README.md", "operator.md", "deploying.md", "warehouse.md"} <= set(pages)


def test_examples_leave_no_day_out() -> None:
    from airflow.dag_processing.dagbag import DagBag

    dags = DagBag(REPOSITORY / "dags").dags.values()
    assert len(dags) > 5
    for dag in dags:
        assert_no_day_is_left_out(dag)


def assert_no_day_is_left_out(dag: Any) -> None:
    """Assert that a scheduled DAG catches up and has no preview, and that each DAG runs one run at a time.

    A scheduled DAG must run each day, also those on which it was paused. Its runs share Customer.io's limit. A preview
    must not be scheduled, because Airflow would take its days for done.
    """
    operators = [task for task in dag.tasks if isinstance(task, CustomerIOOperator)]
    if dag.schedule is not None and not isinstance(dag.schedule, list):  # of assets
        assert type(dag.schedule) is CronDataIntervalTimetable, dag.dag_id
        assert dag.catchup is True, dag.dag_id
        assert [task.task_id for task in operators if task.preview] == []
    if operators:
        assert dag.max_active_runs == 1, dag.dag_id


@of("json")
def test_json_is_valid(block: Block) -> None:
    try:
        json.loads(block.code)
    except ValueError:
        assert [json.loads(line) for line in block.code.splitlines()]


@of("yaml")
def test_yaml_is_valid(block: Block) -> None:
    assert yaml.safe_load(block.code)


@of("bash", "dockerfile")
def test_commands_are_valid(block: Block) -> None:
    from airflow.cli.cli_parser import get_parser

    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.M)
    for line in block.code.splitlines():
        words = shlex.split(line, comments=True)
        match words:
            case ["airflow", *arguments]:
                get_parser().parse_args(arguments)
            case ["make", target, *_]:
                assert target in targets
            case ["export", assignment]:
                value = assignment.partition("=")[2]
                assert json.loads(value) if value.startswith("{") else value
            case ["pip", "install", *_] | ["RUN", "pip", "install", *_]:
                package, _, extra = words[-1].partition("[")
                assert package in ("airflow-provider-cio", ".", WHEEL, f"dist/{WHEEL}", f"/tmp/{WHEEL}")
                assert extra.rstrip("]") in ("", *EXTRAS)
            case ["COPY", path, _]:
                assert path == f"dist/{WHEEL}"
            case ["pip", "wheel", *_]:
                assert words[2:] == ["--no-deps", "-w", "dist", "."]
            case ["python", "-c", code]:
                compile(code, str(block), "exec")
            case [".venv/bin/pytest", path, *_] if not path.startswith("-"):
                assert (REPOSITORY / path.partition("::")[0]).exists()
            case [".venv/bin/python" | "python", "-m", module, *_]:
                place = REPOSITORY / module.replace(".", "/")
                assert (place / "__main__.py").exists() or hasattr(import_module(module), "main")
            case ["uvicorn", app, *_]:
                module, _, name = app.partition(":")
                assert callable(getattr(import_module(module), name))
            case []:
                pass
            case [word, *_]:
                assert word in (
                    "FROM",
                    ".venv/bin/ruff",
                    ".venv/bin/mypy",
                    ".venv/bin/pytest",
                    "git",
                    "cd",
                    "curl",
                    "uvicorn",
                )


def test_contributing_shows_the_sandboxes_connections() -> None:
    (shown,) = [block.code for block in BLOCKS if "python -m tests.sandbox\n" in block.code and "export" in block.code]
    settings = Settings()
    assert shown.splitlines()[1:] == exports("http://127.0.0.1:8431", settings.app_key, settings.write_key)


# The tables


def test_warehouse_parameters() -> None:
    documented = {cells[0].strip("`"): cells[1] for cells in table("warehouse.md", "Parameters")}
    signature = inspect.signature(CustomerIOToWarehouseOperator).parameters
    assert documented.keys() == signature.keys() - inspect.signature(CustomerIOToSegmentOperator).parameters.keys()
    assert documented == {name: f'`"{signature[name].default}"`' for name in documented}


def test_warehouse_columns() -> None:
    cells = table("warehouse.md", "Tables")
    columns = {column.name: column for column in columns_of("email_opened")}
    named = [name for names, *_ in cells for name in re.findall(r"`(\w+)`", names)]
    assert set(named) <= columns.keys()
    for names, kind, _ in cells:
        for name in re.findall(r"`(\w+)`", names):
            assert Postgres.types[columns[name].kind] in kind


def test_warehouse_databases() -> None:
    cells = table("warehouse.md", "Databases")
    assert [kind.strip("`") for kind, *_ in cells] == list(DATABASES)
    for kind, install, _ in cells:
        (requirement,) = EXTRAS[install.strip("`[]")]
        assert requirement.startswith(f"{database_for(kind.strip('`')).package}>=")


def test_operator_parameters() -> None:
    documented = {cells[0].strip("`"): cells[1] for cells in table("operator.md", "Parameters")}
    signature = inspect.signature(CustomerIOToSegmentOperator).parameters
    defaults = {name: one.default for name, one in signature.items() if one.kind is one.KEYWORD_ONLY}
    assert documented.keys() == defaults.keys()
    for name, default in defaults.items():
        shown = documented[name]
        if isinstance(default, timedelta):
            minutes = default // timedelta(minutes=1)
            assert shown == (f"{default.days} days" if default.days else f"{minutes} minutes"), name
        elif isinstance(default, bool):
            assert shown == f"`{default}`", name
        elif isinstance(default, str):
            assert shown == f'`"{default}"`', name
        else:
            assert default is None or default == DEFAULT_COLLECTIONS, name
            assert "`" not in shown, name


def test_connection_fields() -> None:
    for heading, kind in (("Customer.io", "customerio"), ("Segment source", "segment_source")):
        documented = {cells[1]: cells for cells in table("connections.md", heading)}
        (info,) = [one for one in get_provider_info()["connection-types"] if one["connection-type"] == kind]
        for name, field in info["conn-fields"].items():
            label, _, default, _ = documented[f"`{name}`"]
            assert label == field["label"]
            if "default" in field["schema"]:
                assert default == f"`{json.dumps(field['schema']['default'])}`".replace('"', "")


def test_default_events() -> None:
    rows = [[cell.strip("`") for cell in cells] for cells in table("events.md", "The six of the default")]
    catalog = [CATALOG[name] for name in DEFAULT_COLLECTIONS]
    assert rows == [[one.name, one.metric, one.table] for one in catalog]


def test_all_events() -> None:
    text = (REPOSITORY / "docs" / "events.md").read_text()
    channels = re.search(r"^\| metric \| (Email .*) \|$", text, re.M)
    assert channels
    documented = {
        (channel, metric.strip("`"), cell)
        for metric, *cells in table("events.md", "All")
        for channel, cell in zip(channels[1].split(" | "), cells, strict=True)
        if cell
    }
    known = set()
    for one in (one for one in CATALOG.values() if not one.is_of_person):
        channel, _, event = one.name.partition(" ")
        known.add((channel, one.metric, f"*{event}*" if one.by_analogy else event))
    assert documented == known


def test_the_events_about_people_are_those_of_the_catalog() -> None:
    rows = [(event, metric.strip("`")) for event, metric, _ in table("events.md", "People who subscribe")]
    assert rows == [(one.name, one.metric) for one in CATALOG.values() if one.is_of_person]


def test_properties() -> None:
    rows = table("events.md", "Properties")
    documented = [(name, kind) for names, kind, *_ in rows for name in re.findall(r"`(\w+)`", names)]
    words = {
        str | None: "text",
        Id: "number",
        bool | None: "true",
        list[Device] | None: "list of objects",
        dict[str, bool] | None: "object",
    }
    assert sorted(documented) == sorted((one.name, words[one.type]) for one in msgspec.structs.fields(Properties))


@pytest.mark.parametrize("page", ["README.md", "events.md"])
def test_sample_event(page: str) -> None:
    on_page = [block for block in BLOCKS if block.page.name == page]
    (shown,) = [json.loads(block.code) for block in on_page if re.match(r'\{\s*"type": "track"', block.code)]
    jane = Identifiers(42, "jane@example.com", "d9c106000001")
    told = {"recipient": "jane@example.com", "subject": "Hi Jane", "campaign_id": 9, "action_id": 11}
    message = Message("RPILAgUBcRhIBqSfeiIwdIYJKxTY", "email", jane, 42, **told)  # type: ignore[arg-type]
    mapper = Mapper("example", name_of=lambda message: "Welcome")
    event = mapper.event(Occurrence(message, CATALOG["Email Opened"], 1_793_869_964))
    assert json.loads(encode(event)) == shown


def test_metrics() -> None:
    sent = {
        node.value
        for node in ast.walk(ast.parse((PACKAGE / "observability" / "metrics.py").read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    names = re.findall(r"^\| `customerio\.(\w+)` \|", (REPOSITORY / "docs" / "operator.md").read_text(), re.M)
    assert len(names) == 7
    assert set(names) <= sent


# Errors


def said() -> Iterator[str]:
    """Return every text in the package; a NUL stands for each value."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[\w.]+", "\0", node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                yield re.sub(r"%[\w.]+", "\0", "".join(map(str, parts)))


SAID = list(said())
QUOTED = re.findall(r"^### `(.*)`$", (REPOSITORY / "docs" / "troubleshooting.md").read_text(), re.M)


@pytest.mark.parametrize("quoted", QUOTED)
def test_quoted_errors_exist(quoted: str) -> None:
    pattern = re.compile(".*?".join(re.escape(part) for part in quoted.split("...")), re.S)
    assert any(pattern.search(text) for text in SAID)


def test_quotes_are_found() -> None:
    assert len(QUOTED) > 30


# Deploying


def secret_and_pod() -> tuple[dict[str, Any], Any]:
    page = [block for block in BLOCKS if block.page.name == "deploying.md"]
    (secret,) = [yaml.safe_load(one.code) for one in page if "kind: Secret" in one.code]
    (code,) = [one.code for one in page if "pod_override" in one.code]
    found: dict[str, Any] = {}
    exec(code, found)
    return secret, found["POD"]


def test_kubernetes_manifests_are_valid() -> None:
    from kubernetes.client import ApiClient  # type: ignore[import-untyped]

    secret, pod = secret_and_pod()
    client = ApiClient()
    (ingress,) = [yaml.safe_load(one.code) for one in BLOCKS if "kind: Ingress" in one.code]
    pod = client.sanitize_for_serialization(pod)
    for kind, written in (("V1Secret", secret), ("V1Pod", pod), ("V1Ingress", ingress)):
        answer = type("Answer", (), {"data": json.dumps(written)})
        assert client.sanitize_for_serialization(client.deserialize(answer, kind)) == written
    for name, value in secret["stringData"].items():
        assert name.removeprefix("AIRFLOW_CONN_").lower() in ("customerio_default", "segment_default")
        assert json.loads(value)["password"]


def test_airflow_merges_pod_override() -> None:
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
    from kubernetes.client import models as k8s

    secret, override = secret_and_pod()
    template = k8s.V1Pod(
        spec=k8s.V1PodSpec(
            service_account_name="airflow-worker",
            containers=[k8s.V1Container(name="base", env=[k8s.V1EnvVar(name="OF_THE_TEMPLATE", value="kept")])],
        )
    )
    pod = PodGenerator.construct_pod(
        dag_id="customerio_to_segment",
        task_id="customerio_to_segment",
        pod_id="pod",
        try_number=1,
        kube_image="apache/airflow",
        date=None,
        args=["airflow"],
        pod_override_object=override,
        base_worker_pod=template,
        namespace="airflow",
        scheduler_job_id="1",
    )
    (container,) = pod.spec.containers
    assert (container.name, container.image, container.args) == ("base", "apache/airflow", ["airflow"])
    assert {"OF_THE_TEMPLATE", "AIRFLOW_IS_K8S_EXECUTOR_POD"} == {one.name for one in container.env}
    assert container.env_from[0].secret_ref.name == secret["metadata"]["name"]
    assert container.resources.limits == {"memory": "1Gi"}
    assert pod.spec.service_account_name == "airflow-worker"
    assert pod.spec.termination_grace_period_seconds == 6 * 3600


READ = """
from airflow_provider_cio.hooks.customerio import CustomerIOHook
from airflow_provider_cio.hooks.segment import SegmentHook
print(CustomerIOHook().settings.base_url, SegmentHook().settings.base_url)
"""


def test_secrets_backend(tmp_path: Path) -> None:
    page = [block for block in BLOCKS if block.page.name == "deploying.md"]
    (exports,) = [one.code for one in page if "SECRETS__BACKEND" in one.code]
    (connections,) = [one.code for one in page if one.code.startswith("customerio_default:")]
    path = tmp_path / "connections.yaml"
    path.write_text(connections)
    settings = dict(shlex.split(line)[1].split("=", 1) for line in exports.splitlines())
    settings = {name: value.replace("/opt/airflow/connections.yaml", str(path)) for name, value in settings.items()}
    ran = subprocess.run(
        [sys.executable, "-c", READ], env=os.environ | settings, capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.splitlines()[-1] == "https://api.customer.io https://events.eu1.segmentapis.com"

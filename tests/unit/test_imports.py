from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import airflow_provider_cio
from airflow_provider_cio.get_provider_info import get_provider_info

PACKAGE = Path(str(airflow_provider_cio.__file__)).parent
MODULES = {
    ".".join(("airflow_provider_cio", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path.parent.name != "example_dags"  # in the wheel only
}

# Airflow first, as any DAG file does; then the operator, several times anew with all that it brings along. In between
# argparse, one module of the standard library, tells how fast the machine is: about 0.7 ms where nothing else runs.
MEASURE = """
import json, sys, time
from importlib import import_module
from airflow.sdk import DAG, BaseOperator
before = set(sys.modules)
added, spans, yardsticks = [], [], []
for _ in range(7):
    for name in [name for name in sys.modules if name in added or name.startswith("airflow_provider_cio")]:
        del sys.modules[name]
    began = time.process_time()
    for name in sys.argv[1:]:
        import_module(name)
    spans.append(time.process_time() - began)
    added = added or sorted(set(sys.modules) - before)
    sys.modules.pop("argparse", None)
    began = time.process_time()
    import_module("argparse")
    yardsticks.append(time.process_time() - began)
print(json.dumps({"added": added, "times_argparse": min(spans) / min(yardsticks)}))
"""
#: 5 ms by that measure.
BUDGET = 7.5

#: Modules of this provider that Airflow imports when a DAG file has an asset with a URI, of whatever scheme.
(_URIS,) = get_provider_info()["asset-uris"]
OF_ASSETS = [_URIS[key].rpartition(".")[0] for key in ("handler", "to_openlineage_converter")]

HEAVY = ("requests", "urllib3", "httpx", "msgspec", "openlineage", "statsd")


@pytest.mark.parametrize("name", ["customerio_to_segment", "customerio_to_warehouse"])
def test_operator_import_is_cheap(name: str) -> None:
    module = f"airflow_provider_cio.operators.{name}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(5):  # the first one may have to compile, and on a busy machine all takes longer
        ran = subprocess.run(
            [sys.executable, "-c", MEASURE, module, *OF_ASSETS],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        found = json.loads(ran.stdout.splitlines()[-1])
        if found["times_argparse"] < BUDGET:
            break
    added = found["added"]
    assert {module, *OF_ASSETS} <= {*added}
    assert [name for name in added if name.partition(".")[0] in HEAVY] == []
    assert "airflow.settings" not in added
    rooms = ("http", "customerio", "segment", "warehouse", "pipeline", "events.mapping")
    heavy = tuple(f"airflow_provider_cio.{name}" for name in rooms)
    assert [name for name in added if name.startswith(heavy)] == []
    assert found["times_argparse"] < BUDGET


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports(module: str) -> Iterator[str]:
    """Return every module that one imports, at whatever level, for type checking too."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative"
            assert node.module is not None
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name for name in submodules if name in MODULES] or [node.module]


def room(module: str) -> str:
    """Return the folder of a module: `events`, `hooks`, `operators`; or the module itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def ours(module: str) -> set[str]:
    return {room(name) for name in imports(module) if name.partition(".")[0] == "airflow_provider_cio"}


def test_modules_are_found() -> None:
    assert set(ALLOWED) == {room(module) for module in MODULES}
    assert {"events"} <= ours("airflow_provider_cio.pipeline.pipeline")
    assert "airflow.sdk" in set(imports("airflow_provider_cio.operators.base"))


#: Beside `airflow.sdk`: where every version of Airflow has names that were moved after 3.0, and what an extra brings.
ELSEWHERE = {"airflow.providers.common.compat.sdk", "airflow.exceptions", "airflow.providers.openlineage.extractors"}
#: Rooms, and single modules, that know Airflow.
KNOW_AIRFLOW = {
    "operators",
    "hooks",
    "observability",
    "airflow_provider_cio.flow.ways_in",
    "airflow_provider_cio.pipeline.dead_letter_places",
    "airflow_provider_cio.pipeline.dead_letters",
    "airflow_provider_cio.warehouse.connection",
}


@pytest.mark.parametrize("module", MODULES)
def test_few_modules_import_airflow(module: str) -> None:
    airflow = [name for name in imports(module) if name.partition(".")[0] == "airflow"]
    if module == "airflow_provider_cio.plugin":
        assert set(airflow) == {"airflow.sdk.plugins_manager", "airflow.plugins_manager"}  # the latter before 3.2
        return
    if room(module) == "stream":  # inside functions only
        assert [name for name in module_level_imports(module) if name.partition(".")[0] == "airflow"] == []
        assert set(airflow) <= {"airflow.providers.common.compat.sdk"}
        return
    if not {room(module), module} & KNOW_AIRFLOW:
        assert airflow == []
    assert all(name in ELSEWHERE or f"{name}.".startswith("airflow.sdk.") for name in airflow)


def module_level_imports(module: str) -> Iterator[str]:
    for node in tree(module).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) == "stream"])
def test_stream_imports_lazily(module: str) -> None:
    heavy = ("airflow_provider_cio.hooks", "airflow_provider_cio.pipeline")
    assert [name for name in module_level_imports(module) if name.startswith(heavy)] == []


#: Each room, and the rooms that it may import.
LEAVES = {"exceptions", "addresses", "values", "mounts", "signals"}
ALLOWED: dict[str, set[str]] = {
    "airflow_provider_cio": set(),
    "exceptions": set(),
    "addresses": set(),
    "values": set(),
    "mounts": set(),
    "signals": set(),
    "get_provider_info": set(),
    "costs": {"values"},
    "http": LEAVES,
    "events": {*LEAVES, "airflow_provider_cio"},  # its version
    "customerio": {*LEAVES, "http", "events"},
    "segment": {*LEAVES, "http", "events"},
    "warehouse": {*LEAVES, "http", "events"},
    "pipeline": {*LEAVES, "http", "events"},
    "observability": {*LEAVES, "events", "pipeline"},
    "hooks": {*LEAVES, "get_provider_info", "http", "events", "customerio", "segment", "pipeline"},
    "stream": {*LEAVES, "http", "events", "customerio", "segment", "pipeline", "observability", "hooks", "operators"},
    "flow": {*LEAVES, "operators"},
    "plugin": {"stream", "flow"},
    "operators": {
        *(LEAVES | {"http", "events", "customerio", "segment", "warehouse", "pipeline", "observability", "hooks"}),
    },
}


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_upwards(module: str) -> None:
    assert ours(module) <= ALLOWED[room(module)] | {room(module)}


@pytest.mark.parametrize("module", MODULES)
def test_few_rooms_speak_http(module: str) -> None:
    spoken = {name.partition(".")[0] for name in imports(module)} & {"requests", "urllib3", "http", "socket"}
    assert room(module) in ("http", "customerio", "segment") or spoken == set()


def test_imports_have_no_circle() -> None:
    below = {
        name: set().union(*(ours(module) for module in MODULES if room(module) == name)) for name in map(room, MODULES)
    }
    while below:
        leaves = {name for name, rooms in below.items() if not (rooms - {name}) & set(below)}
        assert leaves, f"a circle among {sorted(below)}"
        for name in leaves:
            del below[name]

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_cio.flow import ways_in
from airflow_provider_cio.flow.app import app as flow_app
from airflow_provider_cio.plugin import CustomerIOPlugin
from airflow_provider_cio.stream.app import app
from tests.airflow_names import AIRFLOW

OPTION = "AIRFLOW__CUSTOMERIO__STREAMS"
SWITCH = "AIRFLOW__CUSTOMERIO__MOUNT_STREAMS"
FLOW, TAB = "AIRFLOW__CUSTOMERIO__FLOW", "AIRFLOW__CUSTOMERIO__DAG_TAB"

# As in a task's process: Airflow's own part of it is there already. argparse tells how fast the machine is: it takes
# about 0.7 ms where nothing else runs.
MEASURE = """
import json, sys, time
import airflow.sdk, airflow.sdk.plugins_manager
before = set(sys.modules)
added, spans, yardsticks = [], [], []
for _ in range(15):
    for name in [name for name in sys.modules if name in added or name.startswith("airflow_provider_cio")]:
        del sys.modules[name]
    began = time.process_time()
    import airflow_provider_cio.plugin
    spans.append(time.process_time() - began)
    added = added or sorted(set(sys.modules) - before)
    sys.modules.pop("argparse", None)
    began = time.process_time()
    import argparse
    yardsticks.append(time.process_time() - began)
print(json.dumps({"added": added, "times_argparse": min(spans) / min(yardsticks)}))
"""
LOAD = """
import json
from airflow import plugins_manager as manager
if hasattr(manager, "get_fastapi_plugins"):
    apps, links = manager.get_fastapi_plugins()[0], manager.get_operator_extra_links()
    views, errors = manager._get_ui_plugins()[0], manager.get_import_errors()
else:  # before 3.2; in 3.0 there are no views
    for kind in ("fastapi", "ui", "extra_operators_links"):
        getattr(manager, f"initialize_{kind}_plugins", lambda: None)()
    apps, links = manager.fastapi_apps, manager.operator_extra_links
    views, errors = getattr(manager, "external_views", None), manager.import_errors
print(json.dumps({
    "apps": [one["url_prefix"] for one in apps],
    "views": None if views is None else [one["url_route"] for one in views],
    "links": [one.name for one in links],
    "errors": sorted(errors),
}))
"""
#: 2 ms by that measure.
BUDGET = 3


def test_it_costs_a_task_under_2_ms() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment[OPTION] = '{"main": {}}'
    for _ in range(2):  # the first one may have to compile
        ran = subprocess.run(
            [sys.executable, "-c", MEASURE], env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        found = json.loads(ran.stdout.splitlines()[-1])
        if found["times_argparse"] < BUDGET:
            break
    added = set(found["added"]) - {"airflow_provider_cio"}  # Airflow may have it already, for the provider's info
    assert added == {"airflow_provider_cio.plugin"}
    assert found["times_argparse"] < BUDGET


def test_it_is_the_entry_point() -> None:
    [ours] = [one for one in entry_points(group="airflow.plugins") if one.module.startswith("airflow_provider_cio")]
    assert ours.load() is CustomerIOPlugin


@pytest.mark.parametrize("text", [None, "", "  "])
def test_no_streams_no_mount(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OPTION, raising=False)
    if text is not None:
        monkeypatch.setenv(OPTION, text)
    assert prefixes() == ["/cio-flow"]


@pytest.mark.parametrize("text", ['{"main": {}}', "{ malformed"])
def test_wrong_streams_are_mounted(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a route Customer.io would get 404, and wait for an hour."""
    monkeypatch.setenv(OPTION, text)
    mounted, _ = CustomerIOPlugin().fastapi_apps
    assert mounted["app"] is app
    assert mounted["url_prefix"] == "/cio"


def test_the_mount_says_which_streams_run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A mounted app gets no startup event from the server."""
    monkeypatch.setenv(OPTION, '{"main": {}, "a/b": {}}')
    assert CustomerIOPlugin().fastapi_apps
    assert "the name 'a/b' can't be part of a URL" in caplog.text
    assert "Streams that run: main" in caplog.text


def test_the_mount_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPTION, '{"main": {}}')
    monkeypatch.setenv(SWITCH, "false")
    assert prefixes() == ["/cio-flow"]


def prefixes() -> list[str]:
    return [one["url_prefix"] for one in CustomerIOPlugin().fastapi_apps]


def test_the_picture() -> None:
    plugin = CustomerIOPlugin()
    [mounted] = plugin.fastapi_apps
    assert mounted["app"] is flow_app
    assert isinstance(plugin.external_views[0], dict)
    assert plugin.external_views[0] is not plugin.external_views[0], "Airflow changes them"
    key: Any = SimpleNamespace(dag_id="a dag/ä", task_id="it", run_id="manual__1+0", map_index=-1)
    [link] = plugin.operator_extra_links
    assert link.get_link(None, ti_key=key) == "cio-flow/?dag_id=a+dag%2F%C3%A4&task_id=it"
    assert [one.__name__ for one in link.operators] == ["CustomerIOToSegmentOperator", "CustomerIOToWarehouseOperator"]


def test_the_picture_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FLOW, "no")
    monkeypatch.setenv(TAB, "true")
    plugin = CustomerIOPlugin()
    assert (plugin.fastapi_apps, plugin.external_views, plugin.operator_extra_links) == ([], [], [])


@pytest.mark.parametrize(
    ("airflow", "tab", "destinations"),
    [
        ("3.1.0", None, ["nav"]),
        ("3.3.2", None, ["nav"]),
        ("3.3.2", "true", ["nav", "dag", "task"]),
        ("3.4.0b2", None, ["nav", "dag", "task"]),
        ("3.10.0", None, ["nav", "dag", "task"]),
    ],
)
def test_tabs_by_version(
    airflow: str, tab: str | None, destinations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Airflow 3.4 a tab would be on every DAG."""
    monkeypatch.setattr(ways_in, "version", {"apache-airflow-core": airflow}.__getitem__)
    if tab:
        monkeypatch.setenv(TAB, tab)
    views = CustomerIOPlugin().external_views
    assert [one["destination"] for one in views] == destinations
    assert [one["applies_to"] for one in views[1:]] == [
        {"tags.name": ["customerio"]},
        {"operator_name": ["CustomerIOToSegmentOperator", "CustomerIOToWarehouseOperator"]},
    ][: len(views) - 1]
    routes = [one["url_route"] for one in views]
    assert len(set(routes)) == len(routes)


@pytest.mark.timeout(240)
def test_airflow_loads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs a process of its own, in which Airflow loads plugins as its API server does."""
    for text, apps in (('{"main": {}}', ["/cio", "/cio-flow"]), ("", ["/cio-flow"])):
        monkeypatch.setenv(OPTION, text)
        ran = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True, timeout=110)
        found = json.loads(ran.stdout.splitlines()[-1])
        tabs = ["customerio", "customerio-task"] if AIRFLOW >= (3, 4) else []
        assert found["views"] == (["customerio-events", *tabs] if AIRFLOW >= (3, 1) else None)
        assert found == {"apps": apps, "views": found["views"], "links": ["What flowed"], "errors": []}

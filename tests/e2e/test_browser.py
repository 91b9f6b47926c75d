"""Airflow's UI in a browser: the connections' forms, their Test button, a backfill, and the view of a run.

With SCREENSHOTS=docs/images, the pictures of the docs are made anew."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from playwright.sync_api import Locator, expect

from airflow_provider_cio.get_provider_info import get_provider_info
from tests.e2e.airflow import TASK_ID, Run
from tests.e2e.browser import UI, chromium, page_of
from tests.e2e.compare import COLLECTIONS, compare_world
from tests.e2e.processes import REPO
from tests.e2e.shared import SharedAirflow
from tests.e2e.world import DAG_ID, World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PREVIEW_ID = "customerio_preview"
CONN_IDS = {"customerio": "customerio_default", "segment_source": "segment_default"}
TYPES: dict[str, dict[str, Any]] = {one["connection-type"]: one for one in get_provider_info()["connection-types"]}
FIRST, LAST, AFTER = "2026-11-05", "2026-11-06", "2026-11-07"
STANDARD_FIELDS = {"description", "host", "login", "password", "port", "schema"}
PAGE, IMAGES = REPO / "docs" / "in-the-browser.md", REPO / "docs" / "images"
LARGEST = 150_000  # bytes of a picture


@pytest.fixture(scope="module")
def world(shared: SharedAirflow) -> Iterator[World]:
    if chromium() is None:
        pytest.skip("there is no chromium: apt-get install chromium fonts-dejavu-core")
    history = ("--seed", "8", "--deliveries", "6000", "--start", "2026-10-30", "--days", "12")
    with shared.world(sandbox_args=history, make_connections=False) as one:
        yield one


@pytest.fixture(scope="module")
def ui(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UI]:
    folder = os.environ.get("SCREENSHOTS")
    with page_of(world.airflow_url) as page:
        yield UI(page, REPO / folder if folder else tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def connections(world: World, ui: UI) -> World:
    """Add both connections by their forms, each with one extra field that is not the default."""
    for kind, conn_id in CONN_IDS.items():
        fields, labels = world.connections[conn_id], TYPES[kind]["ui-field-behaviour"]["relabeling"]
        form = ui.open_form(conn_id, TYPES[kind]["hook-name"])
        form.get_by_role("textbox", name=labels["host"]).fill(fields["host"])
        form.get_by_role("textbox", name=labels["password"]).fill(fields["password"])
        form.get_by_role("spinbutton", name="Port").fill(str(fields["port"]))
        ui.picture(f"form-{kind}", form)
        ui.open_extra_fields(form)
        timeout = form.get_by_role("spinbutton", name="Time-out (seconds)")
        timeout.fill("45")
        timeout.press("Tab")
        ui.save(form)
    return world


@pytest.fixture(scope="module")
def runs(connections: World, ui: UI) -> list[Run]:
    """Backfill two days by the form. SQLite has room for one writer, so the scheduler waits until all runs exist."""
    connections.pause(DAG_ID)
    ui.backfill(DAG_ID, FIRST, LAST, "backfill")
    ui.unpause()
    return connections.finish_backfill(DAG_ID, FIRST, LAST)


@pytest.fixture(scope="module")
def task(runs: list[Run], ui: UI) -> Run:
    """Open the task of the second run in the browser."""
    ui.open_task(DAG_ID, AFTER, TASK_ID, "run")
    return runs[-1]


def shown_in_the_docs() -> set[str]:
    """Return the names of the pictures in the docs."""
    return set(re.findall(r"\]\(images/([\w.-]+)\)", PAGE.read_text()))


def check_extra_field(ui: UI, form: Locator, field: dict[str, Any]) -> None:
    """Check the label, the description, the kind of input and its first value."""
    schema, default = field["schema"], field["schema"].get("default")
    # Not by label alone: Airflow ties the label of a text to nothing.
    group = form.get_by_role("group").filter(has=ui.page.get_by_text(field["label"], exact=True))
    expect(group).to_contain_text(field["description"])
    if "enum" in schema:
        expect(group).to_contain_text(default)
        group.get_by_role("combobox").click()
        expect(ui.page.get_by_role("option")).to_have_text(schema["enum"])
        ui.page.get_by_role("option", name=default).click()
    elif "boolean" in schema["type"]:
        expect(group.get_by_role("checkbox")).to_be_checked(checked=default)
    else:
        role: Literal["spinbutton", "textbox"] = "spinbutton" if "number" in schema["type"] else "textbox"
        expect(group.get_by_role(role)).to_have_value("" if default is None else str(default))


@pytest.mark.parametrize("kind", CONN_IDS)
def test_form_has_the_metadata_fields(ui: UI, kind: str) -> None:
    metadata = TYPES[kind]
    behaviour = metadata["ui-field-behaviour"]
    form = ui.open_form(CONN_IDS[kind], metadata["hook-name"])
    for field in STANDARD_FIELDS:
        label = form.get_by_label(behaviour["relabeling"].get(field, field.capitalize()), exact=True)
        expect(label).to_have_count(0 if field in behaviour["hidden-fields"] else 1)
    for field, placeholder in behaviour["placeholders"].items():
        expect(form.get_by_label(behaviour["relabeling"][field])).to_have_attribute("placeholder", placeholder)
    ui.open_extra_fields(form)
    for field in metadata["conn-fields"].values():
        check_extra_field(ui, form, field)
    ui.picture(f"form-{kind}-extra", form)


@pytest.mark.parametrize("kind", CONN_IDS)
def test_form_input_is_stored(connections: World, kind: str) -> None:
    stored = connections.api(f"connections/{CONN_IDS[kind]}")
    typed = connections.connections[CONN_IDS[kind]]
    assert {name: stored[name] for name in ("conn_type", "host", "port")} == {
        name: typed[name] for name in ("conn_type", "host", "port")
    }
    fields = TYPES[kind]["conn-fields"]
    defaults = {name: field["schema"]["default"] for name, field in fields.items() if "default" in field["schema"]}
    extra = {name: value for name, value in json.loads(stored["extra"]).items() if value is not None}
    assert extra == defaults | {"timeout": 45}


def test_the_form_of_the_preview(connections: World, ui: UI) -> None:
    ui.trigger(PREVIEW_ID, {"First day": FIRST, "Last day": LAST})
    path = f"dags/{PREVIEW_ID}/dagRuns"
    connections.wait(lambda: {run["state"] for run in connections.api(path)["dag_runs"]} == {"success"}, "preview")
    (run,) = connections.api(path)["dag_runs"]
    result = connections.api(
        f"{path}/{run['dag_run_id']}/taskInstances/{PREVIEW_ID}/xcomEntries/return_value", deserialize="true"
    )["value"]
    assert result["preview"] is True
    assert result["interval"] == {"start": f"{FIRST}T00:00:00Z", "end": f"{AFTER}T00:00:00Z"}


def test_test_button_reports_success(connections: World, ui: UI) -> None:
    url = connections.sandbox_url
    assert ui.test_connection("customerio_default", "test-connection") == [
        "Test Connection Successful",
        f"{url} accepts the key, and the key may read messages.",
    ]
    title, text = ui.test_connection("segment_default")
    assert title == "Test Connection Successful"
    assert text.startswith(f"{url}/v1/batch took an empty batch. Not checked: whether the write key is known.")


def test_test_button_reports_wrong_key(connections: World, ui: UI) -> None:
    wrong = connections.connections["customerio_default"] | {"password": "notTheKeyOfThisWorkspace"}
    connections.api("connections", post={"connection_id": "wrong_key", **wrong})
    title, text = ui.test_connection("wrong_key")
    assert title == "Test Connection Failed"
    assert "answered 401" in text
    assert "Check that password holds an App API key" in text
    assert wrong["password"] not in text


def test_test_button_without_a_port(connections: World, ui: UI) -> None:
    """Before 3.3.3 the button says "Bad Request" (apache/airflow 73298). The docs say so until 3.3.3 is the oldest."""
    connection = connections.connections["customerio_default"] | {"host": connections.sandbox_url, "port": None}
    connections.api("connections", post={"connection_id": "no_port", **connection})
    version = tuple(map(int, re.findall(r"\d+", connections.api("version")["version"])[:3]))
    said = ui.test_connection("no_port")
    if version < (3, 3, 3):
        assert said == ["Test Connection Failed", "Bad Request"]
    else:
        assert said[0] == "Test Connection Successful"
    # The other way round it, which needs no port.
    assert "Connection success!" in connections.airflow("connections", "test", "no_port")


def test_the_backfill_sent_both_days(connections: World, runs: list[Run]) -> None:
    comparison = compare_world(connections, runs, FIRST, LAST)
    # The Test button sends Segment an empty batch, which it drops.
    assert set(comparison.segment["dropped"]) <= {"empty_batch"}
    differences = [line for line in comparison.differences if not line.startswith("Segment: dropped")]
    assert differences == [], "\n".join(map(connections.logs, runs))
    assert comparison.kept > 500


def test_rendered_templates(task: Run, ui: UI) -> None:
    shown = ui.rendered_templates("rendered-templates")
    assert json.loads(shown.pop("collections")) == list(COLLECTIONS)
    wanted = {
        "customerio_conn_id": "customerio_default",
        "segment_conn_id": "segment_default",
        "opens_and_clicks": "first",
        "lookback": "30 days, 0:00:00",
        "settling_time": "0:30:00",
        "pii": "keep",
        "on_unidentified": "skip",
        "preview": "false",
        "send_to_customerio_destinations": "false",
    }
    assert {name: shown.get(name) for name in wanted} == wanted


def test_the_result_is_in_xcom(connections: World, task: Run, ui: UI) -> None:
    result = ui.result("result")
    assert result == connections.xcom(task)
    assert result["interval"] == {"start": f"{LAST}T00:00:00Z", "end": f"{AFTER}T00:00:00Z"}
    assert result["sent"]["events"] == sum(result["events"].values()) > 0


def test_docs_show_each_picture(ui: UI) -> None:
    taken = {path.name for path in ui.pictures.glob("*.png")}
    assert taken <= shown_in_the_docs()


def test_pictures_exist_and_are_small() -> None:
    files = {path.name: path.stat().st_size for path in IMAGES.glob("*")}
    assert files.keys() == shown_in_the_docs()
    assert {name: size for name, size in files.items() if size > LARGEST} == {}

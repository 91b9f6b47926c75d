"""The picture of the flow in a real Airflow's UI: a gap, a failure, refused events and a preview, and its links.

With SCREENSHOTS=docs/images, the pictures of the docs are made anew, of three weeks."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import FrameLocator, expect

from tests.e2e.airflow import TASK_ID, Run
from tests.e2e.browser import PATIENCE, UI, chromium, page_of
from tests.e2e.processes import REPO
from tests.e2e.shared import SharedAirflow
from tests.e2e.three_weeks import FAILED, LAST, REFUSED, SANDBOX, fill
from tests.e2e.world import DAG_ID, DAGS, World
from tests.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PREVIEW = "2026-11-09"
PICTURES = os.environ.get("SCREENSHOTS")
LAST_DAY = LAST if PICTURES else "2026-11-10"
AFTER = LAST_DAY[:-2] + str(int(LAST_DAY[-2:]) + 1)
UNTIL = f"?dag_id={DAG_ID}&days=30&until={LAST_DAY}"
TASK = f'task_id="{TASK_ID}",'


@pytest.fixture(scope="module")
def world(shared: SharedAirflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if chromium() is None:
        pytest.skip("there is no chromium: apt-get install chromium fonts-dejavu-core")
    dags: Path = tmp_path_factory.mktemp("dags")
    example = (DAGS / f"{DAG_ID}.py").read_text()
    assert example.count(TASK) == 1
    preview = f"{TASK} preview=\"{{{{ ds == '{PREVIEW}' }}}}\","
    (dags / f"{DAG_ID}.py").write_text(example.replace(TASK, preview))
    with shared.world(dags=dags, sandbox_args=SANDBOX) as one:
        yield one


@pytest.fixture(scope="module")
def runs(world: World) -> dict[str, Run]:
    """Return the runs by day."""
    return {run.day: run for run in fill(world, LAST_DAY)}


@pytest.fixture(scope="module")
def ui(world: World, runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> Iterator[UI]:
    assert runs
    with page_of(world.airflow_url) as page:
        yield UI(page, REPO / PICTURES if PICTURES else tmp_path_factory.mktemp("pictures"))


def words(shown: Any) -> list[str]:
    shown.locator("#tasks[aria-busy=false]").wait_for()
    found: list[str] = shown.get_by_role("region", name=DAG_ID, exact=True).locator(".words li").all_inner_texts()
    return found


def test_browse_shows_what_is_missing(ui: UI) -> None:
    """The page is in the frame that Airflow makes, on the day after."""
    ui.page.clock.set_fixed_time(f"{AFTER}T06:00:00Z")
    ui.page.goto("/")
    ui.page.get_by_role("button", name="Browse").click()
    ui.page.get_by_role("menuitem", name="Customer.io events").click()
    frame: FrameLocator = ui.page.frame_locator("iframe")
    said = words(frame)
    assert "3 never ran: 2026-11-04 to 2026-11-05 (2 intervals), 2026-11-09 (only a preview)" in said
    assert f"1 failed: {FAILED}" in said
    assert any(re.fullmatch(rf"1 with refused events: {REFUSED} \(\w+ \d+\)", one) for one in said)
    frame.get_by_role("link", name=FAILED).click()
    expect(ui.page).to_have_url(re.compile(f"/dags/{DAG_ID}/runs/backfill__[^/]+/tasks/{TASK_ID}"))
    expect(ui.page.get_by_text(re.compile("401")).first).to_be_visible()


def test_counts_are_those_of_the_results(ui: UI, world: World, runs: dict[str, Run]) -> None:
    ui.page.goto(f"/cio-flow/{UNTIL}")
    words(ui.page)
    ui.page.get_by_role("button", name="Table").click()
    (table_of_events, *_) = ui.page.get_by_role("table").all()  # the other one is of ages
    rows = [row.get_by_role("cell").all_inner_texts() for row in table_of_events.get_by_role("row").all()[1:]]
    table = {day: cells for day, *cells in rows}
    names = table_of_events.get_by_role("columnheader").all_inner_texts()[2:-2]
    assert len(names) == 6
    done = [day for day, run in runs.items() if run.state == "success" and day != PREVIEW]
    assert len(done) >= 4
    for day in done:
        events = world.xcom(runs[day])["events"]
        assert table[day][: 1 + len(names)] == ["done", *(f"{events[name]:,}" for name in names)]
    assert table[PREVIEW][:2] == ["never ran (only a preview)", "-"]
    assert table[REFUSED][0] == "done, events refused"


def test_the_button_of_a_task(ui: UI, world: World, runs: dict[str, Run]) -> None:
    """Airflow's server makes the address of the button, because no run left one in XCom."""
    run = runs[REFUSED]
    ui.page.goto(f"/dags/{DAG_ID}/runs/{run.run_id}/tasks/{TASK_ID}/details")
    address = ui.page.get_by_role("link", name="What flowed").get_attribute("href")
    assert address == f"cio-flow/?dag_id={DAG_ID}&task_id={TASK_ID}"
    path = f"dags/{DAG_ID}/dagRuns/{run.run_id}/taskInstances/{TASK_ID}/xcomEntries"
    assert [one["key"] for one in world.api(path)["xcom_entries"]] == ["return_value"]


def test_a_viewer_sees_all(ui: UI, world: World, runs: dict[str, Run]) -> None:
    """A second API server of the same Airflow knows a person who may only look."""
    url = f"http://127.0.0.1:{free_port()}"
    settings = {
        "API__BASE_URL": url,
        "API__PORT": url.rpartition(":")[2],
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": "looker:viewer",
    }
    world.start("api-server-with-login", "api-server", **{f"AIRFLOW__{name}": text for name, text in settings.items()})
    world.wait(lambda: serves(url), "API server with a login")
    passwords = Path(world.env["AIRFLOW_HOME"]) / "simple_auth_manager_passwords.json.generated"
    assert ui.page.context.browser is not None
    context = ui.page.context.browser.new_context(base_url=url, timezone_id="UTC")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"/cio-flow/{UNTIL}")
    expect(page.get_by_text("You are not signed in.")).to_be_visible()
    page.goto("/")
    page.get_by_role("textbox", name="Username").fill("looker")
    page.locator("input[type=password]").fill(json.loads(passwords.read_text())["looker"])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Browse").click()
    expect(page.get_by_role("menuitem", name="Customer.io events")).to_be_visible()
    page.goto(f"/dags/{DAG_ID}/runs/{runs[REFUSED].run_id}/tasks/{TASK_ID}/details")
    expect(page.get_by_role("link", name="What flowed")).to_be_visible()
    page.goto(f"/cio-flow/{UNTIL}")
    assert f"1 failed: {FAILED}" in words(page)
    expect(page.get_by_text("not read")).to_have_text(["counts not read"])  # only the legend says it
    context.close()


def serves(url: str) -> bool:
    try:
        return requests.get(f"{url}/api/v2/version", timeout=10).ok
    except requests.RequestException:
        return False


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures(ui: UI, theme: str) -> None:
    ui.page.goto("/")
    ui.page.evaluate("theme => localStorage.setItem('theme', theme)", theme)
    ui.page.goto(f"/cio-flow/{UNTIL}")
    words(ui.page)
    canvas = ui.page.get_by_role("application")
    canvas.focus()
    ui.page.keyboard.press("Home")
    expect(ui.page.locator("html")).to_have_attribute("data-theme", theme)
    expect(ui.page.locator(".line")).to_contain_text("2026-11-02: done; ")
    assert ui.page.locator(".bars.events").count() == 6
    assert ui.page.locator(".band.missing").get_attribute("d")
    assert ui.page.locator(".bars.refused").get_attribute("d")
    canvas.blur()
    ui.picture(f"flow-{theme}")

"""Seconds that the page in Airflow's UI takes for a year of days, in a real Airflow with SQLite and one API server."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.benchmarks.figures import Figure
from tests.benchmarks.run_year import LAST
from tests.e2e.browser import chromium, page_of
from tests.e2e.processes import REPO
from tests.e2e.world import World

DAG_FILE = """
import pendulum
from airflow.sdk import DAG, Asset, CronDataIntervalTimetable

from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator

for dag_id, outlets in ("alone", []), ("with_outlets", [Asset("events")]):
    with DAG(
        dag_id,
        schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
        start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
        is_paused_upon_creation=True,
    ):
        CustomerIOToSegmentOperator(task_id=dag_id, outlets=outlets)
"""
COUNTS = {"alone": "from XCom, one by one", "with_outlets": "from asset events"}
#: Notes in the page when the first picture is there, and when nothing is left to read.
WATCH = """
window.seconds = {};
performance.setResourceTimingBufferSize(2000);
new MutationObserver(() => {
  if (document.querySelector(".canvas svg")) seconds.states ??= performance.now() / 1000;
  if (document.querySelector("#tasks[aria-busy=false]")) seconds.counts ??= performance.now() / 1000;
}).observe(document, { subtree: true, childList: true, attributes: true });
"""


def measure(quick: bool) -> Iterator[Figure]:
    """Measure two visits to each of two DAGs. Quick mode has 30 days."""
    if chromium() is None:
        yield Figure("The picture", "a year of days", None, "{:.2f} s", note="there is no chromium")
        return
    days = 30 if quick else 365
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "year.py").write_text(DAG_FILE)
        with World(dags=Path(folder)) as world:
            for dag_id in COUNTS:
                world.wait(lambda dag_id=dag_id: world.has_dag(dag_id), f"DAG {dag_id}")  # type: ignore[misc]
            command = [sys.executable, "-m", "tests.benchmarks.run_year", str(days), *COUNTS]
            subprocess.run(command, cwd=REPO, env=world.env, check=True, stdout=subprocess.DEVNULL)
            with page_of(world.airflow_url) as page:
                page.add_init_script(WATCH)
                visit(page, "alone", 1)  # the server has answered each kind of request
            for dag_id in COUNTS:
                with page_of(world.airflow_url) as page:
                    page.add_init_script(WATCH)
                    yield from figures(page, dag_id, days)


def figures(page: Page, dag_id: str, days: int) -> Iterator[Figure]:
    """Visit the page twice with one browser."""
    part = f"The picture of {days} days in a real Airflow"
    first, again = visit(page, dag_id, days), visit(page, dag_id, days)
    source = COUNTS[dag_id]
    wrong = "" if first["said"] == again["said"] == f"All {days} intervals are done" else first["said"]
    yield Figure(part, f"counts {source}: states and gaps", first["states"], "{:.2f} s", aim=0.5, wrong=wrong)
    note = f"{first['requests']} requests"
    yield Figure(part, f"counts {source}: all", first["counts"], "{:.2f} s", aim=6, note=note)
    note = f"{again['requests']} requests"
    yield Figure(part, f"counts {source}: second visit", again["counts"], "{:.2f} s", aim=0.5, note=note)


def visit(page: Page, dag_id: str, days: int) -> dict[str, Any]:
    """Return seconds since the visit began, what the page says, and the number of requests to Airflow's API."""
    page.goto(f"/cio-flow/?dag_id={dag_id}&days={days}&until={LAST}")
    page.locator("#tasks[aria-busy=false]").wait_for()
    requests = "performance.getEntriesByType('resource').filter(({ name }) => name.includes('/api/v2/')).length"
    said = page.locator(".words li").first.inner_text()
    return {**page.evaluate("seconds"), "said": said, "requests": page.evaluate(requests)}

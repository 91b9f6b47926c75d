"""Run the README's file of DAGs and its commands in a real Airflow, one after the other, as a reader would.

Only the dates are moved, all by the same number of days, so that `start_date` is three days ago."""

import json
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import pytest
import requests

from tests.e2e.airflow import FINISHED
from tests.e2e.compare import COLLECTIONS, dates, day_of, differences, moment, told_time, unidentified
from tests.e2e.processes import REPO, WorldError
from tests.e2e.shared import AS_INSTALLED, SharedAirflow
from tests.e2e.world import DAG_ID, World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

README = (REPO / "README.md").read_text()
PREVIEW_ID = "customerio_preview"
TODAY = datetime.now(UTC).date()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def moved(text: str) -> str:
    """Return the text with its dates moved, as if the README had been written today."""
    start = re.search(r"start_date=pendulum.datetime\((\d+, \d+, \d+)", README)
    assert start
    by = TODAY - timedelta(days=3) - date_of(start[1])

    def move(written: re.Match[str]) -> str:
        day = date_of(written[0]) + by
        return str(day) if "-" in written[0] else f"{day.year}, {day.month}, {day.day}"

    return re.sub(r"\b\d{4}(?:-\d\d-\d\d|, \d+, \d+)\b", move, text)


def date_of(text: str) -> date:
    return date(*map(int, re.findall(r"\d+", text)))


def commands() -> list[list[str]]:
    """Return the Airflow commands of the text, split into words."""
    lines = [shlex.split(line, comments=True) for block in blocks("bash") for line in moved(block).splitlines()]
    return [words[1:] for words in lines if words[:1] == ["airflow"]]


class Story(NamedTuple):
    """Observations after all commands have been run.

    :param preview: the result of the preview; `previewed` is its day, and `received` counts the events that Segment had
        received when it was over.
    :param days: which have to be sent: from the first of the backfill to the last that is surely settled.
    :param states: of the runs of these days.
    """

    world: World
    preview: dict[str, Any]
    previewed: str
    received: int
    days: list[str]
    states: dict[str, str]


def runs(world: World, dag_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.api(f"dags/{dag_id}/dagRuns", limit=100)["dag_runs"]
    return found


def states(world: World, days: list[str]) -> dict[str, str]:
    """Return the state of the run that sends each of these days, where there is one."""
    by_day = {run["data_interval_start"][:10]: run["state"] for run in runs(world, DAG_ID)}
    return {day: by_day[day] for day in days if day in by_day}


def created(world: World, backfill: list[str]) -> bool:
    """Run the command that creates the backfill; return False where SQLite, with its one writer, was locked."""
    try:
        world.airflow(*backfill)
    except WorldError as error:
        if "database is locked" in str(error):  # and Airflow has removed what it had created
            return False
        raise
    return True


@pytest.fixture(scope="module")
def story(shared: SharedAirflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    dags = tmp_path_factory.mktemp("dags")
    (code,) = blocks("python")
    (dags / "from_the_readme.py").write_text(moved(code))
    trigger, backfill, unpause = commands()
    previewed = json.loads(trigger[trigger.index("--conf") + 1])["first_day"]
    first = backfill[backfill.index("--from-date") + 1]
    history = ("--seed", "6", "--deliveries", "3000", "--start", first, "--days", "7", "--latency", "0")
    with shared.world(dags=dags, sandbox_args=history, settings=AS_INSTALLED) as world:
        world.wait(lambda: world.has_dag(PREVIEW_ID) and world.has_dag(DAG_ID), "both DAGs")
        world.airflow(*trigger)
        world.wait(lambda: all(one["state"] in FINISHED for one in runs(world, PREVIEW_ID)), "preview")
        (run,) = runs(world, PREVIEW_ID)
        preview = world.api(
            f"dags/{PREVIEW_ID}/dagRuns/{run['dag_run_id']}/taskInstances/{PREVIEW_ID}/xcomEntries/return_value",
            deserialize="true",
        )["value"]
        received = world.sandbox("segment")["received"]
        world.wait(lambda: created(world, backfill), "the backfill")
        world.airflow(*unpause)
        days = list(dates(first, str(TODAY - timedelta(days=2))))
        world.wait(
            lambda: (now := states(world, days)).keys() == set(days) and FINISHED.issuperset(now.values()), "all days"
        )
        yield Story(world, preview, previewed, received, days, states(world, days))


def test_the_preview_counts_and_sends_nothing(story: Story) -> None:
    start = moment(story.previewed)
    held = story.world.sandbox("truth", start=start, end=start + 86_400)["events"]
    sendable = [row for row in held if row["collection"] in COLLECTIONS and not unidentified(row)]
    assert story.preview["preview"] is True
    assert sum(story.preview["events"].values()) == len(sendable) > 0
    assert story.received == 0


def test_every_day_is_sent(story: Story) -> None:
    assert story.states == dict.fromkeys(story.days, "success")
    assert story.previewed in story.days
    held = story.world.sandbox("truth", start=moment(story.days[0]), end=moment(story.days[-1]) + 86_400)["events"]
    kept = story.world.sandbox("segment", events=1)["events"]
    sent = [event for event in kept if day_of(told_time(event)) in story.days]
    assert differences([row for row in held if row["collection"] in COLLECTIONS], sent) == []
    assert {day_of(told_time(event)) for event in sent} == set(story.days)


def test_without_streams_no_route(story: Story) -> None:
    url = f"{story.world.airflow_url}/cio/main"
    assert requests.post(url, json={}, timeout=60).status_code in (404, 405)
    assert "configured" not in requests.get(f"{url}/health", timeout=60).text
    assert story.world.mounts() == ["/cio-flow"]

"""A task that is interrupted in mid-run by what happens in a real Airflow: its retry completes the interval."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.compare import differences, moment
from tests.e2e.world import FINISHED, World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

FIRST, END = "2026-11-01", "2026-11-05"
COLLECTION = "Email Link Clicked"
CASES = ("killed", "timed_out", "restarted")
TIMEOUT = 8.0  # seconds; the work takes about 14, and a checkpoint comes every 5
DAG_FILE = f"""
from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator

for case in {CASES}:
    with DAG(case, schedule=None, start_date=pendulum.datetime(2026, 1, 1)):
        CustomerIOToSegmentOperator(
            task_id="send",
            segment_conn_id=f"segment_{{case}}",
            interval_start="{FIRST}",
            interval_end="{END}",
            lookback=timedelta(0),
            collections=["{COLLECTION}"],
            retries=5,
            retry_delay=timedelta(seconds=1),
            execution_timeout=timedelta(seconds={TIMEOUT}) if case == "timed_out" else None,
        )
"""


class Story(NamedTuple):
    """What became of a case: its task, what the last try returned, what Segment kept and what it got again."""

    task: dict[str, Any]
    checkpoints: int
    result: dict[str, Any]
    kept: list[dict[str, Any]]
    repeated: list[dict[str, Any]]


class Stories(NamedTuple):
    """All of them, beside what there was to send."""

    truth: list[dict[str, Any]]
    cases: dict[str, Story]


def write_key(case: str) -> str:
    """Each case has a source of its own, so that the same events are new to each."""
    return f"sandboxWriteKeyOf{case}"


def start(world: World, case: str) -> None:
    """Trigger the case's DAG once it is known."""
    connection = {
        "connection_id": f"segment_{case}",
        "conn_type": "segment_source",
        "host": world.sandbox_url,
        "password": write_key(case),
    }
    world.api("connections", post=connection)
    world.wait(lambda: bool(world.api("dags", dag_id_pattern=case)["dags"]), f"DAG {case}")
    world.api(f"dags/{case}/dagRuns", post={"logical_date": None, "dag_run_id": case})
    world.elapsed(f"{case}: triggered")


def task(world: World, case: str) -> dict[str, Any]:
    """The task instance as it is now."""
    found: list[dict[str, Any]] = world.api(f"dags/{case}/dagRuns/{case}/taskInstances")["task_instances"]
    return found[0] if found else {"state": None, "try_number": 0, "start_date": None}


def checkpoints(world: World, case: str) -> int:
    """How many there are in Airflow's task state store, one or none."""
    path = f"dags/{case}/dagRuns/{case}/taskInstances/send/state-store"
    return int(world.api(path)["total_entries"])


def wait_until_in_mid_run(world: World, case: str) -> dict[str, Any]:
    """Until the first try has stored a checkpoint, and a second longer."""

    def working() -> bool:
        now = task(world, case)
        assert now["state"] not in FINISHED
        return now["state"] == "running" and checkpoints(world, case) == 1

    world.wait(working, f"task of {case} in mid-run")
    time.sleep(1)
    return task(world, case)


def wait_until_over(world: World, case: str) -> None:
    world.wait(lambda: task(world, case)["state"] in FINISHED, f"end of {case}")
    world.elapsed(f"{case}: {task(world, case)['state']} in try {task(world, case)['try_number']}")


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stories]:
    dags: Path = tmp_path_factory.mktemp("dags")
    (dags / "interruptions.py").write_text(DAG_FILE)
    history = ("--seed", "4", "--deliveries", "40000", "--start", FIRST, "--days", "4", "--channels", "email")
    with World(
        dags=dags,
        sandbox_args=(*history, "--burst", "0", "--latency", "0.4", "--requests-per-second", "0"),
        sandbox_settings={"write_keys": [write_key(case) for case in CASES]},
        connections={"customerio": {"requests_per_second": 3}},
        say=print,
    ) as world:
        start(world, "restarted")
        wait_until_in_mid_run(world, "restarted")
        world.restart_api_server(seconds_away=2)
        start(world, "killed")
        start(world, "timed_out")
        os.kill(wait_until_in_mid_run(world, "killed")["pid"], signal.SIGKILL)
        world.elapsed("killed: SIGKILL")
        for case in CASES:
            wait_until_over(world, case)
        segment = world.sandbox("segment", events=1)
        assert segment["dropped"] == {}
        truth = world.sandbox("truth", start=moment(FIRST), end=moment(END), metrics="clicked")["events"]
        yield Stories(
            truth,
            {
                case: Story(
                    task(world, case),
                    checkpoints(world, case),
                    world.api(
                        f"dags/{case}/dagRuns/{case}/taskInstances/send/xcomEntries/return_value", deserialize="true"
                    )["value"],
                    *(
                        [one for one in segment[of] if one["writeKey"] == write_key(case)]
                        for of in ("events", "repeated")
                    ),
                )
                for case in CASES
            },
        )


@pytest.mark.parametrize("case", CASES)
def test_the_interval_is_complete(stories: Stories, case: str) -> None:
    story = stories.cases[case]
    assert story.task["state"] == "success"
    assert differences(stories.truth, story.kept) == []
    assert len(story.kept) > 1000
    assert story.checkpoints == 0


@pytest.mark.parametrize("case", ["killed", "timed_out"])
def test_a_retry_sends_only_the_rest(stories: Stories, case: str) -> None:
    story = stories.cases[case]
    again = len(story.repeated) / len(story.kept)
    rest = story.result["sent"]["events"] / len(story.kept)
    print(f"{case}: {story.task['try_number']} tries; the last sent {rest:.0%}, and {again:.0%} was sent again")
    assert story.task["try_number"] > 1
    assert story.result["sent"]["events"] < len(story.kept)
    assert again < 0.5


def test_a_restart_of_the_api_server_is_no_interruption(stories: Stories) -> None:
    story = stories.cases["restarted"]
    again = len(story.repeated) / len(story.kept)
    print(f"restarted: {story.task['try_number']} tries; {again:.0%} was sent again")
    assert story.task["try_number"] == 1
    assert story.repeated == []

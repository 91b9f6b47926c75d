"""A task that is interrupted in mid-run by what happens in a real Airflow: killed, timed out, cut off from the API."""

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e.compare import moment
from tests.e2e.world import FINISHED, World

FIRST, END = "2026-11-01", "2026-11-05"
COLLECTION = "Email Link Clicked"
CASES = ("killed", "timed_out", "restarted")
LATER = 4.0  # seconds after a checkpoint, shortly before the next one: then most is lost
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

    @property
    def again(self) -> float:
        """The share that was sent again."""
        return len(self.repeated) / len(self.kept)


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


def wait_until_in_mid_run(world: World, case: str, longer: float) -> dict[str, Any]:
    """Until the first try has stored a checkpoint, and so many seconds longer."""

    def working() -> bool:
        now = task(world, case)
        assert now["state"] not in FINISHED
        return now["state"] == "running" and checkpoints(world, case) == 1

    world.wait(working, f"task of {case} in mid-run")
    time.sleep(longer)
    return task(world, case)


def wait_until_over(world: World, case: str) -> None:
    world.wait(lambda: task(world, case)["state"] in FINISHED, f"end of {case}")
    world.elapsed(f"{case}: {task(world, case)['state']} in try {task(world, case)['try_number']}")


def play(say: Callable[[str], None]) -> Stories:
    """Interrupt a run of each case, and wait for its end. About a minute."""
    history = ("--seed", "4", "--deliveries", "40000", "--start", FIRST, "--days", "4", "--channels", "email")
    with (
        tempfile.TemporaryDirectory(prefix="airflow-cio-dags-") as folder,
        World(
            dags=_dags(Path(folder)),
            sandbox_args=(*history, "--burst", "0", "--latency", "0.4", "--requests-per-second", "0"),
            sandbox_settings={"write_keys": [write_key(case) for case in CASES]},
            connections={"customerio": {"requests_per_second": 3}},
            say=say,
        ) as world,
    ):
        start(world, "restarted")
        wait_until_in_mid_run(world, "restarted", longer=1)
        world.restart_api_server(seconds_away=2)
        start(world, "killed")
        start(world, "timed_out")
        os.kill(wait_until_in_mid_run(world, "killed", longer=LATER)["pid"], signal.SIGKILL)
        world.elapsed("killed: SIGKILL")
        for case in CASES:
            wait_until_over(world, case)
        segment = world.sandbox("segment", events=1)
        assert segment["dropped"] == {}
        truth = world.sandbox("truth", start=moment(FIRST), end=moment(END), metrics="clicked")["events"]
        return Stories(
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


def _dags(folder: Path) -> Path:
    (folder / "interruptions.py").write_text(DAG_FILE)
    return folder

"""A task that is interrupted in mid-run by what happens in a real Airflow: killed, its worker stopped, marked as failed
and cleared, timed out, cut off from the API. Each is a case with a DAG of its own, and fails alone."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.airflow_names import AIRFLOW
from tests.e2e.airflow import FINISHED
from tests.e2e.compare import moment
from tests.e2e.world import World

FIRST, END = "2026-11-01", "2026-11-05"
COLLECTION = "Email Link Clicked"
#: Since Airflow 3.4, SIGTERM to the supervisor leaves the task running, and clearing a task discards its state.
TASKS_OUTLIVE_SIGTERM = CLEARING_DISCARDS_STATE = AIRFLOW >= (3, 4)
CASES = (
    *("killed", "timed_out", "restarted", "worker_stopped", "marked_failed"),
    *(["state_kept"] if CLEARING_DISCARDS_STATE else []),
)
LATER = 4.0  # seconds after a checkpoint, shortly before the next one: then most is lost
TIMEOUT = 18.0  # seconds; the work takes about 24, and the first checkpoint comes after about 9
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
            collections=["{COLLECTION}"],
            retries=5,
            retry_delay=timedelta(seconds=1),
            execution_timeout=timedelta(seconds={TIMEOUT}) if case == "timed_out" else None,
        )
"""


class Story(NamedTuple):
    """Outcome of a case: its task, the result of the last try, the events that Segment kept, and those that came again.

    :param first_log: of the first try.
    """

    task: dict[str, Any]
    checkpoints: int
    result: dict[str, Any]
    kept: list[dict[str, Any]]
    repeated: list[dict[str, Any]]
    first_log: str

    @property
    def again(self) -> float:
        """Share of the events that was sent again."""
        return len(self.repeated) / len(self.kept)


@dataclass
class Stories:
    """Outcomes of all cases, and the number of events to send.

    :param seconds_to_end: how long a process lived on after it was told to end.
    :param failures: of cases that went wrong.
    """

    truth: list[dict[str, Any]] = field(default_factory=list)
    by_case: dict[str, Story] = field(default_factory=dict)
    seconds_to_end: dict[str, float] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)

    @contextmanager
    def alone(self, case: str) -> Iterator[None]:
        """Keep an error of this case for its own tests, and go on with the other cases."""
        try:
            yield
        except Exception as error:
            self.failures.setdefault(case, error)

    def of(self, case: str) -> Story:
        """Return the outcome of a case.

        :raises Exception: what went wrong in this case.
        """
        if case in self.failures:
            raise self.failures[case]
        return self.by_case[case]


def write_key(case: str) -> str:
    """Return a write key of the case's own, so that the same events are new in each case."""
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
    world.trigger(case)


def checkpoints(world: World, case: str) -> int:
    """Return the number of checkpoints in Airflow's task state store, one or none."""
    path = f"dags/{case}/dagRuns/{case}/taskInstances/send/state-store"
    return int(world.api(path)["total_entries"])


def wait_until_in_mid_run(world: World, case: str, longer: float) -> dict[str, Any]:
    """Wait until the first try has stored a checkpoint, and this many seconds longer."""

    def working() -> bool:
        now = world.task(case)
        assert now["state"] not in FINISHED
        return now["state"] == "running" and checkpoints(world, case) == 1

    world.wait(working, f"task of {case} in mid-run")
    time.sleep(longer)
    return world.task(case)


def has_ended(process: psutil.Process) -> bool:
    """Return whether a task's process has ended. Its supervisor may be late to notice that: see docs/versions.md."""
    try:
        return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def seconds_to_end(world: World, case: str, process: psutil.Process) -> float:
    """Wait until a task's process has ended, not only in the database."""
    began = time.monotonic()
    world.wait(lambda: has_ended(process), f"end of the process of {case}", timeout=60)
    seconds = time.monotonic() - began
    world.elapsed(f"{case}: its process ended after {seconds:.1f} s")
    return seconds


def kill(world: World, case: str) -> None:
    """Send SIGKILL to the task, as the kernel does when memory runs out, or Kubernetes after a grace period."""
    os.kill(wait_until_in_mid_run(world, case, longer=LATER)["pid"], signal.SIGKILL)
    world.elapsed(f"{case}: SIGKILL")


def stop_worker(world: World, case: str) -> psutil.Process:
    """Send SIGTERM to the supervisor of the task, as if its worker is stopped. Return the task's own process."""
    process = psutil.Process(wait_until_in_mid_run(world, case, longer=LATER)["pid"])
    os.kill(process.ppid(), signal.SIGTERM)
    world.elapsed(f"{case}: SIGTERM to its supervisor")
    return process


def mark_failed(world: World, case: str, **options: bool) -> float:
    """Mark the task as failed, as in the UI, and clear it after its supervisor has heard of it at the next heartbeat.

    :param options: further ones of the request to clear the task.
    """
    process = psutil.Process(wait_until_in_mid_run(world, case, longer=1)["pid"])
    world.api(f"dags/{case}/dagRuns/{case}/taskInstances/send", patch={"new_state": "failed"})
    seconds = seconds_to_end(world, case, process)
    assert world.task(case)["state"] == "failed"
    world.api(f"dags/{case}/clearTaskInstances", post={"dry_run": False, "dag_run_id": case, **options})
    return seconds


def wait_until_over(world: World, case: str) -> None:
    world.wait(lambda: world.task(case)["state"] in FINISHED, f"end of {case}")
    world.elapsed(f"{case}: {world.task(case)['state']} in try {world.task(case)['try_number']}")


def play(say: Callable[[str], None]) -> Stories:
    """Interrupt a run of each case, and wait for its end. About two minutes, and seven on a busy machine."""
    stories = Stories()
    history = ("--seed", "4", "--deliveries", "120000", "--start", FIRST, "--days", "4", "--channels", "email")
    with (
        tempfile.TemporaryDirectory(prefix="airflow-cio-dags-") as folder,
        World(
            dags=_dags(Path(folder)),
            sandbox_args=(*history, "--burst", "0", "--latency", "0.4", "--requests-per-second", "0"),
            sandbox_settings={"write_keys": [write_key(case) for case in CASES]},
            connections={"customerio": {"requests_per_second": 6}},
            say=say,
        ) as world,
    ):
        with stories.alone("restarted"):
            start(world, "restarted")
            wait_until_in_mid_run(world, "restarted", longer=1)
            world.restart_api_server(seconds_away=2)
        for case in ("killed", "timed_out"):
            with stories.alone(case):
                start(world, case)
        with stories.alone("killed"):
            kill(world, "killed")
        with stories.alone("worker_stopped"):
            start(world, "worker_stopped")
            process = stop_worker(world, "worker_stopped")
            if not TASKS_OUTLIVE_SIGTERM:
                stories.seconds_to_end["worker_stopped"] = seconds_to_end(world, "worker_stopped", process)
        with stories.alone("marked_failed"):
            start(world, "marked_failed")  # not before: on a busy machine it would be done by now
            stories.seconds_to_end["marked_failed"] = mark_failed(world, "marked_failed")
        if "state_kept" in CASES:
            with stories.alone("state_kept"):
                start(world, "state_kept")
                mark_failed(world, "state_kept", keep_task_state=True)
        for case in CASES:
            if case not in stories.failures:
                with stories.alone(case):
                    wait_until_over(world, case)
        segment = world.sandbox("segment", events=1)
        assert segment["dropped"] == {}
        stories.truth = world.sandbox("truth", start=moment(FIRST), end=moment(END), metrics="clicked")["events"]
        for case in CASES:
            with stories.alone(case):
                stories.by_case[case] = _story(world, case, segment)
        return stories


def _story(world: World, case: str, segment: dict[str, Any]) -> Story:
    task = f"dags/{case}/dagRuns/{case}/taskInstances/send"
    events, repeated = (
        [one for one in segment[of] if one["writeKey"] == write_key(case)] for of in ("events", "repeated")
    )
    return Story(
        task=world.task(case),
        checkpoints=checkpoints(world, case),
        result=world.api(f"{task}/xcomEntries/return_value", deserialize="true")["value"],
        kept=events,
        repeated=repeated,
        first_log="\n".join(map(str, world.api(f"{task}/logs/1", full_content="true")["content"])),
    )


def _dags(folder: Path) -> Path:
    (folder / "interruptions.py").write_text(DAG_FILE)
    return folder

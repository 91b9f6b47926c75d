"""Several runs at a time on two workers, one of which is killed: CeleryExecutor, Redis, PostgreSQL."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.airflow import TASK_ID, Run
from tests.e2e.compare import Comparison, compare_world, dates, seconds
from tests.e2e.workers import celery_world, missing
from tests.e2e.world import DAG_ID, World

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing()), reason=f"needs Debian's {' and '.join(missing())} (apt-get install)"),
]

FIRST, LAST = "2026-11-05", "2026-11-10"
DAYS = list(dates(FIRST, LAST))
WORKERS = ("worker-1", "worker-2")
SLOTS = 2  # of each worker
# It begins before the backfill: some of what happens in it happens to older deliveries. Its limit of requests is
# the documented one, 10 a second for the workspace.
SANDBOX = ("--seed", "9", "--deliveries", "90000", "--start", "2026-10-20", "--days", "22")
# The README's DAG, but for a shorter wait until a retry.
DAG_FILE = f"""
from datetime import timedelta

import pendulum
from airflow.sdk import DAG, CronDataIntervalTimetable

from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator

with DAG(
    "{DAG_ID}",
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=pendulum.datetime(2026, 11, 1, tz="UTC"),
):
    CustomerIOToSegmentOperator(task_id="{TASK_ID}", retries=3, retry_delay=timedelta(seconds=1))
"""


class Story(NamedTuple):
    """Tasks that were running when a worker was killed, and their outcome.

    :param orphaned: the days whose runs the killed worker had in mid-run; of `resumable` a checkpoint was stored.
    :param tries: of each day, in their order.
    :param results: of each day.
    :param other_failures: logs of tries that failed on the worker that nobody killed.
    """

    killed: str
    survivor: str
    orphaned: list[str]
    resumable: str
    runs: list[Run]
    tries: dict[str, list[dict[str, Any]]]
    results: dict[str, dict[str, Any]]
    comparison: Comparison
    rate_limited: int
    other_failures: list[str]


def running(world: World) -> list[dict[str, Any]]:
    """Return the running task instances."""
    tasks = world.api(f"dags/{DAG_ID}/dagRuns/~/taskInstances", state="running")["task_instances"]
    return [task for task in tasks if task["state"] == "running"]


def path(run_id: str) -> str:
    return f"dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/{TASK_ID}"


def day(task: dict[str, Any]) -> str:
    return str(task["logical_date"])[:10]


def log(world: World, task: dict[str, Any]) -> str:
    lines = world.api(f"{path(task['dag_run_id'])}/logs/{task['try_number']}", full_content="true")["content"]
    return "\n".join(map(str, lines))


def in_mid_run(world: World) -> dict[str, Any]:
    """Wait until a task has stored a checkpoint; return that task."""
    found: list[dict[str, Any]] = []

    def stored() -> bool:
        for task in running(world):
            if world.api(f"{path(task['dag_run_id'])}/state-store")["total_entries"]:
                found.append(task)
        return bool(found)

    world.wait(stored, "checkpoint of a run", timeout=300, every=1.0)
    return found[0]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder: Path = tmp_path_factory.mktemp("dags")
    (folder / "dag.py").write_text(DAG_FILE)
    with celery_world(WORKERS, slots=SLOTS, dags=folder, sandbox_args=SANDBOX, say=print) as world:
        world.start_backfill(DAG_ID, FIRST, LAST, max_active_runs=SLOTS * len(WORKERS))
        resumable = in_mid_run(world)
        killed = resumable["hostname"]
        world.kill(killed)
        # Nobody ends them now but Airflow, and not before their heartbeats are missed.
        orphaned = sorted(day(task) for task in running(world) if task["hostname"] == killed)
        world.elapsed(f"{killed}: SIGKILL, within the runs of {' and '.join(orphaned)}")
        runs = world.finish_backfill(DAG_ID, FIRST, LAST, timeout=400)
        tries = {run.day: world.api(f"{path(run.run_id)}/tries")["task_instances"] for run in runs}
        tried_again = [day for day, of_day in tries.items() if len(of_day) > 1]
        (survivor,) = set(WORKERS) - {killed}
        return Story(
            killed=killed,
            survivor=survivor,
            orphaned=orphaned,
            resumable=day(resumable),
            runs=runs,
            tries={day: sorted(of_day, key=lambda one: int(one["try_number"])) for day, of_day in tries.items()},
            results={run.day: world.xcom(run) for run in runs if run.state == "success"},
            comparison=compare_world(world, runs, FIRST, LAST, interrupted=tried_again),
            rate_limited=world.sandbox("customerio")["rate_limited"],
            other_failures=[
                log(world, one)
                for of_day in tries.values()
                for one in of_day
                if (one["hostname"], one["state"]) == (survivor, "failed")
            ],
        )


def test_segment_kept_each_event_once(story: Story) -> None:
    assert [(run.day, run.state) for run in story.runs] == [(day, "success") for day in DAYS]
    assert story.comparison.differences == []
    assert story.comparison.kept > 5000


def test_other_worker_completes_runs(story: Story) -> None:
    assert story.resumable in story.orphaned
    for day in story.orphaned:
        first, *_, last = story.tries[day]
        assert (first["hostname"], first["state"]) == (story.killed, "failed")
        assert (last["hostname"], last["state"]) == (story.survivor, "success")


def test_retry_uses_the_checkpoint(story: Story) -> None:
    result = story.results[story.resumable]
    assert result["resumed"] is True
    assert result["sent"]["events"] == sum(c.kept for c in story.comparison.counts if c.day == story.resumable)


def test_parallel_runs_share_the_rate(story: Story) -> None:
    """Each run asks 8 times a second, as if it were alone; all of them together are allowed 10."""
    first_tries = [(seconds(one["start_date"]), seconds(one["end_date"])) for one, *_ in story.tries.values()]
    at_once = max(sum(start <= moment < end for start, end in first_tries) for moment, _ in first_tries)
    print(f"{at_once} runs at once, {story.rate_limited} requests got 429")
    assert at_once > SLOTS  # more than one worker has slots for
    assert story.rate_limited > 0
    assert story.other_failures == []  # a 429 takes no try

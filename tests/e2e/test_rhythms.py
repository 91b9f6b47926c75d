"""The example of three rhythms, backfilled by a real Airflow over opens that come half a year late."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.e2e.airflow import Run
from tests.e2e.compare import COLLECTIONS, differences, moment, seconds, unidentified
from tests.e2e.shared import SharedAirflow
from tests.e2e.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

HOUR, DAY = 3600, 86_400


class Rhythm(NamedTuple):
    """DAG with the ages that it sends, the first and last logical date of its backfill, and its runs' length."""

    dag_id: str
    ages: range
    first: str
    last: str
    every: int
    backwards: bool = False

    @property
    def stretch(self) -> range:
        """All seconds of the backfill's intervals."""
        return range(moment(self.first), moment(self.last) + self.every)


# Twelve hours of all three, across a bound of each; more of those whose runs are few.
RHYTHMS = (
    Rhythm("customerio_to_segment_weekly", range(7 * DAY, 180 * DAY), "2026-11-01", "2026-11-08", 7 * DAY),
    Rhythm("customerio_to_segment_hourly", range(DAY), "2026-11-07T18:00", "2026-11-08T05:00", HOUR, backwards=True),
    Rhythm("customerio_to_segment_daily", range(DAY, 7 * DAY), "2026-11-05", "2026-11-09", DAY),
)
LATE = ("--longest-lag", "190", "--late-opens", "0.3", "--channels", "email")
HISTORY = ("--seed", "20", "--deliveries", "20000", "--start", "2026-04-25", "--days", "204", *LATE)


class Story(NamedTuple):
    """Observations after all three backfills are over.

    :param pool_made: when the pool was made, once tasks could have started.
    :param tasks: all task instances of the three DAGs, by their start.
    :param held: what Customer.io held of the six collections, at any age, in the weeks of the longest backfill.
    """

    runs: dict[str, list[Run]]
    pool_made: float
    tasks: list[dict[str, Any]]
    held: list[dict[str, Any]]
    segment: dict[str, Any]


@pytest.fixture(scope="module")
def story(shared: SharedAirflow) -> Iterator[Story]:
    with shared.world(
        sandbox_args=(*HISTORY, "--requests-per-second", "0", "--latency", "0.01"),
        connections={"customerio": {"requests_per_second": 1000}},
    ) as world:
        # All begin together, at the end: while runs wait, the scheduler writes, and SQLite has room for one writer.
        for one in RHYTHMS:
            world.create_backfill(one.dag_id, one.first, one.last, run_backwards=one.backwards)
        for one in RHYTHMS:
            world.unpause(one.dag_id)
        world.elapsed("all three are unpaused")
        world.wait(lambda: "scheduled" in {task["state"] for task in tasks(world)}, "a task that could start")
        pool_made = time.time()
        world.api("pools", post={"name": "customerio", "slots": 1})
        world.elapsed("the pool is made")
        runs = {one.dag_id: world.finish_backfill(one.dag_id, one.first[:10], one.last[:10]) for one in RHYTHMS}
        longest = RHYTHMS[0].stretch
        held = world.sandbox("truth", start=longest.start, end=longest.stop, full=1)["events"]
        yield Story(
            runs,
            pool_made,
            tasks(world),
            [row for row in held if row["collection"] in COLLECTIONS],
            world.sandbox("segment", events=1),
        )


def tasks(world: World) -> list[dict[str, Any]]:
    """Return all task instances of the three DAGs, by their start."""
    found = [
        one
        for rhythm in RHYTHMS
        for one in world.api(f"dags/{rhythm.dag_id}/dagRuns/~/taskInstances")["task_instances"]
    ]
    return sorted(found, key=lambda task: task["start_date"] or "")


def wanted(row: dict[str, Any], rhythm: Rhythm) -> bool:
    """Return whether this DAG's backfill should send this occurrence, provided that it has an id of a person."""
    return row["time"] in rhythm.stretch and max(row["time"] - row["created"], 0) in rhythm.ages


def test_every_run_succeeds(story: Story) -> None:
    states = {dag_id: [run.state for run in runs] for dag_id, runs in story.runs.items()}
    assert states == {one.dag_id: ["success"] * (len(one.stretch) // one.every) for one in RHYTHMS}


def test_each_event_is_kept_once(story: Story) -> None:
    rows = [row for row in story.held if any(wanted(row, one) for one in RHYTHMS)]
    assert differences(rows, story.segment["events"]) == []
    assert (story.segment["repeated"], story.segment["dropped"]) == ([], {})


def test_each_rhythm_has_its_share(story: Story) -> None:
    """Each rhythm sends its share. Some messages were opened at an age at which no DAG sends the open any more."""
    for rhythm in RHYTHMS:
        assert sum(wanted(row, rhythm) and not unidentified(row) for row in story.held) > 20, rhythm
    ages = [row["time"] - row["created"] for row in story.held]
    assert max(age for age in ages if age < 180 * DAY) > 175 * DAY
    assert max(ages) > 180 * DAY


def test_runs_take_turns_in_the_pool(story: Story) -> None:
    assert {task["pool"] for task in story.tasks} == {"customerio"}
    ends = [seconds(task["end_date"]) for task in story.tasks]
    starts = [seconds(task["start_date"]) for task in story.tasks]
    assert all(end <= start for end, start in zip([story.pool_made, *ends], starts, strict=False))

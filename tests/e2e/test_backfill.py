"""A real Airflow backfills the example DAG while the services have faults."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from tests.e2e.airflow import Run
from tests.e2e.compare import COLLECTIONS, Comparison, compare_world, dates, day_of, moment, seconds, told_time
from tests.e2e.shared import SharedAirflow
from tests.e2e.world import DAG_ID, World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

FULL_DAG_ID = "customerio_to_segment_full"
# Opens and clicks that the API lists no activities of: the first is what there is.
WITHOUT_ACTIVITIES = {"Slack Link Clicked", "WhatsApp Opened", "WhatsApp Link Clicked"}
# Before today, so that Customer.io still guarantees the activities of these days.
HISTORY, FIRST, LAST = (str(datetime.now(UTC).date() - timedelta(days=days)) for days in (13, 8, 5))
DAYS = list(dates(FIRST, LAST))
AWKWARD = {
    "requests_per_second": 5,
    "retry_after": "seconds",
    "latency": 0.02,
    "empty_page_every": 2,
    "null_when_empty": True,
    "last_next": "absent",
    "trailing_page": True,
}
FAULTS = [
    {"side": "customerio", "kinds": ["reset", "502", "truncated"], "at": 3, "times": 3},
    {"side": "segment", "kinds": ["503", "reset"], "at": 1, "times": 2},
]


class Story(NamedTuple):
    """Observations after the backfill."""

    world: World
    runs: list[Run]
    comparison: Comparison


@pytest.fixture(scope="module")
def story(shared: SharedAirflow) -> Iterator[Story]:
    with shared.world(
        sandbox_args=("--seed", "2", "--deliveries", "5000", "--start", HISTORY, "--days", "12"),
        sandbox_settings=AWKWARD,
        # Faster than is allowed, so that 429s come.
        connections={"customerio": {"requests_per_second": 50}},
    ) as world:
        world.sandbox("faults", post=FAULTS)
        runs = world.backfill(DAG_ID, FIRST, LAST)
        yield Story(world, runs, compare_world(world, runs, FIRST, LAST))


def test_every_run_succeeds(story: Story) -> None:
    states = [(run.day, run.state) for run in story.runs]
    assert states == [(day, "success") for day in DAYS], "\n".join(map(story.world.logs, story.runs))


def test_segment_kept_all_deliveries(story: Story) -> None:
    assert story.comparison.differences == []
    assert story.comparison.kept > 500
    assert sum(count.unidentified for count in story.comparison.counts) > 0


def test_results_count_retries(story: Story) -> None:
    read = [story.world.xcom(run)["read"] for run in story.runs]
    limited = story.world.sandbox("customerio")["rate_limited"]
    assert sum(counts.get("rate_limited", 0) for counts in read) == limited > 0
    assert sum(counts.get("retried", 0) for counts in read) >= limited
    assert story.comparison.segment["requests"] > len(story.runs)


def test_each_run_returns_its_counts(story: Story) -> None:
    for run in story.runs:
        counts = [count for count in story.comparison.counts if count.day == run.day]
        value = story.world.xcom(run)
        assert set(value) == {"interval", "read", "events", "sent", "skipped", "ages"}
        bounds = {bound: seconds(value["interval"][bound]) for bound in ("start", "end")}
        assert bounds == {"start": moment(run.day), "end": moment(run.day) + 86_400}
        assert {name: value["events"].get(name, 0) for name in COLLECTIONS} == {
            count.collection: count.kept for count in counts
        }
        assert value["sent"]["events"] == sum(count.kept for count in counts)
        assert set(value["sent"]) == {"events", "batches", "bytes"}
        assert {"requests", "deliveries"} <= set(value["read"]) <= {"requests", "deliveries", "retried", "rate_limited"}


def test_rerun_changes_nothing(story: Story) -> None:
    run = story.world.rerun(story.runs[0])
    assert run.state == "success", story.world.logs(run)
    after = story.world.sandbox("segment", events=1)
    assert after["kept"] == story.comparison.kept
    assert after["duplicates"] == sum(count.kept for count in story.comparison.counts if count.day == run.day)
    assert {day_of(told_time(event)) for event in after["events"]} == set(DAYS)


def test_second_example_sends_all(story: Story) -> None:
    """The second example sends every channel and every open and click by a person, with hashed addresses."""
    world = story.world
    before = len(world.sandbox("segment", events=1)["events"])
    (run,) = world.backfill(FULL_DAG_ID, FIRST, FIRST)
    assert run.state == "success", world.logs(run)
    value = world.xcom(run)
    assert "opens_and_clicks" not in value  # it has not fallen back to the first ones
    day = {"start": moment(FIRST), "end": moment(FIRST) + 86_400, "drafts": 1}
    wanted = Counter(
        row["collection"]
        for every in (0, 1)
        for row in world.sandbox("truth", **day, every=every, full=1)["events"]
        if (row["collection"] in WITHOUT_ACTIVITIES) is (not every)
        and not (row["user_id"] is None and row["anonymous_id"] is None)
        and not (every and (row["machine"] or row["prefetched"]))
    )
    assert {name: count for name, count in value["events"].items() if count} == wanted
    assert "Push Delivered" in wanted
    sent = world.sandbox("segment", events=1)["events"][before:]
    assert sent
    assert not any("@" in str(event.get("anonymousId", "")) for event in sent)

"""An event is sent by its age: runs with touching ranges of ages share a history without gap or overlap."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.events.occurrence import Malformed
from airflow_provider_cio.pipeline.pipeline import Callbacks
from tests.sandbox import History, Sandbox, Settings
from tests.unit import support
from tests.unit.full import held_in_mode, kept, to_send
from tests.unit.support import DAY, NOVEMBER, run_pipeline

STRETCH = Interval(NOVEMBER, NOVEMBER + 3 * DAY)
MODES = ("first", "first_human", "every", "every_human")
#: Collections that a run with `older_than` may send in the modes that read activities.
WITHOUT_ACTIVITIES = [name for name, one in CATALOG.items() if not one.has_activities and not one.is_of_person]


@pytest.fixture(scope="module", autouse=True)
def small_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        support.small_pages(patch, 40, 40)
        yield


HISTORIES = st.builds(
    History.generate,
    seed=st.integers(0, 10**6),
    deliveries=st.integers(20, 150),
    start=st.just(NOVEMBER - 6 * DAY),
    end=st.just(STRETCH.end),
    on_bounds=st.sampled_from([0.0, 0.5]),
    longest_lag=st.sampled_from([3600, 8 * DAY]),
    created_late=st.sampled_from([0.0, 0.5]),
    created_late_by=st.just(60),
    channels=st.sampled_from([("email",), ("email", "whatsapp", "twilio")]),
)


def age_ranges(data: st.DataObject, history: History) -> list[tuple[int, int]]:
    """Draw touching ranges of ages, some of whose bounds are an occurrence's very age."""
    ages = {row.time - row.created for row in history.truth(*STRETCH, every=True)}
    bounds = st.sampled_from([1, 3600, DAY, 2 * DAY, 5 * DAY])
    if some := sorted(age for age in ages if 1 < age < 30 * DAY):
        bounds |= st.sampled_from(some) | st.sampled_from(some).map(lambda age: age + 1)
    inner = data.draw(st.sets(bounds, min_size=1, max_size=3))
    return list(itertools.pairwise([0, *sorted(inner)]))


def cuts(data: st.DataObject) -> list[Interval]:
    inner = data.draw(st.sets(st.integers(STRETCH.start + 1, STRETCH.end - 1), max_size=2))
    return [Interval(*pair) for pair in itertools.pairwise([STRETCH.start, *sorted(inner), STRETCH.end])]


@settings(max_examples=25)
@given(history=HISTORIES, mode=st.sampled_from(MODES), order=st.sampled_from(["newest", "shuffled"]), data=st.data())
def test_touching_ages_share_a_history(
    world: Sandbox, history: History, mode: str, order: Any, data: st.DataObject
) -> None:
    """Each range has cuts of its own, in any order. Together they send once all that one run over everything finds."""
    world.settings = Settings(order=order)
    world.history = history
    world.reset()
    ranges = age_ranges(data, history)
    runs = [(interval, ages) for ages in ranges for interval in cuts(data)]
    for interval, (older_than, lookback) in data.draw(st.permutations(runs)):
        names = WITHOUT_ACTIVITIES if older_than and mode.startswith("every") else "all"
        asked = len(world.customerio.requests)
        run_pipeline(world, interval, names=names, mode=mode, lookback=lookback, older_than=older_than)
        if older_than:
            assert_only_these_are_asked(world, asked, interval.start - lookback, interval.end - older_than)
    found = kept(world.segment.kept)
    wanted = to_send(held_in_mode(mode, history, [STRETCH], lookback=ranges[-1][1]))
    assert list((found - wanted).elements()) == []
    assert list((wanted - found).elements()) == []
    assert world.segment.duplicates == []


def assert_only_these_are_asked(world: Sandbox, since: int, first: int, end: int) -> None:
    """Assert that only lists of deliveries created in ``[first, end)`` are asked: no single one, and no activities."""
    listed = ("/v1/messages", "/v1/activities")
    asked = [one for one in world.customerio.requests[since:] if one.path.startswith(listed)]
    assert {one.path for one in asked} == {"/v1/messages"}
    assert min(int(one.params["start_ts"]) for one in asked) == first
    assert max(int(one.params["end_ts"]) for one in asked) == end - 1


@pytest.mark.parametrize("mode", MODES)
def test_one_run_refuses_a_malformed_row(sandbox: Sandbox, mode: str) -> None:
    """The run without `older_than` whose interval contains the creation refuses the row. Other runs count it."""
    row = {"id": "odd", "type": "email", "created": NOVEMBER + 5, "metrics": {}, "customer_identifiers": 7}
    sandbox.history = History([row])
    days = [Interval(NOVEMBER + day * DAY, NOVEMBER + (day + 1) * DAY) for day in range(3)]
    runs = [*((day, 0, DAY) for day in days), (STRETCH, DAY, 3 * DAY)]
    rows: list[Malformed] = []
    skipped = []
    for interval, older_than, lookback in runs:
        result = run_pipeline(
            sandbox,
            interval,
            names=["Email Sent"],
            mode=mode,
            lookback=lookback,
            older_than=older_than,
            callbacks=Callbacks(refused_row=rows.append),
        )
        skipped.append(result.skipped["malformed"])
    assert [one.id for one in rows] == ["odd"]
    assert skipped == [0, 1, 0, 1]


def test_first_by_a_person_counts_at_its_own_age(sandbox: Sandbox) -> None:
    """The first open by a person counts at its own age, though a machine opened when the message was younger."""
    opened, human = NOVEMBER + 60, NOVEMBER + 2 * DAY
    metrics = {"opened": opened, "prefetch_opened": opened, "human_opened": human}
    row = {"id": "a", "type": "email", "created": NOVEMBER, "metrics": metrics, "customer_id": "1"}
    sandbox.history = History([row])
    for older_than, lookback, events, machines in ((0, DAY, 0, 1), (DAY, 2 * DAY, 0, 0), (2 * DAY, 9 * DAY, 1, 0)):
        result = run_pipeline(sandbox, STRETCH, mode="first_human", lookback=lookback, older_than=older_than)
        assert (result.events.total(), result.skipped["machine"]) == (events, machines)


def test_activities_count_at_any_age(sandbox: Sandbox) -> None:
    """An activity counts at any age. An open that only the list of deliveries tells counts by its age."""
    row = {"id": "a", "type": "email", "created": NOVEMBER - DAY, "customer_id": "1"}
    row |= {"metrics": {"opened": NOVEMBER + 60, "clicked": NOVEMBER + 70}}
    click = {"id": "x", "type": "clicked_email", "timestamp": NOVEMBER + 80, "delivery_id": "a", "customer_id": "1"}
    sandbox.history = History([row], activities=[click])
    for lookback, events in ((DAY // 2, 1), (DAY + 60, 1), (DAY + 61, 2), (DAY + 71, 3)):
        assert run_pipeline(sandbox, STRETCH, mode="every", lookback=lookback).events.total() == events

"""Promises 1 and 4 over every way in which the services may be off: each occurrence once, in all three modes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_cio.interval import Interval
from airflow_provider_cio.sources import reader, schedule, windows
from tests.sandbox import History, Sandbox, Settings
from tests.sandbox.delivery import Truth
from tests.unit.full import DOCUMENTED, held, kept, to_send
from tests.unit.support import DAY, NOVEMBER, run_line

STRETCH = Interval(NOVEMBER, NOVEMBER + 3 * DAY)
MODES = ("first", "every", "every_human")


@pytest.fixture(scope="module")
def world() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module", autouse=True)
def small_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "PAGE_SIZE", 12)
        patch.setattr(schedule, "PAGE_SIZE", 12)
        patch.setattr(reader, "ACTIVITY_PAGE_SIZE", 15)
        yield


HISTORIES = st.builds(
    History.generate,
    seed=st.integers(0, 10**6),
    deliveries=st.integers(0, 250),
    start=st.just(NOVEMBER - 4 * DAY),
    end=st.just(STRETCH.end),
    burst=st.sampled_from([0.0, 0.5, 1.0]),
    on_bounds=st.sampled_from([0.0, 0.5]),
    drafts=st.sampled_from([0.0, 0.2]),
    longest_lag=st.sampled_from([3600, 28 * DAY]),
    created_late=st.sampled_from([0, 5, 59]),
)
SERVICES = {
    "order": st.sampled_from(["newest", "nearly", "oldest", "shuffled"]),
    "displaced": st.sampled_from([0.01, 0.3, 1.0]),
    "displaced_by": st.sampled_from([1, 60, 7200]),
    "repeated_rows": st.sampled_from([0, 0, 3]),
    "cursors": st.sampled_from(["stable", "offset"]),
    "cursors_bound": st.booleans(),
    "visible_after": st.sampled_from([None, 0, 1700]),
    "null_when_empty": st.booleans(),
    "empty_page_every": st.sampled_from([0, 1]),
    "last_next": st.sampled_from(["empty", "null", "absent"]),
    "trailing_page": st.booleans(),
    "activity_disorder": st.sampled_from([0, 600, 3600]),
    "activities_end": st.sampled_from(["next", "same_cursor", "new_cursor"]),
    "parent_ids": st.sampled_from(["mixed", "int", "string"]),
    "now": st.just(STRETCH.end + 40 * DAY),
}


def cuts(draw: st.DataObject) -> list[Interval]:
    inner = draw.draw(st.sets(st.integers(STRETCH.start + 1, STRETCH.end - 1), max_size=3))
    return [Interval(*pair) for pair in itertools.pairwise([STRETCH.start, *sorted(inner), STRETCH.end])]


def of_mode(rows: Iterable[Truth], mode: str) -> list[Truth]:
    """Without what no person did, where activities tell."""
    return [
        one
        for one in rows
        if mode != "every_human" or not ((one.channel, one.metric) in DOCUMENTED and (one.machine or one.prefetched))
    ]


@settings(max_examples=90, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=HISTORIES, services=st.fixed_dictionaries(SERVICES), mode=st.sampled_from(MODES), data=st.data())
def test_adjacent_intervals_send_each_occurrence_exactly_once(
    world: Sandbox, history: History, services: dict[str, Any], mode: str, data: st.DataObject
) -> None:
    world.settings = Settings(**services)
    world.history = history
    world.reset()
    intervals = cuts(data)
    refused = sum(
        run_line(world, one, names="all", mode=mode).refused.total() for one in data.draw(st.permutations(intervals))
    )
    assert refused == 0
    expected = to_send(of_mode(held(history, intervals, every=mode != "first"), mode))
    found = kept(world.segment.kept)
    assert list((found - expected).elements()) == []
    assert list((expected - found).elements()) == []
    assert world.segment.dropped == []


Key = tuple[str, str, int]


def keys(rows: Iterable[Truth]) -> Counter[Key]:
    return Counter((one.collection, one.delivery_id, one.time) for one in rows if one.user_id or one.anonymous_id)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=HISTORIES, share=st.sampled_from([0.02, 0.3]), mode=st.sampled_from(MODES), data=st.data())
def test_odd_rows_are_refused_alone(
    world: Sandbox, history: History, share: float, mode: str, data: st.DataObject
) -> None:
    """Everything that good rows tell is sent, each odd row is refused by one interval, and nothing untrue is sent."""
    world.settings = Settings(odd_deliveries=share, odd_activities=share, now=STRETCH.end + 40 * DAY)
    world.history = history
    world.reset()
    reports = [run_line(world, one, names="all", mode=mode) for one in cuts(data)]
    assert set(itertools.chain(*(report.refused for report in reports))) <= {"misshapen"}
    expected = world.expected(*STRETCH, drafts=True, every=mode != "first")
    everything = keys(itertools.chain(*expected))
    found = Counter((one.collection, one.delivery_id, one.time) for one in kept(world.segment.kept).elements())
    must = keys(of_mode([one for one in expected.must if mode == "first" or _told(one)], mode))
    assert list((must - found).elements()) == []
    assert list((found - everything).elements()) == []


def _told(one: Truth) -> bool:
    """In the other modes, an open or click that no activity is documented of is sent once, as its delivery has it."""
    return one.metric not in ("opened", "clicked") or (one.channel, one.metric) in DOCUMENTED

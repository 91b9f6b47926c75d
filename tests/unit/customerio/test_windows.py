"""Creation times that are read for an interval."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cio.customerio.windows import CREATED_LATE, LONGEST_WINDOW, plan, query_of
from airflow_provider_cio.events.catalog import DEFAULT_COLLECTIONS, resolve_collections
from airflow_provider_cio.events.interval import Ages, Interval, Window

SIX = resolve_collections(DEFAULT_COLLECTIONS)
AGES = Ages(1)
SIX_MONTHS = 181 * 86_400  # the shortest six months there are


@given(
    start=st.integers(10**9, 2 * 10**9),
    length=st.integers(1, 3 * 365 * 86_400),
    lookback=st.integers(1, 180 * 86_400),
    data=st.data(),
)
def test_windows_meet_and_are_short(start: int, length: int, lookback: int, data: st.DataObject) -> None:
    older_than = data.draw(st.integers(0, lookback - 1))
    windows = plan(Interval(start, start + length), Ages(lookback, older_than), SIX)
    assert windows[0].start == start - lookback
    if older_than:
        assert windows[-1].end == start + length - older_than
    else:
        assert windows[-1].end == start + length + 60 == start + length + CREATED_LATE
        assert start in {window.start for window in windows}
    for left, right in itertools.pairwise(windows):
        assert left.end == right.start
    assert all(0 < window.end - window.start <= LONGEST_WINDOW < SIX_MONTHS for window in windows)


def test_channels_have_equal_windows() -> None:
    interval = Interval(10**9, 10**9 + 86_400)
    mail = plan(interval, Ages(100 * 86_400), SIX)
    both = plan(interval, Ages(100 * 86_400), resolve_collections([*DEFAULT_COLLECTIONS, "SMS Sent", "SMS Failed"]))
    assert sorted(both) == sorted([*mail, *(window._replace(channel="twilio") for window in mail)])


def test_no_window_before_time_began() -> None:
    assert plan(Interval(50, 60), Ages(100), SIX) == [Window("email", 0, 50), Window("email", 50, 120)]


def test_query_bounds_are_inclusive() -> None:
    query = {"type": "email", "start_ts": 5, "end_ts": 9, "limit": 1000}
    assert query_of(Window("email", 5, 10)) == query
    assert query_of(Window("email", 5, 10, drafts=True), 50) == query | {"drafts": "true", "limit": 50}


def test_drafts_are_read_if_wanted() -> None:
    interval = Interval(10**9, 10**9 + 1)
    assert [window.drafts for window in plan(interval, AGES, SIX)] == [False, False]
    assert [window.drafts for window in plan(interval, AGES, resolve_collections(["Email Drafted"]))] == [
        *(True, True),
        *(False, False),
    ]
    wanted = resolve_collections(["Email Drafted", "Push Sent"])
    found = [(window.channel, window.drafts) for window in plan(interval, AGES, wanted)]
    assert sorted(set(found)) == [("email", False), ("email", True), ("push", False)]

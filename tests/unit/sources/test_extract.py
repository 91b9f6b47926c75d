from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cio.events.catalog import CATALOG, DEFAULT_COLLECTIONS, resolve_collections
from airflow_provider_cio.interval import Interval
from airflow_provider_cio.records import Delivery
from airflow_provider_cio.sources.deliveries import occurrences
from airflow_provider_cio.sources.windows import CREATED_LATE, LONGEST_WINDOW, plan

SIX = resolve_collections(DEFAULT_COLLECTIONS)
SIX_MONTHS = 181 * 86_400  # the shortest six months there are


@given(
    start=st.integers(10**9, 2 * 10**9),
    length=st.integers(1, 3 * 365 * 86_400),
    lookback=st.integers(0, 180 * 86_400),
)
def test_windows_meet_without_gap_or_overlap_and_stay_below_six_months(start: int, length: int, lookback: int) -> None:
    windows = plan(Interval(start, start + length), lookback, SIX)
    assert windows[0].start == start - lookback
    assert windows[-1].end == start + length + CREATED_LATE
    assert start in {window.start for window in windows}
    for left, right in itertools.pairwise(windows):
        assert left.end == right.start
    assert all(0 < window.end - window.start <= LONGEST_WINDOW < SIX_MONTHS for window in windows)


def test_drafts_are_read_only_where_their_collection_is_wanted_and_before_what_was_sent() -> None:
    interval = Interval(10**9, 10**9 + 1)
    assert [window.drafts for window in plan(interval, 0, SIX)] == [False]
    assert [window.drafts for window in plan(interval, 0, resolve_collections(["Email Drafted"]))] == [True, False]


def one(metrics: dict[str, Any], channel: str = "email") -> Delivery:
    return msgspec.convert({"id": "d", "type": channel, "created": 1, "metrics": metrics}, Delivery)


@given(st.dictionaries(st.sampled_from([c.metric for c in SIX]), st.integers(10**9, 10**9 + 20)), st.data())
def test_each_occurrence_is_inside_exactly_one_of_adjacent_intervals(
    metrics: dict[str, int], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(10**9 + 1, 10**9 + 20))))
    bounds = [10**9, *cuts, 10**9 + 21]
    found = [
        (collection.metric, time)
        for pair in itertools.pairwise(bounds)
        for _, collection, time, _, _ in occurrences([one(metrics)], SIX, Interval(*pair), Counter())
    ]
    assert sorted(found) == sorted(metrics.items())


def test_what_nobody_documented_is_ignored() -> None:
    skipped: Counter[str] = Counter()
    odd = one({"secondary:delivered": 1_700_000_000, "human_opened": 3, "prefetch_opened": {"a": 1}, "opened": None})
    assert list(occurrences([odd], SIX, Interval(10**9, 2 * 10**9), skipped)) == []
    assert skipped == {}


def test_only_what_has_no_collection_and_happened_inside_the_interval_is_counted_as_unknown() -> None:
    skipped: Counter[str] = Counter()
    metrics = ("created", "sent", "human_opened", "prefetch_clicked", "topic_unsubscribed", "exploded")
    page = [one(dict.fromkeys(metrics, 10**9 + second)) for second in (14, 15, 16)]
    assert list(occurrences(page, SIX, Interval(10**9 + 15, 10**9 + 16), skipped)) == []
    assert list(occurrences([one({"deferred": 10**9}, "push")], SIX, Interval(10**9, 10**9 + 1), skipped)) == []
    assert skipped == {"unknown_metric email.exploded": 1}


def test_a_wanted_metric_whose_value_is_no_time_is_counted() -> None:
    skipped: Counter[str] = Counter()
    odd = one({"opened": 3, "clicked": "soon", "delivered": True, "bounced": 1.7e9})
    assert list(occurrences([odd], SIX, Interval(10**9, 2 * 10**9), skipped)) == []
    assert skipped == {"not_a_time": 4}


def test_another_channel_is_no_e_mail() -> None:
    assert list(occurrences([one({"opened": 1_700_000_000}, "push")], SIX, Interval(10**9, 2 * 10**9), Counter())) == []


def test_bounds_are_half_open() -> None:
    opened = (CATALOG["Email Opened"],)
    at = {
        time: list(occurrences([one({"opened": time})], opened, Interval(1_700_000_000, 1_700_000_010), Counter()))
        for time in (1_699_999_999, 1_700_000_000, 1_700_000_009, 1_700_000_010)
    }
    assert [bool(found) for found in at.values()] == [False, True, True, False]

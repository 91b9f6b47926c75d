"""What is found in the rows of deliveries, and what becomes of odd ones."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cio.customerio.deliveries import occurrences, piece_of
from airflow_provider_cio.customerio.reader import Read
from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.events.catalog import CATALOG, DEFAULT_COLLECTIONS, resolve_collections
from airflow_provider_cio.events.interval import Interval, Window
from airflow_provider_cio.events.occurrence import Malformed, Piece

SIX = resolve_collections(DEFAULT_COLLECTIONS)


def one(metrics: dict[str, Any], channel: str = "email") -> Delivery:
    return msgspec.convert({"id": "d", "type": channel, "created": 1, "metrics": metrics}, Delivery)


@given(st.dictionaries(st.sampled_from([c.metric for c in SIX]), st.integers(10**9, 10**9 + 20)), st.data())
def test_each_occurrence_is_inside_exactly_one_of_adjacent_intervals(
    metrics: dict[str, int], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(10**9 + 1, 10**9 + 20))))
    bounds = [10**9, *cuts, 10**9 + 21]
    found = [
        (occurrence.collection.metric, occurrence.time)
        for pair in itertools.pairwise(bounds)
        for occurrence in occurrences([one(metrics)], SIX, Interval(*pair), Piece())
    ]
    assert sorted(found) == sorted(metrics.items())


def test_what_nobody_documented_is_ignored() -> None:
    piece = Piece()
    odd = one({"secondary:delivered": 1_700_000_000, "human_opened": 3, "prefetch_opened": {"a": 1}, "opened": None})
    assert list(occurrences([odd], SIX, Interval(10**9, 2 * 10**9), piece)) == []
    assert piece.skipped == {}


def test_only_what_has_no_collection_and_happened_inside_the_interval_is_counted_as_unknown() -> None:
    piece = Piece()
    metrics = ("created", "sent", "human_opened", "prefetch_clicked", "topic_unsubscribed", "exploded")
    page = [one(dict.fromkeys(metrics, 10**9 + second)) for second in (14, 15, 16)]
    assert list(occurrences(page, SIX, Interval(10**9 + 15, 10**9 + 16), piece)) == []
    assert list(occurrences([one({"deferred": 10**9}, "push")], SIX, Interval(10**9, 10**9 + 1), piece)) == []
    assert piece.skipped == {"unknown_metric": 1}


def test_a_wanted_metric_whose_value_is_no_time_is_counted() -> None:
    piece = Piece()
    odd = one({"opened": 3, "clicked": "soon", "delivered": True, "bounced": 1.7e9, "unsubscribed": 17 * 10**11})
    assert list(occurrences([odd], SIX, Interval(10**9, 2 * 10**9), piece)) == []
    assert piece.skipped == {"not_a_time": 5}


def test_another_channel_is_no_e_mail() -> None:
    assert list(occurrences([one({"opened": 1_700_000_000}, "push")], SIX, Interval(10**9, 2 * 10**9), Piece())) == []


def test_bounds_are_half_open() -> None:
    opened = (CATALOG["Email Opened"],)
    at = {
        time: list(occurrences([one({"opened": time})], opened, Interval(1_700_000_000, 1_700_000_010), Piece()))
        for time in (1_699_999_999, 1_700_000_000, 1_700_000_009, 1_700_000_010)
    }
    assert [bool(found) for found in at.values()] == [False, True, True, False]


# Pieces


@pytest.mark.parametrize("last", [False, True])
def test_a_piece_tells_of_its_page(last: bool) -> None:
    window = Window("email", 10**9, 10**9 + 100)
    read = Read([one({"sent": 10**9})] * 3, [Malformed(b"{}", "it", "a", 10**9)], window, last)
    piece = piece_of(read, Interval(10**9, 10**9 + 100))
    assert piece.read == {"deliveries": 4}
    assert (piece.window, piece.last) == (window, last)
    assert piece.skipped == {}


def test_an_odd_row_is_refused_by_the_interval_of_its_creation_and_skipped_by_others() -> None:
    interval = Interval(1000, 1100)
    rows = [Malformed(b"%d" % created, "it", f"{created}", created) for created in (999, 1000, 1099, 1100, 1130)]
    piece = piece_of(Read([], rows, Window("email", 900, 1160), False), interval)
    assert [row.id for row in piece.malformed] == ["1000", "1099"]
    assert piece.skipped == {"malformed": 3}


@pytest.mark.parametrize(("window", "own"), [((900, 1000), False), ((1000, 1160), True), ((1050, 1100), True)])
def test_an_undated_row_is_as_old_as_its_window(window: tuple[int, int], own: bool) -> None:
    undated = Malformed(b"null", "it")
    piece = piece_of(Read([], [undated], Window("email", *window), False), Interval(1000, 1100))
    assert piece.malformed == ([undated] if own else [])
    assert piece.skipped == ({} if own else {"malformed": 1})

"""Occurrences found in rows of deliveries, and the treatment of odd rows."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cio.customerio.deliveries import occurrences, piece_of, within_bounds
from airflow_provider_cio.customerio.reader import Read
from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.events.catalog import CATALOG, DEFAULT_COLLECTIONS, resolve_collections
from airflow_provider_cio.events.interval import Ages, Interval, Window
from airflow_provider_cio.events.occurrence import Engagement, Malformed, Piece

SIX = resolve_collections(DEFAULT_COLLECTIONS)
ANY_AGE = Ages(2 * 10**9)


def one(metrics: dict[str, Any], channel: str = "email") -> Delivery:
    return msgspec.convert({"id": "d", "type": channel, "created": 1, "metrics": metrics}, Delivery)


@given(st.dictionaries(st.sampled_from([c.metric for c in SIX]), st.integers(10**9, 10**9 + 20)), st.data())
def test_occurrence_is_in_one_interval(metrics: dict[str, int], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(10**9 + 1, 10**9 + 20))))
    bounds = [10**9, *cuts, 10**9 + 21]
    found = [
        (occurrence.collection.metric, occurrence.time)
        for pair in itertools.pairwise(bounds)
        for occurrence in occurrences([one(metrics)], SIX, Interval(*pair), ANY_AGE, Piece())
    ]
    assert sorted(found) == sorted(metrics.items())


@pytest.mark.parametrize("humans_only", [False, True])
def test_whole_float_is_a_time(humans_only: bool) -> None:
    piece, at = Piece(), Interval(1_750_000_000, 1_750_000_100)
    floats = [one({"opened": 1_750_000_001.0, "human_opened": 1_750_000_002.0, "sent": 1_750_000_003.0})]
    found = [
        (occurrence.collection.metric, occurrence.time)
        for occurrence in occurrences(floats, SIX, at, ANY_AGE, piece, humans_only=humans_only)
    ]
    assert found == [("opened", 1_750_000_002 if humans_only else 1_750_000_001)]
    assert all(type(time) is int for _, time in found)
    assert piece.skipped == ({"machine": 1} if humans_only else {})


def test_undocumented_metrics() -> None:
    piece = Piece()
    odd = one({"secondary:delivered": 1_700_000_000, "human_opened": 3, "prefetch_opened": {"a": 1}, "opened": None})
    assert occurrences([odd], SIX, Interval(10**9, 2 * 10**9), ANY_AGE, piece) == []
    assert piece.skipped == {}


def test_unknown_metrics_are_counted() -> None:
    piece = Piece()
    metrics = ("created", "sent", "human_opened", "prefetch_clicked", "topic_unsubscribed", "exploded")
    page = [one(dict.fromkeys(metrics, 10**9 + second)) for second in (14, 15, 16)]
    assert occurrences(page, SIX, Interval(10**9 + 15, 10**9 + 16), ANY_AGE, piece) == []
    assert occurrences([one({"deferred": 10**9}, "push")], SIX, Interval(10**9, 10**9 + 1), ANY_AGE, piece) == []
    assert piece.skipped == {"unknown_metric": 1}


def test_wanted_metric_without_a_time() -> None:
    piece = Piece()
    odd = {"opened": 3, "clicked": "soon", "delivered": True, "bounced": 1.7e9 + 0.5, "unsubscribed": 17 * 10**11}
    count_inside_the_interval = {"spammed": 10**9 - 1}
    page = [one(odd | count_inside_the_interval)]
    assert occurrences(page, SIX, Interval(978_307_200, 2 * 10**9), ANY_AGE, piece) == []
    assert piece.skipped == {"not_a_time": 6}


def test_other_channel_is_not_email() -> None:
    assert occurrences([one({"opened": 1_700_000_000}, "push")], SIX, WIDE, ANY_AGE, Piece()) == []


def test_bounds_are_half_open() -> None:
    opened = (CATALOG["Email Opened"],)
    at = {
        time: occurrences([one({"opened": time})], opened, Interval(T, T + 10), ANY_AGE, Piece())
        for time in (T - 1, T, T + 9, T + 10)
    }
    assert [bool(found) for found in at.values()] == [False, True, True, False]


# Keys that tell more of another metric

T, H, D = 1_800_000_000, 1_800_000_500, CATALOG
WIDE = Interval(10**9, 2 * 10**9)


@pytest.mark.parametrize(
    "key", ["human_opened", "prefetch_clicked", "machine_clicked", "link:7", "human_link:7", "secondary:bounced"]
)
def test_what_repeats_a_metric_is_not_unknown(key: str) -> None:
    piece = Piece()
    assert occurrences([one({key: T})], (D["Email Sent"],), WIDE, ANY_AGE, piece) == []
    assert piece.skipped == {}
    assert piece.unknown == set()


def test_five_unknown_metrics_are_named() -> None:
    piece = Piece()
    page = [
        one({f"boom{n} ana@example.com\n{'x' * 999}": T for n in range(20)}, channel) for channel in ("email", "push")
    ]
    collections = (D["Email Sent"], D["Push Sent"])
    assert occurrences(page, collections, WIDE, ANY_AGE, piece) == []
    assert piece.skipped == {"unknown_metric": 40}
    assert len(piece.unknown) == 5
    for name in piece.unknown:
        assert name.startswith("email.boom")
        assert "ana@" not in name
        assert "\n" not in name
        assert len(name) < 400


@pytest.mark.parametrize(
    ("metrics", "prefetched", "machine", "link_id"),
    [
        ({"opened": T}, None, None, None),
        ({"opened": T, "human_opened": T}, None, None, None),
        ({"opened": T, "prefetch_opened": T}, True, None, None),
        ({"opened": T, "prefetch_opened": T, "human_opened": H}, True, None, None),
        ({"opened": T, "prefetch_opened": T, "human_opened": T}, None, None, None),
        ({"opened": T, "prefetch_opened": H, "human_opened": T}, None, None, None),
        ({"opened": T, "machine_opened": T}, None, True, None),
        ({"clicked": T, "link:7": T}, None, None, 7),
        ({"clicked": T, "link:7": H, "link:8": T}, None, None, 8),
        ({"clicked": T, "link:7": T, "link:8": T}, None, None, None),  # a scanner's, on all links at once
        ({"clicked": T, "human_clicked": T, "link:7": T, "link:8": T, "human_link:8": T}, None, None, 8),
        ({"clicked": T, "human_clicked": T, "link:7": T}, None, None, 7),
        ({"clicked": T, "prefetch_clicked": T, "human_clicked": H, "link:7": T}, None, True, 7),
        ({"clicked": T, "machine_clicked": T, "link:7": T, "human_link:8": T}, None, True, 7),
        ({"clicked": T, "machine_clicked": T, "human_clicked": T}, None, None, None),
        ({"opened": T, "link:7": T}, None, None, None),
        ({"clicked": T, "link:": T, "link:7": "x", "prefetch_clicked": True}, None, None, None),
    ],
)
def test_what_the_list_tells_of_a_first_one(
    metrics: dict[str, Any], prefetched: bool | None, machine: bool | None, link_id: int | None
) -> None:
    collections = (D["Email Opened"], D["Email Link Clicked"])
    (found,) = occurrences([one(metrics)], collections, WIDE, ANY_AGE, Piece())
    told = found.engagement or Engagement()
    assert (told.prefetched, told.machine, told.link_id) == (prefetched, machine, link_id)
    assert (found.time, found.key, found.first_human) == (T, None, False)


# The first one that a person made

BEFORE = {"opened": 1_742_428_799, "clicked": 1_745_107_199}  # the last seconds of 2025-03-19 and 2025-04-19


@pytest.mark.parametrize("metric", ["opened", "clicked"])
@pytest.mark.parametrize(
    ("channel", "recent", "keys", "found", "skipped", "not_recorded"),
    [
        # by a person from the first on: it is the first one
        ("email", True, {"": T, "human": T}, (T, False), 0, 0),
        ("email", False, {"": T, "human": T}, (T, False), 0, 0),
        ("email", True, {"": T, "human": T, "prefetch": T}, (T, False), 0, 0),
        # by a person later, or not at all
        ("email", True, {"": T, "human": H, "prefetch": T}, (H, True), 1, 0),
        ("push", True, {"": T, "human": H}, (H, True), 1, 0),
        ("email", False, {"": T, "human": H}, (H, True), 1, 0),
        ("email", True, {"human": H}, (H, True), 0, 0),
        ("email", True, {"": T}, None, 1, 0),
        ("email", True, {"": T, "prefetch": T}, None, 1, 0),
        ("email", False, {"": T, "machine": T}, None, 1, 0),
        ("push", True, {"": T, "prefetch": T}, None, 1, 0),
        # nobody knows
        ("email", False, {"": T}, (T, False), 0, 1),
        ("email", True, {"": T, "human": 3}, (T, False), 0, 1),
        ("push", True, {"": T}, (T, False), 0, 0),
        ("whatsapp", False, {"": T}, (T, False), 0, 0),
        # nothing happened
        ("email", False, {}, None, 0, 0),
    ],
)
def test_the_first_that_a_person_made(
    metric: str,
    channel: str,
    recent: bool,
    keys: dict[str, Any],
    found: tuple[int, bool] | None,
    skipped: int,
    not_recorded: int,
) -> None:
    collection = next(each for each in D.values() if (each.channel, each.metric) == (channel, metric))
    metrics = {f"{by}_{metric}" if by else metric: time for by, time in keys.items()}
    delivery = one(metrics, channel)
    delivery.created = BEFORE[metric] + recent
    piece = Piece()
    got = occurrences([delivery], (collection, D["Email Sent"]), WIDE, ANY_AGE, piece, humans_only=True)
    assert [(each.time, each.first_human) for each in got] == ([found] if found else [])
    assert all(each.key is None for each in got)
    assert piece.skipped["machine"] == skipped
    assert piece.read["human_not_recorded"] == not_recorded
    assert [each.counted_as for each in got] == ([f"human_{metric}" if found[1] else metric] if found else [])


def test_each_is_counted_by_the_interval_of_its_time() -> None:
    delivery = one({"opened": T, "prefetch_opened": T, "human_opened": H})
    delivery.created = T - 1
    for interval, times, skipped in (
        (Interval(T, T + 1), [], 1),
        (Interval(T + 1, H), [], 0),
        (Interval(H, H + 1), [H], 0),
    ):
        piece = Piece()
        found = occurrences([delivery], (D["Email Opened"],), interval, ANY_AGE, piece, humans_only=True)
        assert [each.time for each in found] == times
        assert piece.skipped["machine"] == skipped


# Pieces


@pytest.mark.parametrize("last", [False, True])
def test_piece_describes_its_page(last: bool) -> None:
    window = Window("email", 10**9, 10**9 + 100)
    read = Read([one({"sent": 10**9})] * 3, [Malformed(b"{}", "it", "a", 10**9)], window, last)
    piece = piece_of(read, Interval(10**9, 10**9 + 100), ANY_AGE)
    assert piece.read == {"deliveries": 4}
    assert (piece.window, piece.last) == (window, last)
    assert piece.skipped == {}


def test_malformed_row_of_another_interval() -> None:
    interval = Interval(1000, 1100)
    rows = [Malformed(b"%d" % created, "it", f"{created}", created) for created in (999, 1000, 1099, 1100, 1130)]
    piece = piece_of(Read([], rows, Window("email", 900, 1160), False), interval, ANY_AGE)
    assert [row.id for row in piece.malformed] == ["1000", "1099"]
    assert piece.skipped == {"malformed": 3}


def test_older_than_leaves_malformed_rows_alone() -> None:
    """The run without `older_than` refuses malformed rows, wherever they are read."""
    rows = [Malformed(b"%d" % created, "it", f"{created}", created) for created in (999, 1000, 1099)]
    rows.append(Malformed(b"null", "it"))
    piece = piece_of(Read([], rows, Window("email", 900, 1099), False), Interval(1000, 1100), Ages(100, 1))
    assert (piece.malformed, piece.skipped) == ([], {"malformed": 4})


@pytest.mark.parametrize(("window", "own"), [((900, 1000), False), ((1000, 1160), True), ((1050, 1100), True)])
def test_undated_row_is_dated_by_its_window(window: tuple[int, int], own: bool) -> None:
    undated = Malformed(b"null", "it")
    piece = piece_of(Read([], [undated], Window("email", *window), False), Interval(1000, 1100), ANY_AGE)
    assert piece.malformed == ([undated] if own else [])
    assert piece.skipped == ({} if own else {"malformed": 1})


def test_rows_outside_the_bounds_are_left_out() -> None:
    rows = [msgspec.structs.replace(one({"sent": T}), created=created) for created in (899, 900, 999, 1000)]
    malformed = [Malformed(b"{}", "it", None, created) for created in (899, 900, 1000, None)]
    read, outside = within_bounds(Read(rows, malformed, Window("email", 900, 1000), False))
    assert [row.created for row in read.deliveries] == [900, 999]
    assert [row.created for row in read.malformed] == [900, None]
    assert outside == 4
    assert piece_of(read, Interval(0, 1), ANY_AGE, outside).read == {"deliveries": 4, "out_of_bounds": 4}

"""Cut windows without a server: a list of creation times is read as the reader would read it."""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from random import Random
from statistics import mean, median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.customerio.paging import MAX_IDLE_PAGES, Chain, Paging, is_newest_first
from airflow_provider_cio.events.interval import Window
from airflow_provider_cio.exceptions import TryAgainLaterError

SPAN = 2000  # seconds, of most lists here
WHOLE = Window("email", 0, SPAN)
DRAFTS = WHOLE._replace(drafts=True)

Order = Callable[[list["Row"]], list["Row"]]
#: A creation time and a number that no other row has.
Row = tuple[int, int]


def chance(number: int) -> int:
    return number * 2_654_435_761 % 2**32 >> 8


def newest(rows: list[Row]) -> list[Row]:
    return sorted(rows, reverse=True)


def shuffled(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: chance(row[1]))


def displaced(rows: list[Row]) -> list[Row]:
    """Move each twentieth row to the place of a row created a while earlier or later."""
    return sorted(rows, key=lambda row: row[0] + (row[1] % 20 == 0) * (chance(row[1]) % 120 - 60), reverse=True)


ORDERS: dict[str, Order] = {"newest": newest, "oldest": sorted, "shuffled": shuffled, "displaced": displaced}


@dataclass
class Listing:
    """List whose cursors are positions in its current state. Beyond its end it begins anew.

    :param between: is called before each answer, and may change `rows`.
    """

    rows: list[Row]
    page_size: int = 10
    order: Order = newest
    between: Callable[[list[Row]], None] = lambda _: None
    always_names_next: bool = False
    served: int | None = None  # rows of a page, if they are fewer than asked for

    def page(self, query: dict[str, Any]) -> tuple[list[Row], str | None]:
        self.between(self.rows)
        listed = self.order([row for row in self.rows if query["start_ts"] <= row[0] <= query["end_ts"]])
        place = int(query.get("start", 0))
        if place >= len(listed) and not self.always_names_next:
            place = 0
        stop = place + (self.served or self.page_size)
        found = listed[place:stop]
        return found, str(stop) if stop < len(listed) or (self.always_names_next and found) else None


@dataclass
class Played:
    """Result: the rows of each window that was passed on, the windows that ended, each query."""

    rows: dict[Window, list[Row]] = field(default_factory=lambda: defaultdict(list))
    ended: list[Window] = field(default_factory=list)
    queries: list[dict[str, Any]] = field(default_factory=list)

    def every_row(self) -> list[Row]:
        return [row for rows in self.rows.values() for row in rows]


def play(listing: Listing, windows: Sequence[Window], slots: int = 4, seed: int = 1) -> Played:
    """Read windows with this many requests in flight, which are answered in any order."""
    dice, played, paging = Random(seed), Played(), Paging(windows, listing.page_size)
    held: dict[Chain, list[Row]] = {}
    flight: list[Chain] = []
    while True:
        while len(flight) < slots and (chain := paging.next()):
            flight.append(chain)
        if not flight:
            assert not held
            return played
        chain = flight.pop(dice.randrange(len(flight)))
        played.queries.append(chain.query)
        rows, cursor = listing.page(chain.query)
        was_final = chain.is_final
        if not paging.take(chain, [created for created, _ in rows], len(rows), cursor, progress=bool(rows)):
            assert not was_final, "nothing that was passed on is thrown away"
            held.pop(chain, None)
            continue
        held[chain] = held.get(chain, []) + rows
        if chain.is_final:
            played.rows[chain.window] += held.pop(chain)
        if chain.has_ended:
            played.ended.append(chain.window)


def joined(windows: Sequence[Window]) -> list[Window]:
    """Join windows that meet into one; none may overlap another."""
    whole: list[Window] = []
    for window in sorted(windows, key=lambda window: window.start):
        assert window.start < window.end
        if whole:
            assert whole[-1].end <= window.start
        if whole and whole[-1].end == window.start:
            whole[-1] = whole[-1]._replace(end=window.end)
        else:
            whole.append(window)
    return whole


@st.composite
def histories(draw: st.DrawFn) -> list[Row]:
    """Draw rows within a few thousand seconds: spread, within one second, and in bursts."""
    times: list[int] = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, 150))
        start = draw(st.integers(0, SPAN - 1))
        span = draw(st.sampled_from([1, 2, 3, 5, 40, SPAN]))
        dice = draw(st.randoms(use_true_random=False))
        times += [min(start + dice.randrange(span), SPAN - 1) for _ in range(count)]
    return [(created, number) for number, created in enumerate(times)]


def most_requests(rows: int, page_size: int) -> int:
    """Return a generous bound, which a reader that asks for each second breaks."""
    return 20 + 3 * (rows // page_size + 1)


SLOTS = st.sampled_from([1, 3, 12])
SIZES = st.sampled_from([5, 10, 40])


@settings(max_examples=300)
@given(rows=histories(), cut=st.integers(1, SPAN - 1), order=st.sampled_from(list(ORDERS)), size=SIZES, slots=SLOTS)
def test_each_row_is_passed_on_once(rows: list[Row], cut: int, order: str, size: int, slots: int) -> None:
    windows = [WHOLE._replace(end=cut), WHOLE._replace(start=cut)]
    played = play(Listing(rows, size, ORDERS[order]), windows, slots)
    assert Counter(played.every_row()) == Counter(rows)
    assert all(window.start <= row[0] < window.end for window, found in played.rows.items() for row in found)
    assert joined(played.ended) == [WHOLE]
    assert set(played.rows) == set(played.ended)
    assert len(played.queries) <= most_requests(len(rows), size)


@settings(max_examples=200)
@given(
    rows=histories(), order=st.sampled_from(["newest", "displaced"]), size=SIZES, slots=SLOTS, each=st.integers(1, 4)
)
def test_growing_list_loses_no_row(rows: list[Row], order: str, size: int, slots: int, each: int) -> None:
    numbers = itertools.count(len(rows))
    later = [100]  # answers after which nothing arrives any more

    def arrive(listed: list[Row]) -> None:
        later[0] -= 1
        if later[0] > 0:
            listed += [(SPAN - 1, next(numbers)) for _ in range(min(each, size - 1))]

    played = play(Listing(list(rows), size, ORDERS[order], arrive), [WHOLE], slots)
    windows = {row: [window for window, found in played.rows.items() if row in found] for row in played.every_row()}
    assert set(rows) <= set(windows)
    assert all(len(found) == 1 for found in windows.values())
    assert joined(played.ended) == [WHOLE]


@settings(max_examples=300)
@given(rows=histories(), order=st.sampled_from(list(ORDERS)), size=SIZES, slots=SLOTS, each=st.integers(0, 5))
def test_shrinking_drafts_lose_no_row(rows: list[Row], order: str, size: int, slots: int, each: int) -> None:
    """No second has more rows than fit into one answer, because a second can't be cut."""
    by_second = itertools.groupby(sorted(rows), key=lambda row: row[0])
    rows = [row for _, of_second in by_second for row in itertools.islice(of_second, size)]
    dice = Random(len(rows))

    def leave(listed: list[Row]) -> None:
        for _ in range(min(each, len(listed))):
            listed.pop(dice.randrange(len(listed)))

    listing = Listing(list(rows), size, ORDERS[order], leave)
    played = play(listing, [DRAFTS], slots)
    found = Counter(played.every_row())
    assert set(found.values()) <= {1}
    assert set(listing.rows) <= set(found) <= set(rows)
    assert joined(played.ended) == [DRAFTS]
    assert not any("start" in query for query in played.queries)


@pytest.mark.parametrize("served", [4, 7])
def test_short_pages_of_drafts(served: int) -> None:
    """A page that is not full may be the last one, so its cursor is followed; but no window has rows of two answers."""

    def leave(listed: list[Row]) -> None:
        listed.pop(dice.randrange(len(listed)))

    dice = Random(served)
    rows = [(number * 10, number) for number in range(200)]
    listing = Listing(list(rows), between=leave, served=served)
    played = play(listing, [DRAFTS])
    assert set(listing.rows) <= set(played.every_row()) <= set(rows)
    assert max(map(len, played.rows.values())) <= served
    assert joined(played.ended) == [DRAFTS]


def test_drafts_need_few_requests() -> None:
    dice = Random(3)
    rows = [(dice.randrange(100 * SPAN), number) for number in range(10_000)]
    window = DRAFTS._replace(end=100 * SPAN)
    assert len(play(Listing(rows, 100), [window]).queries) <= 150  # of 100 pages
    assert len(play(Listing(rows, 100, shuffled), [window]).queries) <= 300


def test_drafts_of_one_second() -> None:
    rows = [(700, number) for number in range(55)]
    played = play(Listing(rows), [DRAFTS])
    assert Counter(played.every_row()) == Counter(rows)
    assert {query["start_ts"] for query in played.queries if "start" in query} == {700}


def test_endless_drafts() -> None:
    rows = [(number * 10, number) for number in range(95)]
    played = play(Listing(rows, always_names_next=True), [DRAFTS])
    assert Counter(played.every_row()) == Counter(rows)
    assert len(played.queries) <= 45  # two for each window, and those that were thrown away


def test_shrunken_list_is_read_again() -> None:
    """The cursor is beyond the end, so the list begins anew and names its second page again."""

    def leave(listed: list[Row]) -> None:
        if calls.popleft() == 3:
            del listed[:25]

    calls = deque(range(1, 100))
    rows = [(700, number) for number in range(45)]
    with pytest.raises(TryAgainLaterError, match="same next page twice"):
        play(Listing(rows, between=leave), [Window("email", 700, 701)])


def test_any_order_needs_few_requests() -> None:
    rows = [(number * 7 % SPAN, number) for number in range(6000)]
    asked = {name: len(play(Listing(rows, 50, order), [WHOLE]).queries) for name, order in ORDERS.items()}
    assert max(asked.values()) <= 1.1 * asked["newest"]


def test_each_list_has_its_own_density() -> None:
    """A dense list and one that is nearly empty, which needs one request."""
    dense = [(number // 10, number) for number in range(10 * SPAN)]
    paging = Paging([WHOLE, WHOLE._replace(channel="push")], 100)
    asked: Counter[str] = Counter()
    while chain := paging.next():
        asked[chain.window.channel] += 1
        listing = Listing(dense if chain.window.channel == "push" else [], 100)
        rows, cursor = listing.page(chain.query)
        paging.take(chain, [created for created, _ in rows], len(rows), cursor, progress=bool(rows))
    assert asked["email"] == 1
    assert asked["push"] <= 230


# Requests and time, by the shape of a history

DAY = 86_400
SHAPES = {
    "even": (1, 600, 0.0),
    "one burst": (1, 600, 1.0),
    "half in a burst": (1, 600, 0.5),
    "3 newsletters": (3, 600, 0.8),
    "10 newsletters": (10, 600, 0.8),
    "30 newsletters": (30, 600, 0.8),
    "30 of an hour": (30, 3600, 0.8),
}


def history(count: int, bursts: int, seconds: int, share: float, seed: int) -> list[int]:
    """Draw creation times within 31 days, a share of them in bursts of this many seconds."""
    dice = Random(seed)
    starts = [dice.randrange(31 * DAY - seconds) for _ in range(bursts)]
    return sorted(
        dice.choice(starts) + dice.randrange(seconds) if dice.random() < share else dice.randrange(31 * DAY)
        for _ in range(count)
    )


def timed(times: Sequence[int], seed: int, latency: float = 0.3) -> tuple[int, float]:
    """Return requests and seconds, at ten requests in any 1.03 seconds."""
    dice, paging = Random(seed), Paging([Window("email", 0, 30 * DAY), Window("email", 30 * DAY, 31 * DAY)])
    grants: deque[float] = deque([-9.0] * 10, 10)
    flight: list[tuple[float, int, Chain]] = []
    now, requests = 0.0, 0
    while True:
        while len(flight) < ceil(10 * latency) + 1 and (chain := paging.next()):
            requests += 1
            grants.append(max(now, grants[0] + 1.03))
            heapq.heappush(flight, (grants[-1] + latency + dice.random() * 0.02, requests, chain))
        if not flight:
            return requests, now
        now, _, chain = heapq.heappop(flight)
        low, high = (bisect_left(times, bound) for bound in (chain.window.start, chain.window.end))
        stop = high - chain.pages * 1000
        page = times[max(low, stop - 1000) : stop][::-1]
        paging.take(chain, page, len(page), str(chain.pages) if stop - 1000 > low else None, progress=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("count", "most_requests", "longest"), [(50_000, 1.45, 1.9), (200_000, 1.25, 1.9)])
def test_shapes(shape: str, count: int, most_requests: float, longest: float) -> None:
    played = [timed(history(count, *SHAPES[shape], seed), seed) for seed in (1, 2, 3)]
    assert median(requests for requests, _ in played) <= most_requests * count / 1000
    assert median(seconds for _, seconds in played) <= (1.2 if shape == "even" else longest) * count / 10_000


def test_estimates_get_better_and_no_window_is_last_alone() -> None:
    """Without either, the means are 1.10 and 1.18, or 1.09 and 1.17."""
    played = [timed(history(50_000, *SHAPES["even"], seed), seed) for seed in range(1, 11)]
    assert mean(requests for requests, _ in played) <= 1.09 * 50
    assert mean(seconds for _, seconds in played) <= 1.16 * 5


def test_long_burst_needs_few_requests() -> None:
    requests, seconds = timed(history(500_000, *SHAPES["one burst"], seed=1), seed=1)
    assert requests <= 1.15 * 500
    assert seconds <= 1.2 * 50


# Bad ends


def begun(window: Window = WHOLE) -> tuple[Paging, Chain]:
    paging = Paging([window], 50)
    chain = paging.next()
    assert chain
    assert paging.next() is None
    return paging, chain


@pytest.mark.parametrize("between", [0, 1, 30])
def test_repeated_cursor(between: int) -> None:
    paging, chain = begun()
    for cursor in ["a", *map(str, range(between))]:
        assert paging.take(chain, [5], 1, cursor, progress=True)
        assert paging.next() is chain
        assert chain.query["start"] == cursor
    with pytest.raises(TryAgainLaterError, match="same next page twice"):
        paging.take(chain, [5], 1, "a", progress=True)


@pytest.mark.parametrize(("times", "rows"), [([], 0), ([], 1), ([5], 1)], ids=["empty", "malformed", "repeated"])
def test_pages_without_a_new_row_have_an_end(times: list[int], rows: int) -> None:
    paging, chain = begun()
    cursor = map(str, itertools.count())
    for _ in range(3):
        for _ in range(MAX_IDLE_PAGES):
            assert paging.take(chain, times, rows, next(cursor), progress=False)
        assert paging.take(chain, [], 1, next(cursor), progress=True)
    for _ in range(MAX_IDLE_PAGES):
        assert paging.take(chain, times, rows, next(cursor), progress=False)
    with pytest.raises(TryAgainLaterError, match="sent no new row in 50 pages: the list would never end"):
        paging.take(chain, times, rows, next(cursor), progress=False)


def test_malformed_page_tells_nothing() -> None:
    """Only 20 of 50 rows have a time: too few to decide where to cut."""
    paging, chain = begun()
    assert paging.take(chain, list(range(SPAN - 1, SPAN - 21, -1)), 50, "2", progress=True)
    assert chain.is_final


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (list(range(100, 0, -1)), True),
        ([7] * 50, True),
        (list(range(100)), False),
        (Random(3).sample(range(1000), 500), False),
        ([50, *range(100, 0, -1)], True),
    ],
)
def test_newest_first(times: list[int], expected: bool) -> None:
    assert is_newest_first(times) is expected

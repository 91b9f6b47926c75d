"""What is asked next, without a server: an API simulated over creation times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.customerio import schedule
from airflow_provider_cio.customerio.schedule import Chain, Schedule, is_newest_first
from airflow_provider_cio.events.interval import Window
from airflow_provider_cio.exceptions import TryAgainLaterError

PAGE = 50
SPAN = 100_000
ORDERS = ("newest", "nearly", "oldest", "shuffled")


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "PAGE_SIZE", PAGE)
        yield


def play(
    times: list[int], windows: list[Window], order: str, seed: int, slots: int
) -> tuple[list[int], list[Window], int]:
    """Rows of windows that were read to their end, those windows, and the number of requests."""
    random = Random(seed)
    schedule = Schedule(windows)
    rows: dict[int, list[int]] = {}
    finished: list[Window] = []
    found: list[int] = []
    in_flight: list[Chain] = []
    requests = 0
    while True:
        while len(in_flight) < slots and (chain := schedule.next()):
            in_flight.append(chain)
        if not in_flight:
            return found, finished, requests
        requests += 1
        chain = in_flight.pop(random.randrange(len(in_flight)))
        window = chain.window
        listed = sorted((time for time in times if window.start <= time < window.end), reverse=True)
        if order == "oldest":
            listed.reverse()
        elif order == "nearly":
            moved = Random(len(times))
            listed.sort(key=lambda time: -time - (moved.randrange(600) if moved.random() < 0.05 else 0))
        elif order == "shuffled":
            Random(f"{window}").shuffle(listed)
        at = chain.read * PAGE
        page = listed[at : at + PAGE]
        cursor = f"{at + PAGE}" if at + PAGE < len(listed) else None
        if chain.read == 0:
            rows.pop(id(chain), None)
        if schedule.take(chain, page, cursor):
            rows.setdefault(id(chain), []).extend(page)
            if cursor is None:
                found += rows.pop(id(chain))
                finished.append(window)
        elif passed_on := rows.pop(id(chain), None):
            # All of it is in the window that goes on with its part, and so with its counts.
            (heir,) = [one for one in schedule._chains if one.part == chain.part]
            assert heir.window.start <= min(passed_on)
            assert heir.window.end == window.end


@st.composite
def histories(draw: st.DrawFn) -> list[int]:
    times: list[int] = []
    for _ in range(draw(st.integers(1, 3))):
        span = draw(st.sampled_from([1, 30, 2000, SPAN]))
        start = draw(st.integers(0, SPAN - span))
        random = Random(draw(st.integers(0, 99)))
        times += [start + random.randrange(span) for _ in range(draw(st.integers(0, 1500)))]
    return times


@settings(max_examples=60)
@given(
    times=histories(),
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 99),
    slots=st.sampled_from([1, 3, 5, 12]),
    cut=st.integers(1, SPAN - 1),
)
def test_each_row_is_in_one_finished_window_and_those_are_the_planned_ones(
    times: list[int], order: str, seed: int, slots: int, cut: int
) -> None:
    windows = [Window("email", 0, cut), Window("email", cut, SPAN)]
    found, finished, requests = play(times, windows, order, seed, slots)
    assert sorted(found) == sorted(times)
    finished.sort(key=lambda window: window.start)
    assert finished[0].start == 0
    assert finished[-1].end == SPAN
    assert all(left.end == right.start for left, right in itertools.pairwise(finished))
    pages = len(times) / PAGE
    assert requests <= 1.7 * pages + 20


@settings(max_examples=60)
@given(times=histories(), seed=st.integers(0, 99), slots=st.sampled_from([1, 3, 5, 12]))
def test_another_order_costs_hardly_more_requests_than_newest_first(times: list[int], seed: int, slots: int) -> None:
    asked = {order: play(times, [Window("email", 0, SPAN)], order, seed, slots)[2] for order in ORDERS}
    assert max(asked.values()) <= 1.1 * asked["newest"] + 12, asked


def test_a_page_of_one_second_does_not_get_a_list_cut_that_is_oldest_first() -> None:
    times = [20_000 + number for number in range(4 * PAGE)] + [30_000] * 20 * PAGE + [40_000] * 20 * PAGE
    assert play(times, [Window("email", 0, SPAN)], "oldest", 1, 5)[2] == 44


def test_an_even_list_costs_few_requests_more_than_it_has_pages() -> None:
    random = Random(1)
    times = [random.randrange(SPAN) for _ in range(200 * PAGE)]
    _, finished, requests = play(times, [Window("email", 0, SPAN)], "newest", 1, 5)
    assert 200 <= requests <= 260
    assert len(finished) > 20


def start(window: Window = Window("email", 0, SPAN)) -> tuple[Schedule, Chain]:  # noqa: B008
    one = Schedule([window])
    chain = one.next()
    assert chain
    assert one.next() is None
    return one, chain


@pytest.mark.parametrize("between", [0, 1, 30])
def test_a_cursor_that_comes_again_is_left_to_a_retry(between: int) -> None:
    one, chain = start()
    for cursor in ["a", *map(str, range(between))]:
        assert one.take(chain, [5], cursor)
        assert one.next() is chain
        assert chain.query["start"] == cursor
    with pytest.raises(TryAgainLaterError, match="same next page twice"):
        one.take(chain, [5], "a")


def test_empty_pages_without_end_are_left_to_a_retry_but_not_those_between_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "MAX_EMPTY_PAGES", 5)
    one, chain = start()
    cursor = map(str, itertools.count())
    for page, odd in (([5], 0), ([], 1), ([5], 0)):  # a page of odd rows is not empty
        for _ in range(5):
            assert one.take(chain, [], next(cursor))
        assert one.take(chain, page, next(cursor), odd)
    for _ in range(5):
        one.take(chain, [], next(cursor))
    with pytest.raises(TryAgainLaterError, match="empty pages"):
        one.take(chain, [], next(cursor))


def test_a_chain_that_is_cut_has_its_cursor_no_more_and_keeps_its_part() -> None:
    """Its first three pages are of one quiet time; then comes a burst."""
    one, chain = start()
    for number in range(3):
        top = SPAN - 1 - number * 1000
        assert one.take(chain, [top - 20 * row for row in range(10)], f"{number}")
        assert one.next() is chain
    burst = [SPAN - 5000 - row for row in range(PAGE)]
    assert not one.take(chain, burst, "3")
    anew = [again for _ in range(4) if (again := one.next())]
    assert all("start" not in again.query for again in anew)
    (seen,) = [again.window for again in anew if again.part == chain.part]
    assert seen.end == SPAN
    assert burst[-1] <= seen.start <= burst[PAGE // 2]
    assert len({again.part for again in anew}) == len(anew)


def test_few_windows_are_open_at_a_time() -> None:
    random = Random(1)
    times = [random.randrange(SPAN) for _ in range(300 * PAGE)]
    one = Schedule([Window("email", 0, SPAN)])
    opened: set[int] = set()
    while (chain := one.next()) and len(opened) < 100:
        opened.add(id(chain))
        page = sorted((time for time in times if chain.window.start <= time < chain.window.end), reverse=True)
        at = chain.read * PAGE
        one.take(chain, page[at : at + PAGE], str(at) if at + PAGE < len(page) else None)
        assert len(one._chains) <= schedule.MOST_OPEN + schedule.EXPLORING


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
def test_what_counts_as_newest_first(times: list[int], expected: bool) -> None:
    assert is_newest_first(times) is expected

"""The parallel reader: each delivery once, each window once, whatever the history and the order of answers."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from airflow_provider_cio.clients.customerio import Page
from airflow_provider_cio.clients.transport import ClosedError
from airflow_provider_cio.exceptions import UnexpectedDataError
from airflow_provider_cio.records import Delivery
from airflow_provider_cio.sources import reader as reading
from airflow_provider_cio.sources import windows as extract
from airflow_provider_cio.sources.reader import MAX_IN_FLIGHT, Piece, Reader, _Chain, _share
from airflow_provider_cio.sources.windows import Window
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.unit.support import DAY, NOVEMBER, clients

SPAN = 2000  # seconds, of most histories here


@pytest.fixture(scope="module")
def world() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(world: Sandbox) -> Sandbox:
    world.settings = Settings()
    world.reset()
    return world


def rows(times: Sequence[int], **fields: Any) -> list[dict[str, Any]]:
    """One delivery at each of these times, the newest last."""
    shared = {"type": "email", "metrics": {"sent": NOVEMBER}} | fields
    return [{"id": f"{number}@{time}", "created": time} | shared for number, time in enumerate(sorted(times))]


def read(
    sandbox: Sandbox, windows: Sequence[Window], page_size: int = 10, in_flight: int = MAX_IN_FLIGHT
) -> list[Piece]:
    """What a reader makes of these windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract, "PAGE_SIZE", page_size)
        patch.setattr(reading, "MAX_IN_FLIGHT", in_flight)
        source, _ = clients(sandbox)
        with source, Reader(source) as reader:
            return list(reader.pieces(windows))


def assert_read_once(sandbox: Sandbox, windows: Sequence[Window], pieces: Sequence[Piece]) -> None:
    """Each delivery of the windows once and no other, and the finished windows are the planned ones, in pieces."""
    found = Counter(delivery.id for piece in pieces for delivery in piece.deliveries)
    wanted = Counter(
        one.id
        for one in sandbox.history.deliveries
        for window in windows
        if window.start <= one.created < window.end and one.channel == window.channel and one.draft == window.drafts
    )
    assert found == wanted
    assert joined([piece.finished for piece in pieces if piece.finished]) == joined(windows)


def joined(windows: Sequence[Window]) -> list[Window]:
    """Windows that meet as one; none may be empty or overlap another."""
    whole: list[Window] = []
    for window in sorted(windows, key=lambda window: (window.channel, window.drafts, window.start)):
        assert window.start < window.end
        last = whole[-1] if whole else None
        if last and (last.channel, last.drafts, last.end) == (window.channel, window.drafts, window.start):
            whole[-1] = last._replace(end=window.end)
            continue
        overlap = last and (last.channel, last.drafts) == (window.channel, window.drafts) and window.start < last.end
        assert not overlap
        whole.append(window)
    return whole


def assert_no_empty_range_was_asked(sandbox: Sandbox) -> None:
    for asked in sandbox.customerio.requests:
        assert int(asked.params["start_ts"]) <= int(asked.params["end_ts"])


@st.composite
def histories(draw: st.DrawFn) -> list[int]:
    """Creation times within a few thousand seconds: spread, within one second, and in bursts."""
    times: list[int] = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, 80))
        start = NOVEMBER + draw(st.integers(0, SPAN - 1))
        span = draw(st.sampled_from([1, 2, 3, 5, 40, SPAN]))
        rng = draw(st.randoms(use_true_random=False))
        times += [min(start + rng.randrange(span), NOVEMBER + SPAN - 1) for _ in range(count)]
    return times


@st.composite
def windows(draw: st.DrawFn, times: Sequence[int]) -> list[Window]:
    """Adjacent windows over the history, cut anywhere, also at the very second of a delivery."""
    cuts = st.integers(NOVEMBER + 1, NOVEMBER + SPAN - 1)
    inside = [time for time in times if time > NOVEMBER]
    bounds = draw(st.sets(st.one_of(cuts, st.sampled_from(inside)) if inside else cuts, max_size=3))
    return [
        Window("email", start, end) for start, end in itertools.pairwise([NOVEMBER, *sorted(bounds), NOVEMBER + SPAN])
    ]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    times=histories(),
    page_size=st.integers(5, 20),
    in_flight=st.sampled_from([1, 2, 5, MAX_IN_FLIGHT]),
    latency=st.sampled_from([0.0, 0.0, 0.002]),
    empty_page_every=st.sampled_from([0, 0, 1, 3]),
    trailing_page=st.booleans(),
    data=st.data(),
)
def test_each_delivery_is_found_exactly_once(
    world: Sandbox,
    times: list[int],
    page_size: int,
    in_flight: int,
    latency: float,
    empty_page_every: int,
    trailing_page: bool,
    data: st.DataObject,
) -> None:
    world.settings = Settings(latency=latency, empty_page_every=empty_page_every, trailing_page=trailing_page)
    world.history = History(deliveries=rows(times))
    world.reset()
    planned = data.draw(windows(times))
    assert_read_once(world, planned, read(world, planned, page_size, in_flight))
    assert_no_empty_range_was_asked(world)


@pytest.mark.parametrize(
    "times",
    [
        pytest.param([NOVEMBER + n * SPAN // 600 for n in range(600)], id="even"),
        pytest.param([NOVEMBER + 700] * 300, id="all in one second"),
        pytest.param([NOVEMBER + 700 + n // 150 for n in range(600)], id="a burst of four seconds"),
        pytest.param([NOVEMBER + 700 + n // 5 for n in range(600)], id="a burst of two minutes"),
        pytest.param([NOVEMBER + (n % 4) * 500 + n // 60 for n in range(600)], id="four bursts"),
        pytest.param([NOVEMBER + SPAN - 1] * 100 + [NOVEMBER] * 100, id="at both ends"),
    ],
)
@pytest.mark.parametrize("latency", [0.0, 0.005])
def test_a_dense_window_is_read_by_several_chains_at_little_extra_cost(
    sandbox: Sandbox, times: list[int], latency: float
) -> None:
    sandbox.settings = Settings(latency=latency)
    sandbox.history = History(deliveries=rows(times))
    whole = [Window("email", NOVEMBER, NOVEMBER + SPAN)]
    assert_read_once(sandbox, whole, read(sandbox, whole))
    assert_no_empty_range_was_asked(sandbox)
    pages = -(-len(times) // 10)
    assert len(sandbox.customerio.requests) <= 2 * pages + 2 * MAX_IN_FLIGHT
    spans = {(asked.params["start_ts"], asked.params["end_ts"]) for asked in sandbox.customerio.requests}
    if len(set(times)) > 100:
        assert len(spans) > 4


def test_no_more_requests_are_in_flight_than_keep_the_rate_busy(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(latency=0.02)
    sandbox.history = History(deliveries=rows([NOVEMBER + n * SPAN // 600 for n in range(600)]))
    for limit in (3, MAX_IN_FLIGHT):
        sandbox.reset()
        read(sandbox, [Window("email", NOVEMBER, NOVEMBER + SPAN)], 10, limit)
        assert 1 < most_at_once(sandbox) <= limit


def most_at_once(sandbox: Sandbox) -> int:
    asked = [(one.time, one.time + one.seconds) for one in sandbox.customerio.requests]
    return max(sum(begin <= moment < end for begin, end in asked) for moment, _ in asked)


# Newest first may not hold


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(times=histories(), page_size=st.integers(8, 20), order=st.sampled_from(["oldest", "shuffled"]), data=st.data())
def test_another_order_is_read_to_its_end(
    world: Sandbox, times: list[int], page_size: int, order: Any, data: st.DataObject
) -> None:
    """Where the first page of a window shows it. (A first page that is in order by chance is beyond help.)"""
    world.settings = Settings(order=order)
    world.history = History(deliveries=rows(times))
    planned = data.draw(windows(times))
    if order == "shuffled":
        assume(all(shows_disorder(world, window, page_size) for window in planned))
    world.reset()
    assert_read_once(world, planned, read(world, planned, page_size))


def shows_disorder(sandbox: Sandbox, window: Window, page_size: int) -> bool:
    source, _ = clients(sandbox)
    with source:
        page = source.page(window.query() | {"limit": page_size})
    created = [delivery.created for delivery in page.messages or ()]
    return not page.next or any(earlier < later for earlier, later in itertools.pairwise(created))


def test_a_window_out_of_order_is_not_cut(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(order="shuffled")
    sandbox.history = History(deliveries=rows([NOVEMBER + n * SPAN // 600 for n in range(600)]))
    whole = [Window("email", NOVEMBER, NOVEMBER + SPAN)]
    assert_read_once(sandbox, whole, read(sandbox, whole))
    assert len(sandbox.customerio.requests) == 60
    assert len({asked.params["start_ts"] for asked in sandbox.customerio.requests}) == 1


def test_a_window_out_of_order_is_not_finished_before_its_end(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(order="shuffled")
    sandbox.history = History(deliveries=rows([NOVEMBER + n * SPAN // 600 for n in range(600)]))
    whole = Window("email", NOVEMBER, NOVEMBER + SPAN)
    finished = [piece.finished for piece in read(sandbox, [whole])]
    assert finished == [None] * 59 + [whole]


# Drafts


def drafts_and_sent() -> History:
    times = [NOVEMBER + n * SPAN // 300 for n in range(300)]
    drafted = rows(times[::3], metrics={"created": NOVEMBER, "drafted": NOVEMBER})
    return History(deliveries=[one | {"id": f"draft {one['id']}"} for one in drafted] + rows(times))


@pytest.mark.parametrize("wording", ["instead", "both"])
def test_windows_of_drafts_end_before_any_other_begins(sandbox: Sandbox, wording: Any) -> None:
    sandbox.settings = Settings(latency=0.003, drafts_wording=wording)
    sandbox.history = drafts_and_sent()
    half = NOVEMBER + SPAN // 2
    planned = [
        Window("email", start, end, drafts)
        for start, end in ((NOVEMBER, half), (half, NOVEMBER + SPAN))
        for drafts in (False, True)
    ]
    pieces = read(sandbox, planned)
    assert_read_once(sandbox, planned, pieces)
    asked = sandbox.customerio.requests
    drafts_end = max(one.time + one.seconds for one in asked if "drafts" in one.params)
    assert drafts_end <= min(one.time for one in asked if "drafts" not in one.params)
    finished = [piece.finished.drafts for piece in pieces if piece.finished]
    assert finished == sorted(finished, reverse=True)


# A chain by itself


def page(*times: int, following: str | None = "more") -> Page:
    return Page([msgspec.convert(row, Delivery) for row in reversed(rows(times))], following)


def test_a_chain_tells_with_each_page_what_is_read_whole_and_ends_where_its_list_does() -> None:
    chain = _Chain(Window("email", 0, 100))
    assert [one.created for one in chain.take(page(90, 95), "it")] == [95, 90]
    assert chain.finished == Window("email", 91, 100)  # more may come of the second of the last
    assert chain.query["start"] == "more"
    chain.take(page(90, 90, following="b"), "it")
    assert chain.finished is None
    assert not chain.ended
    chain.take(page(50, following=None), "it")
    assert chain.finished == Window("email", 0, 91)
    assert chain.ended


@pytest.mark.parametrize("end", ["", None])
def test_an_empty_page_is_no_end_but_a_missing_next_is(end: str | None) -> None:
    chain = _Chain(Window("email", 0, 100))
    assert not chain.take(Page(None, "more"), "it")
    assert not chain.ended
    assert chain.finished is None
    assert not chain.take(Page([], end), "it")
    assert chain.ended
    assert chain.finished == Window("email", 0, 100)


def test_a_cursor_that_repeats_is_an_error_even_much_later() -> None:
    chain = _Chain(Window("email", 0, 100))
    for following in ("a", "b", "c"):
        chain.take(page(50, following=following), "it")
    with pytest.raises(UnexpectedDataError, match="it named the same next page twice"):
        chain.take(page(50, following="a"), "it")


def test_empty_pages_without_end_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_EMPTY_PAGES", 5)
    chain = _Chain(Window("email", 0, 100))
    numbers = itertools.count()
    for _ in range(3):  # a page with deliveries begins the count anew
        for _ in range(5):
            chain.take(Page([], f"{next(numbers)}"), "it")
        chain.take(page(50, following=f"{next(numbers)}"), "it")
    for _ in range(5):
        chain.take(Page([], f"{next(numbers)}"), "it")
    with pytest.raises(UnexpectedDataError, match="it sent 5 empty pages in a row"):
        chain.take(Page([], f"{next(numbers)}"), "it")


def test_a_chain_that_was_cut_yields_only_its_part_and_ends_there() -> None:
    chain = _Chain(Window("email", 0, 1000))
    chain.take(page(980, 990, 999), "it")
    rest = chain.cut(2)
    assert (rest.query["start_ts"], rest.query["end_ts"]) == (0, chain.start - 1)
    assert "start" not in rest.query
    bound = chain.start
    found = chain.take(page(bound - 2, bound - 1, bound, bound, bound + 1, following="b"), "it")
    assert [one.created for one in found] == [bound + 1, bound, bound]
    assert chain.ended
    assert chain.finished == Window("email", bound, 981)
    rest.take(page(3, following=None), "it")
    assert rest.ended
    assert rest.finished == Window("email", 0, bound)


def test_a_chain_that_was_cut_goes_on_past_its_part_where_the_order_breaks() -> None:
    chain = _Chain(Window("email", 0, 1000))
    chain.take(page(980, 990, 999, following="a"), "it")
    chain.cut(2)
    bound = chain.start
    assert chain.take(page(bound + 5, 991, following="b"), "it")  # 991 is newer than what came last
    assert chain.finished is None
    assert not chain.take(page(1, 2, following="c"), "it")
    assert not chain.ended
    assert chain.finished is None
    assert chain.left() == 0
    found = chain.take(page(bound, following=None), "it")
    assert [one.created for one in found] == [bound]
    assert chain.ended
    assert chain.finished == Window("email", bound, 981)


@given(
    start=st.integers(0, 50),
    length=st.integers(1, 5000),
    pages=st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=4), min_size=1, max_size=3),
    wanted=st.integers(1, 15),
)
def test_what_is_cut_is_neither_empty_nor_lost(start: int, length: int, pages: list[list[int]], wanted: int) -> None:
    """Whatever was seen of a window: its pieces cover it, and each has at least a second."""
    window = Window("email", start, start + length)
    chain = _Chain(window)
    last = window.end - 1
    for number, steps in enumerate(pages):
        times = []
        for step in steps:
            last = max(window.start, last - step)
            times.append(last)
        chain.take(page(*times, following=f"{number}"), "it")
    chains = [chain]
    _share(chains, wanted)
    assert len(chains) <= max(1, wanted)
    bounds = sorted((one.start, int(one.query["end_ts"]) + 1) for one in chains)
    assert all(begin < end for begin, end in bounds)
    assert [begin for begin, _ in bounds] == [window.start] + [end for _, end in bounds[:-1]]
    assert bounds[-1] == (chain.start, window.end)
    assert all(int(one.query["start_ts"]) <= one.start for one in chains)


# Ends


@pytest.mark.parametrize("leave", ["raise", "break"])
def test_an_exception_in_the_consumer_ends_the_requests_in_flight_at_once(sandbox: Sandbox, leave: str) -> None:
    sandbox.history = History(deliveries=rows([NOVEMBER + n * SPAN // 600 for n in range(600)]))
    hold = 3.0 if leave == "raise" else 0.2
    sandbox.faults.add(Fault(side="customerio", kind="timeout", at=4, times=10_000, seconds=hold))
    source, _ = clients(sandbox)
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract, "PAGE_SIZE", 10)
        if leave == "raise":
            with pytest.raises(ZeroDivisionError), source, Reader(source) as reader:  # noqa: PT012
                for number, _ in enumerate(reader.pieces([Window("email", NOVEMBER, NOVEMBER + SPAN)])):
                    _ = 1 // (2 - number)
            with pytest.raises(ClosedError):
                source.page({})
        else:
            with source, Reader(source) as reader:
                for _ in reader.pieces([Window("email", NOVEMBER, NOVEMBER + SPAN)]):
                    break
    assert time.monotonic() - began < 2.0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("customerio")]
    time.sleep(0.1)  # what was on its way may still arrive
    assert len(sandbox.customerio.requests) <= 4 + MAX_IN_FLIGHT


def test_a_request_that_fails_ends_the_others(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=rows([NOVEMBER + n * SPAN // 600 for n in range(600)]))
    sandbox.faults.add(
        Fault(side="customerio", kind="timeout", at=3, times=2, seconds=3.0),
        Fault(side="customerio", kind="401", at=5, times=10_000),
    )
    began = time.monotonic()
    with pytest.raises(Exception, match="answered 401"):
        read(sandbox, [Window("email", NOVEMBER, NOVEMBER + SPAN)])
    assert time.monotonic() - began < 2.0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("customerio")]


def test_windows_longer_than_the_api_allows_are_still_whole(sandbox: Sandbox) -> None:
    """Half a year in two windows, each of them cut as it proves dense."""
    times = [NOVEMBER - 170 * DAY + n * DAY // 3 for n in range(510)]
    sandbox.settings = Settings(now=NOVEMBER + 30 * DAY)
    sandbox.history = History(deliveries=rows(times))
    planned = [
        Window("email", NOVEMBER - 170 * DAY, NOVEMBER - 85 * DAY),
        Window("email", NOVEMBER - 85 * DAY, NOVEMBER),
    ]
    assert_read_once(sandbox, planned, read(sandbox, planned))

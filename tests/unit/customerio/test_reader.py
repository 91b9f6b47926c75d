"""The parallel reader against the sandbox: each delivery once, each window to its end, whatever the list is like."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.customerio import reader as reading
from airflow_provider_cio.customerio import schedule
from airflow_provider_cio.customerio import windows as extract
from airflow_provider_cio.customerio.client import CustomerIOClient, Page
from airflow_provider_cio.customerio.reader import MAX_REQUESTS, Read, Reader
from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.events.interval import Window
from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.http.transport import ClosedError
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.unit.support import DAY, NOVEMBER, clients

SPAN = 2000  # seconds, of most histories here
WHOLE = Window("email", NOVEMBER, NOVEMBER + SPAN)


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


def read(sandbox: Sandbox, windows: Sequence[Window], page_size: int = 10, in_flight: int = MAX_REQUESTS) -> list[Read]:
    """What a reader makes of these windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract, "PAGE_SIZE", page_size)
        patch.setattr(schedule, "PAGE_SIZE", page_size)
        patch.setattr(reading, "MAX_REQUESTS", in_flight)
        client, _ = clients(sandbox)
        with client, Reader(client) as reader:
            return list(reader.deliveries(windows))


def assert_read_once(sandbox: Sandbox, windows: Sequence[Window], reads: Sequence[Read]) -> None:
    """Each delivery of the windows once and no other, and the windows read to their ends are the planned ones."""
    found = Counter(delivery.id for read in reads for delivery in read.deliveries)
    wanted = Counter(
        one.id
        for one in sandbox.history.deliveries
        for window in windows
        if window.start <= one.created < window.end and one.channel == window.channel and one.draft == window.drafts
    )
    assert found == wanted
    assert joined([read.window for read in reads if read.last]) == joined(windows)


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


ODD = st.fixed_dictionaries(
    {
        "order": st.sampled_from(["newest", "nearly", "oldest", "shuffled"]),
        "displaced": st.sampled_from([0.01, 0.3, 1.0]),
        "displaced_by": st.sampled_from([1, 60, 3600]),
        "repeated_rows": st.sampled_from([0, 1, 7]),
        "cursors": st.sampled_from(["stable", "offset"]),
        "cursors_bound": st.booleans(),
        "null_when_empty": st.booleans(),
        "empty_page_every": st.sampled_from([0, 1, 3]),
        "last_next": st.sampled_from(["empty", "null", "absent"]),
        "trailing_page": st.booleans(),
        "latency": st.sampled_from([0.0, 0.001]),
    }
)


@settings(max_examples=120)
@given(times=histories(), data=st.data(), odd=ODD, page_size=st.sampled_from([5, 10, 40]))
def test_every_delivery_is_read_once_whatever_the_list_is_like(
    world: Sandbox, times: list[int], data: st.DataObject, odd: dict[str, Any], page_size: int
) -> None:
    world.settings = Settings(**odd)
    world.reset()
    world.history = History(deliveries=rows(times))
    planned = data.draw(windows(times))
    reads = read(world, planned, page_size, data.draw(st.sampled_from([1, 3, 12])))
    assert_read_once(world, planned, reads)
    assert all(asked.status == 200 for asked in world.customerio.requests)
    for asked in world.customerio.requests:
        assert int(asked.params["start_ts"]) <= int(asked.params["end_ts"])


@pytest.mark.parametrize("order", ["newest", "nearly", "shuffled"])
def test_pages_out_of_order_are_counted(sandbox: Sandbox, order: Any) -> None:
    sandbox.history = History(deliveries=rows(range(NOVEMBER, NOVEMBER + 200)))
    sandbox.settings = Settings(order=order, displaced=0.2, displaced_by=50)
    client, _ = clients(sandbox)
    with client, Reader(client) as reader:
        list(reader.deliveries([WHOLE]))
        assert bool(reader.out_of_order) == (order != "newest")


def test_a_burst_within_a_quiet_time_is_cut_and_each_delivery_passed_on_once(sandbox: Sandbox) -> None:
    """It shows in mid-chain, when pages of the window have been passed on already."""
    quiet = range(NOVEMBER, NOVEMBER + SPAN, 10)
    burst = [NOVEMBER + 900 + number % 60 for number in range(2000)]
    sandbox.history = History(deliveries=rows([*quiet, *burst]))
    reads = read(sandbox, [WHOLE], page_size=20)
    assert_read_once(sandbox, [WHOLE], reads)
    assert len({read.window for read in reads}) > 5
    ends = Counter(read.part for read in reads if read.last)
    assert set(ends.values()) == {1}
    assert {read.part for read in reads} == set(ends)  # what was passed on before the cut belongs to a window that ends


def test_drafts_end_before_any_other_window_begins(sandbox: Sandbox) -> None:
    sandbox.history = History.generate(seed=1, deliveries=300, drafts=0.3, channels=("email",), longest_lag=DAY)
    window = Window("email", NOVEMBER, NOVEMBER + 5 * DAY)
    reads = read(sandbox, [window, window._replace(drafts=True)], page_size=20)
    assert_read_once(sandbox, [window, window._replace(drafts=True)], reads)
    drafts = [read.window.drafts for read in reads]
    assert drafts == sorted(drafts, reverse=True)


def test_requests_in_any_order_are_as_many_as_in_exact_order(sandbox: Sandbox) -> None:
    times = [NOVEMBER + number % SPAN for number in range(0, 40_000, 7)]
    sandbox.history = History(deliveries=rows(times))
    asked = {}
    for order in ("newest", "nearly", "oldest", "shuffled"):
        sandbox.settings = Settings(order=order, displaced=0.05, displaced_by=30)
        sandbox.reset()
        read(sandbox, [WHOLE], page_size=50)
        asked[order] = len(sandbox.customerio.requests)
    assert max(asked.values()) <= 1.1 * asked["newest"] + 2


# Odd rows


@pytest.mark.parametrize("order", ["newest", "shuffled"])
def test_odd_rows_are_passed_on_once_whatever_is_met_twice_or_asked_anew(sandbox: Sandbox, order: Any) -> None:
    quiet = range(NOVEMBER, NOVEMBER + SPAN, 10)
    burst = [NOVEMBER + 900 + number % 60 for number in range(2000)]
    listed = rows([*quiet, *burst])
    odd = {row["id"]: "delivery.subject:number" for row in listed[::7]}
    sandbox.history = History(deliveries=listed)
    sandbox.settings = Settings(odd_rows=odd, repeated_rows=3, order=order)
    reads = read(sandbox, [WHOLE], page_size=20)
    created = {row["id"]: row["created"] for row in listed}
    malformed = [row for read in reads for row in read.malformed]
    assert Counter(row.id for row in malformed) == Counter(list(odd))
    assert all(row.created == created[row.id] and b'"subject":7' in row.raw for row in malformed if row.id)
    good = Counter(delivery.id for read in reads for delivery in read.deliveries)
    assert good == Counter(created.keys() - odd)


def test_rows_without_id_and_date_are_passed_on_with_the_window_of_their_page(sandbox: Sandbox) -> None:
    """Two that look the same are two, since nobody can tell."""
    listed = rows(range(NOVEMBER, NOVEMBER + SPAN, 50))
    sandbox.history = History(deliveries=listed)
    sandbox.settings = Settings(odd_rows={row["id"]: "delivery:null" for row in (*listed[3:6], *listed[30:32])})
    halves = [WHOLE._replace(end=NOVEMBER + SPAN // 2), WHOLE._replace(start=NOVEMBER + SPAN // 2)]
    reads = read(sandbox, halves)
    found = Counter((read.window, row.raw, row.id, row.created) for read in reads for row in read.malformed)
    assert found == {(halves[0], b"null", None, None): 3, (halves[1], b"null", None, None): 2}


def test_pages_of_nothing_but_odd_rows_are_no_empty_pages(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "MAX_EMPTY_PAGES", 3)
    sandbox.history = History(deliveries=rows(range(NOVEMBER, NOVEMBER + 100)))
    sandbox.settings = Settings(odd_deliveries=1.0, odd_kinds=("delivery:null",))
    assert sum(len(read.malformed) for read in read(sandbox, [WHOLE])) == 100


# What does not end well


def test_a_repeated_cursor_is_left_to_a_retry(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=rows([NOVEMBER] * 40))
    sandbox.faults.add(Fault(side="customerio", kind="repeat_cursor", at=1, times=10))
    with pytest.raises(TryAgainLaterError, match="same next page twice"):
        read(sandbox, [WHOLE])


def test_empty_pages_without_end_are_left_to_a_retry(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(CustomerIOClient):
        count = 0

        def page(self, query: Any) -> Page[Delivery]:
            self.count += 1
            return Page((), (), str(self.count))

    monkeypatch.setattr(schedule, "MAX_EMPTY_PAGES", 50)
    with Endless("key") as client, pytest.raises(TryAgainLaterError, match="empty pages"), Reader(client) as reader:
        list(reader.deliveries([WHOLE]))
    assert 50 <= client.count <= 53


def test_a_cursor_that_has_expired_is_left_to_a_retry(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=rows([NOVEMBER] * 40))
    sandbox.settings = Settings(cursor_lifetime=0.0)
    with pytest.raises(TryAgainLaterError, match="cursor is no longer valid"):
        read(sandbox, [WHOLE])
    assert [asked.status for asked in sandbox.customerio.requests] == [200, 400]


def test_a_refused_cursor_in_mid_list_is_left_to_a_retry(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=rows([NOVEMBER] * 40))
    sandbox.faults.add(Fault(side="customerio", kind="400", at=3))
    with pytest.raises(TryAgainLaterError, match="cursor is no longer valid"):
        read(sandbox, [WHOLE])


def test_a_request_that_fails_ends_the_others(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=rows(range(NOVEMBER, NOVEMBER + SPAN)))
    sandbox.faults.add(
        Fault(side="customerio", kind="timeout", at=3, times=2, seconds=3.0),
        Fault(side="customerio", kind="401", at=5, times=10_000),
    )
    began = time.monotonic()
    with pytest.raises(ConfigurationError, match="401"):
        read(sandbox, [WHOLE, Window("push", NOVEMBER, NOVEMBER + SPAN)])
    assert time.monotonic() - began < 2.0


def test_a_consumer_that_stops_early_waits_for_no_more_than_what_is_in_flight(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "PAGE_SIZE", 10)
    monkeypatch.setattr(schedule, "PAGE_SIZE", 10)
    sandbox.history = History(deliveries=rows(range(NOVEMBER, NOVEMBER + SPAN)))
    client, _ = clients(sandbox)
    with client, Reader(client) as reader:
        for _ in reader.deliveries([WHOLE]):
            break
    assert len(sandbox.customerio.requests) <= 2 + 2 * MAX_REQUESTS  # of 200 pages
    assert not any(thread.is_alive() for thread in reader.pool._threads)


def test_an_error_closes_the_client_and_waits_for_no_request(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=rows([NOVEMBER] * 40))
    sandbox.faults.add(Fault(side="customerio", kind="timeout", at=1, times=10, seconds=2.0))
    client, _ = clients(sandbox)
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError), Reader(client) as reader:  # noqa: PT012
        for _ in reader.deliveries([WHOLE, Window("push", NOVEMBER, NOVEMBER + SPAN)]):
            _ = 1 // 0
    assert time.monotonic() - began < 1.5
    with pytest.raises(ClosedError):
        client.page(WHOLE.query())


# Memory


def test_nothing_but_a_few_ids_is_kept_of_what_was_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page is made when it is asked for, so only what the reader keeps can add up."""
    monkeypatch.setattr("airflow_provider_cio.customerio.reader._REMEMBERED", 1000)

    class Endless(CustomerIOClient):
        def page(self, query: Any) -> Page[Delivery]:
            number = int(query.get("start", 0))
            start, end = int(query["start_ts"]), int(query["end_ts"]) + 1
            size = max(1, (end - start) // 100)
            page = [
                Delivery(f"{start} {number} {row} {'x' * 200}", "email", end - 1 - number * size, {"sent": 1})
                for row in range(1000)
            ]
            return Page(page, (), str(number + 1) if number < 99 else None)

    tracemalloc.start()
    held = []
    with Endless("key") as client, Reader(client) as reader:
        for count, _ in enumerate(reader.deliveries([Window("email", NOVEMBER, NOVEMBER + 100 * DAY)])):
            if count in (20, 95):
                held.append(tracemalloc.get_traced_memory()[0])
            if count > 95:
                break
    tracemalloc.stop()
    assert held[1] - held[0] < 12 * 2**20  # 75 pages of 1,000 such rows have 40 MB

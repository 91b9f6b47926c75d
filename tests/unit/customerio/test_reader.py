"""The parallel reader against the sandbox: each delivery once, each window to its end, whatever the list is like."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.customerio import listing
from airflow_provider_cio.customerio import reader as reading
from airflow_provider_cio.customerio.client import CustomerIOClient, Page
from airflow_provider_cio.customerio.paging import HELD, MAX_IDLE_PAGES, OPEN
from airflow_provider_cio.customerio.reader import MAX_REQUESTS, Read, Reader
from airflow_provider_cio.customerio.rows import Activity, Delivery
from airflow_provider_cio.customerio.windows import query_of
from airflow_provider_cio.events.interval import Interval, Window
from airflow_provider_cio.events.occurrence import Malformed
from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.http.errors import ClosedError
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.unit.support import DAY, NOVEMBER, clients, requests_have_ended

SPAN = 2000  # seconds, of most histories here
WHOLE = Window("email", NOVEMBER, NOVEMBER + SPAN)


def rows(times: Sequence[int], **fields: Any) -> list[dict[str, Any]]:
    """Return one delivery for each of these times, the newest last."""
    shared = {"type": "email", "metrics": {"sent": NOVEMBER}} | fields
    return [{"id": f"{number}@{time}", "created": time} | shared for number, time in enumerate(sorted(times))]


def read(sandbox: Sandbox, windows: Sequence[Window], page_size: int = 10, in_flight: int = MAX_REQUESTS) -> list[Read]:
    """Return all that a reader yields for these windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MAX_REQUESTS", in_flight)
        with Reader(clients(sandbox)[0], page_size=page_size) as reader:
            return list(reader.deliveries(windows))


def assert_read_once(sandbox: Sandbox, windows: Sequence[Window], reads: Sequence[Read]) -> None:
    """Assert that exactly the deliveries of the windows were read, each once, and all planned windows finished."""
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
    """Join windows that meet into one; assert that none is empty or overlaps another."""
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
    """Draw creation times within a few thousand seconds: spread, within one second, and in bursts."""
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
    """Draw adjacent windows over the history, cut anywhere, also at the very second of a delivery."""
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
def test_each_delivery_is_read_once(
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
def test_pages_out_of_order(sandbox: Sandbox, order: Any) -> None:
    sandbox.history = History(deliveries=rows(range(NOVEMBER, NOVEMBER + 200)))
    sandbox.settings = Settings(order=order, displaced=0.2, displaced_by=50)
    with Reader(clients(sandbox)[0]) as reader:
        list(reader.deliveries([WHOLE]))
        assert bool(reader.counts()["out_of_order"]) == (order != "newest")


def test_burst_in_a_quiet_time(sandbox: Sandbox) -> None:
    """A burst shows only when pages of its window have been read already."""
    quiet = range(NOVEMBER, NOVEMBER + SPAN, 10)
    burst = [NOVEMBER + 900 + number % 60 for number in range(2000)]
    sandbox.history = History(deliveries=rows([*quiet, *burst]))
    reads = read(sandbox, [WHOLE], page_size=20)
    assert_read_once(sandbox, [WHOLE], reads)
    assert len({read.window for read in reads}) > 5
    assert Counter(read.window for read in reads if read.last) == Counter({read.window for read in reads})


def test_drafts_come_first(sandbox: Sandbox) -> None:
    sandbox.history = History.generate(seed=1, deliveries=300, drafts=0.3, channels=("email",), longest_lag=DAY)
    window = Window("email", NOVEMBER, NOVEMBER + 5 * DAY)
    reads = read(sandbox, [window, window._replace(drafts=True)], page_size=20)
    assert_read_once(sandbox, [window, window._replace(drafts=True)], reads)
    drafts = [read.window.drafts for read in reads]
    assert drafts == sorted(drafts, reverse=True)


# Malformed rows


@pytest.mark.parametrize("order", ["newest", "shuffled"])
def test_malformed_rows_come_once(sandbox: Sandbox, order: Any) -> None:
    quiet = range(NOVEMBER, NOVEMBER + SPAN, 10)
    burst = [NOVEMBER + 900 + number % 60 for number in range(2000)]
    listed = rows([*quiet, *burst])
    odd = {row["id"]: "delivery.metrics:number" for row in listed[::7]}
    sandbox.history = History(deliveries=listed)
    sandbox.settings = Settings(odd_rows=odd, repeated_rows=3, order=order)
    reads = read(sandbox, [WHOLE], page_size=20)
    created = {row["id"]: row["created"] for row in listed}
    malformed = [row for read in reads for row in read.malformed]
    assert Counter(row.id for row in malformed) == Counter(list(odd))
    assert all(row.created == created[row.id] and b'"metrics":7' in row.raw for row in malformed if row.id)
    good = Counter(delivery.id for read in reads for delivery in read.deliveries)
    assert good == Counter(created.keys() - odd)


def test_rows_without_id_and_date(sandbox: Sandbox) -> None:
    """Two rows that look the same count as two, because nothing tells them apart."""
    listed = rows(range(NOVEMBER, NOVEMBER + SPAN, 50))
    sandbox.history = History(deliveries=listed)
    sandbox.settings = Settings(odd_rows={row["id"]: "delivery:null" for row in (*listed[3:6], *listed[30:32])})
    halves = [WHOLE._replace(end=NOVEMBER + SPAN // 2), WHOLE._replace(start=NOVEMBER + SPAN // 2)]
    reads = read(sandbox, halves)
    found = Counter((read.window, row.raw, row.id, row.created) for read in reads for row in read.malformed)
    assert found == {(halves[0], b"null", None, None): 3, (halves[1], b"null", None, None): 2}


def test_malformed_rows_only(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=rows(range(NOVEMBER, NOVEMBER + 100)))
    sandbox.settings = Settings(odd_deliveries=1.0, odd_kinds=("delivery:null",))
    assert sum(len(read.malformed) for read in read(sandbox, [WHOLE])) == 100


# Bad ends


def test_repeated_cursor(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=rows([NOVEMBER] * 40))
    sandbox.faults.add(Fault(side="customerio", kind="repeat_cursor", at=1, times=10))
    with pytest.raises(TryAgainLaterError, match="same next page twice"):
        read(sandbox, [WHOLE])


def delivery(name: str, created: int) -> Delivery:
    return Delivery(id=name, type="email", created=created, metrics={})


#: Pages that go on for ever, by number: each names a next page that none has named before.
ENDLESS: dict[str, Callable[[int], tuple[list[Delivery], list[Malformed]]]] = {
    "empty": lambda number: ([], []),
    "same row": lambda number: ([delivery("a", NOVEMBER)], []),
    "two pages in turn": lambda number: ([delivery(str(number % 2), NOVEMBER)], []),
    "out of bounds": lambda number: ([delivery(str(number), NOVEMBER - 1 - number)], []),
    "malformed": lambda number: ([], [Malformed(b"null", "no object")]),
    "malformed, out of bounds": lambda number: ([], [Malformed(b"%d" % number, "", str(number), NOVEMBER - 1)]),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_pages_without_a_new_row_have_an_end(kind: str) -> None:
    class Endless(CustomerIOClient):
        count = 0

        def page(self, query: Any) -> Page[Delivery]:
            self.count += 1
            assert self.count < 200
            return Page(*ENDLESS[kind](self.count), str(self.count))

    client = Endless("key")
    with pytest.raises(TryAgainLaterError, match="no new row in 50 pages"), Reader(client) as reader:
        list(reader.deliveries([WHOLE]))
    assert MAX_IDLE_PAGES < client.count <= MAX_IDLE_PAGES + 3


def test_repeated_activities_have_an_end() -> None:
    """An empty page in between changes nothing."""

    class Endless(CustomerIOClient):
        count = 0

        def activity_page(self, query: Any) -> Page[Activity]:
            self.count += 1
            assert self.count < 200
            found = [Activity(id=str(self.count % 2), timestamp=NOVEMBER)] if self.count % 3 else []
            return Page(found, (), str(self.count))

    client = Endless("key")
    match = "no new row of opened_email in 50 pages: the list would never end"
    with pytest.raises(TryAgainLaterError, match=match), Reader(client) as reader:
        list(reader.activities(["opened_email"], NOVEMBER))
    assert MAX_IDLE_PAGES < client.count <= MAX_IDLE_PAGES + 3


def test_new_rows_for_ever_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page has a row that is new and inside the bounds, and names a page that none has named before."""

    class Endless(CustomerIOClient):
        count = 0

        def page(self, query: Any) -> Page[Delivery]:
            self.count += 1
            assert self.count < 200
            return Page([delivery(str(self.count), NOVEMBER + self.count)], (), str(self.count))

        def activity_page(self, query: Any) -> Page[Activity]:
            self.count += 1
            assert self.count < 200
            return Page([Activity(id=str(self.count), timestamp=NOVEMBER)], (), str(self.count))

    monkeypatch.setattr(reading, "MAX_PAGES", 100)
    match = "sent more than 100 pages: the list would never end"
    with pytest.raises(TryAgainLaterError, match=match), Reader(Endless("key")) as reader:
        list(reader.deliveries([WHOLE]))
    with pytest.raises(TryAgainLaterError, match=match), Reader(Endless("key")) as reader:
        list(reader.activities(["opened_email"], NOVEMBER))


def test_long_ids_and_cursors_do_not_stay() -> None:
    """200 pages with a megabyte each. The pages of one window that may still be cut are held, and no more."""
    long = "x" * 2**20

    class Long(CustomerIOClient):
        count = 0

        def page(self, query: Any) -> Page[Delivery]:
            self.count += 1
            name = f"{self.count}{long}"
            malformed = [Malformed(b"", "", f"m{name}", NOVEMBER)]
            return Page([delivery(name, NOVEMBER)], malformed, name if self.count < 200 else None)

        def activity_page(self, query: Any) -> Page[Activity]:
            self.count += 1
            name = f"{self.count}{long}"
            return Page([Activity(id=name, timestamp=NOVEMBER)], (), name if self.count < 200 else None)

    tracemalloc.start()
    try:
        with Reader(Long("key")) as reader:
            assert sum(1 for _ in reader.deliveries([WHOLE])) == 200
        with Reader(Long("key")) as reader:
            found = listing.activities(reader, ["opened_email"], Interval(NOVEMBER, NOVEMBER + 1))
            assert sum(1 for _ in found) == 200
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def test_expired_cursor(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=rows([NOVEMBER] * 40))
    sandbox.settings = Settings(cursor_lifetime=0.0)
    with pytest.raises(TryAgainLaterError, match="cursor is no longer valid"):
        read(sandbox, [WHOLE])
    assert [asked.status for asked in sandbox.customerio.requests] == [200, 400]


def test_refused_cursor_in_mid_list(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=rows([NOVEMBER] * 40))
    sandbox.faults.add(Fault(side="customerio", kind="400", at=3))
    with pytest.raises(TryAgainLaterError, match="cursor is no longer valid"):
        read(sandbox, [WHOLE])


def test_failure_ends_other_requests(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=rows(range(NOVEMBER, NOVEMBER + SPAN)))
    sandbox.faults.add(
        Fault(side="customerio", kind="timeout", at=3, times=2, seconds=3.0),
        Fault(side="customerio", kind="401", at=5, times=10_000),
    )
    began = time.monotonic()
    with pytest.raises(ConfigurationError, match="401"):
        read(sandbox, [WHOLE, Window("push", NOVEMBER, NOVEMBER + SPAN)])
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_leaving_early(sandbox: Sandbox, error: type[Exception] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving early closes the client, and waits for no request."""
    monkeypatch.setattr(reading, "MAX_REQUESTS", OPEN)  # else each request in flight may begin a window of its own
    sandbox.history = History(deliveries=rows(range(NOVEMBER, NOVEMBER + SPAN)))
    client, _ = clients(sandbox)
    began = time.monotonic()
    with pytest.raises(error) if error else nullcontext(), Reader(client, page_size=10) as reader:
        for _ in reader.deliveries([WHOLE]):
            sandbox.faults.add(Fault(side="customerio", kind="timeout", times=100, seconds=2.0))
            time.sleep(0.1)
            if error:
                raise error
            break
    assert time.monotonic() - began < 1.5
    assert len(sandbox.customerio.requests) <= OPEN * HELD + 2 * MAX_REQUESTS  # of 200 pages
    with pytest.raises(ClosedError):
        client.page(query_of(WHOLE))
    sandbox.faults.clear()
    requests_have_ended()


def test_request_beside_the_pages(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=rows(range(NOVEMBER, NOVEMBER + 50)))
    with Reader(clients(sandbox)[0], page_size=10) as reader:
        names = reader.submit(reader.client.names, "/v1/campaigns", "campaigns")
        assert sum(len(read.deliveries) for read in reader.deliveries([WHOLE])) == 50
        assert names.result() == {}
        assert reader.counts() == {
            "requests": len(sandbox.customerio.requests),
            "retried": 0,
            "rate_limited": 0,
            "out_of_order": 0,
            "cut_short": 0,
        }
        assert reader.waiting() is None


# Memory


def test_memory_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source makes each page when it is asked for, so only the reader could keep pages."""
    monkeypatch.setattr("airflow_provider_cio.customerio.reader._REMEMBERED", 1000)

    class Endless(CustomerIOClient):
        def page(self, query: Any) -> Page[Delivery]:
            number = int(query.get("start", 0))
            start, end = int(query["start_ts"]), int(query["end_ts"]) + 1
            size = max(1, (end - start) // 100)
            page = [
                Delivery(
                    id=f"{start} {number} {row} {'x' * 200}",
                    type="email",
                    created=end - 1 - number * size,
                    metrics={"sent": 1},
                )
                for row in range(1000)
            ]
            return Page(page, (), str(number + 1) if number < 99 else None)

    tracemalloc.start()
    held = []
    with Reader(Endless("key")) as reader:
        for count, _ in enumerate(reader.deliveries([Window("email", NOVEMBER, NOVEMBER + 100 * DAY)])):
            if count in (20, 95):
                held.append(tracemalloc.get_traced_memory()[0])
            if count > 95:
                break
    tracemalloc.stop()
    assert held[1] - held[0] < 12 * 2**20  # 75 pages of 1,000 such rows have 40 MB

"""Check the sink for Segment: several batches in flight, outcomes in order, refused batches halved."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.events.event import Event
from airflow_provider_cio.exceptions import ConfigurationError, EventsRefusedError, TryAgainLaterError
from airflow_provider_cio.http.errors import ClosedError
from airflow_provider_cio.http.transport import Retries
from airflow_provider_cio.segment import batches as segment
from airflow_provider_cio.segment.batches import MAX_BATCHES, InFlight, Outcome, Sender, Settled
from airflow_provider_cio.segment.client import SegmentClient
from airflow_provider_cio.segment.sink import SegmentSink
from tests.sandbox import Fault, Sandbox, Settings
from tests.sandbox.faults import Kind
from tests.unit.http import Loopback, Say
from tests.unit.support import clients


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[SegmentClient]:
    source, destination = clients(sandbox)
    with source, destination:
        yield destination


def events(count: int, first: int = 0, bad: frozenset[int] = frozenset()) -> list[bytes]:
    """Return encoded events, numbered from `first`; the sandbox can be told to refuse those in `bad`."""
    return [
        msgspec.json.encode(
            {
                "type": "track",
                "event": "POISON" if number in bad else "Email Opened",
                "userId": "1",
                "messageId": f"m{number}",
                "timestamp": "2026-11-01T00:00:00Z",
            }
        )
        for number in range(first, first + count)
    ]


def send(client: SegmentClient, *batches: list[bytes]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with InFlight(client) as in_flight:
        for batch in batches:
            outcomes += in_flight.send(batch)
        outcomes += in_flight.settled(at_most=0)
    return outcomes


def kept(sandbox: Sandbox) -> set[int]:
    assert sandbox.segment.duplicates == []
    return {int(event["messageId"][1:]) for event in sandbox.segment.kept}


def settle() -> None:
    """Wait for the threads, which end with the answers that they wait for."""
    until = time.monotonic() + 10
    while any(thread.name.startswith("segment") for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("slow", [0, 2])
def test_outcomes_keep_batch_order(sandbox: Sandbox, client: SegmentClient, slow: int) -> None:
    sandbox.faults.add(Fault(side="segment", kind="timeout", at=slow, seconds=0.2))  # it answers late
    outcomes = send(client, *(events(size, 100 * size) for size in range(1, 11)))
    assert [outcome.events for outcome in outcomes] == list(range(1, 11))
    assert [outcome.batches for outcome in outcomes] == [1] * 10
    assert all(outcome.refused == [] for outcome in outcomes)
    assert len(kept(sandbox)) == 55


def test_outcome_counts_the_bytes(sandbox: Sandbox, client: SegmentClient) -> None:
    batch = events(7)
    assert send(client, batch) == [Outcome(7, 1, client.envelope + sum(map(len, batch)) + 6)]


def test_batches_in_flight_are_bounded(sandbox: Sandbox, client: SegmentClient) -> None:
    sandbox.settings = Settings(segment_latency=0.03)
    send(client, *([event] for event in events(20)))
    asked = [(one.time, one.time + one.seconds) for one in sandbox.segment.requests]
    most = max(sum(begin <= moment < end for begin, end in asked) for moment, _ in asked)
    assert most == MAX_BATCHES > 1


def test_sending_waits_for_a_place(sandbox: Sandbox, client: SegmentClient) -> None:
    """A slow Segment holds up the reading, so that batches don't pile up in memory."""
    sandbox.settings = Settings(segment_latency=0.05)
    outcomes: list[Outcome] = []
    with InFlight(client) as in_flight:
        for number, event in enumerate(events(12)):
            outcomes += in_flight.send([event])
            assert number + 1 - len(outcomes) <= MAX_BATCHES
        assert len(outcomes) >= 12 - MAX_BATCHES
        outcomes += in_flight.settled(at_most=2**31)  # what is there already, without a wait
        outcomes += in_flight.settled(at_most=0)
    assert len(outcomes) == 12


def test_settled_outcomes_need_no_wait(sandbox: Sandbox, client: SegmentClient) -> None:
    sandbox.faults.add(Fault(side="segment", kind="timeout", at=2, seconds=0.8))
    with InFlight(client) as in_flight:
        outcomes = [outcome for size in (1, 2) for outcome in in_flight.send(events(size, 10 * size))]
        give_up_at = time.monotonic() + 2
        while len(outcomes) < 2 and time.monotonic() < give_up_at:
            outcomes += in_flight.settled(at_most=MAX_BATCHES)
            time.sleep(0.005)
        assert [outcome.events for outcome in outcomes] == [1, 2]
        began = time.monotonic()
        assert in_flight.send(events(3, 30)) == []
        assert in_flight.settled(at_most=MAX_BATCHES) == []
        assert time.monotonic() - began < 0.6
        assert [outcome.events for outcome in in_flight.settled(at_most=0)] == [3]


# Refusals


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=6),
    status=st.sampled_from([400, 413]),
    data=st.data(),
)
def test_only_bad_events_are_refused(world: Sandbox, sizes: list[int], status: Any, data: st.DataObject) -> None:
    total = sum(sizes)
    bad = frozenset(data.draw(st.sets(st.integers(0, total - 1), max_size=8)))
    world.settings = Settings(refuse_containing="POISON", refuse_with=status)
    world.reset()
    batches, first = [], 0
    for size in sizes:
        batches.append(events(size, first, bad))
        first += size
    source, client = clients(world)
    with source, client:
        outcomes = send(client, *batches)
    assert len(outcomes) == len(batches)
    for batch, outcome in zip(batches, outcomes, strict=True):
        refused = [one.event for one in outcome.refused]
        assert sorted(refused) == sorted(event for event in batch if b"POISON" in event)
        assert outcome.events == len(batch) - len(refused)
        assert {one.reason for one in outcome.refused} <= {f"refused_{status}"}
    assert kept(world) == set(range(total)) - bad


@pytest.mark.parametrize(
    "share",
    [
        pytest.param(lambda n: n < 12, id="some at the front"),
        pytest.param(lambda n: n < 100, id="many at the front"),
        pytest.param(lambda n: n % 10 == 0, id="every tenth"),
        pytest.param(lambda n: n >= 250, id="half of it"),
    ],
)
def test_largely_refused_batch(sandbox: Sandbox, client: SegmentClient, share: Any) -> None:
    sandbox.settings = Settings(refuse_containing="POISON")
    bad = frozenset(number for number in range(500) if share(number))
    outcomes = send(client, events(500, 0, bad))
    assert len(outcomes[0].refused) == len(bad)
    assert kept(sandbox) == set(range(500)) - bad


def test_batches_that_begin_badly(sandbox: Sandbox, client: SegmentClient) -> None:
    sandbox.settings = Settings(refuse_containing="POISON", segment_latency=0.002)
    bad = frozenset(range(0, 4000, 500)) | frozenset(range(1, 4000, 500))
    outcomes = send(client, *(events(500, first, bad) for first in range(0, 4000, 500)))
    assert [len(outcome.refused) for outcome in outcomes] == [2] * 8
    assert len(kept(sandbox)) == 4000 - 16


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_largely_refused_batches(sandbox: Sandbox, client: SegmentClient, share: float) -> None:
    """All batches together are refused more often than one batch has samples, before any event was taken."""
    sandbox.settings = Settings(refuse_containing="POISON", segment_latency=0.005)
    bad = frozenset(first + number for first in range(0, 240, 60) for number in range(int(60 * share)))
    outcomes = send(client, *(events(60, first, bad) for first in range(0, 240, 60)))
    assert [len(outcome.refused) for outcome in outcomes] == [int(60 * share)] * 4
    assert kept(sandbox) == set(range(240)) - bad


@pytest.mark.parametrize(("batches", "size"), [(1, 60), (3, 20), (40, 1)])
def test_refused_small_batches_raise(sandbox: Sandbox, client: SegmentClient, batches: int, size: int) -> None:
    sandbox.settings = Settings(refuse_containing="track")
    with pytest.raises(EventsRefusedError, match="answered 400") as caught:
        send(client, *(events(size, size * number) for number in range(batches)))
    assert caught.value.reason == "refused_400"
    settle()


def test_few_refused_events_are_named(sandbox: Sandbox, client: SegmentClient) -> None:
    sandbox.settings = Settings(refuse_containing="track")
    (outcome,) = send(client, events(31))
    assert sorted(one.event for one in outcome.refused) == sorted(events(31))


@pytest.mark.parametrize("good", [0, 250, 499])
def test_few_good_events_are_found(sandbox: Sandbox, client: SegmentClient, good: int) -> None:
    """The samples span the batch, from its first event to its last."""
    sandbox.settings = Settings(refuse_containing="POISON")
    taken = {0: [0], 250: range(241, 257), 499: [499]}[good]  # of 500 events every 16th or 17th is a sample
    outcomes = send(client, events(500, 0, frozenset(range(500)) - frozenset(taken)))
    assert outcomes[0].events == len(taken)
    assert kept(sandbox) == set(taken)


@pytest.mark.parametrize("batches", [1, 8])
def test_all_refused_stops_early(sandbox: Sandbox, client: SegmentClient, batches: int) -> None:
    sandbox.settings = Settings(refuse_containing="track", refuse_with=413)
    with pytest.raises(EventsRefusedError, match="answered 413"):
        send(client, *(events(500, 500 * number) for number in range(batches)))
    assert sandbox.segment.kept == []
    # Each batch, its 32 samples, an empty one. One more than can be in flight may have begun when the error comes out.
    assert len(sandbox.segment.requests) <= 34 * min(batches, MAX_BATCHES + 1)
    settle()


def test_one_success_prevents_stopping(sandbox: Sandbox, client: SegmentClient) -> None:
    sandbox.settings = Settings(refuse_containing="POISON")
    outcomes = send(client, events(5), *([event] for event in events(80, 100, frozenset(range(100, 180)))))
    assert sum(len(outcome.refused) for outcome in outcomes) == 80


# Is it the events, or the service?


Takes = Callable[[list[dict[str, Any]]], Say]


@pytest.fixture
def receiver() -> Iterator[Loopback]:
    with Loopback() as running:
        yield running


def deliver(receiver: Loopback, takes: Takes, *batches: list[bytes]) -> list[Settled]:
    """Deliver batches one after the other to a receiver that answers as `takes` says."""
    receiver.say(lambda heard: takes(msgspec.json.decode(heard.body)["batch"]))
    with SegmentClient("aWriteKey0123456789", base_url=receiver.url, retries=Retries(attempts=1)) as client:
        sender = Sender(client)
        return [settled for batch in batches for settled in sender.deliver(batch)]


def alone(settled: list[Settled]) -> list[bytes]:
    return sorted(one.refused.event for one in settled if one.refused)


def poisoned(batch: list[dict[str, Any]]) -> bool:
    return any(event["event"] == "POISON" for event in batch)


@pytest.mark.parametrize("size", [1, 5, 500])
def test_refused_empty_batch_raises(receiver: Loopback, size: int) -> None:
    with pytest.raises(EventsRefusedError, match="answered 400: no.* Nor was an empty batch: check host and path"):
        deliver(receiver, lambda batch: Say(400, "no"), events(size))
    assert len(receiver.heard) <= 1 + 32 + 1


@pytest.mark.parametrize("of_empty", [Say(200), Say(400, "Empty batch payload")], ids=["taken", "named"])
@pytest.mark.parametrize("size", [1, 5, 50])
def test_taken_empty_batch_blames_events(receiver: Loopback, of_empty: Say, size: int) -> None:
    batch = events(size)
    settled = deliver(receiver, lambda batch: Say(400, "no") if batch else of_empty, batch)
    assert alone(settled) == sorted(batch)
    assert sum(msgspec.json.decode(heard.body)["batch"] == [] for heard in receiver.heard) == 1


def test_taken_sample_blames_events(receiver: Loopback) -> None:
    """The receiver answers an empty batch the same way as a bad event."""
    bad = frozenset(range(40))
    batch = events(50, 0, bad)
    settled = deliver(receiver, lambda batch: Say(400, "no") if not batch or poisoned(batch) else Say(200), batch)
    assert alone(settled) == sorted(events(40, 0, bad))
    assert sum(len(one.events) for one in settled if not one.refused) == 10


@pytest.mark.parametrize("status", [402, 409, 410, 415])
@pytest.mark.parametrize("taken_before", [False, True])
def test_other_status_blames_no_event(receiver: Loopback, status: int, taken_before: bool) -> None:
    batches = [events(1)] * taken_before + [events(500, 1)]
    with pytest.raises(ConfigurationError, match=f"answered {status}: no. No event causes that"):
        deliver(receiver, lambda batch: Say(status, "no") if len(batch) > 1 else Say(200), *batches)
    assert len(receiver.heard) == len(batches)


def test_success_is_proof_for_a_minute(receiver: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = events(1), [*events(1, 1), *events(1, 2, frozenset({2}))]

    def ill(batch: list[dict[str, Any]]) -> Say:
        return Say(200) if len(receiver.heard) == 1 else Say(400, "no")

    assert len(alone(deliver(receiver, ill, *batches))) == 2
    monkeypatch.setattr(segment, "_PROOF", 0.0)
    with pytest.raises(EventsRefusedError, match="Nor was an empty batch"):
        deliver(receiver, ill, *batches)


# Ends


@pytest.mark.parametrize(
    ("kind", "error"), [("401", ConfigurationError), ("403", ConfigurationError), ("503", TryAgainLaterError)]
)
def test_error_replaces_an_outcome(sandbox: Sandbox, client: SegmentClient, kind: Kind, error: type[Exception]) -> None:
    sandbox.faults.add(Fault(side="segment", kind=kind, at=3, times=10_000))
    with pytest.raises(error, match=f"answered {kind}"):
        send(client, *([event] for event in events(50)))
    settle()
    assert len(kept(sandbox)) <= 3 + MAX_BATCHES  # what was in flight


def test_exception_ends_requests(sandbox: Sandbox, client: SegmentClient) -> None:
    sandbox.faults.add(Fault(side="segment", kind="timeout", at=0, times=10_000, seconds=2.0))
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError), InFlight(client) as in_flight:  # noqa: PT012
        for event in events(MAX_BATCHES):
            in_flight.send([event])
        time.sleep(0.1)
        _ = 1 // 0
    assert time.monotonic() - began < 1.5


# The sink


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_leaving_closes_the_client(sandbox: Sandbox, error: type[Exception] | None) -> None:
    sandbox.settings = Settings(segment_latency=0.2 if error is None else 2.5)
    _, client = clients(sandbox)
    began = time.monotonic()
    with suppress(ZeroDivisionError), SegmentSink(client) as sink:
        sink.take(map(made, events(1)))
        sink.flush()
        if error:
            raise error
    assert time.monotonic() - began < 2.0
    assert kept(sandbox) == (set() if error else {0})
    with pytest.raises(ClosedError):
        client.send([])


def made(event: bytes) -> Event:
    plain = msgspec.json.decode(event)
    return Event(plain["event"], plain["messageId"], datetime(2026, 11, 1, tzinfo=UTC), Empty(), Empty(), "1")


class Empty(msgspec.Struct):
    delivery_id: str = "d"


def test_sink_acknowledges_in_order(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(refuse_containing="POISON")
    _, client = clients(sandbox)
    with SegmentSink(client) as sink:
        sink.take(map(made, events(10, 0, frozenset({3}))))
        sink.take([])
        assert sink.acknowledged == 0
        sink.flush()
        while sink.acknowledged < 2:
            sink.wait()
        (refused,) = sink.refused()
        assert refused.reason == "refused_400"
        assert msgspec.json.decode(refused.event)["messageId"] == "m3"
        assert sink.refused() == []
        assert sink.counts()["events"] == 9
    assert kept(sandbox) == set(range(10)) - {3}


@pytest.mark.parametrize(("total", "bad"), [(60, 32), (60, 59), (40, 32), (33, 32)])
def test_small_batch_that_begins_badly(sandbox: Sandbox, client: SegmentClient, total: int, bad: int) -> None:
    sandbox.settings = Settings(refuse_containing="POISON")
    (outcome,) = send(client, events(total, 0, frozenset(range(bad))))
    assert len(outcome.refused) == bad
    assert kept(sandbox) == set(range(bad, total))


def test_memory_does_not_grow(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(remember="counts")
    _, client = clients(sandbox)
    peaks = []
    with SegmentSink(client) as sink:
        tracemalloc.start()
        for piece in range(40):
            sink.take(map(made, events(1500, piece * 1500)))
            while sink.acknowledged < piece - 3:
                sink.wait()
            peaks.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    # The sandbox, in the same process, remembers a little of each event; the sink's 300 bytes an event would show.
    assert (peaks[-1] - peaks[12]) / (27 * 1500) < 200


def test_outcomes_are_not_kept(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "MAX_BATCH_EVENTS", 1)
    sandbox.settings = Settings(remember="counts", refuse_containing="POISON")
    _, client = clients(sandbox)
    with SegmentSink(client) as sink:
        for piece in range(200):
            sink.take(map(made, events(1, piece, frozenset({piece} if piece % 2 else ()))))
            sink.refused()
        sink.flush()
        while sink.acknowledged < 200:
            sink.wait()
        sink.refused()
        gc.collect()
        # Not isinstance: it makes Airflow's lazy objects import what is not installed.
        outcomes = [one for one in gc.get_objects() if type(one) is Outcome]
    assert sink.counts()["events"] == 100
    assert len(outcomes) <= 1 + MAX_BATCHES
    assert sum(len(one.refused) for one in outcomes) <= MAX_BATCHES

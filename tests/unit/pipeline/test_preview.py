"""The preview's sink delivers nothing: it checks each event, and shows the first of each collection."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import msgspec

from airflow_provider_cio.events.event import MAX_EVENT_BYTES, Event
from airflow_provider_cio.pipeline.preview import PreviewSink
from airflow_provider_cio.segment.client import SegmentClient
from airflow_provider_cio.segment.sink import SegmentSink


class Properties(msgspec.Struct):
    delivery_id: str


def event(number: int, name: str = "Email Opened", *, text: str = "") -> Event:
    properties = Properties(f"d{number}{text}")
    return Event(name, f"m{number}", datetime(2026, 11, 1, tzinfo=UTC), properties, Properties(""), "1")


def preview(sample: Callable[[bytes], None]) -> PreviewSink:
    return PreviewSink(SegmentSink(SegmentClient("key")), sample)


def ids(encoded: list[bytes]) -> list[str]:
    return [msgspec.json.decode(one)["messageId"] for one in encoded]


def test_first_of_each_collection_is_shown() -> None:
    shown: list[bytes] = []
    with preview(shown.append) as sink:
        sink.take([event(1), event(2), event(3, "Email Sent")])
        sink.take([event(4), event(5, "Email Sent"), event(6, "Push Sent")])
    assert ids(shown) == ["m1", "m3", "m6"]


def test_unsendable_event_is_refused() -> None:
    shown: list[bytes] = []
    with preview(shown.append) as sink:
        sink.take([event(1, text="x" * MAX_EVENT_BYTES), event(2)])
        (refused,) = sink.refused()
        assert (refused.reason, refused.explanation) == ("event_too_large", "")
        assert ids([refused.event]) == ["m1"]
        assert sink.refused() == []
    assert ids(shown) == ["m2"]


def test_piece_is_acknowledged_at_end() -> None:
    looked_at: list[int] = []

    def events() -> Iterator[Event]:
        for number in range(3):
            looked_at.append(number)
            assert sink.acknowledged == 0
            yield event(number)

    with preview(lambda event: None) as sink:
        sink.take(events())
        assert (looked_at, sink.acknowledged) == ([0, 1, 2], 1)
        sink.take([])
        sink.flush()
        sink.wait()
        assert sink.acknowledged == 2


def test_nothing_is_counted_as_sent() -> None:
    with preview(lambda event: None) as sink:
        sink.take([event(1)])
        assert sink.counts() == {}


def test_memory_does_not_grow() -> None:
    with preview(lambda event: None) as sink:
        sink.take(map(event, range(100)))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        sink.take(map(event, range(10_000)))
        for number in range(200):
            sink.take([event(number, text="x" * MAX_EVENT_BYTES)])
            assert len(sink.refused()) == 1
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    assert grown < 100_000

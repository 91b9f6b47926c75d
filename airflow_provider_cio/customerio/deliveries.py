"""Source of the occurrences in `/v1/messages`, which has one time for each metric of a delivery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Self

from airflow_provider_cio.customerio.names import Names
from airflow_provider_cio.customerio.reader import Read, Reader
from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.customerio.windows import Done, plan
from airflow_provider_cio.events.catalog import CATALOG, CHANNELS, Collection
from airflow_provider_cio.events.interval import Interval, is_time
from airflow_provider_cio.events.occurrence import Malformed, Occurrence, Piece

#: Prefixes of metrics that repeat another metric.
_REPEATS = ("human_", "prefetch_")
#: Metrics that live answers have without documentation. They belong to no collection.
_KNOWN_BUT_UNUSED = {"created", "secondary:delivered", "topic_unsubscribed"}
#: Metrics of each channel that are not reported as unknown.
_KNOWN = {
    channel: _KNOWN_BUT_UNUSED | {one.metric for one in CATALOG.values() if one.channel == channel}
    for channel in CHANNELS.values()
}


class Deliveries:
    """Source of the occurrences in deliveries. It reads each window of the interval and its look-back once.

    :param reader: the source enters and exits it.
    :param lookback: seconds before the interval in which a delivery may have been created.
    """

    def __init__(
        self, reader: Reader, names: Names, *, collections: Sequence[Collection], interval: Interval, lookback: int
    ) -> None:
        self._reader = reader
        self._names = names
        self._collections = collections
        self._interval = interval
        self._windows = plan(interval, lookback, collections)

    def counts(self) -> dict[str, int]:
        """Return counts of the reader's work so far."""
        return self._reader.counts()

    def waiting(self) -> str | None:
        """Return one sentence about the reader's current wait, or None."""
        return self._reader.waiting()

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        self._reader.__exit__(kind, *rest)

    def pieces(self, done: Done) -> Iterator[Piece]:
        reads = self._reader.deliveries(done.rest(self._windows))
        return self._names.ahead_of(self._piece(read) for read in reads)

    def _piece(self, read: Read) -> Piece:
        piece = piece_of(read, self._interval)
        piece.occurrences = list(occurrences(read.deliveries, self._collections, self._interval, piece.skipped))
        return piece


def piece_of(read: Read, interval: Interval) -> Piece:
    """Return a piece without occurrences.

    A malformed row is refused by the interval in which its delivery was created. Other intervals that read it, in their
    look-back or in the minute after their end, count it as skipped.
    """
    own = [row for row in read.malformed if interval.start <= created_of(row, read) < interval.end]
    piece = Piece(
        malformed=own,
        read=Counter(deliveries=len(read.deliveries) + len(read.malformed)),
        window=read.window,
        last=read.last,
    )
    if others := len(read.malformed) - len(own):
        piece.skipped["malformed"] = others
    return piece


def created_of(row: Malformed, read: Read) -> int:
    """Return the creation time of a malformed row, else the start of its window, which is in the same interval.

    Both are before the interval or both are not, because no window spans its start.
    """
    return read.window.start if row.created is None else row.created


def occurrences(
    page: Sequence[Delivery], collections: Sequence[Collection], interval: Interval, skipped: Counter[str]
) -> Iterator[Occurrence]:
    """Yield the occurrences of these deliveries inside the interval.

    :param skipped: increased under ``not_a_time`` by values of wanted metrics that can't be a time, and under
        ``unknown_metric <channel>.<metric>`` by times inside the interval of metrics without a collection.
    """
    start, end = interval
    wanted: dict[str, dict[str, Collection]] = {}
    for collection in collections:
        wanted.setdefault(collection.channel, {})[collection.metric] = collection
    for delivery in page:
        by_metric = wanted.get(delivery.type)
        if by_metric is None:
            continue
        known = _KNOWN[delivery.type]
        for metric, time in delivery.metrics.items():
            found = by_metric.get(metric)
            if found is not None:
                if is_time(time):
                    if start <= time < end:
                        yield Occurrence(delivery, found, time)
                elif time is not None:
                    skipped["not_a_time"] += 1
            elif metric not in known and type(time) is int and start <= time < end and not metric.startswith(_REPEATS):
                skipped[f"unknown_metric {delivery.type}.{metric}"] += 1


def time_of(delivery: Delivery, metric: str, skipped: Counter[str]) -> int | None:
    """Return the time of a metric in Unix seconds; None if it is missing or not a time."""
    time = delivery.metrics.get(metric)
    if is_time(time):
        return time
    if time is not None:
        skipped["not_a_time"] += 1
    return None

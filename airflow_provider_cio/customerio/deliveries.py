"""Occurrences as `/v1/messages` shows them: for each delivery one time per metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Self

from airflow_provider_cio.customerio.names import Names
from airflow_provider_cio.customerio.reader import Read, Reader
from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.customerio.windows import Done, plan
from airflow_provider_cio.events.catalog import CATALOG, Collection
from airflow_provider_cio.events.interval import Interval, is_time
from airflow_provider_cio.events.occurrence import Malformed, Occurrence, Piece

#: What begins so repeats another metric.
_REPEATS = ("human_", "prefetch_")
#: Metrics that live answers have, though nobody documents them for deliveries. They are no collections.
_KNOWN_BUT_UNUSED = {"created", "secondary:delivered", "topic_unsubscribed"}
_KNOWN: dict[str, set[str]] = {collection.channel: set(_KNOWN_BUT_UNUSED) for collection in CATALOG.values()}
for _collection in CATALOG.values():
    _KNOWN[_collection.channel].add(_collection.metric)


class Deliveries:
    """Source of the occurrences that deliveries show. It reads each window of the interval and its look-back once.

    :param reader: entered and left with the source.
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
        """Return the work of the reader so far."""
        return self._reader.counts()

    def waiting(self) -> str | None:
        """Return in one sentence what the reader waits for; None if it does not wait."""
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
    """A piece without its occurrences.

    An odd row is refused by the interval in which its delivery was created. Others that meet it, in their look-back or
    in the minute after their end, count it as skipped.
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
    """No window reaches over the interval's start, so its own start will do for a row that does not say."""
    return read.window.start if row.created is None else row.created


def occurrences(
    page: Sequence[Delivery], collections: Sequence[Collection], interval: Interval, skipped: Counter[str]
) -> Iterator[Occurrence]:
    """What happened to these deliveries inside the interval.

    :param skipped: counts, under ``not_a_time``, values of wanted metrics that can't be a time; and, under
        ``unknown_metric`` with channel and metric, what happened inside the interval but has no collection.
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
    """When the metric happened, in Unix seconds, if it did."""
    time = delivery.metrics.get(metric)
    if is_time(time):
        return time
    if time is not None:
        skipped["not_a_time"] += 1
    return None

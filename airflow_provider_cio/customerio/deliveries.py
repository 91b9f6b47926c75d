"""Source of the occurrences in `/v1/messages`, which has one time for each metric of a delivery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Self

from airflow_provider_cio.customerio.names import Names
from airflow_provider_cio.customerio.opens_and_clicks import (
    RECORDED_SINCE,
    human_time,
    occurrence_at,
    tells_people_from_machines,
)
from airflow_provider_cio.customerio.reader import Read, Reader
from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.customerio.windows import Done, plan
from airflow_provider_cio.events.catalog import CATALOG, CHANNELS, Collection
from airflow_provider_cio.events.interval import EARLIEST_TIME, Ages, Interval, is_time, whole
from airflow_provider_cio.events.occurrence import MOST_NAMED, Malformed, Occurrence, Piece
from airflow_provider_cio.http.errors import safe_text

#: Prefixes of metrics that tell more about another metric.
_REPEATS = ("human_", "prefetch_", "machine_", "link:", "secondary:")
#: Metrics that live answers have without documentation. They belong to no collection.
_KNOWN_BUT_UNUSED = {"created", "topic_unsubscribed"}
#: Metrics of each channel that are not reported as unknown.
_KNOWN = {
    channel: _KNOWN_BUT_UNUSED | {one.metric for one in CATALOG.values() if one.channel == channel}
    for channel in CHANNELS.values()
}
#: Stands for the collection of a metric that is not known.
_UNKNOWN = Collection("", "", "")


class Deliveries:
    """Source of the occurrences in deliveries. It reads each window of the interval and its look-back once.

    :param reader: the source enters and exits it.
    :param ages: range of the ages at which an occurrence counts.
    :param humans_only: of opens and clicks, yield the first that a person made instead of the first of all.
    """

    def __init__(
        self,
        reader: Reader,
        names: Names,
        *,
        collections: Sequence[Collection],
        interval: Interval,
        ages: Ages,
        humans_only: bool = False,
    ) -> None:
        self._reader = reader
        self._names = names
        self._collections = collections
        self._interval = interval
        self._ages = ages
        self._humans_only = humans_only
        self._windows = plan(interval, ages, collections)

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
        yield from self._names.ahead_of(self._piece(read) for read in reads)
        self._names.warn_of_missing()

    def _piece(self, read: Read) -> Piece:
        read, outside = within_bounds(read)
        piece = piece_of(read, self._interval, self._ages, outside)
        piece.occurrences = self._occurrences(read, self._collections, piece)
        return piece

    def _occurrences(self, read: Read, collections: Sequence[Collection], piece: Piece) -> list[Occurrence]:
        return occurrences(
            read.deliveries, collections, self._interval, self._ages, piece, humans_only=self._humans_only
        )


def within_bounds(read: Read) -> tuple[Read, int]:
    """Return the rows that were created inside the window, and the number of the others.

    Rows outside the bounds that were asked for belong to another window, or to no window of this run.
    """
    _, start, end, _ = read.window
    inside = read._replace(
        deliveries=[row for row in read.deliveries if start <= row.created < end],
        malformed=[row for row in read.malformed if start <= created_of(row, read) < end],
    )
    outside = len(read.deliveries) - len(inside.deliveries) + len(read.malformed) - len(inside.malformed)
    return inside, outside


def piece_of(read: Read, interval: Interval, ages: Ages, outside: int = 0) -> Piece:
    """Return a piece without occurrences.

    A malformed row is refused by the interval in which its delivery was created, in the run without `older_than`. All
    other runs that read it count it as skipped: those of other intervals, in their look-back or in the minute after
    their end, and those with `older_than`.

    :param outside: rows that are left out, because they are outside the bounds that were asked for.
    """
    own = [
        row for row in read.malformed if not ages.older_than and interval.start <= created_of(row, read) < interval.end
    ]
    piece = Piece(
        malformed=own,
        read=counts_of([*read.deliveries, *read.malformed]),
        window=read.window,
        last=read.last,
    )
    if others := len(read.malformed) - len(own):
        piece.skipped["malformed"] = others
    if outside:
        piece.read["out_of_bounds"] = outside
    return piece


def counts_of(rows: Sequence[Delivery | Malformed]) -> Counter[str]:
    """Count the deliveries of an answer, and the fields that were left out of them."""
    counts = Counter(deliveries=len(rows))
    if left_out := sum(len(row.left_out) for row in rows if isinstance(row, Delivery)):
        counts["field_left_out"] = left_out
    return counts


def created_of(row: Malformed, read: Read) -> int:
    """Return the creation time of a malformed row, else the start of its window, which is in the same interval.

    Both are before the interval or both are not, because no window of a run without `older_than` spans its start.
    """
    return read.window.start if row.created is None else row.created


def occurrences(
    page: Sequence[Delivery],
    collections: Sequence[Collection],
    interval: Interval,
    ages: Ages,
    piece: Piece,
    *,
    humans_only: bool = False,
) -> list[Occurrence]:
    """Return the occurrences of these deliveries that are inside the interval and whose age counts.

    :param piece: its counts are increased: ``skipped`` under ``not_a_time`` by values of wanted metrics that can't be a
        time, under ``unknown_metric`` by such times of metrics without a collection; see `_by_person` for further ones.
    :param humans_only: return the first open and click that a person made instead of the first of all.
    """
    result: list[Occurrence] = []
    interval = Interval(max(interval.start, EARLIEST_TIME), interval.end)  # so that a number inside it is a time
    channels = dict.fromkeys(collection.channel for collection in collections)
    wanted: dict[str, dict[str, Collection | None]] = {channel: dict.fromkeys(_KNOWN[channel]) for channel in channels}
    by_person: dict[str, list[Collection]] = {}
    for collection in collections:
        if humans_only and collection.metric in RECORDED_SINCE:
            by_person.setdefault(collection.channel, []).append(collection)
        else:
            wanted[collection.channel][collection.metric] = collection
    for delivery in page:
        channel = delivery.type
        by_metric = wanted.get(channel)
        if by_metric is None:
            continue
        start, end = part = ages.part_of(interval, delivery.created)
        for metric, time in delivery.metrics.items():
            found = by_metric.get(metric, _UNKNOWN)
            if found is None:  # this loop is hot, and most metrics are known and not wanted
                continue
            if type(time) is float:
                time = whole(time)
            is_inside = type(time) is int and start <= time < end
            if found is _UNKNOWN:
                if is_inside and not metric.startswith(_REPEATS):
                    piece.skipped["unknown_metric"] += 1
                    if len(piece.unknown) < MOST_NAMED:
                        piece.unknown.add(safe_text(f"{channel}.{metric}"))
            elif is_inside:
                make = occurrence_at if metric in RECORDED_SINCE else Occurrence
                result.append(make(delivery, found, time))
            elif time is not None and not is_time(time):
                piece.skipped["not_a_time"] += 1
        for collection in by_person.get(channel, ()):
            result += _by_person(delivery, collection, part, piece)
    return result


def _by_person(delivery: Delivery, collection: Collection, part: tuple[int, int], piece: Piece) -> Iterator[Occurrence]:
    """Yield the first open or click that a person made, if its time is in this part of the interval.

    Where Customer.io does not tell people from machines, it is the first of all; in e-mail, which has told them apart
    since 2025, that is counted as read under ``human_not_recorded``. A first one that no person made is counted as
    skipped under ``machine``.
    """
    metric, (start, end) = collection.metric, part
    first, time = time_of(delivery, metric, piece.skipped), human_time(delivery, metric)
    is_told = tells_people_from_machines(delivery, metric)
    if not is_told:
        time = first
    if time is not None and start <= time < end:
        if not is_told and delivery.type == "email":
            piece.read["human_not_recorded"] += 1
        yield occurrence_at(delivery, collection, time)
    if first is not None and first != time and start <= first < end:
        piece.skipped["machine"] += 1


def time_of(delivery: Delivery, metric: str, skipped: Counter[str]) -> int | None:
    """Return the time of a metric in Unix seconds; None if it is missing or not a time."""
    time = whole(delivery.metrics.get(metric))
    if is_time(time):
        return time
    if time is not None:
        skipped["not_a_time"] += 1
    return None


def kind_of_metric(channel: str, key: str) -> str | None:
    """Return a known key of `metrics`, with a star for the part that may be any text; None for an unknown one."""
    if key in _KNOWN[channel]:
        return key
    return next((f"{prefix}*" for prefix in _REPEATS if key.startswith(prefix)), None)

"""Source of every open and click: activities from `/v1/activities`, joined with their deliveries.

An activity has the link and the time of one open or click. Its delivery has all else, and the time of the first one.
So the source first reads activities into a temporary file, then joins them with the deliveries of all windows, and at
last requests the remaining deliveries, which are older than the look-back, by id. The age of an open or click that is
an activity does not matter. All else counts by its age, as in `Deliveries`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import msgspec

from airflow_provider_cio.customerio.client import Page
from airflow_provider_cio.customerio.deliveries import (
    Deliveries,
    counts_of,
    created_of,
    piece_of,
    time_of,
    within_bounds,
)
from airflow_provider_cio.customerio.names import Names
from airflow_provider_cio.customerio.opens_and_clicks import human_time, occurrence_at
from airflow_provider_cio.customerio.reader import Read, Reader
from airflow_provider_cio.customerio.rows import Activity, Delivery
from airflow_provider_cio.customerio.windows import Done
from airflow_provider_cio.events.catalog import CATALOG, Collection
from airflow_provider_cio.events.interval import Ages, Interval, is_time
from airflow_provider_cio.events.occurrence import Malformed, Message, Occurrence, Piece, engagement_in
from airflow_provider_cio.exceptions import TryAgainLaterError

#: Days for which Customer.io guarantees activities.
GUARANTEED_DAYS = 30
#: Deliveries that are requested by id together, so that ids take little memory.
_IDS_AT_ONCE = 200
#: Variables in one statement, because SQLite before 3.32 allows 999.
_MOST_VARIABLES = 500

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Activity).decode

#: Activities of one delivery by collection.
Activities = dict[Collection, list[Activity]]


class EveryOpenAndClick(Deliveries):
    """Source of the occurrences of `Deliveries` and of each further open and click.

    The activity whose time is the delivery's own time of the metric is the first open or click, and the same occurrence
    that `Deliveries` yields; likewise the first that a person made. Of several in that second, it is the one with the
    smallest id, and of those that a person made if the delivery's time is a person's. If no activity has that time, the
    occurrence is yielded as `Deliveries` knows it.

    A retry reads all activities again, because the temporary file is lost with the worker. It yields only unfinished
    windows.

    :param ages: range of the ages at which an occurrence counts that is no activity.
    :param humans_only: skip opens and clicks that no person made. Where there are no activities, take the first that a
        person made.
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
        super().__init__(reader, names, collections=collections, interval=interval, ages=ages, humans_only=humans_only)
        self._repeating = [one for one in collections if one.has_activities]
        self._others = [one for one in collections if one not in self._repeating]

    def pieces(self, done: Done) -> Iterator[Piece]:
        with PendingActivities() as pending:
            yield from self._read_activities(pending)
            reads = self._reader.deliveries(self._windows)
            yield from self._names.ahead_of(self._joined(read, pending, done) for read in reads)
            yield from self._names.ahead_of(self._by_id(pending))
            self._names.warn_of_missing()

    def _read_activities(self, pending: PendingActivities) -> Iterator[Piece]:
        """Store all activities, and yield pieces with their counts and malformed rows only."""
        start, end = self._interval
        by_type = {f"{one.metric}_{one.channel}": one for one in self._repeating}
        for kind, page in self._reader.activities(list(by_type), start):
            piece = Piece(malformed=[row for row in page.malformed if _may_be_in(self._interval, row, page)])
            found = []
            for activity in page.rows:
                if start <= activity.timestamp < end:
                    if delivery_id := delivery_id_of(activity):
                        found.append((delivery_id, activity))
                    else:
                        piece.skipped["activity_without_delivery"] += 1
                elif not is_time(activity.timestamp):
                    piece.skipped["not_a_time"] += 1
            piece.read["activities"] = pending.add(by_type[kind], found)
            yield piece

    def _joined(self, read: Read, pending: PendingActivities, done: Done) -> Piece:
        read, outside = within_bounds(read)
        waiting = pending.take([delivery.id for delivery in read.deliveries])
        if done:
            read = read._replace(
                deliveries=[row for row in read.deliveries if not done.covers(read.window, row.created)],
                malformed=[row for row in read.malformed if not done.covers(read.window, created_of(row, read))],
            )
        piece = piece_of(read, self._interval, self._ages, outside)
        piece.occurrences = self._occurrences(read, self._others, piece)
        for delivery in read.deliveries:
            piece.occurrences += self._opens_and_clicks(delivery, waiting.get(delivery.id, {}), piece)
        return piece

    def _by_id(self, pending: PendingActivities) -> Iterator[Piece]:
        while ids := pending.delivery_ids(_IDS_AT_ONCE):
            waiting = pending.take(ids)
            for delivery_id, found in self._reader.deliveries_by_id(ids):
                piece = Piece(read=counts_of([found] if found else []))
                piece.occurrences = [
                    occurrence
                    for collection, activities in waiting[delivery_id].items()
                    for occurrence in (
                        self._of_collection(found, collection, activities, piece)
                        if isinstance(found, Delivery)
                        else self._without_delivery(delivery_id, collection, activities, piece)
                    )
                ]
                yield piece

    def _opens_and_clicks(self, delivery: Delivery, waiting: Activities, piece: Piece) -> Iterator[Occurrence]:
        start, end = self._ages.part_of(self._interval, delivery.created)
        for collection in self._repeating:
            if collection.channel != delivery.type:
                continue
            activities = waiting.get(collection, [])
            yield from self._of_collection(delivery, collection, activities, piece)
            first = time_of(delivery, collection.metric, piece.skipped)
            told = {one.timestamp for one in activities}
            for time in dict.fromkeys((first, human_time(delivery, collection.metric))):
                if time is not None and start <= time < end and time not in told:
                    piece.read["opens_and_clicks_without_activity"] += 1
                    yield from self._unless_of_machine(occurrence_at(delivery, collection, time), piece)

    def _of_collection(
        self, delivery: Delivery, collection: Collection, activities: Sequence[Activity], piece: Piece
    ) -> Iterator[Occurrence]:
        first, first_human = _first_ones(delivery, collection.metric, activities)
        for activity in activities:
            is_first = activity is first or activity is first_human
            yield from self._unless_of_machine(
                Occurrence(
                    delivery,
                    collection,
                    activity.timestamp,
                    engagement_in(activity.data or {}),
                    None if is_first else activity.id,
                    first_human=activity is first_human,
                ),
                piece,
            )

    def _without_delivery(
        self, delivery_id: str, collection: Collection, activities: Sequence[Activity], piece: Piece
    ) -> Iterator[Occurrence]:
        """Yield opens and clicks of a delivery that Customer.io no longer has, or whose row is malformed.

        The first one is unknown, so each has a key.
        """
        for activity in activities:
            message = Message(
                id=delivery_id,
                type=collection.channel,
                customer_identifiers=activity.customer_identifiers,
                customer_id=activity.customer_id,
            )
            engagement = engagement_in(activity.data or {})
            occurrence = Occurrence(message, collection, activity.timestamp, engagement, activity.id)
            yield from self._unless_of_machine(occurrence, piece)

    def _unless_of_machine(self, occurrence: Occurrence, piece: Piece) -> Iterator[Occurrence]:
        if self._humans_only and occurrence.engagement and occurrence.engagement.is_of_machine:
            piece.skipped["machine"] += 1
        else:
            yield occurrence


@contextmanager
def _explained() -> Iterator[None]:
    """Explain errors of SQLite's file.

    :raises TryAgainLaterError: it can't be written or read. The text names its folder.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise TryAgainLaterError(
            f"Activities can't be written to a temporary file in {_folder_of_sqlite()} ({error}). Free space there, or "
            "set TMPDIR to a folder with more. A retry reads them anew."
        ) from error


def _folder_of_sqlite() -> str:
    """Return the folder of SQLite's temporary files, chosen as SQLite does."""
    names = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp", "/usr/tmp", "/tmp")
    return next((one for one in names if one and os.path.isdir(one) and os.access(one, os.W_OK | os.X_OK)), ".")


class PendingActivities:
    """Activities that wait for their deliveries, in a temporary file, because a day may not fit into memory.

    A repeated activity is kept once: rows shift while they are read. A delivery's activities can be taken again,
    because a delivery may be in both lists, of drafts and of sent ones, and has the same occurrences in both.
    """

    @_explained()
    def __init__(self) -> None:
        self._rows = sqlite3.connect("", isolation_level=None)  # an unnamed file, so a killed task leaves none behind
        self._rows.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE waiting (id TEXT PRIMARY KEY, delivery TEXT, collection TEXT, activity BLOB, taken INT)"
            " WITHOUT ROWID;"
            "CREATE INDEX by_delivery ON waiting (delivery);"
            "CREATE INDEX not_taken ON waiting (delivery) WHERE taken = 0;"
        )

    @_explained()
    def add(self, collection: Collection, activities: Iterable[tuple[str, Activity]]) -> int:
        """Add activities, each with its delivery id, and return the number of new ones."""
        before = self._rows.total_changes
        self._rows.executemany(
            "INSERT OR IGNORE INTO waiting VALUES (?, ?, ?, ?, 0)",
            ((activity.id, delivery, collection.name, _encode(activity)) for delivery, activity in activities),
        )
        return self._rows.total_changes - before

    @_explained()
    def take(self, delivery_ids: Sequence[str]) -> dict[str, Activities]:
        """Return the activities of these deliveries, and mark them as taken."""
        found: dict[str, Activities] = {}
        for at in range(0, len(delivery_ids), _MOST_VARIABLES):
            ids = delivery_ids[at : at + _MOST_VARIABLES]
            marks = ",".join("?" * len(ids))
            rows = self._rows.execute(
                f"SELECT delivery, collection, activity FROM waiting WHERE delivery IN ({marks})", ids
            ).fetchall()
            if rows:
                self._rows.execute(f"UPDATE waiting SET taken = 1 WHERE taken = 0 AND delivery IN ({marks})", ids)
            for delivery, collection, activity in rows:
                found.setdefault(delivery, {}).setdefault(CATALOG[collection], []).append(_decode(activity))
        return found

    @_explained()
    def delivery_ids(self, most: int) -> list[str]:
        """Return up to `most` ids of deliveries whose activities have not been taken."""
        return [
            row[0]
            for row in self._rows.execute("SELECT DISTINCT delivery FROM waiting WHERE taken = 0 LIMIT ?", (most,))
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()


def _first_ones(
    delivery: Delivery, metric: str, activities: Sequence[Activity]
) -> tuple[Activity | None, Activity | None]:
    """Return the first of all, and the first that a person made if that has another time.

    Each has the time that the delivery shows. A machine's activity is never the first by a person. It is the first of
    all only if the delivery's first by a person has another time, or if no person's activity has that time.
    """

    def at(time: int | None, *, by_person: bool) -> Activity | None:
        ones = [one for one in activities if one.timestamp == time]
        people = [one for one in ones if not engagement_in(one.data or {}).is_of_machine] if by_person else ones
        return min(people, key=lambda one: one.id, default=None)

    time, human = delivery.metrics.get(metric), human_time(delivery, metric)
    if time == human:
        return at(time, by_person=True) or at(time, by_person=False), None
    return at(time, by_person=False), at(human, by_person=True)


def delivery_id_of(activity: Activity) -> str | None:
    """Return the id of the delivery that was opened or clicked; None if the activity names none."""
    inside = (activity.data or {}).get("delivery_id")
    return activity.delivery_id or (inside if isinstance(inside, str) and inside else None)


def _may_be_in(interval: Interval, row: Malformed, page: Page[Activity]) -> bool:
    """Return whether a malformed row may belong to the interval. Without a time, it is as old as its page."""
    if row.created is not None:
        return interval.start <= row.created < interval.end
    times = [activity.timestamp for activity in page.rows]
    return not times or (min(times) < interval.end and max(times) >= interval.start)

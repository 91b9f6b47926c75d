"""Every open and click, from `/v1/activities`: which to read, and how they wait for their deliveries.

An activity has the link and the time of one open or click, and its delivery has the subject, the campaign and the rest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import msgspec

from airflow_provider_cio.events.catalog import CATALOG, Collection
from airflow_provider_cio.records import Activity, Delivery

#: (channel, metric) of which a delivery shows one time only, and activities every one. Among the types of activity that
#: the App API's specification lists are no Slack click, no WhatsApp open or click: there the delivery's time is all.
REPEATING = {
    ("email", "opened"),
    ("email", "clicked"),
    ("push", "opened"),
    ("push", "clicked"),
    ("in_app", "opened"),
    ("in_app", "clicked"),
    ("twilio", "clicked"),
    ("webhook", "clicked"),
}
#: Days for which Customer.io guarantees activities.
GUARANTEED_DAYS = 30

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Activity).decode


def activity_type(collection: Collection) -> str:
    """`type` in `/v1/activities`, e.g. ``opened_email``."""
    return f"{collection.metric}_{collection.channel}"


def delivery_of(activity: Activity) -> str | None:
    """Id of the activity's delivery."""
    inside = (activity.data or {}).get("delivery_id")
    return activity.delivery_id or (inside if isinstance(inside, str) and inside else None)


def stand_in(delivery_id: str, collection: Collection, activity: Activity) -> Delivery:
    """For a delivery that Customer.io has no more: what its activity tells."""
    return Delivery(
        id=delivery_id,
        type=collection.channel,
        created=0,
        metrics={},
        customer_identifiers=activity.customer_identifiers,
        customer_id=activity.customer_id,
    )


class Waiting:
    """Activities that wait for their deliveries, in a temporary file: a day of them may not fit into memory.

    Each is given out once, and an activity that comes twice (rows shift while they are read) is kept once.
    """

    def __init__(self) -> None:
        self._rows = sqlite3.connect("", isolation_level=None)  # a file without a name: even a killed task leaves none
        self._rows.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE waiting (id TEXT PRIMARY KEY, delivery TEXT, collection TEXT, activity BLOB) WITHOUT ROWID;"
            "CREATE INDEX by_delivery ON waiting (delivery);"
        )

    def add(self, collection: Collection, activities: Iterable[tuple[str, Activity]]) -> int:
        """Pairs of delivery id and activity; returns how many were new."""
        before = self._rows.total_changes
        self._rows.executemany(
            "INSERT OR IGNORE INTO waiting VALUES (?, ?, ?, ?)",
            ((activity.id, delivery, collection.name, _encode(activity)) for delivery, activity in activities),
        )
        return self._rows.total_changes - before

    def take(self, delivery_ids: Sequence[str]) -> dict[str, list[tuple[Collection, Activity]]]:
        """What waits for these deliveries, and waits no longer."""
        found: dict[str, list[tuple[Collection, Activity]]] = {}
        marks = ",".join("?" * len(delivery_ids))
        rows = self._rows.execute(
            f"SELECT delivery, collection, activity FROM waiting WHERE delivery IN ({marks})", delivery_ids
        ).fetchall()
        if rows:
            self._rows.execute(f"DELETE FROM waiting WHERE delivery IN ({marks})", delivery_ids)
        for delivery, collection, activity in rows:
            found.setdefault(delivery, []).append((CATALOG[collection], _decode(activity)))
        return found

    def deliveries(self, collections: Sequence[Collection]) -> int:
        """How many are waited for by activities of these collections."""
        marks = ",".join("?" * len(collections))
        names = [collection.name for collection in collections]
        rows = self._rows.execute(f"SELECT COUNT(DISTINCT delivery) FROM waiting WHERE collection IN ({marks})", names)
        return int(rows.fetchone()[0])

    def delivery_ids(self, most: int) -> list[str]:
        """Some that are waited for; an empty list if none is."""
        return [row[0] for row in self._rows.execute("SELECT DISTINCT delivery FROM waiting LIMIT ?", (most,))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()


def inside(activities: Iterable[Activity], start: int, end: int) -> Iterator[Activity]:
    """Those with a time in ``[start, end)``."""
    return (activity for activity in activities if start <= activity.timestamp < end)

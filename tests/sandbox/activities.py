"""Rows of GET /v1/activities: one for each thing that happened, newest first but not quite (2.1 to 2.4).

Nothing here exists until somebody asks for it: the rows follow from those of the deliveries, each is encoded
when a page first shows it, and the order is worked out once for each disorder.
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

import msgspec

from tests.sandbox.catalog import CHANNELS
from tests.sandbox.delivery import REPEATED, Engagement, base_of, is_time
from tests.sandbox.dice import upto
from tests.sandbox.engagements import activity_id, engagements
from tests.sandbox.late import lateness
from tests.sandbox.rows import Rows

#: Rows out of order, of a hundred.
DISORDERED = 4
_KEPT = 1 << 18  # encoded rows
_NUMBERS = 256  # more things than these do not happen to one delivery
_ORDERLY = 99
_DEVICES = {"email": "email", "twilio": "phone", "whatsapp": "phone"}

_encode = msgspec.json.Encoder().encode


class _Seen(msgspec.Struct):
    """Parts of a delivery's row from which its activities follow."""

    id: str
    type: str = "email"
    metrics: dict[str, Any] | None = None


_seen = msgspec.json.Decoder(_Seen).decode


class Wanted(NamedTuple):
    """Filter of a request; None means no filter."""

    type: str | None = None
    name: str | None = None
    #: (kind of identifier, its value)
    person: tuple[str, str] | None = None


class Happening(NamedTuple):
    """One thing that happened to a delivery; `number` counts the opens and the clicks."""

    metric: str
    time: int
    number: int = 0
    engagement: Engagement | None = None


def happenings(
    delivery_id: str, channel: str, metrics: Mapping[str, Any], *, repeated: bool, same_second: float = 0.0
) -> list[Happening]:
    """Return everything that happened to a delivery, with each open and click, in an order that never changes."""
    found = [
        Happening(metric, time)
        for metric, time in metrics.items()
        if metric != "created" and base_of(metric) not in REPEATED and is_time(time)
    ]
    counts = dict.fromkeys(REPEATED, 0)
    for one in engagements(delivery_id, channel, metrics, repeated=repeated, same_second=same_second):
        found.append(Happening(one.metric, one.time, counts[one.metric], one))
        counts[one.metric] += 1
    return found


class Activities:
    """The rows that follow from `deliveries`, and further ones.

    :param repeated: see `engagements`, and so for `same_second`.
    :param others: rows of which no delivery knows.
    :param as_given: show only those, in this very order.
    """

    def __init__(
        self,
        deliveries: Rows,
        *,
        repeated: bool,
        same_second: float = 0.0,
        others: Sequence[Mapping[str, Any]] = (),
        as_given: bool = False,
    ) -> None:
        self._deliveries, self._repeated, self._same_second = deliveries, repeated, same_second
        self._others, self._as_given = others, as_given
        self._types: dict[str, int] = {}
        # One entry for each row: its time, its type, what decides on its disorder, and where it comes from:
        # the position of the delivery and the place among its happenings, or ~ the position among the others.
        self._times, self._type_codes = array("q"), array("H")
        self._dice, self._sources = array("I"), array("q")
        self._lateness = array("I")
        self._views: dict[tuple[Wanted, int], Sequence[int]] = {}
        self._row = lru_cache(_KEPT)(self._encoded)
        if not as_given:
            self._add_happenings()
        for number, row in enumerate(others):
            dice = _ORDERLY if as_given else zlib.crc32(str(row["id"]).encode())
            delivery_id, metric = row.get("delivery_id") or row["id"], row["type"].partition("_")[0]
            self._add(row["timestamp"], row["type"], dice, ~number, lateness(delivery_id, metric))

    def __len__(self) -> int:
        return len(self._times)

    def listing(self, wanted: Wanted, *, disorder: int, oldest: int | None) -> Sequence[int]:
        """Return the numbers of the rows that match a request, in the order of the list.

        :param disorder: no row stands behind one that is older by more seconds than this.
        :param oldest: what is older may be missing.
        """
        view = self._view(wanted, disorder)
        if oldest is None:
            return view
        if self._as_given:
            return [entry for entry in view if self._times[entry] >= oldest]
        return view[: bisect_right(view, disorder - oldest, key=lambda entry: -self._shown(entry, disorder))]

    def encoded(self, entry: int) -> bytes:
        return self._row(entry)

    def decoded(self, entry: int) -> dict[str, Any]:
        return self._decoded(entry)

    def shown_from(self, entry: int, most: int) -> int:
        """Return the time from which a row is visible: its own, or up to `most` seconds later (see `late`)."""
        return self._times[entry] + upto(self._lateness[entry], most)

    @property
    def dice(self) -> Sequence[int]:
        """Return a number of 32 bits for each row, which depends on nothing but the row."""
        return self._dice

    def find(self, ids: Iterable[str]) -> dict[str, int]:
        """Return the numbers of the rows that have these ids."""
        wanted = set(ids)
        if not wanted:
            return {}
        found = ((self._decoded(entry)["id"], entry) for entry in range(len(self)))
        return {id: entry for id, entry in found if id in wanted}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows in an undefined order, and keep none of them."""
        for entry in range(len(self)):
            yield self._decoded(entry)

    def _add_happenings(self) -> None:
        for position, data in enumerate(self._deliveries.data):
            row = _seen(data)
            happened = self._happenings(position, row.id, row.type, row.metrics)
            for place, one in enumerate(happened[:_NUMBERS]):
                dice = zlib.crc32(f"{row.id} {place}".encode())
                late = lateness(row.id, one.metric)
                self._add(one.time, f"{one.metric}_{row.type}", dice, position * _NUMBERS + place, late)

    def _happenings(self, at: int, id: str, channel: str, metrics: Mapping[str, Any] | None) -> list[Happening]:
        known = {**(metrics or {}), **self._deliveries.counts.get(at, {})}
        return happenings(id, channel, known, repeated=self._repeated, same_second=self._same_second)

    def _add(self, time: int, type: str, dice: int, source: int, late: int) -> None:
        self._times.append(time)
        self._type_codes.append(self._types.setdefault(type, len(self._types)))
        self._dice.append(dice)
        self._sources.append(source)
        self._lateness.append(late)

    def _shown(self, entry: int, disorder: int) -> int:
        """Return the time by which a row is sorted: earlier than its own if it came late, later if it is ahead."""
        time, dice = self._times[entry], self._dice[entry]
        if not disorder or dice % 100 >= DISORDERED:
            return time
        return time + dice // 100 % (disorder + 1) - disorder // 2

    def _view(self, wanted: Wanted, disorder: int) -> Sequence[int]:
        """Return the entries that match a request, newest first; those of one second keep their order."""
        view = self._views.get((wanted, disorder))
        if view is None:
            view = self._views[wanted, disorder] = memoryview(array("q", self._select(wanted, disorder)))
        return view

    def _select(self, wanted: Wanted, disorder: int) -> Iterable[int]:
        if wanted == Wanted():
            entries = range(len(self))
            return entries if self._as_given else sorted(entries, key=lambda entry: -self._shown(entry, disorder))
        if wanted.name is None and wanted.person is None:
            code = self._types.get(wanted.type or "", -1)
            return [entry for entry in self._view(Wanted(), disorder) if self._type_codes[entry] == code]
        view = self._view(Wanted(wanted.type), disorder)
        return [entry for entry in view if _concerns(self._decoded(entry), wanted)]

    def _encoded(self, entry: int) -> bytes:
        return _encode(self._decoded(entry))

    def _decoded(self, entry: int) -> dict[str, Any]:
        source = self._sources[entry]
        if source < 0:
            return dict(self._others[~source])
        position, place = divmod(source, _NUMBERS)
        delivery = msgspec.json.decode(self._deliveries.data[position])
        channel = delivery.get("type", "email")
        happened = self._happenings(position, delivery["id"], channel, delivery.get("metrics"))
        return row_of(delivery, channel, happened[place])


def row_of(delivery: Mapping[str, Any], channel: str, one: Happening) -> dict[str, Any]:
    """Return the row of something that happened to a delivery, which is given as GET /v1/messages shows it."""
    id = activity_id(delivery["id"], one.metric, one.number, one.time)
    dice = zlib.crc32(id.encode())
    row = {
        "id": id,
        "type": f"{one.metric}_{channel}",
        "timestamp": one.time,
        "customer_id": delivery.get("customer_id"),
        "customer_identifiers": _identifiers(delivery.get("customer_identifiers"), dice),
        "delivery_id": delivery["id"],
        "data": {"delivery_id": delivery["id"], one.metric: one.time},
    }
    device = _DEVICES.get(channel) or (("ios", "android")[dice % 2] if channel == "push" else None)
    if device is not None:
        row["delivery_type"] = device
    if one.engagement is not None:
        row["data"] |= _details(one.engagement, channel, delivery.get("msg_template_id"), dice)
    return row


def engagements_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Engagement]]:
    """Return the opens and clicks among rows, by delivery."""
    found: dict[str, list[Engagement]] = {}
    for row in rows:
        metric, _, channel = row["type"].partition("_")
        if metric not in REPEATED or channel not in CHANNELS:
            continue
        data: Mapping[str, Any] = row.get("data") or {}
        delivery_id = str(row.get("delivery_id") or data.get("delivery_id"))
        one = Engagement(
            delivery_id,
            metric,
            row["timestamp"],
            row["id"],
            link=data.get("href") or data.get("link"),
            prefetched=bool(data.get("prefetched")),
            machine=bool(data.get("machine")),
            ip_address=data.get("ip_address") or None,
            user_agent=data.get("user_agent") or None,
        )
        found.setdefault(delivery_id, []).append(one)
    return found


def other_activities(seed: int, count: int, start: int, end: int) -> list[dict[str, Any]]:
    """Return activities without a delivery: events, pages, changed attributes."""
    rng = Random(f"{seed} other activities")
    found: list[dict[str, Any]] = []
    for number in range(count):
        time = start + int(rng.random() * (end - start))
        person = f"user_{int(rng.random() * 1000):06d}"
        row: dict[str, Any] = {
            "id": activity_id(f"other {seed}", "", number, time),
            "timestamp": time,
            "customer_id": person,
            "customer_identifiers": {"id": person, "email": None, "cio_id": f"d9c2{number:08x}"},
        }
        kind = rng.random()
        if kind < 0.5:
            row |= {"type": "event", "name": ("Order Placed", "bestellt ✓")[number % 2], "data": {"total": 9.5}}
        elif kind < 0.8:
            row |= {"type": "page", "url": "https://example.com/", "data": None}
        else:
            row |= {"type": "attribute_change", "name": "plan", "data": {"plan": {"from": "", "to": "opened_email"}}}
        found.append(row)
    return found


def _identifiers(known: Mapping[str, Any] | None, dice: int) -> dict[str, Any] | None:
    """Return the identifiers as the delivery shows them. "Live rows may lack `id`"; a deleted person has only the
    `cio_id`.
    """
    if known is None:
        return None
    if not known.get("id") and not known.get("email"):
        return {"cio_id": known.get("cio_id")}
    return {key: value for key, value in known.items() if key != "id" or dice % 29}


def _details(one: Engagement, channel: str, template_id: int | None, dice: int) -> dict[str, Any]:
    """Return the `data` of an open or a click (reference/customerio.md 2.3)."""
    data: dict[str, Any] = {}
    if one.ip_address is not None:
        data["ip_address"] = one.ip_address
    if one.user_agent is not None:
        data["user_agent"] = one.user_agent
    if template_id is not None:
        data["template_id"] = template_id
    if one.link is not None:
        data["href" if dice % 2 else "link"] = one.link
    if one.metric == "clicked":
        if one.machine:
            data["machine"] = True
    elif one.prefetched or dice % 3:
        data["prefetched"] = one.prefetched
    if channel == "email" and one.metric == "opened":
        data["email_client"] = "Gmail" if one.prefetched else "Apple Mail"
        data["proxied"] = one.prefetched
    return data


def _concerns(row: Mapping[str, Any], wanted: Wanted) -> bool:
    if wanted.name is not None and row.get("name") != wanted.name:
        return False
    if wanted.person is None:
        return True
    kind, value = wanted.person
    known = row.get("customer_identifiers") or {}
    if kind == "id":
        return value in {str(known.get("id")), str(row.get("customer_id"))}
    return value == (f"cio_{known.get('cio_id')}" if kind == "cio_id" else known.get(kind))

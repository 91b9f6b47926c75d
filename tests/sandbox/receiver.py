"""Segment's treatment of a request: judge, deduplicate, correct the time, remember."""

from __future__ import annotations

import json
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from tests.sandbox.limiters import Bucket
from tests.sandbox.settings import Asked, Settings

# Limits of reference/segment.md 1.4. "KB" may be 1000 or 1024 bytes: the smaller one for the body, the
# one that the official client counts with for an event.
MAX_BODY = 500_000
MAX_EVENT = 32 * 1024
MAX_EVENTS = 2500
MAX_MESSAGE_ID = 100
DEDUP_SECONDS = 24 * 3600

KINDS = ("identify", "track", "page", "screen", "group", "alias")


class Facts(msgspec.Struct, rename="camel"):
    """Parts of an event by which Segment judges it. All other parts are free."""

    type: Any = None
    event: Any = None
    user_id: Any = None
    anonymous_id: Any = None
    message_id: Any = None
    timestamp: Any = None
    properties: msgspec.Raw = msgspec.Raw(b"{}")
    traits: msgspec.Raw = msgspec.Raw(b"{}")


class Envelope(msgspec.Struct, rename="camel"):
    """Fields of a batch beside its events."""

    batch: list[msgspec.Raw] = []
    write_key: Any = None
    sent_at: Any = None
    context: Any = None
    integrations: Any = None


_facts = msgspec.json.Decoder(Facts)


class Arrival(NamedTuple):
    """Facts that all events of one request share."""

    envelope: Envelope
    received_at: datetime
    write_key: str


class Receiver:
    """Store of the arrived events, of the dropped ones with the reason, and of the duplicates.

    With Settings(remember="counts") the lists of events stay empty and only the counts go on.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.requests: list[Asked] = []
        self._kept = _Shelf()
        self._duplicates = _Shelf()
        #: (reason, event as it was sent; None for an empty batch)
        self.dropped: list[tuple[str, Any]] = []
        self.received_count = 0
        self.kept_count = 0
        self.duplicate_count = 0
        self.dropped_counts: Counter[str] = Counter()
        #: How many events of each name were kept.
        self.events: Counter[str] = Counter()
        self.rate_limited = 0
        self.bucket = Bucket()
        self._seen: dict[str | int, float] = {}

    @property
    def kept(self) -> list[dict[str, Any]]:
        """The events that Segment kept, in the order of their arrival.

        Each has its corrected `timestamp`, `originalTimestamp`, `receivedAt`, `sentAt`, and the `writeKey`
        of the source that it came through.
        """
        return self._kept.events()

    @property
    def duplicates(self) -> list[dict[str, Any]]:
        """Events that were dropped because their `messageId` was seen within 24 hours."""
        return self._duplicates.events()

    def receive(
        self,
        events: list[msgspec.Raw],
        envelope: Envelope,
        write_key: str,
        settings: Settings,
        kind: str | None,
    ) -> None:
        """Take the events of one request that was answered with 200.

        :param kind: the call's type for a single call; None for a batch, whose events name their own.
        :raises msgspec.DecodeError: if an event is not JSON; then nothing was taken.
        """
        judged = [(raw, _read(raw)) for raw in events]
        self.received_count += len(events)
        everything = self._objection(events, write_key, settings)
        if not events:
            self._drop(everything or "empty_batch", None, settings)
            return
        now = settings.clock()
        arrival = Arrival(envelope, datetime.fromtimestamp(now, UTC), write_key)
        for raw, facts in judged:
            reason = everything or objection(raw, facts, kind)
            if reason is not None or facts is None:
                self._drop(reason or "event_not_object", raw, settings)
                continue
            new = self._is_new(facts.message_id, now, settings)
            if new:
                self.kept_count += 1
                if isinstance(facts.event, str):
                    self.events[facts.event] += 1
            else:
                self.duplicate_count += 1
            if settings.remember == "events":
                (self._kept if new else self._duplicates).put(raw, arrival)

    def report(self, *, events: bool = False) -> dict[str, Any]:
        """Return the counts, as the control route shows them."""
        report: dict[str, Any] = {
            "requests": len(self.requests),
            "received": self.received_count,
            "kept": self.kept_count,
            "duplicates": self.duplicate_count,
            "dropped": dict(self.dropped_counts),
            "rate_limited": self.rate_limited,
            "faults": sum(asked.fault is not None for asked in self.requests),
            "by_event": dict(self.events),
        }
        if events:
            report["events"] = self.kept
            report["repeated"] = self.duplicates
        return report

    def _objection(self, events: list[msgspec.Raw], write_key: str, settings: Settings) -> str | None:
        """Return the reason why nothing of a request is kept, though it is answered with 200."""
        if write_key != settings.write_key and write_key not in settings.write_keys:
            return "unknown_write_key"
        if len(events) > MAX_EVENTS:
            return "batch_too_long"
        return None

    def _drop(self, reason: str, raw: msgspec.Raw | None, settings: Settings) -> None:
        self.dropped_counts[reason] += 1
        if settings.remember == "events":
            self.dropped.append((reason, None if raw is None else _decode(raw)))

    def _is_new(self, message_id: str | None, now: float, settings: Settings) -> bool:
        """Return whether an id was not seen within 24 hours, under any write key (reference/segment.md 2)."""
        if not message_id:
            return True  # Segment makes one up
        key = message_id if settings.remember == "events" else hash(message_id)
        seen = self._seen.get(key)
        if seen is not None and now - seen < DEDUP_SECONDS:
            return False
        self._seen[key] = now
        return True


def objection(raw: msgspec.Raw, facts: Facts | None, kind: str | None) -> str | None:
    """Return the reason why Segment drops an event silently; the reasons are those of reference/segment.md 1.5.

    It lists none for sizes and for a missing type: `event_too_large`, `message_id_too_long`,
    `message_id_not_string`, `type_not_defined` and `timestamp_not_valid` are this sandbox's words.
    """
    if facts is None:
        return "event_not_object"
    if len(memoryview(raw)) > MAX_EVENT:
        return "event_too_large"
    if (facts.type if kind is None else kind) not in KINDS:
        return "type_not_defined"
    if facts.user_id is None and facts.anonymous_id is None:
        return "no_user_anon_id"
    for one in (facts.user_id, facts.anonymous_id):
        if one is not None and (not isinstance(one, str) or not one):
            return "id_not_string"
    if (facts.type if kind is None else kind) == "track":
        if facts.event is None or facts.event == "":
            return "event_not_defined"
        if not isinstance(facts.event, str):
            return "event_not_string"
    if not _is_object(facts.properties):
        return "properties_not_object"
    if not _is_object(facts.traits):
        return "traits_not_object"
    if facts.message_id is not None and not isinstance(facts.message_id, str):
        return "message_id_not_string"
    if facts.message_id and len(facts.message_id) > MAX_MESSAGE_ID:
        return "message_id_too_long"
    if facts.timestamp is not None and parse_time(facts.timestamp) is None:
        return "timestamp_not_valid"
    return None


def parse_time(value: object) -> datetime | None:
    """Parse an ISO 8601 time; without a zone it is taken for UTC."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def corrected(original: datetime, sent_at: datetime | None, received_at: datetime) -> datetime:
    """Return `timestamp = receivedAt - (sentAt - originalTimestamp)` (reference/segment.md 1.7).

    Without a `sentAt` the time is taken as it is, which is what most of the evidence says.
    """
    return original if sent_at is None else received_at - (sent_at - original)


def _decode(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.ValidationError:  # a number that is too large for a float
        return json.loads(bytes(raw))


def _is_object(raw: msgspec.Raw) -> bool:
    return memoryview(raw)[0] == ord("{")


def _read(raw: msgspec.Raw) -> Facts | None:
    try:
        return _facts.decode(raw)
    except msgspec.ValidationError:
        return None


class _Shelf:
    """List of events that are decoded when first read, so that receiving stays cheap."""

    def __init__(self) -> None:
        self._arrived: deque[tuple[msgspec.Raw, Arrival]] = deque()
        self._events: list[dict[str, Any]] = []

    def put(self, raw: msgspec.Raw, arrival: Arrival) -> None:
        self._arrived.append((raw, arrival))

    def events(self) -> list[dict[str, Any]]:
        while self._arrived:
            raw, arrival = self._arrived.popleft()
            self._events.append(_complete(_decode(raw), arrival))
        return self._events


def _complete(event: dict[str, Any], arrival: Arrival) -> dict[str, Any]:
    """Return the event as Segment passes it on: merged with the fields of the batch, and with its times."""
    envelope, received_at, write_key = arrival
    for name, common in (("context", envelope.context), ("integrations", envelope.integrations)):
        if isinstance(common, dict) and common:
            own = event.get(name)
            event[name] = {**common, **own} if isinstance(own, dict) else dict(common)
    sent_at = event.get("sentAt") or envelope.sent_at
    said = event.get("timestamp")
    original = parse_time(said)
    event["writeKey"] = write_key
    event["receivedAt"] = _iso(received_at)
    event["sentAt"] = sent_at
    event["originalTimestamp"] = said if original is not None else event["receivedAt"]
    if original is None:
        event["timestamp"] = event["receivedAt"]
    else:
        try:
            event["timestamp"] = _iso(corrected(original, parse_time(sent_at), received_at))
        except OverflowError:
            event["timestamp"] = event["receivedAt"]
    return event


def _iso(time: datetime) -> str:
    """Format a time in UTC with milliseconds, rounded down."""
    utc = time.astimezone(UTC) if time.tzinfo is not UTC else time
    utc -= timedelta(microseconds=utc.microsecond % 1000)
    return utc.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"

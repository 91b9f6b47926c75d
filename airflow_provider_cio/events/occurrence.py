"""Occurrences, pulled or pushed: a metric that happened to a message at a time. Pure. Times are Unix seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import msgspec

from airflow_provider_cio.events.catalog import Collection
from airflow_provider_cio.events.interval import Window

#: Unknown metrics that are named at most, because a service may send any number of them.
MOST_NAMED = 5
#: Integer or text: the specification and live answers do not agree.
Id = str | int | None
#: Digits that always fit into 64 bits.
_MOST_DIGITS = 18


class Identifiers(msgspec.Struct, gc=False):
    """Ids of a person. Unset ids are null or empty."""

    id: Id = None
    email: str | None = None
    cio_id: Id = None


class Device(msgspec.Struct, omit_defaults=True, gc=False):
    """Device that a push was sent to. If the push failed for it, it has a `failure_message`."""

    device_id: str | None = None
    device_platform: str | None = None
    failure_message: str | None = None


class Reported(msgspec.Struct, frozen=True, gc=False):
    """Facts that only reports tell.

    :param content: body of the message, if the stream asks for it.
    :param to: phone number that a person's answer was sent to.
    :param devices: of a push.
    :param topics: of changed subscription preferences; true if the person subscribes to the topic.
    """

    content: str | None = None
    inbound_event_id: str | None = None
    to: str | None = None
    devices: list[Device] | None = None
    topics: dict[str, bool] | None = None


class Message(msgspec.Struct, gc=False):
    """One message to one person. Its fields have Customer.io's names; unknown ones are None.

    :param id: the delivery's id; empty for a change of a person's subscription that no message caused.
    :param type: the channel, equal to `Collection.channel`.
    :param reported: not part of rows.
    :param created: Unix seconds; only rows tell.
    """

    id: Annotated[str, msgspec.Meta(min_length=1)]
    type: str
    customer_identifiers: Identifiers | None = None
    customer_id: Id = None
    recipient: str | None = None
    subject: str | None = None
    failure_message: str | None = None
    campaign_id: Id = None
    action_id: Id = None
    parent_action_id: Id = None
    newsletter_id: Id = None
    content_id: Id = None
    broadcast_id: Id = None
    transactional_message_id: Id = None
    trigger_event_id: Id = None
    #: Only reporting webhooks have `journey_id` and `trigger_id`.
    journey_id: Id = None
    trigger_id: Id = None
    #: Named by a key that no row has, so that rows can't fill this field.
    reported: Reported | None = msgspec.field(default=None, name="what only reports tell")
    created: int | None = None


class Engagement(msgspec.Struct, frozen=True, gc=False):
    """Link and client of one open or click. Flags are true or missing."""

    href: str | None = None
    link_id: str | int | None = None
    machine: bool | None = None
    prefetched: bool | None = None
    proxied: bool | None = None
    synthetic: bool | None = None
    tracked_response: str | None = None
    ip: str | None = None
    user_agent: str | None = None

    @property
    def is_of_machine(self) -> bool:
        """True if a mail program fetched the message in advance, or a scanner followed the link."""
        return bool(self.machine or self.prefetched)


class Occurrence(msgspec.Struct, frozen=True, gc=False):
    """One metric happening to one message at one time.

    :param engagement: of an open or click, if known.
    :param key: distinguishes a further open or click from the first one, which has no key; and each answer to a
        message, and each report about a person, from the others.
    :param first_human: the first open or click that a person made, where the first of all has another time. It has no
        key either.
    """

    message: Message
    collection: Collection
    time: int
    engagement: Engagement | None = None
    key: str | None = None
    first_human: bool = False

    @property
    def counted_as(self) -> str:
        """The metric of Customer.io's list that has the time of this occurrence, unless it has a key."""
        return f"human_{self.collection.metric}" if self.first_human else self.collection.metric


class Malformed(NamedTuple):
    """A row or a report of another shape than documented.

    :param raw: its JSON as received, except that ``?`` replaces halves of surrogate pairs.
    :param problem: names the field and the types, never a value.
    :param id: its `id`, if that is text.
    :param created: its `created` (an activity's `timestamp`), if that is an integer.
    """

    raw: bytes
    problem: str
    id: str | None = None
    created: int | None = None


@dataclass
class Piece:
    """Occurrences from one answer of a service.

    :param malformed: rows of this interval that can't be read.
    :param read: counts by kind, e.g. ``deliveries``.
    :param skipped: counts, by reason, of rows and metrics that make no event.
    :param unknown: names of up to five metrics that belong to no collection, such as ``email.exploded``.
    :param window: the window that was read, if any.
    :param last: the piece is the last one of its window.
    """

    occurrences: Sequence[Occurrence] = ()
    malformed: Sequence[Malformed] = ()
    read: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    unknown: set[str] = field(default_factory=set)
    window: Window | None = None
    last: bool = False


def engagement_in(data: Mapping[str, Any]) -> Engagement:
    """Return link and client from the `data` of an activity or a report, which is documented only in part."""
    return Engagement(
        href=_text(data, "href", "link"),
        link_id=number_or_text(_text(data, "link_id")),
        machine=_flag(data, "machine"),
        prefetched=_flag(data, "prefetched"),
        proxied=_flag(data, "proxied"),
        synthetic=_flag(data, "synthetic"),
        tracked_response=_text(data, "tracked_response"),
        ip=_first(_text(data, "ip_address", "ip")),
        user_agent=_text(data, "user_agent", "userAgent"),
    )


def number_or_text(value: Id) -> Id:
    """Return text of digits as a number, any other value unchanged, and empty text as None.

    Longer text stays, because no database has a number for it.
    """
    if isinstance(value, str):
        return int(value) if len(value) <= _MOST_DIGITS and value.isdecimal() and value.isascii() else value or None
    return value


def _text(data: Mapping[str, Any], *keys: str) -> str | None:
    """Return the first text or number under these keys. The documentation does not say which key is used."""
    for key in keys:
        value = data.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value)
    return None


def _flag(data: Mapping[str, Any], key: str) -> bool | None:
    return True if data.get(key) is True else None


def _first(listed: str | None) -> str | None:
    """Return the first address of a list such as ``v6, v4``."""
    return listed.split(",")[0].strip() or None if listed else None

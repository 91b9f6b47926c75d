"""Occurrences, whichever road they come by: a message, what happened to it and when, and how. Pure.

Times are Unix seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import msgspec

from airflow_provider_cio.events.catalog import Collection
from airflow_provider_cio.events.interval import Window

Id = str | int | None  # the specification says integer or string, live answers have both


class Identifiers(msgspec.Struct, gc=False):
    """The ids of a person; unset ones are null or empty."""

    id: Id = None
    email: str | None = None
    cio_id: Id = None


class Message(msgspec.Struct, gc=False):
    """One message to one person, as far as the road tells of it. The field names are Customer.io's.

    :param type: the channel, as `Collection.channel` has it.
    :param content: the body of the message, which only a stream can ask for; a row's key of that name is not read.
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
    #: Only reporting webhooks have these two.
    journey_id: Id = None
    trigger_id: Id = None
    content: str | None = msgspec.field(default=None, name="the content of a report")


class Engagement(msgspec.Struct, frozen=True, gc=False):
    """The link and the client of one open or click. Flags are true or missing."""

    href: str | None = None
    link_id: str | None = None
    machine: bool | None = None
    prefetched: bool | None = None
    proxied: bool | None = None
    synthetic: bool | None = None
    tracked_response: str | None = None
    ip: str | None = None
    user_agent: str | None = None

    @property
    def is_of_machine(self) -> bool:
        """Whether a mail program fetched the message ahead, or a scanner followed the link."""
        return bool(self.machine or self.prefetched)


class Occurrence(msgspec.Struct, frozen=True, gc=False):
    """One metric happening to one message at one time.

    :param engagement: of an open or click, if the road tells of it.
    :param key: tells a further open or click from the message's first one, which has none.
    """

    message: Message
    collection: Collection
    time: int
    engagement: Engagement | None = None
    key: str | None = None


class Malformed(NamedTuple):
    """A row or a report of another shape than documented.

    :param raw: its JSON as received, but for halves of surrogate pairs, which are replaced by ``?``.
    :param problem: names field and kinds, never a value.
    :param id: if the row is an object with a text as `id`.
    :param created: its `created` (of an activity its `timestamp`), if that is a plain integer.
    """

    raw: bytes
    problem: str
    id: str | None = None
    created: int | None = None


@dataclass
class Piece:
    """The part of a run's occurrences that one answer of a service brought.

    :param malformed: rows that would belong to this interval, and can't be read.
    :param read: counts by kind, e.g. ``deliveries``.
    :param skipped: counts by reason of rows and metrics that make no event.
    :param window: the window that the piece is of; None for a piece of none.
    :param last: with this piece its window has been read to the end.
    """

    occurrences: Sequence[Occurrence] = ()
    malformed: Sequence[Malformed] = ()
    read: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    window: Window | None = None
    last: bool = False


def engagement_in(data: Mapping[str, Any]) -> Engagement:
    """Read the link and the client from the `data` of an activity or a report, which is documented only in part."""
    return Engagement(
        href=_text(data, "href", "link"),
        link_id=_text(data, "link_id"),
        machine=_flag(data, "machine"),
        prefetched=_flag(data, "prefetched"),
        proxied=_flag(data, "proxied"),
        synthetic=_flag(data, "synthetic"),
        tracked_response=_text(data, "tracked_response"),
        ip=_first(_text(data, "ip_address", "ip")),
        user_agent=_text(data, "user_agent", "userAgent"),
    )


def _text(data: Mapping[str, Any], *keys: str) -> str | None:
    """Return the text or number under the first key that has one; which of them is real is not documented."""
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

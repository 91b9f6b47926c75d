"""The Segment `track` call made from an occurrence: its fields, its encoding, its limits. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import msgspec

#: Bytes of one uncompressed event ("Errors" in Segment's documentation of the HTTP Tracking API).
MAX_EVENT_BYTES = 32 * 1024
#: Characters of a `messageId` (same page).
MAX_MESSAGE_ID = 100


class Event(msgspec.Struct, tag="track", tag_field="type", rename="camel", omit_defaults=True, gc=False):
    """A `track` call. `properties`, `context` and `integrations` are encoded as JSON objects."""

    event: str
    message_id: str
    timestamp: datetime
    properties: msgspec.Struct
    context: msgspec.Struct
    user_id: str | None = None
    anonymous_id: str | None = None
    integrations: msgspec.Raw | None = None


class Refused(NamedTuple):
    """An event that can't be delivered.

    :param reason: a short name to count by, such as ``refused_413``.
    :param event: encoded.
    :param explanation: text of the service that refused it, if any.
    """

    reason: str
    event: bytes
    explanation: str = ""


encode = msgspec.json.Encoder().encode


def rule_broken(event: Event, encoded: bytes) -> str | None:
    """Return the name of the rule of the Tracking API that the event breaks, or None.

    Segment answers 200 to most such events and drops them, so this is the only place where it shows.
    """
    return rule_broken_by(event.user_id, event.anonymous_id, event.event, event.message_id, len(encoded))


def rule_broken_by(user_id: object, anonymous_id: object, name: str, message_id: str, size: int) -> str | None:
    """Check the fields of an event; see `rule_broken`.

    :param size: bytes of the whole event, encoded.
    """
    if (user_id is None or user_id == "") and (anonymous_id is None or anonymous_id == ""):
        return "unidentified"
    if not (user_id is None or (user_id and isinstance(user_id, str))):
        return "id_not_string"
    if not (anonymous_id is None or (anonymous_id and isinstance(anonymous_id, str))):
        return "id_not_string"
    if not name:
        return "event_not_defined"
    if not 0 < len(message_id) <= MAX_MESSAGE_ID:
        return "message_id_length"
    return "event_too_large" if size > MAX_EVENT_BYTES else None

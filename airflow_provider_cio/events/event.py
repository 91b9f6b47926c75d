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
    :param said: explanation of the service that refused it, if any.
    """

    reason: str
    event: bytes
    said: str = ""


encode = msgspec.json.Encoder().encode


def rule_broken(event: Event, encoded: bytes) -> str | None:
    """The rule of the Tracking API that the event breaks, by name, or None.

    Segment answers 200 to most such events and drops them, so this is the only place where it shows.
    """
    user_id, anonymous_id = event.user_id, event.anonymous_id
    if not (user_id or anonymous_id):
        return "unidentified"
    if user_id == "" or anonymous_id == "":
        return "id_not_string"
    if not event.event:
        return "event_not_defined"
    if not 0 < len(event.message_id) <= MAX_MESSAGE_ID:
        return "message_id_length"
    if len(encoded) > MAX_EVENT_BYTES:
        return "event_too_large"
    return None

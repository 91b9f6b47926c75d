"""What Customer.io tells of a message and of a person: the rows of its App API, typed. A leaf.

Only documented fields are here, of the kinds that reference and live answers show. Times are Unix seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec

#: Unix seconds. What is smaller in `metrics` is a count: `human_*` and `prefetch_*` may be that.
EARLIEST_TIME = 1_000_000_000
#: Unix seconds, in the year 5138. Milliseconds are more.
LATEST_TIME = 100_000_000_000

Id = str | int | None  # the specification says integer or string, live answers have both


class Identifiers(msgspec.Struct, gc=False):
    """The person's ids; unset ones are null or empty."""

    id: Id = None
    email: str | None = None
    cio_id: Id = None


class Delivery(msgspec.Struct, gc=False):
    """One message to one person, an item of `/v1/messages`. Times are Unix seconds.

    `metrics` has one time per recorded metric, and may hold keys and kinds of values that nobody documented.
    """

    id: Annotated[str, msgspec.Meta(min_length=1)]
    type: str
    created: int
    metrics: dict[str, Any]
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


class Activity(msgspec.Struct, gc=False):
    """One open or click: an item of `/v1/activities`, or what a reporting webhook tells of it.

    Times are Unix seconds; `data` is documented only in part.
    """

    id: Annotated[str, msgspec.Meta(min_length=1)]
    timestamp: int
    delivery_id: str | None = None
    delivery_type: str | None = None
    customer_id: Id = None
    customer_identifiers: Identifiers | None = None
    data: dict[str, Any] | None = None
    #: Such as "opened_email". Whoever reads activities has asked for their type, so no row is refused for it.
    type: Any = None


class ReportingWebhook(msgspec.Struct, kw_only=True):
    """One subscription of `/v1/reporting_webhooks`. Its signing key is not part of any answer.

    :param id: None before it is created.
    :param full_resolution: each open and click is reported, not the first ones only.
    """

    name: str
    endpoint: str
    events: list[str]
    id: int | None = None
    disabled: bool = False
    full_resolution: bool = False
    with_content: bool = False


class Malformed(NamedTuple):
    """A row of another shape than documented.

    :param raw: its JSON as received, but for halves of surrogate pairs, which are replaced by ``?``.
    :param problem: names field and kinds, never a value.
    :param id: if the row is an object with a text as `id`.
    :param created: its `created` (of an activity its `timestamp`), if that is a plain integer.
    """

    raw: bytes
    problem: str
    id: str | None = None
    created: int | None = None

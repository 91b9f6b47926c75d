"""Typed rows of Customer.io's App API: deliveries, activities, reporting webhooks.

They have documented fields only, with the types of the documentation and of live answers. Times are Unix seconds.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from airflow_provider_cio.customerio.decoding import LEFT_OUT
from airflow_provider_cio.events.occurrence import Id, Identifiers, Message

#: Fields that only describe a message. An event is worth more without one of them than lost.
DESCRIBING = frozenset(
    (
        "recipient",
        "subject",
        "failure_message",
        "campaign_id",
        "action_id",
        "parent_action_id",
        "newsletter_id",
        "content_id",
        "broadcast_id",
        "transactional_message_id",
        "trigger_event_id",
    )
)


class Delivery(Message, kw_only=True, gc=False):
    """One message to one person, an item of `/v1/messages`.

    :param metrics: one time for each metric; also undocumented keys and types of values.
    :param left_out: names of the describing fields that were left out, because they have another type than documented.
    """

    created: int
    metrics: dict[str, Any]
    left_out: tuple[str, ...] = msgspec.field(default=(), name=LEFT_OUT)


class Activity(msgspec.Struct, gc=False):
    """One open or click, an item of `/v1/activities`. `data` is documented only in part."""

    id: Annotated[str, msgspec.Meta(min_length=1)]
    timestamp: int
    delivery_id: str | None = None
    delivery_type: str | None = None
    customer_id: Id = None
    customer_identifiers: Identifiers | None = None
    data: dict[str, Any] | None = None
    #: Such as "opened_email". Any type is accepted, because a request names its type.
    type: Any = None


class ReportingWebhook(msgspec.Struct, kw_only=True):
    """One item of `/v1/reporting_webhooks`. Customer.io never returns its signing key.

    :param id: None before it is created.
    :param full_resolution: each open and click is reported, not only the first.
    """

    name: str
    endpoint: str
    events: list[str]
    id: int | None = None
    disabled: bool = False
    full_resolution: bool = False
    with_content: bool = False

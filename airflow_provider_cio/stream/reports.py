"""Reporting webhooks: their JSON to typed reports, and these to the occurrences that the mapper knows. Pure.

A report is ``{"event_id", "object_type", "metric", "timestamp", "data"}``. What `data` has depends on the channel, the
metric and on what the message was sent by; whatever is in none of the classes below is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from airflow_provider_cio.customerio.decoding import UNDECODABLE, mended
from airflow_provider_cio.events.catalog import CATALOG, CHANNELS, Collection
from airflow_provider_cio.events.event import MAX_EVENT_BYTES
from airflow_provider_cio.events.interval import is_time
from airflow_provider_cio.events.occurrence import (
    Engagement,
    Id,
    Identifiers,
    Malformed,
    Message,
    Occurrence,
    engagement_in,
)

#: Metrics of a person, not of a message. Their `object_type` is the channel that caused them.
_CUSTOMER_METRICS = frozenset(
    ("subscribed", "subscription_preferences_changed", "cio_subscription_preferences_changed")
)
_REPEATING_METRICS = frozenset(("opened", "clicked"))
_DETAILS = ("href", "link_id", "machine", "prefetched", "proxied", "synthetic", "tracked_response")
_KNOWN = frozenset((collection.channel, collection.metric) for collection in CATALOG.values())


class Recipient(msgspec.Struct, gc=False):
    """A device that a push was sent to."""

    device_id: str | None = None
    failure_message: str | None = None


class Data(msgspec.Struct, gc=False):
    """`data` of a report on a delivery. What only describes is taken as it comes, so that it spoils no report."""

    delivery_id: str | None = None
    identifiers: Identifiers | None = None
    customer_id: Id = None
    recipient: str | None = None
    recipients: list[Recipient] | None = None
    subject: str | None = None
    failure_message: str | None = None
    campaign_id: Id = None
    action_id: Id = None
    journey_id: Id = None
    parent_action_id: Id = None
    trigger_event_id: Id = None
    broadcast_id: Id = None
    trigger_id: Id = None
    newsletter_id: Id = None
    content_id: Id = None
    transactional_message_id: Id = None
    href: Any = None
    link_id: Any = None
    machine: Any = None
    prefetched: Any = None
    proxied: Any = None
    synthetic: Any = None
    tracked_response: Any = None
    content: Any = None
    #: Only customer events have it.
    email_address: Any = None


class Report(msgspec.Struct, gc=False):
    """One reporting webhook. `timestamp` is when it happened, in Unix seconds."""

    metric: str
    timestamp: int
    data: Data
    object_type: str = ""  # the specification calls it `object_type_type` where preferences change
    event_id: str | None = None

    @property
    def channel(self) -> str:
        """As `Collection.channel`."""
        return CHANNELS.get(self.object_type, self.object_type)

    @property
    def is_of_customer(self) -> bool:
        """It is about a person's subscription, though it may say ``email`` and ``unsubscribed``."""
        return (
            self.object_type == "customer"
            or self.metric in _CUSTOMER_METRICS
            or (not self.data.delivery_id and self.data.email_address is not None)
        )


class TooLong(NamedTuple):
    """A report of which no event can be made in time. `field` is the text that is too long."""

    field: str


class Ignored(NamedTuple):
    """A report that nobody has asked for. `reason` is a short name to count by."""

    reason: str


_decode = msgspec.json.Decoder(Report).decode


def read_report(body: bytes) -> Report | Malformed:
    """The report in the body of a request, or what is wrong with it."""
    try:
        return _decode(body)
    except UNDECODABLE:
        pass
    try:
        return _decode(mended(body))
    except UNDECODABLE as error:
        return Malformed(body, str(error))


class Wanted:
    """The collections that a stream sends, and how it makes occurrences of their reports.

    :param full_resolution: each open and click is a report of its own: its `event_id` tells it from the others.
    :param message_content: keep the body of a message that was sent.
    """

    def __init__(
        self, collections: Iterable[Collection], *, full_resolution: bool = False, message_content: bool = False
    ) -> None:
        self._collections = {(one.channel, one.metric): one for one in collections}
        self._full_resolution = full_resolution
        self._message_content = message_content

    def occurrence(self, report: Report) -> Occurrence | Ignored | Malformed:
        """What the report tells of. `Malformed` has no raw body here: the caller knows it."""
        if report.is_of_customer:
            return Ignored("customer_event")
        if not report.object_type:
            return Malformed(b"", "Object missing required field `object_type`")
        channel, metric, data = report.channel, report.metric, report.data
        collection = self._collections.get((channel, metric))
        if collection is None:
            return Ignored("not_asked_for" if (channel, metric) in _KNOWN else "unknown_metric")
        if not data.delivery_id:
            return Malformed(b"", "Object missing required field `delivery_id` - at `$.data`")
        if not is_time(report.timestamp):
            return Malformed(b"", "Expected Unix seconds - at `$.timestamp`")
        engagement = _engagement(data)
        further = self._full_resolution and metric in _REPEATING_METRICS
        return Occurrence(
            _message(channel, data.delivery_id, data, self._content(report) if self._message_content else None),
            collection,
            report.timestamp,
            engagement,
            (report.event_id or None) if further else None,
        )

    def _content(self, report: Report) -> str | None:
        content = report.data.content
        return content if report.metric == "sent" and isinstance(content, str) and content else None


def is_too_long(text: Any) -> bool:
    """No event with this text could be sent: known before it is mapped, which takes long for megabytes."""
    return isinstance(text, str) and len(text) > MAX_EVENT_BYTES


def too_long_to_treat(occurrence: Occurrence) -> str | None:
    """The first text in which to look for personal data would hold up all other reports, by name.

    A failure message is none of them: no more than a leading code stays of it, of whatever length it is.
    """
    message, engagement = occurrence.message, occurrence.engagement or Engagement()
    texts = {
        "subject": message.subject,
        "recipient": message.recipient,
        "id": message.customer_identifiers and message.customer_identifiers.id,
        "customer_id": message.customer_id,
        "href": engagement.href,
        "link_id": engagement.link_id,
        "tracked_response": engagement.tracked_response,
    }
    return next((name for name, text in texts.items() if is_too_long(text)), None)


def _engagement(data: Data) -> Engagement | None:
    """Return the link and the client that a report tells of, if it tells of any."""
    details = {name: value for name in _DETAILS if (value := getattr(data, name)) is not None}
    return engagement_in(details) if details else None


def _message(channel: str, delivery_id: str, data: Data, content: str | None) -> Message:
    """Return the message that a report is about, as far as it tells of it."""
    recipient, failure_message = data.recipient, data.failure_message
    if data.recipients:  # of a push: its devices
        recipient = recipient or ",".join(one.device_id for one in data.recipients if one.device_id) or None
        failures = (one.failure_message for one in data.recipients if one.failure_message)
        failure_message = failure_message or next(failures, None)
    return Message(
        id=delivery_id,
        type=channel,
        customer_identifiers=data.identifiers,
        customer_id=data.customer_id,
        recipient=recipient,
        subject=data.subject,
        failure_message=failure_message,
        campaign_id=data.campaign_id,
        action_id=data.action_id,
        parent_action_id=data.parent_action_id,
        newsletter_id=data.newsletter_id,
        content_id=data.content_id,
        broadcast_id=data.broadcast_id,
        transactional_message_id=data.transactional_message_id,
        trigger_event_id=data.trigger_event_id,
        journey_id=data.journey_id,
        trigger_id=data.trigger_id,
        content=content,
    )

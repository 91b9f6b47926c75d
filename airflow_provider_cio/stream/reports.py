"""Decode reporting webhooks into typed reports, and make occurrences of these. Pure.

A report is ``{"event_id", "object_type", "metric", "timestamp", "data"}``. The fields of `data` depend on the channel,
the metric and the parent of the message. Fields that no class below declares are ignored.
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
#: Metrics that can happen to one message several times.
_REPEATING_METRICS = frozenset(("opened", "clicked"))
#: Fields of `data` that describe an open or click.
_DETAILS = ("href", "link_id", "machine", "prefetched", "proxied", "synthetic", "tracked_response")
#: Channel and metric of every collection.
_KNOWN = frozenset((collection.channel, collection.metric) for collection in CATALOG.values())


class Recipient(msgspec.Struct, gc=False):
    """Device that a push was sent to."""

    device_id: str | None = None
    failure_message: str | None = None


class Data(msgspec.Struct, gc=False):
    """`data` of a report. Details of opens and clicks may have any type, so that they make no report malformed."""

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
    #: Only reports about a person's subscription have `email_address`.
    email_address: Any = None


class Report(msgspec.Struct, gc=False):
    """One reporting webhook. `timestamp` is the time of the occurrence, in Unix seconds."""

    metric: str
    timestamp: int
    data: Data
    object_type: str = ""  # `object_type_type` in the specification of preference changes
    event_id: str | None = None

    @property
    def channel(self) -> str:
        """Channel, as `Collection.channel` names it."""
        return CHANNELS.get(self.object_type, self.object_type)

    @property
    def is_of_customer(self) -> bool:
        """True for a report about a person's subscription, even if it says ``email`` and ``unsubscribed``."""
        return (
            self.object_type == "customer"
            or self.metric in _CUSTOMER_METRICS
            or (not self.data.delivery_id and self.data.email_address is not None)
        )


class TooLong(NamedTuple):
    """Report that would take too long to map. `field` names the text that is too long."""

    field: str


class Ignored(NamedTuple):
    """Report that the stream was not asked for. `reason` is a short name to count by."""

    reason: str


_decode = msgspec.json.Decoder(Report).decode


def read_report(body: bytes) -> Report | Malformed:
    """Decode the body of a request. Return `Malformed`, with the problem, if it is no report."""
    try:
        return _decode(body)
    except UNDECODABLE:
        pass
    try:
        return _decode(mended(body))
    except UNDECODABLE as error:
        return Malformed(body, str(error))


class Wanted:
    """Collections that a stream sends. It makes occurrences of their reports and ignores all others.

    :param full_resolution: every open and click has a report. Its `event_id` distinguishes it from the others.
    :param message_content: keep the body of a message that was sent.
    """

    def __init__(
        self, collections: Iterable[Collection], *, full_resolution: bool = False, message_content: bool = False
    ) -> None:
        self._collections = {(one.channel, one.metric): one for one in collections}
        self._full_resolution = full_resolution
        self._message_content = message_content

    def occurrence(self, report: Report) -> Occurrence | Ignored | Malformed:
        """Return the occurrence of a report, or the reason for none. `Malformed.raw` is empty."""
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
    """Return True if no event can contain this text. Check before mapping, which takes long for megabytes."""
    return isinstance(text, str) and len(text) > MAX_EVENT_BYTES


def overlong_text(occurrence: Occurrence) -> str | None:
    """Return the name of the first text that takes too long to search for personal data, or None.

    A failure message is not checked, because no more of it than a leading code is searched or sent.
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
    """Return link and client of an open or click; None if the report has neither."""
    details = {name: value for name in _DETAILS if (value := getattr(data, name)) is not None}
    return engagement_in(details) if details else None


def _message(channel: str, delivery_id: str, data: Data, content: str | None) -> Message:
    """Return the message of a report, with the fields that the report has."""
    recipient, failure_message = data.recipient, data.failure_message
    if data.recipients:  # the devices of a push
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

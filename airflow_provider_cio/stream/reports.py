"""Decode reporting webhooks into typed reports, and make occurrences of these. Pure.

A report is ``{"event_id", "object_type", "metric", "timestamp", "data"}``. The fields of `data` depend on the channel,
the metric and the parent of the message. Fields that no class below declares are ignored. Most fields only describe: if
such a field has another type than documented, it is left out, because the event is worth more without it than lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from airflow_provider_cio.customerio.decoding import UNDECODABLE, fitting, mended
from airflow_provider_cio.events.catalog import CATALOG, CHANNELS, PERSON, Collection
from airflow_provider_cio.events.event import MAX_EVENT_BYTES
from airflow_provider_cio.events.interval import is_time
from airflow_provider_cio.events.occurrence import (
    Device,
    Engagement,
    Id,
    Identifiers,
    Malformed,
    Message,
    Occurrence,
    Reported,
    engagement_in,
    number_or_text,
)

#: Metrics of a person, not of a message. Their `object_type` is the channel that caused them. ``unsubscribed`` is not
#: among them, because e-mails have it, too.
_PERSON_METRICS = frozenset(("subscribed", "subscription_preferences_changed", "cio_subscription_preferences_changed"))
#: Metrics that can happen to one message several times, and have a report each with full resolution.
_REPEATING_METRICS = frozenset(("opened", "clicked"))
#: Fields of `data` that describe an open or click.
_DETAILS = ("href", "link_id", "machine", "prefetched", "proxied", "synthetic", "tracked_response")
#: Channel and metric of every collection.
_KNOWN = frozenset((collection.channel, collection.metric) for collection in CATALOG.values())
#: Names of channels and metrics that may be logged: nothing else is short and impersonal for certain.
_NAME = re.compile(r"[a-z0-9_:.-]{1,40}", re.ASCII | re.IGNORECASE)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Data(msgspec.Struct, gc=False):
    """`data` of a report."""

    delivery_id: str | None = None
    identifiers: Identifiers | None = None
    customer_id: Id = None
    recipient: str | None = None
    recipients: list[Device] | None = None
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
    href: str | None = None
    link_id: Id = None
    machine: bool | None = None
    prefetched: bool | None = None
    proxied: bool | None = None
    synthetic: bool | None = None
    tracked_response: Id = None
    #: Body of a message; of changed preferences the topics, as JSON.
    content: str | None = None
    inbound_event_id: Id = None
    to: Id = None
    #: Only reports about a person's subscription have `email_address`.
    email_address: str | None = None


class Report(msgspec.Struct, gc=False):
    """One reporting webhook. `timestamp` is the time of the occurrence, in Unix seconds."""

    metric: str
    timestamp: int
    data: Data
    object_type: str = ""  # `object_type_type` in the specification of preference changes
    event_id: Id = None

    @property
    def is_of_person(self) -> bool:
        """True for a report about a person's subscription.

        `object_type` may be ``email`` if an e-mail caused it. Then ``unsubscribed`` is told from the metric of that
        e-mail only by the missing `delivery_id`: the specification requires it in each report of a message, and has
        none in the report of a person who unsubscribes.
        """
        if self.metric == "unsubscribed":
            return not (self.object_type == "email" and self.data.delivery_id)
        return self.object_type == PERSON or self.metric in _PERSON_METRICS

    @property
    def kind(self) -> tuple[str, str]:
        """Channel and metric, as `Collection` has them."""
        if self.is_of_person:
            return PERSON, self.metric.removeprefix("cio_")
        return CHANNELS.get(self.object_type, self.object_type), self.metric


class Topics(msgspec.Struct, gc=False):
    """`content` of changed preferences."""

    topics: dict[str, bool] | None = None


#: Classes of the objects, and of the entries of lists, in a report.
_NESTED: dict[str, type[msgspec.Struct]] = {"data": Data, "identifiers": Identifiers, "recipients": Device}
_CLASSES: tuple[type[msgspec.Struct], ...] = (Report, *_NESTED.values())
#: Fields that a report can do without.
_DESCRIBING = frozenset(one.name for kind in _CLASSES for one in msgspec.structs.fields(kind) if not one.required)


class TooLong(NamedTuple):
    """Report that would take too long to map. `field` names the text that is too long."""

    field: str


class Ignored(NamedTuple):
    """Report that the stream was not asked for.

    :param reason: a short name to count by.
    :param unknown: channel and metric that no collection has, if they may be logged.
    """

    reason: str
    unknown: str = ""


_NOTHING_MORE = Reported()

_decode = msgspec.json.Decoder(Report).decode
_decode_topics = msgspec.json.Decoder(Topics).decode


def read_report(body: bytes, left_out: set[str]) -> Report | Malformed:
    """Decode the body of a request. Return `Malformed`, with the problem, if it is no report.

    :param left_out: gets the names of fields that have another type than documented.
    """
    text = body.removeprefix(_BYTE_ORDER_MARK)
    try:
        return _decode(text)
    except UNDECODABLE:
        pass
    try:
        found = msgspec.json.decode(mended(text))
        if isinstance(found, dict):
            if isinstance(time := found.get("timestamp"), str):
                found["timestamp"] = number_or_text(time)
            found = fitting(found, Report, left_out, describing=_DESCRIBING, nested=_NESTED)
        return msgspec.convert(found, Report)
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

    def occurrence(self, report: Report, left_out: set[str]) -> Occurrence | Ignored | Malformed:
        """Return the occurrence of a report, or the reason for none. `Malformed.raw` is empty.

        :param left_out: as in `read_report`.
        """
        data, (channel, metric) = report.data, report.kind
        if not channel:
            return _missing("object_type")
        collection = self._collections.get((channel, metric))
        if collection is None:
            if (channel, metric) in _KNOWN:
                return Ignored("not_asked_for")
            may_be_logged = _NAME.fullmatch(channel) and _NAME.fullmatch(metric)
            return Ignored("unknown_metric", f"{channel} {metric}" if may_be_logged else "")
        key: Id = None
        if collection.is_of_person:
            key = report.event_id
            if key in (None, ""):
                return _missing("event_id")
        elif not data.delivery_id:
            return _missing("delivery_id", "$.data")
        elif metric == "replied":
            key = data.inbound_event_id
        elif self._full_resolution and metric in _REPEATING_METRICS:
            key = report.event_id
        if not is_time(report.timestamp):
            return Malformed(b"", "Expected Unix seconds - at `$.timestamp`")
        if collection.is_of_person:
            message = _message_of_person(data, left_out)
        else:
            content = data.content if self._message_content and metric == "sent" else None
            message = _message(channel, data, _devices(data), content)
        return Occurrence(message, collection, report.timestamp, _engagement(data), _text(key))


def _missing(name: str, path: str = "$") -> Malformed:
    return Malformed(b"", f"Object missing required field `{name}` - at `{path}`")


def is_too_long(text: Any) -> bool:
    """Return True if no event can contain this text. Check before mapping, which takes long for megabytes."""
    return isinstance(text, str) and len(text) > MAX_EVENT_BYTES


def overlong_text(occurrence: Occurrence) -> str | None:
    """Return the name of the first text that takes too long to search for personal data, or None.

    A failure message is not checked, because no more of it than a leading code is searched or sent.
    """
    message, engagement = occurrence.message, occurrence.engagement or Engagement()
    known, reported = message.customer_identifiers or Identifiers(), message.reported or Reported()
    texts = {
        "subject": message.subject,
        "recipient": message.recipient,
        "id": known.id,
        "cio_id": known.cio_id,
        "customer_id": message.customer_id,
        "href": engagement.href,
        "link_id": engagement.link_id,
        "tracked_response": engagement.tracked_response,
        "inbound_event_id": reported.inbound_event_id,
        "to": reported.to,
    }
    return next((name for name, text in texts.items() if is_too_long(text)), None)


def _engagement(data: Data) -> Engagement | None:
    """Return link and client of an open or click; None if the report has neither."""
    details = {name: value for name in _DETAILS if (value := getattr(data, name)) is not None}
    return engagement_in(details) if details else None


def _devices(data: Data) -> list[Device] | None:
    """Return the devices of a push, without empty texts and without empty devices; None if there are none."""
    devices = (
        Device(one.device_id or None, one.device_platform or None, one.failure_message or None)
        for one in data.recipients or ()
    )
    return [one for one in devices if one != Device()] or None


def _message_of_person(data: Data, left_out: set[str]) -> Message:
    """Return the message that caused a change of a subscription, or one without an id."""
    known = data.identifiers or Identifiers()
    if not known.email:
        data.identifiers = Identifiers(known.id, data.email_address, known.cio_id)
    topics = None
    if data.content:
        try:
            topics = _decode_topics(data.content).topics
        except UNDECODABLE:
            left_out.add("topics")
    return _message(PERSON, data, topics=topics)


def _message(
    channel: str,
    data: Data,
    devices: list[Device] | None = None,
    content: str | None = None,
    topics: dict[str, bool] | None = None,
) -> Message:
    """Return the message of a report, with the fields that the report has.

    A push has a failure message only if it failed for all its devices.
    """
    recipient, failure_message = data.recipient, data.failure_message
    if devices:
        recipient = recipient or ",".join(one.device_id for one in devices if one.device_id) or None
        if all(one.failure_message for one in devices):
            failure_message = failure_message or devices[0].failure_message
    reported = Reported(content or None, _text(data.inbound_event_id), _text(data.to), devices, topics or None)
    return Message(
        id=data.delivery_id or "",
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
        reported=reported if reported != _NOTHING_MORE else None,
    )


def _text(value: Id) -> str | None:
    return None if value is None else str(value) or None

"""Occurrence to event: identity, properties, messageId, timestamp. Pure: no clock, no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from airflow_provider_cio import __version__
from airflow_provider_cio.addresses import one_address
from airflow_provider_cio.customerio.rows import Activity, Delivery, Id
from airflow_provider_cio.events.catalog import Collection
from airflow_provider_cio.events.event import Event
from airflow_provider_cio.events.privacy import Privacy

#: Who sends: under `integration` and `library` of every event's context.
SENDER = {"name": "airflow-provider-cio", "version": __version__}
_SENDER = msgspec.Raw(msgspec.json.encode(SENDER))

#: Names under which the Customer.io destination is known, classic and Actions; they are case-sensitive.
CUSTOMERIO_DESTINATIONS = (
    "Customer.io",
    "Actions Customerio",
    "Customer.io Actions",
    "Customer.io (Actions)",
)
_LOOP_GUARD = msgspec.Raw(msgspec.json.encode(dict.fromkeys(CUSTOMERIO_DESTINATIONS, False)))


class Occurrence(msgspec.Struct, frozen=True, gc=False):
    """One metric happening to one delivery at one time (Unix seconds).

    :param activity: of an open or click, if it was read from activities or came as a report.
    :param further: it is an open or click that has a `messageId` of its own, beside the delivery's first.
    :param content: the body of the message, where a stream asks for it.
    """

    delivery: Delivery
    collection: Collection
    time: int
    activity: Activity | None = None
    further: bool = False
    content: str | None = None


class Traits(msgspec.Struct, gc=False):
    email: str


class Context(msgspec.Struct, rename="camel", gc=False):
    """`integration` and `library` name the sender, as Segment asks of its partners' sources."""

    integration: msgspec.Raw = _SENDER
    library: msgspec.Raw = _SENDER
    traits: Traits | msgspec.UnsetType = msgspec.UNSET
    ip: str | msgspec.UnsetType = msgspec.UNSET
    user_agent: str | msgspec.UnsetType = msgspec.UNSET


class Properties(msgspec.Struct, omit_defaults=True, gc=False):
    """The keys of Customer.io's reporting webhooks, then those of Segment's e-mail spec. Ids are strings.

    Links and what follows them come from activities and reports only; journeys, triggers and content from reports only.
    """

    delivery_id: str
    recipient: str | None = None
    subject: str | None = None
    campaign_id: str | None = None
    action_id: str | None = None
    journey_id: str | None = None
    parent_action_id: str | None = None
    newsletter_id: str | None = None
    content_id: str | None = None
    broadcast_id: str | None = None
    trigger_id: str | None = None
    transactional_message_id: str | None = None
    trigger_event_id: str | None = None
    customer_id: str | None = None
    failure_message: str | None = None
    email_id: str | None = None
    email_subject: str | None = None
    campaign_name: str | None = None
    href: str | None = None
    link_url: str | None = None
    link_id: str | None = None
    machine: bool | None = None
    prefetched: bool | None = None
    proxied: bool | None = None
    synthetic: bool | None = None
    tracked_response: str | None = None
    content: str | None = None


class Mapper:
    """Makes events for one destination.

    :param namespace: keeps the same occurrence apart in two Segment sources: Segment drops a repeated
        `messageId` across all of its sources.
    :param pii: what becomes of personal data: ``keep``, ``hash``, ``drop``.
    :param cio_id_as_last_resort: let the person's `cio_id` stand in as `anonymousId` where there is nothing else.
    :param name_of: the name of the campaign (or newsletter, ...) of a delivery, if it has one.
    """

    def __init__(
        self,
        namespace: str,
        *,
        send_to_customerio_destinations: bool = False,
        pii: str = "keep",
        cio_id_as_last_resort: bool = False,
        name_of: Callable[[Delivery], str | None] = lambda delivery: None,
    ) -> None:
        self._seed = hashlib.blake2b(hashlib.sha256(namespace.encode()).digest(), digest_size=16)
        self._integrations = None if send_to_customerio_destinations else _LOOP_GUARD
        self._privacy = Privacy(pii)
        self._cio_id_as_last_resort = cio_id_as_last_resort
        self._name_of = name_of
        self._delivery: Delivery | None = None

    def event(self, occurrence: Occurrence) -> Event:
        """It has no id if nobody can be named for it."""
        delivery, activity, content = occurrence.delivery, occurrence.activity, occurrence.content
        collection = occurrence.collection
        self._look_at(delivery)
        properties = self._properties_with(activity) if activity else self._properties
        if content:
            content = self._privacy.text(content, self._recipient)
            properties = msgspec.structs.replace(properties, content=content)
        return Event(
            collection.name,
            self.message_id(delivery.id, collection.metric, activity.id if activity and occurrence.further else None),
            datetime.fromtimestamp(occurrence.time, UTC),
            properties,
            self._context_with(activity) if activity else self._context,
            self._user_id,
            self._anonymous_id,
            self._integrations,
        )

    def _properties_with(self, activity: Activity) -> Properties:
        data = activity.data or {}
        link = self._privacy.text(_text(data, "href", "link"), self._recipient)
        return msgspec.structs.replace(
            self._properties,
            href=link,
            link_url=link,
            link_id=_text(data, "link_id"),
            machine=True if data.get("machine") is True else None,
            prefetched=True if data.get("prefetched") is True else None,
            proxied=True if data.get("proxied") is True else None,
            synthetic=True if data.get("synthetic") is True else None,
            tracked_response=self._privacy.text(_text(data, "tracked_response"), self._recipient),
        )

    def _context_with(self, activity: Activity) -> Context:
        data = activity.data or {}
        return msgspec.structs.replace(
            self._context,
            ip=self._privacy.ip(_first_ip(_text(data, "ip_address", "ip"))) or msgspec.UNSET,
            user_agent=self._privacy.text(_text(data, "user_agent", "userAgent")) or msgspec.UNSET,
        )

    def _look_at(self, delivery: Delivery) -> None:
        """Properties, context and ids are the same for all that happened to a delivery: make them once."""
        if delivery is self._delivery:
            return
        self._delivery = delivery
        self._recipient = delivery.recipient
        email, user_id = email_of(delivery), user_id_of(delivery)
        properties = properties_of(delivery, self._name_of(delivery))
        if not self._privacy.keeps:
            email, user_id = self._privacy.address(email), self._privacy.id(user_id)
            self._make_private(properties, delivery)
        self._user_id = user_id
        self._anonymous_id = None if user_id else email
        if self._cio_id_as_last_resort and not (user_id or email) and delivery.customer_identifiers:
            self._anonymous_id = _filled(delivery.customer_identifiers.cio_id)
        self._properties = properties
        self._context = Context(traits=Traits(email) if email else msgspec.UNSET)

    def _make_private(self, properties: Properties, delivery: Delivery) -> None:
        privacy = self._privacy
        properties.recipient = privacy.addresses(properties.recipient)
        properties.customer_id = privacy.id(properties.customer_id)
        properties.subject = privacy.text(properties.subject, delivery.recipient)
        properties.email_subject = privacy.text(properties.email_subject, delivery.recipient)
        properties.campaign_name = privacy.text(properties.campaign_name, delivery.recipient)
        properties.failure_message = privacy.failure_message(properties.failure_message)

    def message_id(self, delivery_id: str, metric: str, activity_id: str | None = None) -> str:
        """The same for the same occurrence, in every run and whichever way it was read.

        :param activity_id: of an open or click that is not its delivery's first; of a report its `event_id`.
        """
        hashed = self._seed.copy()
        key = f"{metric}\0{delivery_id}\0{activity_id}" if activity_id else f"{metric}\0{delivery_id}"
        hashed.update(key.encode())
        return f"cio-{hashed.hexdigest()}"


def user_id_of(delivery: Delivery) -> str | None:
    """The person's id, or None for the address to stand in as `anonymousId`, as the hosted source has it.

    `customer_identifiers.id` comes first; `customer_id` only if it is not the person's `cio_id`, as it is in
    e-mail-only workspaces.
    """
    known = delivery.customer_identifiers
    if known is not None and (user_id := _filled(known.id)):
        return user_id
    customer_id = _filled(delivery.customer_id)
    cio_id = _filled(known.cio_id) if known is not None else None
    if customer_id and cio_id and customer_id.removeprefix("cio_") == cio_id.removeprefix("cio_"):
        return None
    return customer_id


def email_of(delivery: Delivery) -> str | None:
    """The person's e-mail address, else the recipient of an e-mail if it is one address.

    Other channels' recipients are phone numbers, device tokens, Slack channels, URLs: never an address.
    """
    known = delivery.customer_identifiers
    if known is not None and (email := _filled(known.email)):
        return email
    recipient = (delivery.recipient or "").strip() if delivery.type == "email" else ""
    return recipient if one_address(recipient) else None


def properties_of(delivery: Delivery, campaign_name: str | None = None) -> Properties:
    """All that is known of the delivery, the same for whatever happened to it.

    Empty text is left out as null is: where the App API has null, reports have "" for what they must have. By position,
    in the order of `Properties`: this is the line's hottest spot.
    """
    is_email = delivery.type == "email"
    return Properties(
        delivery.id,
        delivery.recipient or None,
        delivery.subject or None,
        str(value) if (value := delivery.campaign_id) or value == 0 else None,
        str(value) if (value := delivery.action_id) or value == 0 else None,
        str(value) if (value := delivery.journey_id) or value == 0 else None,
        str(value) if (value := delivery.parent_action_id) or value == 0 else None,
        str(value) if (value := delivery.newsletter_id) or value == 0 else None,
        str(value) if (value := delivery.content_id) or value == 0 else None,
        str(value) if (value := delivery.broadcast_id) or value == 0 else None,
        str(value) if (value := delivery.trigger_id) or value == 0 else None,
        str(value) if (value := delivery.transactional_message_id) or value == 0 else None,
        str(value) if (value := delivery.trigger_event_id) or value == 0 else None,
        str(value) if (value := delivery.customer_id) or value == 0 else None,
        delivery.failure_message or None,
        delivery.id if is_email else None,
        (delivery.subject or None) if is_email else None,
        campaign_name,
    )


def is_machine(activity: Activity) -> bool:
    """An open that a mail program fetched ahead, or a click that no person made."""
    data = activity.data or {}
    return data.get("machine") is True or data.get("prefetched") is True


def _text(data: dict[str, Any], *keys: str) -> str | None:
    """The first of the keys that has text or a number; which of them is real is not documented."""
    for key in keys:
        value = data.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value)
    return None


def _first_ip(listed: str | None) -> str | None:
    """Of a list such as ``v6, v4`` the first."""
    return listed.split(",")[0].strip() or None if listed else None


def _filled(value: Id) -> str | None:
    """Empty text is missing; other text stays as it is."""
    if value is None:
        return None
    text = str(value)
    return text if text.strip() else None

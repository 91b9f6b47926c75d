"""Occurrence to event: identity, properties, messageId, timestamp. Pure: no clock, no I/O."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

import msgspec

from airflow_provider_cio import __version__
from airflow_provider_cio.catalog import Collection
from airflow_provider_cio.clients.customerio import Delivery, Id
from airflow_provider_cio.clients.segment import Event

_ONE_ADDRESS = re.compile(r"[^\s@,;<>\"{}]+@[^\s@,;<>\"{}]+")
_SENDER = msgspec.Raw(msgspec.json.encode({"name": "airflow-provider-cio", "version": __version__}))

#: Names under which the Customer.io destination is known, classic and Actions; they are case-sensitive.
CUSTOMERIO_DESTINATIONS = (
    "Customer.io",
    "Actions Customerio",
    "Customer.io Actions",
    "Customer.io (Actions)",
)
_LOOP_GUARD = msgspec.Raw(msgspec.json.encode(dict.fromkeys(CUSTOMERIO_DESTINATIONS, False)))


class Traits(msgspec.Struct, gc=False):
    email: str


class Context(msgspec.Struct, gc=False):
    """`integration` and `library` name the sender, as Segment asks of its partners' sources."""

    integration: msgspec.Raw = _SENDER
    library: msgspec.Raw = _SENDER
    traits: Traits | msgspec.UnsetType = msgspec.UNSET


class Properties(msgspec.Struct, omit_defaults=True, gc=False):
    """The keys of Customer.io's reporting webhooks, then those of Segment's e-mail spec. Ids are strings."""

    delivery_id: str
    recipient: str | None = None
    subject: str | None = None
    campaign_id: str | None = None
    action_id: str | None = None
    parent_action_id: str | None = None
    newsletter_id: str | None = None
    content_id: str | None = None
    broadcast_id: str | None = None
    transactional_message_id: str | None = None
    trigger_event_id: str | None = None
    customer_id: str | None = None
    failure_message: str | None = None
    email_id: str | None = None
    email_subject: str | None = None


class Mapper:
    """Makes events for one destination.

    :param namespace: keeps the same occurrence apart in two Segment sources: Segment drops a repeated
        `messageId` across all of its sources.
    """

    def __init__(self, namespace: str, *, send_to_customerio_destinations: bool = False) -> None:
        self._seed = hashlib.blake2b(hashlib.sha256(namespace.encode()).digest(), digest_size=16)
        self._integrations = None if send_to_customerio_destinations else _LOOP_GUARD
        self._delivery: Delivery | None = None

    def event(self, delivery: Delivery, collection: Collection, time: int) -> Event:
        """The event of one occurrence at `time` (Unix seconds); it has no id if nobody can be named for it."""
        if delivery is not self._delivery:  # what several things that happened to one delivery have in common
            self._delivery = delivery
            email = email_of(delivery)
            self._user_id = user_id_of(delivery)
            self._anonymous_id = None if self._user_id else email
            self._properties = properties_of(delivery)
            self._context = Context(traits=Traits(email) if email else msgspec.UNSET)
        return Event(
            collection.name,
            self.message_id(delivery.id, collection.metric),
            datetime.fromtimestamp(time, UTC),
            self._properties,
            self._context,
            self._user_id,
            self._anonymous_id,
            self._integrations,
        )

    def message_id(self, delivery_id: str, metric: str) -> str:
        """The same for the same occurrence, in every run. No metric's name has a NUL, so no two inputs meet."""
        hashed = self._seed.copy()
        hashed.update(f"{metric}\0{delivery_id}".encode())
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
    if customer_id and (known is None or customer_id.removeprefix("cio_") != _filled(known.cio_id)):
        return customer_id
    return None


def email_of(delivery: Delivery) -> str | None:
    """The person's e-mail address, else the recipient if it is one e-mail address."""
    known = delivery.customer_identifiers
    if known is not None and (email := _filled(known.email)):
        return email
    recipient = (delivery.recipient or "").strip()
    return recipient if _ONE_ADDRESS.fullmatch(recipient) else None


def properties_of(delivery: Delivery) -> Properties:
    """All that is known of the delivery, the same for whatever happened to it."""
    return Properties(
        delivery_id=delivery.id,
        recipient=delivery.recipient,
        subject=delivery.subject,
        campaign_id=_text(delivery.campaign_id),
        action_id=_text(delivery.action_id),
        parent_action_id=_text(delivery.parent_action_id),
        newsletter_id=_text(delivery.newsletter_id),
        content_id=_text(delivery.content_id),
        broadcast_id=_text(delivery.broadcast_id),
        transactional_message_id=_text(delivery.transactional_message_id),
        trigger_event_id=_text(delivery.trigger_event_id),
        customer_id=_text(delivery.customer_id),
        failure_message=delivery.failure_message,
        email_id=delivery.id,
        email_subject=delivery.subject,
    )


def _text(value: Id) -> str | None:
    return None if value is None else str(value)


def _filled(value: Id) -> str | None:
    """Empty text is missing; other text stays as it is."""
    text = "" if value is None else str(value)
    return text if text.strip() else None

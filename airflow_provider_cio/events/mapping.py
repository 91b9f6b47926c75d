"""Map occurrences to events: identity, properties, messageId, timestamp. No I/O but the caller's `name_of`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from airflow_provider_cio import __version__
from airflow_provider_cio.addresses import one_address
from airflow_provider_cio.events.event import Event
from airflow_provider_cio.events.occurrence import Device, Engagement, Id, Message, Occurrence, Reported, number_or_text
from airflow_provider_cio.events.privacy import Privacy

#: Sender in the context of every event: `integration` and `library`.
SENDER = {"name": "airflow-provider-cio", "version": __version__}
_SENDER = msgspec.Raw(msgspec.json.encode(SENDER))

#: Names of the Customer.io destination in Segment, classic and Actions. They are case-sensitive.
CUSTOMERIO_DESTINATIONS = (
    "Customer.io",
    "Actions Customerio",
    "Customer.io Actions",
    "Customer.io (Actions)",
)
_LOOP_GUARD = msgspec.Raw(msgspec.json.encode(dict.fromkeys(CUSTOMERIO_DESTINATIONS, False)))


class Traits(msgspec.Struct, gc=False):
    """`traits` in the context of an event."""

    email: str


class Context(msgspec.Struct, rename="camel", gc=False):
    """`context` of an event. Segment asks its partners to name the sender in `integration` and `library`."""

    integration: msgspec.Raw = _SENDER
    library: msgspec.Raw = _SENDER
    traits: Traits | msgspec.UnsetType = msgspec.UNSET
    ip: str | msgspec.UnsetType = msgspec.UNSET
    user_agent: str | msgspec.UnsetType = msgspec.UNSET


class Properties(msgspec.Struct, omit_defaults=True, gc=False):
    """`properties` of an event: the keys of Customer.io's reporting webhooks, and those of Segment's e-mail spec.

    The fields from `href` on come from activities and reports, `link_id`, `machine` and `prefetched` also from the
    list of deliveries; `journey_id`, `trigger_id` and those from `content` on come from reports only. Ids have
    Customer.io's types: those of a message's parents, and of a link, are numbers.
    """

    delivery_id: str | None = None
    recipient: str | None = None
    subject: str | None = None
    campaign_id: Id = None
    action_id: Id = None
    journey_id: str | None = None
    parent_action_id: Id = None
    newsletter_id: Id = None
    content_id: Id = None
    broadcast_id: Id = None
    trigger_id: Id = None
    transactional_message_id: Id = None
    trigger_event_id: str | None = None
    customer_id: str | None = None
    cio_id: str | None = None
    failure_message: str | None = None
    email_id: str | None = None
    email_subject: str | None = None
    campaign_name: str | None = None
    href: str | None = None
    link_url: str | None = None
    link_id: Id = None
    machine: bool | None = None
    prefetched: bool | None = None
    proxied: bool | None = None
    synthetic: bool | None = None
    tracked_response: str | None = None
    content: str | None = None
    inbound_event_id: str | None = None
    to: str | None = None
    recipients: list[Device] | None = None
    topics: dict[str, bool] | None = None


class Mapper:
    """Mapper from occurrences to events for one destination.

    :param namespace: part of each `messageId`. It differs for each Segment source, because Segment drops a repeated
        `messageId` across all sources.
    :param pii: treatment of personal data: ``keep``, ``hash`` or ``drop``.
    :param cio_id_as_last_resort: send the person's `cio_id` as `anonymousId` if there is no other id.
    :param name_of: returns the name of a message's campaign (or newsletter, ...), or None.
    """

    def __init__(
        self,
        namespace: str,
        *,
        send_to_customerio_destinations: bool = False,
        pii: str = "keep",
        cio_id_as_last_resort: bool = False,
        name_of: Callable[[Message], str | None] = lambda message: None,
    ) -> None:
        self._seed = hashlib.blake2b(hashlib.sha256(namespace.encode()).digest(), digest_size=16)
        self._integrations = None if send_to_customerio_destinations else _LOOP_GUARD
        self._privacy = Privacy(pii)
        self._cio_id_as_last_resort = cio_id_as_last_resort
        self._name_of = name_of

    def event(self, occurrence: Occurrence) -> Event:
        """Return the event of an occurrence. It has neither id if the person is unknown."""
        return next(self.events([occurrence]))

    def events(self, occurrences: Iterable[Occurrence]) -> Iterator[Event]:
        """Yield the event of each occurrence, in their order. Those of one message, in a row, share what they can."""
        message: Message | None = None
        for occurrence in occurrences:
            if message is not occurrence.message:
                message = occurrence.message
                shared, context, user_id, anonymous_id = self._of_message(message)
            engagement = occurrence.engagement
            properties = self._with_engagement(shared, engagement, message) if engagement else shared
            if message.reported:
                properties = self._with_reported(properties, message.reported, message)
            yield Event(
                occurrence.collection.name,
                self.message_id(message.id, occurrence.counted_as, occurrence.key),
                datetime.fromtimestamp(occurrence.time, UTC),
                properties,
                self._with_client(context, engagement) if engagement else context,
                user_id,
                anonymous_id,
                self._integrations,
            )

    def _of_message(self, message: Message) -> tuple[Properties, Context, str | None, str | None]:
        """Return properties and context of a message's occurrences, and the person's `userId` and `anonymousId`."""
        email, user_id = email_of(message), user_id_of(message)
        properties = properties_of(message, self._name_of(message))
        if not self._privacy.keeps:
            email, user_id = self._privacy.address(email), self._privacy.id(user_id)
            self._make_private(properties, message)
        anonymous_id = None if user_id else email
        if self._cio_id_as_last_resort and not (user_id or email) and message.customer_identifiers:
            anonymous_id = _filled(message.customer_identifiers.cio_id)
        return properties, Context(traits=Traits(email) if email else msgspec.UNSET), user_id, anonymous_id

    def _make_private(self, properties: Properties, message: Message) -> None:
        privacy = self._privacy
        properties.recipient = privacy.addresses(properties.recipient)
        properties.customer_id = privacy.id(properties.customer_id)
        properties.cio_id = privacy.cio_id(properties.cio_id)
        properties.subject = privacy.text(properties.subject, message.recipient)
        properties.email_subject = privacy.text(properties.email_subject, message.recipient)
        properties.campaign_name = privacy.text(properties.campaign_name, message.recipient)
        properties.failure_message = privacy.failure_message(properties.failure_message)

    def _with_engagement(self, properties: Properties, engagement: Engagement, message: Message) -> Properties:
        link = self._privacy.text(engagement.href, message.recipient)
        return msgspec.structs.replace(
            properties,
            href=link,
            link_url=link,
            link_id=engagement.link_id,
            machine=engagement.machine,
            prefetched=engagement.prefetched,
            proxied=engagement.proxied,
            synthetic=engagement.synthetic,
            tracked_response=self._privacy.text(engagement.tracked_response, message.recipient),
        )

    def _with_reported(self, properties: Properties, reported: Reported, message: Message) -> Properties:
        privacy = self._privacy
        return msgspec.structs.replace(
            properties,
            content=privacy.text(reported.content, message.recipient),
            inbound_event_id=privacy.id(reported.inbound_event_id),
            to=privacy.text(reported.to, message.recipient),
            recipients=reported.devices and [privacy.device(one) for one in reported.devices],
            topics=reported.topics,
        )

    def _with_client(self, context: Context, engagement: Engagement) -> Context:
        if not (engagement.ip or engagement.user_agent):
            return context
        return msgspec.structs.replace(
            context,
            ip=self._privacy.ip(engagement.ip) or msgspec.UNSET,
            user_agent=self._privacy.text(engagement.user_agent) or msgspec.UNSET,
        )

    def message_id(self, delivery_id: str, metric: str, key: str | None = None) -> str:
        """Return the id of an occurrence, which is the same in every run, mode and stream.

        :param metric: `Occurrence.counted_as`.
        :param key: `Occurrence.key`.
        """
        hashed = self._seed.copy()
        hashed.update((f"{metric}\0{delivery_id}\0{key}" if key else f"{metric}\0{delivery_id}").encode())
        return f"cio-{hashed.hexdigest()}"


def user_id_of(message: Message) -> str | None:
    """Return the person's id, or None.

    `customer_identifiers.id` comes before `customer_id`, which counts only if it is not the person's `cio_id`: in
    e-mail-only workspaces it is, and the address is then the `anonymousId`, as in Segment's hosted source.
    """
    known = message.customer_identifiers
    if known is not None and (user_id := _filled(known.id)):
        return user_id
    customer_id = _filled(message.customer_id)
    cio_id = _filled(known.cio_id) if known is not None else None
    if customer_id and cio_id and customer_id.removeprefix("cio_") == cio_id.removeprefix("cio_"):
        return None
    return customer_id


def email_of(message: Message) -> str | None:
    """Return the person's e-mail address, else the recipient of an e-mail if it is one address."""
    known = message.customer_identifiers
    if known is not None and (email := _filled(known.email)):
        return email
    recipient = (message.recipient or "").strip() if message.type == "email" else ""
    return recipient if one_address(recipient) else None


def properties_of(message: Message, campaign_name: str | None = None) -> Properties:
    """Return the properties that all occurrences of the message share.

    Empty text is left out like null, because reports have "" where the App API has null. The arguments are positional,
    in the order of `Properties`, because this is the slowest part of a run.
    """
    is_email = message.type == "email"
    known = message.customer_identifiers
    return Properties(
        message.id or None,
        message.recipient or None,
        message.subject or None,
        value if (value := message.campaign_id) is None or type(value) is int else number_or_text(value),
        value if (value := message.action_id) is None or type(value) is int else number_or_text(value),
        str(value) if (value := message.journey_id) or value == 0 else None,
        value if (value := message.parent_action_id) is None or type(value) is int else number_or_text(value),
        value if (value := message.newsletter_id) is None or type(value) is int else number_or_text(value),
        value if (value := message.content_id) is None or type(value) is int else number_or_text(value),
        value if (value := message.broadcast_id) is None or type(value) is int else number_or_text(value),
        value if (value := message.trigger_id) is None or type(value) is int else number_or_text(value),
        value if (value := message.transactional_message_id) is None or type(value) is int else number_or_text(value),
        str(value) if (value := message.trigger_event_id) or value == 0 else None,
        str(value) if (value := message.customer_id) or value == 0 else None,
        _filled(known.cio_id) if known is not None else None,
        message.failure_message or None,
        message.id if is_email else None,
        (message.subject or None) if is_email else None,
        campaign_name,
    )


def _filled(value: Id) -> str | None:
    """Return an id as text, unchanged; None if it is null or blank."""
    if value is None:
        return None
    text = value if type(value) is str else str(value)  # first of all the type, because this is hot
    return None if not text or text.isspace() else text

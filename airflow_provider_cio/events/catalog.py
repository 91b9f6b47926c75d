"""Catalog of collections: the Segment event name of each pair of channel and metric.

The names come from the event tables of Customer.io's pages "Segment (Message Metrics)" and "Customer.io Journeys".
Pairs that only reporting webhooks have are named by analogy, and marked so. The collections of the group
``subscription`` are about people, not messages: only reporting webhooks tell of them, so only streams have them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.values import kind_of

_WORD = re.compile("[A-Z0-9]+[a-z0-9]*|[a-z0-9]+")


def snakecase(name: str) -> str:
    """Return the name of a table or column as Segment's go-snakecase makes it.

    ``Email Link Clicked`` becomes ``email_link_clicked``, ``userId`` ``user_id``, and ``HTTPRequest`` ``httprequest``:
    a run of capitals and digits is one word with the lower-case letters after it. Anything but ASCII letters and digits
    separates words; a name without any of them becomes empty text.
    """
    return "_".join(_WORD.findall(name)).lower()


#: Pairs of channel and metric for which every occurrence is an activity. The App API's specification has no activities
#: for Slack clicks, WhatsApp opens and WhatsApp clicks, so only the first of these is known.
REPEATING = {
    ("email", "opened"),
    ("email", "clicked"),
    ("push", "opened"),
    ("push", "clicked"),
    ("in_app", "opened"),
    ("in_app", "clicked"),
    ("twilio", "clicked"),
    ("webhook", "clicked"),
}


class Collection(NamedTuple):
    """A named kind of event.

    :param channel: `type` in Customer.io's `/v1/messages`, where SMS is ``twilio``; ``customer`` for people.
    :param by_analogy: the name is not Customer.io's.
    """

    name: str
    channel: str
    metric: str
    by_analogy: bool = False

    @property
    def table(self) -> str:
        """Name of its table in a Segment warehouse."""
        return snakecase(self.name)

    @property
    def report_name(self) -> str:
        """Name of its event in reporting webhooks, such as ``sms_sent``."""
        return f"{_OBJECT_TYPES[self.channel]}_{self.metric}"

    @property
    def has_activities(self) -> bool:
        """True if Customer.io lists each of its occurrences as an activity."""
        return (self.channel, self.metric) in REPEATING

    @property
    def is_of_person(self) -> bool:
        """True if it is about a person's subscription, not about a message."""
        return self.channel == PERSON


_EVENTS = {
    "drafted": "Drafted",
    "attempted": "Attempted",
    "sent": "Sent",
    "delivered": "Delivered",
    "opened": "Opened",
    "clicked": "Link Clicked",
    "converted": "Converted",
    "unsubscribed": "Unsubscribed",
    "bounced": "Bounced",
    "dropped": "Suppressed",
    "spammed": "Marked as Spam",
    "failed": "Failed",
    "deferred": "Deferred",
    "undeliverable": "Undeliverable",
    "replied": "Replied",
}
_SMS = "drafted attempted sent delivered clicked converted bounced failed"
#: Group -> type in the API, first word of the names, metrics with a published name, metrics named by analogy.
_CHANNELS = {
    "email": (
        "email",
        "Email",
        "drafted attempted sent delivered opened clicked converted unsubscribed bounced dropped spammed failed "
        "deferred",
        "undeliverable",
    ),
    "push": (
        "push",
        "Push",
        "drafted attempted sent delivered opened clicked converted bounced dropped failed",
        "undeliverable",
    ),
    "sms": ("twilio", "SMS", _SMS, "dropped undeliverable replied"),
    "in_app": ("in_app", "In-App", "drafted attempted sent opened clicked converted failed", "undeliverable"),
    "whatsapp": ("whatsapp", "WhatsApp", "", f"{_SMS} opened dropped undeliverable replied"),
    "slack": ("slack", "Slack", "drafted attempted sent clicked failed", "converted undeliverable"),
    "webhook": ("webhook", "Webhook", "drafted attempted sent clicked converted failed", "undeliverable"),
}
#: Channel of the collections about people.
PERSON = "customer"
_SUBSCRIPTION = (
    Collection("Subscribed", PERSON, "subscribed"),
    Collection("Unsubscribed", PERSON, "unsubscribed"),
    Collection("Subscription Preferences Changed", PERSON, "subscription_preferences_changed"),
)
#: Name of a channel in groups and in the `object_type` of reports -> `Collection.channel`.
CHANNELS: dict[str, str] = {group: channel for group, (channel, *_) in _CHANNELS.items()}
_OBJECT_TYPES = {channel: group for group, channel in CHANNELS.items()} | {PERSON: PERSON}
_EXCEPTIONS = {("in_app", "clicked"): "In-App Clicked"}


def _collections(group: str) -> list[Collection]:
    channel, first, published, by_analogy = _CHANNELS[group]
    return [
        Collection(_EXCEPTIONS.get((channel, metric), f"{first} {_EVENTS[metric]}"), channel, metric, analogy)
        for metrics, analogy in ((published, False), (by_analogy, True))
        for metric in metrics.split()
    ]


_BY_GROUP = {group: _collections(group) for group in _CHANNELS} | {"subscription": _SUBSCRIPTION}

CATALOG: dict[str, Collection] = {one.name: one for collections in _BY_GROUP.values() for one in collections}

#: Names of the collections of each channel, of those about people, and of all.
GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(one.name for one in collections) for group, collections in _BY_GROUP.items()
} | {"all": tuple(CATALOG)}

#: The six collections that Segment's page on its Customer.io source lists.
DEFAULT_COLLECTIONS: tuple[str, ...] = (
    "Email Delivered",
    "Email Opened",
    "Email Link Clicked",
    "Email Unsubscribed",
    "Email Bounced",
    "Email Marked as Spam",
)


def resolve_collections(names: str | Iterable[str], *, in_stream: bool = False) -> tuple[Collection, ...]:
    """Return the collections of names and groups, each once, in the given order. One text is one name.

    :param in_stream: allow the collections about people, and include them in ``all``.
    :raises ConfigurationError: a name is unknown or not allowed, or there is none.
    """
    if isinstance(names, str):
        names = [names]
    if isinstance(names, dict) or not isinstance(names, Iterable):
        raise ConfigurationError(
            f"collections must be a list of names, got {kind_of(names)}: write for example "
            '["Email Opened"] for one event, or "email" for a channel'
        )
    found: dict[str, Collection] = {}
    for name in names:
        if not isinstance(name, str):
            raise ConfigurationError(f"collections must hold names, got {kind_of(name)} among them")
        if name not in CATALOG and name not in GROUPS:
            from difflib import get_close_matches  # slow to import, and each parse of a DAG file would pay for it

            near = get_close_matches(name, [*GROUPS, *CATALOG], n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"Groups are: {', '.join(GROUPS)}"
            raise ConfigurationError(f"collections: unknown collection {name!r}. {hint}")
        members = [CATALOG[member] for member in GROUPS.get(name, (name,))]
        allowed = [one for one in members if in_stream or not one.is_of_person]
        if not allowed:
            raise ConfigurationError(
                f"collections: only streams have {name!r}, because Customer.io tells of people who subscribe in "
                "reporting webhooks only: put it into the collections of a stream"
            )
        found |= {one.name: one for one in allowed}
    if not found:
        raise ConfigurationError("collections must name at least one collection, got an empty list")
    return tuple(found.values())

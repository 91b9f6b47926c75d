"""The collections: which (channel, metric) pair becomes which Segment event.

The names are those of Customer.io's own Segment sources (the event tables of its "Segment (Message Metrics)" and
"Customer.io Journeys" pages). Pairs that its reporting webhooks have, but those tables lack, get a name formed by
analogy, and are marked so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.values import kind_of

_WORD = re.compile("[A-Z0-9]+[a-z0-9]*|[a-z0-9]+")


def snakecase(name: str) -> str:
    """``Email Link Clicked`` is ``email_link_clicked``, ``userId`` is ``user_id``, ``HTTPRequest`` is ``httprequest``.

    The same as Segment's go-snakecase: only ASCII letters and digits stay, all else parts words; a run of capitals and
    digits is one word with the lower-case letters after it. A name of other characters only becomes empty text.
    """
    return "_".join(_WORD.findall(name)).lower()


class Collection(NamedTuple):
    """A named kind of event. `channel` is the `type` of Customer.io's `/v1/messages`, where SMS is ``twilio``."""

    name: str
    channel: str
    metric: str
    by_analogy: bool = False

    @property
    def table(self) -> str:
        """Name of the collection's table in a Segment warehouse."""
        return snakecase(self.name)

    @property
    def report_name(self) -> str:
        """How a reporting webhook is subscribed to it: ``sms_sent``."""
        return f"{_OBJECT_TYPES[self.channel]}_{self.metric}"


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
# Group -> type in the API, first word of the names, metrics with a published name, metrics named by analogy.
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
    "slack": ("slack", "Slack", "drafted attempted sent clicked failed", "converted"),
    "webhook": ("webhook", "Webhook", "drafted attempted sent clicked converted failed", "undeliverable"),
}
#: Channels as groups and the `object_type` of reports name them, and as `Collection.channel` does.
CHANNELS: dict[str, str] = {group: channel for group, (channel, *_) in _CHANNELS.items()}
_OBJECT_TYPES = {channel: group for group, channel in CHANNELS.items()}
_EXCEPTIONS = {("in_app", "clicked"): "In-App Clicked"}


def _collections(group: str) -> list[Collection]:
    channel, first, published, by_analogy = _CHANNELS[group]
    return [
        Collection(_EXCEPTIONS.get((channel, metric), f"{first} {_EVENTS[metric]}"), channel, metric, analogy)
        for metrics, analogy in ((published, False), (by_analogy, True))
        for metric in metrics.split()
    ]


CATALOG: dict[str, Collection] = {
    collection.name: collection for group in _CHANNELS for collection in _collections(group)
}

#: What stands for several names: a channel, or all of them.
GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(collection.name for collection in _collections(group)) for group in _CHANNELS
} | {"all": tuple(CATALOG)}

#: The six that Segment's page on its Customer.io source lists.
DEFAULT_COLLECTIONS: tuple[str, ...] = (
    "Email Delivered",
    "Email Opened",
    "Email Link Clicked",
    "Email Unsubscribed",
    "Email Bounced",
    "Email Marked as Spam",
)


def resolve_collections(names: str | Iterable[str]) -> tuple[Collection, ...]:
    """Look names and groups up, each collection once, in the order given. A group may stand alone: ``"email"``.

    :raises ConfigurationError: for an unknown name (with the nearest known ones), or none at all.
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
            from difflib import get_close_matches  # not at import: every parse of a DAG file would pay for it

            near = get_close_matches(name, [*GROUPS, *CATALOG], n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"groups are: {', '.join(GROUPS)}"
            raise ConfigurationError(f"collections: unknown collection {name!r}; {hint}")
        found |= {member: CATALOG[member] for member in GROUPS.get(name, (name,))}
    if not found:
        raise ConfigurationError("collections must name at least one collection, got an empty list")
    return tuple(found.values())

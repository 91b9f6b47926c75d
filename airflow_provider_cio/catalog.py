"""The collections: which (channel, metric) pair becomes which Segment event.

The names are those of Customer.io's own Segment source (reference: the event tables of Customer.io's
"Segment (Message Metrics)" and "Customer.io Journeys" pages). ``Email Undeliverable`` has no published
name and is formed by analogy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from airflow_provider_cio.exceptions import ConfigurationError


class Collection(NamedTuple):
    """A named kind of event. ``channel`` is the `type` of Customer.io's `/v1/messages`."""

    name: str
    channel: str
    metric: str

    @property
    def table(self) -> str:
        """Name of the collection's table in a Segment warehouse."""
        return self.name.lower().replace(" ", "_")


CATALOG: dict[str, Collection] = {
    collection.name: collection
    for collection in (
        Collection("Email Drafted", "email", "drafted"),
        Collection("Email Attempted", "email", "attempted"),
        Collection("Email Sent", "email", "sent"),
        Collection("Email Delivered", "email", "delivered"),
        Collection("Email Opened", "email", "opened"),
        Collection("Email Link Clicked", "email", "clicked"),
        Collection("Email Converted", "email", "converted"),
        Collection("Email Unsubscribed", "email", "unsubscribed"),
        Collection("Email Bounced", "email", "bounced"),
        Collection("Email Suppressed", "email", "dropped"),
        Collection("Email Marked as Spam", "email", "spammed"),
        Collection("Email Failed", "email", "failed"),
        Collection("Email Deferred", "email", "deferred"),
        Collection("Email Undeliverable", "email", "undeliverable"),
    )
}

#: The six that Segment's page on its Customer.io source lists.
DEFAULT_COLLECTIONS: tuple[str, ...] = (
    "Email Delivered",
    "Email Opened",
    "Email Link Clicked",
    "Email Unsubscribed",
    "Email Bounced",
    "Email Marked as Spam",
)


def resolve_collections(names: Iterable[str]) -> tuple[Collection, ...]:
    """Look the names up, each once, in the order given.

    :raises ConfigurationError: for an unknown name (with the nearest known ones), a lone string, or none at all.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ConfigurationError(
            f"collections must be a list of names, got {type(names).__name__}: "
            f"write for example collections=['Email Opened']"
        )
    found: dict[str, Collection] = {}
    for name in names:
        if not isinstance(name, str):
            raise ConfigurationError(f"collections must hold names, got {type(name).__name__} among them")
        if name not in CATALOG:
            from difflib import get_close_matches  # not at import: every parse of a DAG file would pay for it

            near = get_close_matches(name, CATALOG, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known are: {', '.join(CATALOG)}"
            raise ConfigurationError(f"collections: unknown collection {name!r}; {hint}")
        found[name] = CATALOG[name]
    if not found:
        raise ConfigurationError("collections must name at least one collection, got an empty list")
    return tuple(found.values())

"""What a reporting webhook should be like for a stream, and how one that is there differs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_cio.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_cio.customerio.rows import ReportingWebhook


def wanted_webhook(name: str, url: str, collections: str | Iterable[str], full_resolution: bool) -> ReportingWebhook:
    """:raises ConfigurationError: naming the parameter and the fix."""
    from airflow_provider_cio.customerio.rows import ReportingWebhook
    from airflow_provider_cio.events.catalog import resolve_collections

    if not name.strip():
        raise ConfigurationError("name must be text, by which this reporting webhook is found again, got none")
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("https", "http") and bool(parts.hostname) and not any(map(str.isspace, url))
    except ValueError:
        is_url = False
    if not is_url:
        raise ConfigurationError(
            "url must be where Customer.io reaches the stream, such as 'https://airflow.example.com/cio/main', "
            "got something else"
        )
    events = [one.report_name for one in resolve_collections(collections)]
    return ReportingWebhook(name=name, endpoint=url, events=events, full_resolution=full_resolution)


def find_webhook(webhooks: Sequence[ReportingWebhook], wanted: ReportingWebhook) -> ReportingWebhook | None:
    """The one of that name or that endpoint.

    :raises ConfigurationError: there are several.
    """
    found = [one for one in webhooks if one.name == wanted.name or one.endpoint == wanted.endpoint]
    if len(found) > 1:
        ids = ", ".join(str(one.id) for one in found)
        raise ConfigurationError(
            f"{len(found)} reporting webhooks have the name {wanted.name!r} or its URL (ids {ids}): "
            "delete all but one of them in Customer.io, or choose another name"
        )
    return found[0] if found else None


def differences(found: ReportingWebhook, wanted: ReportingWebhook) -> list[str]:
    """In words; empty if it is as wanted. Whether it is enabled is another matter, and so is its content."""
    said = []
    if found.name != wanted.name:
        said.append("its name is another")
    if found.endpoint != wanted.endpoint:
        said.append("its endpoint is another URL")
    if missing := [event for event in wanted.events if event not in found.events]:
        said.append(f"its events lack {', '.join(missing)}")
    if besides := [event for event in found.events if event not in wanted.events]:
        said.append(f"its events have {', '.join(besides)} besides")
    if found.full_resolution != wanted.full_resolution:
        said.append(f"its full_resolution is {str(found.full_resolution).lower()}")
    return said

"""Reporting webhooks for streams: the wanted one, the existing one, their differences. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.http.errors import safe_text

if TYPE_CHECKING:
    from airflow_provider_cio.customerio.rows import ReportingWebhook

#: Events that are reported, but that the App API does not list among those of a webhook, so it may refuse them.
_NOT_LISTED = {"slack_undeliverable"}


def wanted_webhook(name: str, url: str, collections: str | Iterable[str], full_resolution: bool) -> ReportingWebhook:
    """Return the reporting webhook that a stream needs.

    :raises ConfigurationError: a parameter is wrong.
    """
    from airflow_provider_cio.customerio.rows import ReportingWebhook
    from airflow_provider_cio.events.catalog import resolve_collections

    if not name.strip():
        raise ConfigurationError("name must be text, because it identifies this reporting webhook, got empty text")
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("https", "http") and bool(parts.hostname) and not any(map(str.isspace, url))
    except ValueError:
        is_url = False
    if not is_url:
        raise ConfigurationError(
            "url must be the stream's URL for Customer.io, such as 'https://airflow.example.com/cio/main', "
            "got text that is no URL"
        )
    names = [one.report_name for one in resolve_collections(collections, in_stream=True)]
    events = [name for name in names if name not in _NOT_LISTED]
    return ReportingWebhook(name=name, endpoint=url, events=events, full_resolution=full_resolution)


def find_webhook(webhooks: Sequence[ReportingWebhook], wanted: ReportingWebhook) -> ReportingWebhook | None:
    """Return the webhook with the wanted name or endpoint, or None.

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
    """Return the differences in words, except in `disabled` and `with_content`."""
    texts = []
    if found.name != wanted.name:
        texts.append("its name differs")
    if found.endpoint != wanted.endpoint:
        texts.append("its endpoint is another URL")
    if missing := [event for event in wanted.events if event not in found.events]:
        texts.append(f"its events lack {', '.join(missing)}")
    if unwanted := [event for event in found.events if event not in wanted.events]:
        texts.append(f"its events also include {safe_text(', '.join(unwanted))}")
    if found.full_resolution != wanted.full_resolution:
        texts.append(f"its full_resolution is {str(found.full_resolution).lower()}")
    return texts

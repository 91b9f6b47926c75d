"""The error text of a service, fit to be shown: short, without secrets and addresses. Pure."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable
from typing import Any

from airflow_provider_cio.addresses import masked_addresses

#: Tags, and scripts and styles with what is in them; one that does not end hides the rest of the page.
_MARKUP = re.compile(r"(?is)<(script|style)\b.*?(?:</\1>|\Z)|<[^<>]*>")
#: Bytes of an answer that are looked at.
_LONGEST_ANSWER = 100_000
#: Levels of its JSON that are looked at.
_DEEPEST_MESSAGE = 8
#: Characters that an error shows.
_LONGEST_TEXT = 300


def presentable(text: str, secrets: Iterable[str]) -> str:
    """One line, without the secrets and without e-mail addresses in any spelling."""
    text = html.unescape(text).replace("%40", "@")
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join(masked_addresses(text).split())
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "..."


def error_text(body: bytes) -> str:
    """The messages in an answer that is JSON of a known shape, else its text, without the markup of HTML."""
    text = body[:_LONGEST_ANSWER].decode("utf-8", "replace")
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        visible = _MARKUP.sub(" ", text)
        return visible if visible.strip() else text
    return "; ".join(_messages(answer, _DEEPEST_MESSAGE)) or json.dumps(answer, ensure_ascii=False)


def _messages(answer: Any, levels: int) -> list[str]:
    """``errors[].detail`` (with ``source.pointer``), ``meta.error``, ``meta.errors``, ``error``, ``message``."""
    if isinstance(answer, str):
        return [answer]
    if levels == 0:
        return []
    if isinstance(answer, list):
        return [text for item in answer for text in _messages(item, levels - 1)]
    if not isinstance(answer, dict):
        return []
    keys = ("errors", "meta", "error", "detail", "message")
    found = [text for key in keys for text in _messages(answer.get(key), levels - 1)]
    source = answer.get("source")
    if found and isinstance(source, dict) and isinstance(source.get("pointer"), str):
        found[-1] += f" (at {source['pointer']})"
    return found

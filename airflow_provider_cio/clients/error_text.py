"""What a service says is wrong, fit to be shown: short, without secrets and addresses. Pure."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from contextlib import suppress
from html.parser import HTMLParser
from typing import Any

from airflow_provider_cio.addresses import masked_addresses

_READ_OF_BODY = 100_000  # bytes of a service's refusal that are looked at
_NESTED = 8  # levels of its JSON that are
_LONGEST_WORDS = 300  # characters of it that an error shows


def presentable(text: str, secrets: Iterable[str]) -> str:
    """One line, without the secrets and without e-mail addresses in any spelling."""
    text = html.unescape(text).replace("%40", "@")
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join(masked_addresses(text).split())
    return text if len(text) <= _LONGEST_WORDS else text[:_LONGEST_WORDS] + "..."


class _TextOfPage(HTMLParser):
    """What a reader of the page would see."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.texts.append(data)


def said_in(content: bytes) -> str:
    """What an answer says is wrong: from JSON in its known shapes, from text or from HTML."""
    text = content[:_READ_OF_BODY].decode("utf-8", "replace")
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        page = _TextOfPage()
        with suppress(AssertionError):  # markup that is too odd even for the parser
            page.feed(text)
            page.close()
        return " ".join(page.texts) or text
    return "; ".join(_messages(answer, _NESTED)) or json.dumps(answer, ensure_ascii=False)


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

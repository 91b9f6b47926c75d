"""Personal data: kept, hashed or dropped, wherever an address can stand. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

_AROUND = re.compile(r"""([\s,;:<>"(){}\[\]=&?/#]+)""")  # what stands around an address in a text or a link
_BEFORE, _AFTER = "'`*", "'`*.!|~"  # what may also stand next to it
_IN_ID = re.compile(r"\S(?:@|%40)\S")
_NESTED = 3  # links within links that are looked into


def hashed(text: str) -> str:
    """SHA-256 of the trimmed lower-case text, in hex: the form that ad destinations expect of an address."""
    return hashlib.sha256(text.strip().lower().encode("utf-8", "replace")).hexdigest()


class Privacy:
    """What becomes of texts that are, or hold, personal data.

    :param mode: ``keep``, ``hash`` or ``drop``.
    """

    def __init__(self, mode: str = "keep") -> None:
        self.mode = mode
        self.keeps = mode == "keep"
        self._one: Callable[[str], str | None] = hashed if mode == "hash" else lambda text: None

    def address(self, text: str | None) -> str | None:
        """Of a text that is personal as a whole: an address, a phone number, a device token."""
        return text if self.keeps or not text else self._one(text)

    def addresses(self, text: str | None) -> str | None:
        """Of a comma-separated list of such."""
        if self.keeps or not text:
            return text
        return ",".join(kept for part in text.split(",") if (kept := self._one(part))) or None

    def id(self, text: str | None) -> str | None:
        """Of an id, which is personal only if an e-mail address is in it, as some workspaces have it."""
        return self._one(text) if text and not self.keeps and _IN_ID.search(text) else text

    def free(self, text: str | None, nested: int = 0) -> str | None:
        """Of free text, a subject or a link say: only the addresses in it, percent-encoded ones too."""
        if self.keeps or not text or not _may_hold_one(text):
            return text
        return "".join(self._piece(piece, nested) for piece in _AROUND.split(text))

    def free_of(self, text: str | None, recipient: str | None) -> str | None:
        """Of free text that may repeat the recipient, whatever kind that is."""
        if text and recipient and not self.keeps:
            text = text.replace(recipient, self._one(recipient) or "")
        return self.free(text)

    def _piece(self, piece: str, nested: int) -> str:
        plain = unquote(piece)
        if plain != piece and nested < _NESTED:  # a link, or a part of one, in a link
            kept = self.free(plain, nested + 1) or ""
            return piece if kept == plain else quote(kept, safe="")
        address = plain.lstrip(_BEFORE).rstrip(_AFTER)
        if "@" not in address.strip("@"):  # neither a lone one, nor the handle of a social network
            return piece
        before, _, after = plain.partition(address)
        return before + (self._one(address) or "") + after

    def ip(self, text: str | None) -> str | None:
        """IP addresses go unless all is kept."""
        return text if self.keeps else None


def _may_hold_one(text: str) -> bool:
    """An @ as such, or percent-encoded, however often."""
    return "@" in text or ("%" in text and "40" in text)


_SHOWN = {
    "type",
    "event",
    "messageId",
    "timestamp",
    "integrations",
    "delivery_id",
    "email_id",
    "machine",
    "prefetched",
    "proxied",
    "campaign_id",
    "action_id",
    "parent_action_id",
    "newsletter_id",
    "content_id",
    "broadcast_id",
    "transactional_message_id",
    "trigger_event_id",
    "link_id",
    "integration",
    "library",
}


def masked(value: Any, key: str = "") -> Any:
    """A sample of an event that may be logged: the values of what is not known to be impersonal are stars."""
    if key in _SHOWN:
        return value
    if isinstance(value, dict):
        return {key: masked(inner, key) for key, inner in value.items()}
    return "***"

"""Personal data in events: kept, hashed or dropped. Pure.

What `hash` and `drop` cover, and what they do not:

==========================  ==========================================================================================
e-mail addresses            replaced wherever they stand, in each spelling that `addresses` lists: with `hash` by the
                            hash of the plain address, with `drop` by nothing
recipients                  replaced as a whole, whatever they are: addresses, phone numbers, device tokens
recipients in other texts   replaced too: a phone number by its digits, however they are spaced (not its national
                            form, ``0170`` for ``+49 170``), anything else as it is spelled
`userId`, `customer_id`     replaced if an address is in them; another id stays, since nothing could be joined
                            without. Who is known by an address alone is `unidentified` with `drop`
`failure_message`           only a leading SMTP code stays (``550 5.1.1``): mail servers quote what they like
IP addresses                dropped, with `hash` too
names                       stay, in subjects, campaign names and links
base64 in links             stays, like all that can be read only by who knows how it was made
==========================  ==========================================================================================
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

from airflow_provider_cio.addresses import has_address, masked_addresses, replace_addresses

_NO_DIGIT = re.compile(r"\D")
_PHONE_NUMBER = re.compile(r"[+\d\s()./-]+")
_BETWEEN_DIGITS = r"[\s()./\u2010-\u2015-]{0,3}+"
_SHORTEST_PHONE_NUMBER = 6  # digits; a shorter one is a short code, or a number as any other
_SHORTEST_RECIPIENT = 6  # characters; what is shorter could be part of any word
_SMTP_CODE = re.compile(
    r"\s*(?:smtp;\s*)?([245]\d\d(?:[ -][245]\.\d{1,3}\.\d{1,3})?|[245]\.\d{1,3}\.\d{1,3})(?![\w@+]|\.\w|-\d)", re.ASCII
)


def hashed(text: str) -> str:
    """SHA-256 of the trimmed lower-case text, in hex: the form that ad destinations expect of an address.

    There is no salt, so a hash is no secret: who has a list of addresses finds those in it, and phone numbers and
    short ids can simply all be tried, within minutes. Use `drop` where that matters.
    """
    return hashlib.sha256(text.strip().lower().encode("utf-8", "replace")).hexdigest()


class Privacy:
    """What becomes of texts that are, or hold, personal data: see the table above.

    :param mode: ``keep``, ``hash`` or ``drop``.
    """

    def __init__(self, mode: str = "keep") -> None:
        self.mode = mode
        self.keeps = mode == "keep"
        self._one: Callable[[str], str | None] = hashed if mode == "hash" else lambda text: None

    def address(self, text: str | None) -> str | None:
        """For a text that is personal as a whole: an address, a phone number, a device token."""
        return text if self.keeps or not text else self._one(text)

    def addresses(self, text: str | None) -> str | None:
        """For a comma-separated list of such."""
        if self.keeps or not text:
            return text
        return ",".join(kept for part in text.split(",") if (kept := self._one(part))) or None

    def id(self, text: str | None) -> str | None:
        """For an id: personal only if there is an e-mail address in it, as some workspaces have it."""
        return self._one(text) if text and not self.keeps and has_address(text) else text

    def text(self, text: str | None, recipient: str | None = None) -> str | None:
        """For free text, a subject or a link: only the addresses in it, and the recipient, are replaced."""
        if self.keeps or not text:
            return text
        text = replace_addresses(text, self._replacement)
        if recipient:
            digits = _NO_DIGIT.sub("", text)
            for one in recipient.split(","):
                text = self._without(one.strip(), text, digits)
        return text

    def failure_message(self, text: str | None) -> str | None:
        """For what another server said of a person: only a leading SMTP code is kept."""
        if self.keeps or not text:
            return text
        code = _SMTP_CODE.match(text)
        return code[1] if code else None

    def ip(self, text: str | None) -> str | None:
        """For IP addresses: they go unless all is kept."""
        return text if self.keeps else None

    def _replacement(self, text: str) -> str:
        return self._one(text) or ""

    def _without(self, recipient: str, text: str, digits_of_text: str) -> str:
        if not _PHONE_NUMBER.fullmatch(recipient):
            if len(recipient) < _SHORTEST_RECIPIENT:
                return text
            return text.replace(recipient, self._replacement(recipient))
        digits = _NO_DIGIT.sub("", recipient)
        if len(digits) < _SHORTEST_PHONE_NUMBER or digits not in digits_of_text:
            return text
        number = rf"(?:(?:\+|(?<!\d)00){_BETWEEN_DIGITS}|(?<!\d)){_BETWEEN_DIGITS.join(digits)}(?!\d)"
        return re.sub(number, lambda found: self._replacement(recipient), text)


# Keys whose values say nothing of a person but Customer.io's own ids, by which a sample can be found again.
_SHOWN = {
    "type",
    "event",
    "messageId",
    "timestamp",
    "integrations",
    "integration",
    "library",
    "delivery_id",
    "email_id",
    "campaign_id",
    "action_id",
    "journey_id",
    "parent_action_id",
    "newsletter_id",
    "content_id",
    "broadcast_id",
    "trigger_id",
    "transactional_message_id",
    "trigger_event_id",
    "link_id",
    "machine",
    "prefetched",
    "proxied",
    "synthetic",
}


def masked(value: Any, key: str = "") -> Any:
    """A sample of an event that may be logged: the values of what is not known to be impersonal are stars."""
    if key in _SHOWN:
        return masked_addresses(value) if isinstance(value, str) else value
    if isinstance(value, dict):
        return {key: masked(inner, key) for key, inner in value.items()}
    return "***"

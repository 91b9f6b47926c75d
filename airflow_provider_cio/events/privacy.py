"""Keep, hash or drop personal data in events. Pure.

Effect of `hash` and `drop`:

==========================  ==========================================================================================
e-mail addresses            replaced everywhere, in each spelling that `addresses` lists: `hash` inserts the hash of
                            the plain address, `drop` inserts nothing
recipients                  replaced as a whole: addresses, phone numbers, device tokens. So is each device of a push;
                            its platform stays
recipients in other texts   replaced: a phone number in any spacing (but not its national form, ``0170`` for
                            ``+49 170``), any other recipient in exactly its spelling
`userId`, `customer_id`     replaced if they contain an address. Other ids stay, because events could not be joined
                            without them. With `drop`, a person known only by an address is `unidentified`
`cio_id`                    dropped with `drop`; with `hash` it stays like other ids
`failure_message`           only a leading SMTP code stays (``550 5.1.1``), because mail servers quote personal data
IP addresses                dropped, also with `hash`
names                       stay in subjects, campaign names and links
base64 in links             stays, like any other encoding that `addresses` does not list
==========================  ==========================================================================================
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

from airflow_provider_cio.addresses import has_address, masked_addresses, replace_addresses
from airflow_provider_cio.events.occurrence import Device

_NO_DIGIT = re.compile(r"\D")
_PHONE_NUMBER = re.compile(r"[+\d\s()./-]+")
_BETWEEN_DIGITS = r"[\s()./\u2010-\u2015-]{0,3}+"
#: Digits: a shorter number is a short code, or not a phone number.
_SHORTEST_PHONE_NUMBER = 6
#: Characters: a shorter recipient could be part of any word.
_SHORTEST_RECIPIENT = 6
_SMTP_CODE = re.compile(
    r"\s*(?:smtp;\s*)?([245]\d\d(?:[ -][245]\.\d{1,3}\.\d{1,3})?|[245]\.\d{1,3}\.\d{1,3})(?![\w@+]|\.\w|-\d)", re.ASCII
)


def hashed(text: str) -> str:
    """Return the SHA-256 of the trimmed lower-case text in hex, as advertising destinations expect it.

    The hash has no salt, so anyone can find addresses of a known list in it, and try all phone numbers and short ids
    within minutes. Use `drop` if that matters.
    """
    return hashlib.sha256(text.strip().lower().encode("utf-8", "replace")).hexdigest()


class Privacy:
    """Treatment of texts that are, or contain, personal data: see the table of this module.

    :param mode: ``keep``, ``hash`` or ``drop``.
    """

    def __init__(self, mode: str = "keep") -> None:
        self.mode = mode
        self.keeps = mode == "keep"
        self._replace: Callable[[str], str | None] = hashed if mode == "hash" else lambda text: None

    def address(self, text: str | None) -> str | None:
        """Treat an address, a phone number or a device token, which is replaced as a whole."""
        return text if self.keeps or not text else self._replace(text)

    def addresses(self, text: str | None) -> str | None:
        """Treat a comma-separated list of addresses, phone numbers or device tokens."""
        if self.keeps or not text:
            return text
        return ",".join(filter(None, map(self._replace, text.split(",")))) or None

    def id(self, text: str | None) -> str | None:
        """Treat an id, which is replaced only if it contains an e-mail address."""
        return self._replace(text) if text and not self.keeps and has_address(text) else text

    def text(self, text: str | None, recipient: str | None = None) -> str | None:
        """Treat a subject, a link or other free text: only addresses and the recipient are replaced."""
        if self.keeps or not text:
            return text
        text = replace_addresses(text, self._replacement)
        if recipient:
            digits = _NO_DIGIT.sub("", text)
            for one in recipient.split(","):
                text = self._without(one.strip(), text, digits)
        return text

    def failure_message(self, text: str | None) -> str | None:
        """Treat the text of a mail server: only a leading SMTP code stays."""
        if self.keeps or not text:
            return text
        code = _SMTP_CODE.match(text)
        return code[1] if code else None

    def cio_id(self, text: str | None) -> str | None:
        """Treat Customer.io's own id of a person."""
        return None if self.mode == "drop" else self.id(text)

    def device(self, device: Device) -> Device:
        """Treat a device: its id like an address, its failure message like that of a mail server."""
        if self.keeps:
            return device
        failure_message = self.failure_message(device.failure_message)
        return Device(self.address(device.device_id), device.device_platform, failure_message)

    def ip(self, text: str | None) -> str | None:
        """Treat an IP address, which is dropped with `hash`, too."""
        return text if self.keeps else None

    def _replacement(self, text: str) -> str:
        return self._replace(text) or ""

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


#: Keys whose values a sample shows: Customer.io's own ids, by which an event can be found, and impersonal values.
_SHOWN = {
    "type",
    "event",
    "messageId",
    "timestamp",
    "delivery_id",
    "email_id",
    "campaign_id",
    "campaign_name",
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
    "inbound_event_id",
    "machine",
    "prefetched",
    "proxied",
    "synthetic",
}


def masked(value: Any, key: str = "") -> Any:
    """Return a sample of an event that may be logged. Stars replace the value of each key that may be personal."""
    if key in _SHOWN:
        return masked_addresses(value) if isinstance(value, str) else value
    if isinstance(value, dict):
        return {key: masked(inner, key) for key, inner in value.items()}
    return "***"

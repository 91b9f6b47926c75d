"""Check Customer.io's signature of a reporting webhook. Pure.

The signature is the HMAC-SHA256, in hex, of ``v0:<timestamp>:<raw body>`` with the webhook's signing key.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

#: Most digits of a timestamp. A Unix time has ten.
_LONGEST_TIMESTAMP = 20


def signature_of(secret: str, timestamp: bytes, body: bytes | bytearray) -> bytes:
    """Return the signature in lower-case hex.

    :raises ValueError: the key is empty, and anybody could sign with an empty key.
    """
    if not secret:
        raise ValueError("the signing key is empty")
    code = hmac.new(secret.encode(), b"v0:%b:" % timestamp, "sha256")
    code.update(body)  # apart, because together would be a copy
    return code.hexdigest().encode()


def is_signed(secrets: Sequence[str], timestamp: bytes, body: bytes | bytearray, signature: bytes) -> bool:
    """Return True if the signature was made with one of the keys.

    The check takes the same time for every signature, right or wrong. The age of the timestamp is not checked, because
    Customer.io may repeat a report with its first signature, and a repeated report has the same `messageId`.

    :param timestamp: value of the header ``x-cio-timestamp``.
    :param signature: value of the header ``x-cio-signature``.
    :raises ValueError: a key is empty.
    """
    if not (timestamp.isdigit() and len(timestamp) <= _LONGEST_TIMESTAMP):
        return False
    given = signature.lower()
    found = False
    for secret in secrets:
        found |= hmac.compare_digest(signature_of(secret, timestamp, body), given)
    return found

"""Customer.io's signature of a reporting webhook. Pure.

It is the HMAC-SHA256, in hex, of ``v0:<timestamp>:<raw body>`` under the webhook's signing key.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

#: Digits of a Unix time; some more than any has.
_LONGEST_TIMESTAMP = 20


def signature_of(secret: str, timestamp: bytes, body: bytes) -> bytes:
    """In lower-case hex.

    :raises ValueError: the key is empty: anybody could sign with that.
    """
    if not secret:
        raise ValueError("the signing key is empty")
    return hmac.digest(secret.encode(), b"v0:%b:%b" % (timestamp, body), "sha256").hex().encode()


def is_signed(secrets: Sequence[str], timestamp: bytes, body: bytes, signature: bytes) -> bool:
    """Whether the signature was made with one of the keys.

    It takes the same time whichever key fits and wherever a wrong signature differs. How old the timestamp is does not
    matter: nobody says that a retry is signed anew, and a report that is sent again has the same `messageId`.

    :param timestamp: as the header ``x-cio-timestamp`` has it.
    :param signature: as ``x-cio-signature`` has it.
    :raises ValueError: a key is empty.
    """
    if not (timestamp.isdigit() and len(timestamp) <= _LONGEST_TIMESTAMP):
        return False
    given = signature.lower()
    found = False
    for secret in secrets:
        found |= hmac.compare_digest(signature_of(secret, timestamp, body), given)
    return found

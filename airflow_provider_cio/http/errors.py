"""Errors of HTTP services: their text, made safe to show, and whether another attempt may succeed."""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import time
from calendar import timegm
from collections.abc import Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from airflow_provider_cio.addresses import decoded, masked_addresses
from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.http.session import UnusableAnswer

#: Tags; scripts and styles with their content. An unclosed script or style extends to the end of the page.
_MARKUP = re.compile(r"(?is)<(script|style)\b.*?(?:</\1>|\Z)|<[^<>]*>")
#: Bytes of an answer that are searched for messages, because a proxy's page may be long.
LONGEST_EXPLANATION = 100_000
#: Levels of JSON that are searched for messages, so that the recursion ends.
_DEEPEST_MESSAGE = 8
#: Characters of a service's text in an error: enough for its messages, short enough for one line in a log.
_LONGEST_TEXT = 200
#: Characters of a text that are looked at. The last ones are not shown, because they may be the beginning of a secret
#: or an address, which nobody would recognise.
_LOOKED_AT = 20_000
_NOT_SHOWN = 4_000
#: Nested escapes, such as a link within a link, that are undone.
_LEVELS = 8
#: Longest time, in seconds, that a service is believed to ask to wait. More is a broken clock or a bad joke.
_LONGEST_WAIT = 30 * 86_400.0


def safe_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text from outside as one line of at most 200 characters that may be shown: the one gate for all of them.

    It has no secret, in any of its spellings, no e-mail address, and no control character. Escapes are undone, so that
    it can be read: secrets are masked before and after each step, addresses at the end. The time is linear in the
    length.
    """
    was_cut = len(text) > _LOOKED_AT
    text = _masked(text[:_LOOKED_AT], secrets)
    if was_cut:
        text = text[:-_NOT_SHOWN]
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 3] + "..."


def _masked(text: str, secrets: Iterable[str]) -> str:
    """Return the text without escapes, invisible characters, secrets and addresses."""
    pattern = _pattern_of(secrets)

    def without_secrets(text: str) -> str:
        text = _visible(text)
        return pattern.sub("***", text) if pattern else text

    text = without_secrets(text)
    for _ in range(_LEVELS):
        plain = without_secrets(decoded(text))
        if plain == text:
            break
        text = plain
    else:
        text = re.sub(r"[%&\\]", " ", text)  # nobody writes so many levels but to hide something
    return masked_addresses(text)  # last, because it looks through all escapes, also through those in a secret


def _visible(text: str) -> str:
    """Return the text without control characters and the like.

    They leave no blank, because they may stand between any two letters of a secret, as the NULs of UTF-16 do.
    """
    if text.isprintable():
        return text
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # joins the surrogates of JSON's escapes
    return "".join(one if one.isprintable() else " " if one.isspace() else "" for one in text)


def _pattern_of(secrets: Iterable[str]) -> re.Pattern[str] | None:
    """Return a pattern of the secrets: plain, as in JSON, and as in the header of Basic authentication.

    Percent-encoding and HTML need none, because `safe_text` undoes them.
    """
    spellings: set[str] = set()
    for secret in filter(None, secrets):
        spellings |= {_visible(secret), json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
        for user in (secret, f"{secret}:"):
            encoded = base64.b64encode(user.encode("utf-8", "surrogatepass")).decode().rstrip("=")
            spellings |= {encoded, encoded.replace("+", "-").replace("/", "_")}
    spellings = {spelling.replace("/", slash) for spelling in spellings if spelling for slash in ("/", "\\/")}
    longest_first = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE) if spellings else None


def error_text(body: bytes, secrets: Iterable[str] = ()) -> str:
    """Return the messages in a JSON answer, else its whole text without HTML markup. It is not yet safe to show.

    :param secrets: are masked before a long text is cut, because half of one would not be recognised later.
    """
    text = body[:LONGEST_EXPLANATION].decode(json.detect_encoding(body), "replace")
    if len(body) >= LONGEST_EXPLANATION:
        text = _masked(text, secrets)[:-_NOT_SHOWN]
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        visible = _MARKUP.sub(" ", text)
        return visible if visible.strip() else text
    return "; ".join(_messages(answer, _DEEPEST_MESSAGE)) or json.dumps(answer, ensure_ascii=False)


def _messages(answer: Any, levels: int) -> list[str]:
    """Return the texts of ``errors[].detail`` (with ``source.pointer``), ``meta.error(s)``, ``error``, ``message``."""
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


class StatusError(Exception):
    """The service refused the request with a status that a retry won't change."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


class RedirectError(ConfigurationError):
    """The service redirects, which is never followed.

    :param location: address that it names, unchecked.
    """

    def __init__(self, text: str, location: str) -> None:
        super().__init__(text)
        self.location = location


class UnreadableBody(Exception):
    """A 2xx answer with an unexpected body: cut off, or the page of a gateway. Its text is shown as it is."""


class ClosedError(Exception):
    """The client was closed before or during a request."""


class Fault(Exception):
    """A failed attempt that is worth another one.

    :param asked_wait: seconds that the service asks to wait. All threads then wait, as after a 429.
    """

    def __init__(self, problem: str, asked_wait: float | None = None, *, rate_limited: bool = False) -> None:
        super().__init__(problem)
        self.asked_wait = asked_wait
        self.rate_limited = rate_limited


def fault_or_error(
    error: Exception, *, name: str, base_url: str, answered_before: bool, secrets: tuple[str, ...]
) -> Fault | ConfigurationError:
    """Sort an exception of requests or urllib3: a fault is retried, an error is not.

    :param answered_before: the host has answered this client before, so its name is right.
    """
    causes = list(_causes(error))
    kind = type(error).__name__
    reasons = (getattr(cause, "reason", None) for cause in causes)
    reason = next((reason for reason in reasons if isinstance(reason, Exception)), error)
    text = safe_text(str(reason), secrets)
    for cause in causes:
        if isinstance(cause, UnusableAnswer):
            return Fault(f"sent an answer that can't be used: {cause}")
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return ConfigurationError(
            f"{name}: the certificate of {base_url} can't be verified: {text}. Check host and region. If a proxy "
            "re-signs connections, set REQUESTS_CA_BUNDLE to a file with its certificate."
        )
    if not isinstance(error, requests.RequestException) and "CA certificate" in str(error):
        return ConfigurationError(f"{name}: {text}. Check REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE.")
    unknown = any(isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME for cause in causes)
    if unknown and not answered_before:
        return ConfigurationError(
            f"{name}: the host of {base_url} is unknown: {text}. Check host and region, and the proxy if there is one."
        )
    if isinstance(error, ValueError):  # requests and urllib3 raise it for malformed URLs and headers
        return ConfigurationError(f"{name}: no request can be made to {base_url} ({kind}). Check host and password.")
    return Fault(f"could not be reached: {kind}: {text}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes. requests and urllib3 keep these in `args` and `reason`, too."""
    seen: set[int] = set()
    left: list[object] = [error]
    while left:
        cause = left.pop()
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            left += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that Retry-After, else X-RateLimit-Reset, asks to wait; None without a valid header.

    Each may be a number of seconds, Unix seconds or an HTTP date. A wait of more than 30 days is not valid.
    """
    for name in ("Retry-After", "X-RateLimit-Reset"):
        wait = _seconds(headers.get(name, "").strip())
        if wait is not None and wait <= _LONGEST_WAIT:
            return wait
    return None


def _seconds(value: str) -> float | None:
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", value):
        seconds = float(value)
        return seconds if seconds < 1e9 else max(0.0, seconds - time.time())
    try:
        return max(0.0, timegm(parsedate_to_datetime(value).utctimetuple()) - time.time())
    except (ValueError, OverflowError, TypeError, IndexError):
        return None

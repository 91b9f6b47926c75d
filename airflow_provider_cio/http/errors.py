"""Errors of HTTP services: their text, made safe to show, and whether another attempt may succeed."""

from __future__ import annotations

import html
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

from airflow_provider_cio.addresses import masked_addresses
from airflow_provider_cio.exceptions import ConfigurationError

#: Tags; scripts and styles with their content. An unclosed script or style extends to the end of the page.
_MARKUP = re.compile(r"(?is)<(script|style)\b.*?(?:</\1>|\Z)|<[^<>]*>")
#: Bytes of an answer that are searched for messages, because a proxy's page may be long.
_LONGEST_ANSWER = 100_000
#: Levels of JSON that are searched for messages, so that the recursion ends.
_DEEPEST_MESSAGE = 8
#: Characters of a service's text in an error: enough for its messages, short enough for one line in a log.
_LONGEST_TEXT = 300


def presentable(text: str, secrets: Iterable[str]) -> str:
    """Return the text as one short line without the secrets and without e-mail addresses."""
    text = html.unescape(text).replace("%40", "@")
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join(masked_addresses(text).split())
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "..."


def error_text(body: bytes) -> str:
    """Return the messages in a JSON answer, else its whole text without HTML markup."""
    text = body[:_LONGEST_ANSWER].decode("utf-8", "replace")
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
    text = presentable(str(reason), secrets)
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

    Each may be a number of seconds, Unix seconds or an HTTP date.
    """
    for name in ("Retry-After", "X-RateLimit-Reset"):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]+)?", value):
            seconds = float(value)
            return seconds if seconds < 1e9 else max(0.0, seconds - time.time())
        try:
            return max(0.0, timegm(parsedate_to_datetime(value).utctimetuple()) - time.time())
        except (ValueError, OverflowError, TypeError):
            continue
    return None

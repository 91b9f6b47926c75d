"""What a failed attempt means: another attempt may cure it (`Fault`), or the connection has to be fixed."""

from __future__ import annotations

import re
import socket
import ssl
import time
from calendar import timegm
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime

import requests

from airflow_provider_cio.clients.error_text import presentable
from airflow_provider_cio.exceptions import ConfigurationError


class Fault(Exception):
    """What another attempt may cure.

    :param asked_wait: seconds that the service asks for. Every thread then waits that long, as after a 429.
    """

    def __init__(self, problem: str, asked_wait: float | None = None, *, rate_limited: bool = False) -> None:
        super().__init__(problem)
        self.asked_wait = asked_wait
        self.rate_limited = rate_limited


def fault_or_error(
    error: Exception, *, name: str, base_url: str, answered_before: bool, secrets: tuple[str, ...]
) -> Fault | ConfigurationError:
    """For an exception of requests or urllib3.

    :param answered_before: the host has answered this client, so its name is not mistyped.
    """
    causes = list(_causes(error))
    kind = type(error).__name__
    reasons = (getattr(cause, "reason", None) for cause in causes)
    reason = next((reason for reason in reasons if isinstance(reason, Exception)), error)
    text = presentable(str(reason), secrets)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return ConfigurationError(
            f"{name}: the certificate of {base_url} can't be verified: {text}. Check host and region. If a proxy "
            "re-signs connections, REQUESTS_CA_BUNDLE has to name a file with its certificate."
        )
    if not isinstance(error, requests.RequestException) and "CA certificate" in str(error):
        return ConfigurationError(f"{name}: {text}. Check REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE.")
    unknown = any(isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME for cause in causes)
    if unknown and not answered_before:
        return ConfigurationError(
            f"{name}: the host of {base_url} is unknown: {text}. Check host and region, and the proxy if there is one."
        )
    if isinstance(error, ValueError):  # what requests and urllib3 raise for malformed addresses and headers
        return ConfigurationError(f"{name}: {base_url} can't be asked ({kind}): check host and password")
    return Fault(f"could not be reached: {kind}: {text}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it; requests and urllib3 keep those in their arguments or in `reason`."""
    seen: set[int] = set()
    left: list[object] = [error]
    while left:
        cause = left.pop()
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            left += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After (seconds or HTTP date), else X-RateLimit-Reset (seconds or Unix time), asks for."""
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

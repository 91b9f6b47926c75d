"""One HTTP session to one service: time-outs, retries, rate limit.

It can be shared between threads. It does not log. No error shows a secret or an e-mail address.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Self, TypeVar

import requests
import urllib3

from airflow_provider_cio.exceptions import TryAgainLaterError
from airflow_provider_cio.http.errors import (
    LONGEST_EXPLANATION,
    ClosedError,
    Fault,
    RedirectError,
    StatusError,
    UnreadableBody,
    asked_wait,
    error_text,
    fault_or_error,
    safe_text,
)
from airflow_provider_cio.http.rate_limit import Grant, RateLimiter
from airflow_provider_cio.http.session import TIMEOUTS_PER_ANSWER, read_body, session

T = TypeVar("T")

#: Longest seconds to wait for a connection: a host that takes longer is down.
_CONNECT_TIMEOUT = 10.0
#: Seconds after which an answer that has not come whole is worth a line in the log.
_SLOW = 5.0
#: Prepared requests that are kept: clients ask fewer paths, but for those with the id of a delivery.
_PATHS = 8
#: Weight of the newest request in the smoothed latency: about the last ten requests count.
_NEWEST_WEIGHT = 0.2


@dataclass(frozen=True)
class Retries:
    """Limits of the attempts of one request, and the waits between them.

    Waits start at `first` seconds and double up to `longest`; each is shortened by up to half at random. A wait that
    the service asks for replaces them.

    :param attempts: greatest number of attempts; None is any number.
    :param total: seconds after which no further attempt begins.
    """

    attempts: int | None = None
    total: float = 600.0
    first: float = 0.5
    longest: float = 60.0

    def wait(self, failures: int) -> float:
        """Return the seconds to wait after `failures` failures in a row."""
        ceiling = min(self.longest, self.first * 2.0 ** min(failures - 1, 99))
        return ceiling * random.uniform(0.5, 1.0)


class Answer(NamedTuple):
    """Complete answer of a service."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """A session with retries, for requests that may be repeated.

    :param name: name of the service in errors, e.g. ``Customer.io (connection 'customerio_default')``.
    :param headers: headers of every request.
    :param timeout: seconds to wait for a connection (at most 10), and for each read. A whole answer has four times it.
    :param largest_answer: bytes, unpacked, that a 2xx answer may have.
    :param secrets: texts that no error may show.
    """

    def __init__(
        self,
        base_url: str,
        *,
        name: str,
        auth: Callable[[requests.PreparedRequest], requests.PreparedRequest],
        headers: Mapping[str, str] | None = None,
        timeout: float,
        limiter: RateLimiter,
        retries: Retries,
        secrets: tuple[str, ...],
        largest_answer: int,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.name = name
        self.retries = retries
        #: Counts so far: requests, repeated requests, answers with 429.
        self.attempts = self.retried = self.rate_limited = 0
        self._auth = auth
        self._headers = headers
        self._timeout = (min(timeout, _CONNECT_TIMEOUT), timeout)
        self._limiter = limiter
        self._secrets = secrets
        self._largest_answer = largest_answer
        self._latency = 0.0  # seconds from a request to its whole answer, smoothed
        self._answered = False
        self._wait_ends = -math.inf  # end of the longest wait of any thread
        self._waits_for = ("", 0)  # problem that caused this wait, number of the attempt after it
        self._under_way: dict[int, float] = {}  # for each thread in an exchange: when it began
        self._lock = threading.Lock()  # guards the counts, the wait and the exchanges
        self._closed = threading.Event()
        self._this_thread = threading.local()
        self._session = session(self.base_url)
        self._prepare_once = lru_cache(_PATHS)(self._prepare)

    def request(
        self,
        method: str,
        path: str,
        *,
        read: Callable[[Answer], T],
        params: Mapping[str, str | int] | None = None,
        body: Callable[[], bytes] | None = None,
        units: float = 1,
        retries: Retries | None = None,
    ) -> T:
        """Send a request, and repeat it until its answer can be read or `Retries` are used up.

        :param read: turns a 2xx answer into the result. If it raises `UnreadableBody`, the request is repeated.
        :param body: makes the body of each attempt, which is JSON.
        :param units: cost of one attempt in the rate limiter.
        :param retries: replaces the session's.
        :raises StatusError: 4xx other than 408 and 429.
        :raises ConfigurationError: a redirect, a certificate that can't be verified, an unknown host, or an invalid
            URL.
        :raises TryAgainLaterError: attempts or time are used up.
        :raises ClosedError: the client was closed.
        """
        retries = retries or self.retries
        failures = 0
        give_up_at = time.monotonic() + retries.total
        while True:
            grant = self._limiter.acquire(units, self._sleep)
            self._count_attempt(repeated=failures > 0)
            try:
                answer = self._exchange(method, path, params, body() if body else None, grant)
                return self._result(answer, read)
            except Fault as error:
                fault = error
            failures += 1
            wait = fault.asked_wait or retries.wait(failures)
            used_up = retries.attempts is not None and failures >= retries.attempts
            if used_up or time.monotonic() + wait > give_up_at:
                asked = f", and asks to wait {fault.asked_wait:.0f} s" if fault.asked_wait else ""
                times = "1 attempt" if failures == 1 else f"{failures} attempts"
                raise TryAgainLaterError(
                    f"{self.name} {fault}{asked}. Gave up after {times}; a retry of the task may help.",
                    # Not for a shorter wait: if the service asks for it for ever, the task's retries have to end.
                    after=fault.asked_wait if fault.asked_wait and fault.asked_wait > retries.total else None,
                )
            self._note_wait(wait, str(fault), failures + 1)
            if fault.rate_limited or fault.asked_wait is not None:
                self._limiter.slow_down(wait, grant)
            else:
                self._sleep(wait)

    def _exchange(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | int] | None,
        body: bytes | None,
        grant: Grant,
    ) -> Answer:
        """Send one request and return its answer, whatever the status."""
        sent_at = time.monotonic()
        try:
            with (
                self._noting_exchange(),
                self._session.send(
                    self._prepared(method, path, params, body),
                    timeout=self._timeout,
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                succeeded = 200 <= response.status_code < 300
                largest = self._largest_answer if succeeded else LONGEST_EXPLANATION
                content = read_body(response, largest, cut=not succeeded)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if self._closed.is_set():
                raise self._closed_error() from None
            raise fault_or_error(
                error,
                name=self.name,
                base_url=self.base_url,
                answered_before=self._answered,
                secrets=self._secrets,
            ) from None
        finally:
            if self._closed.is_set():  # `close` may have come before this request opened its connection
                self._session.close()
        self._answered = True
        latency = time.monotonic() - sent_at
        if not hasattr(self._this_thread, "connected"):  # its first request, which probably opened a connection
            self._this_thread.connected = True
            if self.base_url.startswith("https:"):
                # A handshake takes at most as many round trips as request and answer, and no work of the service.
                self._limiter.sent_late(grant, latency / 2)
        if succeeded:
            self._latency += (latency - self._latency) * (_NEWEST_WEIGHT if self._latency else 1)
        return Answer(response.status_code, response.reason or "", response.headers, content)

    def _prepare(self, method: str, path: str) -> requests.PreparedRequest:
        request = requests.Request(method, self.base_url + path, headers=self._headers, auth=self._auth)
        return self._session.prepare_request(request)

    def _prepared(
        self, method: str, path: str, params: Mapping[str, str | int] | None, body: bytes | None
    ) -> requests.PreparedRequest:
        """Return a request. All but its parameters and body is prepared once for each path, because that takes long."""
        prepared = self._prepare_once(method, path).copy()
        if params:
            prepared.prepare_url(self.base_url + path, params)
        if body is not None:
            prepared.headers["Content-Type"] = "application/json"
            prepared.prepare_body(body, None)
        return prepared

    def _result(self, answer: Answer, read: Callable[[Answer], T]) -> T:
        if 200 <= answer.status < 300:
            try:
                return read(answer)
            except UnreadableBody as error:
                raise Fault(f"sent an answer that can't be read: {error}") from None
        status, text = answer.status, self.error_text(answer)
        if status < 400:
            raise RedirectError(
                f"{self.name} answered {status}: {text}. {self.base_url} redirects: put the final address into host.",
                answer.headers.get("Location", ""),
            )
        if status < 500 and status not in (408, 429):
            raise StatusError(status, text)
        if status == 429:
            with self._lock:
                self.rate_limited += 1
        raise Fault(f"answered {status}: {text}", asked_wait(answer.headers), rate_limited=status == 429)

    def error_text(self, answer: Answer) -> str:
        """Return the service's explanation in an answer, as one short line that may be shown."""
        return (
            self.safe_text(error_text(answer.body, self._secrets)) or self.safe_text(answer.reason) or "no further text"
        )

    def safe_text(self, text: str) -> str:
        """Return a text of the service as one short line that may be shown."""
        return safe_text(text, self._secrets)

    def wanted_in_flight(self) -> int:
        """Return the number of requests in flight, at least 1, that use up the rate at the latency seen so far."""
        return max(1, math.ceil(min(self._limiter.rate, 1e6) * self._latency))

    def waiting(self) -> str | None:
        """Return one sentence about the longest wait before a repeated request, else about the slowest answer, or None.

        Waits for the rate limiter do not count.
        """
        now = time.monotonic()
        with self._lock:
            problem, attempt = self._waits_for
            left = self._wait_ends - now
            took = now - min(self._under_way.values(), default=now)
        if self._closed.is_set():
            return None
        if left > 0:
            return f"{self.name} {problem}; waits {math.ceil(left)} s before attempt {attempt}"
        if took > _SLOW:
            longest = TIMEOUTS_PER_ANSWER * self._timeout[1]
            return f"{self.name} has not sent its whole answer for {took:.0f} s; waits for it up to {longest:g} s"
        return None

    @contextmanager
    def _noting_exchange(self) -> Iterator[None]:
        thread = threading.get_ident()
        with self._lock:
            self._under_way[thread] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._under_way[thread]

    def _note_wait(self, seconds: float, problem: str, attempt: int) -> None:
        ends = time.monotonic() + seconds
        with self._lock:
            if ends > self._wait_ends:
                self._wait_ends, self._waits_for = ends, (problem, attempt)

    def _count_attempt(self, *, repeated: bool) -> None:
        if self._closed.is_set():
            raise self._closed_error()
        with self._lock:
            self.attempts += 1
            self.retried += repeated

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise self._closed_error()

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"{self.name}: the client is closed")

    def close(self) -> None:
        """End every wait at once with `ClosedError`, and let no further attempt begin.

        A thread that is reading an answer continues until the answer is complete or times out.
        """
        self._closed.set()
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

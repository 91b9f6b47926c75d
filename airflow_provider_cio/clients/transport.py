"""One HTTP session to one service: time-outs, retries, rate limit. Knows neither service.

Safe to share between threads. Nothing here logs, and no error shows a secret or an e-mail address.
"""

from __future__ import annotations

import math
import random
import re
import socket
import threading
import time
import weakref
from calendar import timegm
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Self, TypeVar

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from airflow_provider_cio.clients.error_text import presentable, said_in
from airflow_provider_cio.exceptions import ConfigurationError, CustomerIOToSegmentError, TryAgainLaterError

T = TypeVar("T")

_CONNECTING = 10.0  # seconds at most, of the time-out: nothing can end it sooner
_CHUNK = 2**20  # bytes of an answer that are read at once; `requests` by itself takes 10 KiB
_SLOWER, _SLOWEST, _RECOVERY = 0.8, 0.05, 0.01  # of the allowed rate: after a 429; at the least; per request


@dataclass(frozen=True)
class Retries:
    """How long to go on: at most `attempts` requests, and none that would begin later than `total` seconds.

    Without word from the service, waits start at `first` seconds and double up to `longest`, less up to half by chance.
    """

    attempts: int = 10
    total: float = 600.0
    first: float = 0.5
    longest: float = 60.0

    def wait(self, failures: int) -> float:
        """Seconds to wait after that many failures in a row."""
        ceiling = min(self.longest, self.first * 2.0 ** (failures - 1))
        return ceiling * random.uniform(0.5, 1.0)


class Answer(NamedTuple):
    """What the service answered, read whole."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class StatusError(Exception):
    """The service refused the request with a status that a retry won't change."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status = status
        self.words = words


class UnreadableBody(Exception):
    """A good status with a body that is not what the service sends: cut off, or a gateway's page."""


class _Fault(Exception):
    """What another attempt may cure.

    :param asked_wait: seconds that the service asks for; then all wait that long, as they do when `throttled`.
    """

    def __init__(self, trouble: str, asked_wait: float | None = None, *, throttled: bool = False) -> None:
        super().__init__(trouble)
        self.asked_wait = asked_wait
        self.throttled = throttled or asked_wait is not None


class ClosedError(Exception):
    """The client was closed while it was at work."""


class RateLimiter:
    """Hands out evenly spaced places: `per_second` units a second over all threads together; 0 is no limit.

    When the service says that it is too much (somebody else shares its limit), all wait as long as it says and go
    on slower; each place handed out then brings the rate back up a little.
    """

    def __init__(self, per_second: float) -> None:
        self.rate = per_second or math.inf
        self._allowed = self.rate
        self._lock = threading.Lock()
        self._next_free = 0.0
        self._granted_until = 0.0
        self._paused_until = 0.0
        self._pauses = 0
        self._slowed_at = 0  # the pause that came with the last slow-down

    def acquire(self, units: float, sleep: Callable[[float], None]) -> int:
        """Wait for a place. A pause that comes meanwhile makes all who wait queue up again behind it.

        :returns: what `slow_down` wants to be told.
        """
        while True:
            with self._lock:
                now = time.monotonic()
                begins = max(now, self._next_free)
                ends = self._next_free = begins + units / self.rate
                pauses = self._pauses
            if begins > now:
                sleep(begins - now)
            with self._lock:
                if pauses == self._pauses:
                    self._granted_until = max(self._granted_until, ends)
                    self.rate = min(self._allowed, self.rate + self._allowed * _RECOVERY)
                    return pauses

    def slow_down(self, seconds: float, acquired: int) -> None:
        """Let nobody through for that long: the service said so to one, and means all.

        :param acquired: what `acquire` gave for the request; those from before the last slow-down slow down no more.
        """
        with self._lock:
            if acquired >= self._slowed_at and self.rate != math.inf:
                self.rate = max(self.rate * _SLOWER, self._allowed * _SLOWEST)
                self._slowed_at = self._pauses + 1
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)
            self._next_free = max(self._paused_until, self._granted_until)
            self._pauses += 1


class Transport:
    """A session with retries, for requests that may be repeated.

    :param name: how errors call the service, e.g. ``Customer.io (connection 'customerio_default')``.
    :param timeout: seconds to wait for a connection, and for each read.
    :param secrets: texts that no error may show.
    """

    def __init__(
        self,
        base_url: str,
        *,
        name: str,
        auth: Callable[[requests.PreparedRequest], requests.PreparedRequest],
        timeout: float,
        limiter: RateLimiter,
        retries: Retries,
        secrets: tuple[str, ...],
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.name = name
        self.attempts = 0
        self._auth = auth
        self._timeout = timeout
        self._limiter = limiter
        self._retries = retries
        self._secrets = secrets
        self._latency = 0.0  # seconds from a request to its whole answer, smoothed
        self._closed = threading.Event()
        self._session = _session(self.base_url)
        self._lock = threading.Lock()  # of the sockets, and of the count of attempts
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Adapter(self._opened))

    def request(
        self,
        method: str,
        path: str,
        *,
        read: Callable[[Answer], T],
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], bytes] | None = None,
        units: float = 1,
        retries: Retries | None = None,
    ) -> T:
        """Send until an answer can be read, as often as `Retries` allows.

        :param read: turns a 2xx answer into the result; `UnreadableBody` from it counts as a fault.
        :param body: makes the body anew for every attempt.
        :param units: what one attempt takes from the rate limiter.
        :param retries: other than those of the session.
        :raises StatusError: 4xx other than 408 and 429.
        :raises ConfigurationError: a redirect, or a URL that can't be asked.
        :raises TryAgainLaterError: attempts or time are used up.
        """
        retries = retries or self._retries
        failures = 0
        give_up_at = time.monotonic() + retries.total
        while True:
            acquired = self._limiter.acquire(units, self._sleep)
            try:
                return self._attempt(method, path, read, params, headers, body)
            except _Fault as error:
                fault = error
            failures += 1
            wait = fault.asked_wait or retries.wait(failures)
            if failures >= retries.attempts or time.monotonic() + wait > give_up_at:
                asked = f", and asks to wait {fault.asked_wait:.0f} s" if fault.asked_wait else ""
                raise TryAgainLaterError(
                    f"{self.name} {fault}{asked}. Gave up after {failures} attempts; a retry of the task may help."
                )
            if fault.throttled:
                self._limiter.slow_down(wait, acquired)
            else:
                self._sleep(wait)

    def _attempt(
        self,
        method: str,
        path: str,
        read: Callable[[Answer], T],
        params: Mapping[str, str | int] | None,
        headers: Mapping[str, str] | None,
        make_body: Callable[[], bytes] | None,
    ) -> T:
        """One request. A function of its own also so that no answer, and no socket with it, outlives the attempt."""
        if self._closed.is_set():
            raise ClosedError(f"{self.name}: the client is closed")
        with self._lock:
            self.attempts += 1
        sent_at = time.monotonic()
        try:
            with self._session.request(
                method,
                self.base_url + path,
                params=params,
                data=make_body() if make_body else None,
                headers=headers,
                auth=self._auth,
                timeout=(min(self._timeout, _CONNECTING), self._timeout),
                allow_redirects=False,
                stream=True,
            ) as response:
                body = b"".join(response.iter_content(_CHUNK))
            answer = Answer(response.status_code, response.reason or "", response.headers, body)
            if 200 <= answer.status < 300:
                result = read(answer)
                self._latency += (time.monotonic() - sent_at - self._latency) * (0.2 if self._latency else 1)
                return result
        except CustomerIOToSegmentError:
            raise
        except UnreadableBody as error:
            raise _Fault(f"sent an answer that can't be read: {error}") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if self._closed.is_set():
                raise ClosedError(f"{self.name}: the client is closed") from None
            kind = type(error).__name__
            if isinstance(error, ValueError):  # so are all that requests and urllib3 have for addresses and headers
                raise ConfigurationError(
                    f"{self.name}: {self.base_url} can't be asked ({kind}): check host and password"
                ) from None
            raise _Fault(f"could not be reached: {kind}: {presentable(str(error), self._secrets)}") from None
        status, words = answer.status, self.words_of(answer)
        if status < 400:
            raise ConfigurationError(
                f"{self.name} answered {status}: {words}. {self.base_url} redirects: put the final address into host"
            )
        if status < 500 and status not in (408, 429):
            raise StatusError(status, words)
        raise _Fault(f"answered {status}: {words}", _asked_wait(answer.headers), throttled=status == 429)

    def in_flight(self) -> int:
        """How many requests at once use up the rate that is allowed, at the latency seen so far; at least one."""
        return max(1, math.ceil(min(self._limiter.rate, 1e6) * self._latency))

    def words_of(self, answer: Answer) -> str:
        """What the service says is wrong, in one short line that may be shown."""
        said = presentable(said_in(answer.body), self._secrets)
        return said or presentable(answer.reason, self._secrets) or "no further word"

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise ClosedError(f"{self.name}: the client is closed")

    def _opened(self, one: socket.socket) -> None:
        with self._lock:
            self._sockets.add(one)
        if self._closed.is_set():  # while it was being opened
            _shut(one)

    def close(self) -> None:
        """Close every socket: a thread that is in `request` gets `ClosedError` at once, or when it has connected."""
        self._closed.set()
        with self._lock:
            sockets = list(self._sockets)
        for one in sockets:
            _shut(one)
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _session(url: str) -> requests.Session:
    """One that has read the environment (proxies, certificates) once for this URL; by itself each request would."""
    session = requests.Session()
    with suppress(ValueError):  # a URL that can't be asked: the first request says so
        settings = session.merge_environment_settings(url, {}, None, None, None)
        session.proxies, session.verify, session.trust_env = settings["proxies"], settings["verify"], False
    return session


def _shut(one: socket.socket) -> None:
    with suppress(OSError, AttributeError):  # it was closed already; one within a TLS proxy can't be
        one.shutdown(socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    """Tells of each socket it opens: one that another thread is reading from is in no pool that could close it."""

    def __init__(self, opened: Callable[[socket.socket], None]) -> None:
        class Connection(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                opened(self.sock)

        class SecureConnection(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                opened(self.sock)

        self._pools = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": Connection}),
            "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": SecureConnection}),
        }
        super().__init__(pool_maxsize=16)  # no fewer than the threads that share the session

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def close(self) -> None:
        """At once, and not when the last who knows of a pool (an error's traceback, say) is gone."""
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118  a mapping that can't be iterated
                manager.pools[key].close()
        super().close()

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager


def _asked_wait(headers: Mapping[str, str]) -> float | None:
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

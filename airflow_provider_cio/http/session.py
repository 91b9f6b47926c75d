"""A session of requests whose answers have a deadline and a greatest size.

requests and urllib3 bound each read, not the answer: one that comes by a byte a second never ends, and a small gzip
may unpack to more than the memory holds.
"""

from __future__ import annotations

import http.client
import io
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter

#: A whole answer may take this many times the time-out of one read.
TIMEOUTS_PER_ANSWER = 4
#: Greatest number of bytes of an answer on the wire, whatever they are: headers, chunk sizes, body. The largest that a
#: client takes is 32 MiB; chunks of a few bytes each may double that.
LARGEST_ON_THE_WIRE = 2**26
#: Open connections that are kept: at least one for each thread that shares the session.
_CONNECTIONS = 16
#: Bytes that are read at once. The default of requests, 10 KiB, costs more time than decoding.
_CHUNK = 2**20


class UnusableAnswer(OSError):
    """An answer is too slow, too large or badly packed. urllib3 passes it on as the cause of an error of its own."""


def session(url: str) -> requests.Session:
    """Return a session that has read proxies and certificates from the environment once, not at each request."""
    session = _NoRedirects()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(pool_maxsize=_CONNECTIONS))
    session.headers["Accept-Encoding"] = "gzip"
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # a service could fill the memory with them
    with suppress(ValueError):  # an invalid URL: the first request raises
        settings = session.merge_environment_settings(url, {}, None, None, None)
        session.proxies, session.verify, session.trust_env = settings["proxies"], settings["verify"], False
    return session


def read_body(response: requests.Response, largest: int, *, cut: bool) -> bytes:
    """Read and unpack the body of an answer.

    :param largest: number of bytes, unpacked.
    :param cut: return the first `largest` bytes of a longer one.
    :raises UnusableAnswer: it is longer, and is not to be cut; or it takes too long; or its gzip is broken.
    """
    response.raw.enforce_content_length = True  # urllib3 before 2.0 takes what has come before a connection breaks
    parts: list[bytes] = []
    left = largest
    for part in _unpacked(response):
        if len(part) > left:
            if cut:
                return b"".join([*parts, part[:left]])
            raise UnusableAnswer(f"it has more than {largest:,} bytes")
        left -= len(part)
        parts.append(part)
    return b"".join(parts)


def _unpacked(response: requests.Response) -> Iterator[bytes]:
    """Yield the body in pieces of at most 1 MiB. urllib3 before 2.6 unpacks all that a piece holds at once."""
    packed: Iterator[bytes] = response.raw.stream(_CHUNK, decode_content=False)
    if response.headers.get("Content-Encoding", "").strip().lower() not in ("gzip", "x-gzip", "deflate"):
        yield from packed
        return
    unpacker = None
    for data in packed:
        while data:
            if unpacker is None or unpacker.eof:  # a gzip may have several members
                unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib
            try:
                yield unpacker.decompress(data, _CHUNK)
            except zlib.error:
                raise UnusableAnswer("it is a broken gzip") from None
            data = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
    if unpacker is not None:
        yield unpacker.flush()
        if not unpacker.eof:
            raise UnusableAnswer("it is a gzip that is cut off")


class _NoRedirects(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Name no target, because requests reads the whole body for a target, even if redirects are not followed."""


class _BoundedReader(io.RawIOBase):
    """Raw reader of a socket that stops at the deadline or the greatest size."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._timeout = sock.gettimeout()
        self._seconds = TIMEOUTS_PER_ANSWER * self._timeout
        self._ends_at = time.monotonic() + self._seconds
        self._left = LARGEST_ON_THE_WIRE

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        seconds = self._ends_at - time.monotonic()
        if seconds > 0:
            if seconds < self._timeout:  # otherwise the socket has this time-out: urllib3 sets it before each answer
                self._sock.settimeout(seconds)
            try:
                count: int | None = self._raw.readinto(buffer)
            except TimeoutError:
                if seconds >= self._timeout:
                    raise
            else:
                self._left -= count or 0
                if self._left < 0:
                    raise UnusableAnswer(f"it has more than {LARGEST_ON_THE_WIRE:,} bytes on the wire")
                return count
        raise UnusableAnswer(f"it takes longer than {self._seconds:g} s")

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_BoundedReader(sock))

    def begin(self) -> None:
        super().begin()
        # urllib3 would log these words of the service, with whatever is in them.
        self.msg.defects.clear()
        self.msg.set_payload("")


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        _bound(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **options)
        if not known:
            _bound(manager)
        return manager


def _bound(manager: Any) -> None:
    """Let all connections of a pool manager, with TLS or SOCKS or without, read answers by `_Response`."""
    pools = {}
    for scheme, pool in manager.pool_classes_by_scheme.items():
        connection = type(pool.ConnectionCls.__name__, (pool.ConnectionCls,), {"response_class": _Response})
        pools[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": connection})
    manager.pool_classes_by_scheme = pools

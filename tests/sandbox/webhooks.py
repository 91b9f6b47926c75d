"""Customer.io's side of a reporting webhook: it signs reports, posts them, and retries (reference/stream.md 0, B.2).

One call at a time unless told otherwise. A call that fails is retried for seven days; all later ones wait behind it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import Random
from urllib.parse import urlsplit

import msgspec

from tests.sandbox.dice import dice_of, strikes
from tests.sandbox.reports import Report

SIGNING_KEY = "sandbox-signing-key-0123456789"
#: The first retry after one of these comes an hour later.
LONG_STATUSES = frozenset((400, 401, 402, 403, 404, 405, 410, 429, 500, 502, 521))
#: And after these: what went wrong, as `Call.problem` names it.
LONG_PROBLEMS = frozenset(("EOF", "unknown host", "refused", "reset", "x509"))


class Calling(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Behaviour of the sender. The reference leaves it partly open. It may be changed while the sender runs."""

    signing_key: str = SIGNING_KEY
    #: Seconds of a real clock for one call, from connecting to the end of the answer.
    timeout: float = 4.0
    #: How many seconds of its waits pass in one real second: with 3600, an hour is a second.
    speed: float = 1.0
    #: Seconds before the first retry, and by how much each further wait is longer. The reference leaves it open.
    first_wait: float = 10.0
    factor: float = 2.0
    long_wait: float = 3600.0
    give_up_after: float = 7 * 86_400.0
    #: Calls at the same time. The reference leaves the number open.
    in_flight: int = 1
    #: Calls that begin in one second; 0 is no limit.
    per_second: float = 0.0
    #: Share of the calls that are made again although they were answered 2xx; half of them at once, half at the end.
    duplicates: float = 0.0
    #: By how many places a report may come too early or too late.
    disorder: int = 0


@dataclass(slots=True)
class Call:
    """One POST and its result.

    :param status: None without a whole answer; then `problem` says why.
    :param seconds: from its start to the end of the answer.
    :param wait: seconds, of its own clock, until the retry; None if there is none.
    :param given_up: seven days are over, and this was the last one.
    """

    report: Report
    attempt: int
    again: bool = False
    began: float = 0.0
    status: int | None = None
    problem: str = ""
    seconds: float = 0.0
    wait: float | None = None
    given_up: bool = False

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def sign(key: str, timestamp: str, body: bytes) -> str:
    """Lowercase hex HMAC-SHA256 over version, time and body."""
    return hmac.new(key.encode(), b"v0:" + timestamp.encode() + b":" + body, hashlib.sha256).hexdigest()


class Sender:
    """Pushes reports to one endpoint.

    :param calls: every call so far, in the order in which they ended.
    """

    def __init__(self, endpoint: str, calling: Calling | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.calling = calling or Calling()
        self.calls: list[Call] = []
        self._endpoint, self._tls = endpoint, tls
        self._again: deque[Report] = deque()

    def push(self, reports: Iterable[Report]) -> list[Call]:
        """Push until each report was accepted or given up; return the calls that this took."""
        before = len(self.calls)
        asyncio.run(self.run(reports))
        return self.calls[before:]

    def stop(self) -> None:
        """Begin no further call and no retry: `run` returns when the calls under way have ended."""
        self._stopped.set()
        self._none_fails.set()

    async def run(self, reports: Iterable[Report]) -> None:
        """Push like `push`, in a loop that runs already."""
        self._stopped = asyncio.Event()
        if self.calling.disorder:
            reports = _disordered(list(reports), self.calling.disorder)
        self._reports, self._turn = iter(reports), asyncio.Lock()
        self._none_fails, self._failing = asyncio.Event(), 0
        self._none_fails.set()
        self._began, self._begun = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            for _ in range(self.calling.in_flight):
                group.create_task(self._work())

    async def _work(self) -> None:
        connection = _Connection(self._endpoint, self._tls)
        try:
            while (turn := await self._next()) is not None:
                await self._deliver(*turn, connection)
        finally:
            connection.close()

    async def _next(self) -> tuple[Report, bool] | None:
        """Return the next report when its call may begin, and whether the report is repeated."""
        async with self._turn:
            await self._none_fails.wait()
            if self._stopped.is_set():
                return None
            report, again = next(self._reports, None), False
            if report is None:
                if not self._again:
                    return None
                report, again = self._again.popleft(), True
            if self.calling.per_second:
                await asyncio.sleep(self._began + self._begun / self.calling.per_second - time.monotonic())
            self._begun += 1
            return report, again

    async def _deliver(self, report: Report, again: bool, connection: _Connection) -> None:
        """Deliver one report: call until it is accepted or given up."""
        call = await self._call(Call(report, 1, again), connection)
        if not call.accepted:
            with self._held():
                waited = 0.0
                while not call.accepted:
                    wait = self._wait_after(call)
                    waited += wait
                    if waited > self.calling.give_up_after:
                        call.given_up = True
                        return
                    call.wait = wait
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._stopped.wait(), wait / self.calling.speed)
                        return
                    call = await self._call(Call(report, call.attempt + 1, again), connection)
        dice = dice_of("again", report.event_id)
        if not again and strikes(dice, self.calling.duplicates):
            if dice % 2:
                await self._deliver(report, True, connection)
            else:
                self._again.append(report)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Return whether a call waits for its retry, so that no other one may begin."""
        self._failing += 1
        self._none_fails.clear()
        try:
            yield
        finally:
            self._failing -= 1
            if not self._failing:
                self._none_fails.set()

    async def _call(self, call: Call, connection: _Connection) -> Call:
        """Call once. A retry has the same body, and a time and a signature of its own."""
        body, stamp = call.report.body, str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "x-cio-timestamp": stamp,
            "x-cio-signature": sign(self.calling.signing_key, stamp, body),
        }
        call.began = time.monotonic()
        try:
            async with asyncio.timeout(self.calling.timeout):
                call.status = await connection.post(headers, body)
        except PROBLEMS as error:
            call.problem = _problem(error)
        finally:
            call.seconds = time.monotonic() - call.began
            if call.status is None:
                connection.close()
        self.calls.append(call)
        return call

    def _wait_after(self, call: Call) -> float:
        """Return the seconds until a retry. They grow exponentially, from an hour at least after some answers."""
        calling = self.calling
        wait = calling.first_wait * calling.factor ** (call.attempt - 1)
        long = call.status in LONG_STATUSES or call.problem in LONG_PROBLEMS
        return max(wait, calling.long_wait) if long else wait


def _disordered(reports: Sequence[Report], by: int) -> list[Report]:
    rng = Random("disorder")
    places = {at: at + rng.uniform(-by, by) for at in range(len(reports))}
    return [reports[at] for at in sorted(places, key=places.__getitem__)]


#: Problems that can end a call instead of an answer.
PROBLEMS = (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError)


def _problem(error: Exception) -> str:
    """Return the problem in one or two words; those of `LONG_PROBLEMS` cost an hour."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "x509"
    if isinstance(error, socket.gaierror):
        return "unknown host"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, ConnectionError):  # reset, or a broken pipe
        return "reset"
    if isinstance(error, asyncio.IncompleteReadError):
        return "EOF"
    return "time-out" if isinstance(error, TimeoutError) else f"no HTTP: {type(error).__name__}"


class _Connection:
    """HTTP/1.1 connection for one call at a time. It uses asyncio alone, because client libraries are slow."""

    def __init__(self, endpoint: str, tls: ssl.SSLContext | None) -> None:
        url = urlsplit(endpoint)
        self._host, secure = url.hostname or "", url.scheme == "https"
        self._port = url.port or (443 if secure else 80)
        self._tls = tls or ssl.create_default_context() if secure else None
        self._head = f"POST {url.path or '/'}{f'?{url.query}' if url.query else ''} HTTP/1.1\r\nHost: {url.netloc}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, headers: Mapping[str, str], body: bytes) -> int:
        """Post, and return the status once the whole answer is here."""
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        reader, writer = self._streams
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"{self._head}{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        status, answered = await _head(reader)
        await _read_body(reader, status, answered)
        if answered.get("connection", "").lower() == "close" or answered[":version"] == "HTTP/1.0":
            self.close()
        return status

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Return the status and the headers, in lower case, of the first answer that is not an interim one."""
    while True:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError("no status line")
        if not rest.startswith("1"):
            headers = {name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
            return int(rest[:3]), headers | {":version": version}


async def _read_body(reader: asyncio.StreamReader, status: int, headers: Mapping[str, str]) -> None:
    if status in (204, 304):
        return
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            await reader.readexactly(size + 2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    elif "content-length" in headers:
        await reader.readexactly(int(headers["content-length"]))
    else:
        await reader.read()
        reader.feed_eof()

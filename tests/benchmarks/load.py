"""Signed reports over kept-alive connections: at a steady rate, whatever the answers take; or one after the other."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import uvloop

KEY = "benchmark-signing-key-0123456789"
#: Seconds between two looks at the clock; what is due then is sent at once.
_TICK = 0.005
#: Seconds for the last answers to come.
_PATIENCE = 10.0
_BODY = (
    b'{"event_id":"01E4C4CT6YDC7Y5M7FE1%010d","object_type":"email","metric":"delivered","timestamp":%d,"data":{'
    b'"action_id":42,"campaign_id":9,"customer_id":"0200000001","delivery_id":"RPILAgUBcRhIBqSf%012d",'
    b'"identifiers":{"id":"%d","email":"person%d@example.com","cio_id":"d9c106000001"},"journey_id":"01E4JOURNEY",'
    b'"parent_action_id":41,"recipient":"person%d@example.com","subject":"What is new in November"}}'
)


@dataclass
class Taken:
    """Answers, and the seconds that each took from the time at which its report was due."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    span: float = 0.0

    def percentile(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def flood(url: str, *, per_second: float, seconds: float, first: int = 0) -> Taken:
    """Send reports at a steady rate.

    :param first: number of the first report, by which all of them differ from those of other calls.
    """
    return _run(_flood(url, per_second, int(per_second * seconds), first))


def one_by_one(url: str, *, count: int, first: int = 0, pause: float = 0.0, senders: int = 1) -> Taken:
    """Send reports from several senders. Each waits for its answer, and then for the pause, before its next report.

    :param count: reports of all senders.
    """
    return _run(_one_by_one(url, count, first, pause, senders))


def _run(load: object) -> Taken:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        taken: Taken = runner.run(load)  # type: ignore[arg-type]
        return taken


def request(url: str, number: int) -> bytes:
    """Return the bytes of a whole request."""
    at = urlsplit(url)
    body = _BODY % (number, 1_793_491_200 + number % 86_400, number, *[number % 5000] * 3)
    stamp = str(int(time.time())).encode()
    signature = hmac.new(KEY.encode(), b"v0:%b:%b" % (stamp, body), hashlib.sha256).hexdigest().encode()
    return (
        b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nX-CIO-Timestamp: %b\r\n"
        b"X-CIO-Signature: %b\r\nContent-Length: %d\r\n\r\n%b"
    ) % (at.path.encode(), at.netloc.encode(), stamp, signature, len(body), body)


def _host_and_port(url: str) -> tuple[str, int]:
    at = urlsplit(url)
    return at.hostname or "127.0.0.1", at.port or 80


class _Connection(asyncio.Protocol):
    def __init__(self, taken: Taken, idle: deque[_Connection]) -> None:
        self.taken, self.idle = taken, idle
        self.due = 0.0
        self.closes = False
        self.answered: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, data: bytes, due: float) -> None:
        assert self.transport is not None
        self.due = due
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Take in the head of an answer, which comes at once. Its body, if there is one, may come later."""
        if not data.startswith(b"HTTP/"):
            return
        self.taken.statuses[int(data[9:12])] += 1
        self.taken.seconds.append(time.perf_counter() - self.due)
        self.closes = b"connection: close" in data
        if not self.closes:
            self.idle.append(self)
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self.idle:
            self.idle.remove(self)


async def _flood(url: str, per_second: float, count: int, first: int) -> Taken:
    taken, idle = Taken(), deque[_Connection]()
    host, port = _host_and_port(url)
    loop = asyncio.get_running_loop()

    async def send_on_a_new_one(data: bytes, due: float) -> None:
        _, connection = await loop.create_connection(lambda: _Connection(taken, idle), host, port)
        connection.send(data, due)

    began = time.perf_counter()
    sent = 0
    opening = set[asyncio.Task[None]]()
    while sent < count:
        until = min(count, int((time.perf_counter() - began) * per_second) + 1)
        for number in range(sent, until):
            due, data = began + number / per_second, request(url, first + number)
            if idle:
                idle.pop().send(data, due)
            else:
                task = asyncio.create_task(send_on_a_new_one(data, due))
                opening.add(task)
                task.add_done_callback(opening.discard)
        sent = until
        await asyncio.sleep(_TICK)
    ends = time.perf_counter() + _PATIENCE
    while len(taken.seconds) < count and time.perf_counter() < ends:
        await asyncio.sleep(_TICK)
    taken.span = time.perf_counter() - began
    return taken


async def _one_by_one(url: str, count: int, first: int, pause: float, senders: int) -> Taken:
    taken, idle = Taken(), deque[_Connection]()
    host, port = _host_and_port(url)
    loop = asyncio.get_running_loop()
    numbers = iter(range(first, first + count))

    async def connect() -> _Connection:
        return (await loop.create_connection(lambda: _Connection(taken, idle), host, port))[1]

    async def send() -> None:
        connection = await connect()
        for number in numbers:
            if connection.closes:
                connection = await connect()
            connection.answered = loop.create_future()
            connection.send(request(url, number), time.perf_counter())
            await asyncio.wait_for(connection.answered, _PATIENCE)
            await asyncio.sleep(pause)

    began = time.perf_counter()
    await asyncio.gather(*(send() for _ in range(senders)))
    taken.span = time.perf_counter() - began
    return taken

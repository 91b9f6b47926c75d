"""Faults on demand: which request gets one, and how each kind is played on the wire."""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from time import time
from typing import Any, Literal
from urllib.parse import parse_qs
from uuid import uuid4

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.sandbox.answers import http_date

Side = Literal["customerio", "segment"]
Kind = Literal[
    "200",
    "400",
    "401",
    "403",
    "413",
    "429",
    "500",
    "502",
    "503",
    "html",
    "html200",
    "reset",
    "reset_after",
    "timeout",
    "truncated",
    "truncated_json",
    "repeat_cursor",
    "slow_head",
    "slow_body",
    "endless",
    "gzip_bomb",
    "empty_page",
]

#: The kinds that spoil the answer of a request which was processed; the others come instead of the service.
PROCESSED: frozenset[Kind] = frozenset(
    (
        "reset_after",
        "timeout",
        "truncated",
        "truncated_json",
        "repeat_cursor",
        "slow_head",
        "slow_body",
        "endless",
        "gzip_bomb",
    )
)
#: MiB of zeros that a `gzip_bomb` unfolds to.
BOMB_MEBIBYTES = 256

#: By their keys, the lists that a page can be of.
_LISTS = ("messages", "activities", "campaigns", "newsletters", "broadcasts")
HTML = "<!DOCTYPE html>\n<html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>\n"
_DETAILS = {
    200: "not what the service would say",
    400: "bad request",
    401: "unauthorized",
    403: "forbidden",
    413: "request entity too large",
    429: "rate limited to 10 requests per 1s",
    500: "internal server error",
    502: "bad gateway",
    503: "service unavailable",
}


class Fault(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Fault of one side, with the requests that it meets.

    With `at` it meets the n-th request of that side (from 0, since the last reset) and the `times - 1`
    after it; without, the next ones. With `probability` each request (from `at` on) meets it by a seeded
    chance, at most `times` times (no limit unless given). `kinds` are taken in turn, by chance likewise.

    Statuses, `html` (502), `html200`, `empty_page` and `reset` come instead of the service: nothing is processed.
    `empty_page` is one of any list, with a cursor that is new each time.
    `reset_after`, `timeout`, `truncated`, `truncated_json` and `repeat_cursor` spoil the answer of a
    request that was fully processed; a batch is then kept. `repeat_cursor` needs a request with a cursor.
    So do `slow_body` and `slow_head`, which send the body (or all of the answer) by a byte every `seconds`, `endless`,
    whose body has no end, and `gzip_bomb`, whose body is 256 KiB on the wire and 256 MiB unpacked.

    :param path: how the path begins of the requests that it meets. Then only those count for `at`, since it was added.
    :param retry_after: for 429 and 503; a number of seconds, or "date": an HTTP date `seconds` from now.
    :param seconds: how long `timeout` holds the answer, how far off the date of `retry_after` is, and the time between
        two bytes of a slow answer.
    :param body: the body of a status, instead of the service's usual one.
    :param encoding: of this body, such as "utf-16".
    """

    side: Side
    kind: Kind | None = None
    kinds: tuple[Kind, ...] = ()
    path: str = ""
    at: int | None = None
    times: int | None = None
    probability: float = 0.0
    seed: int = 0
    retry_after: float | Literal["date"] | None = None
    seconds: float = 1.0
    body: str | None = None
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        if (self.kind is None) == (not self.kinds):
            raise ValueError("a fault has either a kind or kinds")


class _Armed:
    """Fault that waits for its requests."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.kinds: tuple[Kind, ...] = fault.kinds if fault.kind is None else (fault.kind,)
        self.left = fault.times if fault.times is not None or fault.probability else 1
        self.random = Random(fault.seed)
        self.played = 0
        self.met = 0  # requests of its path

    def strike(self, number: int) -> Kind | None:
        fault = self.fault
        if self.left == 0 or (fault.at is not None and number < fault.at):
            return None
        if fault.probability:
            if self.random.random() >= fault.probability:
                return None
            kind = self.random.choice(self.kinds)
        else:
            kind = self.kinds[self.played % len(self.kinds)]
        self.played += 1
        if self.left is not None:
            self.left -= 1
        return kind


class Faults:
    """Requested faults. The first one that strikes a request is played."""

    def __init__(self) -> None:
        self._armed: list[_Armed] = []

    def add(self, *faults: Fault) -> None:
        self._armed += [_Armed(fault) for fault in faults]

    def clear(self) -> None:
        self._armed.clear()

    def pick(self, side: Side, number: int, path: str) -> tuple[Kind, Fault] | None:
        """Return the fault for the n-th request of a side, or None."""
        for armed in self._armed:
            if armed.fault.side == side and path.startswith(armed.fault.path):
                kind = armed.strike(armed.met if armed.fault.path else number)
                armed.met += 1
                if kind is not None:
                    return kind, armed.fault
        return None


@dataclass
class _Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


async def play(kind: Kind, fault: Fault, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with a fault instead of the service's answer, or on top of it."""
    if kind == "reset":
        await _drain(receive)
        reset(receive)
        await _gone(receive)
    elif kind == "reset_after":
        await _process(app, scope, receive)
        reset(receive)
        await _gone(receive)
    elif kind == "timeout":
        answer = await _process(app, scope, receive)
        try:
            await asyncio.wait_for(_gone(receive), fault.seconds)
        except TimeoutError:
            await _reply(answer, answer.body, send)
    elif kind == "truncated":
        answer = await _process(app, scope, receive)
        _write_half(receive, answer)
        await _gone(receive)
    elif kind == "truncated_json":
        answer = await _process(app, scope, receive)
        await _reply(answer, answer.body[: len(answer.body) // 2], send)
    elif kind in {"slow_head", "slow_body"}:
        answer = await _process(app, scope, receive)
        await _write_slowly(receive, answer, fault.seconds, slow_head=kind == "slow_head")
        await _gone(receive)
    elif kind == "endless":
        answer = await _process(app, scope, receive)
        await _write_chunks(receive, answer, [], _forever(answer.body[:1] + b" " * 2**16))
        await _gone(receive)
    elif kind == "gzip_bomb":
        answer = await _process(app, scope, receive)
        await _write_chunks(receive, answer, [b"content-encoding: gzip"], _bomb())
        await _gone(receive)
    elif kind == "repeat_cursor":
        answer = await _process(app, scope, receive)
        await _reply(answer, _with_same_cursor(answer.body, scope), send)
    else:
        await _drain(receive)
        await _refusal(kind, fault)(scope, receive, send)


def reset(receive: Receive) -> None:
    """Cut the connection with a TCP reset: a zero linger makes the close discard what is queued."""
    transport = transport_of(receive)
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def transport_of(receive: Receive) -> asyncio.Transport:
    """Return the connection under a request: uvicorn passes `receive` as a method of the object that has it."""
    cycle: Any = receive.__self__  # type: ignore[attr-defined]
    transport: asyncio.Transport = cycle.transport
    return transport


async def _process(app: ASGIApp, scope: Scope, receive: Receive) -> _Answer:
    """Let the service do its work and keep the answer back."""
    answer = _Answer(500, [], b"")

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], list(message["headers"])
        else:
            answer.body += message.get("body", b"")

    await app(scope, receive, keep)
    return answer


async def _reply(answer: _Answer, body: bytes, send: Send) -> None:
    headers = [(name, value) for name, value in answer.headers if name.lower() != b"content-length"]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _write_half(receive: Receive, answer: _Answer) -> None:
    """Announce the whole body, send half of it, close."""
    transport = transport_of(receive)
    head = _head(answer, [b"content-length: %d" % len(answer.body)])
    transport.write(head + answer.body[: len(answer.body) // 2])
    transport.close()


async def _write_slowly(receive: Receive, answer: _Answer, seconds: float, *, slow_head: bool) -> None:
    transport = transport_of(receive)
    head = _head(answer, [b"content-length: %d" % len(answer.body)])
    if not slow_head:
        transport.write(head)
    for byte in head + answer.body if slow_head else answer.body:
        if transport.is_closing():
            return
        transport.write(bytes([byte]))
        await asyncio.sleep(seconds)
    transport.close()


async def _write_chunks(receive: Receive, answer: _Answer, headers: list[bytes], chunks: Iterable[bytes]) -> None:
    """Send a body of unknown length, chunk by chunk, as fast as the client takes it."""
    transport = transport_of(receive)
    transport.write(_head(answer, [*headers, b"transfer-encoding: chunked"]))
    for chunk in chunks:
        transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        while transport.get_write_buffer_size() and not transport.is_closing():
            await asyncio.sleep(0.001)
        if transport.is_closing():
            return
    transport.write(b"0\r\n\r\n")
    transport.close()


def _head(answer: _Answer, headers: list[bytes]) -> bytes:
    head = [b"HTTP/1.1 %d Odd" % answer.status]
    head += [name + b": " + value for name, value in answer.headers if name.lower() != b"content-length"]
    return b"\r\n".join([*head, *headers]) + b"\r\n\r\n"


def _forever(chunk: bytes) -> Iterable[bytes]:
    while True:
        yield chunk


def _bomb() -> Iterable[bytes]:
    """Yield a gzip of zeros. After a full flush, the same bytes stand for the same MiB each time."""
    zeros = bytes(2**20)
    packer = zlib.compressobj(9, wbits=-15)
    mebibyte = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    yield b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    checksum = 0
    for _ in range(BOMB_MEBIBYTES):
        checksum = zlib.crc32(zeros, checksum)
        yield mebibyte
    yield packer.flush() + struct.pack("<II", checksum, BOMB_MEBIBYTES * 2**20 % 2**32)


def _with_same_cursor(body: bytes, scope: Scope) -> bytes:
    """Replace the page's `next` by the cursor of the request; leave the page unchanged if there was none."""
    start = parse_qs(scope["query_string"].decode()).get("start")
    if not start:
        return body
    page = msgspec.json.decode(body)
    page["next"] = start[0]
    return msgspec.json.encode(page)


def _refusal(kind: Kind, fault: Fault) -> Response:
    if kind in {"html", "html200"}:
        status = 200 if kind == "html200" else 502
        return Response(
            (fault.body or HTML.format(_DETAILS[502])).encode(fault.encoding), status, media_type="text/html"
        )
    if kind == "empty_page":
        page: dict[str, Any] = {name: [] for name in _LISTS} | {"next": uuid4().hex}
        return Response(msgspec.json.encode(page), media_type="application/json")
    status = int(kind)
    headers = {}
    if status in {429, 503} and fault.retry_after is not None:
        if fault.retry_after == "date":
            headers["Retry-After"] = http_date(time() + fault.seconds)
        else:
            headers["Retry-After"] = f"{fault.retry_after:g}"
            if fault.side == "segment" and status == 429:
                headers["X-RateLimit-Reset"] = f"{fault.retry_after:g}"
    if fault.side == "customerio":
        body = msgspec.json.encode({"errors": [{"detail": _DETAILS[status], "status": str(status)}]}).decode()
        media_type = "application/json"
    else:
        body, media_type = _DETAILS[status].title(), "text/plain"
    return Response(
        (fault.body if fault.body is not None else body).encode(fault.encoding), status, headers, media_type
    )


async def _drain(receive: Receive) -> None:
    """Read the rest of the request, so that the answer can be read."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return


async def _gone(receive: Receive) -> None:
    """Wait until the connection is down; returning earlier would make uvicorn answer with a 500."""
    while (await receive())["type"] != "http.disconnect":
        pass

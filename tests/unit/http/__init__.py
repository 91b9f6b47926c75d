"""Loopback server with exact answers, for which the sandbox is too well-behaved."""

from __future__ import annotations

import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from typing import Any, NamedTuple, Self


class Heard(NamedTuple):
    """One request as it came in; `at` is monotonic."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    at: float


class Say(NamedTuple):
    """An answer. Its reason is the status' usual one unless given.

    :param pace: seconds before each byte of the body, or of `raw`.
    :param raw: is sent in place of all else, and then the connection is closed.
    """

    status: int = 200
    body: bytes | str = b"{}"
    headers: Mapping[str, str] = {}
    reason: str | None = None
    pace: float = 0.0
    raw: bytes | None = None


SILENCE = Say(0)  # reads the request, and says nothing until the client hangs up
Answer = Say | Callable[[Heard], Say]


class Loopback:
    """Server that gives the n-th request the n-th answer, and every later one the last.

    :param tls: makes it speak https.
    """

    def __init__(self, *answers: Answer, tls: ssl.SSLContext | None = None) -> None:
        self._lock = threading.Lock()
        self.say(*answers or (Say(),))
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.loopback = self
        if tls:  # the handshake is done by the thread of the connection, at its first read
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"

    def say(self, *answers: Answer) -> None:
        """Begin anew with these answers."""
        self._answers = answers
        self.heard: list[Heard] = []

    def answer(self, heard: Heard) -> Say:
        with self._lock:
            answer = self._answers[min(len(self.heard), len(self._answers) - 1)]
            self.heard.append(heard)
        return answer if isinstance(answer, Say) else answer(heard)

    def wait_for_requests(self, count: int, seconds: float = 5.0) -> None:
        until = time.monotonic() + seconds
        while len(self.heard) < count:
            assert time.monotonic() < until, f"{len(self.heard)} requests of {count} came"
            time.sleep(0.002)

    @property
    def gaps(self) -> list[float]:
        """Return the seconds between one request and the next."""
        return [later.at - earlier.at for earlier, later in pairwise(self.heard)]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False
    request_queue_size = 64
    loopback: Loopback

    def handle_error(self, *_: object) -> None:
        """Ignore a client that hung up, or did not trust the certificate."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _any(self) -> None:
        assert isinstance(self.server, _Server)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        said = self.server.loopback.answer(
            Heard(self.command, self.path, dict(self.headers.items()), body, time.monotonic())
        )
        if said is SILENCE:
            self.rfile.read(1)
            self.close_connection = True
            return
        if said.raw is not None:
            self._write(said.raw, said.pace)
            self.close_connection = True
            return
        content = said.body.encode() if isinstance(said.body, str) else said.body
        self.send_response(said.status, said.reason)
        for name, value in said.headers.items():
            self.send_header(name, value)
        if said.status != 304:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if said.status != 304:
            self._write(content, said.pace)

    def _write(self, content: bytes, pace: float) -> None:
        if not pace:
            self.wfile.write(content)
            return
        for byte in content:
            time.sleep(pace)
            self.wfile.write(bytes([byte]))

    do_GET = do_POST = _any

    def log_message(self, format: str, *args: Any) -> None:
        pass

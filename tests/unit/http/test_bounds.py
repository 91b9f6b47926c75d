"""Every answer has a deadline and a greatest size, and leaves nothing behind."""

from __future__ import annotations

import gzip
import json
import logging
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.http import session
from airflow_provider_cio.http import transport as transport_module
from airflow_provider_cio.http.errors import StatusError
from airflow_provider_cio.http.rate_limit import RateLimiter
from airflow_provider_cio.http.transport import Answer, Retries, Transport
from tests.sandbox import Fault, Sandbox
from tests.unit.http import Loopback, Say
from tests.unit.support import clients

ONCE = Retries(attempts=1, total=5)
MIB = 2**20
BOMB = gzip.compress(bytes(64 * MIB), mtime=0)
EVENT = b'{"messageId":"a","type":"track","event":"x","userId":"u"}'


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with Loopback() as running:
        yield running


def transport(url: str, **changes: Any) -> Transport:
    options: dict[str, Any] = {"timeout": 5.0, "limiter": RateLimiter(0), "retries": ONCE, "secrets": ()}
    options |= {"largest_answer": MIB} | changes
    return Transport(url, name="The service", auth=lambda request: request, **options)


def body_of(answer: Answer) -> bytes:
    return answer.body


def answer_of(url: str, **changes: Any) -> bytes:
    with transport(url, **changes) as client:
        return client.request("GET", "/", read=body_of)


def error_of(url: str, **changes: Any) -> str:
    with pytest.raises(TryAgainLaterError) as caught:
        answer_of(url, **changes)
    return str(caught.value)


def asking(sandbox: Sandbox, side: str, **options: Any) -> Callable[[], Any]:
    """Return a request to that side of the sandbox."""
    customerio, segment = clients(sandbox, ONCE, **options)
    if side == "customerio":
        return lambda: customerio.page({"limit": 1})
    return lambda: segment.send([EVENT])


SIDES = pytest.mark.parametrize("side", ["customerio", "segment"])


# --- the deadline -----------------------------------------------------------------------------------------------


@SIDES
@pytest.mark.parametrize("kind", ["slow_head", "slow_body"])
def test_a_slow_answer_ends(sandbox: Sandbox, side: Any, kind: Any) -> None:
    """Each byte comes long before the time-out of a read."""
    sandbox.faults.add(Fault(side=side, kind=kind, seconds=0.1))
    ask = asking(sandbox, side, timeout=0.4)
    began = time.monotonic()
    with pytest.raises(TryAgainLaterError, match=r"sent an answer that can't be used: it takes longer than 1.6 s"):
        ask()
    assert 1.5 < time.monotonic() - began < 15
    ask()  # when the service is well again


def test_the_last_read_ends_with_the_deadline(server: Loopback) -> None:
    server.say(Say(body="x" * 6, pace=0.55))  # the last byte comes after 3.3 s, within the time-out of its read
    assert "it takes longer than 3.2 s" in error_of(server.url, timeout=0.8)


def test_a_slow_answer_over_https(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(tls=True) as sandbox:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(sandbox.ca_file))
        sandbox.faults.add(Fault(side="segment", kind="slow_body", seconds=0.1))
        ask = asking(sandbox, "segment", timeout=0.3)
        with pytest.raises(TryAgainLaterError, match="it takes longer than 1.2 s"):
            ask()
        ask()


def test_a_slow_answer_through_a_proxy(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    server.say(Say(body="x" * 100, pace=0.1))
    assert "it takes longer than 1.2 s" in error_of("http://service.example", timeout=0.3)


def test_silence_at_the_end_ends_with_the_deadline(server: Loopback) -> None:
    server.say(Say(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 5 + b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12"))
    assert "could not be reached" in error_of(server.url, timeout=0.3)


def test_the_next_answer_has_a_deadline_of_its_own(server: Loopback) -> None:
    server.say(Say(body="x" * 10, pace=0.06))
    with transport(server.url, timeout=0.25) as client:
        for _ in range(3):
            assert client.request("GET", "/", read=body_of) == b"x" * 10


def test_waiting_tells_of_a_slow_answer(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    assert transport_module._SLOW < 10  # seconds between two lines in the log
    monkeypatch.setattr(transport_module, "_SLOW", 0.2)
    server.say(Say(body="x" * 20, pace=0.1))
    with transport(server.url, timeout=5) as client:
        asking = threading.Thread(target=client.request, args=("GET", "/"), kwargs={"read": body_of}, daemon=True)
        asking.start()
        time.sleep(0.1)
        assert client.waiting() is None
        time.sleep(0.6)
        told = "The service has not sent its whole answer for 1 s; waits for it up to 20 s"
        assert client.waiting() == told
        asking.join(30)
        assert client.waiting() is None


# --- the greatest size ------------------------------------------------------------------------------------------


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """Return a function that returns the greatest number of bytes allocated so far."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield lambda: tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()


@pytest.mark.parametrize(("side", "most"), [("customerio", 32 * MIB), ("segment", 2 * MIB)])
@pytest.mark.parametrize("kind", ["gzip_bomb", "endless"])
def test_an_answer_without_an_end(sandbox: Sandbox, peak: Any, side: Any, most: int, kind: Any) -> None:
    sandbox.faults.add(Fault(side=side, kind=kind))
    with pytest.raises(TryAgainLaterError, match=f"can't be used: it has more than {most:,} bytes"):
        asking(sandbox, side)()
    assert peak() < 2 * most + 16 * MIB


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "gzip, gzip"])
@pytest.mark.parametrize("status", [200, 302, 400, 500])
def test_a_bomb_with_any_status(server: Loopback, peak: Any, status: int, encoding: str) -> None:
    """The body of a redirect is read by requests itself, though it is not followed."""
    server.say(Say(status, BOMB, {"Content-Encoding": encoding, "Location": f"{server.url}/elsewhere"}))
    if encoding == "gzip, gzip" and status == 200:
        assert answer_of(server.url) == BOMB  # nobody asked for it, and nobody can read it
    else:
        with pytest.raises((TryAgainLaterError, StatusError, ConfigurationError)) as caught:
            answer_of(server.url)
        assert status == 200 or f"{status}" in str(caught.value)
    assert peak() < 8 * MIB
    assert len(server.heard) == 1


def test_a_long_explanation_is_cut(server: Loopback, peak: Any) -> None:
    server.say(Say(400, "no " * 5 * MIB))
    with pytest.raises(StatusError, match="400: no no no"):
        answer_of(server.url)
    assert peak() < 40 * MIB  # 30 of which are the server's


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 9 * MIB,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X-More: x\r\n" * MIB,
        b"HTTP/1.1 100 Continue\r\n\r\n" * MIB,
    ],
    ids=["a size", "trailers", "heads"],
)
def test_what_is_no_body_has_a_bound_too(server: Loopback, monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(session, "LARGEST_ON_THE_WIRE", 8 * MIB)
    server.say(Say(raw=raw))
    error = error_of(server.url)
    assert "it has more than 8,388,608 bytes on the wire" in error or "chunk size line" in error


def test_the_largest_that_is_taken(server: Loopback) -> None:
    for body in (b"x" * MIB, bytes(range(256)) * 4096):
        for headers, packed in (({}, body), ({"Content-Encoding": "gzip"}, gzip.compress(body, mtime=0))):
            server.say(Say(200, packed, headers))
            assert answer_of(server.url) == body
    server.say(Say(200, b"x" * (MIB + 1)))
    assert "it has more than 1,048,576 bytes" in error_of(server.url)


# --- gzip -------------------------------------------------------------------------------------------------------


TEXT = json.dumps({"messages": list(range(5000))}).encode()
PACKED = gzip.compress(TEXT, mtime=0)


@pytest.mark.parametrize(
    ("packed", "encoding"),
    [
        (PACKED, "gzip"),
        (PACKED, " GZip "),
        (gzip.compress(TEXT[:100], mtime=0) + gzip.compress(TEXT[100:], mtime=0), "gzip"),
        (zlib.compress(TEXT), "deflate"),
        (TEXT, "identity"),
        (TEXT, ""),
    ],
)
def test_what_is_packed_is_unpacked(server: Loopback, packed: bytes, encoding: str) -> None:
    server.say(Say(200, packed, {"Content-Encoding": encoding}))
    assert answer_of(server.url) == TEXT
    assert server.heard[0].headers["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize("packed", [PACKED[:-1], PACKED[:50], TEXT, PACKED + b"x", PACKED[:20] + b"x" + PACKED[21:]])
def test_a_broken_gzip_may_pass(server: Loopback, packed: bytes) -> None:
    server.say(Say(200, packed, {"Content-Encoding": "gzip"}), Say(200, PACKED, {"Content-Encoding": "gzip"}))
    assert answer_of(server.url, retries=Retries(attempts=2, first=0.001)) == TEXT
    server.say(Say(200, packed, {"Content-Encoding": "gzip"}))
    assert "can't be used: it is a" in error_of(server.url)


def test_nothing_packed_is_nothing(server: Loopback) -> None:
    server.say(Say(200, b"", {"Content-Encoding": "gzip"}))
    assert answer_of(server.url) == b""


# --- what is left behind ----------------------------------------------------------------------------------------


def test_a_broken_head_is_not_logged(server: Loopback, caplog: pytest.LogCaptureFixture) -> None:
    """urllib3 would log the head, because it can't parse it."""
    caplog.set_level(logging.DEBUG)
    server.say(Say(raw=b"HTTP/1.1 200 OK\r\nX-A: b\r\njane.doe@example.com no header\r\nContent-Length: 2\r\n\r\n{}"))
    answer_of(server.url)
    assert "jane.doe" not in caplog.text


def test_cookies_are_not_kept(server: Loopback) -> None:
    server.say(Say(headers={"Set-Cookie": "a=b; Path=/"}))
    with transport(server.url) as client:
        for _ in range(2):
            client.request("GET", "/", read=body_of)
    assert "Cookie" not in server.heard[1].headers

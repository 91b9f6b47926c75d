"""After any answer of a service, each request ends, with no raw error and no unmasked text."""

from __future__ import annotations

import gzip
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_cio.customerio.client import WEBHOOKS, CustomerIOClient
from airflow_provider_cio.customerio.rows import ReportingWebhook
from airflow_provider_cio.exceptions import CustomerIOToSegmentError
from airflow_provider_cio.http.transport import Retries
from airflow_provider_cio.segment.client import SegmentClient
from tests.unit.http import Loopback, Say

EVENT = b'{"messageId":"a","type":"track","event":"x","userId":"u"}'
TWICE = Retries(attempts=2, total=2, first=0.001, longest=0.01)
KEY = "s3cr3t-0123456789-key"
#: An address that comes without its end is none, and nobody can know it.
PRIVATE = (KEY, "jane.doe@", "jane.doe%40", "jane.doe&#64;")
TIMEOUT = 0.5
#: Seconds of two attempts, and of a busy machine.
LONGEST = 2 * 4 * TIMEOUT + 6

CALLS: dict[str, Callable[[CustomerIOClient, SegmentClient], object]] = {
    "page": lambda customerio, _: customerio.page({"limit": 1, "start": "x"}),
    "activity_page": lambda customerio, _: customerio.activity_page({}),
    "delivery": lambda customerio, _: customerio.delivery("a/b"),
    "names": lambda customerio, _: customerio.names("/v1/campaigns", "campaigns"),
    "reporting_webhooks": lambda customerio, _: customerio.reporting_webhooks(),
    "save_reporting_webhook": lambda customerio, _: customerio.save_reporting_webhook(
        ReportingWebhook(id=1, name="x", endpoint="https://x.example", events=[])
    ),
    "check_access": lambda customerio, _: customerio.check_access(WEBHOOKS),
    "send": lambda _, segment: segment.send([EVENT]),
}

PIECE = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [KEY, "jane.doe@example.com", "jane.doe%40example.com", "jane.doe&#64;example.com", '"', "\\", "<", "&#",
         "&#" + "9" * 5000, "%", "success", "false", "\r\n", "\n", "\0", " " * 300, "x" * 300, "{}", ":", "[" * 3000]
    ),
)  # fmt: skip
TEXT = st.lists(PIECE, max_size=5).map("".join)
#: Documented answers, with other values in their places.
SHAPED = st.builds(
    lambda key, value, more: {key: value} | more,
    st.sampled_from(
        ["messages", "activities", "message", "campaigns", "reporting_webhooks", "success", "ok", "error", "errors",
         "meta", "next", "id"]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "name", "detail", "error", "type"]) | TEXT, inner, max_size=3),
        max_leaves=8,
    ),
    st.dictionaries(TEXT, TEXT, max_size=2),
)  # fmt: skip
BODY = st.one_of(
    TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")),
    TEXT.map(lambda text: text.encode("utf-16", "surrogatepass")),
    st.binary(max_size=50),
    SHAPED.map(lambda shaped: json.dumps(shaped).encode()),
    SHAPED.map(lambda shaped: json.dumps(shaped, ensure_ascii=False).encode("utf-8", "surrogatepass")),
)
HEADER = st.tuples(
    st.sampled_from(
        ["Content-Type", "Content-Encoding", "Transfer-Encoding", "Content-Length", "Retry-After", "X-RateLimit-Reset",
         "Location", "Set-Cookie", "Connection", "Proxy-Authenticate", "no header", "jane.doe@example.com", ""]
    ),
    st.one_of(
        TEXT,
        st.sampled_from(
            ["gzip", "deflate", "br", "gzip, gzip", "chunked", "0", "-1", "5", "9" * 30, "1e999", "close", "text/html",
             "Fri, 31 Dec 9999 23:59:59 GMT", "application/json; charset=jane.doe@example.com",
             "multipart/x; boundary=y"]
        ),
    ),
)  # fmt: skip


@st.composite
def answers(draw: st.DrawFn) -> Say:
    """Draw an answer as it goes over the wire: well formed, or not."""
    body = draw(BODY)
    headers = draw(st.lists(HEADER, max_size=3))
    match draw(st.sampled_from(["plain", "gzip", "gzip cut", "chunked", "no length"])):
        case "plain":
            headers.append(("Content-Length", str(len(body))))
        case "gzip" | "gzip cut" as packed:
            body = gzip.compress(body)[: -5 if packed == "gzip cut" else None]
            headers += [("Content-Encoding", "gzip"), ("Content-Length", str(len(body)))]
        case "chunked":
            half = len(body) // 2
            chunks = [body[:half], body[half:], b""] if half else [body, b""]
            body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
            headers.append(("Transfer-Encoding", "chunked"))
    status = draw(
        st.sampled_from(
            ["200", "200", "202", "204", "302", "304", "400", "401", "403", "404", "413", "422", "429", "503"]
        )
        | st.integers(100, 999).map(str)
        | TEXT
    )
    lines = [f"HTTP/1.1 {status} {draw(TEXT)}", *(f"{name}: {value}" for name, value in headers)]
    head = "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n"
    return Say(raw=head + body, pace=draw(st.sampled_from([0.0] * 30 + [0.05])))


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with Loopback() as running:
        yield running


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collect everything logged meanwhile, with tracebacks."""
    lines: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(logging.Formatter().format(record))

    handler, root = Keeping(), logging.getLogger()
    root.addHandler(handler)
    try:
        yield lines
    finally:
        root.removeHandler(handler)


@pytest.mark.parametrize("name", CALLS)
@given(said=st.lists(answers(), min_size=1, max_size=2))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_no_answer_does_harm(server: Loopback, name: str, said: list[Say]) -> None:
    server.say(*said)
    shared: Any = {"base_url": server.url, "timeout": TIMEOUT, "retries": TWICE}
    shown = ""
    with (
        CustomerIOClient(KEY, requests_per_second=1e6, **shared) as customerio,
        SegmentClient(KEY, events_per_second=0, **shared) as segment,
        logged() as lines,
    ):
        began = time.monotonic()
        try:
            CALLS[name](customerio, segment)
        except CustomerIOToSegmentError as error:
            shown = str(error)
            lines.append("".join(traceback.format_exception(error)))
        assert time.monotonic() - began < LONGEST
    for private in PRIVATE:
        assert private not in "".join(lines)
    assert shown == " ".join(shown.split())
    assert shown.isprintable()
    assert len(shown) < 1000

"""Any request gets one of the documented statuses, and no secret in the answer."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_cio.stream.app import StreamApp
from tests.sandbox import Sandbox, Settings
from tests.unit.stream.support import (
    ADDRESS,
    KEY,
    PREVIOUS_KEY,
    STATUSES,
    Running,
    connect,
    counted,
    encoded,
    letters,
    report,
    signed,
)

FUZZ = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Lines(logging.Handler):
    """Everything that is logged, as text."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += self.format(record) + "\n"


class World(NamedTuple):
    """Stream under test, and its surroundings.

    :param folder: of the dead letters.
    """

    stream: Running
    sandbox: Sandbox
    lines: Lines
    folder: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    lines, folder = Lines(), tmp_path_factory.mktemp("letters")
    root = logging.getLogger()
    level, monkeypatch = root.level, pytest.MonkeyPatch()
    root.addHandler(lines)
    root.setLevel(logging.INFO)
    with Sandbox(settings=Settings(remember="counts")) as sandbox:
        connect(monkeypatch, sandbox)
        monkeypatch.setattr("airflow_provider_cio.stream.counts.LOG_EVERY", 0.0)
        options = {"collections": "all", "on_unidentified": "dead_letter", "dead_letter_path": str(folder)}
        with Running({"main": options}) as stream:
            yield World(stream, sandbox, lines, folder)
    root.removeHandler(lines)
    root.setLevel(level)
    monkeypatch.undo()


def check(world: World, status: int, said: bytes, headers: object) -> None:
    _, sandbox, lines, folder = world
    assert status in STATUSES
    assert letters(folder) == []
    for secret in (KEY, PREVIOUS_KEY, ADDRESS, sandbox.settings.write_key):
        assert secret.encode() not in said
        assert secret not in str(headers)
        assert secret not in lines.text
    assert "Traceback" not in lines.text
    lines.text = ""


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.just(ADDRESS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)
FIELDS = [*report()["data"], "href", "link_id", "machine", "recipients", "content", "email_address", "journey_id"]
FIELDS += ["to", "inbound_event_id"]
REPORTS = st.builds(
    lambda base, data, outer: {**base, **outer, "data": {**base["data"], **data}},
    st.builds(
        report,
        st.sampled_from(["opened", "clicked", "sent", "bounced", "replied", "subscribed", "x"]),
        st.sampled_from(["email", "push", "sms", "customer", "x"]),
    ),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    st.dictionaries(st.sampled_from(["event_id", "object_type", "metric", "timestamp"]), JSON, max_size=2),
)


@FUZZ
@given(
    body=st.one_of(
        st.binary(max_size=2000),
        JSON.map(lambda one: json.dumps(one).encode()),
        REPORTS.map(lambda one: json.dumps(one).encode()),
        st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=3)).map(
            lambda change: encoded(report())[: change[0]] + change[1] + encoded(report())[change[0] + 1 :]
        ),
    )
)
def test_authentic_body_is_accepted(world: World, body: bytes) -> None:
    """The event is at Segment, or kept aside, or not asked for."""
    stream, sandbox, _, folder = world
    received, before = sandbox.segment.received_count, counted(stream)
    answer = stream.post(body)
    assert answer.status_code == 204
    assert not sandbox.segment.dropped_counts, "Segment would drop what was acknowledged"
    [outcome] = (counted(stream) - before).keys() - {"field_left_out"}
    kind, _, reason = outcome.partition(".")
    try:
        kept = letters(folder)
    finally:
        for path in folder.rglob("*.jsonl"):
            path.unlink()
    assert (sandbox.segment.received_count - received, [one["reason"] for one in kept]) == {
        "sent": (1, []),
        "ignored": (0, []),
        "refused": (0, [reason]),
    }[kind]
    for one in kept:
        assert "event" in one or same(one["row"], body)
    check(world, answer.status_code, answer.content, answer.headers)


def same(row: Any, body: bytes) -> bool:
    """Return whether a kept row is this body; it is text if the body is no JSON."""
    try:
        return repr(row) == repr(json.loads(body.decode()))  # NaN is no other NaN
    except (ValueError, RecursionError):
        return bool(row == body.decode("utf-8", "replace"))


# Bytes on the wire. An HTTP server answers what is no HTTP itself, with 400; uvicorn does.
TOKEN = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}", fullmatch=True)
VALUE = st.binary(max_size=80).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b""))


@FUZZ
@given(
    path=st.one_of(st.just(b"/main"), st.from_regex(rb"/[!-~]{0,30}", fullmatch=True)),
    method=st.sampled_from([b"POST", b"GET", b"PUT", b"HEAD", b"BREW"]),
    headers=st.lists(
        st.tuples(
            st.one_of(
                TOKEN, st.sampled_from([b"x-cio-timestamp", b"X-CIO-SIGNATURE", b"content-type", b"transfer-encoding"])
            ),
            VALUE,
        ),
        max_size=6,
    ),
    body=st.binary(max_size=300),
)
def test_any_bytes_on_the_wire(
    world: World,
    path: bytes,
    method: bytes,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
) -> None:
    head = [method + b" " + path + b" HTTP/1.1", b"host: x", b"connection: close", b"content-length: %d" % len(body)]
    head += [name + b": " + value for name, value in headers]
    with socket.create_connection(("127.0.0.1", world.stream.port), timeout=10) as connection:
        connection.sendall(b"\r\n".join(head) + b"\r\n\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    status = int(answer.split()[1]) if answer else 503  # gone in mid-body
    if status == 400 and b"Invalid HTTP request received." in answer:
        return
    if status == 200:
        assert path.startswith(b"/main/health")
        return
    check(world, status, answer, "")


#: Messages that servers hand to an app, and messages that a broken one might.
MESSAGES = st.lists(
    st.one_of(
        st.builds(
            lambda body, more: {"type": "http.request", "body": body, "more_body": more},
            st.binary(max_size=50),
            st.booleans(),
        ),
        st.just({"type": "http.request"}),
        st.just({"type": "http.disconnect"}),
        st.just({"type": "http.unheard.of"}),
    ),
    max_size=5,
)


@FUZZ
@given(
    path=st.sampled_from(["/main", "/main/health", "/main/", "", "/", "/x", "/\x00", "/main\n"]),
    method=st.sampled_from(["POST", "GET", "", "post", "\u00e4"]),
    root=st.sampled_from(["", "/", "/main", "/other"]),
    headers=st.lists(
        st.tuples(
            st.one_of(
                st.binary(max_size=20), st.sampled_from([b"x-cio-timestamp", b"x-cio-signature", b"content-length"])
            ),
            st.one_of(st.binary(max_size=70), st.just(b"1" * 5000), st.just(b"0" * 64)),
        ),
        max_size=5,
    ),
    messages=MESSAGES,
    gone=st.booleans(),
)
def test_any_scope_and_messages(
    world: World,
    path: str,
    method: str,
    root: str,
    headers: list[tuple[bytes, bytes]],
    messages: list[dict[str, Any]],
    gone: bool,
) -> None:
    """These calls go to the app itself, without a server."""
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        raise OSError(ADDRESS)

    async def send(message: Any) -> None:
        if gone:
            raise OSError(KEY)
        said.append(message)

    app = StreamApp(lambda: '{"main": {}}')
    scope = {"type": "http", "path": path, "method": method, "headers": headers, "root_path": root}
    asyncio.run(app(scope, receive, send))
    if gone:
        assert said == []
        return
    assert [message["type"] for message in said] == ["http.response.start", "http.response.body"]
    if said[0]["status"] != 200:
        check(world, said[0]["status"], said[1]["body"], said[0]["headers"])


@pytest.mark.parametrize("kind", ["lifespan", "websocket", "unheard of"])
def test_other_protocols(kind: str, world: object) -> None:
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.shutdown" if said else "lifespan.startup"}

    async def send(message: Any) -> None:
        said.append(message["type"])

    asyncio.run(StreamApp(lambda: "{")({"type": kind}, receive, send))
    assert said == {
        "lifespan": ["lifespan.startup.complete", "lifespan.shutdown.complete"],
        "websocket": ["websocket.close"],
    }.get(kind, [])


def test_signature_covers_every_byte(world: World) -> None:
    body = encoded(report())
    headers = signed(body)
    for at in range(0, len(body), 7):
        changed = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        answer = world.stream.session.post(f"{world.stream.url}/main", data=changed, headers=headers, timeout=10)
        assert answer.status_code == 401
        check(world, answer.status_code, answer.content, answer.headers)

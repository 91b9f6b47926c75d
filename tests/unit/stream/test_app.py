from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from starlette.applications import Starlette
from starlette.routing import Mount

from airflow_provider_cio.hooks.customerio import CustomerIOHook
from airflow_provider_cio.stream import app as app_module
from airflow_provider_cio.stream import cached, counts, intake, unverified
from airflow_provider_cio.stream import stream as stream_module
from airflow_provider_cio.stream.app import MAX_BODY, MAX_BODY_WITH_CONTENT, StreamApp
from tests.sandbox import Fault, Sandbox
from tests.unit.http import Loopback, Say
from tests.unit.stream.support import (
    ADDRESS,
    KEY,
    PREVIOUS_KEY,
    Running,
    connect,
    counted,
    encoded,
    letters,
    put,
    report,
    running,
    signed,
)

BODY_WITHIN, ANSWER_WITHIN = app_module.BODY_WITHIN, app_module.ANSWER_WITHIN
BATCH_BUDGET, TIMEOUT = intake.BATCH_BUDGET, stream_module._TIMEOUT
#: Seconds for which Customer.io waits for an answer.
PATIENCE = 4.0
#: The limit is what this code promises; what a busy machine adds to it is not.
BUSY = 20.0


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running_sandbox:
        yield running_sandbox


@pytest.fixture(autouse=True)
def _fresh(sandbox: Sandbox) -> None:
    sandbox.reset()
    sandbox.settings = type(sandbox.settings)()


@pytest.fixture
def stream(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with running(sandbox, monkeypatch) as one:
        yield one


def raw(stream: Running, request: bytes, *, then: float = 0.0, rest: bytes = b"") -> tuple[int, float]:
    """Return the status of the answer to these very bytes (0: none came), and the seconds until it was there."""
    with socket.create_connection(("127.0.0.1", stream.port), timeout=90) as connection:
        began = time.monotonic()
        connection.sendall(request)
        if then:
            time.sleep(then)
            connection.sendall(rest)
        answer = connection.recv(65536)
        return int(answer.split()[1]) if answer else 0, time.monotonic() - began


def request_bytes(body: bytes, *, headers: list[tuple[str, str]] | None = None, length: int | None = None) -> bytes:
    lines = [("host", "x"), ("content-length", str(len(body) if length is None else length))]
    lines += list(signed(body).items()) if headers is None else headers
    return b"POST /main HTTP/1.1\r\n" + b"".join(f"{k}: {v}\r\n".encode() for k, v in lines) + b"\r\n" + body


# Taken


def test_report_is_at_segment(stream: Running, sandbox: Sandbox) -> None:
    answer = stream.post(report("clicked", href="https://a.b/c", link_id=3, journey_id="J1", machine=True))
    assert (answer.status_code, answer.content) == (204, b"")
    [event] = sandbox.segment.kept
    assert event["event"] == "Email Link Clicked"
    assert event["userId"] == "42"
    assert event["originalTimestamp"] == "2021-02-11T17:04:49Z"
    assert event["properties"]["href"] == "https://a.b/c"
    assert event["properties"]["journey_id"] == "J1"
    assert event["integrations"]["Customer.io"] is False
    assert stream.post(report("clicked")).status_code == 204, "a duplicate"
    assert len(sandbox.segment.kept) == len(sandbox.segment.duplicates) == 1
    assert sandbox.segment.dropped == []


def test_namespace_and_loop_guard(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_provider_cio.events.mapping import Mapper

    connect(monkeypatch, sandbox, message_id_namespace="ours")
    with Running({"main": {"send_to_customerio_destinations": True}}) as stream:
        assert stream.post(report()).status_code == 204
    [event] = sandbox.segment.kept
    assert event["messageId"] == Mapper("ours").message_id("RPILAgUBcRhIBqSfeiIwdIYJKxTY", "delivered")
    assert "integrations" not in event


def test_a_report_of_a_person_is_an_event_where_it_is_asked_for(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = report("unsubscribed", "customer", delivery_id=None, recipient=None, subject=None, email_address=ADDRESS)
    with running(sandbox, monkeypatch, collections="subscription") as stream:
        assert [stream.post(one).status_code, stream.post(one).status_code] == [204, 204]
        assert stream.post(report("unsubscribed")).status_code == 204
        assert counted(stream) == {"sent": 2, "ignored.not_asked_for": 1}
    [event] = sandbox.segment.kept
    assert (event["event"], event["userId"]) == ("Unsubscribed", "42")
    assert "delivery_id" not in event["properties"]


def test_fields_of_another_kind_are_counted_and_named(
    stream: Running, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert stream.post(report(subject=7, recipients=[ADDRESS])).status_code == 204
    assert counted(stream) == {"sent": 2, "field_left_out": 4}
    assert len(sandbox.segment.kept) == 1
    [line] = [one.getMessage() for one in caplog.records if "left out" in one.getMessage()]
    assert line == "Stream 'main': left out of an event, because they are malformed: recipients, subject"


def test_what_no_collection_has_is_named_once(
    stream: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(counts, "LOG_EVERY", 0.0)
    most = stream_module._MOST_NAMES
    for metric in ("teleported", "teleported", ADDRESS, *(f"m{number}" for number in range(most))):
        assert stream.post(report(metric)).status_code == 204
    assert counted(stream) == {"ignored.unknown_metric": 3 + most}
    lines = [one.getMessage() for one in caplog.records if "no collection" in one.getMessage()]
    assert lines[0] == "Stream 'main': Customer.io reports email teleported, which no collection has"
    assert len(lines) == len(set(lines)) == most
    assert ADDRESS not in caplog.text


@pytest.mark.parametrize(
    ("one", "outcome"),
    [
        (report("sent"), "ignored.not_asked_for"),
        (report("opened", "push"), "ignored.not_asked_for"),
        (report("teleported"), "ignored.unknown_metric"),
        (report("unsubscribed", delivery_id=None, email_address=ADDRESS), "ignored.not_asked_for"),
        (report(identifiers=None, customer_id=None, recipient=None), "skipped.unidentified"),
        (report(delivery_id=None), "refused.malformed"),
        (report() | {"timestamp": 1}, "refused.malformed"),
        ({"test": True}, "refused.malformed"),
        (b"not JSON", "refused.malformed"),
        (b"", "refused.malformed"),
        (report(subject="x" * 33_000), "refused.event_too_large"),
    ],
)
def test_report_without_event_is_taken(stream: Running, sandbox: Sandbox, one: Any, outcome: str) -> None:
    assert stream.post(one).status_code == 204
    assert counted(stream) == {outcome: 1}
    assert sandbox.segment.requests == []


def test_refused_report_is_kept(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nobody = report(identifiers=None, customer_id=None, recipient=None)
    options = {"dead_letter_path": str(tmp_path), "on_unidentified": "dead_letter"}
    sandbox.settings.refuse_containing = "poison"
    with running(sandbox, monkeypatch, **options) as stream:
        for one in (nobody, {"test": True}, b"not JSON", report(subject="x" * 33_000)):
            assert stream.post(one).status_code == 204
        assert stream.post(report(subject="poison")).status_code == 204
        assert stream.post(report(delivery_id="good")).status_code == 204
    found = {letter["reason"]: letter for letter in letters(tmp_path)}
    assert sorted(letter["reason"] for letter in letters(tmp_path)) == sorted(
        ["unidentified", "malformed", "malformed", "event_too_large", "refused_400"]
    )
    assert found["unidentified"]["event"]["event"] == "Email Delivered"
    assert found["refused_400"]["event"]["properties"]["subject"] == "poison"
    rows = [letter["row"] for letter in letters(tmp_path) if letter["reason"] == "malformed"]
    assert sorted(rows, key=str) == sorted([{"test": True}, "not JSON"], key=str)
    assert [event["properties"]["delivery_id"] for event in sandbox.segment.kept] == ["good"]


def test_failed_dead_letter_answers_503(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "stream").write_text("a file where a folder should be")
    with running(sandbox, monkeypatch, dead_letter_path=str(tmp_path)) as stream:
        assert stream.post(b"not JSON").status_code == 503
        assert counted(stream) == {"unavailable.dead_letters": 1}
        (tmp_path / "stream").unlink()
        assert stream.post(b"not JSON").status_code == 204
    assert len(letters(tmp_path)) == 1


@pytest.mark.parametrize("folder", ["letters", "s3://", "nothing-known://a/b", "s3://key:secret@bucket/x"])
def test_wrong_dead_letter_path(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, folder: str
) -> None:
    with running(sandbox, monkeypatch, dead_letter_path=folder) as stream:
        assert stream.post(report()).status_code == 503
    assert "it can't be set up: dead_letter_path" in caplog.text
    assert "key:secret" not in caplog.text


def test_cio_id_as_last_resort(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    one = report(identifiers={"cio_id": "d9c1"}, customer_id=None, recipient=None)
    with running(sandbox, monkeypatch, on_unidentified="cio_id") as stream:
        assert stream.post(one).status_code == 204
    assert [event["anonymousId"] for event in sandbox.segment.kept] == ["d9c1"]


def test_pii_drop(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(sandbox, monkeypatch, pii="drop") as stream:
        assert stream.post(report("clicked", href=f"https://a.b/?to={ADDRESS}")).status_code == 204
    assert "example.com" not in json.dumps(sandbox.segment.kept)


LONG = " ".join(f"person{number}@example.com" for number in range(40_000))  # seconds of work, if it is looked into


@pytest.mark.parametrize("pii", ["hash", "drop"])
@pytest.mark.parametrize(
    "data",
    [
        {"subject": LONG},
        {"href": LONG},
        {"tracked_response": LONG},
        {"recipient": LONG},
        {"identifiers": {"id": LONG}},
        {"customer_id": LONG},
    ],
    ids=lambda data: next(iter(data)),
)
def test_overlong_text_is_not_searched(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pii: str, data: dict[str, Any]
) -> None:
    """The search would take seconds, for which no other report is answered."""

    def search(*_: object) -> None:
        raise AssertionError("it is mapped")

    with running(sandbox, monkeypatch, pii=pii, dead_letter_path=str(tmp_path)) as stream:
        assert stream.post(report("clicked", delivery_id="before")).status_code == 204
        monkeypatch.setattr("airflow_provider_cio.events.mapping.Mapper.event", search)
        one = report("clicked", **data)
        assert stream.post(one).status_code == 204
        assert counted(stream) == {"sent": 1, "refused.event_too_large": 1}
    [letter] = letters(tmp_path)
    assert (letter["reason"], letter["row"]) == ("event_too_large", one)
    assert letter["problem"].endswith(" alone is longer than an event may be")


@pytest.mark.parametrize("pii", ["hash", "drop"])
def test_masked_text_may_fit(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, pii: str) -> None:
    """Another server's text about a bounce can be long; a page of HTML, say."""
    one = report("bounced", failure_message=f"550 5.1.1 {LONG}", identifiers={"id": "42", "email": "x" * 40_000})
    with running(sandbox, monkeypatch, pii=pii) as stream:
        assert stream.post(one).status_code == 204
        assert counted(stream) == {"sent": 1}
    assert sandbox.segment.kept[0]["properties"]["failure_message"] == "550 5.1.1"


def test_oversized_content_is_left_out(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(sandbox, monkeypatch, message_content=True, collections=["Email Sent"]) as stream:
        for delivery_id, content in (("a", "short"), ("b", "x" * 32_500), ("c", "x" * 1_500_000)):
            assert stream.post(report("sent", delivery_id=delivery_id, content=content)).status_code == 204
        assert counted(stream) == {"sent": 3, "content_left_out": 2}
    assert [event["properties"].get("content") for event in sandbox.segment.kept] == ["short", None, None]


# Strangers


def test_paths_and_methods(stream: Running) -> None:
    for path in ("", "/", "/other", "/main/other", "/main/health/x", "/MAIN", "/main%2Fhealth%2Fx", "//x"):
        for method in ("GET", "POST"):
            assert stream.session.request(method, stream.url + path).status_code == 404, path
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = stream.session.request(method, f"{stream.url}/main")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = stream.session.post(f"{stream.url}/main/health")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    body = encoded(report())
    assert stream.session.post(f"{stream.url}/main/", data=body, headers=signed(body)).status_code == 204


def test_signatures(stream: Running, sandbox: Sandbox) -> None:
    body = encoded(report())
    good = signed(body)
    stamp, signature = good["x-cio-timestamp"], good["x-cio-signature"]
    wrong: list[dict[str, str | None]] = [
        {"x-cio-signature": None},
        {"x-cio-timestamp": None},
        {"x-cio-signature": ""},
        {"x-cio-timestamp": ""},
        {"x-cio-signature": "0" * 64},
        {"x-cio-signature": signature[:-1]},
        {"x-cio-signature": f"sha256={signature}"},
        {"x-cio-signature": signed(body, "another key")["x-cio-signature"]},
        {"x-cio-timestamp": str(int(stamp) + 1)},
        {"x-cio-timestamp": f"{stamp}.0"},
        {"x-cio-signature": signed(body + b" ")["x-cio-signature"]},
    ]
    for headers in wrong:
        assert stream.post(body, **(good | headers)).status_code == 401, headers
    doubled = [*good.items(), ("x-cio-signature", signature)]
    assert raw(stream, request_bytes(body, headers=doubled))[0] == 401
    doubled = [*good.items(), ("X-CIO-Timestamp", stamp)]
    assert raw(stream, request_bytes(body, headers=doubled))[0] == 401
    assert sandbox.segment.requests == []
    assert stream.post(body, **(good | {"x-cio-signature": signature.upper()})).status_code == 204
    assert stream.post(body, **signed(body, PREVIOUS_KEY)).status_code == 204
    for age in ("0", "1", str(int(time.time()) - 7 * 86_400), str(int(time.time()) + 7 * 86_400)):
        assert stream.post(body, **signed(body, timestamp=age)).status_code == 204, "a retry may keep its first stamp"


def test_a_body_that_is_too_large(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def chunks(count: int) -> Iterator[bytes]:
        yield from (b" " * 65_536 for _ in range(count))

    with running(sandbox, monkeypatch) as stream:
        assert stream.post(b" " * (MAX_BODY + 1)).status_code == 413
        assert stream.post(b" " * MAX_BODY).status_code == 204
        url, headers = f"{stream.url}/main", signed(b"")
        assert stream.session.post(url, data=chunks(17), headers=headers, timeout=90).status_code == 413
        assert stream.session.post(url, data=chunks(15), headers=headers, timeout=90).status_code == 401
        assert raw(stream, request_bytes(b"", length=10**30))[0] in (400, 413), "the server may refuse that itself"
    with running(sandbox, monkeypatch, message_content=True) as stream:
        assert stream.post(b" " * (MAX_BODY + 1)).status_code == 204
        assert stream.post(b" " * (MAX_BODY_WITH_CONTENT + 1)).status_code == 413


def test_unsigned_bodies_do_not_fill_the_memory(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream gets all but the last byte of 600 bodies of 1 MiB, the longest allowed. Real reports get through."""
    monkeypatch.setattr(app_module, "BODY_WITHIN", 3.0)
    connect(monkeypatch, sandbox)
    app = StreamApp(lambda: '{"main": {}}')

    async def answer_to(headers: dict[str, str], *parts: bytes | int) -> int:
        """Return the status for a body of these parts. A number stands for so many bytes, after which more come."""
        left = list(parts)

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0)
            if not left:
                await asyncio.Event().wait()
            part = left.pop(0)
            more = bool(left) or isinstance(part, int)
            return {"type": "http.request", "body": bytes(part), "more_body": more}

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        listed = [(name.encode(), value.encode()) for name, value in headers.items()]
        await app({"type": "http", "method": "POST", "path": "/main", "headers": listed}, receive, send)
        return int(sent[0]["status"])

    async def flood() -> tuple[list[int], list[int]]:
        body = encoded(report())
        assert await answer_to(signed(body), body) == 204, "the connections are known"
        parts = [65_536] * 15 + [65_535]
        strangers = [asyncio.create_task(answer_to(signed(b""), *parts)) for _ in range(600)]
        while app._unverified.size < unverified.MOST - MAX_BODY:
            await asyncio.sleep(0)
        real = [await answer_to(signed(body), body) for _ in range(20)]
        real += await asyncio.gather(*(answer_to(signed(body), body[:9], body[9:]) for _ in range(20)))
        await asyncio.sleep(0.05)
        assert sum(not one.done() for one in strangers) == len(app._unverified._bodies), "the dropped are answered"
        return real, await asyncio.gather(*strangers)

    tracemalloc.start()
    try:
        real, strangers = asyncio.run(flood())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert real == [204] * 40
    assert strangers == [503] * 600
    assert peak < 1.5 * unverified.MOST
    assert app._unverified.size == 0
    streams = app._loading
    assert streams is not None
    stream = streams.result()["main"]
    assert not isinstance(stream, Exception)
    crowded, slow = (stream.counts.total[f"unavailable.{reason}"] for reason in ("crowded", "slow_body"))
    assert crowded >= 500
    assert crowded + slow == 600


def test_a_body_that_waits_for_its_verification_counts_too(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unverified, "MOST", 3 * MAX_BODY // 2)
    asked, go_on = threading.Event(), threading.Event()
    look_up = CustomerIOHook.get_connection

    def slowly(conn_id: str) -> Any:
        asked.set()
        assert go_on.wait(60)
        return look_up(conn_id)

    with running(sandbox, monkeypatch) as stream, ThreadPoolExecutor(2) as threads:

        def send(size: int) -> int:
            body = b" " * size
            headers = signed(body) | {"x-cio-signature": "0" * 64}
            return requests.post(f"{stream.url}/main", data=body, headers=headers, timeout=90).status_code

        assert stream.post(report()).status_code == 204
        monkeypatch.setattr(CustomerIOHook, "get_connection", staticmethod(slowly))
        large = threads.submit(send, MAX_BODY)
        assert asked.wait(60)
        small = threads.submit(send, MAX_BODY // 4 * 3)
        assert large.result(60) == 503
        go_on.set()
        assert small.result(60) == 503
        assert counted(stream) == {"sent": 1, "unavailable.crowded": 1, "unavailable.key_not_renewed": 1}
    assert "the largest ones are turned away" in caplog.text


def test_bodies_that_wait_for_their_verification_are_not_copied(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, sandbox)
    app, go_on = StreamApp(lambda: '{"main": {}}'), threading.Event()
    look_up = CustomerIOHook.get_connection

    def slowly(conn_id: str) -> Any:
        assert go_on.wait(60)
        return look_up(conn_id)

    async def post(body: bytes, headers: dict[str, str]) -> int:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        listed = [(name.encode(), value.encode()) for name, value in headers.items()]
        await app({"type": "http", "method": "POST", "path": "/main", "headers": listed}, receive, send)
        return int(sent[0]["status"])

    async def memory_of(count: int) -> int:
        body = encoded(report())
        assert await post(body, signed(body)) == 204, "the connections are known"
        monkeypatch.setattr(CustomerIOHook, "get_connection", staticmethod(slowly))
        body = b" " * MAX_BODY
        wrong = signed(body) | {"x-cio-signature": "0" * 64}
        before = tracemalloc.get_traced_memory()[0]
        waiting = [asyncio.create_task(post(body, wrong)) for _ in range(count)]
        while app._unverified.size < count * MAX_BODY:
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        held = tracemalloc.get_traced_memory()[0] - before
        go_on.set()
        assert set(await asyncio.gather(*waiting)) <= {401, 503}
        return held

    tracemalloc.start()
    try:
        assert asyncio.run(memory_of(20)) < 30 * MAX_BODY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("root", ["/cio", "/cio/"])
def test_a_prefix_is_a_whole_segment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    connect(monkeypatch, sandbox)
    app = StreamApp(lambda: '{"main": {}}')

    async def below(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": root}, receive, send)

    with Running({}, app=below) as stream:
        for path in ("/cio/main/health", "/main/health"):
            assert stream.session.get(stream.url + path).status_code == 200, path
        for path in ("/ciomain/health", "/cio", "/cio/", "/ciomain", "/cio/cio/main/health"):
            assert stream.session.get(stream.url + path).status_code == 404, path


def test_time_limits_fit_patience() -> None:
    """The limits are those of the source, because `conftest.py` sets others for the other tests."""
    assert BODY_WITHIN < BATCH_BUDGET < ANSWER_WITHIN <= 3.2 < PATIENCE
    assert TIMEOUT < BATCH_BUDGET


def test_slow_or_truncated_body(stream: Running, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    body = encoded(report())
    with monkeypatch.context() as limits:
        limits.setattr(app_module, "BODY_WITHIN", BODY_WITHIN)
        status, seconds = raw(stream, request_bytes(body, length=len(body) + 1))
    assert status == 503
    assert BODY_WITHIN <= seconds < BUSY
    whole = request_bytes(body)
    status, _ = raw(stream, whole[:-20], then=0.2, rest=whole[-20:])
    assert status == 204
    with socket.create_connection(("127.0.0.1", stream.port)) as gone:
        gone.sendall(whole[:-20])
    assert stream.post(report(delivery_id="next")).status_code == 204
    assert len(sandbox.segment.kept) == 2


# For the moment not


KINDS: list[Any] = ["401", "403", "429", "500", "502", "503", "html", "html200", "reset", "reset_after", "truncated"]


@pytest.mark.parametrize("kind", KINDS)
def test_segments_faults_pass(stream: Running, sandbox: Sandbox, kind: Any) -> None:
    sandbox.faults.add(Fault(side="segment", kind=kind, times=2))
    assert stream.post(report()).status_code == 503
    assert counted(stream) == {"unavailable.not_reached": 1} | ({"rate_limited": 2} if kind == "429" else {})
    sandbox.faults.clear()
    assert stream.post(report()).status_code == 204
    assert len(sandbox.segment.kept) == 1


@pytest.mark.parametrize("status", [302, 401, 402, 403, 404, 405, 408, 409, 410, 415, 429, 500, 502, 503, 504, 521])
@pytest.mark.parametrize("taken_before", [False, True], ids=["first", "later"])
def test_other_status_settles_nothing(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, status: int, taken_before: bool
) -> None:
    connect(monkeypatch, sandbox)
    with Loopback(Say(200, '{"success": true}')) as segment:
        host = {"conn_type": "segment_source", "host": segment.url, "password": "aWriteKey0123456789"}
        put(monkeypatch, "segment_default", host)
        with Running({"main": {}}) as stream:
            if taken_before:
                assert stream.post(report(delivery_id="before")).status_code == 204
            segment.say(Say(status, "no", {"location": "/elsewhere"}))
            assert stream.post(report()).status_code == 503
            assert counted(stream).get("unavailable.not_reached") == 1
            segment.say(Say(200, '{"success": true}'))
            assert stream.post(report()).status_code == 204


@pytest.mark.parametrize("kind", ["reset", "503"])
def test_single_fault_is_retried(stream: Running, sandbox: Sandbox, kind: Any) -> None:
    sandbox.faults.add(Fault(side="segment", kind=kind))
    assert stream.post(report()).status_code == 204


def test_passing_429_is_counted(stream: Running, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(side="segment", kind="429"))
    assert stream.post(report()).status_code == 204
    assert counted(stream) == {"sent": 1, "rate_limited": 1}


def test_open_breaker_logs_its_pause(
    stream: Running, sandbox: Sandbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "WAITS_EVERY", 0.3)
    monkeypatch.setattr(intake, "PAUSE", 25.0)
    sandbox.faults.add(Fault(side="segment", kind="500", times=100))
    for _ in range(intake.FAILURES_BEFORE_PAUSE + 2):
        assert stream.post(report()).status_code == 503
    assert until(lambda: "unavailable.paused 2" in caplog.text, True)
    assert "; nothing is sent for another 2" in caplog.text
    assert counted(stream) == {"unavailable.not_reached": 3, "unavailable.paused": 2}


def test_requested_wait_is_respected(
    stream: Running, sandbox: Sandbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "WAITS_EVERY", 1.0)
    sandbox.faults.add(Fault(side="segment", kind="429", retry_after=25))
    began = time.monotonic()
    assert stream.post(report()).status_code == 503
    assert stream.post(report()).status_code == 503
    assert time.monotonic() - began < BUSY
    assert len(sandbox.segment.requests) == 1
    assert counted(stream) == {"unavailable.not_reached": 1, "unavailable.paused": 1, "rate_limited": 1}
    assert until(lambda: "waits: unavailable.paused 1; nothing is sent for another 2" in caplog.text, True)
    waits = [record.getMessage() for record in caplog.records if " waits: " in record.getMessage()]
    assert waits[0].startswith(
        "Stream 'main' waits: unavailable.not_reached 1; nothing is sent for another 25 s. "
        "Segment (connection 'segment_default') answered 429: "
    )
    assert len(waits) == 2
    assert not any(secret in caplog.text for secret in (KEY, ADDRESS, sandbox.settings.write_key, sandbox.url))


def test_silent_segment(stream: Running, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "ANSWER_WITHIN", ANSWER_WITHIN)
    sandbox.settings.segment_latency = 30
    began = time.monotonic()
    answer = stream.post(report())
    assert answer.status_code == 503
    assert ANSWER_WITHIN <= time.monotonic() - began < BUSY


def test_total_refusal_drops_no_report(stream: Running, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(side="segment", kind="400", times=2))
    assert stream.post(report()).status_code == 503, "an empty batch was refused as well"
    assert stream.post(report()).status_code == 204


def test_rudderstack_refuses_an_event(stream: Running, sandbox: Sandbox) -> None:
    """RudderStack refuses the event. A retry would hold up the reports behind it for seven days."""
    sandbox.faults.add(Fault(side="segment", kind="400", body="invalid event"))
    sandbox.faults.add(Fault(side="segment", kind="400", at=1, body="Empty batch payload"))
    assert stream.post(report()).status_code == 204
    assert counted(stream) == {"refused.refused_400": 1}


def test_incomplete_configuration(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cached, "PAUSE", 0.0)
    monkeypatch.setattr(cached, "FRESH", 0.0)
    monkeypatch.setattr(counts, "WAITS_EVERY", 0.05)
    monkeypatch.setattr(app_module, "_problem_logged_at", {})
    connect(monkeypatch, sandbox)
    streams = {"main": {}, "wrong": {"pii": "hide"}, "no/name": {}}
    monkeypatch.delenv("AIRFLOW_CONN_CUSTOMERIO_DEFAULT")
    with Running(streams) as stream:
        assert "stream 'wrong': pii must be one of 'keep', 'hash', 'drop', got 'hide'" in caplog.text, "at the start"
        assert "the name 'no/name' can't be part of a URL" in caplog.text
        assert "Streams that run: main" in caplog.text
        assert stream.post(report()).status_code == 503, "no connection"
        put(monkeypatch, "customerio_default", {"conn_type": "customerio"})
        assert stream.post(report()).status_code == 503, "no key"
        connect(monkeypatch, sandbox)
        assert until(lambda: stream.post(report()).status_code, 204)
        assert stream.post(report(), "wrong").status_code == 503
    with Running("{") as stream:
        assert "No stream runs yet: [customerio] streams must be a JSON object of streams by name" in caplog.text
        assert stream.post(report()).status_code == 503
        assert stream.session.get(f"{stream.url}/main/health").status_code == 503
    assert "has no webhook_signing_secret" in caplog.text


def test_malformed_option_is_read_once(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connect(monkeypatch, sandbox)
    monkeypatch.setattr(app_module, "_problem_logged_at", {})
    asked: list[str] = []

    def malformed() -> str:
        asked.append("{")
        return asked[-1]

    with Running({}, app=StreamApp(malformed)) as stream:
        assert [stream.post(report()).status_code for _ in range(5)] == [503] * 5
    assert asked == ["{"]
    assert caplog.text.count("must be a JSON object of streams by name") == 1

    def away() -> str:
        asked.append('{"main": {}}')
        if len(asked) < 5:
            raise OSError
        return asked[-1]

    with Running({}, app=StreamApp(away)) as stream:
        answers = [stream.post(report()).status_code for _ in range(5)]
    assert answers[0] == 503
    assert answers[-1] == 204


def until(found: Any, wanted: object) -> bool:
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        if found() == wanted:
            return True
        time.sleep(0.01)
    return False


def test_missing_connection_keeps_the_last(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(sandbox, monkeypatch) as stream:
        assert stream.post(report()).status_code == 204
        monkeypatch.delenv("AIRFLOW_CONN_CUSTOMERIO_DEFAULT")
        body = encoded(report())
        assert stream.post(body, **signed(body, "new-key")).status_code == 503, "it may be a key that can't be had yet"
        assert stream.post(report()).status_code == 204


def test_new_key_takes_effect_at_once(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    body = encoded(report())
    with running(sandbox, monkeypatch) as stream:
        assert stream.post(body).status_code == 204
        put(
            monkeypatch,
            "customerio_default",
            {"conn_type": "customerio", "extra": {"webhook_signing_secret": "new-key"}},
        )
        assert stream.post(body, **signed(body, "new-key")).status_code == 204
        assert stream.post(body).status_code == 401


@pytest.mark.parametrize("which", ["webhook_signing_secret", "webhook_signing_secret_previous"])
def test_a_mask_is_no_signing_key(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    body = encoded(report())
    connect(monkeypatch, sandbox)
    good = {"webhook_signing_secret": KEY, "webhook_signing_secret_previous": PREVIOUS_KEY}
    masked = {"conn_type": "customerio", "extra": good | {which: "***"}}
    put(monkeypatch, "customerio_default", masked)
    with Running({"main": {}}) as stream:
        for key in ("***", KEY, PREVIOUS_KEY):
            assert stream.post(body, **signed(body, key)).status_code == 503
        assert stream.session.get(f"{stream.url}/main/health").status_code == 503
    assert f"Connection 'customerio_default': {which} holds a mask such as '***'" in caplog.text
    connect(monkeypatch, sandbox)
    with Running({"main": {}}) as stream:
        assert stream.post(body).status_code == 204
        put(monkeypatch, "customerio_default", masked)
        assert stream.post(body, **signed(body, "***")).status_code == 503
    assert len(sandbox.segment.kept) == 1


def test_strangers_do_not_block_a_new_key(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert cached.RENEW_EVERY == 0.0, "that of these tests"
    body, stranger = encoded(report()), {"x-cio-signature": "0" * 64}
    with running(sandbox, monkeypatch) as stream:
        assert stream.post(body, **stranger).status_code == 401
        monkeypatch.setattr(cached, "RENEW_EVERY", 3600.0)
        put(
            monkeypatch,
            "customerio_default",
            {"conn_type": "customerio", "extra": {"webhook_signing_secret": "new-key"}},
        )
        assert stream.post(body, **signed(body, "new-key")).status_code == 503
        assert stream.post(body, **stranger).status_code == 503, "nobody can tell the two apart"
        assert stream.post(body).status_code == 204, "the other key is still known"
        assert counted(stream) == {"unsigned": 1, "unavailable.key_not_renewed": 2, "sent": 1}
        assert "key_not_renewed 1. The known keys do not fit a signature, and a newer one may." in caplog.text
        monkeypatch.setattr(cached, "RENEW_EVERY", 0.0)  # the second is over
        assert stream.post(body, **signed(body, "new-key")).status_code == 204
        assert stream.post(body, **stranger).status_code == 401


def test_new_write_key_takes_effect(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.settings.write_keys = ("anotherWriteKey0123456789",)
    with running(sandbox, monkeypatch) as stream:
        assert stream.post(report()).status_code == 204
        segment = {"conn_type": "segment_source", "host": sandbox.url, "password": "anotherWriteKey0123456789"}
        put(monkeypatch, "segment_default", segment)
        assert stream.post(report(), **{"x-cio-signature": "0" * 64}).status_code == 401
        assert stream.post(report()).status_code == 204
    assert [event["writeKey"] for event in sandbox.segment.kept][1:] == ["anotherWriteKey0123456789"]


# Health, servers


def test_health(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(sandbox, monkeypatch) as stream:

        def health() -> tuple[int, Any]:
            answer = stream.session.get(f"{stream.url}/main/health")
            assert answer.headers["content-type"] == "application/json"
            return answer.status_code, answer.json()

        assert health() == (200, {"configured": True, "segment_reached": None})
        assert sandbox.segment.requests == [], "who asks costs Segment nothing"
        stream.post(report())
        assert health() == (200, {"configured": True, "segment_reached": True})
        sandbox.faults.add(Fault(side="segment", kind="500", times=2))
        stream.post(report(delivery_id="x"))
        assert health() == (200, {"configured": True, "segment_reached": False})
    put(monkeypatch, "customerio_default", {"conn_type": "customerio"})
    with Running({"main": {}}) as stream:
        answer = stream.session.get(f"{stream.url}/main/health")
        assert (answer.status_code, answer.json()) == (503, {"configured": False, "segment_reached": None})


def test_mounted_below_another_app(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, sandbox)
    for root in ("", "/airflow"):  # a proxy may cut a part of the path off
        outer = Starlette(routes=[Mount("/cio", StreamApp(lambda: '{"main": {}}'))])
        with Running({}, app=outer, root_path=root) as stream:
            assert stream.post(report(), "cio/main").status_code == 204
            assert stream.session.get(f"{stream.url}/cio/main/health").status_code == 200
            assert stream.session.post(f"{stream.url}/cio/other").status_code == 404
            assert stream.session.post(f"{stream.url}/main").status_code == 404


def test_no_streams() -> None:
    with Running("") as stream:
        assert stream.post(report()).status_code == 404


def test_shutdown_answers_requests(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled request would be answered with 500."""
    connect(monkeypatch, sandbox)
    sandbox.settings.segment_latency = 30
    said: list[Any] = []

    async def main() -> None:
        body = encoded(report())
        headers = [(name.encode(), value.encode()) for name, value in signed(body).items()]
        scope = {"type": "http", "method": "POST", "path": "/main", "headers": headers}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            said.append(message)

        task = asyncio.create_task(StreamApp(lambda: '{"main": {}}')(scope, receive, send))
        async with asyncio.timeout(10):
            while not sandbox.segment.requests:
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [message.get("status") for message in said] == [503, None]


@pytest.mark.parametrize("error", [RuntimeError(f"{KEY} {ADDRESS}"), RecursionError(), MemoryError(), KeyError(KEY)])
def test_any_exception_answers_503(
    error: Exception, stream: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(app_module, "_headers", fails)
    answer = stream.post(report())
    assert answer.status_code == 503
    assert type(error).__name__ in caplog.text
    assert not any(secret in caplog.text + answer.text for secret in (KEY, ADDRESS))


def test_mapping_error_is_refused(stream: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("airflow_provider_cio.events.mapping.Mapper.event", fails)
    assert stream.post(report()).status_code == 204
    assert counted(stream) == {"refused.malformed": 1}


def test_log_has_counts_not_reports(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("airflow_provider_cio.stream.counts.FLUSH_EVERY", 0.2)
    caplog.set_level(logging.INFO)
    with running(sandbox, monkeypatch) as stream:
        for number in range(20):
            assert stream.post(report(delivery_id=f"d{number}")).status_code == 204
            assert stream.post(b"not JSON").status_code == 204
            assert stream.post(report(), **{"x-cio-signature": "0" * 64}).status_code == 401
        assert until(lambda: "reports since the last line" in caplog.text, True)
    lines = [record.getMessage() for record in caplog.records if record.name == "airflow_provider_cio.stream"]
    assert sum("reports since the last line: " in line for line in lines) == 1
    assert len(lines) == len(set(lines)) == 5, "of the start, of each kind of problem, of counts"
    assert not any(secret in caplog.text for secret in (KEY, PREVIOUS_KEY, ADDRESS, sandbox.settings.write_key))


@pytest.mark.parametrize(("key", "status"), [(KEY, "204"), ("another", "401")])
def test_the_report_by_hand_of_the_docs(
    stream: Running,
    sandbox: Sandbox,
    key: str,
    status: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    page = (Path(__file__).parents[3] / "docs" / "stream.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?signature_of.*?)^```$", page, re.M | re.S)
    for written, here in (("http://127.0.0.1:8000", stream.url), ("YOUR-KEY", key)):
        assert code.count(written) == 1
        code = code.replace(written, here)
    exec(code, {})
    assert capsys.readouterr().out == f"{status}\n"
    assert [event["event"] for event in sandbox.segment.kept] == ["Email Delivered"] * (status == "204")

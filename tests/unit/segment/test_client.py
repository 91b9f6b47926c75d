from __future__ import annotations

import gzip
import json
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_cio.events.event import MAX_EVENT_BYTES, Event, encode, rule_broken
from airflow_provider_cio.exceptions import ConfigurationError, EventsRefusedError, TryAgainLaterError
from airflow_provider_cio.http.transport import Retries
from airflow_provider_cio.segment.batches import MAX_BATCH_BYTES, MAX_BATCH_EVENTS, Packer
from airflow_provider_cio.segment.client import SegmentClient
from tests.sandbox import Fault, Sandbox, Settings
from tests.sandbox.settings import WRITE_KEY
from tests.unit.http import Loopback, Say

NAME = "Segment (connection 'its_id')"
QUICK = Retries(attempts=3, total=10, first=0.01, longest=0.02)
MOMENT = datetime(2026, 11, 1, 12, 30, 15, tzinfo=UTC)
BATCH = [b'{"messageId":"a"}', b'{"messageId":"b"}']


class Properties(msgspec.Struct):
    subject: str = ""


def event(**fields: Any) -> Event:
    filled: dict[str, Any] = {
        "event": "Email Opened",
        "message_id": "cio-1",
        "timestamp": MOMENT,
        "properties": Properties(),
        "context": Properties(),
        "user_id": "42",
    }
    return Event(**(filled | fields))


def client_of(url: str, key: str = WRITE_KEY, **options: Any) -> SegmentClient:
    defaults: dict[str, Any] = {"name": NAME, "retries": QUICK, "events_per_second": 0}
    return SegmentClient(key, base_url=url, **defaults | options)


def send(url: str, batch: list[bytes] = BATCH, **options: Any) -> int:
    with client_of(url, **options) as client:
        return client.send(batch)


def error_of(url: str, **options: Any) -> Exception:
    with pytest.raises((ConfigurationError, EventsRefusedError, TryAgainLaterError)) as caught:
        send(url, **options)
    assert str(caught.value).startswith(NAME)
    return caught.value


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with Loopback() as running:
        yield running


# --- batches ----------------------------------------------------------------------------------------------------


def batches(events: Iterable[bytes], envelope: int) -> Iterator[list[bytes]]:
    packer = Packer(envelope)
    for one in events:
        if batch := packer.add(one):
            yield batch
        assert packer
    if batch := packer.flush():
        yield batch
    assert not packer
    assert packer.flush() == []


SIZES = st.lists(
    st.one_of(
        st.integers(2, MAX_EVENT_BYTES),
        st.tuples(st.integers(2, 600), st.integers(1, 4000)),  # many of one size
        st.sampled_from([MAX_EVENT_BYTES, 189, 190, 191]),
    ),
    max_size=40,
)


@given(SIZES, st.integers(60, 200))
@settings(max_examples=150)
def test_batches_are_full(sizes: list[Any], envelope: int) -> None:
    one_of: dict[int, bytes] = {}
    events: list[bytes] = []
    for size in sizes:
        length, count = size if isinstance(size, tuple) else (size, 1)
        events += [one_of.setdefault(length, b"x" * length)] * count
    found = list(batches(iter(events), envelope))
    assert [one for batch in found for one in batch] == events

    def body(batch: list[bytes]) -> int:
        return envelope + sum(map(len, batch)) + len(batch) - 1

    for batch in found:
        assert 0 < len(batch) <= MAX_BATCH_EVENTS
        assert body(batch) < MAX_BATCH_BYTES
    for batch, following in pairwise(found):
        assert len(batch) == MAX_BATCH_EVENTS or body([*batch, following[0]]) >= MAX_BATCH_BYTES - 1


@pytest.mark.parametrize("key", [WRITE_KEY, 'a"b\\c', "k" * 200])
@pytest.mark.parametrize("size", [150, 1000, MAX_EVENT_BYTES])
def test_body_is_within_the_limit(server: Loopback, key: str, size: int) -> None:
    server.say(Say())
    one = encode(event(properties=Properties("x" * (size - len(encode(event()))))))
    with client_of(server.url, key=key) as client:
        batch = next(batches(iter([one] * 5000), client.envelope))
        assert client.send(batch) == len(server.heard[0].body)
    assert MAX_BATCH_BYTES - size - 2 <= len(server.heard[0].body) < MAX_BATCH_BYTES or len(batch) == MAX_BATCH_EVENTS


# --- broken rules -----------------------------------------------------------------------------------------------


def sized(size: int, **fields: Any) -> Event:
    """Return an event of that many bytes, two of which are one character."""
    empty = len(encode(event(**fields)))
    return event(**fields, properties=Properties("é" + "x" * (size - empty - 2)))


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (event(), None),
        (event(user_id=None, anonymous_id="a@b.c"), None),
        (event(user_id=None), "unidentified"),
        (event(user_id="", anonymous_id=""), "unidentified"),
        (event(user_id=""), "unidentified"),
        (event(user_id="", anonymous_id="a"), "id_not_string"),
        (event(user_id="a", anonymous_id=""), "id_not_string"),
        (event(event=""), "event_not_defined"),
        (event(message_id=""), "message_id_length"),
        (event(message_id="x" * 100), None),
        (event(message_id="x" * 101), "message_id_length"),
        (sized(MAX_EVENT_BYTES), None),
        (sized(MAX_EVENT_BYTES + 1), "event_too_large"),
    ],
)
def test_a_broken_rule_has_a_name(one: Event, reason: str | None) -> None:
    assert rule_broken(one, encode(one)) == reason


EDGES = st.fixed_dictionaries(
    {
        "size": st.integers(MAX_EVENT_BYTES - 3, MAX_EVENT_BYTES + 3) | st.integers(600, 2000),
        "event": st.sampled_from(["Email Opened", ""]),
        "message_id": st.one_of(st.integers(98, 102).map(lambda n: "é" * n), st.uuids().map(str)),
        "user_id": st.sampled_from([None, "", "0", " ", "42", "ü"]),
        "anonymous_id": st.sampled_from([None, "", "a@b.c"]),
    }
)


@given(st.lists(EDGES, min_size=1, max_size=12, unique_by=lambda one: str(one["message_id"])))
@settings(max_examples=80)
def test_rules_match_segments_drops(world: Sandbox, edges: list[dict[str, Any]]) -> None:
    """The sandbox judges the events by rules from Segment's pages, and not from the code."""
    events = [sized(**edge) for edge in edges]
    world.reset()
    world.settings = Settings()
    send(world.url, [encode(one) for one in events])
    fine = [one.message_id for one in events if rule_broken(one, encode(one)) is None]
    assert [kept["messageId"] for kept in world.segment.kept] == fine
    assert len(world.segment.dropped) == len(events) - len(fine)


@given(st.datetimes(datetime(2001, 9, 10), datetime(2100, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC)))
@example(MOMENT)
@settings(max_examples=30)
def test_time_arrives_unchanged(world: Sandbox, moment: datetime) -> None:
    world.reset()
    send(world.url, [encode(event(timestamp=moment))])
    [kept] = world.segment.kept
    assert datetime.fromisoformat(kept["originalTimestamp"]) == moment


# --- what goes over the wire ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_request_on_the_wire(server: Loopback, compress: bool) -> None:
    server.say(Say(body='{"success": true}'))
    size = send(server.url, key='key"1\\', compress=compress)
    [heard] = server.heard
    body = gzip.decompress(heard.body) if compress else heard.body
    assert heard.headers.get("Content-Encoding") == ("gzip" if compress else None)
    assert (heard.method, heard.target) == ("POST", "/v1/batch")
    assert heard.headers["Content-Type"] == "application/json"
    assert heard.headers["Authorization"] == "Basic " + b64encode(b'key"1\\:').decode()
    sent = json.loads(body)
    assert set(sent) == {"batch", "sentAt", "writeKey"}
    assert sent["writeKey"] == 'key"1\\'
    assert sent["batch"] == [json.loads(one) for one in BATCH]
    assert abs(datetime.fromisoformat(sent["sentAt"]) - datetime.now(UTC)) < timedelta(seconds=1)
    assert sent["sentAt"].endswith("Z")
    assert size == len(body)


def test_paths_are_joined(server: Loopback) -> None:
    server.say(Say())
    send(server.url + "/base/", path="/v2/events")
    assert server.heard[0].target == "/base/v2/events"


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("success_body", ["segment", "rudderstack"])
def test_segment_keeps_sent_events(sandbox: Sandbox, compress: bool, success_body: Any) -> None:
    sandbox.settings = Settings(success_body=success_body)
    events = [event(message_id=f"cio-{n}", properties=Properties("Grüße 😀")) for n in range(3)]
    send(sandbox.url, [encode(one) for one in events], compress=compress)
    assert [kept["messageId"] for kept in sandbox.segment.kept] == ["cio-0", "cio-1", "cio-2"]
    assert {kept["writeKey"] for kept in sandbox.segment.kept} == {WRITE_KEY}
    assert {kept["properties"]["subject"] for kept in sandbox.segment.kept} == {"Grüße 😀"}


YES: dict[str, str | bytes] = {
    "Segment": '{\n  "success": true\n}',
    "RudderStack": "OK",
    "Customer.io Pipelines": "{}",
    "Jitsu": '{"ok": true, "receivedEvents": 2, "okEvents": 2}',
    "Jitsu, less duplicates": '{"deduplicatedEvents": 1, "ok": true, "okEvents": 1, "processedEvents": 1}',
    "nothing": "",
    "a line break": "\r\n",
    "a word": " Success\n",
    "no error": '{"error": null, "errors": [], "message": "queued"}',
    "a status that no known receiver has": '{"status": "error"}',
    "a mark before JSON": b'\xef\xbb\xbf{"success": true}',
    "another encoding": '{"success": true}'.encode("utf-16"),
    "a long JSON": json.dumps({"message": "x" * 100_000, "success": True}),
}


@pytest.mark.parametrize("body", YES.values(), ids=YES)
@pytest.mark.parametrize("status", [200, 202])
def test_answers_of_other_receivers(server: Loopback, body: str | bytes, status: int) -> None:
    server.say(Say(status, body))
    assert send(server.url) > 0


def test_retry_does_not_shift_the_time(sandbox: Sandbox) -> None:
    """Segment corrects each time by receivedAt - sentAt: a `sentAt` from before the wait would shift it by 1.1 s."""
    sandbox.faults.add(Fault(side="segment", kind="503", retry_after=1.1))
    began = time.monotonic()
    send(sandbox.url, [encode(event())])
    assert time.monotonic() - began >= 1.1
    [kept] = sandbox.segment.kept
    assert abs(datetime.fromisoformat(kept["timestamp"]) - MOMENT) < timedelta(seconds=1)


def test_rate_holds_over_batches(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(events_per_second=500)
    began = time.monotonic()
    with client_of(sandbox.url, events_per_second=500) as client:
        for n in range(5):
            client.send([encode(event(message_id=f"cio-{n}-{m}")) for m in range(100)])
    assert time.monotonic() - began >= 4 * 100 / 500
    assert sandbox.segment.rate_limited == 0
    assert sandbox.segment.kept_count == 500


def test_a_429_is_waited_out(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(side="segment", kind="429", times=2, retry_after=0.1))
    send(sandbox.url, [encode(event())])
    assert [asked.status for asked in sandbox.segment.requests] == [429, 429, 200]
    assert sandbox.segment.kept_count == 1


@pytest.mark.parametrize("kind", ["500", "502", "503", "html", "html200", "reset", "reset_after", "truncated"])
def test_passing_fault_sends_events_once(sandbox: Sandbox, kind: Any) -> None:
    """`html200` is the page of a gateway, or of the wrong host: the service never saw the batch."""
    sandbox.faults.add(Fault(side="segment", kind=kind))
    events = [event(message_id=f"cio-{n}") for n in range(3)]
    send(sandbox.url, [encode(one) for one in events])
    assert [kept["messageId"] for kept in sandbox.segment.kept] == ["cio-0", "cio-1", "cio-2"]


# --- refused ----------------------------------------------------------------------------------------------------


def test_html_answer_is_no_success(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(side="segment", kind="html200", times=99))
    assert isinstance(error_of(sandbox.url), TryAgainLaterError | ConfigurationError)


NEITHER: dict[str, str | bytes] = {
    "a page": "<!DOCTYPE html><html><h1>Welcome</h1></html>",
    "a page after a mark": b"\xef\xbb\xbf<html>Welcome</html>",
    "a page in UTF-16": "<html>Welcome</html>".encode("utf-16"),
    "a page in UTF-16 without a mark": "<html>Welcome</html>".encode("utf-16-le"),
    "a page after a comment": "\f\v<!-- x --><html>Welcome</html>",
    "an error": '{"error": "Welcome"}',
    "an error beside success": '{"success": true, "error": {"message": "Welcome"}}',
    "errors": '{"errors": [{"detail": "Welcome"}]}',
    "success as a text": '{"success": "Welcome"}',
    "success is null": '{"success": null, "message": "Welcome"}',
    "success is 0": '{"success": 0, "message": "Welcome"}',
    "a list": '["Welcome"]',
    "a text": '"Welcome"',
    "half a JSON": '{"success": true, "message": "Welcome',
    "two": '{"success": true} {"message": "Welcome"}',
    "a text about it": "OK? Welcome",
    "deep": '{"success": true, "Welcome": ' + "[" * 100_000,
    "a number": '{"success": true, "Welcome": ' + "9" * 5000 + "}",
    "bytes": b"\x89PNG Welcome \xff\xfe\x00",
}


@pytest.mark.parametrize("body", NEITHER.values(), ids=NEITHER)
def test_what_says_neither_is_tried_again_and_shown(server: Loopback, body: str | bytes) -> None:
    server.say(Say(200, body), Say(200, '{"success": true}'))
    assert send(server.url) > 0
    assert len(server.heard) == 2
    server.say(Say(200, body))
    error = error_of(server.url)
    assert isinstance(error, TryAgainLaterError)
    assert "sent an answer that can't be read: no acknowledgement, but " in str(error)
    assert "Welcome" in str(error)


def test_what_says_neither_is_masked(server: Loopback) -> None:
    key = WRITE_KEY.encode("utf-16-le")
    server.say(Say(200, b"<p>\0" + key + "jane.doe@example.com\n".encode("utf-16-le") * 99))
    shown = str(error_of(server.url))
    assert "<address>" in shown
    assert WRITE_KEY not in shown
    assert "jane" not in shown
    assert len(shown) < 400


@pytest.mark.parametrize(
    "body",
    [
        '{"success": false, "message": "no"}',
        '{\n  "success" : false\n}',
        '{"success":false}',
        '{"success":\tfalse}',
        b'\xef\xbb\xbf{"success": false}',
        '{"success": false}'.encode("utf-16"),
        json.dumps({"message": "x" * 100_000, "success": False}),
        # Jitsu, whose status is 200 whatever becomes of the events
        '{"ok": false, "receivedEvents": 2, "okEvents": 1, "errors": ["Message ID: a: event error"]}',
        '{"ok": false, "receivedEvents": 2, "okEvents": 0, "errors": ["Message ID: a: no destinations found"]}',
    ],
)
@pytest.mark.parametrize("status", [200, 202])
def test_success_false_is_no_success(server: Loopback, body: str | bytes, status: int) -> None:
    server.say(Say(status, body))
    error = error_of(server.url)
    assert isinstance(error, EventsRefusedError)
    assert "batch of 2 events was not taken" in str(error)
    assert len(server.heard) == 1


def test_a_400_is_quoted(sandbox: Sandbox) -> None:
    error = error_of(sandbox.url, batch=[b'{"broken'])
    assert isinstance(error, EventsRefusedError)
    assert "answered 400: Bad Request." in str(error)
    assert "batch of 1 events was not taken" in str(error)
    assert len(sandbox.segment.requests) == 1


def test_too_large_request_is_refused(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(side="segment", kind="413"))
    error = error_of(sandbox.url)
    assert isinstance(error, EventsRefusedError)
    assert "answered 413: Request Entity Too Large" in str(error)
    assert len(sandbox.segment.requests) == 1


def test_unusable_key(sandbox: Sandbox) -> None:
    error = error_of(sandbox.url, key="tooshort")
    assert isinstance(error, ConfigurationError)
    assert "An invalid write key was provided" in str(error)
    assert "password" in str(error)
    assert "tooshort" not in str(error)


@pytest.mark.parametrize(
    "said",
    [
        Say(401, "Unauthorized"),
        Say(403, "Forbidden"),
        Say(400, "Invalid Write Key"),
        Say(400, '{"message": "invalid write key"}'),
        Say(200, '{"success": false, "error": "invalid write key"}'),
    ],
)
def test_refused_key(server: Loopback, said: Say) -> None:
    server.say(said)
    error = error_of(server.url)
    assert isinstance(error, ConfigurationError)
    assert "Check that password holds the write key of the source, and the region" in str(error)
    assert len(server.heard) == 1


def test_wrong_path(sandbox: Sandbox) -> None:
    error = error_of(sandbox.url, path="/v1/nowhere")
    assert isinstance(error, ConfigurationError)
    assert "answered 404" in str(error)
    assert f"Check host, path and that the source is enabled: {sandbox.url}/v1/nowhere was asked" in str(error)


@pytest.mark.parametrize("status", [402, 409, 410, 415])
def test_other_status_blames_source(server: Loopback, status: int) -> None:
    server.say(Say(status, "no"))
    error = error_of(server.url)
    assert isinstance(error, ConfigurationError)
    assert f"answered {status}: no. No event causes that: check the source and its plan." in str(error)


@pytest.mark.parametrize("status", [400, 429, 200])
def test_echoed_request_is_masked(server: Loopback, status: int) -> None:
    """A gateway's page for debugging may echo the request, and so may an echo service set as the host."""

    def echo(heard: Any) -> Say:
        headers = "\n".join(f"{name}: {value}" for name, value in heard.headers.items() if name == "Authorization")
        return Say(status, f'{headers}\n{heard.body.decode()}\n"success":false')

    server.say(echo)
    shown = str(
        error_of(server.url, batch=[encode(event(user_id="jane.doe@example.com"))], retries=Retries(attempts=1))
    )
    assert "Authorization" in shown
    assert WRITE_KEY not in shown
    assert b64encode(f"{WRITE_KEY}:".encode()).decode() not in shown
    assert "jane.doe" not in shown

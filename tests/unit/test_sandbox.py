"""Check the sandbox against reference/customerio.md and reference/segment.md with bare requests."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zlib
from base64 import b64encode
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import requests

from tests.sandbox import Fault, History, Sandbox, Settings
from tests.sandbox.__main__ import exports
from tests.sandbox.catalog import CHANNELS, COLLECTIONS
from tests.sandbox.customerio import SIX_MONTHS
from tests.sandbox.faults import Kind, Side
from tests.sandbox.limiters import Bucket

ROOT = Path(__file__).resolve().parents[2]
DAY = 86_400
START = 1_793_491_200  # 2026-11-01T00:00:00Z
END = START + 5 * DAY
KEY = Settings().app_key
WRITE_KEY = Settings().write_key

Page = dict[str, Any]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def generated() -> History:
    return History.generate(seed=7, deliveries=3000, start=START, end=END)


SETTINGS = Settings(now=END + 10 * DAY)


def row(id: str = "a", created: int = START, **more: Any) -> Row:
    return {"id": id, "created": created, "type": "email", "metrics": {"sent": created}, **more}


def ask(sandbox: Sandbox, path: str = "/v1/messages", key: str = KEY, **params: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return requests.get(sandbox.url + path, params=params, headers=headers, timeout=10)


def ids(sandbox: Sandbox, **params: Any) -> list[str]:
    return [message["id"] for message in ask(sandbox, **params).json()["messages"] or []]


def chain(sandbox: Sandbox, **params: Any) -> list[Page]:
    """Return all pages, from one `next` to the following."""
    pages = [ask(sandbox, **params).json()]
    while pages[-1].get("next"):
        pages.append(ask(sandbox, start=pages[-1]["next"], **params).json())
    return pages


def rows_of(history: History) -> list[Row]:
    return [json.loads(data) for data in history.rows.data]


def event(message_id: str | None = "m1", **more: Any) -> dict[str, Any]:
    base = {"type": "track", "event": "Email Opened", "userId": "42", "timestamp": "2026-11-01T00:00:00Z"}
    return {**base, **({} if message_id is None else {"messageId": message_id}), **more}


def post(sandbox: Sandbox, *events: Any, key: str = WRITE_KEY, **more: Any) -> requests.Response:
    body = {"batch": list(events), **more}
    return requests.post(sandbox.url + "/v1/batch", json=body, auth=(key, ""), timeout=10)


# ------------------------------------------------------------------------------------------ App API


def test_bounds_are_inclusive(sandbox: Sandbox) -> None:
    late = {"metrics": {"sent": START, "opened": START + 5 * DAY}}
    sandbox.history = History([row("a", START), row("b", START + 1, **late), row("c", START + 2)])
    assert ids(sandbox, start_ts=START + 1, end_ts=START + 1) == ["b"]
    assert ids(sandbox, start_ts=START, end_ts=START + 1) == ["b", "a"]
    assert ids(sandbox, start_ts=0) == ["c", "b", "a"]
    assert ids(sandbox, start_ts=START + 3, end_ts=START) == []
    assert ids(sandbox, start_ts=START + 4 * DAY, end_ts=START + 6 * DAY) == []


def test_only_six_months_are_listed(sandbox: Sandbox) -> None:
    now = END
    sandbox.settings.now = now
    sandbox.history = History(
        [
            row("future", now + 1),
            row("now", now),
            row("edge", now - SIX_MONTHS),
            row("old", now - SIX_MONTHS - 1),
            row("older", now - 2 * SIX_MONTHS - 1),
        ]
    )
    assert ids(sandbox) == ["now", "edge"]
    assert ids(sandbox, end_ts=now - 1) == ["edge", "old"]
    assert ids(sandbox, end_ts=now - SIX_MONTHS - 1) == ["old", "older"]
    assert ids(sandbox, start_ts=now) == ["now"]
    assert ids(sandbox, start_ts=0) == ["now", "edge"]
    assert ids(sandbox, start_ts=0, end_ts=now) == ["now", "edge"]
    assert ids(sandbox, start_ts=now - SIX_MONTHS, end_ts=now + 1) == ["future", "now"]


@pytest.mark.parametrize("limit", [1000, 333, 50])
def test_newest_first_over_pages(sandbox: Sandbox, generated: History, limit: int) -> None:
    sandbox.history = generated
    pages = chain(sandbox, limit=limit)
    found = [message for page in pages for message in page["messages"]]
    sent = [one for one in rows_of(generated) if one["metrics"].keys() - {"created", "drafted"}]
    assert found == sent
    assert all(earlier["created"] >= later["created"] for earlier, later in pairwise(found))
    assert {len(page["messages"]) for page in pages[:-1]} == {limit}
    assert pages[-1]["next"] == ""


def test_order_within_a_second(sandbox: Sandbox) -> None:
    sandbox.history = History([row(str(number), START + number // 5) for number in range(20)])
    order = [message["id"] for page in chain(sandbox, limit=3) for message in page["messages"]]
    assert order == [str(5 * second + number) for second in (3, 2, 1, 0) for number in range(5)]


def test_limits(sandbox: Sandbox, generated: History) -> None:
    sandbox.history = generated
    assert len(ids(sandbox)) == 50
    assert len(ids(sandbox, limit=1000)) == 1000
    for wrong in (1001, 0, "x"):
        answer = ask(sandbox, limit=wrong)
        assert answer.status_code == 400
        (problem,) = answer.json()["errors"]
        assert problem["status"] == "400"
        assert problem["source"] == {"pointer": "/limit"}


@pytest.mark.parametrize("wrong", [{"start_ts": "yesterday"}, {"type": "sms"}, {"metric": "read"}, {"drafts": "x"}])
def test_invalid_values_are_refused(sandbox: Sandbox, wrong: dict[str, str]) -> None:
    assert ask(sandbox, **wrong).status_code == 400


def test_cursors_need_percent_encoding(sandbox: Sandbox, generated: History) -> None:
    sandbox.history = generated
    cursor = ask(sandbox, limit=100).json()["next"]
    assert cursor.endswith("=")
    url = f"{sandbox.url}/v1/messages?limit=10&start="
    headers = {"Authorization": f"Bearer {KEY}"}
    encoded = requests.get(url + quote(cursor, safe=""), headers=headers, timeout=10)
    assert len(encoded.json()["messages"]) == 10
    plain = requests.get(url + cursor, headers=headers, timeout=10)
    assert plain.status_code == 200
    assert plain.json() == {"messages": [], "next": ""}
    for malformed in ("nonsense", "AAAA", cursor[:-4] + "AAA=", cursor[4:]):
        assert ask(sandbox, start=malformed).status_code == 400


def test_empty_lists_and_pages(sandbox: Sandbox, generated: History) -> None:
    assert ask(sandbox).json() == {"messages": [], "next": ""}
    sandbox.settings.null_when_empty = True
    assert ask(sandbox).json() == {"messages": None, "next": ""}
    sandbox.settings.last_next = "null"
    assert ask(sandbox).json() == {"messages": None, "next": None}
    sandbox.settings.last_next = "absent"
    assert ask(sandbox).json() == {"messages": None}

    sandbox.history = generated
    whole = [message["id"] for page in chain(sandbox, limit=700) for message in page["messages"]]
    sandbox.settings.empty_page_every = 2
    pages = chain(sandbox, limit=700)
    assert [bool(page["messages"]) for page in pages] == [True, True, False, True, True, False, True]
    assert [message["id"] for page in pages for message in page["messages"] or []] == whole


def test_full_last_page_with_a_next(sandbox: Sandbox) -> None:
    sandbox.history = History([row(str(number)) for number in range(4)])
    assert [len(page["messages"]) for page in chain(sandbox, limit=2)] == [2, 2]
    sandbox.settings.trailing_page = True
    assert [len(page["messages"]) for page in chain(sandbox, limit=2)] == [2, 2, 0]


def test_filters(sandbox: Sandbox, generated: History) -> None:
    sandbox.history = generated
    sent = [one for one in rows_of(generated) if one["metrics"].keys() - {"created", "drafted"}]

    def expect(holds: Any, **params: Any) -> None:
        found = [message["id"] for page in chain(sandbox, limit=1000, **params) for message in page["messages"]]
        assert found == [one["id"] for one in sent if holds(one)]
        assert found

    for channel in CHANNELS:
        expect(lambda one, channel=channel: one["type"] == channel, type=channel)
    for metric in ("opened", "clicked", "attempted", "undeliverable"):
        expect(lambda one, metric=metric: metric in one["metrics"], metric=metric)
    expect(lambda one: one["campaign_id"] == 11, campaign_id=11)
    expect(lambda one: one["newsletter_id"] == 500, newsletter_id=500)
    expect(lambda one: one["action_id"] == 101, action_id=101)
    expect(
        lambda one: one["type"] == "email" and "opened" in one["metrics"] and one["created"] >= START + DAY,
        type="email",
        metric="opened",
        start_ts=START + DAY,
    )


def test_drafts_and_sent_deliveries(sandbox: Sandbox) -> None:
    draft = row("draft", START, metrics={"created": START, "drafted": START})
    sandbox.history = History([draft, row("sent", START, metrics={"drafted": START, "sent": START})])
    assert ids(sandbox) == ["sent"]
    assert ids(sandbox, drafts="false") == ["sent"]
    assert ids(sandbox, drafts="true") == ["draft"]
    sandbox.settings.drafts_wording = "both"
    assert ids(sandbox) == ["sent"]
    assert ids(sandbox, drafts="true") == ["draft", "sent"]
    assert [truth.delivery_id for truth in sandbox.history.truth(metrics={"drafted"})] == ["sent"]
    assert len(sandbox.history.truth(metrics={"drafted"}, drafts=True)) == 2


def test_one_delivery_by_its_id(sandbox: Sandbox, generated: History) -> None:
    sandbox.history = generated
    one = next(one for one in rows_of(generated) if one["id"].endswith("="))
    assert ask(sandbox, f"/v1/messages/{quote(one['id'])}").json() == {"message": one}
    answer = ask(sandbox, "/v1/messages/unknown")
    assert answer.status_code == 404
    assert answer.json() == {"errors": [{"detail": "not found", "status": "404"}]}
    assert ask(sandbox, "/v1/nothing").status_code == 404


def test_keys_regions_and_scopes(sandbox: Sandbox) -> None:
    answer = ask(sandbox, key="another")
    assert answer.status_code == 401
    assert answer.json() == {"errors": [{"detail": "unauthorized", "status": "401"}]}
    assert requests.get(sandbox.url + "/v1/messages", timeout=10).status_code == 401
    sandbox.settings.region = "eu"
    assert ask(sandbox).status_code == 401
    sandbox.settings.key_region = "eu"
    assert ask(sandbox).status_code == 200
    sandbox.settings.scopes = ("campaigns",)
    answer = ask(sandbox)
    assert answer.status_code == 403
    assert answer.json()["errors"][0]["status"] == "403"
    assert ask(sandbox, key="another").status_code == 401


@pytest.mark.parametrize("form", [None, "seconds", "date"])
def test_ten_requests_a_second(sandbox: Sandbox, form: Any) -> None:
    sandbox.settings.requests_per_second = 10
    sandbox.settings.retry_after = form
    answers = [ask(sandbox, limit=1)]
    while answers[-1].status_code == 200:
        answers.append(ask(sandbox, limit=1))
    *_, refused = answers
    assert len(answers) > 10
    assert refused.status_code == 429
    assert sandbox.customerio.rate_limited == 1
    assert refused.text == '{"errors":[{"detail":"rate limited to 10 requests per 1s","status":"429"}]}'
    retry_after = refused.headers.get("Retry-After")
    if form is None:
        assert retry_after is None
    elif form == "seconds":
        assert retry_after == "1"
    else:
        assert retry_after is not None
        assert -1 <= (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds() <= 2


def test_the_bucket_fills_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    bucket = Bucket()
    assert [bucket.take(1, 10) for _ in range(10)] == [0] * 10
    assert bucket.take(1, 10) == pytest.approx(0.1)
    now[0] += 0.2
    assert [bool(bucket.take(1, 10)) for _ in range(3)] == [False, False, True]
    now[0] += 60
    assert [bool(bucket.take(1, 10)) for _ in range(11)] == [False] * 10 + [True]
    now[0] += 1
    assert bucket.take(25, 10) == 0, "larger than the bucket, but it is full"
    assert bucket.take(1, 10) == pytest.approx(1.6)


def test_latency_overlaps(sandbox: Sandbox) -> None:
    sandbox.settings.latency = 0.15
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ask(sandbox, limit=7), range(8)))
    assert 0.14 < time.monotonic() - begun < 0.9
    assert len(sandbox.customerio.requests) == 8
    asked = sandbox.customerio.requests[0]
    assert (asked.method, asked.path, asked.params, asked.status) == (
        "GET",
        "/v1/messages",
        {"limit": "7"},
        200,
    )
    assert abs(asked.time - time.time()) < 5
    assert asked.seconds > 0.14


# ------------------------------------------------------------------------------------ Tracking API


def test_write_key_has_three_places(sandbox: Sandbox) -> None:
    url = sandbox.url + "/v1/batch"
    assert post(sandbox, event("a")).text == '{\n  "success": true\n}'
    requests.post(url, json={"batch": [event("b")], "writeKey": WRITE_KEY}, timeout=10)
    colonless = {"Authorization": "Basic " + b64encode(WRITE_KEY.encode()).decode()}
    requests.post(url, json={"batch": [event("c")]}, headers=colonless, timeout=10)
    assert [one["messageId"] for one in sandbox.segment.kept] == ["a", "b", "c"]
    for short in ("", "abc123", "12345678"):
        answer = post(sandbox, event("d"), key=short)
        assert (answer.status_code, answer.text) == (400, "An invalid write key was provided")
    assert post(sandbox, event("e"), event("f"), key="a-plausible-key-of-nobody").status_code == 200
    assert sandbox.segment.dropped == [("unknown_write_key", event("e")), ("unknown_write_key", event("f"))]
    assert len(sandbox.segment.kept) == 3


def test_repeated_message_id(sandbox: Sandbox) -> None:
    sandbox.settings.write_keys = ("the-key-of-another-source",)
    sandbox.settings.now = START
    post(sandbox, event("a"), event("a", event="Other"))
    post(sandbox, event("a"), key="the-key-of-another-source")
    assert (len(sandbox.segment.kept), len(sandbox.segment.duplicates)) == (1, 2)
    assert [one["writeKey"] for one in sandbox.segment.duplicates] == [WRITE_KEY, "the-key-of-another-source"]
    sandbox.settings.now = START + DAY - 1
    post(sandbox, event("a"))
    assert len(sandbox.segment.duplicates) == 3
    sandbox.settings.now = START + DAY
    post(sandbox, event("a"), event(None), event(None))
    assert (sandbox.segment.kept_count, sandbox.segment.duplicate_count) == (4, 3)


@pytest.mark.parametrize(
    ("reason", "bad"),
    [
        ("no_user_anon_id", event(userId=None)),
        ("id_not_string", event(userId="")),
        ("id_not_string", event(userId=42)),
        ("id_not_string", event(anonymousId="")),
        ("event_not_defined", event(event=None)),
        ("event_not_defined", event(event="")),
        ("event_not_string", event(event=7)),
        ("properties_not_object", event(properties=[1])),
        ("properties_not_object", event(properties="x")),
        ("type_not_defined", event(type=None)),
        ("message_id_too_long", event("x" * 101)),
        ("message_id_not_string", event(message_id=None) | {"messageId": 5}),
        ("timestamp_not_valid", event(timestamp="yesterday")),
        ("event_too_large", event(properties={"text": "x" * 32_768})),
        ("event_not_object", "text"),
    ],
)
def test_invalid_events_are_dropped(sandbox: Sandbox, reason: str, bad: Any) -> None:
    answer = post(sandbox, event("good"), bad, event("x" * 100))
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert sandbox.segment.dropped == [(reason, bad)]
    assert [one["messageId"] for one in sandbox.segment.kept] == ["good", "x" * 100]
    assert sandbox.segment.report()["dropped"] == {reason: 1}


def test_dropped_event_is_no_duplicate(sandbox: Sandbox) -> None:
    post(sandbox, event("a", userId=""))
    post(sandbox, event("a"), key="a-plausible-key-of-nobody")
    post(sandbox, event("a"))
    assert (sandbox.segment.kept_count, sandbox.segment.duplicate_count) == (1, 0)


def test_the_limits_of_a_batch(sandbox: Sandbox) -> None:
    def sized(length: int) -> bytes:
        events = [event(f"{length}-{number}", properties={"x": "x" * 30_000}) for number in range(16)]
        body = msgspec.json.encode({"batch": events, "writeKey": WRITE_KEY, "pad": ""})
        return body[:-2] + b"x" * (length - len(body)) + body[-2:]

    def send(body: bytes, **headers: str) -> int:
        headers = {"Content-Type": "application/json", **headers}
        return requests.post(sandbox.url + "/v1/batch", data=body, headers=headers, timeout=10).status_code

    assert send(sized(500_000)) == 200
    assert send(sized(500_001)) == 400
    assert sandbox.segment.kept_count == 16
    zipped = {"Content-Encoding": "gzip"}
    assert send(gzip.compress(sized(499_999)), **zipped) == 200
    assert sandbox.segment.kept_count == 32
    assert send(gzip.compress(sized(500_001)), **zipped) == 400
    assert send(gzip.compress(sized(499_998))[:-20], **zipped) == 400
    assert send(b"plain", **zipped) == 400
    assert sandbox.segment.kept_count == 32
    small = [{"type": "track", "event": "x", "userId": "1"}]
    assert post(sandbox, *small * 2500).status_code == 200
    assert sandbox.segment.kept_count == 2532
    assert post(sandbox, *small * 2501).status_code == 200
    assert sandbox.segment.kept_count == 2532
    assert sandbox.segment.dropped_counts == {"batch_too_long": 2501}


@pytest.mark.parametrize("body", ["{", '{"batch":[{]}', "[]", "7", '{"batch":["\\q"]}', "", '{"batch":[{"a":"\xff"}]}'])
def test_body_must_be_a_json_object(sandbox: Sandbox, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    url, data = sandbox.url + "/v1/batch", body.encode("latin-1")
    answer = requests.post(url, data=data, auth=(WRITE_KEY, ""), headers=headers, timeout=10)
    assert answer.status_code == 400
    assert sandbox.segment.received_count == 0


def test_empty_batch_is_accepted(sandbox: Sandbox) -> None:
    assert post(sandbox).status_code == 200
    assert requests.post(sandbox.url + "/v1/batch", json={}, auth=(WRITE_KEY, ""), timeout=10).status_code == 200
    assert sandbox.segment.dropped == [("empty_batch", None)] * 2


def test_single_calls(sandbox: Sandbox) -> None:
    def call(kind: str, body: dict[str, Any]) -> int:
        url = f"{sandbox.url}/v1/{kind}"
        return requests.post(url, json=body, auth=(WRITE_KEY, ""), timeout=10).status_code

    assert call("track", {"event": "x", "userId": "1", "context": {"a": 1}}) == 200
    assert call("identify", {"userId": "1"}) == 200
    assert call("track", {"userId": "1"}) == 200
    assert call("track", {"event": "x", "userId": "1", "properties": {"x": "x" * 33_000}}) == 400
    assert sandbox.segment.kept_count == 2
    assert sandbox.segment.kept[0]["context"] == {"a": 1}
    assert sandbox.segment.dropped_counts == {"event_not_defined": 1}


def test_times_are_corrected(sandbox: Sandbox) -> None:
    sandbox.settings.now = START + 100.25
    received = datetime.fromtimestamp(START + 100, UTC)

    def iso(time: datetime) -> str:
        return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    original, sent = iso(received - timedelta(days=3)), iso(received)
    post(
        sandbox,
        event("fresh", timestamp=original),
        event("no time") | {"timestamp": None},
        event("own", timestamp=original, sentAt=iso(received - timedelta(hours=1))),
        event("zone", timestamp="2026-11-01T02:00:00+02:00"),
        sentAt=sent,
    )
    post(sandbox, event("without", timestamp=original))
    post(sandbox, event("trap", timestamp=original), sentAt=original)
    kept = {one["messageId"]: one for one in sandbox.segment.kept}
    now = "2026-11-01T00:01:40.250Z"
    assert {one["receivedAt"] for one in kept.values()} == {now}
    assert kept["fresh"]["originalTimestamp"] == original
    assert kept["fresh"]["sentAt"] == sent
    assert kept["fresh"]["timestamp"] == "2026-10-29T00:01:40.250Z"
    assert kept["no time"]["timestamp"] == kept["no time"]["originalTimestamp"] == now
    assert kept["own"]["timestamp"] == "2026-10-29T01:01:40.250Z"
    assert kept["zone"]["timestamp"] == "2026-11-01T00:00:00.250Z"
    assert kept["without"]["timestamp"] == "2026-10-29T00:01:40.000Z"
    assert kept["trap"]["timestamp"] == now


def test_batch_context_is_merged(sandbox: Sandbox) -> None:
    more: dict[str, Any] = {"context": {"ip": "1", "a": 1}, "integrations": {"X": False}}
    post(sandbox, event("a", context={"a": 2}), event("b"), **more)
    first, second = sandbox.segment.kept
    assert (first["context"], first["integrations"]) == ({"ip": "1", "a": 2}, {"X": False})
    assert second["context"] == {"ip": "1", "a": 1}


def test_events_per_second(sandbox: Sandbox) -> None:
    sandbox.settings.events_per_second = 100
    events = [event(str(number)) for number in range(80)]
    assert post(sandbox, *events).status_code == 200
    answer = post(sandbox, *events)
    assert answer.status_code == 429
    assert (answer.headers["Retry-After"], answer.headers["X-RateLimit-Reset"]) == ("1", "1")
    assert sandbox.segment.received_count == 80
    assert sandbox.segment.rate_limited == 1


def test_counts_only(sandbox: Sandbox) -> None:
    sandbox.settings.remember = "counts"
    sandbox.settings.success_body = "rudderstack"
    answer = post(sandbox, event("a"), event("a"), event("b", userId=""))
    assert answer.text == "OK"
    segment = sandbox.segment
    assert (segment.kept, segment.duplicates, segment.dropped) == ([], [], [])
    assert segment.report() == {
        "requests": 1,
        "received": 3,
        "kept": 1,
        "duplicates": 1,
        "dropped": {"id_not_string": 1},
        "rate_limited": 0,
        "faults": 0,
        "by_event": {"Email Opened": 1},
    }


# ---------------------------------------------------------------------------------------- faults


def call(
    sandbox: Sandbox, side: Side, message_id: str = "m", timeout: float = 5, *, stream: bool = False
) -> requests.Response:
    if side == "customerio":
        headers = {"Authorization": f"Bearer {KEY}"}
        return requests.get(sandbox.url + "/v1/messages", headers=headers, timeout=timeout, stream=stream)
    body = {"batch": [event(message_id, properties={"x": "x" * 20_000})]}
    return requests.post(sandbox.url + "/v1/batch", json=body, auth=(WRITE_KEY, ""), timeout=timeout, stream=stream)


@pytest.mark.parametrize("side", ["customerio", "segment"])
@pytest.mark.parametrize("kind", ["400", "401", "403", "413", "429", "500", "502", "503", "html", "html200"])
def test_refusals_process_nothing(sandbox: Sandbox, side: Side, kind: Kind) -> None:
    sandbox.faults.add(Fault(side=side, kind=kind))
    answer = call(sandbox, side)
    assert answer.status_code == {"html": 502, "html200": 200}.get(kind) or int(kind)
    if kind.startswith("html"):
        assert answer.headers["Content-Type"].startswith("text/html")
        assert answer.text.startswith("<!DOCTYPE html>")
    elif side == "customerio":
        assert answer.json()["errors"][0]["status"] == kind
    assert sandbox.segment.received_count == 0
    requests_seen = sandbox.customerio.requests if side == "customerio" else sandbox.segment.requests
    assert [(one.fault, one.status) for one in requests_seen] == [(kind, answer.status_code)]
    assert call(sandbox, side).status_code == 200


@pytest.mark.parametrize("side", ["customerio", "segment"])
@pytest.mark.parametrize("kind", ["reset", "reset_after", "truncated", "truncated_json", "timeout"])
def test_broken_answers(sandbox: Sandbox, side: Side, kind: Kind) -> None:
    sandbox.faults.add(Fault(side=side, kind=kind, seconds=1.5))
    if kind == "truncated_json":
        answer = call(sandbox, side)
        assert answer.status_code == 200
        assert len(answer.content) == int(answer.headers["Content-Length"]) > 0
        with pytest.raises(ValueError, match="Expecting|Unterminated"):
            answer.json()
    elif kind == "timeout":
        with pytest.raises(requests.exceptions.ReadTimeout):
            call(sandbox, side, timeout=0.1)
    elif kind == "truncated":
        with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
            call(sandbox, side)
    else:
        with pytest.raises(requests.exceptions.ConnectionError, match="Connection reset by peer"):
            call(sandbox, side)
    if side == "segment":
        assert sandbox.segment.kept_count == (0 if kind == "reset" else 1)
        assert call(sandbox, side).json() == {"success": True}
        assert sandbox.segment.duplicate_count == (0 if kind == "reset" else 1)


def test_a_reset_is_a_tcp_reset(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(side="customerio", kind="reset"))
    host, port = sandbox.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"GET /v1/messages HTTP/1.1\r\nHost: sandbox\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            raw.recv(1)


def test_held_answer_comes_late(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(side="segment", kind="timeout", seconds=0.1))
    begun = time.monotonic()
    assert call(sandbox, "segment").json() == {"success": True}
    assert time.monotonic() - begun > 0.09


@pytest.mark.parametrize("side", ["customerio", "segment"])
@pytest.mark.parametrize("kind", ["slow_head", "slow_body"])
def test_a_slow_answer_comes_byte_by_byte(sandbox: Sandbox, side: Side, kind: Kind) -> None:
    sandbox.faults.add(Fault(side=side, kind=kind, seconds=0.002))
    begun = time.monotonic()
    answer = call(sandbox, side, timeout=2)
    assert answer.status_code == 200
    assert time.monotonic() - begun > 0.002 * len(answer.content)
    if side == "segment":
        assert sandbox.segment.kept_count == 1


@pytest.mark.parametrize("side", ["customerio", "segment"])
def test_an_endless_answer(sandbox: Sandbox, side: Side) -> None:
    sandbox.faults.add(Fault(side=side, kind="endless"))
    with call(sandbox, side, stream=True) as answer:
        read = 0
        for chunk in answer.iter_content(2**16):
            read += len(chunk)
            if read > 2**25:
                break
    assert read > 2**25


@pytest.mark.parametrize("side", ["customerio", "segment"])
def test_a_gzip_bomb_is_small_on_the_wire(sandbox: Sandbox, side: Side) -> None:
    sandbox.faults.add(Fault(side=side, kind="gzip_bomb"))
    with call(sandbox, side, stream=True) as answer:
        packed = b"".join(answer.raw.stream(2**16, decode_content=False))
    assert len(packed) < 2**19
    unpacker = zlib.decompressobj(wbits=31)
    unpacked = 0
    while not unpacker.eof:
        unpacked += len(unpacker.decompress(packed, 2**22))
        packed = unpacker.unconsumed_tail
    assert unpacked == 2**28


@pytest.mark.parametrize("side", ["customerio", "segment"])
def test_retry_after_of_a_fault(sandbox: Sandbox, side: Side) -> None:
    sandbox.faults.add(Fault(side=side, kind="429", retry_after=3), Fault(side=side, kind="503", retry_after="date"))
    first, second = call(sandbox, side), call(sandbox, side)
    assert first.headers["Retry-After"] == "3"
    assert first.headers.get("X-RateLimit-Reset") == ("3" if side == "segment" else None)
    wait = parsedate_to_datetime(second.headers["Retry-After"]) - datetime.now(UTC)
    assert timedelta() < wait <= timedelta(seconds=2)


def test_repeated_cursor(sandbox: Sandbox) -> None:
    sandbox.history = History([row(str(number)) for number in range(6)])
    sandbox.faults.add(Fault(side="customerio", kind="repeat_cursor", at=1))
    first = ask(sandbox, limit=2).json()
    second = ask(sandbox, limit=2, start=first["next"]).json()
    assert second["next"] == first["next"]
    assert [message["id"] for message in second["messages"]] == ["2", "3"]
    third = ask(sandbox, limit=2, start=first["next"]).json()
    assert third["next"] not in {first["next"], ""}


def test_faults_at_chosen_requests(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(side="customerio", kinds=("500", "503"), at=1, times=3))
    assert [ask(sandbox).status_code for _ in range(6)] == [200, 500, 503, 500, 200, 200]

    def by_chance(seed: int) -> list[int]:
        sandbox.reset()
        kinds: tuple[Kind, ...] = ("429", "500")
        sandbox.faults.add(Fault(side="customerio", kinds=kinds, probability=0.3, seed=seed))
        return [ask(sandbox).status_code for _ in range(40)]

    first = by_chance(3)
    assert first == by_chance(3)
    assert first != by_chance(4)
    assert set(first) == {200, 429, 500}
    sandbox.reset()
    assert ask(sandbox).status_code == 200


def test_fault_with_its_own_body(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(side="customerio", kind="400", body='{"meta":{"error":"bad cursor"}}'))
    assert ask(sandbox).json() == {"meta": {"error": "bad cursor"}}
    sandbox.faults.add(Fault(side="segment", kind="200", body="<p>no</p>", encoding="utf-16"))
    assert call(sandbox, "segment").content == "<p>no</p>".encode("utf-16")
    assert sandbox.segment.received_count == 0
    with pytest.raises(ValueError, match="either a kind or kinds"):
        Fault(side="segment")


# --------------------------------------------------------------------------- history and its truth


def brute_force(rows: list[Row]) -> list[tuple[str, str, int, str | None, str | None]]:
    """Compute the truth by the identity rule and the table, written out once more over rows."""
    found = []
    for one in rows:
        known = one["customer_identifiers"] or {}
        user = known.get("id") or None
        if user is None and one["customer_id"] not in {None, "", known.get("cio_id")}:
            user = str(one["customer_id"])
        recipient = one["recipient"] or ""
        address = recipient if recipient.count("@") == 1 and "," not in recipient else None
        anonymous = None if user else known.get("email") or address
        for metric, value in one["metrics"].items():
            collection = COLLECTIONS.get((one["type"], metric))
            if collection:
                found.append((collection, one["id"], value, user, anonymous))
    return sorted(found, key=lambda entry: (entry[2], entry[1], entry[0]))


@pytest.mark.parametrize("lean", [False, True])
def test_truth_matches_the_rows(lean: bool) -> None:
    history = History.generate(seed=11, deliveries=3000, start=START, end=END, lean=lean)
    truth = history.truth(drafts=True)
    told = [(one.collection, one.delivery_id, one.time, one.user_id, one.anonymous_id) for one in truth]
    expected = brute_force(rows_of(history))
    assert sorted(told, key=lambda entry: (entry[2], entry[1], entry[0])) == expected
    assert History(rows_of(history)).truth(drafts=True) == truth
    some = history.truth(START + DAY, START + 2 * DAY, {"opened", "clicked"}, {"email"}, drafts=True)
    assert some == [
        one
        for one in truth
        if one.metric in {"opened", "clicked"} and one.channel == "email" and START + DAY <= one.time < START + 2 * DAY
    ]
    assert some


def test_same_seed_same_world() -> None:
    first, lean = (History.generate(seed=5, deliveries=500, lean=lean) for lean in (False, True))
    assert first.rows.data == lean.rows.data
    assert first.rows.data != History.generate(seed=6, deliveries=500).rows.data


def test_generated_world_is_realistic(generated: History) -> None:
    rows = rows_of(generated)
    assert len(rows) == len({one["id"] for one in rows}) == 3000
    assert all(START <= one["created"] < END for one in rows)
    assert {one["type"] for one in rows} == set(CHANNELS)
    parents = ("campaign_id", "newsletter_id", "broadcast_id", "transactional_message_id")
    assert all(sum(one[parent] is not None for parent in parents) == 1 for one in rows)
    assert all(any(one[parent] is not None for one in rows) for parent in parents)
    identifiers = [one["customer_identifiers"] for one in rows]
    assert None in identifiers
    shown = [(known["id"], known["email"]) for known in identifiers if known]
    for missing in (None, ""):
        assert any(id == missing and email for id, email in shown)
        assert any(id and email == missing for id, email in shown)
    assert any(not id and not email for id, email in shown)
    assert any(one["customer_id"] == (one["customer_identifiers"] or {}).get("cio_id") for one in rows)
    assert {type(one["customer_id"]) for one in rows} == {str, int, type(None)}
    assert any("," in one["recipient"] for one in rows)
    assert any(one["recipient"] == "" for one in rows)
    assert any(one["recipient"].startswith("{{") for one in rows)
    assert any(one["forgotten"] and one["subject"] is None for one in rows)
    assert any("🎉" in (one["subject"] or "") for one in rows)
    assert 0.1 < sum(one["id"].endswith("=") for one in rows) / len(rows) < 0.4
    keys = Counter(key for one in rows for key in one["metrics"])
    assert keys.keys() >= {metric for channel, metric in COLLECTIONS if channel == "email"}
    assert keys.keys() >= {"secondary:delivered", "topic_unsubscribed", "human_opened", "prefetch_opened"}


def test_generated_times_are_realistic(generated: History) -> None:
    rows = rows_of(generated)
    emails = [one["metrics"] for one in rows if one["type"] == "email"]
    transit = [one["delivered"] - one["sent"] for one in emails if "delivered" in one]
    assert min(transit) >= 0
    assert max(transit) > 4 * 3600
    waits = [one["opened"] - one["delivered"] for one in emails if "opened" in one]
    assert min(waits) < 600
    assert max(waits) > 14 * DAY
    times = [truth.time for truth in generated.truth()]
    assert sum(time % 3600 == 0 for time in times) > 100
    assert sum(time % DAY == 0 for time in times) > 30
    assert sum(time % 3600 == 3599 for time in times) > 10
    assert all(one["created"] <= min(v for v in one["metrics"].values() if v > 10**9) for one in rows)


def test_newsletters_are_bursts() -> None:
    history = History.generate(seed=1, deliveries=2000, start=START, end=END, burst=1.0, newsletters=1)
    created = [one["created"] for one in rows_of(history)]
    assert max(created) - min(created) <= 600
    assert {one["newsletter_id"] for one in rows_of(history)} == {500}
    slow = History.generate(seed=1, deliveries=2000, start=START, end=END, burst=1.0, newsletters=1, burst_seconds=3600)
    created = [one["created"] for one in rows_of(slow)]
    assert 3300 < max(created) - min(created) <= 3600
    assert all(one["newsletter_id"] is None for one in rows_of(History.generate(deliveries=200, burst=0.0)))


def test_every_engagement_is_remembered(generated: History) -> None:
    rows = {one["id"]: one for one in rows_of(generated)}
    firsts: dict[tuple[str, str], int] = {}
    everything = [one for person in generated.engagements().values() for one in person]
    for one in everything:
        key = (one.delivery_id, one.metric)
        firsts[key] = min(one.time, firsts.get(key, one.time))
        assert (one.link is None) == (one.metric == "opened")
    shown = {
        (id, metric): one["metrics"][metric]
        for id, one in rows.items()
        for metric in ("opened", "clicked")
        if metric in one["metrics"]
    }
    assert firsts == shown
    assert len(everything) > len(firsts)
    assert any(one.prefetched for one in everything)
    assert any(one.machine for one in everything)


# ------------------------------------------------------------------------------- server and control


def test_start_and_stop_leave_nothing() -> None:
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    session = requests.Session()
    for _ in range(5):
        begun = time.monotonic()
        with Sandbox() as sandbox:
            assert session.get(sandbox.url + "/v1/messages", timeout=5).status_code == 401
            assert time.monotonic() - begun < 0.5
        with pytest.raises(requests.exceptions.ConnectionError):
            session.get(sandbox.url, timeout=5)
    session.close()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) <= files


def test_stops_while_answers_are_held() -> None:
    with Sandbox(settings=Settings(latency=30)) as sandbox, ThreadPoolExecutor(1) as pool:
        held = pool.submit(ask, sandbox)
        while not sandbox.customerio.requests:
            time.sleep(0.01)
        begun = time.monotonic()
        sandbox.stop()
        assert time.monotonic() - begun < 2
        assert isinstance(held.exception(5), requests.exceptions.ConnectionError)


def test_the_control_routes(sandbox: Sandbox, generated: History) -> None:
    sandbox.history = generated
    url = sandbox.url + "/_sandbox"

    def get(path: str) -> Any:
        return requests.get(url + path, timeout=10).json()

    truth = get(f"/truth?start={START + DAY}&end={START + 2 * DAY}&metrics=opened,clicked")["events"]
    assert [one["delivery_id"] for one in truth] == [
        one.delivery_id for one in generated.truth(START + DAY, START + 2 * DAY, {"opened", "clicked"})
    ]
    assert truth[0].keys() == {
        "collection", "channel", "metric", "delivery_id", "time", "user_id", "anonymous_id", "subject",
        "recipient", "created",
    }  # fmt: skip
    ask(sandbox)
    post(sandbox, event("a"))
    assert get("/customerio") == {"requests": 1, "rate_limited": 0, "faults": 0, "deliveries": 3000}
    assert get("/segment")["kept"] == 1
    assert "events" not in get("/segment")
    assert get("/segment?events=1")["events"] == sandbox.segment.kept
    faults = [{"side": "customerio", "kind": "500"}, {"side": "segment", "kind": "413"}]
    requests.post(url + "/faults", json=faults, timeout=10)
    assert (ask(sandbox).status_code, post(sandbox).status_code) == (500, 413)
    assert requests.post(url + "/faults", json=[{"side": "x"}], timeout=10).status_code == 400
    answer = requests.post(url + "/settings", json={"null_when_empty": True, "scopes": []}, timeout=10)
    assert answer.json()["null_when_empty"] is True
    changes = {"order": "nearly", "visible_after": 60, "odd_kinds": ["delivery:null"], "cursor_lifetime": 9}
    answer = requests.post(url + "/settings", json=changes, timeout=10)
    assert answer.json().items() >= changes.items()
    assert sandbox.settings.ordering == ("nearly", 0.01, 60)
    assert ask(sandbox).status_code == 403
    assert requests.post(url + "/settings", json={"nothing": 1}, timeout=10).status_code == 400
    requests.post(url + "/reset", timeout=10)
    assert get("/segment")["requests"] == get("/customerio")["requests"] == sandbox.segment.kept_count == 0


def test_the_command() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.sandbox",
        "--port",
        "0",
        "--deliveries",
        "30",
        "--write-key",
        "k" * 32,
        *"--limiter sliding_second --other-client 2 --arrival-jitter 0.1".split(),
        *"--order nearly --displaced 0.5 --displaced-by 9".split(),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = json.loads(process.stdout.readline())
        assert said == {"url": said["url"], "app_key": KEY, "write_key": "k" * 32}
        truth = requests.get(said["url"] + "/_sandbox/truth", timeout=5).json()["events"]
        assert truth[0]["time"] >= START
        settings = requests.get(said["url"] + "/_sandbox/settings", timeout=5).json()
        assert (settings["limiter"], settings["other_client"], settings["arrival_jitter"]) == ("sliding_second", 2, 0.1)
        assert (settings["order"], settings["displaced"], settings["displaced_by"]) == ("nearly", 0.5, 9)
        process.terminate()
        assert process.wait(5) == 0
        assert exports(said["url"], KEY, "k" * 32) == [
            line for line in process.stderr.read().splitlines() if line.startswith("export ")
        ]

"""Check the sandbox's reporting webhooks: bodies, and the sender's reaction to each answer (reference/stream.md)."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tests.sandbox import History, Sandbox
from tests.sandbox.catalog import COLLECTIONS
from tests.sandbox.delivery import REPEATED
from tests.sandbox.reports import EVENTS, REPORTED, UNLISTED, Habits, Report, Subscription, reports
from tests.sandbox.webhooks import LONG_STATUSES, SIGNING_KEY, Call, Calling, Sender, sign

DAY = 86_400
#: An hour of the sender's waits is 3.6 milliseconds.
FAST = 1_000_000.0
#: Keys that each schema requires beside those of the origin (reference/stream.md B.3, bold), by object type.
REQUIRED = {
    "email": {
        "drafted sent delivered opened clicked converted unsubscribed spammed": "recipient",
        "drafted sent delivered clicked converted unsubscribed spammed bounced dropped failed undeliverable": "subject",
        "bounced dropped undeliverable failed": "recipient failure_message",
        "attempted": "failure_message",
        "clicked": "href link_id",
    },
    "sms": {
        "sent delivered clicked converted bounced": "recipient",
        "attempted bounced failed undeliverable": "failure_message",
        "clicked": "href link_id",
        "replied": "inbound_event_id to recipient",
    },
    "whatsapp": {
        "sent delivered opened clicked converted bounced dropped": "recipient",
        "attempted bounced dropped failed undeliverable": "failure_message",
        "clicked": "href link_id",
        "replied": "inbound_event_id to recipient",
    },
    "push": {
        "sent delivered opened clicked converted bounced dropped": "recipients",
        "attempted failed undeliverable": "failure_message",
        "clicked": "href link_id",
    },
}
ELSEWHERE = {
    "sent clicked": "recipient",
    "attempted failed undeliverable": "failure_message",
    "clicked": "href link_id",
}
REQUIRED |= dict.fromkeys(("in_app", "slack", "webhook"), ELSEWHERE)
ORIGINS = [
    {"campaign_id", "action_id", "journey_id", "parent_action_id", "trigger_event_id"},
    {"broadcast_id", "trigger_id", "action_id", "journey_id", "parent_action_id"},
    {"newsletter_id", "content_id"},
    {"transactional_message_id"},
]
OF_ORIGINS = set().union(*ORIGINS)


@pytest.fixture(scope="module")
def history() -> History:
    return History.generate(seed=5, deliveries=3000, burst=0.2, tried_drafts=0.3, same_second=0.1)


def bodies(found: Sequence[Report]) -> list[dict[str, Any]]:
    return [json.loads(report.body) for report in found]


# --- the bodies -------------------------------------------------------------------------------------------------


def test_each_occurrence_is_one_report(history: History) -> None:
    expected = Counter((one.delivery_id, one.metric, one.time) for one in history.truth(drafts=True))
    found = [report for report in reports(history) if report.delivery_id is not None]
    assert Counter((one.delivery_id, one.metric, one.time) for one in found) == expected
    assert all(one.first for one in found)
    assert {one.metric for one in found} >= {"opened", "clicked", "drafted", "replied", "deferred"}


def test_full_resolution(history: History) -> None:
    expected = Counter(
        (one.delivery_id, one.metric, one.time, one.first) for one in history.truth(drafts=True, every=True)
    )
    found = reports(history, Subscription(full_resolution=True))
    told = Counter((one.delivery_id, one.metric, one.time, one.first) for one in found if one.delivery_id)
    assert told == expected
    assert sum(not one.first for one in found) > 500
    assert {one.metric for one in found if not one.first} == set(REPEATED)


def test_envelope_describes_the_object(history: History) -> None:
    found = reports(history, Subscription(full_resolution=True))
    assert [one.time for one in found] == sorted(one.time for one in found)
    assert len({one.event_id for one in found}) == len(found)
    for report, body in zip(found, bodies(found), strict=True):
        assert set(body) == {"event_id", "object_type", "metric", "timestamp", "data"}
        assert (body["metric"], body["timestamp"], body["event_id"]) == (report.metric, report.time, report.event_id)
        assert len(report.event_id) == 26
        minted = milliseconds(report.event_id) - report.time * 1000
        assert 80 <= minted <= 2200


def milliseconds(ulid: str) -> int:
    value = 0
    for letter in ulid[:10]:
        value = value * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(letter)
    return value


def test_metrics_have_schema_keys(history: History) -> None:
    found = [report for report in reports(history) if report.delivery_id]
    seen = set()
    for report, body in zip(found, bodies(found), strict=True):
        kind, metric, data = body["object_type"], body["metric"], body["data"]
        assert report.event == f"{kind}_{metric}"
        seen.add(report.event)
        assert data["delivery_id"] == report.delivery_id
        assert isinstance(data["identifiers"], dict)
        assert "customer_id" in data
        assert data["customer_id"] is not None
        assert set(data) & OF_ORIGINS in ORIGINS
        required = {
            key for metrics, keys in REQUIRED[kind].items() if metric in metrics.split() for key in keys.split()
        }
        assert required <= set(data), report.event
        assert not {"content", "headers"} & set(data)
        optional = {"proxied", "prefetched", "synthetic", "machine", "tracked_response", "delivery_id", "identifiers"}
        assert set(data) - OF_ORIGINS - optional - {"customer_id"} - required <= {"subject", "recipient"}
    assert seen >= {f"{kind}_{metric}" for kind in REQUIRED for metric in ("sent", "clicked")}
    assert len(seen) > 60


def test_values_match_the_app_api(history: History) -> None:
    rows = {row["id"]: (row, engagements) for row, engagements in history.with_engagements()}
    found = [report for report in reports(history, Subscription(full_resolution=True)) if report.delivery_id]
    links: Counter[str] = Counter()
    for report, body in zip(found, bodies(found), strict=True):
        row, engagements = rows[str(report.delivery_id)]
        data = body["data"]
        assert data["identifiers"] == (row["customer_identifiers"] or {})
        assert data["customer_id"] == ("" if row["customer_id"] is None else row["customer_id"])
        for key in ("subject", "recipient", "failure_message"):
            assert data.get(key, row[key] or "") == (row[key] or "")
        for key in ("campaign_id", "newsletter_id", "broadcast_id", "transactional_message_id", "action_id"):
            assert data.get(key) == row[key]
        if "recipients" in data:
            assert data["recipients"][0]["device_id"] == (row["recipient"] or "")
            assert ("failure_message" in data["recipients"][0]) == (report.metric in ("bounced", "dropped"))
        if report.metric == "clicked":
            [*_, last] = [one for one in engagements if one.metric == "clicked" and one.time == report.time]
            links[data["href"]] += 1
            assert data["href"] in {one.link for one in engagements}
            assert last.link is not None
    assert len(links) > 3


def test_events_match_the_app_api() -> None:
    """Compare with the App API's list, in its order, though the objects are in another order."""
    email = "drafted attempted sent delivered opened clicked converted bounced dropped deferred spammed failed"
    sms = "drafted attempted sent delivered clicked converted bounced dropped failed undeliverable replied"
    short = "drafted attempted sent clicked converted failed"
    listed = {
        "customer": "subscribed unsubscribed subscription_preferences_changed",
        "email": f"{email} unsubscribed undeliverable",
        "in_app": f"{short} opened undeliverable",
        "push": "drafted attempted sent delivered opened clicked converted bounced dropped failed undeliverable",
        "slack": short,
        "sms": sms,
        "whatsapp": f"{sms} opened",
        "webhook": f"{short} undeliverable",
    }
    assert set(EVENTS) == {f"{kind}_{metric}" for kind, metrics in listed.items() for metric in metrics.split()}
    assert {*EVENTS, UNLISTED} == set(REPORTED)
    assert len(EVENTS) == len(set(EVENTS)) == len(COLLECTIONS) + 3 - 1


def test_only_subscribed_events(history: History) -> None:
    found = reports(history, Subscription(events=["email_opened", "sms_replied"]))
    assert {report.event for report in found} == {"email_opened", "sms_replied"}
    assert reports(history, Subscription(disabled=True)) == []


def test_content_is_sent_on_request(history: History) -> None:
    events = [event for event in EVENTS if event.endswith(("sent", "bounced", "preferences_changed"))]
    found = reports(history, Subscription(with_content=True, events=events))
    for report, body in zip(found, bodies(found), strict=True):
        data = body["data"]
        if report.metric == "sent":
            assert len(data["content"]) >= 280
            assert ("headers" in data) == (body["object_type"] == "email")
            if body["object_type"] in ("push", "webhook"):
                assert isinstance(json.loads(data["content"]), dict)
        elif report.metric != "cio_subscription_preferences_changed":
            assert not {"content", "headers"} & set(data)


def test_customer_events_by_shape(history: History) -> None:
    found = [report for report in reports(history) if report.delivery_id is None]
    assert {report.metric for report in found} == {
        "subscribed",
        "unsubscribed",
        "cio_subscription_preferences_changed",
    }
    for report, body in zip(found, bodies(found), strict=True):
        assert "email_address" in body["data"]
        assert ("delivery_id" in body["data"]) == (report.metric == "cio_subscription_preferences_changed")
    assert {body["object_type"] for body in bodies(found)} == {"customer", "email"}
    slip = reports(
        history,
        Subscription(events=["customer_subscription_preferences_changed"]),
        Habits(preferences_key="object_type_type"),
    )
    assert all("object_type" not in body and "object_type_type" in body for body in bodies(slip))
    assert slip


def test_habits(history: History) -> None:
    plain = reports(history)
    odd = reports(history, None, Habits(bare=True, unknown_keys=True, unknown_metrics=True))
    extra = {report.metric for report in odd} - {report.metric for report in plain}
    assert extra == {"topic_unsubscribed", "secondary:delivered"}
    assert {body["api_version"]["major"] for body in bodies(odd)} == {2}
    opened = [body["data"] for body in bodies(odd) if body["metric"] == "opened"]
    assert not any({"subject", "prefetched"} & set(data) for data in opened)
    assert not {report.event_id for report in plain} & {row["id"] for row in history.activities.rows()}


def test_what_repeats_and_what_is_odd_are_habits_too(history: History) -> None:
    events = ["sms_replied", "push_sent"]
    plain = reports(history, Subscription(events=events))
    found = reports(history, Subscription(events=events), Habits(second_answers=True, two_devices=True))
    answers = [body["data"] for body in bodies(found) if body["metric"] == "replied"]
    assert len(answers) == 2 * sum(report.metric == "replied" for report in plain)
    assert len({data["inbound_event_id"] for data in answers}) == len(answers)
    assert all(len(body["data"]["recipients"]) == 2 for body in bodies(found) if body["metric"] == "sent")
    odd = bodies(reports(history, None, Habits(odd_kinds=True)))
    assert {type(body["timestamp"]) for body in odd} == {str, float}
    assert {body["data"].get("subject", 7) for body in odd} == {7}


def test_history_of_given_rows() -> None:
    row = {"id": "one", "type": "twilio", "created": 1_800_000_000, "metrics": {"clicked": 1_800_000_060}}
    [report] = reports(History([row]))
    assert json.loads(report.body) | {"event_id": ""} == {
        "metric": "clicked",
        "event_id": "",
        "object_type": "sms",
        "timestamp": 1_800_000_060,
        "data": {
            "customer_id": "",
            "identifiers": {},
            "delivery_id": "one",
            "recipient": "",
            "href": "https://example.com/",
            "link_id": json.loads(report.body)["data"]["link_id"],
        },
    }


# --- the calls --------------------------------------------------------------------------------------------------


class Receiver:
    """Small ASGI application that answers as it is told, and remembers its requests.

    :param answers: what the next calls get: a status, or seconds to wait before 204; 204 when they are used up.
    :param until: the number of a call, in the order of arrival -> so many have to be there before it is answered.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.answers: list[int | float] = []
        self.until: dict[int, int] = {}
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.clients: set[Any] = set()
        self.most_at_once = self._now = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        answer = self.answers.pop(0) if self.answers else 204
        number = len(self.got)
        self.got.append((headers | {":method": scope["method"], ":path": scope["path"]}, body))
        self.clients.add(scope["client"])
        while len(self.got) < self.until.get(number, 0):
            await asyncio.sleep(0.001)
        status = 204
        if isinstance(answer, float):
            await asyncio.sleep(answer)
        else:
            status = answer
        self._now -= 1
        text = b"" if status == 204 else b"no"
        length = [(b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": status, "headers": length})
        await send({"type": "http.response.body", "body": text})


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Receiver, str]]:
    receiver = Receiver()
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(receiver, lifespan="off", log_level="critical", ws="none", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield receiver, f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
    server.should_exit = True
    thread.join(10)
    listener.close()


@pytest.fixture
def receiver(running: tuple[Receiver, str]) -> Receiver:
    running[0].reset()
    return running[0]


@pytest.fixture
def url(running: tuple[Receiver, str], receiver: Receiver) -> str:
    return running[1]


def some(count: int) -> list[Report]:
    return [
        Report("email_sent", at, f"{at:026}", str(at), "sent", True, b'{"event_id":"%026d","n":%d}' % (at, at))
        for at in range(count)
    ]


def numbers(receiver: Receiver) -> list[int]:
    return [json.loads(body)["n"] for _, body in receiver.got]


def test_signature_vectors() -> None:
    body = b'{"event_id":"abc","object_type":"email","metric":"delivered"}'
    expected = "6f55cf23f9b73a2ff07733fe04421f64ce9ec5e409696edda6b2a80311944230"
    assert sign("signing-secret", "1614265384", body) == expected
    body = (
        b'{"metric":"sent","event_id":"01E4C4CT6YDC7Y5M7FE1GWWPQJ","object_type":"email","timestamp":1613063089,'
        b'"data":{"delivery_id":"RPILAgUBcRhIBqSfeiIwdIYJKxTY","recipient":"test@example.com"}}'
    )
    expected = "63275a6a6296f8b681f885b6d09ff7a4f093092249efbc0db0f7100e2b456149"
    assert sign("cio_test_signing_key", "1613063089", body) == expected


def test_call_is_a_signed_post(url: str, receiver: Receiver, history: History) -> None:
    found = reports(history)[:50]
    calls = Sender(url).push(found)
    assert [body for _, body in receiver.got] == [report.body for report in found]
    for headers, body in receiver.got:
        assert (headers[":method"], headers[":path"], headers["content-type"]) == ("POST", "/hook", "application/json")
        assert abs(int(headers["x-cio-timestamp"]) - time.time()) < 60
        assert headers["x-cio-signature"] == sign(SIGNING_KEY, headers["x-cio-timestamp"], body)
    assert all(call.accepted and call.attempt == 1 and call.wait is None for call in calls)
    assert len(receiver.clients) == 1
    assert receiver.most_at_once == 1


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_moves_on(url: str, receiver: Receiver, status: int) -> None:
    receiver.answers = [status]
    assert [call.status for call in Sender(url).push(some(2))] == [status, 204]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 410, 429, 500, 502, 521])
def test_some_statuses_cost_an_hour(url: str, receiver: Receiver, status: int) -> None:
    receiver.answers = [status] * 2
    calls = Sender(url, Calling(speed=FAST)).push(some(2))
    assert [(call.status, call.wait) for call in calls] == [(status, 3600), (status, 3600), (204, None), (204, None)]
    assert numbers(receiver) == [0, 0, 0, 1]
    assert len(LONG_STATUSES) == 11


@pytest.mark.parametrize("status", [301, 302, 304, 408, 413, 418, 422, 501, 503, 504])
def test_other_statuses_back_off(url: str, receiver: Receiver, status: int) -> None:
    receiver.answers = [status] * 4
    calls = Sender(url, Calling(speed=FAST, first_wait=5, factor=3)).push(some(2))
    assert [call.wait for call in calls] == [5, 15, 45, 135, None, None]
    assert [call.attempt for call in calls] == [1, 2, 3, 4, 5, 1]
    assert numbers(receiver) == [0] * 5 + [1]


def test_speed_shortens_waits(url: str, receiver: Receiver) -> None:
    receiver.answers = [500]
    first, second = Sender(url, Calling(speed=3600 / 0.3)).push(some(1))
    assert second.began - first.began >= 0.3


def test_timeout_leads_to_a_duplicate(url: str, receiver: Receiver) -> None:
    receiver.answers = [30.0]
    calls = Sender(url, Calling(speed=FAST, timeout=2, first_wait=7)).push(some(2))
    assert [(call.status, call.problem, call.wait) for call in calls] == [
        (None, "time-out", 7),
        (204, "", None),
        (204, "", None),
    ]
    assert calls[0].seconds >= 2
    assert numbers(receiver) == [0, 0, 1]
    assert Calling().timeout == 4


def test_give_up_after_seven_days(url: str, receiver: Receiver) -> None:
    receiver.answers = [400] * 16
    calls = Sender(url, Calling(speed=1e9)).push(some(2))
    assert [call.given_up for call in calls] == [False] * 15 + [True, False]
    assert numbers(receiver) == [0] * 16 + [1]
    waits = [call.wait for call in calls if call.wait]
    assert waits[:9] == [3600] * 9
    assert waits[9:] == [5120, 10240, 20480, 40960, 81920, 163840]


@contextmanager
def peer(serve: Callable[[socket.socket], None], times: int) -> Iterator[str]:
    """Serve on the bare socket, for this many connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            for _ in range(times):
                connection, _ = listener.accept()
                with connection:
                    serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(10)
        assert not thread.is_alive()


def hang_up(connection: socket.socket) -> None:
    connection.recv(65536)


def hang_up_in_the_middle(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")


def reset(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def nonsense(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"220 mail.example.com ESMTP\r\n\r\n")


@pytest.mark.parametrize(
    ("serve", "problem", "wait"),
    [
        (hang_up, "EOF", 3600),
        (hang_up_in_the_middle, "EOF", 3600),
        (reset, "reset", 3600),
        (nonsense, "no HTTP: ValueError", 10),
    ],
)
def test_invalid_answer(serve: Callable[[socket.socket], None], problem: str, wait: float) -> None:
    with peer(serve, 2) as url:
        first, last = Sender(url, Calling(speed=FAST, give_up_after=wait * 1.5)).push(some(1))
    assert (first.status, first.problem, first.wait) == (None, problem, wait)
    assert last.given_up


def chunked(connection: socket.socket) -> None:
    connection.recv(65536)
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    connection.sendall(answer)
    connection.recv(65536)
    connection.sendall(b"HTTP/1.0 202 Accepted\r\n\r\nuntil the end")


def test_answers_of_other_servers() -> None:
    with peer(chunked, 1) as url:
        assert [call.status for call in Sender(url).push(some(2))] == [200, 202]


def test_refused_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    [first, *_] = Sender(url, Calling(speed=FAST, give_up_after=5000)).push(some(1))
    assert (first.problem, first.wait) == ("refused", 3600)


def test_unknown_host() -> None:
    [first, *_] = Sender("http://nowhere.invalid/", Calling(speed=FAST, give_up_after=5000)).push(some(1))
    assert (first.problem, first.wait) == ("unknown host", 3600)


def test_untrusted_certificate() -> None:
    with Sandbox(tls=True) as sandbox:
        [first, *_] = Sender(sandbox.url, Calling(speed=FAST, give_up_after=5000)).push(some(1))
        trusting = ssl.create_default_context(cafile=sandbox.ca_file)
        [reached, *_] = Sender(sandbox.url, Calling(speed=FAST, give_up_after=1), tls=trusting).push(some(1))
    assert (first.problem, first.wait) == ("x509", 3600)
    assert reached.status == 404


def test_closed_connection_is_reopened() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with peer(answer, 2) as url:
        assert [call.status for call in Sender(url, Calling(per_second=20)).push(some(2))] == [204, 204]


# --- what is a setting ------------------------------------------------------------------------------------------


def test_failing_call_holds_others(url: str, receiver: Receiver) -> None:
    # The first fails when all four are there; the other three are answered when it fails again.
    receiver.answers = [503, 204, 204, 204, 503]
    receiver.until = {0: 4, 1: 5, 2: 5, 3: 5}
    calls = Sender(url, Calling(speed=100, in_flight=4)).push(some(12))
    assert receiver.most_at_once == 4
    got = numbers(receiver)
    assert sorted(got[:4]) == [0, 1, 2, 3]
    assert got[4:6] == [got[0]] * 2
    assert sorted(got[6:]) == list(range(4, 12))
    assert sum(call.accepted for call in calls) == 12


def test_duplicates(url: str, receiver: Receiver) -> None:
    calls = Sender(url, Calling(duplicates=0.5)).push(some(200))
    times = Counter(numbers(receiver))
    assert set(times) == set(range(200))
    assert set(times.values()) == {1, 2}
    assert 60 < sum(count == 2 for count in times.values()) < 140
    assert sum(call.again for call in calls) == sum(count == 2 for count in times.values())
    places = {number: [at for at, one in enumerate(numbers(receiver)) if one == number] for number in times}
    assert {second - first == 1 for first, second in (at for at in places.values() if len(at) == 2)} == {True, False}


def test_disorder(url: str, receiver: Receiver) -> None:
    Sender(url, Calling(disorder=5)).push(some(100))
    got = numbers(receiver)
    assert sorted(got) == list(range(100)) != got
    assert max(abs(number - at) for at, number in enumerate(got)) <= 10


def test_retry_is_signed_anew(url: str, receiver: Receiver) -> None:
    """The body stays, with the `event_id`."""
    receiver.answers = [503]
    Sender(url, Calling(speed=10 / 1.1)).push(some(1))
    first, second = (int(headers["x-cio-timestamp"]) for headers, _ in receiver.got)
    assert second > first
    assert len({body for _, body in receiver.got}) == 1
    for headers, body in receiver.got:
        assert headers["x-cio-signature"] == sign(SIGNING_KEY, headers["x-cio-timestamp"], body)


def test_a_rate(url: str, receiver: Receiver) -> None:
    began = time.monotonic()
    Sender(url, Calling(per_second=50, in_flight=8)).push(some(26))
    assert time.monotonic() - began >= 0.5


def test_calls_are_remembered(url: str) -> None:
    sender = Sender(url)
    first: list[Call] = sender.push(some(1))
    assert len(first + sender.push(some(2))) == len(sender.calls) == 3


def test_waiting_sender_can_be_stopped(url: str, receiver: Receiver) -> None:
    receiver.answers = [204, 500]
    sender = Sender(url, Calling(in_flight=2))
    stopped_when(lambda sender: any(call.wait for call in sender.calls), sender, some(9))
    assert len(sender.calls) < 9
    assert sum(not call.accepted for call in sender.calls) == 1


def stopped_when(true: Callable[[Sender], bool], sender: Sender, found: list[Report]) -> None:
    """Run the sender until the condition is true."""

    async def run() -> None:
        running = asyncio.create_task(sender.run(found))
        while not true(sender):
            await asyncio.sleep(0.001)
        sender.stop()
        await asyncio.wait_for(running, 10)

    asyncio.run(run())

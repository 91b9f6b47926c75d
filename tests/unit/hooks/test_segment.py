from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from airflow_provider_cio.exceptions import ConfigurationError, EventsRefusedError
from airflow_provider_cio.hooks.segment import SegmentHook, SegmentSettings
from airflow_provider_cio.pipeline import ticker
from tests.airflow_names import AIRFLOW, MASKS, redact
from tests.sandbox import Fault, Sandbox, Settings
from tests.sandbox.settings import WRITE_KEY

KEY = "writeKey0123456789abcdef"
Put = Callable[..., SegmentHook]


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Put:
    """Define the connection `its_id` as a user would, and give its hook."""

    def put(uri: str | None = None, **fields: Any) -> SegmentHook:
        value = uri or json.dumps({"conn_type": "segment_source", "password": KEY, **fields})
        monkeypatch.setenv("AIRFLOW_CONN_ITS_ID", value)
        return SegmentHook(segment_conn_id="its_id")

    return put


def error_of(hook: SegmentHook) -> str:
    with pytest.raises(ConfigurationError) as caught:
        _ = hook.settings, hook.message_id_namespace
    assert KEY not in str(caught.value)
    assert str(caught.value).startswith("Connection 'its_id': ")
    return str(caught.value).removeprefix("Connection 'its_id': ")


# --- reading the connection -------------------------------------------------------------------------------------


def test_the_defaults(put: Put) -> None:
    assert put().settings == SegmentSettings(
        write_key=KEY,
        base_url="https://api.segment.io",
        path="/v1/batch",
        compress=False,
        events_per_second=1000,
        timeout=60,
    )


def test_every_field_in_json(put: Put) -> None:
    extra = {"region": "eu", "path": "/v2", "gzip": True, "events_per_second": 0, "timeout": 5}
    assert put(host="http://127.0.0.1", port=8431, extra=extra).settings == SegmentSettings(
        write_key=KEY,
        base_url="http://127.0.0.1:8431",
        path="/v2",
        compress=True,
        events_per_second=0,
        timeout=5,
    )


def test_every_field_in_the_uri_form(put: Put) -> None:
    query = "region=eu&path=%2Fv2&gzip=true&events_per_second=0&timeout=5&message_id_namespace=mine"
    hook = put(f"segment-source://:{KEY}@/?{query}")
    assert hook.settings == SegmentSettings(
        write_key=KEY,
        base_url="https://events.eu1.segmentapis.com",
        path="/v2",
        compress=True,
        events_per_second=0,
        timeout=5,
    )
    assert hook.message_id_namespace == "mine"
    assert put(f"segment-source://http://:{KEY}@127.0.0.1:8431").settings.base_url == "http://127.0.0.1:8431"
    assert put(f"segment-source://:{quote('a/b+c==', safe='')}@").settings.write_key == "a/b+c=="


def test_connection_is_read_once(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_ITS_ID", raising=False)
    hook = SegmentHook(segment_conn_id="its_id")  # there is none yet
    put(extra={"timeout": 5, "message_id_namespace": "first"})
    assert hook.settings.timeout == 5
    put(extra={"timeout": 6, "message_id_namespace": "second"})
    assert hook.settings.timeout == 5
    assert hook.message_id_namespace == "first"
    with hook.get_conn() as client, hook.get_conn() as another:
        assert another is not client


def test_the_default_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SEGMENT_DEFAULT", f"segment-source://:{KEY}@")
    assert SegmentHook().settings.write_key == KEY


@pytest.mark.parametrize("password", [None, ""])
def test_key_of_the_older_provider(put: Put, password: str | None) -> None:
    hook = put(password=password, extra={"write_key": " olderKey0123456789 "})
    assert hook.settings.write_key == "olderKey0123456789"
    assert redact("the key is olderKey0123456789!") == "the key is ***!"


def test_the_password_comes_first(put: Put) -> None:
    assert put(extra={"write_key": "olderKey0123456789"}).settings.write_key == KEY


@pytest.mark.parametrize(("value", "meant"), [("10", 10), (" 10 ", 10), ("1e1", 10), (10.0, 10), ("2.5", 2.5)])
@pytest.mark.parametrize("name", ["timeout", "events_per_second"])
def test_a_number_may_be_text(put: Put, name: str, value: Any, meant: float) -> None:
    assert getattr(put(extra={name: value}).settings, name) == meant


@pytest.mark.parametrize("value", [0, "0", 0.0])
def test_no_limit_of_events(put: Put, value: Any) -> None:
    assert put(extra={"events_per_second": value}).settings.events_per_second == 0


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        *((yes, True) for yes in (True, "true", "True", " TRUE ", "1", "yes", 1)),
        *((no, False) for no in (False, "false", "False", "0", "no", 0, "", None)),
    ],
)
def test_a_flag_may_be_text(put: Put, value: Any, meant: bool) -> None:
    assert put(extra={"gzip": value}).settings.compress is meant


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("name", ["region", "path", "gzip", "events_per_second", "timeout", "message_id_namespace"])
def test_empty_field_has_its_default(put: Put, name: str, value: Any) -> None:
    hook, plain = put(extra={name: value}), put()
    assert hook.settings == plain.settings
    assert hook.message_id_namespace == plain.message_id_namespace


# --- the namespace ----------------------------------------------------------------------------------------------


def namespace(put: Put, **fields: Any) -> str:
    return put(**fields).message_id_namespace


def test_namespace_comes_from_the_key(put: Put) -> None:
    derived = namespace(put)
    assert derived == namespace(put, host="http://elsewhere", extra={"region": "eu"})
    assert derived == namespace(put, password=None, extra={"write_key": KEY})
    assert derived == namespace(put, password=f" {KEY}\n")
    assert derived != namespace(put, password=KEY + "1")
    assert KEY not in derived


def test_namespace_rule_is_fixed(put: Put) -> None:
    """The literal is a promise: another rule would give every event a new `messageId`."""
    assert namespace(put, password="abc") == "4e336e67fda112150ab737c668ac472749ce36c7ebaff40a32543cd291aa030a"


def test_set_namespace_outlives_key(put: Put) -> None:
    assert namespace(put, extra={"message_id_namespace": " mine "}) == "mine"
    assert namespace(put, password="another", extra={"message_id_namespace": "mine"}) == "mine"


def test_blank_namespace_is_ignored(put: Put) -> None:
    """Two sources with a blank namespace would share their `messageId`s, and Segment would drop the events of one."""
    try:
        found = namespace(put, extra={"message_id_namespace": "  "})
    except ConfigurationError:
        return  # as good
    assert found == namespace(put)


# --- what is wrong with it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("region", ["mars", "  ", 1, True, False, ["eu"], {"name": "eu"}])
def test_a_wrong_region(put: Put, region: Any) -> None:
    assert error_of(put(extra={"region": region})).startswith("region must be 'us' or 'eu', got ")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("fast", "a string"),
        ("nan", "a number outside that range"),
        ("-1", "a number outside that range"),
        (-1, "a number outside that range"),
        (float("nan"), "a number outside that range"),
        (float("inf"), "a number outside that range"),
        (1e-12, "a number outside that range"),
        (1e10, "a number outside that range"),
        (True, "true or false"),
        ([10], "a list"),
        ({"seconds": 10}, "an object"),
    ],
)
@pytest.mark.parametrize(
    ("name", "wanted"),
    [("timeout", "seconds from 0.1 to 600"), ("events_per_second", "events from 0.1 to 100000 (0: no limit)")],
)
def test_a_wrong_number(put: Put, name: str, wanted: str, value: Any, kind: str) -> None:
    assert error_of(put(extra={name: value})) == f"{name} must be a number of {wanted}, got {kind}."


@pytest.mark.parametrize("value", [0, "0"])
def test_timeout_must_be_positive(put: Put, value: Any) -> None:
    assert error_of(put(extra={"timeout": value})).startswith("timeout must be a number of seconds from 0.1 to 600")


@pytest.mark.parametrize(
    ("value", "kind"),
    [("maybe", "a string"), ("on-ish", "a string"), (2, "a number"), ([], "an empty list"), ({}, "an object")],
)
def test_a_wrong_flag(put: Put, value: Any, kind: str) -> None:
    assert error_of(put(extra={"gzip": value})) == f"gzip must be true or false, got {kind}."


@pytest.mark.parametrize("path", ["v1/batch", "https://example.com/v1"])
def test_a_path_without_its_slash(put: Put, path: str) -> None:
    error = error_of(put(extra={"path": path}))
    assert error == "path must start with a slash, such as '/v1/batch'."


@pytest.mark.parametrize("name", ["path", "message_id_namespace", "write_key"])
@pytest.mark.parametrize(("value", "kind"), [(5, "a number"), (["/v1"], "a list"), (True, "true or false")])
def test_wrong_text(put: Put, name: str, value: Any, kind: str) -> None:
    password = None if name == "write_key" else KEY
    assert error_of(put(password=password, extra={name: value})) == f"{name} must be text, got {kind}."


@pytest.mark.parametrize("fields", [{}, {"extra": {"write_key": ""}}, {"extra": {"write_key": "  "}}])
@pytest.mark.parametrize("password", [None, "", "  "])
def test_no_key(put: Put, password: str | None, fields: dict[str, Any]) -> None:
    assert error_of(put(password=password, **fields)).startswith("password is empty. Put the write key of the source")


@pytest.mark.parametrize("key", ["two words", "ключ", "tab\there"])
@pytest.mark.parametrize("where", ["password", "write_key"])
def test_malformed_key(put: Put, where: str, key: str) -> None:
    hook = put(password=key) if where == "password" else put(password=None, extra={"write_key": key})
    error = error_of(hook)
    assert error.startswith(f"{where} must be one word of plain ASCII")
    assert key not in error


MASKED = "holds a mask such as '***', which Airflow shows in place of the value. Enter the value again."


@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_is_no_write_key(put: Put, mask: str) -> None:
    assert error_of(put(password=mask)) == f"password {MASKED}"
    assert error_of(put(password=mask, extra={"write_key": KEY})) == f"password {MASKED}"
    assert error_of(put(password="", extra={"write_key": mask})) == f"write_key {MASKED}"
    ok, message = pressed(put(password=mask))
    assert (ok, message) == (False, f"Connection 'its_id': password {MASKED}")


@pytest.mark.parametrize("name", ["region", "path", "gzip", "events_per_second", "timeout", "message_id_namespace"])
def test_a_mask_is_no_setting(put: Put, name: str) -> None:
    assert error_of(put(extra={name: "***"})) == f"{name} {MASKED}"


@pytest.mark.skipif(AIRFLOW < (3, 2), reason="Airflow 3.0 and 3.1 refuse such a connection themselves: not found")
@pytest.mark.parametrize("extra", ['{"region": "eu"', '["eu"]', '"eu"', "5"])
def test_malformed_extra(put: Put, extra: str) -> None:
    assert error_of(put(extra=extra)).startswith("extra must be a JSON object, got ")


@pytest.mark.parametrize("host", ["ftp://example.com", "https://:hidden@example.com", "example.com?key=hidden"])
def test_malformed_host(put: Put, host: str) -> None:
    error = error_of(put(host=host))
    assert error.startswith("host must be a base URL such as 'https://example.com")
    assert "hidden" not in error


# --- the test button --------------------------------------------------------------------------------------------


def pressed(hook: SegmentHook, key: str = WRITE_KEY) -> tuple[bool, str]:
    began = time.monotonic()
    ok, message = hook.test_connection()
    assert time.monotonic() - began < 20  # somebody is looking at the form, and a retry would take longer
    assert type(ok) is bool
    assert key not in message
    return ok, message


@pytest.mark.parametrize("success_body", ["segment", "rudderstack"])
def test_a_connection_that_works(put: Put, sandbox: Sandbox, success_body: Any) -> None:
    sandbox.settings = Settings(success_body=success_body)
    ok, message = pressed(put(host=sandbox.url, password=WRITE_KEY))
    assert ok
    assert message.startswith(f"{sandbox.url}/v1/batch took an empty batch")
    assert sandbox.segment.kept == []
    assert [asked.path for asked in sandbox.segment.requests] == ["/v1/batch"]


def test_unknown_key_is_not_checked(put: Put, sandbox: Sandbox) -> None:
    ok, message = pressed(put(host=sandbox.url, password="unknownKey0123456789"), "unknownKey0123456789")
    assert ok  # Segment answers 200
    assert "Not checked: whether the write key is known" in message


def test_refused_empty_batch(put: Put, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(side="segment", kind="400", body="batch is empty"))
    ok, message = pressed(put(host=sandbox.url, password=WRITE_KEY))
    assert ok
    assert "batch is empty" in message


@pytest.mark.parametrize("kind", ["401", "403"])
def test_rejected_key(put: Put, sandbox: Sandbox, kind: Any) -> None:
    sandbox.faults.add(Fault(side="segment", kind=kind))
    ok, message = pressed(put(host=sandbox.url, password=WRITE_KEY))
    assert not ok
    assert message.startswith(f"Segment (connection 'its_id') answered {kind}")
    assert "write key" in message


def test_unusable_key(put: Put, sandbox: Sandbox) -> None:
    ok, message = pressed(put(host=sandbox.url, password="tooshort"), "tooshort")
    assert not ok
    assert "An invalid write key was provided" in message


def test_missing_path(put: Put, sandbox: Sandbox) -> None:
    ok, message = pressed(put(host=sandbox.url, password=WRITE_KEY, extra={"path": "/v1/nowhere"}))
    assert not ok
    assert f"{sandbox.url}/v1/nowhere was asked" in message


@pytest.mark.parametrize("kind", ["html", "html200", "reset", "429", "503", "timeout"])
def test_failing_service(put: Put, sandbox: Sandbox, kind: Any) -> None:
    sandbox.faults.add(Fault(side="segment", kind=kind, times=9, retry_after=30, seconds=2))
    ok, message = pressed(put(host=sandbox.url, password=WRITE_KEY, extra={"timeout": 0.2}))
    assert not ok
    assert message.startswith("Segment (connection 'its_id') ")
    assert len(sandbox.segment.requests) == 1


def test_refused_connection(put: Put) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    ok, message = pressed(put(host="http://127.0.0.1", port=port))
    assert not ok
    assert "could not be reached" in message


def test_wrong_connection(put: Put) -> None:
    assert pressed(put(extra={"gzip": "maybe"})) == (
        False,
        "Connection 'its_id': gzip must be true or false, got a string.",
    )


def test_missing_connection() -> None:
    ok, message = pressed(SegmentHook(segment_conn_id="nowhere"))
    assert not ok
    assert "'nowhere'" in message


def test_the_client_has_the_settings(put: Put, sandbox: Sandbox) -> None:
    extra = {"gzip": True, "events_per_second": 40}
    with put(host=sandbox.url, password=WRITE_KEY, extra=extra).get_conn() as client:
        began = time.monotonic()
        for n in range(3):
            client.send([b'{"type":"track","event":"e","userId":"1","messageId":"%d%d"}' % (n, m) for m in range(4)])
        assert time.monotonic() - began >= 2 * 4 / 40
    assert sandbox.segment.kept_count == 12


# --- sending plain events ---------------------------------------------------------------------------------------


@pytest.fixture
def hook(put: Put, sandbox: Sandbox) -> SegmentHook:
    return put(host=sandbox.url, password=WRITE_KEY, extra={"events_per_second": 0})


def call(number: int, **fields: Any) -> dict[str, Any]:
    return {"event": "Email Opened", "messageId": f"m{number}", "userId": f"u{number}"} | fields


def ids(sandbox: Sandbox) -> list[str]:
    return [event["messageId"] for event in sandbox.segment.kept]


def test_plain_events_go_as_they_are(hook: SegmentHook, sandbox: Sandbox) -> None:
    event = call(
        1,
        type="track",
        timestamp="2026-11-01T00:00:00Z",
        properties={"delivery_id": "d", "nested": [{"x": None}], "emoji": "\N{GRINNING FACE}"},
        context={"traits": {"email": "a@example.com"}},
        integrations={"Customer.io": False},
        ours="unknown keys pass",
    )
    before = json.dumps(event)
    sent = hook.track([event])
    (kept,) = sandbox.segment.kept
    assert {name: kept[name] for name in event if name != "timestamp"} == {
        name: value for name, value in event.items() if name != "timestamp"
    }
    assert kept["originalTimestamp"] == event["timestamp"]
    assert json.dumps(event) == before
    assert sent.keys() == {"events", "batches", "bytes"}
    assert (sent["events"], sent["batches"]) == (1, 1)


def test_track_fills_in_type_and_times(hook: SegmentHook, sandbox: Sandbox) -> None:
    hook.track([call(1, timestamp=datetime(2026, 11, 1, tzinfo=UTC), anonymousId=None)])
    (kept,) = sandbox.segment.kept
    assert (kept["type"], kept["originalTimestamp"]) == ("track", "2026-11-01T00:00:00Z")


def test_nothing_to_send(hook: SegmentHook, sandbox: Sandbox) -> None:
    assert hook.track([]) == {"events": 0, "batches": 0, "bytes": 0}
    assert sandbox.segment.requests == []


def test_track_batches_an_iterator(hook: SegmentHook, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(side="segment", kind="503", at=0, times=1))
    sent = hook.track(call(number, properties={"x": "x" * 500}) for number in range(6000))
    assert sorted(ids(sandbox)) == sorted(f"m{number}" for number in range(6000))
    assert sent["events"] == 6000
    assert sent["batches"] >= 7
    assert sent["bytes"] > 6000 * 500
    assert len(sandbox.segment.requests) == sent["batches"] + 1


def test_track_says_what_it_waits_for(
    hook: SegmentHook,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ticker, "PROGRESS_EVERY", 0.1)
    sandbox.faults.add(Fault(side="segment", kind="503", retry_after=1))
    hook.track([call(1)])
    log = caplog.text + capsys.readouterr().out  # which of them depends on the version of Airflow
    assert "Segment (connection 'its_id') answered 503" in log


def test_track_can_be_called_again(hook: SegmentHook, sandbox: Sandbox) -> None:
    before = threading.active_count()
    for number in range(20):
        assert hook.track([call(number)])["events"] == 1
    assert len(ids(sandbox)) == 20
    assert threading.active_count() <= before + 2  # the sandbox's own
    hook.track([call(3)])
    assert len(sandbox.segment.duplicates) == 1


@pytest.mark.parametrize("lacking", ["event", "messageId"])
@pytest.mark.parametrize("value", [None, "", 7])
def test_incomplete_event_is_named(hook: SegmentHook, lacking: str, value: Any) -> None:
    """All events can be given again, because those sent before keep their messageId."""
    with pytest.raises(ConfigurationError, match=rf"^Event 2 \(counted from 0\).*'{lacking}'"):
        hook.track([call(0), call(1), call(2, **{lacking: value})])


def test_refused_events_are_named(hook: SegmentHook, sandbox: Sandbox) -> None:
    sandbox.settings = Settings(refuse_containing="POISON")
    wrong: dict[int, dict[str, Any]] = {
        3: {"userId": None},
        4: {"userId": 7},
        5: {"messageId": "m" * 101},
        8: {"messageId": "jane@example.com\n" * 9},
        6: {"properties": {"x": "x" * 40_000}},
        7: {"properties": {"x": "POISON"}},
    }
    with pytest.raises(EventsRefusedError) as caught:
        hook.track(call(number, **wrong.get(number, {})) for number in range(50))
    said = str(caught.value)
    assert said.startswith("6 events can't be sent, all others were: ")
    for part in (
        "unidentified: 1 (first messageIds: m3)",
        "id_not_string: 1 (first messageIds: m4)",
        "message_id_length: 2 (first messageIds: mmm",
        "event_too_large: 1 (first messageIds: m6)",
        "refused_400: 1 (first messageIds: m7)",
    ):
        assert part in said
    assert "jane" not in said
    assert "\n" not in said
    assert sorted(ids(sandbox)) == sorted(f"m{number}" for number in range(50) if number not in wrong)


def test_receivers_error_ends_track(hook: SegmentHook, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(side="segment", kind="401", at=0, times=1000))
    with pytest.raises(ConfigurationError, match=r"'its_id'.* 401"):
        hook.track(call(number) for number in range(10))

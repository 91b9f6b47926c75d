"""`CustomerIOHook.deliveries` and `.activities`, against the sandbox."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec
import psutil
import pytest

from airflow_provider_cio.customerio.client import CustomerIOClient
from airflow_provider_cio.customerio.rows import Activity, Delivery
from airflow_provider_cio.events.occurrence import Malformed
from airflow_provider_cio.exceptions import ConfigurationError, UnexpectedDataError
from airflow_provider_cio.hooks.customerio import CustomerIOHook
from airflow_provider_cio.pipeline import ticker
from tests.sandbox import Fault, History, Sandbox, Settings

DAY = 86_400
START = 1_793_491_200  # 2026-11-01T00:00:00Z
#: Two days of the five, on no round bounds.
FROM, UNTIL = START + DAY + 1234, START + 3 * DAY + 4321
TYPES = ("opened_email", "clicked_email")
Call = Callable[..., Generator[Any]]


@pytest.fixture(scope="module")
def history() -> History:
    return History.generate(seed=3, deliveries=9000, start=START, end=START + 5 * DAY, same_second=0.2)


@pytest.fixture(scope="module")
def running(history: History) -> Iterator[Sandbox]:
    with Sandbox(history) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.reset()
    running.settings = Settings(now=START + 30 * DAY)
    return running


@pytest.fixture
def hook(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> CustomerIOHook:
    fields = {"conn_type": "customerio", "password": sandbox.settings.app_key, "host": sandbox.url}
    extra = {"requests_per_second": 1000}
    monkeypatch.setenv("AIRFLOW_CONN_CUSTOMERIO_DEFAULT", json.dumps(fields | {"extra": extra}))
    return CustomerIOHook()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return a function that returns all that was logged; the version of Airflow decides where to."""
    caplog.set_level(logging.INFO)
    return lambda: caplog.text + capsys.readouterr().out


class Keeping(CustomerIOHook):
    """Hook that keeps its clients, so that the garbage collector does not close any."""

    kept: ClassVar[list[CustomerIOClient]] = []

    def get_conn(self, **kwargs: Any) -> CustomerIOClient:
        client = super().get_conn(**kwargs)
        self.kept.append(client)
        return client


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def rows_of(history: History, kind: str, *, drafts: bool = False) -> list[dict[str, Any]]:
    found = [
        msgspec.json.decode(data) for at, data in enumerate(history.rows.data) if history.rows.is_draft(at) is drafts
    ]
    return [row for row in found if row["type"] == kind and FROM <= row["created"] < UNTIL]


def activities_of(history: History, types: tuple[str, ...] = TYPES) -> list[dict[str, Any]]:
    return [row for row in history.activities.rows() if row["type"] in types and FROM <= row["timestamp"] < UNTIL]


def connections(sandbox: Sandbox) -> int:
    """Return the connections of this process to the sandbox."""
    port = urlsplit(sandbox.url).port
    open_ones = psutil.Process().net_connections("tcp")
    return sum(bool(one.raddr) and one.raddr.port == port and one.status == "ESTABLISHED" for one in open_ones)


def threads() -> int:
    return sum(one.name.startswith(("customerio", "progress")) for one in threading.enumerate())


def soon(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


# --- deliveries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "kind"), [("email", "email"), ("sms", "twilio"), ("twilio", "twilio"), ("slack", "slack")]
)
@pytest.mark.parametrize("drafts", [False, True])
def test_each_delivery_once(hook: CustomerIOHook, history: History, channel: str, kind: str, drafts: bool) -> None:
    expected = rows_of(history, kind, drafts=drafts)
    found = list(hook.deliveries(at(FROM), at(UNTIL), channel=channel, drafts=drafts))
    assert sorted(row.id for row in found) == sorted(row["id"] for row in expected)
    assert all(type(row) is Delivery for row in found)
    one = next(row for row in expected if row["id"] == found[0].id)
    assert (found[0].created, found[0].metrics, found[0].subject) == (one["created"], one["metrics"], one["subject"])
    assert len(found) > (1000 if (kind, drafts) == ("email", False) else 0)


def test_defaults_and_text_times(hook: CustomerIOHook, history: History) -> None:
    found = hook.deliveries(at(FROM).isoformat(), at(UNTIL).strftime("%Y-%m-%dT%H:%M:%SZ"))
    assert Counter(row.id for row in found) == Counter(row["id"] for row in rows_of(history, "email"))


def test_rows_outside_the_bounds_are_not_yielded(hook: CustomerIOHook, sandbox: Sandbox, history: History) -> None:
    sandbox.settings.loose_bounds = 3600
    found = Counter(row.id for row in hook.deliveries(at(FROM), at(UNTIL)))
    assert found == Counter(row["id"] for row in rows_of(history, "email"))


def test_repeated_and_parallel_reads(hook: CustomerIOHook) -> None:
    whole = sorted(row.id for row in hook.deliveries(at(FROM), at(UNTIL)))
    one, two = hook.deliveries(at(FROM), at(UNTIL)), hook.deliveries(at(FROM), at(UNTIL))
    both = [(a.id, b.id) for a, b in zip(one, two, strict=True)]
    assert sorted(a for a, _ in both) == sorted(b for _, b in both) == whole


@pytest.mark.parametrize("kind", ["deliveries", "activities"])
def test_leaving_early_closes(hook: CustomerIOHook, sandbox: Sandbox, kind: str) -> None:
    read: Call = getattr(Keeping(), kind)
    assert soon(lambda: (connections(sandbox), threads()) == (0, 0))
    for _ in range(3):
        rows = read(at(FROM), at(UNTIL))
        assert len(list(islice(rows, 10))) == 10
        assert connections(sandbox) >= 1
        rows.close()
        assert soon(lambda: (connections(sandbox), threads()) == (0, 0))
    for _ in read(at(FROM), at(UNTIL)):  # nobody else has it, so it ends with the loop
        break
    assert soon(lambda: (connections(sandbox), threads()) == (0, 0))
    with pytest.raises(ZeroDivisionError):
        [1 / 0 for _ in read(at(FROM), at(UNTIL))]
    assert soon(lambda: (connections(sandbox), threads()) == (0, 0))


def test_reading_to_the_end_closes(hook: CustomerIOHook, sandbox: Sandbox) -> None:
    rows = Keeping().deliveries(at(FROM), at(UNTIL))
    assert sum(1 for _ in rows) > 1000
    assert soon(lambda: (connections(sandbox), threads()) == (0, 0))


def test_requests_begin_with_iteration(hook: CustomerIOHook, sandbox: Sandbox) -> None:
    hook.deliveries(at(FROM), at(UNTIL))
    hook.activities(at(FROM), at(UNTIL))
    assert sandbox.customerio.requests == []


MEMORY = """
import resource, sys
from airflow_provider_cio.hooks.customerio import CustomerIOHook
def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
count = 0
for row in CustomerIOHook().deliveries("2026-11-01", "2026-11-30"):
    count += 1
    if count == 20_000:
        before = megabytes()
print(count, megabytes() - before)
"""


def test_memory_does_not_grow(hook: CustomerIOHook, sandbox: Sandbox, history: History) -> None:
    """The test measures the last three quarters of 80,000 rows. Kept, they would take 25 MB."""
    sandbox.history = History.generate(
        seed=1, deliveries=80_000, start=START, end=START + 20 * DAY, channels=("email",), lean=True, drafts=0
    )
    try:
        ran = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, timeout=100)
    finally:
        sandbox.history = history
    assert ran.returncode == 0, ran.stderr
    count, grown = ran.stdout.split()[-2:]
    assert int(count) == 80_000
    assert float(grown) < 12


# --- activities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"repeated_rows": 30}, {"activity_disorder": 3000}, {"activities_end": "same_cursor"}]
)
def test_each_activity_once(hook: CustomerIOHook, sandbox: Sandbox, history: History, settings: dict[str, Any]) -> None:
    sandbox.settings = Settings(now=START + 30 * DAY, **settings)
    found = list(hook.activities(at(FROM), at(UNTIL)))
    expected = {row["id"]: row for row in activities_of(history)}
    assert sorted(row.id for row in found) == sorted(expected)
    assert all(type(row) is Activity for row in found)
    assert {row.id: (row.type, row.timestamp, row.delivery_id) for row in found} == {
        id: (row["type"], row["timestamp"], row["delivery_id"]) for id, row in expected.items()
    }
    assert {row.type for row in found} == set(TYPES)
    assert len(found) > 500


def test_other_types(hook: CustomerIOHook, history: History) -> None:
    found = list(hook.activities(at(FROM), at(UNTIL), ["event", "delivered_push", "event"]))
    expected = activities_of(history, ("event", "delivered_push"))
    assert sorted(row.id for row in found) == sorted(row["id"] for row in expected)
    assert {row.type for row in found} == {"event", "delivered_push"}


# --- rows of another shape --------------------------------------------------------------------------------------


def test_malformed_rows_raise_at_end(hook: CustomerIOHook, sandbox: Sandbox, history: History) -> None:
    ids = [row["id"] for row in rows_of(history, "email")]
    odd = {
        ids[0]: "delivery.metrics:null",
        ids[700]: "delivery.created:text",
        **dict.fromkeys(ids[10:16], "delivery.metrics:null"),
    }
    sandbox.settings = Settings(now=START + 30 * DAY, odd_rows=odd)
    found: list[str] = []
    with pytest.raises(UnexpectedDataError) as caught:
        found.extend(row.id for row in hook.deliveries(at(FROM), at(UNTIL)))
    assert Counter(found) == Counter(set(ids) - set(odd))
    said = str(caught.value)
    assert said.startswith("8 of Customer.io's rows do not have the documented shape, all others were passed on: ")
    assert sum(id in said for id in odd) == 5
    assert "Expected `object`, got `null`" in said
    assert "; ..." in said
    assert "on_malformed" in said
    assert "@" not in said


@pytest.mark.parametrize("kind", ["deliveries", "activities"])
def test_malformed_rows_go_to_callback(hook: CustomerIOHook, sandbox: Sandbox, history: History, kind: str) -> None:
    sandbox.settings = Settings(now=START + 30 * DAY, odd_deliveries=0.05, odd_activities=0.05)
    odd: list[Malformed] = []
    read: Call = getattr(hook, kind)
    found = [row.id for row in read(at(FROM), at(UNTIL), on_malformed=odd.append)]
    expected = rows_of(history, "email") if kind == "deliveries" else activities_of(history)
    assert len(odd) > 10
    assert len(found) == len(set(found))
    assert set(found) < {row["id"] for row in expected}
    ids = {one.id for one in odd} & {row["id"] for row in expected}
    assert not ids & set(found)
    assert all(one.problem and one.raw for one in odd)


def test_fields_left_out_are_told(
    hook: CustomerIOHook, sandbox: Sandbox, history: History, logged: Callable[[], str]
) -> None:
    odd = {row["id"]: "delivery.subject:number" for row in rows_of(history, "email")[:3]}
    sandbox.settings = Settings(now=START + 30 * DAY, odd_rows=odd)
    found = list(hook.deliveries(at(FROM), at(UNTIL)))
    assert {row.id: row.left_out for row in found if row.left_out} == dict.fromkeys(odd, ("subject",))
    assert "3 fields of another type than documented" in logged()


def test_activity_has_requested_type(hook: CustomerIOHook, sandbox: Sandbox, history: History) -> None:
    ids = [row["id"] for row in activities_of(history)][:2]
    odd = dict(zip(ids, ("activity.type:number", "activity.type:missing"), strict=True))
    sandbox.settings = Settings(now=START + 30 * DAY, odd_rows=odd)
    found = {row.id: row.type for row in hook.activities(at(FROM), at(UNTIL))}
    assert set(ids) < set(found)
    assert set(found.values()) == set(TYPES)


# --- what is wrong, and what takes long -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["deliveries", "activities"])
@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        ("yesterday", "2026-11-01", "start must be ISO 8601"),
        ("2026-11-01", 7, "end must be a datetime or ISO 8601 text, got a number"),
        ("2026-11-02", "2026-11-01", "ends .* before it starts"),
        ("2026-11-01", "2026-11-01", "zero length"),
        (None, None, "start must be"),
    ],
)
def test_wrong_interval_raises_at_once(kind: str, start: Any, end: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        getattr(CustomerIOHook(customerio_conn_id="nowhere"), kind)(start, end)


def test_other_wrong_parameters() -> None:
    hook: Any = CustomerIOHook(customerio_conn_id="nowhere")
    with pytest.raises(ConfigurationError, match="channel must be one of email, push, sms, .* got 'mail'"):
        hook.deliveries("2026-11-01", "2026-11-02", channel="mail")
    wrong: dict[str, Any] = {"a string": "opened_email", "an empty list": []}
    for kind, types in wrong.items():
        with pytest.raises(ConfigurationError, match=f"types must be a list of names, .* got {kind}"):
            hook.activities("2026-11-01", "2026-11-02", types)


@pytest.mark.parametrize(("days", "warns"), [(181, True), (179, False)])
def test_old_deliveries_warn(
    hook: CustomerIOHook, sandbox: Sandbox, logged: Callable[[], str], days: int, warns: bool
) -> None:
    start = datetime.now(UTC) - timedelta(days=days)
    assert list(hook.deliveries(start, start + timedelta(hours=1))) == []
    said = "Customer.io may show less of those that are more than 180 days old, without a word: compare the counts."
    assert (said in logged()) is warns


def test_waiting_is_logged(
    hook: CustomerIOHook,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[], str],
) -> None:
    assert ticker.PROGRESS_EVERY == 10
    monkeypatch.setattr(ticker, "PROGRESS_EVERY", 0.1)
    sandbox.faults.add(Fault(side="customerio", kind="503", retry_after=2))
    assert sum(1 for _ in hook.deliveries(at(FROM), at(UNTIL))) > 1000
    log = logged()
    assert "Customer.io (connection 'customerio_default') answered 503" in log
    assert "before attempt 2" in log

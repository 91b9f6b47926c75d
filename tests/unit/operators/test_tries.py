"""Tries of one run that share a task state store: their fingerprint, and two of them alive at once."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest

from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.operators.checkpoint_store import CheckpointStore
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from airflow_provider_cio.pipeline import pipeline as line
from airflow_provider_cio.segment import batches as segment
from tests.sandbox import History, Sandbox, Settings
from tests.unit.support import DAY, NOVEMBER, assert_kept_is_truth, connect, small_pages

INTERVAL = Interval(NOVEMBER, NOVEMBER + 3 * DAY)
HISTORY = History.generate(seed=9, deliveries=900, start=NOVEMBER, end=INTERVAL.end)


class Store:
    """Fake of Airflow's TaskStateStoreAccessor, which keeps JSON values by key."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.saved = threading.Event()

    def get(self, key: str, default: Any = None) -> Any:
        value = self.values.get(key)
        return default if value is None else json.loads(value)

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        self.values[key] = json.dumps(value)
        self.saved.set()

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


class KilledAtTheEnd(Store):
    """Store of a task that is killed just before it removes its checkpoint."""

    def delete(self, key: str) -> None:
        raise SystemExit


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Make pages and batches small, and checkpoints as frequent as possible."""
    small_pages(monkeypatch, 20)
    monkeypatch.setattr(segment, "MAX_BATCH_EVENTS", 50)
    monkeypatch.setattr(line, "CHECKPOINT_EVERY", 0.0)
    with Sandbox(HISTORY, Settings(latency=0.005)) as sandbox:
        connect(monkeypatch, sandbox)
        yield sandbox


def attempt(store: Store, **parameters: Any) -> dict[str, Any]:
    context: Any = {
        "ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1),
        "data_interval_start": pendulum.from_timestamp(INTERVAL.start),
        "data_interval_end": pendulum.from_timestamp(INTERVAL.end),
        "task_state_store": store,
    }
    task = CustomerIOToSegmentOperator(task_id="send", **({"lookback": 3} | parameters))
    return task.execute(context)


# Two at once


def test_two_live_tries_lose_nothing(sandbox: Sandbox) -> None:
    """The first try's worker was taken for dead, and went on."""
    store = Store()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(attempt, store)
        assert store.saved.wait(10)
        second = pool.submit(attempt, store)
        results = [first.result(), second.result()]
    assert_kept_is_truth(sandbox, INTERVAL, duplicates=None)
    assert results[0]["events"] == results[1]["events"]
    for result in results:
        assert result["sent"]["events"] == len(sandbox.segment.kept)


@pytest.mark.parametrize("stale", [True, False])
def test_stale_checkpoint_is_harmless(sandbox: Sandbox, stale: bool) -> None:
    """The slower try stores a checkpoint after the faster one removed its own. A cleared task then does the rest."""
    store = Store()
    slow = KilledAtTheEnd()
    slow.values = store.values
    attempt(store)
    with pytest.raises(SystemExit):
        attempt(slow)
    assert store.values
    if not stale:
        store.values.clear()
    result = attempt(store)
    assert_kept_is_truth(sandbox, INTERVAL, duplicates=None)
    assert result.get("resumed") is (True if stale else None)
    assert result["sent"]["events"] == len(sandbox.segment.kept)
    assert store.values == {}


# The fingerprint


def fingerprint(monkeypatch: pytest.MonkeyPatch, **parameters: Any) -> str:
    """Return the fingerprint with which a run asks the store."""
    asked: list[str] = []

    def load(_: CheckpointStore, one: str) -> None:
        asked.append(one)
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "load", load)
        with pytest.raises(InterruptedError):
            attempt(Store(), **parameters)
    return asked[0]


def change(monkeypatch: pytest.MonkeyPatch, service: str, extra: dict[str, Any], **fields: Any) -> None:
    variable = f"AIRFLOW_CONN_{service}_DEFAULT"
    connection = json.loads(os.environ[variable]) | fields
    connection["extra"] |= extra
    monkeypatch.setenv(variable, json.dumps(connection))


def test_fingerprint_covers_selection(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recent = {"interval_start": pendulum.now().subtract(days=3), "interval_end": pendulum.now().subtract(days=2)}
    parameters: list[dict[str, Any]] = [
        {},
        {"lookback": 1},
        {"older_than": 1},
        {"collections": ["Email Opened"]},
        {"pii": "hash"},
        {"pii": "drop"},
        {"on_unidentified": "cio_id"},
        {"on_unidentified": "fail"},
        {"on_unidentified": "dead_letter", "dead_letter_path": str(tmp_path)},
        {"send_to_customerio_destinations": True},
        {"interval_start": "2026-11-01", "interval_end": "2026-11-02"},
        recent,
        recent | {"opens_and_clicks": "first_human"},
        recent | {"opens_and_clicks": "every"},
        recent | {"opens_and_clicks": "every_human"},
    ]
    found = [fingerprint(monkeypatch, **one) for one in parameters]
    change(monkeypatch, "SEGMENT", {"message_id_namespace": "another"})
    found.append(fingerprint(monkeypatch))
    change(monkeypatch, "SEGMENT", {}, password="another")
    found.append(fingerprint(monkeypatch))
    change(monkeypatch, "CUSTOMERIO", {}, host="http://127.0.0.1:1")
    found.append(fingerprint(monkeypatch))
    change(monkeypatch, "SEGMENT", {"path": "/another"})
    found.append(fingerprint(monkeypatch))
    assert len(set(found)) == len(found)


def test_fingerprint_ignores_speed(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(monkeypatch)
    assert (
        fingerprint(
            monkeypatch, settling_time=5, collections=[*reversed(CustomerIOToSegmentOperator(task_id="x").collections)]
        )
        == before
    )
    assert fingerprint(monkeypatch, lookback="3", pii=" keep ", send_to_customerio_destinations="false") == before
    change(monkeypatch, "CUSTOMERIO", {"requests_per_second": 3, "timeout": 7}, password="another")
    change(monkeypatch, "SEGMENT", {"events_per_second": 3, "timeout": 7, "gzip": True})
    assert fingerprint(monkeypatch) == before


# Refused events


def test_retry_meets_refused_events(sandbox: Sandbox, tmp_path: Path) -> None:
    """A rescheduled run has the same number of try, and so the same file: its dead letters come again."""
    rows = [
        {"id": f"d{n}", "type": "email", "created": NOVEMBER + n, "metrics": {"opened": NOVEMBER + 9000}}
        | {"customer_id": "1", "subject": "POISON" if n in (100, 900) else "fine"}
        for n in range(1000)
    ]
    sandbox.history = History(deliveries=rows)
    sandbox.settings = Settings(refuse_containing="POISON", latency=0.001)
    store = KilledAtTheEnd()
    with pytest.raises(SystemExit):
        attempt(store, dead_letter_path=str(tmp_path))
    again = Store()
    again.values = store.values
    result = attempt(again, dead_letter_path=str(tmp_path))
    (file,) = tmp_path.rglob("*.jsonl")
    refused = [json.loads(text)["event"]["properties"]["delivery_id"] for text in file.read_text().splitlines()]
    assert sorted(refused) == ["d100", "d900"]
    assert result["dead_letters"]["events"] == {"refused_400": 2}
    assert len({event["messageId"] for event in sandbox.segment.kept}) == 998

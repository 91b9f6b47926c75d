"""A task that has to end while it asks its supervisor: it hears the answer first, so that later requests get theirs."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.operators.base import CustomerIOOperator
from airflow_provider_cio.operators.checkpoint_store import CHECKPOINT_KEY
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from airflow_provider_cio.operators.customerio_to_warehouse import CustomerIOToWarehouseOperator
from airflow_provider_cio.pipeline import pipeline as line
from airflow_provider_cio.segment import batches
from tests.airflow_names import AIRFLOW, timeout
from tests.sandbox import History, Sandbox, Settings
from tests.unit.support import DAY, NOVEMBER, assert_kept_is_truth, connect, context_of, small_pages

pytestmark = pytest.mark.skipif(AIRFLOW < (3, 3), reason="before Airflow 3.3 a task keeps no state")

INTERVAL = Interval(NOVEMBER, NOVEMBER + DAY)
HISTORY = History.generate(seed=9, deliveries=400, start=NOVEMBER, end=INTERVAL.end)


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    small_pages(monkeypatch, 20)
    monkeypatch.setattr(batches, "MAX_BATCH_EVENTS", 20)
    monkeypatch.setattr(line, "CHECKPOINT_EVERY", 0.0)
    with Sandbox(HISTORY, Settings(latency=0.005)) as sandbox:
        connect(monkeypatch, sandbox)
        yield sandbox


class Supervisor(threading.Thread):
    """Fake of a task's supervisor, at the other end of Airflow's own socket and frames.

    :param connections: that the task may read, by id.
    :param at: name of a kind of request, and which one of them it answers with a signal to the task.
    :param number: of the signal.
    :param before: bytes of this answer that come before the signal.
    """

    def __init__(
        self,
        stream: socket.socket,
        connections: dict[str, dict[str, Any]],
        at: tuple[str, int],
        number: int,
        before: int,
    ) -> None:
        super().__init__(daemon=True)
        self.checkpoint: dict[str, Any] | None = None
        self.asked = Counter[str]()
        self._stream = stream
        self._connections = connections
        self._at = at
        self._number = number
        self._before = before

    def run(self) -> None:
        self._stream.settimeout(5)  # then the test fails, because a task that waits reads the end of the stream
        with self._stream, self._stream.makefile("rb") as requests:
            while header := requests.read(4):
                request, body, *_ = msgspec.msgpack.decode(requests.read(int.from_bytes(header, "big")))
                answer = msgspec.msgpack.encode([request, self._answer(body)])
                kind = body["type"]
                self.asked[kind] += 1
                self._send(len(answer).to_bytes(4, "big") + answer, interrupt=(kind, self.asked[kind]) == self._at)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        match request["type"]:
            case "GetConnection":
                conn_id = request["conn_id"]
                return {"type": "ConnectionResult", "conn_id": conn_id, **self._connections[conn_id]}
            case "SetTaskStateStore":
                self.checkpoint = request["value"]
            case "GetTaskStateStore" if self.checkpoint:
                return {"type": "TaskStateStoreResult", "value": self.checkpoint}
        return None

    def _send(self, answer: bytes, *, interrupt: bool) -> None:
        if interrupt:
            self._stream.sendall(answer[: self._before])
            time.sleep(0.1)
            signal.pthread_kill(threading.main_thread().ident or 0, self._number)
            time.sleep(0.1)
            answer = answer[self._before :]
        self._stream.sendall(answer)


@contextmanager
def supervised(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[tuple[Any, Supervisor]]:
    """Yield the task's side of its state, and a supervisor."""
    from airflow.sdk.execution_time import comms, task_runner
    from airflow.sdk.execution_time.context import TaskStateStoreAccessor

    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms.CommsDecoder(socket=ours), raising=False)
        supervisor = Supervisor(theirs, **options)
        supervisor.start()
        scope: Any = None  # which only a store outside of Airflow would need
        yield TaskStateStoreAccessor(uuid4(), scope), supervisor
        ours.shutdown(socket.SHUT_RDWR)
        supervisor.join()


@contextmanager
def killable(task: CustomerIOOperator) -> Iterator[None]:
    """Handle SIGTERM as Airflow does."""
    previous = signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


BEFORE = pytest.mark.parametrize("before", [0, 4], ids=["no answer yet", "half an answer"])


@BEFORE
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM])
def test_checkpoint_is_answered(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, number: int, before: int) -> None:
    task = CustomerIOToSegmentOperator(task_id="send", lookback=1)
    options = {"connections": {}, "at": ("SetTaskStateStore", 2), "number": number, "before": before}
    with killable(task), supervised(monkeypatch, **options) as (store, supervisor):
        context: Any = {**context_of(*INTERVAL), "task_state_store": store}
        with pytest.raises((SystemExit, AirflowTaskTimeout)), timeout(60):  # type: ignore[no-untyped-call]
            task.execute(context)
        assert supervisor.asked["SetTaskStateStore"] == 2
        assert store.get(CHECKPOINT_KEY) == supervisor.checkpoint
        assert task.execute(context)["resumed"] is True
    assert_kept_is_truth(sandbox, INTERVAL, duplicates=None)


@BEFORE
def test_warehouse_is_answered(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: int) -> None:
    """The hook reads the connection of the warehouse once more when it connects."""
    pytest.importorskip("airflow.providers.duckdb")
    task = CustomerIOToWarehouseOperator(task_id="load", lookback=1, warehouse_conn_id="duck", schema="customerio")
    fields = dict.fromkeys(("schema", "login", "password", "port", "extra"))
    connections = {"duck": {"conn_type": "duckdb", "host": str(tmp_path / "duck.db"), **fields}}
    options = {"connections": connections, "number": signal.SIGTERM, "before": before}
    with supervised(monkeypatch, at=("none", 0), **options) as (store, supervisor):
        context: Any = {**context_of(*INTERVAL), "task_state_store": store}
        task.execute(context)
        reads = supervisor.asked["GetConnection"]
    with killable(task), supervised(monkeypatch, at=("GetConnection", reads), **options) as (store, supervisor):
        context["task_state_store"] = store
        with pytest.raises(SystemExit):
            task.execute(context)
        assert supervisor.asked["GetConnection"] == reads
        store.set(CHECKPOINT_KEY, {"a": 1})
        assert store.get(CHECKPOINT_KEY) == {"a": 1}

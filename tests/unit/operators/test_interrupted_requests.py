"""A task that has to end while it asks its supervisor: it hears the answer first, so that later requests get theirs."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.operators.checkpoint_store import CHECKPOINT_KEY
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
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

    :param number: the signal that it sends to the task while it answers to a checkpoint, once.
    :param before: bytes of this answer that come before the signal.
    """

    def __init__(self, connection: socket.socket, number: int, before: int) -> None:
        super().__init__(daemon=True)
        self.checkpoint: dict[str, Any] | None = None
        self.interrupted = False
        self._connection = connection
        self._number = number
        self._before = before

    def run(self) -> None:
        self._connection.settimeout(5)  # then the test fails, because a task that waits reads the end of the stream
        with self._connection, self._connection.makefile("rb") as requests:
            while header := requests.read(4):
                request, body, *_ = msgspec.msgpack.decode(requests.read(int.from_bytes(header, "big")))
                answer = msgspec.msgpack.encode([request, self._answer(body)])
                self._send(len(answer).to_bytes(4, "big") + answer, last=body["type"] == "SetTaskStateStore")

    def _answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        if request["type"] == "SetTaskStateStore":
            self.checkpoint = request["value"]
        if request["type"] == "GetTaskStateStore" and self.checkpoint:
            return {"type": "TaskStateStoreResult", "value": self.checkpoint}
        return None

    def _send(self, answer: bytes, *, last: bool) -> None:
        if last and not self.interrupted:
            self.interrupted = True
            self._connection.sendall(answer[: self._before])
            time.sleep(0.1)
            signal.pthread_kill(threading.main_thread().ident or 0, self._number)
            time.sleep(0.1)
            answer = answer[self._before :]
        self._connection.sendall(answer)


@contextmanager
def supervised(monkeypatch: pytest.MonkeyPatch, number: int, before: int) -> Iterator[tuple[Any, Supervisor]]:
    """Yield the task's side of its state, and a supervisor."""
    from airflow.sdk.execution_time import comms, task_runner
    from airflow.sdk.execution_time.context import TaskStateStoreAccessor

    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms.CommsDecoder(socket=ours), raising=False)
        supervisor = Supervisor(theirs, number, before)
        supervisor.start()
        scope: Any = None  # which only a store outside of Airflow would need
        yield TaskStateStoreAccessor(uuid4(), scope), supervisor
        ours.shutdown(socket.SHUT_RDWR)
        supervisor.join()


@pytest.mark.parametrize("before", [0, 4], ids=["no answer yet", "half an answer"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM])
def test_the_answer_is_heard(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, number: int, before: int) -> None:
    task = CustomerIOToSegmentOperator(task_id="send", lookback=1)
    previous = signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
    try:
        with supervised(monkeypatch, number, before) as (store, supervisor):
            context: Any = {**context_of(*INTERVAL), "task_state_store": store}
            with pytest.raises((SystemExit, AirflowTaskTimeout)), timeout(60):  # type: ignore[no-untyped-call]
                task.execute(context)
            assert supervisor.interrupted
            assert store.get(CHECKPOINT_KEY) == supervisor.checkpoint
            assert task.execute(context)["resumed"] is True
        assert_kept_is_truth(sandbox, INTERVAL, duplicates=None)
    finally:
        signal.signal(signal.SIGTERM, previous)

"""A waiting run says in the task's log why it waits, and not too often."""

from __future__ import annotations

import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest

from airflow_provider_cio.operators.base import CustomerIOOperator
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from airflow_provider_cio.operators.customerio_to_warehouse import CustomerIOToWarehouseOperator
from airflow_provider_cio.pipeline import ticker
from airflow_provider_cio.warehouse.connection import open_warehouse
from tests.sandbox import Fault, History, Sandbox
from tests.unit.support import DAY, NOVEMBER, connect, context_of, kill_in_execution

RUN = context_of(NOVEMBER, NOVEMBER + DAY)
HISTORY = History.generate(seed=8, deliveries=300, start=NOVEMBER, end=NOVEMBER + DAY)
INTERVAL = 0.2
WAITS = "Waiting for another process to close {}, 600 s at most"


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    assert ticker.PROGRESS_EVERY == 10
    monkeypatch.setattr(ticker, "PROGRESS_EVERY", INTERVAL)
    with Sandbox(HISTORY) as sandbox:
        connect(monkeypatch, sandbox)
        yield sandbox


class Log(logging.Handler):
    """Log of a task, with the time of each line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[float, str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((time.monotonic(), record.levelname, record.getMessage()))

    def about(self, words: str) -> list[tuple[float, str, str]]:
        return [one for one in self.lines if words in one[2]]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """Replace Airflow's own logger, which differs from version to version, and tells no times."""
    log, logger = Log(), logging.Logger("the task's")
    logger.addHandler(log)
    monkeypatch.setattr(CustomerIOOperator, "log", logger)
    return log


def assert_at_the_interval(lines: list[tuple[float, str, str]]) -> None:
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(lines)]
    assert min(gaps) > 0.9 * INTERVAL
    assert max(gaps) < INTERVAL + 1  # the machine may be busy


@pytest.mark.parametrize(
    ("side", "name"),
    [("customerio", "Customer.io (connection 'customerio_default')"), ("segment", "Segment (connection 's")],
    ids=["customerio", "segment"],
)
def test_waiting_for_a_service(sandbox: Sandbox, log: Log, side: Any, name: str) -> None:
    sandbox.faults.add(Fault(side=side, kind="503", at=0, retry_after=1.0))
    sent = CustomerIOToSegmentOperator(task_id="send").execute(RUN)["sent"]["events"]
    assert sent == len(sandbox.segment.kept) > 0
    so_far = log.about("So far ")
    assert_at_the_interval(so_far)
    waits = [one for one in so_far if "before attempt" in one[2]]
    assert len(waits) >= 3
    counts = r"\. So far \d+ events sent; [\d,]+ deliveries read in \d+ requests?( \(\d+ .*\))?"
    for _, level, text in waits:
        assert level == "WARNING"
        assert re.fullmatch(re.escape(name) + ".* answered 503: .*; waits 1 s before attempt 2" + counts, text)
    assert {level for _, level, text in so_far if "before attempt" not in text} <= {"INFO"}
    assert log.lines[-1][2].startswith(f"{sent} events sent (delivered ")


@contextmanager
def held(file: Path, seconds: float) -> Iterator[None]:
    """Hold the file open in another process, for this long from now on."""
    program = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print(1, flush=True); input()"
    command = [sys.executable, "-c", program, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline()
        timer = threading.Timer(seconds, holder.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            holder.kill()


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the DuckDB file behind `warehouse_default`."""
    path = tmp_path / "warehouse.duckdb"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps({"conn_type": "duckdb", "host": str(path)}))
    duckdb.connect(str(path)).close()
    return path


def test_waiting_for_a_duckdb_file(sandbox: Sandbox, file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Airflow's hook would log 600 lines during the wait, one for each time that it opens the file."""
    open_warehouse("warehouse_default", "customerio")  # imports the hook, which may take long
    began = time.monotonic()
    with held(file, 1.5):
        loaded = CustomerIOToWarehouseOperator(task_id="load").execute(RUN)["loaded"]["events"]
    assert loaded > 0
    lines = "\n".join(capfd.readouterr()).splitlines()
    waits = [number for number, text in enumerate(lines) if WAITS.format(file) in text]
    assert 3 <= len(waits) <= (time.monotonic() - began) / INTERVAL
    assert all(re.search(r"\bwarning\b", lines[number], re.IGNORECASE) for number in waits)
    connected = waits[-1]
    opened = [number for number, text in enumerate(lines) if "Opening DuckDB database" in text]
    assert len(opened) == 1
    assert opened[0] < connected


def test_waiting_for_redshift(sandbox: Sandbox, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "Amazon's provider is not installed, or so old that its hook does not repeat"
    module = pytest.importorskip("airflow.providers.amazon.aws.hooks.redshift_sql", reason=reason)
    if not hasattr(module.RedshiftSQLHook.get_conn, "retry"):
        pytest.skip(reason)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # it does not listen
        fields = {"conn_type": "redshift", "host": "127.0.0.1", "port": nobody.getsockname()[1], "login": "l"}
        fields |= {"schema": "d", "extra": {"ssl": False}}
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps(fields))
        task = CustomerIOToWarehouseOperator(task_id="load")

        def has_waited() -> None:
            give_up_at = time.monotonic() + 60
            while len(log.about("So far ")) < 2 and time.monotonic() < give_up_at:
                time.sleep(0.01)

        assert kill_in_execution(task, RUN, has_waited) < 2  # the hook would try for 15 s
    waits = log.about(" read in 0 requests")
    assert {text.partition(". ")[0] for _, _, text in waits} == {"Waiting for Redshift to answer"}
    assert_at_the_interval(waits)
    assert sandbox.customerio.requests == []

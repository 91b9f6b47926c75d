"""Helpers of several tests: clients for a sandbox, and a run of the pipeline against it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest

from airflow_provider_cio.customerio.client import ACTIVITY_PAGE_SIZE, CustomerIOClient
from airflow_provider_cio.customerio.reader import Reader
from airflow_provider_cio.events.catalog import DEFAULT_COLLECTIONS, GROUPS, resolve_collections
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.http.transport import Retries
from airflow_provider_cio.operators import assembly
from airflow_provider_cio.operators.options import Options
from airflow_provider_cio.pipeline.checkpoint import Checkpoint
from airflow_provider_cio.pipeline.ends import Sink
from airflow_provider_cio.pipeline.pipeline import Callbacks
from airflow_provider_cio.pipeline.result import Result
from airflow_provider_cio.segment.client import SegmentClient
from airflow_provider_cio.segment.sink import SegmentSink
from tests.e2e.compare import differences
from tests.sandbox import History, Sandbox

DAY = 86_400
NOVEMBER = 1_793_491_200  # 2026-11-01T00:00:00Z
QUICK = Retries(attempts=8, total=30.0, first=0.005, longest=0.05)
EVERY_NAME = GROUPS["email"]


def clients(
    sandbox: Sandbox, retries: Retries = QUICK, *, timeout: float = 60, per_second: float = 100_000
) -> tuple[CustomerIOClient, SegmentClient]:
    settings = sandbox.settings
    shared: Any = {"base_url": sandbox.url, "timeout": timeout, "retries": retries}
    return (
        CustomerIOClient(settings.app_key, requests_per_second=per_second, **shared),
        SegmentClient(settings.write_key, events_per_second=0, **shared),
    )


def connect(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, **changes: str) -> None:
    """Point Airflow's two default connections to this sandbox; `changes` are other keys than its own."""
    for name, value in connections(sandbox, **changes).items():
        monkeypatch.setenv(name, value)


def connections(sandbox: Sandbox, **changes: str) -> dict[str, str]:
    """Return both connections as variables of the environment."""
    keys = {"app_key": sandbox.settings.app_key, "write_key": sandbox.settings.write_key} | changes
    customerio = {"conn_type": "customerio", "host": sandbox.url, "password": keys["app_key"]}
    segment = {"conn_type": "segment_source", "host": sandbox.url, "password": keys["write_key"]}
    extras = ({"requests_per_second": 1000}, {"events_per_second": 0})
    return {
        f"AIRFLOW_CONN_{conn_id}": json.dumps(fields | {"extra": extra})
        for conn_id, fields, extra in zip(
            ("CUSTOMERIO_DEFAULT", "SEGMENT_DEFAULT"), (customerio, segment), extras, strict=True
        )
    }


def small_pages(patch: pytest.MonkeyPatch, page_size: int, activities: int = ACTIVITY_PAGE_SIZE) -> None:
    """Let all pipelines read pages of so many rows, those of operators too, so that a small history has many pages."""
    patch.setattr(assembly, "Reader", partial(Reader, page_size=page_size, activity_page_size=activities))


def context_of(start: int, end: int) -> Any:
    """Return the context of a task whose run has this data interval, with the keys that an operator needs."""
    return {
        "ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1),
        "data_interval_start": pendulum.from_timestamp(start),
        "data_interval_end": pendulum.from_timestamp(end),
    }


def run_pipeline(
    sandbox: Sandbox,
    interval: Interval,
    *,
    lookback: int = 30 * DAY,
    older_than: int = 0,
    names: str | Sequence[str] = DEFAULT_COLLECTIONS,
    namespace: str = "test",
    retries: Retries = QUICK,
    timeout: float = 60,
    per_second: float = 100_000,
    mode: str = "first",
    warn: Callable[[str], None] = print,
    pii: str = "keep",
    on_unidentified: str = "skip",
    checkpoint: Checkpoint | None = None,
    callbacks: Callbacks | None = None,
    sink: Sink | None = None,
    results: list[Result] | None = None,
    **reading: Any,
) -> Result:
    """Run once over the interval, with new clients.

    :param mode: `opens_and_clicks`.
    :param sink: other than Segment's.
    :param results: gets the result before the run begins.
    :param reading: page sizes.
    """
    client, destination = clients(sandbox, retries, timeout=timeout, per_second=per_second)

    def called(result: Result) -> Callbacks:
        if results is not None:
            results.append(result)
        return callbacks or Callbacks()

    options = Options(
        collections=resolve_collections(names),
        opens_and_clicks=mode,
        lookback=timedelta(seconds=lookback),
        older_than=timedelta(seconds=older_than),
        pii=pii,
        on_unidentified=on_unidentified,
    )
    return assembly.build_pipeline(
        client,
        sink or SegmentSink(destination),
        options,
        interval,
        mode=mode,
        message_id_namespace=namespace,
        warn=warn,
        checkpoint=checkpoint,
        callbacks=called,
        **reading,
    ).run()


def kill_in_execution(task: Any, context: Any, wait: Callable[[], object]) -> float:
    """Kill the task once `wait` returns, as Airflow's task runner does on SIGTERM; returns how long it went on."""
    killed: list[float] = []

    def kill() -> None:
        wait()
        killed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, lambda *_: task.on_kill())
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(SystemExit):
            task.execute(context)
        return time.monotonic() - killed[0]
    finally:
        killer.join()
        signal.signal(signal.SIGUSR1, previous)


def truth_of(history: History, interval: Interval, names: Iterable[str] = DEFAULT_COLLECTIONS) -> list[dict[str, Any]]:
    """Return the occurrences of the interval, as the sandbox tells them without the product's code."""
    wanted = set(names)
    found = history.truth(*interval, channels={"email"}, drafts="Email Drafted" in wanted)
    return [asdict(row) for row in found if row.collection in wanted]


def assert_kept_is_truth(
    sandbox: Sandbox, interval: Interval, names: Iterable[str] = DEFAULT_COLLECTIONS, duplicates: int | None = 0
) -> None:
    """Assert that Segment kept exactly the truth; `duplicates` None allows any number of recognised repeats."""
    assert differences(truth_of(sandbox.history, interval, names), sandbox.segment.kept) == []
    assert sandbox.segment.dropped == []
    if duplicates is not None:
        assert len(sandbox.segment.duplicates) == duplicates


def requests_have_ended() -> None:
    """Wait for the threads of a run that was left, which end with the answers that they wait for."""
    until = time.monotonic() + 10
    while any(thread.name.startswith(("customerio", "segment")) for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.002)

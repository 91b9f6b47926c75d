"""Measure reporting webhooks: a lone report, senders that wait for their answers, a flood, and a plain handler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median

import psutil
import requests

from tests.benchmarks.figures import Figure
from tests.benchmarks.load import KEY, Taken, flood, one_by_one
from tests.benchmarks.world import REPO, Served, serving
from tests.ports import free_port

SEGMENT_LATENCY = 0.1
AIM_PER_SECOND = 2000.0
AIM_P99 = 400.0  # ms
AIM_ADDED = 20.0  # ms, over one round trip to Segment
AIM_GROWTH = 10.0  # MiB, from the tenth second of the flood to its end
SENDERS = 64
_PART = "stream"


def measure(quick: bool) -> Iterator[Figure]:
    seconds = 10.0 if quick else 60.0
    with serving(1, segment_latency=SEGMENT_LATENCY) as sandbox:
        with served("airflow_provider_cio.stream.app:app", _connections(sandbox)) as (url, process):
            yield from _lone(url, count=10 if quick else 50)
            waiting, figure = _waiting(url, "", rounds=20 if quick else 100)
            yield figure
            yield from _flooded(sandbox, url, process, seconds)
        sandbox.reset()
        plain = {"PLAIN_KEY": KEY, "PLAIN_SEGMENT": sandbox.url, "PLAIN_WRITE_KEY": sandbox.write_key}
        with served("tests.benchmarks.run_plain:app", plain) as (url, _):
            yield from _plain(url, min(seconds, 20.0), waiting)


def _lone(url: str, count: int) -> Iterator[Figure]:
    one_by_one(url, count=3, first=10_000_000)  # connections and imports
    alone = one_by_one(url, count=count, first=11_000_000, pause=0.05)
    yield Figure(
        _PART,
        "a lone report, over Segment's round trip (ms)",
        (median(alone.seconds) - SEGMENT_LATENCY) * 1000,
        "{:.1f}",
        aim=AIM_ADDED,
        note=f"of {count}; at worst {(max(alone.seconds) - SEGMENT_LATENCY) * 1000:.1f} ms",
        wrong=_wrong(alone, count),
    )
    sender = one_by_one(url, count=count, first=12_000_000)
    yield Figure(
        _PART,
        "one sender that waits for each answer, over a round trip (ms)",
        (sender.span / count - SEGMENT_LATENCY) * 1000,
        "{:.1f}",
        aim=AIM_ADDED,
        wrong=_wrong(sender, count),
    )


def _waiting(url: str, whose: str, rounds: int, *, other: float = 0.0) -> tuple[float, Figure]:
    """Measure reports a second of many senders that each wait for their answer.

    :param other: what to compare it with.
    """
    one_by_one(url, count=SENDERS, first=13_000_000, senders=SENDERS)
    taken = one_by_one(url, count=SENDERS * rounds, first=14_000_000, senders=SENDERS)
    rate = taken.statuses[204] / taken.span
    note = f"median {taken.percentile(0.5) * 1000:.0f} ms, 99th percentile {taken.percentile(0.99) * 1000:.0f} ms"
    return rate, Figure(
        _PART,
        f"{whose}{SENDERS} senders that wait for each answer, reports a second",
        rate,
        "{:,.0f}",
        aim=None if other else SENDERS / (SEGMENT_LATENCY + AIM_ADDED / 1000),
        more_is_better=True,
        note=f"{note}; the stream takes {other / rate:.2f} times as many" if other else note,
        wrong=_wrong(taken, SENDERS * rounds),
    )


def _flooded(sandbox: Served, url: str, process: psutil.Process, seconds: float) -> Iterator[Figure]:
    flood(url, per_second=AIM_PER_SECOND, seconds=min(3.0, seconds), first=20_000_000)
    sandbox.reset()
    resident: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            resident.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    cpu = sum(process.cpu_times()[:2])
    watcher.start()
    count = int(AIM_PER_SECOND * seconds)
    taken = flood(url, per_second=AIM_PER_SECOND, seconds=seconds, first=30_000_000)
    ended.set()
    watcher.join()
    busy = (sum(process.cpu_times()[:2]) - cpu) / taken.span
    kept = sandbox.kept()
    wrong = _wrong(taken, count) or ("" if kept["kept"] == count else f"Segment kept {kept['kept']} of {count}")
    yield Figure(
        _PART,
        f"reports a second, for {seconds:.0f} s",
        taken.statuses[204] / taken.span,
        "{:,.0f}",
        aim=AIM_PER_SECOND * 0.99,  # the last answers take their time, too
        more_is_better=True,
        note=f"in {kept['requests']:,} requests to Segment; one process, {busy:.2f} cores",
        wrong=wrong,
        details={"requests": kept["requests"], "cores": round(busy, 2)},
    )
    yield Figure(
        _PART,
        "its latency, 99th percentile (ms)",
        taken.percentile(0.99) * 1000,
        "{:.0f}",
        aim=AIM_P99,
        note=f"median {taken.percentile(0.5) * 1000:.0f} ms, at worst {max(taken.seconds) * 1000:.0f} ms",
    )
    settled = resident[9:] if len(resident) > 12 else resident
    yield Figure(
        _PART,
        "its memory, from the tenth second to the end (MiB)",
        (settled[-1] - settled[0]) / 2**20,
        "{:+.1f}",
        aim=AIM_GROWTH,
        note=f"{settled[-1] / 2**20:.0f} MiB at the end",
    )


def _plain(url: str, seconds: float, waiting: float) -> Iterator[Figure]:
    """:param waiting: reports a second that the stream took of senders that wait."""
    one_by_one(url, count=3, first=40_000_000)
    alone = one_by_one(url, count=10, first=41_000_000)
    yield _waiting(url, "a plain handler: ", rounds=20, other=waiting)[1]
    taken = flood(url, per_second=AIM_PER_SECOND, seconds=seconds, first=50_000_000)
    yield Figure(
        _PART,
        f"a plain handler: {AIM_PER_SECOND:,.0f} a second offered for {seconds:.0f} s, reports a second",
        taken.statuses[204] / taken.span,
        "{:,.0f}",
        note=f"99th percentile {taken.percentile(0.99) * 1000:,.0f} ms; {len(taken.seconds):,} of "
        f"{int(AIM_PER_SECOND * seconds):,} answered; alone {(median(alone.seconds) - SEGMENT_LATENCY) * 1000:.1f} ms "
        "over a round trip. It is an async FastAPI handler with an aiohttp session, and posts each report by itself",
    )


def _wrong(taken: Taken, count: int) -> str:
    return "" if taken.statuses == {204: count} else f"answers: {dict(taken.statuses)} of {count}"


def _connections(sandbox: Served) -> dict[str, str]:
    customerio = {"conn_type": "customerio", "extra": {"webhook_signing_secret": KEY}}
    segment = {
        "conn_type": "segment_source",
        "host": sandbox.url,
        "password": sandbox.write_key,
        "extra": {"events_per_second": 0},
    }
    return {
        "AIRFLOW__CUSTOMERIO__STREAMS": '{"main": {}}',
        "AIRFLOW_CONN_CUSTOMERIO_DEFAULT": json.dumps(customerio),
        "AIRFLOW_CONN_SEGMENT_DEFAULT": json.dumps(segment),
    }


@contextmanager
def served(app: str, environment: Mapping[str, str]) -> Iterator[tuple[str, psutil.Process]]:
    """Serve an app with uvicorn in a process of its own: the address of its stream `main`, and the process."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--no-access-log", "--log-level", "warning"]
    everything = os.environ | environment | {"NO_PROXY": "127.0.0.1"}
    with subprocess.Popen(command, cwd=REPO, env=everything) as process:
        try:
            _wait_for(port)
            yield f"http://127.0.0.1:{port}/main", psutil.Process(process.pid)
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        try:
            requests.get(f"http://127.0.0.1:{port}/", timeout=5)
            return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise RuntimeError("the app did not start")

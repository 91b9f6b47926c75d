"""Run the operator hour after hour against a sandbox in another process, with faults."""

from __future__ import annotations

import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from io import StringIO
from typing import Any, NamedTuple
from unittest.mock import patch

import pendulum
import psutil
import requests

from airflow_provider_cio.customerio.reader import Reader
from airflow_provider_cio.exceptions import TryAgainLaterError
from airflow_provider_cio.http.transport import Retries
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from tests.e2e.compare import COLLECTIONS, differences
from tests.e2e.processes import Processes

HOUR = 3600
START = 1_793_491_200  # 2026-11-01T00:00:00Z
LOOKBACK = 24 * HOUR
DELIVERIES = 200  # an hour
TRIES = 20
PASSING = ["429", "500", "502", "503", "html", "html200", "reset", "reset_after", "truncated", "truncated_json"]
FAULTS: list[dict[str, Any]] = [
    {"side": side, **fault, "seed": seed}
    for seed, side in enumerate(("customerio", "segment"))
    for fault in (
        {"kinds": PASSING, "probability": 0.03, "retry_after": 0.05},
        {"kind": "timeout", "probability": 0.002, "seconds": 2.0},
        # Longer than the client waits: the try fails, and the next one goes on from its checkpoint.
        {"kind": "429", "probability": 0.004, "retry_after": 100_000},
    )
]
CONNECTIONS = {
    "customerio": {"requests_per_second": 1000, "timeout": 0.5},
    "segment": {"events_per_second": 0, "timeout": 0.5},
}


class Sample(NamedTuple):
    """Resources that this process holds between two runs."""

    interval: int
    rss: float  # megabytes
    objects: int  # that the garbage collector knows
    threads: int
    sockets: int


@dataclass(frozen=True)
class Outcome:
    """Result: `lost` has the differences between Customer.io and Segment, `growing` the resources that grew."""

    intervals: int
    tries: int
    events: int
    duplicates: int
    faults: int
    lost: Sequence[str]
    growing: Sequence[str]
    samples: Sequence[Sample]


class Store:
    """Fake of Airflow's TaskStateStoreAccessor, for one task instance."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self._values[key]) if key in self._values else default

    def set(self, key: str, value: Any) -> None:
        self._values[key] = json.dumps(value)

    def delete(self, key: str) -> None:
        self._values.pop(key, None)


def soak(intervals: int, *, sample_every: int = 10, say: Callable[[str], None] = print) -> Outcome:
    """Run that many consecutive hours, then compare both sides event by event."""
    with Processes() as processes, small():
        hours = LOOKBACK // HOUR + intervals
        begin = pendulum.from_timestamp(START - LOOKBACK).to_iso8601_string()
        processes.start(
            *("sandbox", "-m", "tests.sandbox", "--port", "0", "--start", begin, "--days", f"{hours / 24}"),
            *("--deliveries", f"{hours * DELIVERIES}", "--latency", "0.002", "--requests-per-second", "0"),
            env=os.environ,
            pipe=True,
        )
        said = json.loads(processes.first_line("sandbox"))
        control = f"{said['url']}/_sandbox"
        requests.post(f"{control}/faults", json=FAULTS, timeout=5).raise_for_status()
        with connected(said):
            samples, tries = run(intervals, sample_every, say)
        until = START + intervals * HOUR
        truth = requests.get(f"{control}/truth?start={START}&end={until}", timeout=60).json()["events"]
        segment = requests.get(f"{control}/segment?events=1", timeout=60).json()
        customerio = requests.get(f"{control}/customerio", timeout=60).json()
    wanted = [row for row in truth if row["collection"] in COLLECTIONS and within_reach(row)]
    lost = differences(wanted, segment["events"])
    lost += [f"Segment dropped {count} events: {reason}" for reason, count in segment["dropped"].items()]
    return Outcome(
        intervals=intervals,
        tries=tries,
        events=segment["kept"],
        duplicates=segment["duplicates"],
        faults=customerio["faults"] + segment["faults"],
        lost=lost,
        growing=growing(samples),
        samples=samples,
    )


def run(intervals: int, sample_every: int, say: Callable[[str], None]) -> tuple[list[Sample], int]:
    """Run all hours, each until it succeeds; return the samples between them, and the number of tries."""
    samples: list[Sample] = []
    tries = 0
    began = time.monotonic()
    say(f"{'interval':>8} {'seconds':>8} {'tries':>6} {'RSS, MB':>8} {'objects':>8} {'threads':>8} {'sockets':>8}")
    for number in range(intervals):
        start = START + number * HOUR
        context: Any = {
            "data_interval_start": pendulum.from_timestamp(start),
            "data_interval_end": pendulum.from_timestamp(start + HOUR),
            "task_state_store": Store(),
        }
        tries += until_it_succeeds(context)
        if (number + 1) % sample_every == 0:
            samples.append(sample(number + 1))
            _, rss, objects, threads, sockets = samples[-1]
            seconds = time.monotonic() - began
            say(f"{number + 1:>8} {seconds:>8.1f} {tries:>6} {rss:>8.1f} {objects:>8} {threads:>8} {sockets:>8}")
    return samples, tries


def until_it_succeeds(context: Any) -> int:
    """Return the number of tries until the run succeeds. Each try has an operator of its own, as in Airflow."""
    for tries in range(1, TRIES + 1):
        try:
            operator(context)
        except TryAgainLaterError:
            continue
        return tries
    raise AssertionError(f"{context['data_interval_start']}: no success within {TRIES} tries")


def operator(context: Any) -> None:
    with redirect_stdout(StringIO()):  # what it logs
        CustomerIOToSegmentOperator(task_id="soak", lookback=timedelta(seconds=LOOKBACK)).execute(context)


def within_reach(row: Mapping[str, Any]) -> bool:
    """Return whether the delivery was younger than the look-back when this happened to it."""
    return bool(row["time"] - row["created"] < LOOKBACK)


@contextmanager
def small() -> Iterator[None]:
    """Make pages, batches and waits small, and checkpoints frequent, so that more happens in less time."""
    quick = partial(Retries, first=0.01, longest=0.1)
    with (
        patch("airflow_provider_cio.operators.assembly.Reader", partial(Reader, page_size=200)),
        patch("airflow_provider_cio.segment.batches.MAX_BATCH_EVENTS", 50),
        patch("airflow_provider_cio.pipeline.pipeline.CHECKPOINT_EVERY", 0.02),
        patch("airflow_provider_cio.customerio.client.Retries", quick),
        patch("airflow_provider_cio.segment.client.Retries", quick),
    ):
        yield


@contextmanager
def connected(said: Mapping[str, str]) -> Iterator[None]:
    """Point Airflow's two default connections to the sandbox."""
    connections = {
        "customerio": {"conn_type": "customerio", "password": said["app_key"]},
        "segment": {"conn_type": "segment_source", "password": said["write_key"]},
    }
    environment = {
        f"AIRFLOW_CONN_{side.upper()}_DEFAULT": json.dumps(
            connection | {"host": said["url"], "extra": CONNECTIONS[side]}
        )
        for side, connection in connections.items()
    }
    with patch.dict(os.environ, environment):
        yield


def sample(interval: int) -> Sample:
    """Collect garbage, then return a sample."""
    gc.collect()
    process = psutil.Process()
    return Sample(
        interval,
        process.memory_info().rss / 1e6,
        len(gc.get_objects()),
        process.num_threads(),
        len(process.net_connections("tcp")),
    )


def growing(samples: Sequence[Sample]) -> list[str]:
    """Return the resources larger in the last third of the samples than in the middle third; the first warms up.

    Memory may wander by some megabytes, and objects by what a cache of others adds; threads and sockets may not.
    Fewer than three samples tell nothing.
    """
    third = len(samples) // 3
    if not third:
        return []
    middle, last = samples[third : 2 * third], samples[-third:]
    found = []
    for name, allowed in (("rss", 4.0), ("objects", 500.0), ("threads", 0.0), ("sockets", 0.0)):
        before, after = (statistics.median(getattr(one, name) for one in part) for part in (middle, last))
        if after > before + allowed:
            found.append(f"{name}: {before:.1f} in the middle third, {after:.1f} in the last")
    return found

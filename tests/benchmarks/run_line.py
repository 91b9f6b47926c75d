"""Run the whole pipeline once over an interval: seconds, and the greatest memory."""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from pathlib import Path

import requests

from airflow_provider_cio.customerio.client import CustomerIOClient
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.operators.assembly import build_pipeline
from airflow_provider_cio.operators.options import Options
from airflow_provider_cio.pipeline.ends import Sink
from airflow_provider_cio.pipeline.result import Result
from airflow_provider_cio.segment.client import SegmentClient
from airflow_provider_cio.segment.sink import SegmentSink


def line(source: CustomerIOClient, sink: Sink, interval: Interval, namespace: str) -> Result:
    """Deliver the six default collections, with the default look-back of thirty days."""
    return build_pipeline(source, sink, Options(), interval, mode="first", message_id_namespace=namespace).run()


def once(
    url: str, app_key: str, write_key: str, interval: Interval, namespace: str = "benchmark", per_second: int = 100_000
) -> Result:
    with (
        CustomerIOClient(app_key, base_url=url, requests_per_second=per_second) as source,
        SegmentClient(write_key, base_url=url, events_per_second=0) as destination,
    ):
        return line(source, SegmentSink(destination), interval, namespace)


def main() -> None:
    wanted = json.loads(sys.argv[1])
    url, app_key, write_key = wanted["url"], wanted["app_key"], wanted["write_key"]
    start, end = wanted["interval"]
    options = wanted.get("options", {})
    once(url, app_key, write_key, Interval(start, start + 3600), "warm-up", **options)
    requests.post(f"{url}/_sandbox/reset", timeout=60).raise_for_status()
    gc.collect()
    gc.freeze()  # as in run_peer: what was made before must not slow it down
    began, busy = time.perf_counter(), time.process_time()
    report = once(url, app_key, write_key, Interval(start, end), **options)
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    result = {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "events": report.work["events"],
        "batches": report.work["batches"],
        "bytes_sent": report.work["bytes"],
        "requests": report.work["requests"],
        "deliveries": report.tally.read["deliveries"],
        "peak_memory": peak_memory(),
    }
    print(json.dumps(result))


def peak_memory() -> int:
    """Return the bytes of this process's program.

    `ru_maxrss` also counts what its parent held when it started it (Linux keeps the larger of both at exec).
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()

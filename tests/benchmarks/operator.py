"""The operator itself: what its import costs a DAG file, and how long a day of many deliveries takes it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from tests.benchmarks.figures import Figure
from tests.benchmarks.world import DAY, START, Served, last_line, run, serving

AIM_IMPORT = 5.0  # milliseconds
AIM_DAY, MOST_DAY = 5.0, 10.0  # seconds: "well under 10"

# What any DAG file needs comes first.
IMPORT = """
import json, time
from airflow.sdk import DAG, BaseHook, BaseOperator, CronDataIntervalTimetable
began = time.perf_counter()
import airflow_provider_cio.operators.customerio_to_segment
print(json.dumps({"seconds": time.perf_counter() - began}))
"""


def measure_import(quick: bool) -> Iterator[Figure]:
    times = 3 if quick else 5
    with airflow() as env:
        command = [sys.executable, "-c", IMPORT]
        last_line(command, env)  # compiles
        spans = [last_line(command, env)["seconds"] * 1000 for _ in range(times)]
    yield Figure(
        "Importing the operator, in a new process",
        "milliseconds over airflow.sdk",
        min(spans),
        "{:.2f}",
        aim=AIM_IMPORT,
        note=f"the best of {times}; median {median(spans):.2f}, worst {max(spans):.2f}",
        details={"milliseconds": spans},
    )


def measure_day(quick: bool) -> Iterator[Figure]:
    """Measure a day on which all deliveries are created, so that there is as much to send as possible."""
    deliveries, times = (50_000, 1) if quick else (50_000, 3)
    interval = (START, START + DAY)
    runs = []
    with serving(deliveries, interval=interval, history={"end": START + DAY}) as sandbox:
        for _ in range(times):
            sandbox.reset()
            with airflow(sandbox) as env:
                runs.append(run("run_operator", {"interval": interval}, env=env) | {"wrong": sandbox.wrong()})
    sent = runs[0]["result"]["sent"]["events"]
    seconds = [one["seconds"] for one in runs]
    yield Figure(
        f"One daily interval over {deliveries:,} deliveries, no latency, no limits",
        "seconds of the operator's execute",
        median(seconds),
        "{:.2f}",
        aim=AIM_DAY,
        least=MOST_DAY,
        note=(
            f"{sent:,} events; runs: {', '.join(f'{one:.2f}' for one in seconds)}; "
            f"{median(one['cpu_seconds'] for one in runs):.2f} s of CPU"
        ),
        wrong=next((one["wrong"] for one in runs if one["wrong"]), ""),
        details={"runs": runs},
    )


@contextmanager
def airflow(sandbox: Served | None = None) -> Iterator[dict[str, str]]:
    """Return the environment of an Airflow with a home of its own, and connections to the sandbox if there is one."""
    with tempfile.TemporaryDirectory(prefix="airflow-cio-") as home:
        # Without compiled files every import would be one from source.
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env = {name: value for name, value in env.items() if not name.startswith("AIRFLOW_")}
        env |= {"AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{home}/airflow.db"
        if sandbox:
            env["AIRFLOW_CONN_CUSTOMERIO_DEFAULT"] = connection(
                "customerio", sandbox.url, sandbox.app_key, requests_per_second=1000
            )
            env["AIRFLOW_CONN_SEGMENT_DEFAULT"] = connection(
                "segment_source", sandbox.url, sandbox.write_key, events_per_second=0
            )
        yield env


def connection(kind: str, url: str, key: str, **extra: float) -> str:
    return json.dumps({"conn_type": kind, "host": url, "password": key, "extra": extra})

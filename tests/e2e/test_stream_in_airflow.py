"""Streams in a real Airflow: its API server takes signed webhooks beside the UI and the tasks' API."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.benchmarks.load import KEY, Taken, flood, one_by_one
from tests.e2e.airflow import TASK_ID
from tests.e2e.shared import SharedAirflow
from tests.e2e.world import DAG_ID, World
from tests.unit.stream.support import encoded, report, signed

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

#: Reports a second while a task runs. An API server takes several times as many: docs/stream.md.
PER_SECOND = 100
#: Seconds in which a page must be there, on the slowest machine.
PATIENCE = 15.0
DAY = "2026-11-04"


@pytest.fixture(scope="module")
def world(shared: SharedAirflow) -> Iterator[World]:
    extras: dict[str, dict[str, Any]] = {
        "customerio": {"webhook_signing_secret": KEY, "requests_per_second": 1000},
        "segment_source": {"events_per_second": 0},
    }
    with shared.world(connections=extras) as one:
        yield one


def post(world: World, body: bytes, **headers: str) -> requests.Response:
    return requests.post(
        f"{world.airflow_url}/cio/main",
        data=body,
        headers=signed(body, KEY) | headers,
        timeout=10,
        allow_redirects=False,
    )


def test_a_signed_webhook_is_taken(world: World) -> None:
    body = encoded(report("clicked", href="https://example.com"))
    assert post(world, body, **{"x-cio-signature": "0" * 64}).status_code == 401
    assert world.sandbox("segment")["received"] == 0
    answer = post(world, body)
    assert (answer.status_code, answer.content) == (204, b"")
    told = world.sandbox("segment", events=1)
    assert [event["event"] for event in told["events"]] == ["Email Link Clicked"]
    health = requests.get(f"{world.airflow_url}/cio/main/health", timeout=10)
    assert (health.status_code, health.json()) == (200, {"configured": True, "segment_reached": True})
    assert requests.post(f"{world.airflow_url}/cio/other", timeout=10).status_code == 404
    assert requests.get(f"{world.airflow_url}/cio/main", timeout=10).status_code == 405
    assert world.mounts() == ["/cio", "/cio-flow"]


def test_new_signing_key_takes_effect(world: World) -> None:
    """The server is not restarted: a signature that does not fit has the connection read again."""
    body = encoded(report())
    connection = world.api("connections/customerio_default")
    extra = '{"webhook_signing_secret": "the-next-key-0123", "requests_per_second": 1000}'
    patch = {name: connection[name] for name in ("connection_id", "conn_type", "host")}
    world.api("connections/customerio_default", patch={**patch, "extra": extra}, update_mask="extra")
    deadline = time.monotonic() + 30
    while (status := post(world, body, **signed(body, "the-next-key-0123")).status_code) != 204:
        assert status == 503, "a 401 would cost an hour"
        assert time.monotonic() < deadline
    while post(world, body).status_code != 401:
        assert time.monotonic() < deadline
    extra = f'{{"webhook_signing_secret": "{KEY}", "requests_per_second": 1000}}'
    world.api("connections/customerio_default", patch={**patch, "extra": extra}, update_mask="extra")
    while post(world, body).status_code != 204:
        assert time.monotonic() < deadline + 30
        time.sleep(1)


def test_flood_harms_nothing_else(world: World) -> None:
    world.sandbox("reset", post={})
    taken: list[Taken] = []
    pages: list[float] = []
    ended = threading.Event()
    url = f"{world.airflow_url}/cio/main"

    def push() -> None:
        while not ended.is_set():
            first = sum(one.statuses.total() for one in taken)
            taken.append(flood(url, per_second=PER_SECOND, seconds=5, first=first))

    def look_around() -> None:
        while not ended.wait(0.1):
            for path in ("/", "/api/v2/monitor/health", "/api/v2/dags"):
                began = time.monotonic()
                answer = requests.get(world.airflow_url + path, timeout=60)
                pages.append(time.monotonic() - began)
                assert answer.status_code == 200

    with ThreadPoolExecutor(2) as pool:
        meanwhile = [pool.submit(push), pool.submit(look_around)]
        try:
            [run] = world.backfill(DAG_ID, DAY, DAY)
        finally:
            ended.set()
        for one in meanwhile:
            one.result()
    statuses = sum((one.statuses for one in taken), Counter[int]())
    world.elapsed(
        f"answers {dict(statuses)}, 99 % within {max(one.percentile(0.99) for one in taken):.2f} s; "
        f"{len(pages)} pages, the slowest {max(pages):.2f} s"
    )
    assert run.state == "success"
    path = f"dags/{DAG_ID}/dagRuns/{run.run_id}/taskInstances/{TASK_ID}"
    assert world.api(path)["try_number"] == 1
    assert len(pages) > 10
    assert max(pages) < PATIENCE
    assert set(statuses) <= {204, 503}
    pushed = PER_SECOND * 5 * len(taken)
    assert statuses.total() == pushed
    for _ in range(3):  # as Customer.io does after a 503, of which a busy machine may give a few more
        again = one_by_one(url, count=pushed, senders=8)
        if again.statuses == {204: pushed}:
            break
    assert again.statuses == {204: pushed}
    result: dict[str, Any] = world.xcom(run)
    segment = world.sandbox("segment")
    assert segment["kept"] == pushed + result["sent"]["events"]
    assert segment["dropped"] == {}

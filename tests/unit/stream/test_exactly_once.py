"""Any history, reported in any order and often, with faults and restarts, then pulled once: Segment keeps each once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.events.catalog import GROUPS
from airflow_provider_cio.interval import Interval
from airflow_provider_cio.stream import intake
from tests.sandbox import Fault, History, Sandbox
from tests.sandbox.catalog import COLLECTIONS
from tests.unit.stream.support import Running, connect, encoded, report, signed
from tests.unit.support import DAY, NOVEMBER, assert_kept_is_truth, run_line

STRETCH = Interval(NOVEMBER, NOVEMBER + 2 * DAY)
NAMES = GROUPS["email"]
NAMESPACE = "test"  # the one that `run_line` pulls with


@pytest.fixture(scope="module")
def world() -> Iterator[Sandbox]:
    with Sandbox() as sandbox, pytest.MonkeyPatch.context() as patch:
        connect(patch, sandbox, app_api=True, message_id_namespace=NAMESPACE)
        patch.setattr(intake, "PAUSE", 0.02)
        patch.setattr(intake, "BATCH_BUDGET", 1.0)
        yield sandbox


def reports_of(history: History) -> list[bytes]:
    """What Customer.io reports of the deliveries that happened in the stretch."""
    found: list[bytes] = []
    for raw in history.rows.data:
        row = json.loads(raw)
        for metric, moment in row["metrics"].items():
            if (row["type"], metric) not in COLLECTIONS or row["type"] != "email":
                continue
            if not STRETCH.start <= moment < STRETCH.end:
                continue
            data = {name: value for name, value in row.items() if name not in ("metrics", "type", "created")}
            data |= {"delivery_id": data.pop("id"), "identifiers": data.pop("customer_identifiers")}
            event_id = f"01{len(found):024}"
            found.append(
                encoded(
                    {"event_id": event_id, "object_type": "email", "metric": metric, "timestamp": moment, "data": data}
                )
            )
    return found


class Sender(threading.Thread):
    """Sends one report after the other, each again until it is acknowledged."""

    def __init__(self, queue: Sequence[bytes], app: list[Running], statuses: Counter[int], impatient: Random) -> None:
        super().__init__(daemon=True)
        self.queue, self.app, self.statuses, self.random = queue, app, statuses, impatient
        self.failed: BaseException | None = None

    def run(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            for body in self.queue:
                ends = time.monotonic() + 60
                while self._status(session, body) != 204:
                    assert time.monotonic() < ends, "not taken within a minute"
                    time.sleep(0.005)

    def _status(self, session: requests.Session, body: bytes) -> int:
        patience = 0.004 if self.random.random() < 0.05 else 10.0  # gone before the answer, now and then
        url = f"{self.app[0].url}/main"
        try:
            status = session.post(url, data=body, headers=signed(body), timeout=(10, patience)).status_code
        except requests.RequestException:
            status = 0
        self.statuses[status] += 1
        return status


FAULTS = st.lists(
    st.builds(
        Fault,
        side=st.just("segment"),
        kind=st.sampled_from(["429", "500", "503", "reset", "reset_after", "truncated", "html200", "timeout"]),
        probability=st.sampled_from([0.05, 0.3]),
        seed=st.integers(0, 99),
        times=st.integers(1, 8),
        seconds=st.just(0.5),
    ),
    max_size=3,
)


@settings(max_examples=20)
@given(
    history=st.builds(
        History.generate,
        seed=st.integers(0, 10**6),
        deliveries=st.integers(0, 120),
        start=st.just(NOVEMBER - 2 * DAY),
        end=st.just(STRETCH.end),
        longest_lag=st.sampled_from([3600, 2 * DAY]),
        rare_identities=st.sampled_from([0.0, 0.3]),
    ),
    faults=FAULTS,
    seed=st.integers(0, 99),
    lost=st.sampled_from([0.0, 0.2]),
    twice=st.sampled_from([0.0, 0.3]),
    senders=st.sampled_from([1, 4, 16]),
    restarts=st.integers(0, 2),
)
def test_each_occurrence_is_kept_once(
    world: Sandbox,
    history: History,
    faults: list[Fault],
    seed: int,
    lost: float,
    twice: float,
    senders: int,
    restarts: int,
) -> None:
    random = Random(seed)
    world.reset()
    world.history = history
    world.faults.add(*faults)
    reports = [one for one in reports_of(history) if random.random() >= lost]
    reports += [one for one in reports if random.random() < twice]
    random.shuffle(reports)
    statuses: Counter[int] = Counter()
    options = {"main": {"collections": list(NAMES)}}
    app = [Running(options).__enter__()]
    running = [Sender(reports[at::senders], app, statuses, Random(seed + at)) for at in range(senders)]
    for sender in running:
        sender.start()
    for _ in range(restarts):
        time.sleep(0.05)
        before, app[0] = app[0], Running(options).__enter__()
        before.__exit__()
    for sender in running:
        sender.join(100)
    app[0].__exit__()
    assert not any(sender.is_alive() for sender in running)
    assert set(statuses) <= {204, 503, 0}
    assert statuses[204] == len(reports)
    world.faults.clear()
    pushed = len(world.segment.kept)
    assert world.segment.dropped == []
    run_line(world, STRETCH, names=NAMES, namespace=NAMESPACE)
    assert_kept_is_truth(world, STRETCH, NAMES, duplicates=None)
    assert len(world.segment.kept) >= pushed
    if not lost:
        assert len(world.segment.kept) == pushed, "the pull road had nothing to add"


def test_the_pull_road_adds_nothing_to_what_was_pushed_and_its_ids_are_the_same(world: Sandbox) -> None:
    """Opens and clicks among it: `duplicates` has what the second road sent."""
    world.reset()
    world.history = History.generate(seed=5, deliveries=300, start=NOVEMBER, end=STRETCH.end)
    with Running({"main": {"collections": list(NAMES)}}) as app:
        for body in reports_of(world.history):
            assert app.post(body).status_code == 204
    pushed = {event["messageId"]: event for event in world.segment.kept}
    assert {"Email Opened", "Email Link Clicked", "Email Sent"} <= {event["event"] for event in pushed.values()}
    run_line(world, STRETCH, names=NAMES, namespace=NAMESPACE)
    assert len(world.segment.kept) == len(pushed)
    pulled = {event["messageId"]: event for event in world.segment.duplicates}
    assert set(pulled) == set(pushed)
    for message_id, event in pulled.items():
        for field in ("event", "originalTimestamp", "userId", "anonymousId", "context", "integrations"):
            assert event.get(field) == pushed[message_id].get(field)
        assert pushed[message_id]["properties"].items() >= event["properties"].items()
    assert any("campaign_name" in event["properties"] for event in pulled.values())


def test_a_kill_between_segments_answer_and_ours(world: Sandbox, tmp_path: Any) -> None:
    """Segment has the event, and Customer.io has no answer: it comes again, under the same id."""
    world.reset()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "airflow_provider_cio.stream.app:app", "--port", str(port)]
    environment = os.environ | {"AIRFLOW__CUSTOMERIO__STREAMS": '{"main": {}}', "NO_PROXY": "127.0.0.1"}
    url, body = f"http://127.0.0.1:{port}/main", encoded(report())

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            try:
                if requests.get(f"{url}/health", timeout=5).status_code == 200:
                    return process
            except requests.ConnectionError:
                time.sleep(0.05)
        process.kill()
        raise AssertionError("it does not serve")

    process = start()
    world.faults.add(Fault(side="segment", kind="timeout", seconds=30))  # it takes the event, and keeps its answer back
    killer = threading.Thread(target=_kill_when_kept, args=(world, process))
    killer.start()
    with pytest.raises(requests.ConnectionError):
        requests.post(url, data=body, headers=signed(body), timeout=60)
    killer.join()
    process.wait(10)
    process = start()
    try:
        assert requests.post(url, data=body, headers=signed(body), timeout=60).status_code == 204
    finally:
        process.kill()
        process.wait(10)
    assert (len(world.segment.kept), len(world.segment.duplicates)) == (1, 1)


def _kill_when_kept(world: Sandbox, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 10
    while not world.segment.kept_count and time.monotonic() < ends:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)

"""Helpers of the stream's tests: reports as Customer.io sends them, and the app behind a real server."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
import requests
import uvicorn

from airflow_provider_cio.stream.app import StreamApp
from tests.ports import free_port
from tests.sandbox import Sandbox

KEY = "current-signing-key-0123456789"
PREVIOUS_KEY = "previous-signing-key-987654321"
ADDRESS = "jane.doe@example.com"
#: Statuses that may leave the app, for reports.
STATUSES = {204, 401, 404, 405, 413, 503}


def report(metric: str = "delivered", channel: str = "email", *, event_id: str = "01E4", **data: Any) -> dict[str, Any]:
    """Return a report as the reference shows it; a value of None takes a key away."""
    known = {
        "delivery_id": "RPILAgUBcRhIBqSfeiIwdIYJKxTY",
        "identifiers": {"id": "42", "email": ADDRESS, "cio_id": "d9c106000001"},
        "customer_id": "0200000001",
        "recipient": ADDRESS,
        "subject": "Hello",
        "campaign_id": 9,
        "action_id": 42,
    }
    whole = {name: value for name, value in (known | data).items() if value is not None}
    return {"event_id": event_id, "object_type": channel, "metric": metric, "timestamp": 1613063089, "data": whole}


def signed(body: bytes, key: str = KEY, timestamp: str | None = None) -> dict[str, str]:
    """Return the headers of a signed request with this body, made without the code under test."""
    stamp = str(int(time.time())) if timestamp is None else timestamp
    signature = hmac.new(key.encode(), b"v0:" + stamp.encode() + b":" + body, hashlib.sha256).hexdigest()
    return {"x-cio-timestamp": stamp, "x-cio-signature": signature, "content-type": "application/json"}


def encoded(one: Any) -> bytes:
    return one if isinstance(one, bytes) else json.dumps(one).encode()


class Running:
    """App behind uvicorn on loopback, in a thread."""

    def __init__(self, streams: Mapping[str, Any] | str, port: int = 0, **config: Any) -> None:
        self.app = StreamApp(lambda: streams if isinstance(streams, str) else json.dumps(streams))
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        options: dict[str, Any] = {"log_config": None, "log_level": "warning", "access_log": False} | config
        self._server = uvicorn.Server(uvicorn.Config(options.pop("app", self.app), **options))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.session = requests.Session()
        self.session.trust_env = False

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._server.serve(sockets=[self._listener]))

    def post(self, one: Any, name: str = "main", /, **headers: str | None) -> requests.Response:
        """Send a report, signed unless `headers` say otherwise."""
        body = encoded(one)
        return self.session.post(f"{self.url}/{name}", data=body, headers={**signed(body), **headers}, timeout=90)

    def __enter__(self) -> Running:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()
        self._server.should_exit = True
        self._thread.join(10)
        self._listener.close()


def counted(stream: Running) -> Counter[str]:
    """Return the counts of the stream `main` so far."""
    streams = stream.app._loading
    assert streams is not None
    one = streams.result()["main"]
    assert not isinstance(one, Exception)
    return one.counts.total.copy()


def letters(folder: Path) -> list[dict[str, Any]]:
    """Return the dead letters."""
    return [json.loads(line) for path in sorted(folder.rglob("*.jsonl")) for line in path.read_bytes().splitlines()]


class Process:
    """App behind uvicorn on loopback, in a process of its own that can be killed and started again."""

    def __init__(self, streams: Mapping[str, Any]) -> None:
        self._streams = json.dumps(streams)
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Return when the stream `main` can be used. After failed batches it pauses as briefly as tests can bear."""
        program = "import uvicorn; from airflow_provider_cio.stream import intake; intake.PAUSE = 0.05; uvicorn.main()"
        command = [sys.executable, "-c", program, "airflow_provider_cio.stream.app:app", "--port", str(self._port)]
        environment = os.environ | {"AIRFLOW__CUSTOMERIO__STREAMS": self._streams, "NO_PROXY": "127.0.0.1"}
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            try:
                if requests.get(f"{self.url}/main/health", timeout=5).status_code == 200:
                    return
            except requests.ConnectionError:
                time.sleep(0.02)
        self.kill()
        raise AssertionError("it does not serve")

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self._process.kill()
        self._process.wait(10)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def connect(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, *, app_api: bool = False, **extra: Any) -> None:
    """Point Airflow's two default connections to this sandbox, and give them signing keys.

    :param app_api: with a key for the App API, for the names of campaigns.
    """
    customerio: dict[str, Any] = {"conn_type": "customerio"}
    if app_api:
        customerio |= {"host": sandbox.url, "password": sandbox.settings.app_key}
    segment = {"conn_type": "segment_source", "host": sandbox.url, "password": sandbox.settings.write_key}
    keys = {"webhook_signing_secret": KEY, "webhook_signing_secret_previous": PREVIOUS_KEY}
    put(monkeypatch, "customerio_default", customerio | {"extra": keys})
    put(monkeypatch, "segment_default", segment | {"extra": {"events_per_second": 0, **extra}})


def put(monkeypatch: pytest.MonkeyPatch, conn_id: str, fields: Mapping[str, Any]) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))


@contextmanager
def running(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[Running]:
    """Run the app with one stream, `main`, with these options."""
    connect(monkeypatch, sandbox)
    with Running({"main": options}) as stream:
        yield stream

"""Run a StatsD listener on loopback, and a process of Airflow's that sends to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

STATSD = {
    "AIRFLOW__METRICS__STATSD_ON": "True",
    "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
    "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",  # tags become part of the name, so that they can be seen
}


class Listener:
    """Listener for StatsD's datagrams, one ``name,tag=value:number|kind`` each."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]

    def received(self) -> list[str]:
        """Return all metrics of this package so far. Everything sent on loopback has arrived."""
        lines = []
        while True:
            try:
                lines += self._socket.recv(65_536).decode().splitlines()
            except BlockingIOError:
                return [line for line in lines if "customerio." in line]

    def close(self) -> None:
        self._socket.close()


@contextmanager
def listening() -> Iterator[Listener]:
    listener = Listener()
    try:
        yield listener
    finally:
        listener.close()


def run(code: str, listener: Listener, **settings: str) -> None:
    """Run Python to its end, with metrics that go to the listener."""
    environment = os.environ | STATSD | {"AIRFLOW__METRICS__STATSD_PORT": str(listener.port)} | settings
    program = f"from airflow_provider_cio.observability.metrics import count, timing\n{code}\nprint('went on')"
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=110
    )
    assert ran.stdout.endswith("went on\n")

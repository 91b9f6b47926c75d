"""Histories for the benchmarks, the sandbox that serves them, and the programs run beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import requests

REPO = Path(__file__).resolve().parents[2]
DAY = 86_400
START = 1_767_225_600  # 2026-01-01T00:00:00Z
END = START + 31 * DAY
#: Other libraries have an environment of their own, since they can't live with what Airflow's is made of: see Makefile.
PEER_PYTHON = REPO / ".venv" / "bench" / "bin" / "python"
EVERYTHING = (START, END + 29 * DAY)  # the last thing that happens to a delivery comes 28 days after it at most


class Served(NamedTuple):
    """A sandbox in a process of its own. `truth` counts, per collection, the events that an interval holds."""

    url: str
    app_key: str
    write_key: str
    deliveries: int
    truth: dict[str, int]

    def reset(self) -> None:
        requests.post(f"{self.url}/_sandbox/reset", timeout=60).raise_for_status()

    def asked(self) -> dict[str, Any]:
        return self._told("customerio")

    def kept(self) -> dict[str, Any]:
        return self._told("segment")

    def wrong(self) -> str:
        """Return the differences between the truth and the events that arrived since the last reset, or nothing."""
        kept = self.kept()
        if kept["by_event"] == self.truth and not kept["duplicates"] and not kept["dropped"]:
            return ""
        return (
            f"kept {kept['by_event']}, the truth is {self.truth}; "
            f"duplicates {kept['duplicates']}, dropped {kept['dropped']}"
        )

    def _told(self, side: str) -> dict[str, Any]:
        answer = requests.get(f"{self.url}/_sandbox/{side}", timeout=60)
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
        return told


@contextmanager
def serving(
    deliveries: int,
    *,
    interval: tuple[int, int] | None = None,
    history: Mapping[str, Any] | None = None,
    gives_way: bool = False,
    **settings: Any,
) -> Iterator[Served]:
    """Serve a sandbox over e-mail deliveries, evenly spread over 31 days unless `history` says otherwise.

    :param interval: Unix seconds; what the truth is counted for.
    :param gives_way: leave the cores to the program that is measured whenever that needs them, because services have
        machines of their own. The limit of the rate is then less exact.
    """
    spread = {
        "deliveries": deliveries,
        "start": START,
        "end": END,
        "burst": 0.0,
        "channels": ["email"],
        "drafts": 0.0,
        "lean": True,
    }
    wanted = {
        "history": spread | dict(history or {}),
        "settings": {"remember": "counts"} | settings,
        "interval": interval,
    }
    priority = ["nice", "-n", "19"] if gives_way else []
    command = [*priority, sys.executable, "-m", "tests.benchmarks.run_sandbox", json.dumps(wanted)]
    # It runs until its stdin ends, so it can't outlive this process, however that ends.
    with subprocess.Popen(command, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the sandbox did not start")
        try:
            yield Served(**json.loads(line))
        finally:
            process.stdin.close()


def run(
    module: str, wanted: Mapping[str, Any], *, python: str = sys.executable, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a program of this folder to its end; return the JSON on the last line that it prints."""
    return last_line([python, "-m", f"tests.benchmarks.{module}", json.dumps(wanted)], env)


def last_line(command: Sequence[str], env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a command, and return the JSON on the last line that it prints.

    :param env: by default this process's own.
    """
    ran = subprocess.run(command, cwd=REPO, env=env, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found

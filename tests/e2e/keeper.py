"""End all processes that a `World` has started, once the process that owns the world closes this one's stdin, or dies.

`python -m tests.e2e.keeper HOME` reads one session id a line. Airflow puts each task into a process group of
its own, so groups are not enough: whatever belongs to one of these sessions is killed. Then HOME is removed.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable

import psutil

PATIENCE = 10.0  # seconds until what can't be killed is reported


def members(sessions: Iterable[int]) -> list[int]:
    """Return the pids of all live processes in these sessions, without zombies."""
    wanted = frozenset(sessions)
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) in wanted and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return found


def end(sessions: Iterable[int]) -> list[int]:
    """Kill all processes of these sessions; return the pids of those still alive after `PATIENCE` seconds."""
    wanted = frozenset(sessions)
    deadline = time.monotonic() + PATIENCE
    while (left := members(wanted)) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    return left


def main(home: str) -> int:
    """Wait for the end of stdin, then leave nothing behind; return 1 if something stayed."""
    sessions = {int(line) for line in sys.stdin}
    left = end(sessions)
    if left:
        print(f"still running: {left}", file=sys.stderr)
    shutil.rmtree(home, ignore_errors=True)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

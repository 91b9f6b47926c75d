"""Child processes that never outlive their owner."""

import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from tests.e2e.keeper import end

REPO = Path(__file__).resolve().parents[2]


class WorldError(Exception):
    """A part of the world did not come up, or did not finish in time."""


def command(main: Callable[[], int]) -> NoReturn:
    """Run a program that owns processes, so that a signal ends them too, quietly."""
    # A shell lets a background program ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except WorldError as error:
        sys.exit(str(error))


class Processes:
    """Processes, each in a session of its own, with a keeper that ends them however their owner ends, even by SIGKILL.

    On exit none of them is left, nor `home`, their temporary directory.
    """

    def __enter__(self) -> Self:
        self.home = Path(tempfile.mkdtemp(prefix="airflow-cio-"))
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.keeper", str(self.home)],
            cwd=REPO,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        code = self._keeper.wait()
        for process in self._running.values():
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if code != 0:
            raise WorldError("not everything that was started could be ended")

    def start(
        self, name: str, *args: str, env: Mapping[str, str], pipe: bool = False, program: str = sys.executable
    ) -> None:
        """
        Start `PROGRAM ARGS`.

        :param pipe: its stdout is for `first_line`, and not for `output`.
        """
        with self._out(name).open("wb") as out:
            process = subprocess.Popen(
                [program, *args],
                cwd=REPO,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else out,
                stderr=out,
                start_new_session=True,
            )
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(b"%d\n" % process.pid)
        self._keeper.stdin.flush()
        self._running[name] = process

    def first_line(self, name: str, *, timeout: float = 60) -> bytes:
        """Return the first line that a process prints."""
        stdout = self._running[name].stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], timeout)
        line = stdout.readline() if ready else b""
        if not line:
            raise WorldError(f"{name} did not start\n{self.output(name)}")
        return line

    def finish(self, name: str) -> None:
        """Wait for a process that has to end by itself, and without an error."""
        if self._running[name].wait() != 0:
            raise WorldError(f"{name} failed\n{self.output(name)}")
        del self._running[name]

    def stop(self, name: str) -> None:
        """End a process with SIGTERM, and wait for it; `start` may then start it anew."""
        process = self._running.pop(name)
        process.terminate()
        process.wait(timeout=30)
        if process.stdout is not None:
            process.stdout.close()

    def kill(self, name: str) -> None:
        """Send SIGKILL to all of its session at once, as if its machine dies."""
        process = self._running.pop(name)
        if end([process.pid]):
            raise WorldError(f"{name} could not be killed")
        process.wait()

    def wait(self, true: Callable[[], bool], what: str, *, timeout: float = 180, every: float = 0.3) -> None:
        """Wait until the condition is true; raise when time is up, or when a process that should run has ended.

        :param every: how many seconds pass between two looks.
        """
        deadline = time.monotonic() + timeout
        while not true():
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise WorldError(f"{name} ended with {process.returncode}\n{self.output(name)}")
            if time.monotonic() > deadline:
                outputs = "\n".join(f"--- {name}\n{self.output(name)}" for name in self._running)
                raise WorldError(f"no {what} after {timeout:.0f} s\n{outputs}")
            time.sleep(every)

    def output(self, name: str, lines: int = 30) -> str:
        """Return the last lines that a process has printed."""
        return "\n".join(self._out(name).read_text(errors="replace").splitlines()[-lines:])

    def _out(self, name: str) -> Path:
        return self.home / f"{name}.out"

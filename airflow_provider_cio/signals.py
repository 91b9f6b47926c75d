"""Signals that end a task, held back while the task asks its supervisor."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back the signals of a kill and of an `execution_timeout` during a request to the task's supervisor.

    Airflow does not compare answers with requests. If a request were left before its whole answer is read, the rest
    would be taken for the answer to the next request, which may then wait for ever.
    """
    with _held(signal.SIGTERM), _held(signal.SIGALRM):
        yield


@contextmanager
def _held(number: signal.Signals) -> Iterator[None]:
    """Handle a signal at the end of the block."""
    handler = signal.getsignal(number)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield  # no handler in Python, or none that could interrupt this thread
        return
    came = False

    def note(*_: object) -> None:
        nonlocal came
        came = True

    signal.signal(number, note)
    try:
        yield
    finally:
        signal.signal(number, handler)
        if came:
            signal.raise_signal(number)

"""A background thread that calls a function every few seconds, to log progress or waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Seconds between two calls, because no run may be silent for longer.
PROGRESS_EVERY = 10.0


@contextmanager
def ticking(call: Callable[[], None]) -> Iterator[None]:
    """Call `call` every ten seconds from a background thread, even while the main thread is blocked.

    The exit waits for a call that is under way, so that none comes later.
    """
    ended = threading.Event()

    def calls() -> None:
        while not ended.wait(PROGRESS_EVERY):
            call()

    thread = threading.Thread(target=calls, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def logging_waits(info: Callable[..., None], waiting: Callable[[], str | None]) -> Iterator[None]:
    """Log every ten seconds what a client waits for, if it waits.

    :param info: method of a log.
    :param waiting: method of the client.
    """

    def say_what_it_waits_for() -> None:
        if wait := waiting():
            info("%s", wait)

    with ticking(say_what_it_waits_for):
        yield

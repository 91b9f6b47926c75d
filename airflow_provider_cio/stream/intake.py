"""Group commit: many callers, each with one item, are served by few batches.

An item that comes while nothing is under way goes at once, alone. What comes while a batch is under way gathers for
some milliseconds, and goes as the next one beside it. Once as many are under way as may be, all that comes gathers
until one of them has ended. So one caller after the other waits for one round trip each, many callers for little
longer, and a flood makes large batches by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from airflow_provider_cio.events.event import Refused
from airflow_provider_cio.exceptions import CustomerIOToSegmentError, TryAgainLaterError
from airflow_provider_cio.segment.batches import MAX_BATCH_BYTES, MAX_BATCH_EVENTS, MAX_BATCHES, Settled

#: Bytes and items that may wait. Beyond that a caller had better come again later.
MAX_WAITING_BYTES = 8 * 2**20
MAX_WAITING_ITEMS = 5000
#: Seconds: if the last batch took longer, no further one starts beside others unless it is full. The other side is
#: slow, or the rate limit holds batches back and lets them through in any order: one of many could wait for too long.
BESIDE_WITHIN = 0.3
#: Seconds for which items gather while another batch is under way: callers that were answered together come again
#: together, and belong into one batch.
GATHER = 0.01
#: Seconds after which nobody waits for a batch any more. Its thread may still be busy with it.
BATCH_BUDGET = 2.5
#: Failed batches in a row after which nothing is tried for a while.
FAILURES_BEFORE_PAUSE = 3
#: Seconds of that pause, if the other side does not ask for another; and the longest that it may ask for.
PAUSE = 5.0
LONGEST_PAUSE = 30.0


class Unavailable(Exception):
    """An item was not taken, and can be given again. `reason` is a short name to count by.

    :param problem: what went wrong, for the log.
    :param pause: seconds for which nothing is tried.
    """

    def __init__(self, reason: str, problem: str = "", pause: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.problem = problem
        self.pause = pause


_Result = asyncio.Future[Refused | None]


class _Waiting(NamedTuple):
    item: bytes
    result: _Result


class _Batch:
    """:param waiting: the results of each item that is not settled yet."""

    def __init__(self, taken: Iterable[_Waiting]) -> None:
        self.waiting: dict[bytes, list[_Result]] = {}
        for item, result in taken:
            self.waiting.setdefault(item, []).append(result)
        self.begun = time.monotonic()
        self.in_time = True
        self.timer: asyncio.TimerHandle | None = None


class Intake:
    """Belongs to one event loop. Nothing that was acknowledged is in here, so it needs no shutdown.

    :param send: called in a thread with the items of a batch; it yields them as they are settled, safe or refused.
        An exception leaves the others to be given again.
    :param envelope: bytes of a request around the items of its batch.
    """

    def __init__(
        self, send: Callable[[list[bytes]], Iterable[Settled]], *, name: str = "intake", envelope: int = 0
    ) -> None:
        self._send = send
        self._most_bytes = MAX_BATCH_BYTES - envelope
        self._pool = ThreadPoolExecutor(MAX_BATCHES, thread_name_prefix=name)
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._gathered = False  # long enough
        self._gathering: asyncio.TimerHandle | None = None
        self._threads = 0  # in use
        self._in_time = 0  # batches under way that somebody still waits for
        self._took = 0.0  # seconds, of the last batch that ended
        self._failures = 0
        self._paused_until = 0.0
        #: Whether the last batch that ended reached the other side; None before the first.
        self.reached: bool | None = None

    async def put(self, item: bytes) -> Refused | None:
        """Return when the item is safe, or refused for good. Whoever stops waiting takes the item back, if it can.

        :raises Unavailable: it can't be taken now.
        """
        pause = self._paused_until - time.monotonic()
        if pause > 0:
            raise Unavailable("paused", pause=pause)
        if (
            len(self._waiting) >= MAX_WAITING_ITEMS
            or (self._waiting and self._waiting_bytes + len(item) > MAX_WAITING_BYTES)  # alone, it may be of any size
            or (self._threads == MAX_BATCHES and not self._in_time)  # every thread is stuck
        ):
            raise Unavailable("full")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(item, loop.create_future())
        if not self._waiting:
            self._gathered = False
            if self._gathering:
                self._gathering.cancel()
            self._gathering = loop.call_later(GATHER, self._gather_no_longer)
        self._waiting.append(waiting)
        self._waiting_bytes += len(item)
        self._go_on()
        return await waiting.result

    def _gather_no_longer(self) -> None:
        self._gathered = True
        self._go_on()

    def _go_on(self) -> None:
        """Start what can be started."""
        while self._threads < MAX_BATCHES and self._waiting and self._is_due():
            taken = [one for one in self._next() if not one.result.done()]  # somebody may have stopped waiting
            if taken:
                self._start(_Batch(taken))

    def _is_due(self) -> bool:
        """Whether what waits may start now."""
        is_full = len(self._waiting) >= MAX_BATCH_EVENTS or self._waiting_bytes >= self._most_bytes
        return not self._in_time or is_full or (self._gathered and self._took <= BESIDE_WITHIN)

    def _next(self) -> list[_Waiting]:
        taken: list[_Waiting] = []
        size = 0
        while self._waiting and len(taken) < MAX_BATCH_EVENTS:
            size += len(self._waiting[0].item) + 1
            if taken and size >= self._most_bytes:
                break
            taken.append(self._waiting.popleft())
            self._waiting_bytes -= len(taken[-1].item)
        return taken

    def _start(self, batch: _Batch) -> None:
        loop = asyncio.get_running_loop()
        self._threads += 1
        self._in_time += 1

        def work(items: list[bytes]) -> None:
            for settled in self._send(items):
                loop.call_soon_threadsafe(self._settle, batch, settled)

        working = loop.run_in_executor(self._pool, work, list(batch.waiting))
        batch.timer = loop.call_later(BATCH_BUDGET, self._overdue, batch)
        working.add_done_callback(partial(self._ended, batch))

    def _settle(self, batch: _Batch, settled: Settled) -> None:
        self.reached = True
        self._failures = 0
        self._paused_until = 0.0
        for item in settled.events:
            for result in batch.waiting.pop(item, ()):
                if not result.done():
                    result.set_result(settled.refused)

    def _overdue(self, batch: _Batch) -> None:
        batch.in_time = False
        self._in_time -= 1
        self._failed(batch, Unavailable("late", "there was no answer in time"), None)
        self._go_on()

    def _ended(self, batch: _Batch, working: asyncio.Future[None]) -> None:
        self._threads -= 1
        self._took = time.monotonic() - batch.begun
        error = asyncio.CancelledError() if working.cancelled() else working.exception()
        if batch.timer:
            batch.timer.cancel()
        if batch.in_time:
            self._in_time -= 1
            if error is not None:
                after = error.after if isinstance(error, TryAgainLaterError) else None
                self._failed(batch, Unavailable("not_reached", text_for_log(error)), after)
        self._go_on()

    def _failed(self, batch: _Batch, why: Unavailable, after: float | None) -> None:
        """Give back what the batch has not settled, and after some failures all that waits."""
        self.reached = False
        self._failures += 1
        given_back = [result for results in batch.waiting.values() for result in results]
        if after or self._failures >= FAILURES_BEFORE_PAUSE:
            why.pause = min(after or PAUSE, LONGEST_PAUSE)
            self._paused_until = time.monotonic() + why.pause
            given_back += (one.result for one in self._waiting)
            self._waiting.clear()
            self._waiting_bytes = 0
        for result in given_back:
            if not result.done():
                result.set_exception(why)


def text_for_log(error: BaseException) -> str:
    """Return what may be logged of an error: the text of our own, which shows no secret, or else only its kind."""
    return str(error) if isinstance(error, CustomerIOToSegmentError) else type(error).__name__

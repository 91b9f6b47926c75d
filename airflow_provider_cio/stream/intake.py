"""Group commit: few batches carry the items of many concurrent callers.

An item that arrives while no batch is under way is sent at once, alone. Items that arrive during a batch gather for
some milliseconds, and make the next batch beside it. While `MAX_BATCHES` are under way, all items gather until one of
these ends. So a single caller waits for one round trip, many callers wait little longer, and load makes batches large.
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

#: Bytes of waiting items. Beyond that callers are turned away, so that memory stays bounded.
MAX_WAITING_BYTES = 8 * 2**20
#: Number of waiting items, two full batches, for the same reason.
MAX_WAITING_ITEMS = 5000
#: Seconds. If the last batch took longer, only a full batch starts beside others: a slow service or the rate limit
#: may finish batches in any order, and one of many would wait for too long.
BESIDE_WITHIN = 0.3
#: Seconds for which items gather while another batch is under way, because callers that were answered together come
#: back together and belong into one batch.
GATHER = 0.01
#: Seconds for which callers wait for a batch. Its thread may take longer.
BATCH_BUDGET = 2.5
#: Failed batches in a row before a pause.
FAILURES_BEFORE_PAUSE = 3
#: Seconds of a pause, unless the service asks for another length.
PAUSE = 5.0
#: Most seconds of a pause that the service can ask for.
LONGEST_PAUSE = 30.0


class Unavailable(Exception):
    """The item was not delivered, and can be offered again.

    :param reason: a short name to count by.
    :param problem: explanation for the log.
    :param pause: seconds for which nothing is sent.
    """

    def __init__(self, reason: str, problem: str = "", pause: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.problem = problem
        self.pause = pause


_Future = asyncio.Future[Refused | None]


class _Waiting(NamedTuple):
    item: bytes
    future: _Future


class _Batch:
    """Batch under way. `waiting` has the callers' futures for each unsettled item; equal items are sent once."""

    def __init__(self, offered: Iterable[_Waiting]) -> None:
        self.waiting: dict[bytes, list[_Future]] = {}
        for item, future in offered:
            self.waiting.setdefault(item, []).append(future)
        self.begun = time.monotonic()
        self.in_time = True
        self.timer: asyncio.TimerHandle | None = None


class Intake:
    """Group commit for the callers of one event loop. It holds nothing acknowledged, so it needs no shutdown.

    :param send: called in a thread with the items of a batch. It yields them as they are settled: delivered or
        refused. If it raises, the callers of the unsettled items get `Unavailable`.
    :param envelope: bytes of a request around the items of its batch.
    """

    def __init__(
        self, send: Callable[[list[bytes]], Iterable[Settled]], *, name: str = "intake", envelope: int = 0
    ) -> None:
        self._send = send
        self._max_bytes = MAX_BATCH_BYTES - envelope
        self._pool = ThreadPoolExecutor(MAX_BATCHES, thread_name_prefix=name)
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._gathered = False  # for `GATHER` seconds
        self._gathering: asyncio.TimerHandle | None = None
        self._threads = 0  # in use
        self._in_time = 0  # batches under way that are not overdue
        self._last_duration = 0.0  # of the last batch that ended, in seconds
        self._failures = 0
        self._paused_until = 0.0
        #: True if the last batch reached the service; None before the first one.
        self.reached: bool | None = None

    async def put(self, item: bytes) -> Refused | None:
        """Return None once the item is delivered, or its final refusal. A cancelled call withdraws a waiting item.

        :raises Unavailable: the item was turned away, or not delivered in time.
        """
        pause = self._paused_until - time.monotonic()
        if pause > 0:
            raise Unavailable("paused", pause=pause)
        if (
            len(self._waiting) >= MAX_WAITING_ITEMS
            or (self._waiting and self._waiting_bytes + len(item) > MAX_WAITING_BYTES)  # one alone may have any size
            or (self._threads == MAX_BATCHES and not self._in_time)  # every thread is overdue
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
        self._start_due()
        return await waiting.future

    def _gather_no_longer(self) -> None:
        self._gathered = True
        self._start_due()

    def _start_due(self) -> None:
        """Start as many batches as may start now."""
        while self._threads < MAX_BATCHES and self._waiting and self._is_due():
            wanted = [one for one in self._next() if not one.future.done()]  # a caller may have been cancelled
            if wanted:
                self._start(_Batch(wanted))

    def _is_due(self) -> bool:
        """Return True if the next batch may start now."""
        is_full = len(self._waiting) >= MAX_BATCH_EVENTS or self._waiting_bytes >= self._max_bytes
        return not self._in_time or is_full or (self._gathered and self._last_duration <= BESIDE_WITHIN)

    def _next(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < MAX_BATCH_EVENTS:
            size += len(self._waiting[0].item) + 1
            if batch and size >= self._max_bytes:
                break
            batch.append(self._waiting.popleft())
            self._waiting_bytes -= len(batch[-1].item)
        return batch

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
            for future in batch.waiting.pop(item, ()):
                if not future.done():
                    future.set_result(settled.refused)

    def _overdue(self, batch: _Batch) -> None:
        batch.in_time = False
        self._in_time -= 1
        self._failed(batch, Unavailable("late", "no answer came in time"), None)
        self._start_due()

    def _ended(self, batch: _Batch, working: asyncio.Future[None]) -> None:
        self._threads -= 1
        self._last_duration = time.monotonic() - batch.begun
        error = asyncio.CancelledError() if working.cancelled() else working.exception()
        if batch.timer:
            batch.timer.cancel()
        if batch.in_time:
            self._in_time -= 1
            if error is not None:
                after = error.after if isinstance(error, TryAgainLaterError) else None
                self._failed(batch, Unavailable("not_reached", text_for_log(error)), after)
        self._start_due()

    def _failed(self, batch: _Batch, error: Unavailable, after: float | None) -> None:
        """Raise the error in the callers of the batch's unsettled items. If a pause is due, raise it in all callers."""
        self.reached = False
        self._failures += 1
        futures = [future for of_item in batch.waiting.values() for future in of_item]
        if after or self._failures >= FAILURES_BEFORE_PAUSE:
            error.pause = min(after or PAUSE, LONGEST_PAUSE)
            self._paused_until = time.monotonic() + error.pause
            futures += (one.future for one in self._waiting)
            self._waiting.clear()
            self._waiting_bytes = 0
        for future in futures:
            if not future.done():
                future.set_exception(error)


def text_for_log(error: BaseException) -> str:
    """Return the text of one of our own errors, which shows no secret; of any other error return only its type."""
    return str(error) if isinstance(error, CustomerIOToSegmentError) else type(error).__name__

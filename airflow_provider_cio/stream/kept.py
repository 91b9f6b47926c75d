"""The result of a slow look-up, kept for a while: a connection may come from a database or a secrets backend."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Generic, TypeVar

T = TypeVar("T")

#: Seconds after which a result is looked up anew, in the background.
FRESH = 60.0
#: Seconds after which a look-up that failed is repeated.
PAUSE = 5.0
#: Seconds between two look-ups for a result that may be too old: strangers can ask for it often.
RENEW_EVERY = 1.0


class NotFoundYet(Exception):
    """No look-up has succeeded so far."""


class Kept(Generic[T]):
    """The last good result stands in while a newer one can't be had: a backend that fails may say "not found".

    Belongs to one event loop.

    :param look_up: runs in a thread; it gets the last good result.
    :param failed: told of a look-up that raised.
    :param fresh: seconds; see `FRESH`, which is the default.
    """

    def __init__(
        self,
        look_up: Callable[[T | None], T],
        executor: Executor,
        failed: Callable[[BaseException], None],
        fresh: float | None = None,
    ) -> None:
        self._look_up = look_up
        self._executor = executor
        self._failed = failed
        self._running: asyncio.Future[T] | None = None
        self._fresh = FRESH if fresh is None else fresh
        self._begun_at = -math.inf
        #: When the look-up of the last good result was begun, by the monotonic clock: it shows no later change.
        self.as_of = -math.inf
        #: Whether the last look-up raised.
        self.last_failed = False
        self._value: T | None = None

    @property
    def value(self) -> T | None:
        """The last good result, without looking anything up."""
        return self._value

    async def get(self) -> T:
        """:raises NotFoundYet: there is none."""
        self.begin_if_older_than(PAUSE if self.last_failed else self._fresh)
        if self._value is None:
            await self._ended()
        return self._good()

    async def renewed(self) -> T:
        """Looked up anew, unless that was begun moments ago: `as_of` tells.

        :raises NotFoundYet: there is none.
        """
        self.begin_if_older_than(RENEW_EVERY)
        await self._ended()
        return self._good()

    def _good(self) -> T:
        if self._value is None:
            raise NotFoundYet
        return self._value

    async def _ended(self) -> None:
        if self._running is not None:
            await asyncio.wait([self._running])

    def begin_if_older_than(self, seconds: float) -> None:
        """Look it up in the background, unless one look-up runs or was begun since."""
        if self._running is None and time.monotonic() - self._begun_at >= seconds:
            self._begun_at = time.monotonic()
            self._running = asyncio.get_running_loop().run_in_executor(self._executor, self._look_up, self._value)
            self._running.add_done_callback(self._done)

    def _done(self, look_up: asyncio.Future[T]) -> None:
        self._running = None
        error = asyncio.CancelledError() if look_up.cancelled() else look_up.exception()
        self.last_failed = error is not None
        if error is None:
            self._value, self.as_of = look_up.result(), self._begun_at
        else:
            self._failed(error)

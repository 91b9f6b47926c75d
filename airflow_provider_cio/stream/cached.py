"""Cache for the result of a slow look-up, such as a connection from a database or a secrets backend."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Generic, TypeVar

T = TypeVar("T")

#: Seconds until a result is looked up again, in the background.
FRESH = 60.0
#: Seconds until a failed look-up is repeated.
PAUSE = 5.0
#: Seconds between two look-ups on request, because unauthenticated callers can trigger them.
RENEW_EVERY = 1.0


class NotFoundYet(Exception):
    """No look-up has succeeded so far."""


class Cached(Generic[T]):
    """Last good result of a look-up, for one event loop.

    It is used until a newer one is there, because a failing backend may say "not found".

    :param look_up: called in a thread with the last good result.
    :param failed: called with the error of a look-up that raised.
    :param fresh: seconds, in place of `FRESH`.
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
        #: Time by the monotonic clock at which the look-up of `value` began. Later changes may be missing from it.
        self.as_of = -math.inf
        #: True if the last look-up raised.
        self.last_failed = False
        self._value: T | None = None

    @property
    def value(self) -> T | None:
        """Last good result, without a look-up; None if there is none."""
        return self._value

    async def get(self) -> T:
        """Return the last good result. Wait for a look-up only if there is none.

        :raises NotFoundYet: that look-up failed.
        """
        self.begin_if_older_than(PAUSE if self.last_failed else self._fresh)
        if self._value is None:
            await self._wait()
        return self._good()

    async def renewed(self) -> T:
        """Look up again, unless a look-up began within the last second. `as_of` tells the age of the result.

        :raises NotFoundYet: no look-up has succeeded.
        """
        self.begin_if_older_than(RENEW_EVERY)
        await self._wait()
        return self._good()

    def _good(self) -> T:
        if self._value is None:
            raise NotFoundYet
        return self._value

    async def _wait(self) -> None:
        if self._running is not None:
            await asyncio.wait([self._running])

    def begin_if_older_than(self, seconds: float) -> None:
        """Start a look-up in the background, unless one is running or began within these seconds."""
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

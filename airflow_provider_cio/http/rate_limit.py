"""Rate limiter for requests of many threads. Pure: the caller passes the sleep, a test also the clock."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds added to the second of the limit, because requests may arrive closer together than they were granted: 20 ms
#: for the network, 10 ms for threads that are scheduled late.
MARGIN = 0.03
#: Share of the current rate that remains after a 429.
RATE_AFTER_429 = 0.8
#: Share of the configured rate that always remains, so that many 429s do not stop a run.
LOWEST_RATE = 0.05
#: Share of the configured rate that each request restores after a 429.
RECOVERY_PER_REQUEST = 0.01
#: Lowest and highest units a second. Beyond these, numbers overflow.
_RATES = (1e-9, 1e9)
#: Longest sleep at once, in seconds, because none can be of centuries.
_LONGEST_SLEEP = 3600.0


@dataclass(slots=True, eq=False)
class Grant:
    """Permission to send one request.

    :param at: time of the grant by the limiter's clock.
    :param slow_downs: number of slow-downs before it.
    """

    at: float
    slow_downs: int


class RateLimiter:
    """Limit of `per_second` units a second for all threads together; 0 is no limit.

    Without `bursts`, units are evenly spaced: at 1000 a second, a grant of 100 units delays the next one by 0.1 s.
    With `bursts`, every grant is one unit, and several may come at once, but at most `per_second` (rounded down, at
    least 1) within one second and a margin. So the service sees at most `per_second` requests in any one second,
    whether it uses a token bucket, calendar seconds or a sliding second.

    On a 429 (`slow_down`) every thread waits for the pause, then the rate drops by 20 %. Each later grant adds 1 %
    until the configured rate is reached. From the first 429 on, grants are evenly spaced even with `bursts`, because
    the service may allow fewer requests at once than in a second.
    """

    def __init__(self, per_second: float, *, bursts: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        per_second = per_second and min(max(per_second, _RATES[0]), _RATES[1])
        self._clock = clock
        self._lock = threading.Lock()
        self._window = max(1.0, 1 / per_second) + MARGIN if per_second else 0.0
        self._most = max(1, int(per_second)) if per_second and bursts else 0  # grants within `_window`; 0: any number
        self._configured = self._most / self._window if self._most else per_second or math.inf
        self._granted: list[Grant] = []  # grants of the last `_window`, if bursts are allowed
        self._evenly = not bursts
        self._last_at = -math.inf
        self._last_units = 0.0
        self._paused_until = -math.inf
        self._slow_downs = 0
        #: Current units per second.
        self.rate = self._configured

    def acquire(self, units: float, sleep: Callable[[float], None]) -> Grant:
        """Wait until a request of `units` may be sent. The caller has to send it at once.

        Nothing is reserved: a thread that wakes up late gets its grant late, and a thread that wakes up during a pause
        waits for its end.

        :returns: the argument for `slow_down` if this request gets a 429.
        """
        while True:
            with self._lock:
                now = self._clock()
                at = self._earliest(now)
                if at <= now:
                    return self._grant(now, units)
            sleep(min(at - now, _LONGEST_SLEEP))

    def slow_down(self, seconds: float, grant: Grant) -> None:
        """Grant nothing for `seconds`, then continue at a lower rate.

        :param grant: grant of the refused request. Refused requests that were sent together lower the rate once.
        """
        with self._lock:
            if grant.slow_downs == self._slow_downs:
                self._slow_downs += 1
                self._evenly = True
                self.rate = max(self.rate * RATE_AFTER_429, self._configured * LOWEST_RATE)
            self._paused_until = max(self._paused_until, self._clock() + seconds)

    def sent_late(self, grant: Grant, seconds: float) -> None:
        """Count the request as sent `seconds` after its grant, because a handshake came first."""
        with self._lock:
            grant.at += seconds

    def _earliest(self, now: float) -> float:
        at = self._paused_until
        if self._evenly:
            at = max(at, self._last_at + self._last_units / self.rate)
        if self._most and len(self._granted) >= self._most:
            self._granted = [grant for grant in self._granted if grant.at + self._window > now]
            if len(self._granted) >= self._most:
                at = max(at, min(grant.at for grant in self._granted) + self._window)
        return at

    def _grant(self, now: float, units: float) -> Grant:
        grant = Grant(now, self._slow_downs)
        self._last_at, self._last_units = now, units
        if self._most:
            self._granted.append(grant)
        self.rate = min(self._configured, self.rate + self._configured * RECOVERY_PER_REQUEST)
        return grant

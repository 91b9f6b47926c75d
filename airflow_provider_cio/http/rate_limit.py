"""How fast requests may be sent. Pure: the caller brings the sleep, and a test the clock."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds. Two requests may travel for different times, and threads may be scheduled late; both brings them closer
#: together than they were sent. 20 ms are for the network, 10 ms for this process.
MARGIN = 0.03
#: Of the present rate, after a 429.
RATE_AFTER_429 = 0.8
#: Of the configured rate: no number of 429s makes it slower.
LOWEST_RATE = 0.05
#: Of the configured rate: what each request adds until it is reached again.
RECOVERY_PER_REQUEST = 0.01


@dataclass(slots=True, eq=False)
class Grant:
    """Permission to send one request: when it was given (the limiter's clock), and after how many slow-downs."""

    at: float
    slow_downs: int


class RateLimiter:
    """Lets `per_second` units a second through, over all threads together; 0 is no limit.

    Without `bursts`, units are evenly spaced: one grant of 100 units at 1000 a second is followed by the next after
    0.1 s. With `bursts`, every grant is one unit, and several may come at once, but never more than `per_second`
    (rounded down; below 1, one) within one second and a margin. So the service sees at most `per_second` requests in
    any one second, whether it counts by a token bucket, by the clock's seconds or by a sliding second.

    On a 429 (`slow_down`) every thread waits for the pause, then the rate drops by 20 %. Each grant after that adds
    1 % until the configured rate is reached. From the first 429 on grants are evenly spaced, bursts or not: the
    service may allow fewer at once than in a second.
    """

    def __init__(self, per_second: float, *, bursts: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._window = max(1.0, 1 / per_second) + MARGIN if per_second else 0.0
        self._most = max(1, int(per_second)) if per_second and bursts else 0  # grants within `_window`; 0: any number
        self._configured = self._most / self._window if self._most else per_second or math.inf
        self._granted: list[Grant] = []  # those of the last `_window`, if bursts are allowed
        self._evenly = not bursts
        self._last_at = -math.inf
        self._last_units = 0.0
        self._paused_until = -math.inf
        self._slow_downs = 0
        #: Units per second at present.
        self.rate = self._configured

    def acquire(self, units: float, sleep: Callable[[float], None]) -> Grant:
        """Wait until a request of so many units may be sent; send it at once then.

        Nothing is reserved: a thread that wakes up late is granted late, and one that wakes up within a pause goes on
        waiting.

        :returns: for `slow_down`, if this request gets a 429.
        """
        while True:
            with self._lock:
                now = self._clock()
                at = self._earliest(now)
                if at <= now:
                    return self._grant(now, units)
            sleep(at - now)

    def slow_down(self, seconds: float, grant: Grant) -> None:
        """Let nobody through for that long, then go on slower.

        :param grant: the refused request's. Requests that were sent together slow the rate once.
        """
        with self._lock:
            if grant.slow_downs == self._slow_downs:
                self._slow_downs += 1
                self._evenly = True
                self.rate = max(self.rate * RATE_AFTER_429, self._configured * LOWEST_RATE)
            self._paused_until = max(self._paused_until, self._clock() + seconds)

    def sent_late(self, grant: Grant, seconds: float) -> None:
        """Count the request as sent that much after its grant: a handshake came first.

        How long it took is not known, but it is no more than half of the time until the answer: a handshake takes
        about as many round trips as request and answer, and no work of the service.
        """
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

"""Three kinds of rate limit, because the kind of the App API's is unknown (reference/customerio.md 7).

Each takes the time of a request in seconds, and tells 0, or the seconds until there would be room. What is refused
takes no room.
"""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Literal, Protocol

Kind = Literal["bucket", "fixed_second", "sliding_second"]

_AS_IF = 5.0  # seconds: what another client took before that is of no consequence


class Limiter(Protocol):
    def take(self, wanted: int, per_second: float, now: float | None = None) -> float:
        """Take room for this many and return 0, or take none and return the seconds to wait."""


class Bucket:
    """Token bucket that starts full, holds as many tokens as a second allows, and is refilled evenly.

    The Tracking API has one too, of events; since a batch may be larger than the bucket, a full bucket lets any
    batch through and goes into debt.
    """

    def __init__(self) -> None:
        self._tokens: float | None = None
        self._at = 0.0

    def take(self, wanted: int, per_second: float, now: float | None = None) -> float:
        now = time.monotonic() if now is None else now
        tokens = per_second if self._tokens is None else self._tokens
        tokens = min(per_second, tokens + max(0.0, now - self._at) * per_second)
        self._at = now
        needed = min(wanted, per_second)
        if tokens + 1e-9 < needed:
            self._tokens = tokens
            return (needed - tokens) / per_second
        self._tokens = tokens - wanted
        return 0.0


class FixedSecond:
    """Limit for every second of the wall clock: from 0.999 to 1.001 there may be twice as many."""

    def __init__(self) -> None:
        self._window, self._taken = 0, 0

    def take(self, wanted: int, per_second: float, now: float | None = None) -> float:
        now = time.time() if now is None else now
        length, most = _span(per_second)
        window = math.floor(now / length)
        if window != self._window:
            self._window, self._taken = window, 0
        if self._taken + wanted > most:
            return max((window + 1) * length - now, 1e-6)
        self._taken += wanted
        return 0.0


class SlidingSecond:
    """Limit for any 1.0 seconds, wherever they begin."""

    def __init__(self) -> None:
        self._taken: deque[float] = deque()

    def take(self, wanted: int, per_second: float, now: float | None = None) -> float:
        now = time.monotonic() if now is None else now
        length, most = _span(per_second)
        while self._taken and self._taken[0] <= now - length:
            self._taken.popleft()
        over = len(self._taken) + wanted - most
        if over > 0:
            return max(self._taken[min(over, len(self._taken)) - 1] + length - now, 1e-6) if self._taken else length
        self._taken.extend([now] * wanted)
        return 0.0


KINDS: dict[Kind, type[Bucket] | type[FixedSecond] | type[SlidingSecond]] = {
    "bucket": Bucket,
    "fixed_second": FixedSecond,
    "sliding_second": SlidingSecond,
}


class Workspace:
    """Limit of a workspace with another client that takes its share, evenly spaced, while time passes."""

    def __init__(self) -> None:
        self._kind: Kind | None = None
        self._limiter: Limiter = Bucket()
        self._other_at: float | None = None
        #: How many places the other client got, and how often it was refused.
        self.other_taken = self.other_refused = 0

    def take(self, per_second: float, kind: Kind, other_client: float = 0.0, now: float | None = None) -> float:
        """Take the room of one request; return 0, or the seconds until there is room.

        :param other_client: requests per second of another client.
        :param now: Unix seconds; the real time if it is not given.
        """
        now = time.time() if now is None else now
        if kind != self._kind:
            self._kind, self._limiter = kind, KINDS[kind]()
        self._take_for_another(per_second, other_client, now)
        return self._limiter.take(1, per_second, now)

    def _take_for_another(self, per_second: float, rate: float, now: float) -> None:
        if not rate:
            self._other_at = None
            return
        at = now if self._other_at is None else self._other_at
        if at < now - _AS_IF:
            at += math.floor((now - _AS_IF - at) * rate) / rate
        while at <= now:
            if self._limiter.take(1, per_second, at):
                self.other_refused += 1
            else:
                self.other_taken += 1
            at += 1 / rate
        self._other_at = at


def _span(per_second: float) -> tuple[float, int]:
    """Return (length of a window in seconds, how many fit into it): less than one a second is one in a longer time."""
    return (1.0, int(per_second)) if per_second >= 1 else (1 / per_second, 1)

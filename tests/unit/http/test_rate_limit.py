from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter
from itertools import pairwise
from math import floor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_cio.http.rate_limit import MARGIN, RateLimiter


class Clock:
    """Clock that passes only during sleeps, which may be too long."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        self.slept += seconds


class Limiter(RateLimiter):
    """Make a limiter with a clock of its own."""

    def __init__(self, per_second: float, *, bursts: bool = False) -> None:
        self.clock = Clock()
        super().__init__(per_second, bursts=bursts, clock=self.clock)

    def grant(self, units: float = 1) -> float:
        """Return the time of the next grant."""
        return self.acquire(units, self.clock.sleep).at


# --- as the service counts --------------------------------------------------------------------------------------


def assert_never_more_than(most: int, seconds: float, arrivals: list[float], phase: float) -> None:
    """Assert the limit by each of the three kinds of limiter that the service may have."""
    arrivals = sorted(arrivals)
    for first, later in zip(arrivals, arrivals[most:], strict=False):  # in any `seconds`
        assert later - first >= seconds
    by_the_clock = Counter(floor((at + phase) / seconds) for at in arrivals)
    assert max(by_the_clock.values(), default=0) <= most
    tokens, last = float(most), 0.0
    for at in arrivals:
        tokens = min(most, tokens + (at - last) * most / seconds) - 1
        last = at
        assert tokens > -1e-6


#: Seconds before a request, how late its thread wakes up, its way to the service, and whether that answers 429.
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.5, 1.0, 3.0]) | st.floats(0, 2),
        st.floats(0, 0.2),
        st.floats(0, MARGIN * 0.999),
        st.sampled_from([False] * 9 + [True]),
    ),
    max_size=80,
)


@given(st.sampled_from([0.3, 1, 1.5, 2, 8, 10]) | st.floats(0.1, 20), REQUESTS, st.floats(0, 1))
@example(10, [(0.0, 0.0, 0.0 if n >= 10 else MARGIN * 0.999, False) for n in range(40)], 0.5)
@settings(max_examples=300)
def test_rate_holds_in_any_window(
    per_second: float, requests: list[tuple[float, float, float, bool]], phase: float
) -> None:
    limiter = Limiter(per_second, bursts=True)
    clock, arrivals = limiter.clock, []
    for before, late, travelling, refused in requests:
        clock.now += before

        def sleep(seconds: float, late: float = late) -> None:
            clock.sleep(seconds + late)

        grant = limiter.acquire(1, sleep)
        arrivals.append(grant.at + travelling)
        if refused:
            limiter.slow_down(0.5, grant)
    assert_never_more_than(max(1, int(per_second)), max(1, 1 / per_second), arrivals, phase * max(1, 1 / per_second))


def test_burst_of_a_second_is_allowed() -> None:
    limiter = Limiter(10, bursts=True)
    assert [limiter.grant() for _ in range(10)] == [0] * 10
    assert limiter.clock.slept == 0


@pytest.mark.parametrize(("per_second", "least"), [(10, 9.7), (8, 7.75), (2.5, 1.9), (1, 0.97), (0.2, 0.198)])
def test_the_allowed_rate_is_used(per_second: float, least: float) -> None:
    limiter = Limiter(per_second, bursts=True)
    grants = [limiter.grant() for _ in range(200)]
    assert 199 / grants[-1] >= least
    assert limiter.rate >= least


def test_late_request_counts_when_sent() -> None:
    limiter = Limiter(2, bursts=True)
    first = limiter.acquire(1, limiter.clock.sleep)
    limiter.grant()
    limiter.sent_late(first, 0.4)
    limiter.clock.now = 0.4
    assert limiter.grant() == pytest.approx(1 + MARGIN)  # the place of the second
    assert limiter.grant() == pytest.approx(1.4 + MARGIN)  # the place of the first


# --- events, evenly spaced --------------------------------------------------------------------------------------


@given(
    st.sampled_from([0.1, 40.0, 1000.0]),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 2500)), min_size=2, max_size=40),
)
@settings()
def test_units_are_evenly_spaced(per_second: float, batches: list[tuple[float, int]]) -> None:
    limiter = Limiter(per_second)
    grants = []
    for before, units in batches:
        limiter.clock.now += before
        grants.append((limiter.grant(units), units))
    for (earlier, units), (later, _) in pairwise(grants):
        assert later - earlier >= units / per_second - 1e-6
    assert limiter.clock.slept <= sum(units for _, units in batches[:-1]) / per_second + 1e-3


def test_no_limit_never_sleeps() -> None:
    for limiter in (Limiter(0), Limiter(0, bursts=True)):
        for _ in range(1000):
            limiter.grant(1_000_000)
        assert limiter.clock.slept == 0


# --- after a 429 ------------------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("bursts", [True, False], ids=["requests", "events"])


@BOTH
@pytest.mark.parametrize("per_second", [0, 20])
def test_everybody_waits_for_the_pause(per_second: float, bursts: bool) -> None:
    limiter = Limiter(per_second, bursts=bursts)
    limiter.slow_down(0.3, limiter.acquire(1, limiter.clock.sleep))
    for _ in range(3):
        assert limiter.grant() >= 0.3


@BOTH
def test_pause_holds_waiting_threads(bursts: bool) -> None:
    limiter = Limiter(1, bursts=bursts)
    refused = limiter.acquire(1, limiter.clock.sleep)

    def sleep(seconds: float) -> None:
        if limiter.clock.now == 0:  # another thread gets its 429 meanwhile
            limiter.slow_down(9, refused)
        limiter.clock.sleep(seconds)

    assert limiter.acquire(1, sleep).at >= 9


def test_shorter_pause_changes_nothing() -> None:
    limiter = Limiter(0)
    grant = limiter.acquire(1, limiter.clock.sleep)
    limiter.slow_down(0.2, grant)
    limiter.slow_down(0.01, grant)
    assert limiter.grant() == 0.2


@BOTH
def test_short_pause_keeps_the_spacing(bursts: bool) -> None:
    limiter = Limiter(1, bursts=bursts)
    limiter.slow_down(0.01, limiter.acquire(1, limiter.clock.sleep))
    assert limiter.grant() >= 1


@BOTH
def test_rate_drops_and_recovers(bursts: bool) -> None:
    limiter = Limiter(10, bursts=bursts)
    configured = limiter.rate
    limiter.slow_down(0, limiter.acquire(1, limiter.clock.sleep))
    assert limiter.rate == pytest.approx(0.8 * configured)
    rates = []
    for _ in range(30):
        limiter.grant()
        rates.append(limiter.rate)
    assert rates[:20] == pytest.approx([configured * (0.81 + n / 100) for n in range(20)])
    assert rates[20:] == [configured] * 10


@pytest.mark.parametrize("requests", [20, 200])
def test_spacing_after_a_429(requests: int) -> None:
    """The service may allow fewer requests at once than in a second."""
    limiter = Limiter(10, bursts=True)
    grants = [limiter.acquire(1, limiter.clock.sleep) for _ in range(10)]
    limiter.slow_down(2, grants[4])
    later = [limiter.grant() for _ in range(requests)]
    assert all(gap >= 0.1 for gap in (after - before for before, after in pairwise(later)))
    limiter.clock.now += 60  # idle
    later = [limiter.grant() for _ in range(requests)]
    assert all(gap >= 0.1 for gap in (after - before for before, after in pairwise(later)))


@BOTH
def test_concurrent_429s_count_once(bursts: bool) -> None:
    limiter = Limiter(10, bursts=bursts)
    together = [limiter.acquire(1, limiter.clock.sleep) for _ in range(8)]
    limiter.slow_down(0, together[0])
    slower = limiter.rate
    for grant in together[1:]:
        limiter.slow_down(0, grant)
    assert limiter.rate == slower
    limiter.slow_down(0, limiter.acquire(1, limiter.clock.sleep))
    assert limiter.rate < slower


@BOTH
@pytest.mark.parametrize("per_second", [0.1, 10, 1000])
def test_rate_never_reaches_zero(per_second: float, bursts: bool) -> None:
    limiter = Limiter(per_second, bursts=bursts)
    configured = limiter.rate
    for _ in range(1000):
        limiter.slow_down(0, limiter.acquire(1, limiter.clock.sleep))
    assert limiter.rate == pytest.approx(0.05 * configured)


# --- threads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bursts", "per_second"), [(True, 20), (False, 50)])
def test_threads_share_the_limiter(bursts: bool, per_second: float) -> None:
    limiter = RateLimiter(per_second, bursts=bursts)
    times: list[float] = []

    def ask() -> None:
        for _ in range(6):
            times.append(limiter.acquire(1, time.sleep).at)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    times.sort()
    assert len(times) == 24
    if bursts:
        assert all(later - first >= 1 for first, later in zip(times, times[20:], strict=False))
    else:
        assert all(later - first >= 0.02 - 1e-6 for first, later in pairwise(times))


@pytest.mark.parametrize("bursts", [False, True])
@pytest.mark.parametrize("per_second", [5e-324, 1e-300, 1e-12, 1e-9, 1e12, 1e300, math.inf])
def test_rates_that_nobody_means(per_second: float, bursts: bool) -> None:
    """A thread can't sleep for centuries at once, and some of these rates have no reciprocal."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        assert seconds < threading.TIMEOUT_MAX
        slept.append(seconds)
        if len(slept) == 3:
            raise TimeoutError

    limiter = RateLimiter(per_second, bursts=bursts)
    grant = limiter.acquire(2500, sleep)
    limiter.slow_down(0, grant)
    with contextlib.suppress(TimeoutError):
        limiter.acquire(2500, sleep)
    assert len(slept) == 3 or per_second > 1

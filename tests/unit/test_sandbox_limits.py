"""Check the sandbox's rate limits: each kind, the delay of requests, and another client of the workspace."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import get_args

import pytest

from tests.sandbox import Fault, History, Sandbox, Settings
from tests.sandbox.limiters import Bucket, FixedSecond, Kind, SlidingSecond, Workspace
from tests.unit.test_sandbox import ask, row

KINDS: tuple[Kind, ...] = get_args(Kind)


@pytest.fixture
def sandbox(world: Sandbox) -> Sandbox:
    world.reset()
    world.settings = Settings()
    world.history = History([row()])
    return world


def taken(take: Callable[[float], float], times: list[float]) -> list[float]:
    """Return the times at which there was room."""
    return [at for at in times if not take(at)]


def every(seconds: float, begin: float, end: float) -> list[float]:
    return [begin + number * seconds for number in range(int((end - begin) / seconds))]


# --------------------------------------------------------------------------------- the three kinds


def test_fixed_second() -> None:
    limiter = FixedSecond()
    burst = [99.9 + number / 1000 for number in range(15)] + [100.0 + number / 1000 for number in range(15)]
    assert len(taken(lambda at: limiter.take(1, 10, at), burst)) == 20, "ten before the second ends, ten after"
    assert limiter.take(1, 10, 100.25) == pytest.approx(0.75)
    assert limiter.take(1, 10, 101.0) == 0


def test_sliding_second() -> None:
    limiter = SlidingSecond()
    burst = [99.9 + number / 100 for number in range(30)]
    accepted = taken(lambda at: limiter.take(1, 10, at), burst)
    assert accepted == burst[:10]
    assert limiter.take(1, 10, 100.5) == pytest.approx(0.4)
    assert limiter.take(1, 10, 100.9) == 0, "the first one is a whole second ago"
    assert limiter.take(1, 10, 100.9) == pytest.approx(0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_refused_requests_take_no_room(kind: Kind) -> None:
    workspace = Workspace()
    for at in every(0.001, 100.0, 103.0):
        workspace.take(10, kind, now=at)
    within = [at for at in every(0.001, 103.0, 113.0) if not workspace.take(10, kind, now=at)]
    assert len(within) == pytest.approx(100, abs=1)


def most_in_a_second(times: list[float]) -> int:
    return max(sum(begin <= at < begin + 1 for at in times) for begin in times)


def test_kinds_differ() -> None:
    """At 10 a second, any one second can have 20 requests by a bucket or a fixed second, and 10 by a sliding one."""
    found = {}
    for kind in KINDS:
        workspace = Workspace()
        times = every(0.002, 100.0, 105.0)
        found[kind] = most_in_a_second([at for at in times if not workspace.take(10, kind, now=at)])
        if kind == "fixed_second":
            workspace = Workspace()
            late = [*every(0.002, 100.9, 101.0), *every(0.002, 101.0, 101.1)]
            found[kind] = most_in_a_second([at for at in late if not workspace.take(10, kind, now=at)])
    assert found == {"bucket": 19, "fixed_second": 20, "sliding_second": 10}


def test_less_than_one_in_a_second() -> None:
    for limiter in (Bucket(), FixedSecond(), SlidingSecond()):
        times = taken(lambda at: limiter.take(1, 0.5, at), every(0.1, 100.0, 110.0))  # noqa: B023
        assert 4 <= len(times) <= 6
        assert all(later - earlier > 1.8 for earlier, later in pairwise(times))


# ------------------------------------------------------------------------------- another client


@pytest.mark.parametrize("kind", KINDS)
def test_another_client_uses_the_limit(kind: Kind) -> None:
    alone, shared = Workspace(), Workspace()
    times = every(0.01, 100.0, 120.0)
    by_itself = len([at for at in times if not alone.take(10, kind, now=at)])
    beside = len([at for at in times if not shared.take(10, kind, 4.0, now=at)])
    assert by_itself == pytest.approx(200, abs=15)
    assert beside + shared.other_taken == pytest.approx(by_itself, abs=10)
    assert shared.other_taken + shared.other_refused == pytest.approx(80, abs=1)
    assert beside < by_itself - 5


def test_busy_client_leaves_two() -> None:
    workspace = Workspace()
    times = every(0.25, 100.0, 130.0)
    refused = [at for at in times if workspace.take(10, "sliding_second", 8.0, now=at)]
    assert refused, "four a second are too many beside eight"
    workspace = Workspace()
    times = every(0.55, 100.0, 130.0)
    assert not [at for at in times if workspace.take(10, "sliding_second", 8.0, now=at)]


def test_another_client_while_idle() -> None:
    workspace = Workspace()
    workspace.take(10, "bucket", 5.0, now=100.0)
    begun = time.monotonic()
    workspace.take(10, "bucket", 5.0, now=1e8)
    assert time.monotonic() - begun < 0.1
    assert workspace.other_taken < 100


# ----------------------------------------------------------------------------------- over the wire


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_a_running_sandbox(sandbox: Sandbox, kind: Kind) -> None:
    sandbox.settings.requests_per_second, sandbox.settings.limiter = 5, kind
    sandbox.settings.limit_second = 3.0  # a busy machine takes its time
    while kind == "fixed_second" and time.time() % 3 > 0.6:
        time.sleep(0.01)
    statuses = [ask(sandbox, limit=1).status_code for _ in range(7)]
    assert statuses == [200] * 5 + [429] * 2
    assert ask(sandbox, "/v1/activities").status_code == 429
    assert sandbox.customerio.rate_limited == 3


def test_requests_count_on_arrival(sandbox: Sandbox) -> None:
    sandbox.settings.requests_per_second, sandbox.settings.limiter = 3, "sliding_second"
    sandbox.settings.latency = 0.3
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: ask(sandbox, limit=1), range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 429, 429]
    assert all(one.seconds > 0.29 for one in sandbox.customerio.requests), "refusals come late too"
    # Counted 0.3 seconds ago: 0.75 seconds from now a whole second is over.
    time.sleep(0.75)
    assert ask(sandbox, limit=1).status_code == 200


def test_page_is_made_on_arrival(sandbox: Sandbox) -> None:
    sandbox.settings.latency = 0.3
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, sandbox)
        while not sandbox.customerio.requests:
            time.sleep(0.01)
        time.sleep(0.05)
        sandbox.history = History()
        assert len(answer.result().json()["messages"]) == 1


@pytest.mark.parametrize("kind", ["500", "truncated_json", "repeat_cursor"])
def test_latency_precedes_faults(sandbox: Sandbox, kind: str) -> None:
    sandbox.settings.latency = 0.4
    sandbox.faults.add(Fault(side="customerio", kind=kind))  # type: ignore[arg-type]
    begun = time.monotonic()
    ask(sandbox)
    assert 0.39 < time.monotonic() - begun < 0.79, "and not twice"


def test_arrival_jitter(sandbox: Sandbox) -> None:
    sandbox.settings.arrival_jitter = 0.25

    def arrivals() -> list[float]:
        sandbox.customerio.reset()
        begun = time.time()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: ask(sandbox, limit=1), range(8)))
        return [asked.time - begun for asked in sandbox.customerio.requests]

    found = arrivals()
    assert max(found) - min(found) > 0.1
    sandbox.settings.arrival_jitter = 0
    found = arrivals()
    assert max(found) - min(found) < 0.1

    def ways() -> list[float]:
        sandbox.customerio.reset()
        return [sandbox.customerio.way() for _ in range(200)]

    sandbox.settings.arrival_jitter = 0.25
    first = ways()
    assert first == ways(), "seeded"
    assert 0 <= min(first) < 0.02
    assert 0.23 < max(first) <= 0.25


def test_another_client_over_the_wire(sandbox: Sandbox) -> None:
    sandbox.settings.requests_per_second, sandbox.settings.limiter = 10, "sliding_second"
    sandbox.settings.other_client = 9.0
    ask(sandbox)
    time.sleep(1.1)
    assert [ask(sandbox).status_code for _ in range(3)][-1] == 429

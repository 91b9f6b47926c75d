"""Measure reading alone, at the latency and under the limit of the real App API: time and requests over the ideal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from statistics import median
from typing import Any, NamedTuple

from airflow_provider_cio.customerio.client import CustomerIOClient
from airflow_provider_cio.customerio.windows import query_of
from airflow_provider_cio.events.interval import Window
from tests.benchmarks.figures import Figure
from tests.benchmarks.world import END, EVERYTHING, START, Served, run, serving

LATENCY = 0.3  # seconds
JITTER = 0.02  # seconds
PER_SECOND = 10
LIMITERS = ("sliding_second", "fixed_second", "bucket")
FEW, MORE, MANY = 50_000, 200_000, 500_000  # deliveries
EVEN = "even"
SHAPES: dict[str, dict[str, Any]] = {
    EVEN: {},
    "one burst": {"burst": 1.0, "newsletters": 1},
    "half in a burst": {"burst": 0.5, "newsletters": 1},
    **{
        f"{count} newsletters of {minutes} minutes": {
            "burst": 0.8,
            "newsletters": count,
            "burst_seconds": minutes * 60,
        }
        for minutes in (10, 60)
        for count in (3, 10, 30)
    },
}
ORDERS: dict[str, dict[str, Any]] = {
    "nearly": {"order": "nearly", "displaced": 0.01, "displaced_by": 3600},
    "oldest": {"order": "oldest"},
    "shuffled": {"order": "shuffled"},
}
#: The histories that are also read in those orders.
ORDERED = (EVEN, "one burst", "10 newsletters of 10 minutes")
#: Aim, and most: of the time over the ideal, of the requests over the pages, of the 429s in 1,000 requests.
TIME = (1.5, 1.9)
EVEN_TIME = {FEW: (1.18, 1.28), MANY: (1.08, 1.13)}
REQUESTS = {FEW: (1.15, 1.45), MORE: (1.10, 1.25), MANY: (1.10, 1.25)}
REFUSED = (0.0, 1.0)
#: Asked besides the pages: the names of campaigns, newsletters, broadcasts and transactional messages.
_LISTS = 4


class Run(NamedTuple):
    """One reading. `over` is its time over the ideal, `pages` its requests over the pages there are."""

    over: float
    pages: float
    seconds: float
    requests: int
    refused: int  # with 429
    wrong: int  # events too many or too few


class Case(NamedTuple):
    """One thing to read, once for each seed."""

    deliveries: int
    limiter: str
    shape: str

    @property
    def time(self) -> tuple[float, float]:
        return EVEN_TIME.get(self.deliveries, TIME) if self.shape == EVEN else TIME


def measure(quick: bool) -> Iterator[Figure]:
    """Measure even histories under each limiter, and the others under the strictest one."""
    seeds = (1,) if quick else (1, 2, 3)
    others = [shape for shape in SHAPES if shape != EVEN]
    cases = [Case(FEW, limiter, EVEN) for limiter in LIMITERS]
    cases += [Case(FEW, LIMITERS[0], shape) for shape in others]
    if not quick:
        cases += [Case(MORE, LIMITERS[0], shape) for shape in SHAPES]
        cases += [Case(MANY, limiter, EVEN) for limiter in LIMITERS]
    wanted = [(case, seed) for case in cases for seed in seeds]
    runs = [one for at in range(0, len(wanted), 2) for one in at_once(wanted[at : at + 2])]
    for at, case in enumerate(cases):
        yield from figures(case, runs[at * len(seeds) : (at + 1) * len(seeds)])
    yield from any_order(seeds)
    yield plain_chain()


def figures(case: Case, runs: Sequence[Run]) -> Iterator[Figure]:
    for what, values, (aim, most), note in (
        ("time over the ideal", [one.over for one in runs], case.time, f"{median(one.seconds for one in runs):.2f} s"),
        (
            "requests over pages",
            [one.pages for one in runs],
            REQUESTS[case.deliveries],
            f"{_requests(runs)} for {pages(case.deliveries)} pages and {_LISTS} lists of names",
        ),
        ("429s per 1,000 requests", [1000 * one.refused / one.requests for one in runs], REFUSED, ""),
    ):
        of_each = f"seeds: {', '.join(f'{value:.3f}' for value in values)}; " if len(values) > 1 else ""
        yield Figure(
            f"Reading {case.deliveries:,} at {LATENCY} s and {JITTER} s of jitter, "
            f"{PER_SECOND} requests a second ({case.limiter})",
            f"{case.shape}: {what}",
            median(values),
            "{:.3f}",
            aim=aim,
            least=most,
            note=f"{of_each}{note}",
            wrong=_wrong(runs),
            details={"runs": [one._asdict() for one in runs]},
        )


def any_order(seeds: Sequence[int]) -> Iterator[Figure]:
    """Measure lists in any order, without latency and limit, because only their requests count."""
    for shape in ORDERED:
        for order in ORDERS:
            runs = [in_order(order, shape, seed) for seed in seeds]
            aim, most = REQUESTS[FEW]
            yield Figure(
                f"Requests over pages in any order, {FEW:,}",
                f"{shape}, {order}",
                median(one.pages for one in runs),
                "{:.3f}",
                aim=aim,
                least=most,
                note=_requests(runs),
                wrong=_wrong(runs),
            )


def _requests(runs: Sequence[Run]) -> str:
    return ", ".join(str(one.requests) for one in runs)


def _wrong(runs: Sequence[Run]) -> str:
    return "; ".join(f"{one.wrong} events too many or too few" for one in runs if one.wrong)


def in_order(order: str, shape: str, seed: int) -> Run:
    with serving(FEW, interval=EVERYTHING, history={**SHAPES[shape], "seed": seed}, **ORDERS[order]) as sandbox:
        return timed(sandbox, 100_000)


def plain_chain() -> Figure:
    with (
        serving(FEW, latency=LATENCY, requests_per_second=PER_SECOND) as sandbox,
        CustomerIOClient(sandbox.app_key, base_url=sandbox.url, requests_per_second=PER_SECOND) as client,
    ):
        began = time.perf_counter()
        query = query_of(Window("email", START, END))
        while following := client.page(query).next:
            query = query | {"start": following}
        seconds = time.perf_counter() - began
    part = f"Reading {FEW:,} as a tool does that follows one `next` after the other"
    return Figure(part, "time over the ideal", seconds / (pages(FEW) / PER_SECOND), "{:.3f}")


def at_once(wanted: Sequence[tuple[Case, int]]) -> list[Run]:
    """Measure two cases at once, each in a process, because reading mostly waits. Three would be too many on two cores.

    None begins before all histories are made, which takes a core each.

    :param wanted: cases, each with its seed.
    """
    with ThreadPoolExecutor(len(wanted)) as pool, ExitStack() as stack:
        made = pool.map(lambda one: stack.enter_context(like_the_real_one(*one)), wanted)
        return list(pool.map(timed, list(made)))


def like_the_real_one(case: Case, seed: int) -> AbstractContextManager[Served]:
    return serving(
        case.deliveries,
        interval=EVERYTHING,
        history={**SHAPES[case.shape], "seed": seed},
        latency=LATENCY,
        arrival_jitter=JITTER,
        requests_per_second=PER_SECOND,
        limiter=case.limiter,
    )


def timed(sandbox: Served, per_second: float = PER_SECOND) -> Run:
    """Time the product's own pipeline, names included, with a look-back of thirty days. Events are not sent."""
    wanted = {"url": sandbox.url, "app_key": sandbox.app_key, "per_second": per_second, "interval": EVERYTHING}
    read = run("run_reading", wanted)
    asked = sandbox.asked()
    return Run(
        over=read["seconds"] / (pages(sandbox.deliveries) / PER_SECOND),
        pages=asked["requests"] / pages(sandbox.deliveries),
        seconds=read["seconds"],
        requests=asked["requests"],
        refused=asked["rate_limited"],
        wrong=abs(read["events"] - sum(sandbox.truth.values())),
    )


def pages(deliveries: int) -> int:
    return math.ceil(deliveries / 1000)

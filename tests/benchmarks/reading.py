"""Reading alone, at the latency and under the limit of the real App API: time and requests over the ideal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from statistics import median
from typing import Any, NamedTuple

from airflow_provider_cio.customerio.client import CustomerIOClient
from airflow_provider_cio.customerio.windows import query_of
from airflow_provider_cio.events.event import Event
from airflow_provider_cio.events.interval import Interval, Window
from airflow_provider_cio.pipeline.preview import PreviewSink
from airflow_provider_cio.segment.client import SegmentClient
from airflow_provider_cio.segment.sink import SegmentSink
from tests.benchmarks.figures import Figure
from tests.benchmarks.run_line import line
from tests.benchmarks.world import DAY, END, EVERYTHING, START, Served, serving

LATENCY = 0.3  # seconds
JITTER = 0.02  # seconds
PER_SECOND = 10
LIMITERS = ("sliding_second", "fixed_second", "bucket")
#: Deliveries -> aim and most of the time, of the requests, over the ideal.
FEW, MANY = 50_000, 500_000
TIME = {FEW: (1.15, 1.25), MANY: (1.07, 1.12)}
REQUESTS = {FEW: (None, None), MANY: (1.05, 1.10)}
SHAPES: dict[str, dict[str, Any]] = {
    "evenly spread": {},
    "one burst": {"burst": 1.0, "newsletters": 1},
    "half in a burst": {"burst": 0.5, "newsletters": 1},
}
ORDERS: dict[str, dict[str, Any]] = {
    "exact": {},
    "nearly": {"order": "nearly", "displaced": 0.01, "displaced_by": 3600},
    "oldest": {"order": "oldest"},
    "shuffled": {"order": "shuffled"},
}
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


def measure(quick: bool) -> Iterator[Figure]:
    seeds = (1,) if quick else (1, 2, 3)
    for limiter in LIMITERS:
        for shape in SHAPES:
            yield from figures(FEW, limiter, shape, [run(FEW, limiter, shape, seed) for seed in seeds])
    if not quick:
        for limiter in LIMITERS:
            wanted = [(shape, seed) for shape in SHAPES for seed in seeds]
            runs = [one for at in range(0, len(wanted), 2) for one in at_once(MANY, limiter, wanted[at : at + 2])]
            for at, shape in enumerate(SHAPES):
                yield from figures(MANY, limiter, shape, runs[at * len(seeds) : (at + 1) * len(seeds)])
    yield from any_order(seeds)
    yield plain_chain()


def figures(deliveries: int, limiter: str, shape: str, runs: Sequence[Run]) -> Iterator[Figure]:
    part = f"Reading {deliveries:,} at {LATENCY} s and {JITTER} s of jitter, {PER_SECOND} requests a second ({limiter})"
    wrong = "; ".join(f"{one.wrong} events too many or too few" for one in runs if one.wrong)
    for what, values, (aim, most), note in (
        ("time", [one.over for one in runs], TIME[deliveries], f"{median(one.seconds for one in runs):.2f} s"),
        (
            "requests",
            [one.pages for one in runs],
            REQUESTS[deliveries],
            f"{', '.join(str(one.requests) for one in runs)} for {pages(deliveries)} pages and {_LISTS} lists of names",
        ),
        ("429s per 1,000 requests", [1000 * one.refused / one.requests for one in runs], (0.0, 1.0), ""),
    ):
        of_each = f"seeds: {', '.join(f'{value:.3f}' for value in values)}; " if len(values) > 1 else ""
        yield Figure(
            part,
            f"{shape}: {what}{'' if '429' in what else ' over the ideal'}",
            median(values),
            "{:.3f}",
            aim=aim,
            least=most,
            note=f"{of_each}{note}",
            wrong=wrong,
            details={"runs": [one._asdict() for one in runs]},
        )


def any_order(seeds: Sequence[int]) -> Iterator[Figure]:
    """Without latency and limit: only the requests count."""
    for shape in SHAPES:
        asked = {(order, seed): in_order(order, shape, seed) for order in ORDERS for seed in seeds}
        for order in [order for order in ORDERS if order != "exact"]:
            pairs = [(asked[order, seed], asked["exact", seed]) for seed in seeds]
            yield Figure(
                f"Requests in any order over those in exact order, {FEW:,}",
                f"{shape}, {order}",
                median(one.requests / exact.requests for one, exact in pairs),
                "{:.3f}",
                aim=1.0,
                least=1.1,
                note=", ".join(f"{one.requests} beside {exact.requests}" for one, exact in pairs),
                wrong="; ".join(f"{one.wrong} events too many or too few" for one, _ in pairs if one.wrong),
            )


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


def run(deliveries: int, limiter: str, shape: str, seed: int) -> Run:
    with like_the_real_one(deliveries, limiter, shape, seed) as sandbox:
        return timed(sandbox)


def at_once(deliveries: int, limiter: str, wanted: Sequence[tuple[str, int]]) -> list[Run]:
    """Reading waits most of its time, so two at once do not disturb each other. Three would, on two cores.

    None begins before all histories are made, which takes a core each.

    :param wanted: shapes and seeds.
    """
    with ThreadPoolExecutor(len(wanted)) as pool, ExitStack() as stack:
        made = pool.map(lambda one: stack.enter_context(like_the_real_one(deliveries, limiter, *one)), wanted)
        return list(pool.map(timed, list(made)))


def like_the_real_one(deliveries: int, limiter: str, shape: str, seed: int) -> AbstractContextManager[Served]:
    return serving(
        deliveries,
        interval=EVERYTHING,
        history={**SHAPES[shape], "seed": seed},
        latency=LATENCY,
        arrival_jitter=JITTER,
        requests_per_second=PER_SECOND,
        limiter=limiter,
    )


def timed(sandbox: Served, per_second: float = PER_SECOND) -> Run:
    """The product's own line, names included, with a look-back of thirty days; its events go nowhere."""
    sink = Nowhere()
    with CustomerIOClient(sandbox.app_key, base_url=sandbox.url, requests_per_second=per_second) as client:
        began = time.perf_counter()
        line(client, sink, Interval(EVERYTHING[0], EVERYTHING[1]), "benchmark", lookback=30 * DAY)
        seconds = time.perf_counter() - began
    asked = sandbox.asked()
    return Run(
        over=seconds / (pages(sandbox.deliveries) / PER_SECOND),
        pages=asked["requests"] / pages(sandbox.deliveries),
        seconds=seconds,
        requests=asked["requests"],
        refused=asked["rate_limited"],
        wrong=abs(len(sink.ids) - sum(sandbox.truth.values())),
    )


def pages(deliveries: int) -> int:
    return math.ceil(deliveries / 1000)


class Nowhere(PreviewSink):
    """A sink that counts different events."""

    def __init__(self) -> None:
        super().__init__(SegmentSink(SegmentClient("key")), sample=lambda event: None)
        self.ids: set[str] = set()

    def take(self, events: Iterable[Event]) -> None:
        self.ids.update(event.message_id for event in events)
        self.acknowledged += 1

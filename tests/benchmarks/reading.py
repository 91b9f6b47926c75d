"""Reading alone, at the latency and under the limit of the real App API: time over the ideal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any, NamedTuple

from airflow_provider_cio.clients.customerio import CustomerIOClient
from airflow_provider_cio.sources.reader import Reader
from airflow_provider_cio.sources.windows import Window
from tests.benchmarks.figures import Figure
from tests.benchmarks.world import END, START, Served, serving

LATENCY = 0.3  # seconds
PER_SECOND = 10
AIM, MOST = 1.10, 1.20
WINDOW = Window("email", START, END)
SHAPES: dict[str, dict[str, Any]] = {
    "evenly spread": {},
    "one burst": {"burst": 1.0, "newsletters": 1},
    "one burst, dense first": {"burst": 1.0, "newsletters": 1, "burst_shape": "front"},
}

Read = Callable[[CustomerIOClient], Iterator[str]]


class Run(NamedTuple):
    """One reading. `over` is its time over the ideal."""

    over: float
    seconds: float
    requests: int
    refused: int  # with 429
    twice: int
    missing: int


def measure(quick: bool) -> Iterator[Figure]:
    few, many, seeds = (20_000, 50_000, (1,)) if quick else (50_000, 500_000, (1, 2, 3))
    for deliveries, chosen in (few, seeds), (many, seeds[:1]):
        for shape in ("evenly spread", "one burst"):
            found = [run(deliveries, SHAPES[shape], seed, reader) for seed in chosen]
            yield figure(f"{deliveries:,} deliveries, {shape}", deliveries, found, AIM, MOST)
    shape = "one burst, dense first"
    yield figure(f"{few:,}, {shape}: harder than asked", few, [run(few, SHAPES[shape], seed, reader) for seed in seeds])
    yield figure(f"{few:,}, one plain chain of pages", few, [run(few, {}, seeds[0], chain)])


def figure(what: str, deliveries: int, runs: list[Run], aim: float | None = None, most: float | None = None) -> Figure:
    wrong = [f"{one.twice} read twice, {one.missing} missing" for one in runs if one.twice or one.missing]
    overs = [one.over for one in runs]
    of_each = f"seeds: {', '.join(f'{over:.3f}' for over in overs)}; worst {max(overs):.3f}; " if len(runs) > 1 else ""
    asked = sorted({one.requests for one in runs})
    return Figure(
        f"Reading at {LATENCY} s a page, {PER_SECOND} requests a second: time over the ideal",
        what,
        median(overs),
        "{:.3f}",
        aim=aim,
        least=most,
        note=(
            f"{of_each}{median(one.seconds for one in runs):.2f} s; "
            f"{'-'.join(map(str, dict.fromkeys((asked[0], asked[-1]))))} requests for {pages(deliveries)} pages; "
            f"at the least {bound(deliveries):.3f}; 429s {sum(one.refused for one in runs)}; "
            f"twice {sum(one.twice for one in runs)}, missing {sum(one.missing for one in runs)}"
        ),
        wrong="; ".join(wrong),
        details={"deliveries": deliveries, "runs": [one._asdict() for one in runs]},
    )


def run(deliveries: int, shape: Mapping[str, Any], seed: int, read: Read) -> Run:
    history = {**shape, "seed": seed}
    with serving(deliveries, history=history, latency=LATENCY, requests_per_second=PER_SECOND) as sandbox:
        return timed(sandbox, read)


def timed(sandbox: Served, read: Read) -> Run:
    with CustomerIOClient(sandbox.app_key, base_url=sandbox.url, requests_per_second=PER_SECOND) as client:
        began = time.perf_counter()
        ids = list(read(client))
        seconds = time.perf_counter() - began
    asked = sandbox.asked()
    different = len(set(ids))
    return Run(
        over=seconds / (pages(sandbox.deliveries) / PER_SECOND),
        seconds=seconds,
        requests=asked["requests"],
        refused=asked["rate_limited"],
        twice=len(ids) - different,
        missing=sandbox.deliveries - different,
    )


def pages(deliveries: int) -> int:
    return math.ceil(deliveries / 1000)


def bound(deliveries: int) -> float:
    """What no reader gets below that knows nothing before its first page, even if it wastes no request after it."""
    return (2 * LATENCY + (pages(deliveries) - 2) / PER_SECOND) / (pages(deliveries) / PER_SECOND)


def reader(client: CustomerIOClient) -> Iterator[str]:
    """The ids that the product reads."""
    with Reader(client) as reader:
        for piece in reader.pieces([WINDOW]):
            yield from [delivery.id for delivery in piece.deliveries]


def chain(client: CustomerIOClient) -> Iterator[str]:
    """The ids as a tool reads them that follows one `next` after the other."""
    query = WINDOW.query()
    while True:
        page = client.page(query)
        yield from [delivery.id for delivery in page.messages or ()]
        if not page.next:
            return
        query = query | {"start": page.next}

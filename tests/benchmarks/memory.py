"""Greatest memory of the pipeline over few deliveries and over many, at the API's latency and rate."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.benchmarks.figures import Figure
from tests.benchmarks.reading import JITTER, LATENCY, LIMITERS, PER_SECOND
from tests.benchmarks.sending import Taken, take
from tests.benchmarks.world import EVERYTHING, serving

AIM, MOST = 1.05, 1.10
MIB = 2**20


def measure(quick: bool) -> Iterator[Figure]:
    few, many = 50_000, 100_000 if quick else 1_000_000
    with ThreadPoolExecutor(len(LIMITERS)) as pool:  # they wait most of the time, and no time is measured
        few_taken = list(pool.map(lambda limiter: _line(few, limiter), LIMITERS))
        many_taken = list(pool.map(lambda limiter: _line(many, limiter), LIMITERS))
    for limiter, one, other in zip(LIMITERS, few_taken, many_taken, strict=True):
        yield Figure(
            f"Peak memory of the line's process, at {LATENCY} s and {PER_SECOND} requests a second",
            f"{many:,} deliveries over {few:,} ({limiter})",
            other["peak_memory"] / one["peak_memory"],
            "{:.2f}",
            aim=AIM,
            least=MOST,
            note=(
                f"{one['peak_memory'] / MIB:.0f} and {other['peak_memory'] / MIB:.0f} MiB; "
                f"{one['events']:,} and {other['events']:,} events"
            ),
            wrong="; ".join(filter(None, (one["wrong"], other["wrong"]))),
            details={"runs": [one, other]},
        )


def _line(deliveries: int, limiter: str) -> Taken:
    with serving(
        deliveries,
        interval=EVERYTHING,
        latency=LATENCY,
        arrival_jitter=JITTER,
        requests_per_second=PER_SECOND,
        limiter=limiter,
    ) as sandbox:
        return take(sandbox, "run_line", {"interval": EVERYTHING, "options": {"per_second": PER_SECOND}})

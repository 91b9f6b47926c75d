"""The most memory that the line takes, over few deliveries and over many."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.figures import Figure
from tests.benchmarks.reading import JITTER, LATENCY, PER_SECOND
from tests.benchmarks.sending import Taken, take
from tests.benchmarks.world import EVERYTHING, serving

AIM, MOST = 1.05, 1.10
MIB = 2**20


def measure(quick: bool) -> Iterator[Figure]:
    few, many = (50_000, 100_000) if quick else (50_000, 1_000_000)
    part = f"Peak memory of the line's process, at {LATENCY} s and {PER_SECOND} requests a second"
    taken = [_line(few), _line(many)]
    for deliveries, one in zip((few, many), taken, strict=True):
        yield Figure(
            part,
            f"{deliveries:,} deliveries: MiB",
            one["peak_memory"] / MIB,
            "{:.0f}",
            note=f"{one['events']:,} events in {one['seconds']:.1f} s; kept {one['kept']:,}",
            wrong=one["wrong"],
            details={"run": one},
        )
    yield Figure(
        part,
        f"{many:,} over {few:,}",
        taken[1]["peak_memory"] / taken[0]["peak_memory"],
        "{:.2f}",
        aim=AIM,
        least=MOST,
        note="the aim is to be about the same",
    )


def _line(deliveries: int) -> Taken:
    with serving(
        deliveries,
        interval=EVERYTHING,
        latency=LATENCY,
        arrival_jitter=JITTER,
        requests_per_second=PER_SECOND,
    ) as sandbox:
        return take(sandbox, "run_line", {"interval": EVERYTHING, "options": {"per_second": PER_SECOND}})

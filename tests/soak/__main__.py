"""`make soak`, or `python -m tests.soak [INTERVALS]`."""

from __future__ import annotations

import sys

import tests.conftest  # noqa: F401  an Airflow of its own, before anything imports airflow
from tests.e2e.processes import command
from tests.soak.soak import soak


def main() -> int:
    """Run, and return the exit code: 1 if something was lost, or has grown."""
    intervals = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    print(f"{intervals} consecutive hours, with faults at random on both sides ...", flush=True)
    outcome = soak(intervals, say=lambda line: print(line, flush=True))
    print(
        f"\n{outcome.tries} tries for {outcome.intervals} intervals, {outcome.faults} faults; Segment kept "
        f"{outcome.events:,} events and recognised {outcome.duplicates:,} that were sent again."
    )
    for line in [*outcome.lost[:20], *outcome.growing]:
        print(f"  {line}")
    print("NOTHING LOST." if not outcome.lost else f"LOST: {len(outcome.lost)} differences.")
    measured = len(outcome.samples) >= 3
    print("GROWING." if outcome.growing else "NOTHING GROWING." if measured else "TOO SHORT TO SEE WHAT GROWS.")
    return 1 if outcome.lost or outcome.growing else 0


if __name__ == "__main__":
    command(main)

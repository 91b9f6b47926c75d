"""`python -m tests.benchmarks`: measure, print a table, write it as JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.benchmarks import interruptions, memory, month, operator, picture, reading, sending, stream, warehouse
from tests.benchmarks.figures import Figure, machine, table
from tests.benchmarks.world import REPO

PARTS: dict[str, Callable[[bool], Iterator[Figure]]] = {
    "import": operator.measure_import,
    "day": operator.measure_day,
    "reading": reading.measure,
    "month": month.measure,
    "sending": sending.measure,
    "stream": stream.measure,
    "warehouse": warehouse.measure,
    "memory": memory.measure,
    "interruptions": interruptions.measure,
    "picture": picture.measure,
}

DISTURBING = 0.15  # cores


def main() -> int:
    """Run the command. Return 1 if a result is wrong, such as a missing event; a slow one is no reason."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"some of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer deliveries, one round: to see that it works")
    parser.add_argument("--json", type=Path, default=REPO / "bench.json", help="default: %(default)s")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")

    began = time.monotonic()
    about = machine()
    figures: list[Figure] = []
    others: dict[str, float] = {}
    for name in options.parts or PARTS:
        print(f"[{time.monotonic() - began:4.0f} s] {name} ...", flush=True)
        at, busy = time.monotonic(), busy_with_others()
        try:
            figures.extend(PARTS[name](options.quick))
        except Exception as error:  # what the other parts have found is not lost with it
            traceback.print_exc()
            figures.append(Figure(name, "ended early", None, "", wrong=f"{type(error).__name__}: {error}"))
        others[name] = round((busy_with_others() - busy) / (time.monotonic() - at), 2)
    about |= {"seconds": round(time.monotonic() - began), "cores_busy_with_others": others}
    written = {"machine": about, "quick": options.quick, "figures": [figure.as_dict() for figure in figures]}
    options.json.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n")

    print(f"\n{', '.join(f'{key} {value}' for key, value in about.items() if value != others)}\n")
    print(table(figures))
    print(f"\nAlso in {options.json}")
    if disturbed := {name: cores for name, cores in others.items() if cores > DISTURBING}:
        told = ", ".join(f"{name} {cores}" for name, cores in disturbed.items())
        print(f"Other programs kept cores busy meanwhile: {told} of {about['cores']}.")
        print("So times are too long, and what compares times is uncertain: repeat it on a machine that is idle.")
    if options.quick:
        print("Quick mode: too few deliveries for the aims to mean much.")
    wrong = [figure for figure in figures if figure.wrong]
    missed = [figure for figure in figures if figure.verdict.startswith("MISSED")]
    print(f"{len(wrong)} results are wrong, {len(missed)} aims are missed.")
    return 1 if wrong else 0


def busy_with_others() -> float:
    """Return the seconds of CPU, over all cores, spent on other things than this process and its ended children."""
    everything, own = psutil.cpu_times(), os.times()
    idle = everything.idle + getattr(everything, "iowait", 0.0)
    # What guests took is in the time of users too.
    guests = getattr(everything, "guest", 0.0) + getattr(everything, "guest_nice", 0.0)
    return float(sum(everything) - idle - guests - sum(own[:4]))


if __name__ == "__main__":
    sys.exit(main())

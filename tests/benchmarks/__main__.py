"""`python -m tests.benchmarks`: measure, print a table, write it as JSON."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmarks import memory, operator, reading, sending
from tests.benchmarks.figures import Figure, machine, table
from tests.benchmarks.world import REPO

PARTS: dict[str, Callable[[bool], Iterator[Figure]]] = {
    "import": operator.measure_import,
    "day": operator.measure_day,
    "reading": reading.measure,
    "sending": sending.measure,
    "memory": memory.measure,
}


def main() -> int:
    """Returns 1 if a result is wrong, such as an event that is missing; being slow is no reason."""
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
    for name in options.parts or PARTS:
        print(f"[{time.monotonic() - began:4.0f} s] {name} ...", flush=True)
        figures += PARTS[name](options.quick)
    about["seconds"] = round(time.monotonic() - began)
    written = {"machine": about, "quick": options.quick, "figures": [figure.as_dict() for figure in figures]}
    options.json.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n")

    print(f"\n{', '.join(f'{key} {value}' for key, value in about.items())}\n")
    print(table(figures))
    print(f"\nAlso in {options.json}")
    if options.quick:
        print("Quick mode: too few deliveries for the aims to mean much.")
    wrong = [figure for figure in figures if figure.wrong]
    missed = [figure for figure in figures if figure.verdict.startswith("MISSED")]
    print(f"{len(wrong)} results are wrong, {len(missed)} aims are missed.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

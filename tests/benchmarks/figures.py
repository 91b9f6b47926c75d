"""Figures beside their aims, the verdict in plain words, and the table of them."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.world import REPO


@dataclass
class Figure:
    """One row. A row without an aim is there for comparison.

    :param form: how its numbers are written, e.g. ``{:.2f}``.
    :param more_is_better: if so, aim and least are lower bounds, else upper ones.
    :param note: what else was seen, for a line below the row.
    :param wrong: says what is wrong with the result itself, and fails the run.
    :param details: for the JSON.
    """

    part: str
    what: str
    measured: float | None
    form: str
    aim: float | None = None
    least: float | None = None
    more_is_better: bool = False
    note: str = ""
    wrong: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.wrong:
            return f"WRONG: {self.wrong}"
        if self.measured is None:
            return "not measured"
        if self.aim is None:
            return ""
        if self._reaches(self.aim):
            return "met"
        missed = f"MISSED: aim {self.text(self.aim)}"
        if self.least is None:
            return missed
        bound = f"the {'least' if self.more_is_better else 'most'}, {self.text(self.least)}"
        return f"{missed}; {bound}, is held" if self._reaches(self.least) else f"{missed}, and {bound}"

    def _reaches(self, bound: float) -> bool:
        assert self.measured is not None
        return self.measured >= bound if self.more_is_better else self.measured <= bound

    def text(self, value: float | None) -> str:
        return "" if value is None else self.form.format(value)

    def bound(self, value: float | None) -> str:
        return "" if value is None else f"{'>=' if self.more_is_better else '<='} {self.text(value)}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "part": self.part,
            "what": self.what,
            "aim": self.aim,
            "least": self.least,
            "more_is_better": self.more_is_better,
            "measured": self.measured,
            "verdict": self.verdict,
            "note": self.note,
            **self.details,
        }


def table(figures: Sequence[Figure]) -> str:
    """Return the table: a heading for each part, a row for each figure, and its note below it."""
    rows = [("", "measured", "aim", "least", "verdict")]
    rows += [(f.what, f.text(f.measured), f.bound(f.aim), f.bound(f.least), f.verdict) for f in figures]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]

    def line(row: tuple[str, str, str, str, str]) -> str:
        what, *numbers, verdict = row
        cells = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
        return "  ".join(["  " + what.ljust(widths[0]), *cells, verdict]).rstrip()

    lines = [line(rows[0])]
    part = ""
    for figure, row in zip(figures, rows[1:], strict=True):
        if figure.part != part:
            part = figure.part
            lines += ["", part]
        lines.append(line(row))
        if figure.note:
            lines.append(f"      {figure.note}")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Describe the machine. A load near the number of cores means that something else was running."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system() + " " + platform.machine(),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "commit": _commit(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""

"""What became of reports, counted: for Airflow's metrics every few seconds, for the log at most once a minute.

While reports are not taken, the log says so every ten seconds.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from concurrent.futures import Executor

from airflow_provider_cio.observability.metrics import count

log = logging.getLogger("airflow_provider_cio.stream")

#: Seconds for which counts gather before they go to Airflow's metrics.
FLUSH_EVERY = 10.0
#: Seconds between two lines in the log on counts, and between two on problems of one kind.
LOG_EVERY = 60.0
#: Seconds between two lines on reports that have to come again, and on whom they wait for.
WAITS_EVERY = 10.0
#: Outcomes that are no reason to worry; any other makes the line a warning.
_EXPECTED = ("sent", "ignored", "skipped")


class Counts:
    """Of one stream.

    Counted are outcomes, and beside them ``rate_limited`` (Segment's answers 429) and ``content_left_out``.
    An outcome is ``sent``; ``ignored`` (nobody asked for it), ``skipped`` (for nobody in particular), ``refused`` (it
    can't be sent), ``unavailable`` (it will come again) or ``unsigned``, and most have a reason after a dot.

    :param name: of the stream.
    :param executor: runs what takes time.
    """

    def __init__(self, name: str, executor: Executor) -> None:
        self._name = name
        self._executor = executor
        self.total: Counter[str] = Counter()
        self._for_metrics: Counter[str] = Counter()
        self._for_log: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None
        self._logged_at = -LOG_EVERY
        self._problem_at: dict[str, float] = {}
        self._waits: Counter[str] = Counter()
        self._waits_for: dict[str, str] = {}  # what is wrong, by outcome
        self._pause_ends = 0.0
        self._waits_timer: asyncio.TimerHandle | None = None

    def add(self, outcome: str, number: int = 1) -> None:
        self.total[outcome] += number
        self._for_metrics[outcome] += number
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_EVERY, self._flush)

    def problem(self, kind: str, text: str) -> None:
        """Log what is wrong, but not for every report.

        :param text: without secrets and personal data.
        """
        now = time.monotonic()
        if now - self._problem_at.get(kind, -LOG_EVERY) >= LOG_EVERY:
            self._problem_at[kind] = now
            log.warning("Stream %r: %s", self._name, text)

    def waits(self, outcome: str, problem: str = "", pause: float = 0.0) -> None:
        """Count a report that has to come again. The first one is logged at once, those after it together.

        :param problem: what is wrong, without secrets and personal data.
        :param pause: seconds for which nothing is sent.
        """
        self.add(outcome)
        self._waits[outcome] += 1
        if problem:
            self._waits_for[outcome] = problem
        self._pause_ends = max(self._pause_ends, time.monotonic() + pause)
        if self._waits_timer is None:
            self._log_waits()

    def _log_waits(self) -> None:
        self._waits_timer = None
        if not self._waits:
            return
        self._waits_timer = asyncio.get_running_loop().call_later(WAITS_EVERY, self._log_waits)
        left = math.ceil(self._pause_ends - time.monotonic())
        paused = f"; nothing is sent for another {left} s" if left > 0 else ""
        why = " ".join(["", *dict.fromkeys(self._waits_for.values())])
        log.warning("Stream %r waits: %s%s.%s", self._name, _numbers(self._waits), paused, why)
        self._waits.clear()
        self._waits_for.clear()

    def _flush(self) -> None:
        counted, self._for_metrics = self._for_metrics, Counter()
        self._for_log += counted
        self._timer = None
        if counted:
            asyncio.get_running_loop().run_in_executor(self._executor, send_metrics, self._name, counted)
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY:
            self._logged_at = now
            self._log()
        elif self._for_log:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_EVERY, self._flush)

    def _log(self) -> None:
        counted, self._for_log = self._for_log, Counter()
        worry = any(outcome.partition(".")[0] not in _EXPECTED for outcome in counted)
        level = logging.WARNING if worry else logging.INFO
        log.log(level, "Stream %r, reports since the last line: %s", self._name, _numbers(counted))


def _numbers(counted: Counter[str]) -> str:
    return ", ".join(f"{outcome} {number}" for outcome, number in counted.most_common())


def send_metrics(stream: str, counted: Counter[str]) -> None:
    """``customerio.stream.<outcome>``, with the stream and the reason as tags."""
    for outcome, number in counted.items():
        kind, _, reason = outcome.partition(".")
        count(f"stream.{kind}", number, {"stream": stream} | ({"reason": reason} if reason else {}))

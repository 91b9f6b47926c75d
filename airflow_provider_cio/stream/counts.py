"""Counts of a stream's reports, by outcome: sent to Airflow's metrics every few seconds, logged once a minute at most.

While reports are turned away, the log says so every ten seconds.
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

#: Seconds for which counts gather before they go to Airflow's metrics, because each count there is a message.
FLUSH_EVERY = 10.0
#: Seconds between two log lines on counts, and between two on problems of one kind: strangers can cause problems.
LOG_EVERY = 60.0
#: Seconds between two log lines on reports that were turned away, so that no wait goes unexplained for longer.
WAITS_EVERY = 10.0
#: Outcomes of a healthy stream. Any other outcome makes the log line a warning.
_EXPECTED = ("sent", "ignored", "skipped")


class Counts:
    """Counts of one stream, for Airflow's metrics and for the log.

    An outcome is ``sent``, ``ignored`` (not asked for), ``skipped`` (no id of a person), ``refused`` (can't be sent),
    ``unavailable`` (Customer.io has to repeat it) or ``unsigned``. Most have a reason after a dot. Also counted are
    ``rate_limited`` (answers 429 of Segment), ``content_left_out`` and ``field_left_out`` (malformed fields of an
    event that is sent without them).

    :param name: name of the stream.
    :param executor: runs the calls of Airflow's metrics, which may block.
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
        self._wait_problems: dict[str, str] = {}  # by outcome
        self._pause_ends = 0.0
        self._waits_timer: asyncio.TimerHandle | None = None

    def add(self, outcome: str, number: int = 1) -> None:
        self.total[outcome] += number
        self._for_metrics[outcome] += number
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_EVERY, self._flush)

    def problem(self, kind: str, text: str) -> None:
        """Log a problem, at most once a minute for each kind.

        :param text: contains neither secrets nor personal data.
        """
        now = time.monotonic()
        if now - self._problem_at.get(kind, -LOG_EVERY) >= LOG_EVERY:
            self._problem_at[kind] = now
            log.warning("Stream %r: %s", self._name, text)

    def waits(self, outcome: str, problem: str = "", pause: float = 0.0) -> None:
        """Count a report that Customer.io has to repeat. Log the first one at once, and later ones together.

        :param problem: explanation for the log, without secrets and personal data.
        :param pause: seconds for which the stream sends nothing.
        """
        self.add(outcome)
        self._waits[outcome] += 1
        if problem:
            self._wait_problems[outcome] = problem
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
        problems = " ".join(["", *dict.fromkeys(self._wait_problems.values())])
        log.warning("Stream %r waits: %s%s.%s", self._name, _numbers(self._waits), paused, problems)
        self._waits.clear()
        self._wait_problems.clear()

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
        healthy = all(outcome.partition(".")[0] in _EXPECTED for outcome in counted)
        level = logging.INFO if healthy else logging.WARNING
        log.log(level, "Stream %r, reports since the last line: %s", self._name, _numbers(counted))


def _numbers(counted: Counter[str]) -> str:
    return ", ".join(f"{outcome} {number}" for outcome, number in counted.most_common())


def send_metrics(stream: str, counted: Counter[str]) -> None:
    """Add counts to Airflow's metrics ``customerio.stream.<outcome>``, with the stream and the reason as tags."""
    for outcome, number in counted.items():
        kind, _, reason = outcome.partition(".")
        count(f"stream.{kind}", number, {"stream": stream} | ({"reason": reason} if reason else {}))

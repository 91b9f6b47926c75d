"""What became of reports, counted: for Airflow's metrics every few seconds, for the log at most once a minute."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from concurrent.futures import Executor

from airflow_provider_cio.metrics import count

log = logging.getLogger("airflow_provider_cio.stream")

#: Seconds for which counts gather before they go to Airflow's metrics.
FLUSH_EVERY = 10.0
#: Seconds between two lines in the log on counts, and between two on problems of one kind.
LOG_EVERY = 60.0
#: Outcomes that are no reason to worry; any other makes the line a warning.
_EXPECTED = ("sent", "ignored", "skipped")


class Counts:
    """Of one stream.

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

    def add(self, outcome: str) -> None:
        self.total[outcome] += 1
        self._for_metrics[outcome] += 1
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
        text = ", ".join(f"{outcome} {number}" for outcome, number in counted.most_common())
        log.log(
            logging.WARNING if worry else logging.INFO, "Stream %r, reports since the last line: %s", self._name, text
        )


def send_metrics(stream: str, counted: Counter[str]) -> None:
    """``customerio.stream.<outcome>``, with the stream and the reason as tags."""
    for outcome, number in counted.items():
        kind, _, reason = outcome.partition(".")
        count(f"stream.{kind}", number, {"stream": stream} | ({"reason": reason} if reason else {}))

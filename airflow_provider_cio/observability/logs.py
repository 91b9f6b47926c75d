"""What a run says in the task's log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_provider_cio.pipeline.result import Report


def log_progress(log: Logger, label: str, report: Report, waits: str = "") -> None:
    """One line of counts; a warning if something is waited for."""
    work = report.work
    (log.warning if waits else log.info)(
        "%s: %d requests (%d retried), %d deliveries, %s, skipped %s, refused %s%s",
        label,
        work["requests"],
        work["retried"],
        report.tally.read["deliveries"],
        report.delivered.progress.format_map(work),
        dict(report.skipped),
        dict(report.refused),
        f". {waits}" if waits else "",
    )


@contextmanager
def connecting(log: Logger, waiting: Callable[[], str | None]) -> Iterator[None]:
    """Say that the run connects, as the line does of all that comes later: a database may be another one's for minutes.

    :param waiting: what it waits for, if that is known.
    """
    from airflow_provider_cio.pipeline.pipeline import PROGRESS_EVERY, every

    def say() -> None:
        log.warning("Connecting. %s", waiting() or "The other side has not answered yet")

    began = time.monotonic()
    with every(PROGRESS_EVERY, say):
        yield
    took = time.monotonic() - began
    if took >= 1:  # the line begins to count its seconds only now
        log.info("Connected after %d s", took)


def log_sample(log: Logger, event: bytes) -> None:
    """An event of a preview, without what may be personal."""
    from airflow_provider_cio.events.privacy import masked

    log.info("For example (personal data masked): %s", json.dumps(masked(json.loads(event)), ensure_ascii=False))


def log_findings(log: Logger, report: Report) -> None:
    """What the reader of a finished run should know."""
    skipped = report.skipped
    unknown = [reason for reason in skipped if reason.startswith("unknown_metric")]
    if unknown:
        log.warning("Customer.io reports what no collection is known for: %s", ", ".join(unknown))
    if skipped["malformed"]:
        log.warning(
            "%d rows of another shape than documented were met that were not created in this interval: the runs of the "
            "intervals that they were created in refuse them.",
            skipped["malformed"],
        )
    if report.work["out_of_order"]:
        log.warning(
            "%d pages of deliveries were not newest first: nothing is missed, but reading may take longer.",
            report.work["out_of_order"],
        )
    if report.work["cut_short"]:
        log.warning(
            "%d lists of activities were taken to have ended, after several empty pages that each named a further one: "
            "opens and clicks behind these are missing, but for first ones.",
            report.work["cut_short"],
        )
    if alone := report.tally.read["opens_and_clicks_without_activity"]:
        word = report.delivered.word
        log.warning("%d opens and clicks were %s without a link: no activity has their time.", alone, word)
    if not report.tally.read["deliveries"]:
        log.warning("Customer.io showed no delivery at all: check collections, lookback and the workspace.")

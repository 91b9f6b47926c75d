"""Log lines of a task: progress, samples, findings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_provider_cio.pipeline.result import Result


def log_progress(log: Logger, label: str, result: Result, waits: str = "") -> None:
    """Log one line of counts, as a warning while the run waits.

    :param waits: one sentence about the current wait.
    """
    work = result.work
    (log.warning if waits else log.info)(
        "%s: %d requests (%d retried), %d deliveries, %s, skipped %s, refused %s%s",
        label,
        work["requests"],
        work["retried"],
        result.tally.read["deliveries"],
        result.wording.progress.format_map(work),
        dict(result.skipped),
        dict(result.refused),
        f". {waits}" if waits else "",
    )


def log_sample(log: Logger, event: bytes) -> None:
    """Log an event of a preview, with personal data masked."""
    from airflow_provider_cio.events.privacy import masked

    log.info("For example (personal data masked): %s", json.dumps(masked(json.loads(event)), ensure_ascii=False))


def log_findings(log: Logger, result: Result) -> None:
    """Log a warning for each count of a finished run that may need attention."""
    skipped, done = result.skipped, result.wording.done
    if skipped["unknown_metric"]:
        names = ", ".join(sorted(result.tally.unknown))
        log.warning(
            "Customer.io reports metrics that belong to no collection, %d times%s",
            skipped["unknown_metric"],
            f": {names}" if names else "",
        )
    if outside := result.tally.read["out_of_bounds"]:
        log.warning(
            "%d deliveries were created outside the bounds of the request that listed them, and were not passed on. "
            "The request for their own time lists them.",
            outside,
        )
    if skipped["malformed"]:
        log.warning(
            "%d malformed rows are left to other runs. Each is refused by the run without older_than whose interval "
            "contains its creation.",
            skipped["malformed"],
        )
    if result.work["out_of_order"]:
        log.warning(
            "%d pages of deliveries were not newest first: nothing is missed, but reading may take longer.",
            result.work["out_of_order"],
        )
    if result.work["cut_short"]:
        log.warning(
            "%d lists of activities were taken to have ended after several empty pages that each named a further one. "
            "Any opens and clicks after them are missing, except first ones.",
            result.work["cut_short"],
        )
    if alone := result.tally.read["opens_and_clicks_without_activity"]:
        log.warning(
            "%d opens and clicks have no activity of their time: they were %s as the list of deliveries shows them, or "
            "skipped if it names a machine.",
            alone,
            done,
        )
    if unknown_people := result.tally.read["human_not_recorded"]:
        log.warning(
            "%d first opens and clicks may be those of machines: Customer.io has not recorded whether a person made "
            "them.",
            unknown_people,
        )
    if late := result.tally.ages.late(result.lookback, result.of_any_age):
        log.info("%s.", late)
    if not result.tally.read["deliveries"]:
        log.warning("Customer.io showed no delivery at all: check collections, lookback and the workspace.")

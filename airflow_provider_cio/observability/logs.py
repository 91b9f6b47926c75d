"""Log lines of a task: start, progress, summary, samples, warnings.

Airflow's log view shows some 90 characters of a line, so the words that matter come first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_cio.events.interval import Interval, iso
from airflow_provider_cio.observability.summary import progress, summary
from airflow_provider_cio.values import number_of, span_in_words

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_provider_cio.events.catalog import Collection
    from airflow_provider_cio.pipeline.result import Result

#: Words for each mode of opens and clicks.
_MODES = {
    "first": "the first of each message",
    "first_human": "the first of each message that a person made",
    "every": "each",
    "every_human": "each that a person made",
}
#: Words for each assumption that a preview looks at, and for the numbers behind it.
_FOUND = {
    "newest_first": ("deliveries are listed newest first", "{out_of_order} of {rows} are not"),
    "within_bounds": ("deliveries are within the bounds that were asked for", "{outside} of {rows} are not"),
    "limit": ("the limit of a page is kept", "{rows} rows for a limit of {asked}"),
    "next_at_end": ("a list ends without a further page", "its `next` is {next}"),
    "people_with_id": ("most people have an id", "{without_id} of {rows} have none"),
    "metrics": ("all keys of `metrics` are known", "{unknown} are not; met: {keys}"),
    "first_activity": ("the first open has the same time as an activity", "{equal} of {compared} have"),
    "link_of_click": (
        "a click has its link as `href` or `link`",
        "{href} as href, {link} as link, {neither} as neither",
    ),
}
#: Words in place of numbers where activities could not be read, which is no error for a preview.
_NO_ACTIVITIES = "activities could not be read: check the scope of the key"


def log_start(
    log: Logger,
    interval: Interval,
    older_than: timedelta,
    lookback: timedelta,
    mode: str,
    collections: Sequence[Collection],
) -> None:
    """Log which interval, ages and collections the run reads.

    :param mode: of opens and clicks, which may differ from the one that was asked for.
    """
    ages = f"{span_in_words(older_than) if older_than else 'up'} to {span_in_words(lookback)}"
    log.info("From %s to %s, of messages %s old", iso(interval.start), iso(interval.end), ages)
    names = ", ".join(one.name for one in collections)
    engaged = any(one.metric in ("opened", "clicked") for one in collections)
    log.info("Collections: %s%s", names, f". Of opens and clicks, {_MODES[mode]}" if engaged else "")


def log_progress(log: Logger, result: Result, waits: str) -> None:
    """Log one line of counts, as a warning while the run waits.

    :param waits: one sentence about the current wait, or empty text.
    """
    (log.warning if waits else log.info)("%sSo far %s", f"{waits}. " if waits else "", progress(result))


def log_summary(log: Logger, result: Result, *, preview: bool) -> None:
    """Log in one line what a finished run has done, or what it would have done without `preview`."""
    log.info("%s", summary(result, preview=preview))
    if preview:
        log.info("This was a preview: nothing was %s", result.wording.done)


def log_error(log: Logger, error: Exception) -> str:
    """Log an error's advice, each sentence but the first on a line of its own; its frames for debugging only.

    Airflow logs an exception itself. Its log view shows all of the text in one line, which it cuts, and no line breaks.

    :returns: the text with the line breaks, for the exception.
    """
    log.debug("The error was raised here", exc_info=error)
    text = re.sub(r"(?<=\.) (?=[A-Z])", "\n", str(error))
    for line in text.splitlines()[1:]:
        log.error("%s", line)
    return text


def log_sample(log: Logger, event: bytes) -> None:
    """Log an event of a preview, shortened, with personal data masked."""
    from airflow_provider_cio.pipeline.preview import sample_of

    log.info("For example (personal data masked): %s", json.dumps(sample_of(event), ensure_ascii=False))


def log_found(log: Logger, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Log for each assumption whether it holds, and the numbers, as a warning if it does not."""
    for name, one in found.items():
        assumption, numbers = _FOUND[name]
        shown = {key: ", ".join(value) if isinstance(value, list) else value for key, value in one.items()}
        if one["as_assumed"] is None:
            unreadable = one.get("readable") is False
            because = _NO_ACTIVITIES if unreadable else numbers.format_map(shown)
            log.info("Nothing seen to tell whether %s (%s)", assumption, because)
        elif one["as_assumed"]:
            log.info("As assumed, %s (%s)", assumption, numbers.format_map(shown))
        else:
            log.warning("Assumed, but not found: %s (%s)", assumption, numbers.format_map(shown))


def log_warnings(log: Logger, result: Result) -> None:
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
            "Left to other runs: %s. Each is refused by the run without older_than whose interval contains its "
            "creation.",
            number_of(skipped["malformed"], "malformed row"),
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
    if late := result.tally.ages.late(result.counted, result.of_any_age):
        log.info("%s.", late)
    if not result.tally.read["deliveries"]:
        log.warning("Customer.io showed no delivery at all: check collections, lookback and the workspace.")

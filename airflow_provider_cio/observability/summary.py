"""Counts of a run in words. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from airflow_provider_cio.values import number_of

if TYPE_CHECKING:
    from airflow_provider_cio.pipeline.result import Result

#: Collections that a line names, those with most events. The result in XCom has all of them.
_MOST_NAMED = 6
#: Words for each reason of `skipped`: the thing that was skipped, and its description.
_SKIPPED = {
    "unidentified": ("event", "of people without id or address"),
    "machine": ("event", "that no person made"),
    "unknown_metric": ("metric", "without a collection"),
    "not_a_time": ("metric", "without a valid time"),
    "activity_without_delivery": ("event", "without a delivery"),
    "malformed": ("malformed row", "of other runs"),
}


def summary(result: Result, *, preview: bool = False) -> str:
    """Return one line about a finished run, the number of its events first.

    ``113 events sent (delivered 75, opened 38), 7 events of people without id or address skipped; 1,335 deliveries read
    in 7 requests``

    :param preview: the run delivered nothing. The line says how many events it would have delivered.
    """
    done, events = result.wording.done, result.events
    number = events.total() if preview else result.work["events"]
    parts = [f"{number_of(number, 'event')} {'would be ' if preview else ''}{done}{_by_collection(events)}"]
    if "new" in result.wording.counts and not preview:
        parts.append(f"{result.work['new']:,} of them new")
    if result.refused:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in result.refused.most_common())
        parts.append(f"{result.refused.total():,} can't be {done} ({reasons})")
    parts += [_skipped(reason, count) for reason, count in result.skipped.most_common() if count]
    tries = ", earlier tries included" if result.resumed else ""
    return f"{', '.join(parts)}; {_read(result)}{tries}"


def progress(result: Result) -> str:
    """Return one line about a run that is under way: events delivered, deliveries read."""
    return f"{number_of(result.work['events'], 'event')} {result.wording.done}; {_read(result)}"


def _by_collection(events: Counter[str]) -> str:
    """Return ``" (delivered 75, opened 38)"``, with the channels if there are several; empty text without events."""
    counts = [(name, count) for name, count in events.most_common() if count]
    channels = {name.partition(" ")[0] for name, _ in counts}
    named = [
        f"{name.partition(' ')[2].lower() if len(channels) == 1 else name} {count:,}"
        for name, count in counts[:_MOST_NAMED]
    ]
    if others := counts[_MOST_NAMED:]:
        named.append(f"{sum(count for _, count in others):,} of {number_of(len(others), 'other collection')}")
    return f" ({', '.join(named)})" if named else ""


def _skipped(reason: str, count: int) -> str:
    noun, description = _SKIPPED.get(reason, ("row", f"({reason})"))
    return f"{number_of(count, noun)} {description} skipped"


def _read(result: Result) -> str:
    """Return ``1,335 deliveries read in 7 requests``, with the reasons of repeated requests."""
    work, read = result.work, result.tally.read
    activities = f" and {number_of(read['activities'], 'activity', 'activities')}" if read["activities"] else ""
    text = f"{number_of(read['deliveries'], 'delivery', 'deliveries')}{activities} read in "
    text += number_of(work["requests"], "request")
    limited = min(work["rate_limited"], work["retried"])
    faults = work["retried"] - limited
    reasons = [f"{limited:,} for the rate limit"] * bool(limited) + [f"{faults:,} after faults"] * bool(faults)
    return f"{text} ({number_of(work['retried'], 'repetition')}: {', '.join(reasons)})" if reasons else text

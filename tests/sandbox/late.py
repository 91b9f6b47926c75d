"""Delay of metrics: the App API shows some only a while after the time that they carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.sandbox.delivery import base_of, is_time
from tests.sandbox.dice import dice_of, upto

_FAILURES = frozenset(("failed", "dropped", "bounced", "undeliverable", "attempted", "deferred"))


def lateness(delivery_id: str, metric: str) -> int:
    """Return the dice for the delay of a metric, the same for messages and activities; see `dice.upto`."""
    return dice_of("late", delivery_id, base_of(metric))


def is_shown(delivery_id: str, metric: str, time: int, now: float, most: int) -> bool:
    """Return whether a metric is visible: from its time on, or up to `most` seconds later."""
    return time + upto(lateness(delivery_id, metric), most) <= now


def shown(row: dict[str, Any], now: float, most: int) -> dict[str, Any]:
    """Return a delivery's row as it is at the moment: `created` is always there, other metrics come one by one.

    The first opens and clicks of other kinds come with or after the first of all.
    """
    return _without(row, lambda metric, time: not is_shown(row["id"], metric, time, now, most))


def as_draft(row: dict[str, Any], sent: int) -> dict[str, Any]:
    """Return a delivery's row as it was before it was sent: without the metrics that came then or later."""
    return _without(row, lambda metric, time: metric != "drafted" and time >= sent)


def _without(row: dict[str, Any], is_hidden: Callable[[str, int], bool]) -> dict[str, Any]:
    """Return the row without hidden metrics, but with `created`. The failure message comes with the first failure."""
    metrics: dict[str, Any] = row.get("metrics") or {}
    hidden = {
        metric for metric, time in metrics.items() if metric != "created" and is_time(time) and is_hidden(metric, time)
    }
    if not hidden:
        return row
    seen = {metric: value for metric, value in metrics.items() if metric not in hidden}
    changed = {**row, "metrics": seen}
    if row.get("deduplicate_id"):
        times = [time for time in seen.values() if is_time(time)]
        changed["deduplicate_id"] = f"{row['id']}:{max(times, default=row['created'])}"
    if row.get("failure_message") and not _FAILURES & seen.keys():
        changed["failure_message"] = None
    return changed

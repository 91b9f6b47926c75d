"""Which windows to read for an interval, and which occurrences in what was read are inside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from airflow_provider_cio.catalog import CATALOG, Collection
from airflow_provider_cio.clients.customerio import PAGE_SIZE, Delivery
from airflow_provider_cio.interval import Interval

LONGEST_WINDOW = 90 * 86_400  # seconds; the API silently cuts at six months
EARLIEST_TIME = 1_000_000_000  # a smaller value in `metrics` is a count: `human_*` and `prefetch_*` may be that


class Window(NamedTuple):
    """Deliveries of one channel created in ``[start, end)``, Unix seconds, read with one chain of pages."""

    channel: str
    start: int
    end: int
    drafts: bool = False

    def query(self) -> dict[str, str | int]:
        """For `/v1/messages`, whose bounds are both inclusive."""
        query: dict[str, str | int] = {"type": self.channel, "start_ts": self.start, "end_ts": self.end - 1}
        return query | {"limit": PAGE_SIZE} | ({"drafts": "true"} if self.drafts else {})


#: One metric happening to one delivery at one time (Unix seconds).
Occurrence = tuple[Delivery, Collection, int]


def plan(interval: Interval, lookback: int, collections: Sequence[Collection]) -> list[Window]:
    """The windows that hold every delivery an occurrence in the interval can belong to.

    They cover ``[start - lookback, end)`` without gap or overlap, since a delivery is found by when it was
    created, not by when something happened to it.

    Drafts are listed apart from what was sent, so they are read too if their collection is wanted.

    :param lookback: seconds.
    """
    first = max(0, interval.start - lookback)
    count = -(-(interval.end - first) // LONGEST_WINDOW)
    bounds = [first + (interval.end - first) * i // count for i in range(count + 1)] if count else []
    channels = dict.fromkeys(collection.channel for collection in collections)
    with_drafts = {collection.channel for collection in collections if collection.metric == "drafted"}
    return [
        Window(channel, start, end, drafts)
        for channel in channels
        for drafts in ((True, False) if channel in with_drafts else (False,))
        for start, end in pairwise(bounds)
    ]


def occurrences(
    page: Sequence[Delivery], collections: Sequence[Collection], interval: Interval, skipped: Counter[str]
) -> Iterator[Occurrence]:
    """What happened to these deliveries inside the interval.

    :param skipped: counts, under ``not_a_time``, values of wanted metrics that can't be a time; and, under
        ``unknown_metric`` with channel and metric, what happened inside the interval but has no collection.
    """
    start, end = interval
    wanted: dict[str, dict[str, Collection]] = {}
    for collection in collections:
        wanted.setdefault(collection.channel, {})[collection.metric] = collection
    for delivery in page:
        by_metric = wanted.get(delivery.type)
        if by_metric is None:
            continue
        known = _KNOWN[delivery.type]
        for metric, time in delivery.metrics.items():
            found = by_metric.get(metric)
            if found is not None:
                if type(time) is int and time >= EARLIEST_TIME:
                    if start <= time < end:
                        yield delivery, found, time
                elif time is not None:
                    skipped["not_a_time"] += 1
            elif metric not in known and type(time) is int and start <= time < end and not metric.startswith(_REPEATS):
                skipped[f"unknown_metric {delivery.type}.{metric}"] += 1


_REPEATS = ("human_", "prefetch_")  # what begins so repeats another metric
_KNOWN: dict[str, set[str]] = {collection.channel: {"created"} for collection in CATALOG.values()}  # "created" is none
for _collection in CATALOG.values():
    _KNOWN[_collection.channel].add(_collection.metric)

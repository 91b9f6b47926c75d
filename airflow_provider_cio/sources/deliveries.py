"""Which occurrences in deliveries are inside an interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from airflow_provider_cio.events.catalog import CATALOG, Collection
from airflow_provider_cio.interval import Interval
from airflow_provider_cio.records import Delivery

EARLIEST_TIME = 1_000_000_000  # a smaller value in `metrics` is a count: `human_*` and `prefetch_*` may be that

#: One metric happening to one delivery at one time (Unix seconds).
Occurrence = tuple[Delivery, Collection, int]


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

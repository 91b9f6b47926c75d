"""The line, end to end: read pages, find occurrences, map them, send batches, count."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_cio.catalog import Collection
from airflow_provider_cio.clients.customerio import CustomerIOClient, Delivery
from airflow_provider_cio.clients.segment import SegmentClient, batches, breach, encode
from airflow_provider_cio.extract import occurrences, plan, read
from airflow_provider_cio.interval import Interval, iso
from airflow_provider_cio.mapping import Mapper

PROGRESS_EVERY = 10.0  # seconds
_NAMED_IDS = 5  # delivery ids that an error names for each reason


@dataclass
class Report:
    """What one run did. `refused` holds, for each reason, how many events were not sent and the first of their ids."""

    interval: Interval
    events: Counter[str]
    requests: int = 0
    deliveries: int = 0
    sent: Counter[str] = field(default_factory=lambda: Counter(events=0, batches=0, bytes=0))
    skipped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    refused_ids: dict[str, list[str]] = field(default_factory=dict)

    def refuse(self, reason: str, delivery_id: str) -> None:
        self.refused[reason] += 1
        ids = self.refused_ids.setdefault(reason, [])
        if len(ids) < _NAMED_IDS:
            ids.append(delivery_id)

    def refusals(self) -> str:
        """E.g. ``event_too_large: 2 (deliveries a, b)``."""
        return "; ".join(
            f"{reason}: {count} (first deliveries: {', '.join(self.refused_ids[reason])})"
            for reason, count in self.refused.items()
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain and small, for XCom."""
        return {
            "interval": {"start": iso(self.interval.start), "end": iso(self.interval.end)},
            "read": {"requests": self.requests, "deliveries": self.deliveries},
            "events": dict(self.events),
            "sent": dict(self.sent),
            "skipped": dict(self.skipped),
        }


def run(
    source: CustomerIOClient,
    destination: SegmentClient,
    mapper: Mapper,
    *,
    interval: Interval,
    lookback: int,
    collections: Sequence[Collection],
    progress: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Send every occurrence of the interval, once.

    An event that breaks a rule of Segment's is counted in the report's `refused`; all others are sent.

    :param lookback: seconds before the interval in which a delivery may have been created.
    :param progress: called about every ten seconds, between two pages.
    """
    report = Report(interval, Counter({collection.name: 0 for collection in collections}))

    def pages() -> Iterator[list[Delivery]]:
        due = time.monotonic() + PROGRESS_EVERY
        for page in read(source, plan(interval, lookback, collections)):
            report.deliveries += len(page)
            report.requests = source.requests_made
            yield page
            if time.monotonic() >= due:
                progress(report)
                due = time.monotonic() + PROGRESS_EVERY

    def events() -> Iterator[bytes]:
        for page in pages():
            for delivery, collection, at in occurrences(page, collections, interval, report.skipped):
                event = mapper.event(delivery, collection, at)
                if event is None:
                    report.skipped["unidentified"] += 1
                    continue
                encoded = encode(event)
                if reason := breach(event, encoded):
                    report.refuse(reason, delivery.id)
                    continue
                report.events[collection.name] += 1
                yield encoded

    for batch in batches(events(), destination.envelope):
        report.sent["bytes"] += destination.send(batch)
        report.sent["events"] += len(batch)
        report.sent["batches"] += 1
    report.requests = source.requests_made
    return report

"""Requests that a month of hourly data takes: of one hourly DAG, of three rhythms, and of the floor.

Only requests count, so the sandbox answers at once. The deliveries of half a year would fill the memory. So the world
has one in ten of them, and a page has one in ten of the rows, which makes as many pages. But the rows of such a page
vary more by chance, so that more windows need one page more than planned: the real service takes a few requests less.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import timedelta
from math import ceil
from typing import Any, NamedTuple

from airflow_provider_cio.costs import DAY, HOUR, MONTH, PLANS, Rhythm
from airflow_provider_cio.customerio.client import PAGE_SIZE, CustomerIOClient
from airflow_provider_cio.events.event import Event
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.operators.assembly import build_pipeline
from airflow_provider_cio.operators.options import Options
from airflow_provider_cio.pipeline.preview import PreviewSink
from airflow_provider_cio.segment.client import SegmentClient
from airflow_provider_cio.segment.sink import SegmentSink
from tests.benchmarks.figures import Figure
from tests.benchmarks.world import START, Served, serving

SCALE = 10
ROWS = PAGE_SIZE // SCALE
WEEK = 7 * DAY
#: The first week whose look-back is all in the world.
BEGIN, END = START + 180 * DAY, START + 180 * DAY + WEEK
#: Of the opens, about one in a hundred comes after 30 days, some after months: see docs/costs.md.
LATE = {"longest_lag": 180 * DAY - 1, "late_opens": 0.015}
#: Runs of the one DAG that are measured, evenly over a day.
MEASURED = 4
#: Aim: requests of the three rhythms over those of the one DAG.
MOST = 0.1

ONE, THREE = PLANS["one hourly DAG, look-back of 30 days"], PLANS["three rhythms"]


class Found(NamedTuple):
    """Relevant fields of an event."""

    message_id: str
    delivery_id: str
    time: float


class Memory(PreviewSink):
    """Sink that delivers nothing, and remembers its events."""

    def __init__(self) -> None:
        super().__init__(SegmentSink(SegmentClient("key")), sample=lambda event: None)
        self.found: list[Found] = []

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            properties: Any = event.properties
            self.found.append(Found(event.message_id, properties.delivery_id, event.timestamp.timestamp()))
        self.acknowledged += 1


def measure(quick: bool) -> Iterator[Figure]:
    """Measure a week of the three rhythms, and some hours of the one DAG. A month is calculated from both."""
    a_month = 100_000 if quick else 1_000_000
    deliveries = a_month // SCALE * (END - START) // MONTH
    with serving(deliveries, interval=(BEGIN, END), history={"start": START, "end": END, **LATE}) as sandbox:
        (hourly,) = ONE.values()
        one = [run(sandbox, hourly, start)[0] for start in range(BEGIN, BEGIN + DAY, DAY // MEASURED)]
        three: dict[str, int] = {}
        found: list[Found] = []
        for name, rhythm in THREE.items():
            runs = [run(sandbox, rhythm, start) for start in range(BEGIN, END, rhythm.every)]
            three[name] = sum(requests for requests, _ in runs)
            found += [event for _, events in runs for event in events]
        truth = sum(sandbox.truth.values())

    different = len({event.message_id for event in found})
    wrong = "" if len(found) == different == truth else f"{len(found)} events, {different} different, of {truth}"
    month_of_one, month_of_three = sum(one) / MEASURED * MONTH / HOUR, sum(three.values()) * MONTH / WEEK
    part = f"Requests for a month of hourly data, {a_month:,} deliveries a month"
    for what, requests, note in (
        (
            "one hourly DAG that looks back 30 days",
            month_of_one,
            f"calculated from {MEASURED} hours of a day, which took {', '.join(map(str, one))}; "
            f"estimated by airflow_provider_cio.costs: {estimated(ONE, a_month):,.0f}",
        ),
        (
            "three rhythms up to 180 days",
            month_of_three,
            f"calculated from a week: {', '.join(f'{requests:,} {name}' for name, requests in three.items())}; "
            f"estimated: {estimated(THREE, a_month):,.0f}",
        ),
        (
            "floor",
            floor(found) * MONTH / WEEK,
            "pages of the deliveries that had an event in the hour, names not included",
        ),
    ):
        yield Figure(part, what, requests, "{:,.0f}", note=note)
    yield Figure(
        part,
        "three rhythms over the one DAG",
        month_of_three / month_of_one,
        "{:.3f}",
        aim=MOST,
        note="" if wrong else f"each of the week's {truth:,} events came once",
        wrong=wrong,
    )


def run(sandbox: Served, rhythm: Rhythm, start: int) -> tuple[int, list[Found]]:
    """Return the requests of one run, and the events that it found."""
    options = Options(lookback=timedelta(seconds=rhythm.lookback), older_than=timedelta(seconds=rhythm.older_than))
    interval, sink = Interval(start, start + rhythm.every), Memory()
    with CustomerIOClient(sandbox.app_key, base_url=sandbox.url, requests_per_second=1000) as client:
        pipeline = build_pipeline(
            client, sink, options, interval, mode="first", message_id_namespace="benchmark", page_size=ROWS
        )
        return pipeline.run().work["requests"], sink.found


def floor(found: Iterable[Found]) -> int:
    """Return the pages that the deliveries with an event in each hour would fill."""
    hours: dict[int, set[str]] = defaultdict(set)
    for event in found:
        hours[int(event.time) // HOUR].add(event.delivery_id)
    return sum(ceil(len(deliveries) / ROWS) for deliveries in hours.values())


def estimated(rhythms: dict[str, Rhythm], a_month: int) -> float:
    """Return the requests of a month that the users' command estimates."""
    return sum(one.requests(a_month) * MONTH / one.every for one in rhythms.values())

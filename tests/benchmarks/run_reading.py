"""Read, name and map an interval once, and send nothing: seconds, and the number of different events."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable

from airflow_provider_cio.customerio.client import CustomerIOClient
from airflow_provider_cio.events.event import Event
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.pipeline.preview import PreviewSink
from airflow_provider_cio.segment.client import SegmentClient
from airflow_provider_cio.segment.sink import SegmentSink
from tests.benchmarks.run_line import line


class Nowhere(PreviewSink):
    """A sink that counts different events."""

    def __init__(self) -> None:
        super().__init__(SegmentSink(SegmentClient("key")), sample=lambda event: None)
        self.ids: set[str] = set()

    def take(self, events: Iterable[Event]) -> None:
        self.ids.update(event.message_id for event in events)
        self.acknowledged += 1


def main() -> None:
    wanted = json.loads(sys.argv[1])
    sink = Nowhere()
    client = CustomerIOClient(wanted["app_key"], base_url=wanted["url"], requests_per_second=wanted["per_second"])
    began = time.perf_counter()
    line(client, sink, Interval(*wanted["interval"]), "benchmark")
    print(json.dumps({"seconds": time.perf_counter() - began, "events": len(sink.ids)}))


if __name__ == "__main__":
    main()

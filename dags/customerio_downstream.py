"""Runs each time that `customerio_to_segment` has sent a day, and learns which day, and how many events of which kind.
Put here what works with them: a check, a message, a dbt job (Segment's warehouses have them after a sync)."""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, task

with DAG(
    dag_id="customerio_downstream",
    # The outlet of the task in customerio_to_segment.py, with the same name and URI. By `Asset.ref(name=...)`, Airflow
    # 3.3.2 starts the run, too, but does not tell it of the events.
    schedule=[Asset("customerio_events", uri="segment://api.segment.io/segment_default")],
    start_date=pendulum.datetime(2026, 11, 1, tz="UTC"),
    tags=["customerio", "segment"],
    doc_md=__doc__,
):

    @task
    def use_the_events(*, triggering_asset_events: Any = None) -> list[dict[str, Any]]:
        """The results of the runs that triggered this one: several, if they came close together."""
        results = [event.extra for events in triggering_asset_events.values() for event in events]
        for result in results:
            print(f"{result['interval']['start']} to {result['interval']['end']}: {result['events']}")
        return results

    use_the_events()

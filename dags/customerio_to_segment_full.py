"""Everything Customer.io can tell: every channel, every open and click with its link, hashed addresses, a file for what
Segment can't take. Needs the same two connections as `customerio_to_segment`, and an App API key that may read
activities, campaigns, newsletters, broadcasts and transactional messages too."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG, CronDataIntervalTimetable

from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator

with DAG(
    dag_id="customerio_to_segment_full",
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=pendulum.datetime(2026, 11, 1, tz="UTC"),
    catchup=True,
    max_active_runs=1,
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
    },
    tags=["customerio", "segment"],
    doc_md=__doc__,
):
    settle = TimeDeltaSensor(task_id="settle", delta=timedelta(minutes=30), deferrable=True)
    send = CustomerIOToSegmentOperator(
        task_id="customerio_to_segment",
        collections="all",
        occurrences="every",
        machine_occurrences="drop",
        # For days older than the 30 of activities. Such a day has other messageIds than if it was sent with them.
        fall_back_to_deliveries=True,
        pii="hash",
        dead_letter_path="file:///tmp/customerio_to_segment/dead_letters",  # or s3://conn_id@bucket/folder
        execution_timeout=timedelta(hours=6),
    )

    settle >> send

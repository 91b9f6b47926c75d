"""Customer.io's e-mail events to Segment, a day at a time. Needs the connections `customerio_default` and
`segment_default`. A new DAG is paused: `airflow dags unpause customerio_to_segment` sends each day since `start_date`,
and then each new one. `airflow backfill create --dag-id customerio_to_segment --from-date ... --to-date ...` sends
earlier days. To look first without sending, use `customerio_preview`."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Asset

from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator

try:
    from airflow.sdk import CronDataIntervalTimetable
except ImportError:  # Airflow 3.0 and 3.1
    from airflow.timetables.interval import CronDataIntervalTimetable

with DAG(
    dag_id="customerio_to_segment",
    # Not "@daily": as a plain string it gives every run an interval of zero length.
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=pendulum.datetime(2026, 11, 1, tz="UTC"),
    catchup=True,
    # Customer.io allows a workspace 10 requests a second, and one run at a time uses most of them. (A backfill has a
    # limit of its own: --max-active-runs.) The next step, for more DAGs on one workspace:
    # `airflow pools set customerio 1 "App API"`, and pool="customerio" on the operator.
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
    # It waits half an hour after the interval's end (`settling_time`), without a worker's slot.
    CustomerIOToSegmentOperator(
        task_id="customerio_to_segment",
        execution_timeout=timedelta(hours=6),
        # It starts customerio_downstream. By its URI, OpenLineage knows it as the dataset that the run writes.
        outlets=[Asset("customerio_events", uri="segment://api.segment.io/segment_default")],
    )

"""Everything Customer.io can tell: every channel, every open and click with its link, hashed addresses, a file for what
can't be sent. Needs the same two connections as `customerio_to_segment`, and an App API key that may read
activities, campaigns, newsletters, broadcasts and transactional messages too."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator

try:
    from airflow.sdk import CronDataIntervalTimetable
except ImportError:  # Airflow 3.0 and 3.1
    from airflow.timetables.interval import CronDataIntervalTimetable

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
    render_template_as_native_obj=True,  # None stays None in what a template renders to
    tags=["customerio", "segment"],
    doc_md=__doc__,
):
    CustomerIOToSegmentOperator(
        task_id="customerio_to_segment",
        collections="all",
        # Each open and click that a person made. Days older than the 30 of activities send the first ones.
        opens_and_clicks="every_human",
        pii="hash",
        # A folder that outlives the worker: `airflow variables set customerio_dead_letters s3://conn_id@bucket/folder`.
        # As long as the variable is not set, this is None, and a run with events that can't be sent fails at its end.
        dead_letter_path="{{ var.value.get('customerio_dead_letters', none) }}",
        execution_timeout=timedelta(hours=6),
    )

"""Customer.io's e-mail events into your own warehouse, a day at a time, in the tables that Segment would make. Needs
the connections `customerio_default` and `warehouse_default`: of type `duckdb`, with the path of a file as its host, or
of type `postgres`, `redshift`, `gcpbigquery` or `snowflake`."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, Asset

from airflow_provider_cio.operators.customerio_to_warehouse import CustomerIOToWarehouseOperator

try:
    from airflow.sdk import CronDataIntervalTimetable
except ImportError:  # Airflow 3.0 and 3.1
    from airflow.timetables.interval import CronDataIntervalTimetable

with DAG(
    dag_id="customerio_to_warehouse",
    # Not "@daily": as a plain string it gives every run an interval of zero length.
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=pendulum.datetime(2026, 11, 1, tz="UTC"),
    catchup=True,
    max_active_runs=1,  # one run uses most of the 10 requests a second that Customer.io allows a workspace
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
    },
    tags=["customerio", "warehouse"],
    doc_md=__doc__,
):
    # customerio.email_opened, customerio.email_link_clicked ..., and customerio.tracks over all of them.
    CustomerIOToWarehouseOperator(
        task_id="customerio_to_warehouse",
        schema="customerio",
        execution_timeout=timedelta(hours=6),
        outlets=[Asset("customerio_tables")],  # for DAGs that read them
    )

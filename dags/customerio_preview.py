"""Shows what `customerio_to_segment` would send of the days that you choose, and sends nothing. Trigger it by the form
in the UI, or by this command. The log of its task has the counts and a sample of each event.

    airflow dags trigger customerio_preview --conf '{"first_day": "2026-11-05", "last_day": "2026-11-05"}'

This is a DAG of its own, because a day that `customerio_to_segment` previewed itself would count as done for Airflow:
a backfill would skip it, and its events would never be sent."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator

with DAG(
    dag_id="customerio_preview",
    schedule=None,  # only you start it
    max_active_runs=1,  # one run uses most of the 10 requests a second that Customer.io allows a workspace
    is_paused_upon_creation=False,  # it has no schedule and sends nothing, so it may be on at once
    params={
        "first_day": Param(type="string", format="date", title="First day", description="In UTC; a day that is over"),
        "last_day": Param(type="string", format="date", title="Last day", description="In UTC, included"),
    },
    default_args={
        "retries": 3,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
    },
    tags=["segment"],  # without "customerio", because a day without a preview is no gap
    doc_md=__doc__,
):
    # Give it the other parameters of the task that it stands for: `collections`, `opens_and_clicks`, `pii`.
    CustomerIOToSegmentOperator(
        task_id="customerio_preview",
        interval_start="{{ params.first_day }}",
        interval_end="{{ macros.ds_add(params.last_day, 1) }}",
        preview=True,
        execution_timeout=timedelta(hours=6),
    )

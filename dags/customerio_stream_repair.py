"""Sends Segment the events that the stream of Customer.io's reporting webhooks has missed: hourly those of messages up
to a day old, and every twelve hours those of messages 1 to 30 days old. Needs the stream's two connections, and its
options where they are not the defaults (`collections`, `pii`, ...): an event then has the same id by both roads, and
Segment keeps it once.

Segment knows an id again for 24 hours only. So an interval is read soon after it, and not at all once it is too old. A
run over a whole day would come too late for the first hours: of these, Segment would keep the stream's events twice. A
longer gap is for `customerio_to_segment`, over exactly the time in which the stream was away."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG, task

from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator

try:
    from airflow.sdk import CronDataIntervalTimetable
except ImportError:  # Airflow 3.0 and 3.1
    from airflow.timetables.interval import CronDataIntervalTimetable


@task.short_circuit
def is_known_to_segment(data_interval_start: pendulum.DateTime | None = None) -> bool:
    """False skips an interval that could come too late. Four tries of an hour each still end within its 24 hours."""
    return data_interval_start is not None and pendulum.now("UTC") < data_interval_start.add(hours=18)


# An event that happens 30 days or longer after its message was created comes by the stream only.
for dag_id, cron, older_than, lookback in (
    ("customerio_stream_repair", "@hourly", None, 1),
    ("customerio_stream_repair_older", "0 0,12 * * *", 1, 30),
):
    with DAG(
        dag_id=dag_id,
        schedule=CronDataIntervalTimetable(cron, timezone="UTC"),
        start_date=pendulum.datetime(2026, 11, 1, tz="UTC"),  # put the day here on which the stream begins
        catchup=True,
        max_active_runs=1,
        default_args={
            "retries": 3,
            "retry_delay": timedelta(minutes=1),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(minutes=10),
        },
        tags=["customerio", "segment"],
        doc_md=__doc__,
    ):
        # Within three hours most of what Customer.io had to send again has come: after some answers it waits an hour.
        repair = CustomerIOToSegmentOperator(
            task_id="customerio_to_segment",
            older_than=older_than,
            lookback=lookback,
            settling_time=timedelta(hours=3),
            execution_timeout=timedelta(hours=1),
        )
        is_known_to_segment() >> repair

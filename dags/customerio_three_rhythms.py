"""Customer.io's e-mail events to Segment, in place of `customerio_to_segment`: soon, and with few requests. Three DAGs
share the events by age, which is the time since the message was created: an hourly one sends what is up to a day old, a
daily one 1 to 7 days, a weekly one 7 to 180 days. Each event is sent by exactly one of them.

Needs the connections `customerio_default` and `segment_default`, and a pool in which the runs take turns. Without the
pool, no task of these DAGs starts: `airflow pools set customerio 1 "App API"` makes it. Then unpause each of the three
DAGs. Its runs wait while it is paused."""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator

try:
    from airflow.sdk import CronDataIntervalTimetable
except ImportError:  # Airflow 3.0 and 3.1
    from airflow.timetables.interval import CronDataIntervalTimetable

# The ages, in days, have to touch: the `lookback` of one is the `older_than` of the next. While a weekly run reads (at
# 10 million deliveries a month for two hours), the hourly runs wait for the pool's slot. They catch up afterwards.
# A backfill of more than 30 days needs `opens_and_clicks` "first" or "first_human" in all three. With "every", it sends
# first opens and clicks up to the `lookback` of its own DAG only, so those that came later are sent by none.
for rhythm, older_than, lookback, longest in (
    ("hourly", None, 1, timedelta(hours=1)),
    ("daily", 1, 7, timedelta(hours=6)),
    ("weekly", 7, 180, timedelta(days=1)),
):
    with DAG(
        dag_id=f"customerio_to_segment_{rhythm}",
        # Not "@hourly" and so on: as a plain string it gives every run an interval of zero length.
        schedule=CronDataIntervalTimetable(f"@{rhythm}", timezone="UTC"),
        # One moment for all three, and a Sunday, because the intervals of "@weekly" begin there. From another day on,
        # events of 7 days and older would be missing until the next Sunday.
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
        # It waits half an hour after the interval's end (`settling_time`), and takes the pool's slot only afterwards.
        CustomerIOToSegmentOperator(
            task_id="customerio_to_segment",
            older_than=older_than,
            lookback=lookback,
            pool="customerio",
            execution_timeout=longest,
        )

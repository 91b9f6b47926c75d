"""Write finished runs of DAGs with one task into Airflow's database, with their results: of so many days up to `LAST`.

In the environment of that Airflow: `python -m tests.benchmarks.run_year DAYS DAG_ID ...`. A task has its DAG's name.
"""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pendulum

LAST = date(2026, 11, 27)
DAY = timedelta(days=1)


def result(start: datetime) -> dict[str, Any]:
    """Return a result as of a run that sent all six collections."""
    names = ["Delivered", "Opened", "Link Clicked", "Bounced", "Marked as Spam", "Unsubscribed"]
    events = {f"Email {name}": 1000 + start.day * i for i, name in enumerate(names)}
    return {
        "interval": {"start": start.isoformat(), "end": (start + DAY).isoformat()},
        "read": {"deliveries": 12345, "requests": 40},
        "events": events,
        "sent": {"events": sum(events.values()), "batches": 12, "bytes": 1234567},
        "skipped": {"other_channel": 12, "no_user_id": 4},
        "ages": {name: {"1h": 900, "1d": 80, "2d": 15, "7d": 4, "30d": 1} for name in events},
    }


def main(days: int, *dag_ids: str) -> None:
    """Use Airflow's own models, as its scheduler and its API do."""
    from airflow.models.asset import AssetEvent, TaskOutletAssetReference
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.models.xcom import XComModel
    from airflow.timetables.base import DataInterval
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType
    from sqlalchemy import select

    first = pendulum.instance(datetime.combine(LAST, time(), UTC)) - (days - 1) * DAY
    with create_session() as session:
        for dag_id in dag_ids:
            dag = SerializedDagModel.get_dag(dag_id, session=session)
            assert dag is not None
            outlet = TaskOutletAssetReference
            asset_id = session.scalar(select(outlet.asset_id).where(outlet.dag_id == dag_id))
            for start in (first + i * DAY for i in range(days)):
                end = start + DAY
                run = dag.create_dagrun(
                    run_id=f"scheduled__{end.isoformat()}",
                    logical_date=start,
                    data_interval=DataInterval(start, end),
                    run_after=end,
                    run_type=DagRunType.SCHEDULED,
                    triggered_by=DagRunTriggeredByType.TIMETABLE,
                    state=DagRunState.SUCCESS,
                    start_date=end,
                    session=session,
                )
                run.end_date = end + timedelta(hours=1)
                [instance] = run.get_task_instances(session=session)
                instance.state, instance.start_date, instance.end_date = "success", end, run.end_date
                session.flush()
                whose: Any = {"dag_id": dag_id, "task_id": dag_id, "run_id": run.run_id}
                XComModel.set(key="return_value", value=result(start), **whose, session=session)
                if asset_id is not None:
                    source: Any = {f"source_{name}": value for name, value in whose.items()}
                    event = AssetEvent(asset_id=asset_id, timestamp=run.end_date, extra=result(start), **source)
                    session.add(event)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])

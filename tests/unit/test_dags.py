from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pendulum
import pytest
from airflow.sdk.execution_time.context import MacrosAccessor
from airflow.timetables.base import TimeRestriction
from airflow.timetables.interval import CronDataIntervalTimetable as SchedulersTimetable

from airflow_provider_cio.costs import PLANS
from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.events.interval import resolve_interval
from airflow_provider_cio.observability.lineage import namespace
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from airflow_provider_cio.operators.customerio_to_warehouse import CustomerIOToWarehouseOperator
from airflow_provider_cio.operators.options import read_options
from airflow_provider_cio.segment.client import REGIONS
from tests.airflow_names import CronDataIntervalTimetable, DagBag

REPOSITORY = Path(__file__).parents[2]
FILE = REPOSITORY / "dags" / "customerio_to_segment.py"
EXAMPLES = ("customerio_to_segment", "customerio_to_segment_full", "customerio_to_warehouse")
#: With their schedules.
RHYTHMS = {f"customerio_to_segment_{rhythm}": f"@{rhythm}" for rhythm in ("hourly", "daily", "weekly")}
REPAIRS = {"customerio_stream_repair": "@hourly", "customerio_stream_repair_older": "0 0,12 * * *"}
CONSUMER = "customerio_downstream"
PREVIEW = "customerio_preview"

# Airflow comes first, since it takes hold of warnings for its log; at the end comes one to see that they are caught.
WARNINGS = """
import airflow.configuration, airflow.sdk, airflow.settings
import json, pkgutil, runpy, sys, warnings
from importlib import import_module
repository, dag_file = sys.argv[1:]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import airflow_provider_cio
    for one in pkgutil.walk_packages(airflow_provider_cio.__path__, "airflow_provider_cio."):
        import_module(one.name)
    runpy.run_path(dag_file)
    warnings.warn_explicit("a control", DeprecationWarning, dag_file, 1)
kinds = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
ours = (airflow_provider_cio.__path__[0], repository + "/dags")
found = [one for one in caught if issubclass(one.category, kinds) and one.filename.startswith(ours)]
print(json.dumps([str(one.message) for one in found]))
"""


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(FILE.parent)


@pytest.fixture(scope="module", params=EXAMPLES)
def dag(bag: DagBag, request: pytest.FixtureRequest) -> Any:
    return bag.dags[request.param]


def test_folder_is_read_without_errors(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert bag.captured_warnings == {}
    assert set(bag.dags) == {*EXAMPLES, *RHYTHMS, *REPAIRS, CONSUMER, PREVIEW}


def test_daily_runs_leave_no_day_out(dag: Any) -> None:
    # What was written, and not what Airflow made of it: the setting `create_cron_data_intervals` of these tests would
    # make such a timetable of a plain "@daily" too.
    assert type(dag.schedule) is CronDataIntervalTimetable
    assert dag.timetable.can_be_scheduled
    assert dag.catchup is True
    assert dag.start_date == datetime(2026, 11, 1, tzinfo=UTC)
    assert dag.max_active_runs == 1


def test_task_has_a_settling_time(dag: Any) -> None:
    (send,) = dag.tasks
    assert (send.task_id, type(send)) == {
        "customerio_to_segment": ("customerio_to_segment", CustomerIOToSegmentOperator),
        "customerio_to_segment_full": ("customerio_to_segment", CustomerIOToSegmentOperator),
        "customerio_to_warehouse": ("customerio_to_warehouse", CustomerIOToWarehouseOperator),
    }[dag.dag_id]
    assert send.settling_time == timedelta(minutes=30)
    assert send.execution_timeout is not None


def test_rhythms_are_those_of_the_docs(bag: DagBag) -> None:
    """The DAGs have the rhythms of docs/costs.md and of the bench, which has found each event once with them."""
    assert [_ages_and_length(bag.dags[name]) for name in RHYTHMS] == [
        (timedelta(seconds=one.older_than), timedelta(seconds=one.lookback), timedelta(seconds=one.every))
        for one in PLANS["three rhythms"].values()
    ]


def test_rhythms_begin_at_one_moment(bag: DagBag) -> None:
    """The rhythms begin at one moment. Otherwise no DAG would send events of some ages between two beginnings."""
    dags: list[Any] = [bag.dags[name] for name in RHYTHMS]
    assert {_first_interval(dag).start for dag in dags} == {dag.start_date for dag in dags} == {dags[0].start_date}
    for dag in dags:
        assert type(dag.schedule) is CronDataIntervalTimetable
        assert (dag.catchup, dag.max_active_runs) == (True, 1)


def test_rhythms_take_turns_in_one_pool(bag: DagBag) -> None:
    tasks: list[Any] = [bag.dags[name].get_task("customerio_to_segment") for name in RHYTHMS]
    assert {(type(task), task.pool, task.pool_slots) for task in tasks} == {
        (CustomerIOToSegmentOperator, "customerio", 1)
    }
    assert all(task.settling_time == timedelta(minutes=30) and task.execution_timeout for task in tasks)


def _first_interval(dag: Any) -> Any:
    """Return the first interval that the scheduler makes of the schedule and the start date."""
    cron = (RHYTHMS | REPAIRS)[dag.dag_id]
    assert dag.schedule == CronDataIntervalTimetable(cron, timezone="UTC")
    timetable = SchedulersTimetable(cron, timezone=pendulum.timezone("UTC"))
    since = TimeRestriction(earliest=dag.start_date, latest=None, catchup=dag.catchup)
    run = timetable.next_dagrun_info(last_automated_data_interval=None, restriction=since)
    assert run is not None
    return run.data_interval


def _ages_and_length(dag: Any) -> tuple[timedelta, timedelta, timedelta]:
    """Return the ages that the DAG's task sends, and the length of an interval."""
    options = read_options(_rendered(dag.get_task("customerio_to_segment")))
    first = _first_interval(dag)
    return options.older_than, options.lookback, first.end - first.start


@pytest.mark.parametrize("name", REPAIRS)
def test_repair_covers_every_hour(bag: DagBag, name: str) -> None:
    dag: Any = bag.dags[name]
    assert type(dag.schedule) is CronDataIntervalTimetable
    assert _first_interval(dag).start == dag.start_date
    assert (dag.catchup, dag.max_active_runs) == (True, 1)
    repair = dag.get_task("customerio_to_segment")
    assert repair.upstream_task_ids == {"is_known_to_segment"}
    assert type(repair) is CustomerIOToSegmentOperator
    assert repair.collections == CustomerIOToSegmentOperator(task_id="plain").collections


def test_repairs_share_the_ages(bag: DagBag) -> None:
    none, hour, day = timedelta(0), timedelta(hours=1), timedelta(days=1)
    assert [_ages_and_length(bag.dags[name]) for name in REPAIRS] == [(none, day, hour), (day, 30 * day, 12 * hour)]


@pytest.mark.parametrize("name", REPAIRS)
def test_repair_fits_segments_memory(bag: DagBag, name: str) -> None:
    """The time is counted from the earliest event by the stream to the end of the last try that may send it again."""
    dag: Any = bag.dags[name]
    known, repair = dag.get_task("is_known_to_segment"), dag.get_task("customerio_to_segment")
    longest = repair.execution_timeout * (repair.retries + 1) + repair.max_retry_delay * repair.retries
    length, latest = _ages_and_length(dag)[2], timedelta(hours=18)
    assert max(latest, length + repair.settling_time) + longest < timedelta(hours=24)
    now, is_known = pendulum.now("UTC"), known.python_callable
    assert is_known(data_interval_start=now - latest + timedelta(minutes=1))
    assert not is_known(data_interval_start=now - latest - timedelta(minutes=1))
    assert not is_known()


def test_preview_sends_nothing_of_the_days_that_are_chosen(bag: DagBag) -> None:
    dag: Any = bag.dags[PREVIEW]
    assert (dag.schedule, dag.max_active_runs) == (None, 1)
    (task,) = dag.tasks
    rendered = task.prepare_for_execution()
    days = {"first_day": "2026-10-31", "last_day": "2026-11-02"}
    rendered.render_template_fields({"params": days, "macros": MacrosAccessor()}, dag.get_template_env())
    interval = resolve_interval(rendered.interval_start, rendered.interval_end, {})
    assert str(interval) == "[2026-10-31T00:00:00Z, 2026-11-03T00:00:00Z)"
    assert read_options(rendered).preview is True


@pytest.mark.parametrize("name", [*EXAMPLES, *RHYTHMS, *REPAIRS, PREVIEW])
def test_tasks_have_growing_waits(bag: DagBag, name: str) -> None:
    dag: Any = bag.dags[name]
    for task in dag.tasks:
        assert task.retries >= 2
        assert task.retry_exponential_backoff
        assert timedelta(0) < task.retry_delay < task.max_retry_delay


def test_full_example_hashes_addresses(bag: DagBag) -> None:
    (send,) = bag.dags["customerio_to_segment_full"].tasks
    assert isinstance(send, CustomerIOToSegmentOperator)
    of_messages = [one for one in CATALOG.values() if not one.is_of_person]
    assert list(read_options(_rendered(send)).collections) == of_messages
    assert (send.opens_and_clicks, send.pii) == ("every_human", "hash")


@pytest.mark.parametrize("folder", [None, "s3://conn_id@bucket/folder", "/mnt/shared/letters"])
def test_dead_letter_path_variable(bag: DagBag, folder: str | None) -> None:
    (send,) = bag.dags["customerio_to_segment_full"].tasks
    assert read_options(_rendered(send, folder)).dead_letter_path == folder


def _rendered(task: Any, folder: str | None = None) -> CustomerIOToSegmentOperator:
    """Return a rendered copy, as the task of a run has it."""
    rendered: CustomerIOToSegmentOperator = task.prepare_for_execution()
    context: Any = {"var": {"value": {"customerio_dead_letters": folder} if folder else {}}}
    rendered.render_template_fields(context, rendered.dag.get_template_env())
    return rendered


def test_consumer_follows_the_outlet(bag: DagBag) -> None:
    (outlet,) = bag.dags["customerio_to_segment"].tasks[0].outlets
    assert bag.dags[CONSUMER].schedule == [outlet]


def test_outlet_is_the_written_dataset(bag: DagBag) -> None:
    (send,) = bag.dags["customerio_to_segment"].tasks
    assert isinstance(send, CustomerIOToSegmentOperator)
    (outlet,) = send.outlets
    assert outlet.uri == f"{namespace('segment', REGIONS['us'])}/{send.segment_conn_id}"


@pytest.mark.parametrize("path", sorted(FILE.parent.glob("*.py")), ids=lambda path: path.stem)
def test_example_fits_on_a_screen(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


def test_nothing_of_ours_is_deprecated() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WARNINGS, str(REPOSITORY), str(FILE)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(ran.stdout.splitlines()[-1]) == ["a control"]

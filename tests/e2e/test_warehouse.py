"""A real Airflow loads several days into PostgreSQL and into a DuckDB file; one task is killed while it loads."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg
import pytest

from tests.e2e.airflow import Run
from tests.e2e.compare import COLLECTIONS, differences, moment
from tests.e2e.shared import SharedAirflow
from tests.e2e.tables import compare_tables
from tests.e2e.world import World
from tests.postgres import postgres_server, programs

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

FIRST, SECOND, LAST = "2026-11-05", "2026-11-06", "2026-11-07"
DAG_FILE = """
from datetime import timedelta

import pendulum
from airflow.sdk import DAG, CronDataIntervalTimetable

from airflow_provider_cio.operators.customerio_to_warehouse import CustomerIOToWarehouseOperator

for database in ("postgres", "duckdb"):
    with DAG(
        f"to_{database}",
        schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
        start_date=pendulum.datetime(2026, 11, 1, tz="UTC"),
        catchup=False,
        max_active_runs=2,
    ):
        CustomerIOToWarehouseOperator(
            task_id="load", warehouse_conn_id=database, retries=3, retry_delay=timedelta(seconds=1)
        )
"""
# As long as there is a row in `switch`, each row of an opened e-mail takes ten seconds to insert.
SLOW = """
CREATE TABLE switch (since timestamptz);
INSERT INTO switch VALUES (now());
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM switch) THEN
        PERFORM pg_sleep(10);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER slow BEFORE INSERT ON customerio.email_opened FOR EACH ROW EXECUTE FUNCTION slow()
"""
SLEEPERS = "SELECT client_port FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
ROWS = "SELECT event_text, delivery_id, timestamp, user_id, anonymous_id, subject, recipient FROM customerio.{}"


class Story(NamedTuple):
    """Observations after both backfills.

    :param seen_at_kill: how many rows of the killed task's day could be seen when it had been killed.
    """

    world: World
    runs: dict[str, list[Run]]
    tries: dict[str, int]
    seen_at_kill: int
    server: dict[str, Any]
    file: Path


@contextmanager
def connected(server: dict[str, Any]) -> Iterator[psycopg.Connection]:
    with psycopg.connect(
        host=server["host"], port=server["port"], user=server["login"], dbname=server["schema"], autocommit=True
    ) as connection:
        yield connection


def kill_in_mid_load(server: dict[str, Any], seen: list[int]) -> None:
    """Send SIGKILL to the task whose load is under way, at its first row of an opened e-mail."""
    with connected(server) as connection:
        while not (sleepers := connection.execute(SLEEPERS).fetchall()):
            time.sleep(0.05)
        ((port,),) = sleepers
        [process] = {one.pid for one in psutil.net_connections("tcp4") if one.laddr and one.laddr[1] == port} - {None}
        assert process
        os.kill(process, signal.SIGKILL)
        # Its server process sleeps on, with the lock that the other run waits for.
        count = "SELECT count(*) FROM customerio.tracks WHERE timestamp >= %s"
        seen += connection.execute(count, [SECOND]).fetchone() or ()
        connection.execute("DELETE FROM switch")


@pytest.fixture(scope="module")
def story(shared: SharedAirflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    if programs() is None:
        pytest.skip("PostgreSQL's server is not installed (on Debian: apt-get install postgresql)")
    dags, folder = tmp_path_factory.mktemp("dags"), tmp_path_factory.mktemp("warehouse")
    (dags / "to_warehouse.py").write_text(DAG_FILE)
    file = folder / "warehouse.duckdb"
    sandbox = ("--seed", "2", "--deliveries", "4000", "--start", "2026-10-30", "--days", "10")
    with postgres_server() as server, shared.world(dags=dags, sandbox_args=sandbox) as world:
        world.api("connections", post={"connection_id": "duckdb", "conn_type": "duckdb", "host": str(file)})
        world.api("connections", post={"connection_id": "postgres", **server})
        runs = {"duckdb": world.backfill("to_duckdb", FIRST, LAST)}
        runs["postgres"] = world.backfill("to_postgres", FIRST, FIRST)
        with connected(server) as connection:
            connection.execute(SLOW)
        seen: list[int] = []
        killer = threading.Thread(target=kill_in_mid_load, args=(server, seen), daemon=True)
        killer.start()
        runs["postgres"] += world.backfill("to_postgres", SECOND, LAST)
        killer.join(timeout=10)
        tries = {
            run.day: world.api(f"dags/to_postgres/dagRuns/{run.run_id}/taskInstances")["task_instances"][0][
                "try_number"
            ]
            for run in runs["postgres"]
        }
        (seen_at_kill,) = seen
        yield Story(world, runs, tries, seen_at_kill, server, file)


@pytest.mark.parametrize("database", ["postgres", "duckdb"])
def test_every_run_succeeds(story: Story, database: str) -> None:
    states = [(run.day, run.state) for run in story.runs[database]]
    assert states == [(day, "success") for day in (FIRST, SECOND, LAST)]


def test_killed_load_was_invisible(story: Story) -> None:
    assert sorted(story.tries.values()) == [1, 1, 2]
    assert story.seen_at_kill == 0


def test_duckdb_file_holds_the_truth(story: Story) -> None:
    count, found = compare_tables(story.world, story.file, [FIRST, SECOND, LAST])
    assert found == []
    assert count > 300


def test_postgres_holds_the_truth(story: Story) -> None:
    kept = []
    with connected(story.server) as connection:
        for name in COLLECTIONS:
            table = name.lower().replace(" ", "_")
            for event, delivery, at, user, anonymous, subject, recipient in connection.execute(ROWS.format(table)):
                properties = {"delivery_id": delivery, "subject": subject, "recipient": recipient}
                identity = {"userId": user, "anonymousId": anonymous}
                kept.append({"event": event, "timestamp": at.isoformat(), "properties": properties} | identity)
        tracks = connection.execute("SELECT count(*), count(DISTINCT id) FROM customerio.tracks").fetchone()
    truth = story.world.sandbox("truth", start=moment(FIRST), end=moment(LAST) + 86_400)["events"]
    assert differences([row for row in truth if row["collection"] in COLLECTIONS], kept) == []
    assert tracks == (len(kept), len(kept))


@pytest.mark.parametrize("database", ["postgres", "duckdb"])
def test_results_count_new_rows(story: Story, database: str) -> None:
    for run in story.runs[database]:
        result = story.world.xcom(run, "load")
        assert result["loaded"] == dict.fromkeys(("events", "new"), sum(result["events"].values()))

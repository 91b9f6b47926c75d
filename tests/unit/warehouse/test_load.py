"""A load is complete or has no effect, and each id is there once, with loads at the same time and any end of a load."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg2  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_cio.events.catalog import resolve_collections
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.exceptions import TryAgainLaterError
from airflow_provider_cio.warehouse import database_for
from airflow_provider_cio.warehouse import loading as loading_module
from airflow_provider_cio.warehouse import postgres as postgres_module
from airflow_provider_cio.warehouse import redshift as redshift_module
from airflow_provider_cio.warehouse.loading import Warehouse
from airflow_provider_cio.warehouse.postgres import Postgres
from airflow_provider_cio.warehouse.sink import WarehouseSink
from airflow_provider_cio.warehouse.spool import Spool
from airflow_provider_cio.warehouse.tables import columns_of
from tests.sandbox import History, Sandbox, Settings
from tests.unit.support import DAY, NOVEMBER, run_pipeline
from tests.unit.warehouse.events import NAMES, event, events
from tests.unit.warehouse.load import POINTS
from tests.unit.warehouse.places import Place, all_rows, assert_tracks_is_the_union

#: The tests have servers and processes of their own, which take long on a busy machine.
pytestmark = pytest.mark.timeout(400)

REPOSITORY = Path(__file__).parents[3]


def loading(place: Place, first: int, last: int, *point: str) -> subprocess.Popen[str]:
    """Start a load in a process of its own; see `tests.unit.warehouse.load`."""
    command = [sys.executable, "-m", "tests.unit.warehouse.load", json.dumps(place.connection)]
    return subprocess.Popen(
        [*command, str(first), str(last), *point], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )


def loaded(process: subprocess.Popen[str]) -> dict[str, int]:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    counts: dict[str, int] = json.loads(output.splitlines()[-1])
    return counts


def load(place: Place, first: int, last: int) -> dict[str, int]:
    with WarehouseSink(place.warehouse(), NAMES) as sink:
        sink.take(events(first, last))
        sink.flush()
    return sink.counts()


def ids(place: Place) -> list[str]:
    return sorted(row["id"] for row in all_rows(place))


def expected_ids(first: int, last: int) -> list[str]:
    return sorted(event.message_id for event in events(first, last))


def test_existing_rows_stay(database: Place) -> None:
    assert load(database, 0, 30) == {"events": 30, "new": 30}
    before = {row["id"]: row for row in all_rows(database)}
    time.sleep(1.1)  # times are compared as whole seconds
    assert load(database, 10, 40) == {"events": 30, "new": 10}
    after = {row["id"]: row for row in all_rows(database)}
    assert sorted(after) == expected_ids(0, 40)
    assert {name: after[name] for name in before} == before
    assert {after[name]["uuid_ts"] for name in set(after) - set(before)}.isdisjoint(
        {row["uuid_ts"] for row in before.values()}
    )
    assert_tracks_is_the_union(database)


def test_repeated_event_is_one_row(database: Place) -> None:
    with WarehouseSink(database.warehouse(), NAMES) as sink:
        sink.take([*events(0, 9), *events(0, 9)])
        sink.flush()
    assert sink.counts() == {"events": 18, "new": 9}
    assert ids(database) == expected_ids(0, 9)
    assert_tracks_is_the_union(database)


def test_lost_tracks_row_comes_back(database: Place) -> None:
    load(database, 0, 9)
    database.query("DELETE FROM customerio.tracks WHERE event = 'email_opened'")
    assert load(database, 0, 9) == {"events": 9, "new": 0}
    assert sorted(row["id"] for row in database.rows("tracks")) == ids(database) == expected_ids(0, 9)


AWKWARD = [
    "",
    '"',
    '""',
    "a,b",
    "a\nb",
    "a\r\nb",
    "\\.",
    "a\n\\.\nb",
    "\\N",
    "NULL",
    "null",
    "true",
    "'; DROP TABLE x; --",
    " ",
    "\t",
    "é日😀",
]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=20))
def test_text_arrives_as_it_is(shared_database: Place, texts: list[str]) -> None:
    schema = f"text{time.monotonic_ns()}"
    with WarehouseSink(shared_database.warehouse(schema), ["Email Opened"]) as sink:
        sink.take(event(number, subject=text) for number, text in enumerate(AWKWARD + texts))
        sink.flush()
    rows = shared_database.rows("email_opened", schema)
    # An event has no property for empty text.
    assert Counter(row["subject"] for row in rows) == Counter(text or None for text in AWKWARD + texts)


def test_only_loaded_is_acknowledged(database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with WarehouseSink(database.warehouse(), NAMES) as sink:
        sink.take([])
        assert sink.acknowledged == 1
        sink.take(events(0, 3))
        sink.take(events(3, 6))
        assert (sink.acknowledged, sink.counts()["events"]) == (1, 0)
        sink.wait()
        assert (sink.acknowledged, sink.counts()["events"]) == (3, 6)
        monkeypatch.setattr(Warehouse, "spool_bytes", 1)
        sink.take(events(6, 9))
        assert (sink.acknowledged, sink.counts()["events"]) == (4, 9)


def test_unstorable_event_is_refused(database: Place) -> None:
    with WarehouseSink(database.warehouse(), NAMES) as sink:
        sink.take([event(1), event(2, subject="half \0 of it"), event(3, subject="x" * 40_000)])
        sink.flush()
    assert [refused.reason for refused in sink.refused()] == ["nul_character_in_subject", "event_too_large"]
    assert sink.refused() == []
    assert ids(database) == [event(1).message_id]


def test_error_ends_the_load(database: Place) -> None:
    sink = WarehouseSink(database.warehouse(), NAMES)
    sink.__enter__()
    sink.take(events(0, 9))
    sink.__exit__(InterruptedError)
    assert ids(database) == []


def test_a_load_can_fill_every_column(duckdb_database: Place) -> None:
    """Properties that only webhooks have get no column."""
    stretch = Interval(NOVEMBER, NOVEMBER + 3 * DAY)
    history = History.generate(seed=5, deliveries=500, start=NOVEMBER - 4 * DAY, end=stretch.end)
    collections = [one.name for one in resolve_collections("email")]
    with Sandbox(history, Settings(now=stretch.end + 5 * DAY)) as sandbox:
        for mode in (
            "every",
            "first",
        ):  # the list has the `link_id` of first clicks; of the sandbox's activities none has
            sink = WarehouseSink(duckdb_database.warehouse(), collections)
            run_pipeline(sandbox, stretch, names="email", mode=mode, namespace=mode, warn=lambda text: None, sink=sink)
    filled = {name for row in all_rows(duckdb_database) for name, value in row.items() if value is not None}
    columns = {column.name for column in columns_of("email_opened")}
    assert filled == columns


# Two at once


def lock(place: Place, connection: Any) -> None:
    database_for(place.kind)(None, "customerio", lambda text: None).lock(connection.cursor())


def test_parallel_loads(database: Place) -> None:
    ranges = [(0, 1200), (0, 1200), (600, 1800), (1800, 2000)]
    processes = [loading(database, *one) for one in ranges]
    counts = [loaded(process) for process in processes]
    assert [one["events"] for one in counts] == [last - first for first, last in ranges]
    assert sum(one["new"] for one in counts) == 2000
    assert ids(database) == expected_ids(0, 2000)
    assert_tracks_is_the_union(database)


def test_uuid_ts_never_falls_behind(server_database: Place) -> None:
    """A load that waits for another one takes its time when it is its turn, not when it asked."""
    with WarehouseSink(server_database.warehouse(), NAMES) as sink, server_database.connect() as other:
        sink.take(events(0, 3))
        other.execute("BEGIN")
        lock(server_database, other)
        with ThreadPoolExecutor() as pool:
            load = pool.submit(sink.flush)
            while not other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():
                assert not load.done()
            ((end,),) = other.execute("SELECT clock_timestamp()").fetchall()
            other.execute("COMMIT")
            load.result(timeout=60)
    assert server_database.query(f"SELECT count(*) FROM customerio.tracks WHERE uuid_ts > '{end}'") == [(3,)]


def test_wait_for_another_load_ends(server_database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_module, "_LOCK_TIMEOUT", "1s")
    monkeypatch.setattr(redshift_module, "_LOCK_TIMEOUT", 1000)
    load(server_database, 0, 3)
    warehouse = server_database.warehouse()
    with server_database.connect() as other, ThreadPoolExecutor() as pool:
        other.execute("BEGIN")
        lock(server_database, other)
        second = pool.submit(warehouse.prepare, ["email_opened"])
        said = set()
        while not second.done():
            said.add(warehouse.waiting())
            time.sleep(0.01)
        with pytest.raises(TryAgainLaterError, match=r"timeout \((55P03|57014)\)"):
            second.result()
        other.execute("COMMIT")
    assert "Waiting for another load into schema customerio to end" in said
    assert warehouse.waiting() is None
    warehouse.prepare(["email_opened"])


@pytest.mark.parametrize(("collisions", "code"), [(4, "XX000"), (3, "40001")])
def test_collision_is_retried(
    redshift_database: Place, monkeypatch: pytest.MonkeyPatch, collisions: int, code: str
) -> None:
    monkeypatch.setattr(loading_module, "_PAUSES", (0.01,) * 4)
    load(redshift_database, 0, 3)
    collide(redshift_database, collisions, code)
    assert load(redshift_database, 0, 6) == {"events": 6, "new": 3}
    assert ids(redshift_database) == expected_ids(0, 6)
    assert_tracks_is_the_union(redshift_database)


def test_lasting_collision(redshift_database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_module, "_PAUSES", (0.01,) * 4)
    load(redshift_database, 0, 3)
    collide(redshift_database, 5, "XX000")
    with pytest.raises(TryAgainLaterError, match=r"another session writes to the same tables \(XX000, 1023\)"):
        load(redshift_database, 0, 6)
    assert ids(redshift_database) == expected_ids(0, 3)


def collide(place: Place, times: int, code: str) -> None:
    """Let the next INSERTs into `tracks` fail as Redshift's do after another transaction."""
    place.query("CREATE SEQUENCE tries")
    place.query(
        "CREATE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('tries') <= "
        f"{times} THEN RAISE EXCEPTION '1023' USING ERRCODE = '{code}'; END IF; RETURN NULL; END $$"
    )
    place.query("CREATE TRIGGER t AFTER INSERT ON customerio.tracks FOR EACH ROW EXECUTE FUNCTION collide()")


# However it ends


@pytest.mark.parametrize("point", POINTS)
def test_killed_load_is_undone(database: Place, point: str) -> None:
    # BigQuery and Snowflake have committed when `insert` returns.
    commits_itself = database.kind not in ("postgres", "redshift", "duckdb")
    if commits_itself and point == "after the first table":
        pytest.skip("its INSERTs are one call")
    load(database, 0, 30)
    process = loading(database, 0, 1500, point)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    found = ids(database)
    if not commits_itself and point != "within an INSERT, most likely":
        assert found == expected_ids(0, 30)
    assert found in (expected_ids(0, 30), expected_ids(0, 1500))
    assert_tracks_is_the_union(database)
    assert load(database, 0, 300)["events"] == 300  # nothing is left that stands in its way
    last = ids(database)
    assert last in (expected_ids(0, 300), expected_ids(0, 1500))
    # A service may go on with the INSERTs of a worker that is gone.
    assert len(last) >= len(found) if commits_itself else last == max(found, expected_ids(0, 300), key=len)
    assert_tracks_is_the_union(database)


class Cut:
    """File of the spool that ends the server's side of all connections when a part of it has been read."""

    def __init__(self, file: Any, place: Place) -> None:
        self._file, self._place = file, place

    def read(self, size: int) -> Any:
        self._cut()
        return self._file.read(size)

    def __iter__(self) -> Any:
        self._cut()
        return iter(self._file)

    def _cut(self) -> None:
        self._place.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


class CutSpool(Spool):
    def __init__(self, place: Place, table: str) -> None:
        super().__init__()
        self._place, self._table = place, table

    def files(self) -> Any:
        for table, file in super().files():
            yield table, Cut(file, self._place) if table == self._table else file


@pytest.mark.parametrize("table", ["email_delivered", "email_opened"])
def test_lost_connection(server_database: Place, table: str) -> None:
    load(server_database, 0, 30)
    sink = WarehouseSink(server_database.warehouse(), NAMES)
    sink._spool = CutSpool(server_database, table)
    with sink:
        sink.take(events(0, 300))
        with pytest.raises(TryAgainLaterError, match=r"(PostgreSQL|Redshift) \(connection 'warehouse_default'\): "):
            sink.flush()
    assert ids(server_database) == expected_ids(0, 30)
    load(server_database, 0, 300)
    assert ids(server_database) == expected_ids(0, 300)
    assert_tracks_is_the_union(server_database)


def test_the_driver_may_be_psycopg_2(postgres_database: Place) -> None:
    fields = postgres_database.connection

    def connect() -> Any:
        return psycopg2.connect(host=fields["host"], port=fields["port"], user=fields["login"], dbname=fields["schema"])

    warehouse = Warehouse("it", partial(Postgres, SimpleNamespace(get_conn=connect)), "customerio")
    with WarehouseSink(warehouse, NAMES) as sink:
        sink.take(events(0, 30))
        sink.flush()
    assert sink.counts() == {"events": 30, "new": 30}
    assert ids(postgres_database) == expected_ids(0, 30)
    assert_tracks_is_the_union(postgres_database)


# Memory


def test_memory_does_not_grow(duckdb_database: Place) -> None:
    held: list[int] = []
    with WarehouseSink(duckdb_database.warehouse(), NAMES) as sink:
        tracemalloc.start()
        for piece in range(60):
            sink.take(events(piece * 100, piece * 100 + 100))
            sink.take([event(piece, subject="x" * 40_000), event(piece, subject="half \0 of it")])
            assert len(sink.refused()) == 2
            if piece in (9, 29):
                sink.flush()
            if piece in (10, 59):  # there was a load between them, and there are rows on disk
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        sink.flush()
    assert sink.counts() == {"events": 6000, "new": 6000}
    assert held[1] - held[0] < 20_000

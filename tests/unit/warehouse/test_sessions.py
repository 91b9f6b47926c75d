"""Settings of a server, a role or a session do not change the meaning of a load."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import psycopg
import psycopg2  # type: ignore[import-untyped]
import pytest

from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.warehouse.connection import open_warehouse
from airflow_provider_cio.warehouse.loading import Warehouse
from airflow_provider_cio.warehouse.postgres import Postgres
from airflow_provider_cio.warehouse.sink import WarehouseSink
from tests.unit.support import NOVEMBER
from tests.unit.warehouse.events import NAMES, event, events
from tests.unit.warehouse.places import Place, all_rows, connected
from tests.unit.warehouse.test_load import lock

pytestmark = pytest.mark.timeout(400)

SETTINGS = [
    "DateStyle = 'German, DMY'",
    # Such a server writes the day first, and reads the month first.
    "DateStyle = 'German, MDY'",
    "TimeZone = 'America/St_Johns'",
    # India's time as text is "IST", which the server reads as Israel's.
    "DateStyle = 'SQL, DMY'; TimeZone = 'Asia/Kolkata'",
    "client_encoding = 'LATIN1'",
    "standard_conforming_strings = off",
    "default_transaction_isolation = 'repeatable read'",
    "default_transaction_isolation = 'serializable'",
]
TEXT = "back\\slash, it's 日😀"


def load(place: Place, warehouse: Warehouse | None = None) -> dict[str, int]:
    with WarehouseSink(warehouse or place.warehouse(), NAMES) as sink:
        sink.take([*events(0, 9), event(9, "Email Opened", subject=TEXT)])
        sink.flush()
    return sink.counts()


def by_psycopg_2(place: Place) -> Warehouse:
    fields = place.connection

    def connect() -> Any:
        return psycopg2.connect(host=fields["host"], port=fields["port"], user=fields["login"], dbname=fields["schema"])

    return Warehouse("it", partial(Postgres, SimpleNamespace(get_conn=connect)), "customerio")


def assert_as_ever(place: Place) -> None:
    rows = {row["delivery_id"]: row for row in all_rows(place)}
    assert len(rows) == 10
    assert rows["delivery 9"]["subject"] == TEXT
    assert rows["delivery 4"]["timestamp"] == NOVEMBER + 4
    ((late,),) = place.query(
        "SELECT count(*) FROM customerio.tracks WHERE abs(EXTRACT(epoch FROM uuid_ts) - "
        "EXTRACT(epoch FROM now())) > 120"
    )
    assert late == 0


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("driver", ["its own", "psycopg 2"])
def test_no_setting_of_a_role_counts(server_database: Place, setting: str, driver: str) -> None:
    fields = server_database.connection
    if driver == "psycopg 2" and server_database.kind == "redshift":
        pytest.skip("Amazon has a driver of its own")
    for one in setting.split("; "):
        server_database.query(f"ALTER DATABASE {fields['schema']} SET {one}")
    assert load(server_database, by_psycopg_2(server_database) if driver == "psycopg 2" else None)["new"] == 10
    server_database.query(f"ALTER DATABASE {fields['schema']} RESET ALL")
    assert_as_ever(server_database)


@pytest.mark.parametrize("conforming", ["on", "off"])
def test_a_backslash_is_one_on_redshift(
    redshift_database: Place, monkeypatch: pytest.MonkeyPatch, conforming: str
) -> None:
    monkeypatch.setattr("tests.redshift._SETTINGS", f"-c standard_conforming_strings={conforming}".encode())
    load(redshift_database)
    assert_as_ever(redshift_database)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_who_waited_for_a_load_sees_its_rows(postgres_database: Place, level: str) -> None:
    load(postgres_database)
    postgres_database.query(
        f"ALTER DATABASE {postgres_database.connection['schema']} SET default_transaction_isolation = '{level}'"
    )
    postgres_database.query("CREATE TABLE kept AS SELECT * FROM customerio.email_opened")
    postgres_database.query("DELETE FROM customerio.email_opened")
    with WarehouseSink(postgres_database.warehouse(), NAMES) as sink, postgres_database.connect() as other:
        sink.take(events(0, 9))
        other.execute("BEGIN")
        lock(postgres_database, other)
        with ThreadPoolExecutor() as pool:
            second = pool.submit(sink.flush)
            while not other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():
                assert not second.done()
            other.execute("INSERT INTO customerio.email_opened SELECT * FROM kept")
            other.execute("COMMIT")
            second.result(timeout=60)
    assert sink.counts() == {"events": 9, "new": 0}


@pytest.fixture
def latin(postgres: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Make a database that can't hold all text."""
    with psycopg.connect(
        host=postgres["host"], port=postgres["port"], user=postgres["login"], dbname="postgres", autocommit=True
    ) as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        yield postgres | {"schema": "latin"}
        connection.execute("DROP DATABASE latin WITH (FORCE)")


def test_a_database_that_can_not_hold_all_text_is_found_first(latin: dict[str, Any]) -> None:
    with (
        connected(latin),
        pytest.raises(
            ConfigurationError, match=r"the database has encoding LATIN1, which can't hold all text: .* ENCODING 'UTF8'"
        ),
    ):
        open_warehouse("warehouse_default", "customerio").check()


def test_duckdb_compares_names_without_case(duckdb_database: Place) -> None:
    duckdb_database.query("CREATE SCHEMA CUSTOMERIO")
    duckdb_database.query("CREATE TABLE CUSTOMERIO.TRACKS (ID VARCHAR, USER_ID VARCHAR, Event_Text VARCHAR)")
    duckdb_database.query("CREATE TABLE CUSTOMERIO.Email_Opened (Id VARCHAR, CAMPAIGN_ID VARCHAR)")
    assert load(duckdb_database)["new"] == 10
    assert duckdb_database.query("SELECT count(*), count(user_id) FROM customerio.tracks") == [(10, 10)]
    assert duckdb_database.query("SELECT count(DISTINCT id) FROM customerio.email_opened") == [(4,)]
    duckdb_database.query("CREATE SCHEMA OTHERS")
    duckdb_database.query("CREATE TABLE OTHERS.TRACKS (ID VARCHAR, USER_ID DATE)")
    with pytest.raises(ConfigurationError, match=r"column user_id of table others\.tracks is DATE"):
        duckdb_database.warehouse("others").prepare(["email_opened"])


def test_bigquery_compares_columns_without_case(bigquery_database: Place) -> None:
    bigquery_database.query("CREATE SCHEMA customerio")
    bigquery_database.query("CREATE TABLE customerio.tracks (ID VARCHAR, USER_ID VARCHAR)")
    assert load(bigquery_database)["new"] == 10
    assert bigquery_database.query("SELECT count(user_id) FROM customerio.tracks") == [(10,)]


@pytest.mark.parametrize("schema", ["information_schema", "pg_catalog", "pg_mine"])
def test_a_schema_of_the_databases_own_is_refused(database: Place, schema: str) -> None:
    if database.kind == "duckdb" and schema == "pg_mine":
        pytest.skip("a name like others")
    with pytest.raises(
        ConfigurationError, match=rf"'warehouse_default'\): schema {schema} is the database's own: give"
    ):
        database.warehouse(schema)


@pytest.mark.parametrize("schema", ["temp", "system"])
def test_duckdb_has_more_of_them(duckdb_database: Place, schema: str) -> None:
    with pytest.raises(ConfigurationError, match=f"schema {schema} is the database's own"):
        duckdb_database.warehouse(schema)


def test_a_file_that_is_named_as_the_schema_is_refused(tmp_path: Any) -> None:
    with (
        connected({"conn_type": "duckdb", "host": str(tmp_path / "Customerio.duckdb")}),
        pytest.raises(ConfigurationError, match="file and schema are both named customerio, .* rename the file"),
    ):
        open_warehouse("warehouse_default", "customerio").check()


def test_a_folder_is_no_file_of_duckdb(tmp_path: Any) -> None:
    with (
        connected({"conn_type": "duckdb", "host": str(tmp_path)}),
        pytest.raises(ConfigurationError, match=r"Is a directory.* Put the path of a file into field Host"),
    ):
        open_warehouse("warehouse_default", "customerio").check()


def test_a_connections_extra_can_be_what_it_is(postgres_database: Place) -> None:
    """Pools of connections have such an extra, and some users set one for all their tasks."""
    options = "-c default_transaction_isolation=serializable -c TimeZone=Asia/Kathmandu -c DateStyle=SQL"
    given = postgres_database.connection | {"extra": json.dumps({"options": options})}
    with connected(given):
        assert load(postgres_database)["new"] == 10
    assert_as_ever(postgres_database)

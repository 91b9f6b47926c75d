"""Tables that exist already are completed where something is missing, and never changed; problems are named first."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from airflow.providers.amazon.aws.hooks.redshift_sql import RedshiftSQLHook
from airflow.providers.common.compat.sdk import BaseHook
from packaging.requirements import Requirement
from tenacity import wait_none

from airflow_provider_cio.exceptions import ConfigurationError, CustomerIOToSegmentError, TryAgainLaterError
from airflow_provider_cio.warehouse import DATABASES, database_for
from airflow_provider_cio.warehouse import duckdb as duckdb_module
from airflow_provider_cio.warehouse.connection import database_address, open_warehouse
from airflow_provider_cio.warehouse.sink import WarehouseSink
from tests.unit.warehouse.events import NAMES, event, events
from tests.unit.warehouse.load import File
from tests.unit.warehouse.places import Place, all_rows, assert_tracks_is_the_union, connected

REPOSITORY = Path(__file__).parents[3]
#: The tests have servers and processes of their own, which take long on a busy machine.
pytestmark = pytest.mark.timeout(400)

#: Table of Segment's: with an unknown column, without the columns that no event has filled yet, with a key.
SEGMENTS = (
    "CREATE TABLE customerio.email_opened (id varchar(1024) NOT NULL PRIMARY KEY, received_at timestamptz, "
    "uuid_ts timestamptz, event text, event_text text, subject text, our_own bigint)"
)
#: Tables of Segment's on Redshift, after the texts were made long enough.
ON_REDSHIFT = {"timestamptz": "timestamp", " text": " varchar(65535)", "varchar(1024)": "varchar(512)"}


def load(place: Place, schema: str = "customerio") -> dict[str, int]:
    with WarehouseSink(place.warehouse(schema), NAMES) as sink:
        sink.take(events(0, 9))
        sink.flush()
    return sink.counts()


def test_each_collection_has_its_table(database: Place) -> None:
    with WarehouseSink(database.warehouse("its_own"), ["Email Opened", "In-App Clicked"]):
        assert database.tables("its_own") == {"tracks", "email_opened", "in_app_clicked"}
    assert database.tables("customerio") == set()


def test_types_and_keys_match_segments(postgres_database: Place) -> None:
    load(postgres_database)
    kinds = postgres_database.query(
        "SELECT column_name, data_type, character_maximum_length FROM information_schema.columns "
        "WHERE table_schema = 'customerio' AND table_name = 'email_opened'"
    )
    assert {("id", "character varying", 1024), ("subject", "text", None), ("machine", "boolean", None)} <= set(kinds)
    assert {("received_at", "timestamp with time zone", None), ("campaign_id", "bigint", None)} <= set(kinds)
    keys = postgres_database.query(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'customerio'::regnamespace"
    )
    assert ("email_opened_pkey", "PRIMARY KEY (id)") in keys
    assert ("tracks_pkey", "PRIMARY KEY (id)") in keys


def test_segments_table_is_completed(database: Place) -> None:
    known = event(1, "Email Opened").message_id
    database.query("CREATE SCHEMA customerio")
    statement = SEGMENTS
    for there, on_redshift in ON_REDSHIFT.items() if database.kind == "redshift" else ():
        statement = statement.replace(there, on_redshift)
    database.query(statement)
    database.query(f"INSERT INTO customerio.email_opened (id, subject, our_own) VALUES ('{known}', 'Segment''s', 7)")
    assert load(database) == {"events": 9, "new": 8}
    rows = {row["id"]: row for row in database.rows("email_opened")}
    assert (rows[known]["subject"], rows[known]["our_own"]) == ("Segment's", 7)
    assert rows[event(4, "Email Opened").message_id]["delivery_id"] == "delivery 4"


@pytest.mark.parametrize(
    ("column", "there", "message"),
    [
        (
            "campaign_id",
            "date",
            r"(?i)column campaign_id of table customerio\.email_opened is date, and not \w+\. Nothing",
        ),
        ("delivery_id", "bigint", r"(?i)column delivery_id of table customerio\.email_opened is \w+, and not \w+"),
        ("received_at", "timestamp", r"(?i)column received_at of table customerio\.email_opened is (timestamp|date)"),
        ("machine", "text", r"(?i)column machine .* and not bool"),
        ("timestamp", "date", r"(?i)column timestamp .* Nothing was changed\. Load into another schema"),
    ],
)
def test_wrong_column_type_is_named(database: Place, column: str, there: str, message: str) -> None:
    database.query("CREATE SCHEMA customerio")
    if there == "timestamp":  # which is right on Redshift and Snowflake, and DuckDB's is taken for BigQuery's
        there = {"redshift": "timestamptz", "bigquery": "date", "snowflake": "date"}.get(database.kind, there)
    database.query(f'CREATE TABLE customerio.email_opened (id varchar(1024) PRIMARY KEY, "{column}" {there})')
    with pytest.raises(ConfigurationError, match=message):
        load(database)
    assert database.tables() == {"email_opened"}  # not even the others were made


@pytest.mark.parametrize(("column", "there"), [("subject", "varchar(512)"), ("id", "varchar(20)")])
def test_short_column_is_named(server_database: Place, column: str, there: str) -> None:
    columns = {"id": "varchar(1024)"} | {column: there}
    listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    server_database.query("CREATE SCHEMA customerio")
    server_database.query(f"CREATE TABLE customerio.email_opened ({listed}, PRIMARY KEY (id))")
    with pytest.raises(ConfigurationError, match=rf"column {column} of .* is character varying\(\d+\), and not"):
        load(server_database)


def test_all_problems_are_named(redshift_database: Place) -> None:
    """Segment's tables on Redshift have many columns that are too short: it cuts longer values."""
    redshift_database.query("CREATE SCHEMA customerio")
    for table in ("tracks", "email_opened"):
        redshift_database.query(
            f"CREATE TABLE customerio.{table} (id varchar(512), event varchar(512), user_id varchar(512))"
        )
    with pytest.raises(ConfigurationError) as caught:
        load(redshift_database)
    for statement in re.findall(r"ALTER TABLE [^;]+", str(caught.value)):
        redshift_database.query(statement)
    assert load(redshift_database) == {"events": 9, "new": 9}
    assert_tracks_is_the_union(redshift_database)


def test_redshift_keys_and_locks(redshift_database: Place) -> None:
    load(redshift_database)
    kinds = redshift_database.query(
        "SELECT column_name, data_type, character_maximum_length FROM information_schema.columns "
        "WHERE table_schema = 'customerio' AND table_name = 'email_opened'"
    )
    assert {("id", "character varying", 512), ("subject", "character varying", 32768)} <= set(kinds)
    assert {("received_at", "timestamp without time zone", None), ("machine", "boolean", None)} <= set(kinds)
    redshift_database.query("INSERT INTO customerio.email_opened SELECT * FROM customerio.email_opened")  # twice there
    assert load(redshift_database) == {"events": 9, "new": 0}
    assert len(all_rows(redshift_database)) == 9 + 3
    sent = "\n".join(redshift_database.statements)
    assert sent.count('PRIMARY KEY ("id")) DISTKEY ("id") SORTKEY ("received_at")') == 4
    assert sent.count('LOCK "customerio"."tracks"') == 3  # not before there is one


def test_missing_key_is_an_error(postgres_database: Place) -> None:
    postgres_database.query("CREATE SCHEMA customerio")
    postgres_database.query("CREATE TABLE customerio.email_opened (id varchar(1024))")
    with pytest.raises(ConfigurationError, match=r"no primary key: run ALTER TABLE .* ADD PRIMARY KEY \(id\)"):
        load(postgres_database)


@pytest.mark.parametrize("key", ["", "PRIMARY KEY"])
def test_duckdb_with_and_without_a_key(duckdb_database: Place, key: str) -> None:
    duckdb_database.query("CREATE SCHEMA customerio")
    duckdb_database.query(f"CREATE TABLE customerio.email_opened (id varchar {key})")
    duckdb_database.query("INSERT INTO customerio.email_opened VALUES ('of somebody else')")
    load(duckdb_database)
    load(duckdb_database)
    assert len(all_rows(duckdb_database)) == 9 + 1


def test_duckdb_gets_more_memory(duckdb_database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    load(duckdb_database)
    duckdb_database.query("CREATE INDEX of_theirs ON customerio.email_opened (id)")
    duckdb_database.query("DELETE FROM customerio.email_opened")
    monkeypatch.setattr(duckdb_module, "MEMORY", "1MB")
    load(duckdb_database)
    assert len(all_rows(duckdb_database)) == 9
    duckdb_database.query("DELETE FROM customerio.email_opened")
    monkeypatch.setattr(duckdb_module, "MORE_MEMORY", "2MB")
    with pytest.raises(ConfigurationError, match=r"does not fit into 2MB of memory .* the table without it"):
        load(duckdb_database)


def test_violated_constraint_is_named(server_database: Place) -> None:
    load(server_database)
    server_database.query("TRUNCATE customerio.email_opened, customerio.tracks")
    server_database.query("ALTER TABLE customerio.email_opened ADD CONSTRAINT short CHECK (length(subject) < 3)")
    with pytest.raises(ConfigurationError, match=r"rejected the rows \(23514(, email_opened, short)?\)") as caught:
        load(server_database)
    assert "Subject" not in str(caught.value)
    assert "example.com" not in str(caught.value)
    assert server_database.rows("tracks") == []
    assert len(all_rows(server_database)) == 6  # of the first load: the others are as they were


# Rights and connections


@pytest.fixture
def as_reader(server_database: Place) -> Iterator[Place]:
    """Connect as a user without any rights yet."""
    name = server_database.connection["schema"]
    user = f"reader_{name}"
    server_database.query(f"CREATE USER {user}")
    with connected(server_database.connection | {"login": user}):
        yield server_database
    server_database.query(f"DROP OWNED BY {user}")
    server_database.query(f"DROP USER {user}")


def test_missing_rights_are_named(as_reader: Place) -> None:
    name = as_reader.connection["schema"]
    user = f"reader_{name}"
    with pytest.raises(
        ConfigurationError, match=r"lacks a privilege: permission denied for database .* GRANT CREATE ON"
    ):
        load(as_reader)
    as_reader.query("CREATE SCHEMA customerio")
    as_reader.query(f"GRANT USAGE ON SCHEMA customerio TO {user}")
    with pytest.raises(ConfigurationError, match="lacks a privilege: permission denied for schema customerio"):
        load(as_reader)
    load_as_owner(as_reader)
    as_reader.query(f"GRANT SELECT ON ALL TABLES IN SCHEMA customerio TO {user}")
    with pytest.raises(ConfigurationError, match=r"permission denied for table \w+"):
        load(as_reader)
    also = ", UPDATE" if as_reader.kind == "redshift" else ""
    as_reader.query(f"GRANT INSERT{also} ON ALL TABLES IN SCHEMA customerio TO {user}")
    assert load(as_reader) == {"events": 9, "new": 0}


def load_as_owner(place: Place) -> None:
    with connected(place.connection):
        load(place)


def test_read_only_database(database: Place) -> None:
    load(database)
    extra = {"duckdb": {"read_only": True}, "postgres": {"options": "-c default_transaction_read_only=on"}}
    if database.kind in ("bigquery", "snowflake"):
        pytest.skip("rights take its place")
    if database.kind == "redshift":
        name = database.connection["schema"]
        database.query(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        extra["redshift"] = database.connection["extra"]
    with (
        connected(database.connection | {"extra": extra[database.kind]}),
        pytest.raises(ConfigurationError, match=r"\(connection 'warehouse_default'\): .*read-only"),
    ):
        load(database)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"port": 1}, TryAgainLaterError, "(?i)connection refused"),
        ({"schema": "no_such_database"}, ConfigurationError, r"does not exist.* Check login, password and database"),
        ({"login": "nobody"}, ConfigurationError, r"login rejected: .* does not exist"),
    ],
)
def test_failed_server_check(
    server_database: Place,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    if retry := getattr(RedshiftSQLHook.get_conn, "retry", None):  # old versions of the hook do not repeat
        monkeypatch.setattr(retry, "wait", wait_none())
    given = server_database.connection | {"password": "its-password-1234"} | changes
    with connected(given), pytest.raises(error, match=message) as caught:
        server_database.warehouse().check()
    assert re.match(r"(PostgreSQL|Redshift) \(connection 'warehouse_default'\): ", str(caught.value))
    assert "its-password" not in str(caught.value)


def test_missing_aws_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    given = {"conn_type": "redshift", "host": "127.0.0.1", "login": "me", "schema": "dev", "extra": {"iam": True}}
    with (
        connected(given),
        pytest.raises(
            ConfigurationError, match=r"Redshift .*AWS issued no database password: You must specify a region"
        ),
    ):
        open_warehouse("warehouse_default", "customerio").check()


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("", "is in memory and is lost when it is closed"),
        (":memory:", "is in memory and is lost when it is closed"),
        ("/no/such/folder/file.duckdb", "Create the folder, and let this worker write to it"),
    ],
)
def test_in_memory_duckdb_is_refused(host: str, message: str) -> None:
    with connected({"conn_type": "duckdb", "host": host}), pytest.raises(ConfigurationError, match=message):
        open_warehouse("warehouse_default", "customerio").check()


@pytest.mark.parametrize("another", [False, True])
def test_new_duckdb_appears_whole(tmp_path: Path, another: bool) -> None:
    """DuckDB alone would make an empty file first, which can't be opened as long as it stays empty."""
    file = tmp_path / "new.duckdb"
    there = []

    class Watched(File):
        def get_conn(self) -> Any:
            there.append(file.exists())
            connection = super().get_conn()
            if another and len(there) == 1:  # another process was faster
                File(str(file)).get_conn().execute("CREATE TABLE theirs AS SELECT 7").close()
            return connection

    connection, _ = database_for("duckdb")(Watched(str(file)), "customerio", lambda text: None).connect()
    assert there == [False, True]
    assert len(connection.execute("SHOW ALL TABLES").fetchall()) == another
    connection.close()
    assert list(tmp_path.iterdir()) == [file]


def test_new_duckdb_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError()))
    connection, _ = database_for("duckdb")(File(str(tmp_path / "new")), "customerio", lambda text: None).connect()
    connection.close()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_file_of_another_kind_stays(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("These are notes. " * 1000)
    with (
        connected({"conn_type": "duckdb", "host": str(file)}),
        pytest.raises(ConfigurationError, match="not a valid DuckDB database file"),
    ):
        open_warehouse("warehouse_default", "customerio").check()
    assert file.read_text() == "These are notes. " * 1000


def test_wait_for_a_duckdb_file_ends(duckdb_database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duckdb_module, "OPEN_TIMEOUT", 1.0)
    program = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print(1, flush=True); input()"
    command = [sys.executable, "-c", program, duckdb_database.connection["host"]]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout
        assert holder.stdin
        holder.stdout.readline()
        warehouse = duckdb_database.warehouse()
        failures: list[CustomerIOToSegmentError] = []

        def check() -> None:
            try:
                warehouse.check()
            except CustomerIOToSegmentError as error:
                failures.append(error)

        thread = threading.Thread(target=check)
        thread.start()
        said = set()
        while thread.is_alive():
            said.add(warehouse.waiting())
        file = duckdb_database.connection["host"]
        assert f"Waiting for another process to close {file}, 1 s at most" in said
        assert warehouse.waiting() is None
        (failure,) = failures
        assert isinstance(failure, TryAgainLaterError)
        assert f"another process has not closed {file} within 1 s" in str(failure)
        holder.stdin.write("\n")
        holder.stdin.flush()
        holder.wait()
    warehouse.check()


def test_wrong_connection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"no connection 'elsewhere'. Add one of type postgres, duckdb, red"):
        open_warehouse("elsewhere", "customerio")
    monkeypatch.setenv("AIRFLOW_CONN_ELSEWHERE", json.dumps({"conn_type": "mysql", "host": "h"}))
    with pytest.raises(ConfigurationError, match=r"'elsewhere' is of type mysql: .* one of postgres, duckdb, redshift"):
        open_warehouse("elsewhere", "customerio")


@pytest.mark.parametrize("conn_type", DATABASES)
def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, conn_type: str) -> None:
    """By a name that an index has: it is one of those that the extras install."""
    monkeypatch.setenv("AIRFLOW_CONN_ELSEWHERE", json.dumps({"conn_type": conn_type, "host": "h"}))
    monkeypatch.setattr(type(BaseHook.get_connection("elsewhere")), "get_hook", Mock(side_effect=ImportError))
    with pytest.raises(ConfigurationError, match="is not installed: pip install ") as caught:
        open_warehouse("elsewhere", "customerio")
    package = str(caught.value).rpartition(" ")[2].removesuffix(".")
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert package in {Requirement(one).name for one in itertools.chain(*extras.values())}


@pytest.mark.parametrize(
    "fields",
    [
        {"password": "***"},
        {"extra": {"token": "***"}},
        {"extra": {"keyfile_dict": {"type": "service_account", "token": "***"}}},
        {"extra": {"keyfile_dict": '{"type": "service_account", "token": "***"}'}},
    ],
    ids=["password", "token", "nested", "nested text"],
)
@pytest.mark.parametrize("conn_type", ["postgres", "duckdb", "redshift", "gcpbigquery", "snowflake"])
def test_a_mask_is_no_password(monkeypatch: pytest.MonkeyPatch, conn_type: str, fields: dict[str, Any]) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ELSEWHERE", json.dumps({"conn_type": conn_type, "host": "h"} | fields))
    for look_up in (partial(open_warehouse, schema="customerio"), database_address):
        with pytest.raises(
            ConfigurationError, match=r"'elsewhere': (password|(keyfile_dict\.)?token) holds a mask .* Enter the value"
        ):
            look_up("elsewhere")


@pytest.mark.parametrize(
    ("conn_type", "host", "port", "namespace"),
    [
        ("postgres", "db.example.com", 5432, "postgres://db.example.com:5432"),
        ("postgres", "db.example.com", None, "postgres://db.example.com"),
        ("redshift", "a-cluster.c0ffee.eu-west-1.redshift.amazonaws.com", None, "redshift://a-cluster.eu-west-1:5439"),
        ("redshift", "wg.012345678901.us-east-2.redshift-serverless.amazonaws.com", 1, "redshift://wg.us-east-2:1"),
        ("redshift", "through.a.tunnel", 5439, "redshift://through.a.tunnel:5439"),
    ],
)
def test_openlineage_knows_the_server(conn_type: str, host: str, port: int | None, namespace: str) -> None:
    assert database_for(conn_type).namespace(host, port) == namespace


def take_and_flush(sink: WarehouseSink, rows: int) -> None:
    sink.take(events(0, rows))
    sink.flush()


@pytest.mark.parametrize("rows", [9, 3000])
def test_full_disk(duckdb_database: Place, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """/dev/full takes nothing, as a disk without room."""
    with WarehouseSink(duckdb_database.warehouse(), NAMES) as sink:
        monkeypatch.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "w+b"))
        with pytest.raises(TryAgainLaterError, match=r"can't be written to .*: No space left on device.* set TMPDIR"):
            take_and_flush(sink, rows)
        assert sink.counts() == {"events": 0, "new": 0}
    assert all_rows(duckdb_database) == []


def test_spool_is_removed(duckdb_database: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with WarehouseSink(duckdb_database.warehouse(), NAMES) as sink:
        sink.take(events(0, 3000))
        assert list(folder.iterdir()) == []  # it has no name from the start, so a killed process leaves nothing
        sink.flush()
    assert len(all_rows(duckdb_database)) == 3000
    assert_tracks_is_the_union(duckdb_database)

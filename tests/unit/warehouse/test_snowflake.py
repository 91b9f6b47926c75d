"""Check the parts that only Snowflake has; all else is tested with the other databases."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.exceptions import ConfigurationError, CustomerIOToSegmentError, TryAgainLaterError
from airflow_provider_cio.operators.destination import WarehouseDestination
from airflow_provider_cio.operators.options import Options
from airflow_provider_cio.pipeline.result import Result, Tally
from airflow_provider_cio.warehouse import loading as loading_module
from airflow_provider_cio.warehouse import snowflake as snowflake_module
from airflow_provider_cio.warehouse import snowflake_lock as lock_module
from airflow_provider_cio.warehouse.sink import WarehouseSink
from tests.unit.support import NOVEMBER
from tests.unit.warehouse.events import NAMES, events
from tests.unit.warehouse.places import Place, all_rows, assert_tracks_is_the_union, connected

pytestmark = pytest.mark.timeout(400)

OPENED = ["Email Opened"]
WAITING = "Waiting for another load into schema customerio to end"


def load(place: Place, first: int = 0, last: int = 3, names: Any = NAMES) -> dict[str, int]:
    with WarehouseSink(place.warehouse(), names) as sink:
        sink.take(one for one in events(first, last) if one.event in names)
        sink.flush()
    return sink.counts()


@contextmanager
def another_load(place: Place) -> Iterator[Any]:
    """Take the lock in another session, and commit in the end."""
    with place.connect() as other:
        other.execute("BEGIN")
        other.execute("UPDATE customerio.customerio_lock SET holder = 'another one'")
        yield other
        other.execute("COMMIT")


def test_tables_and_names(snowflake_database: Place) -> None:
    load(snowflake_database)
    kinds = snowflake_database.query(
        "SELECT column_name, data_type, character_maximum_length FROM information_schema.columns "
        "WHERE table_name = 'EMAIL_OPENED'"
    )
    assert {("ID", "TEXT", 1024), ("RECEIVED_AT", "TIMESTAMP_TZ", None), ("CAMPAIGN_ID", "NUMBER", None)} <= set(kinds)
    assert {name for name, *_ in kinds} == {name.upper() for name, *_ in kinds}
    sent = "\n".join(snowflake_database.statements)
    assert 'CREATE TABLE IF NOT EXISTS "CUSTOMERIO"."TRACKS" ("ID" VARCHAR(1024) NOT NULL, ' in sent
    assert "PRIMARY KEY" not in sent
    assert snowflake_database.tables() == {"tracks", "email_delivered", "email_opened", "email_link_clicked"}


# The lock and the two sessions


def test_rows_that_were_loaded_during_the_wait_are_seen(snowflake_database: Place) -> None:
    """A session that was opened before the lock was obtained does not see the rows."""
    load(snowflake_database)
    snowflake_database.query("CREATE SCHEMA kept")
    for table in ("tracks", "email_opened"):
        snowflake_database.query(f"CREATE TABLE kept.{table} AS SELECT * FROM customerio.{table}")
        snowflake_database.query(f"DELETE FROM customerio.{table}")
    warehouse = snowflake_database.warehouse()
    with WarehouseSink(warehouse, NAMES) as sink, ThreadPoolExecutor() as pool:
        sink.take(events(0, 3))
        with another_load(snowflake_database) as other:
            second = pool.submit(sink.flush)
            while warehouse.waiting() != WAITING:
                assert not second.done()
                time.sleep(0.01)
            for table in ("tracks", "email_opened"):
                other.execute(f"INSERT INTO customerio.{table} SELECT * FROM kept.{table}")
            end = other.execute("SELECT CURRENT_TIMESTAMP()::VARCHAR").fetchall()[0][0]
        second.result(timeout=60)
    assert warehouse.waiting() is None
    assert sink.counts() == {"events": 3, "new": 0}
    assert_tracks_is_the_union(snowflake_database)
    assert load(snowflake_database, 0, 6) == {"events": 6, "new": 3}
    assert snowflake_database.query(f"SELECT count(*) FROM customerio.tracks WHERE uuid_ts > '{end}'") == [(3,)]


def test_load_gives_up_waiting(snowflake_database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (snowflake_module, lock_module):
        monkeypatch.setattr(module, "LOCK_TIMEOUT", 1)
    load(snowflake_database)
    with (
        another_load(snowflake_database),
        pytest.raises(TryAgainLaterError, match=r"other loads into schema customerio have not ended within 1 s, or"),
    ):
        load(snowflake_database, 0, 6)
    assert len(all_rows(snowflake_database)) == 3
    assert load(snowflake_database, 0, 6) == {"events": 6, "new": 3}


def test_a_lost_lock_is_noticed(snowflake_database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snowflake ends the transaction of a session that does nothing while another one waits for its lock."""
    monkeypatch.setattr(loading_module, "_PAUSES", (0.01,) * 4)
    load(snowflake_database)
    world, insert = snowflake_database.snowflake, 'INSERT INTO "CUSTOMERIO"."EMAIL_OPENED"'
    with WarehouseSink(snowflake_database.warehouse(), NAMES) as sink, ThreadPoolExecutor() as pool:
        sink.take(events(0, 6))
        before, world.seconds = len(world.statements), {insert: 2.0}
        first = pool.submit(sink.flush)
        while not any(one.startswith(insert) for one in world.statements[before:]):
            assert not first.done()
            time.sleep(0.01)
        world.seconds = {}
        [idle] = [one for one in world.sessions if one.in_transaction and not one.busy]
        idle.roll_back()
        first.result(timeout=60)
    assert [one[:6] for one in world.statements[before:]].count("UPDATE") == 2
    assert sink.counts() == {"events": 6, "new": 3}
    assert len(all_rows(snowflake_database)) == 6
    assert_tracks_is_the_union(snowflake_database)


def test_commit_without_an_answer_keeps_the_lock(snowflake_database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snowflake executes the COMMIT after the driver gave up. A load that got the lock earlier would not see it."""
    monkeypatch.setattr(lock_module, "_COMMIT_TIMEOUT", 1)
    monkeypatch.setattr(lock_module, "INSERT_TIMEOUT", 4)
    load(snowflake_database)
    world, first = snowflake_database.snowflake, snowflake_database.warehouse()
    waits = set()
    with (
        WarehouseSink(first, NAMES) as sink,
        WarehouseSink(snowflake_database.warehouse(), NAMES) as other,
        ThreadPoolExecutor() as pool,
    ):
        sink.take(events(0, 6))
        other.take(events(0, 9))
        world.late_commit = 4.0
        failed = pool.submit(sink.flush)
        while world.late_commit:
            assert not failed.done()
            time.sleep(0.01)
        waiting = pool.submit(other.flush)
        while not failed.done():
            waits.add(first.waiting())
            time.sleep(0.01)
        with pytest.raises(TryAgainLaterError):
            failed.result()
        waiting.result(timeout=60)
        assert other.counts() == {"events": 9, "new": 3}
        sink.flush()
        assert sink.counts() == {"events": 6, "new": 0}
    assert "Waiting until Snowflake has surely ended a COMMIT that it did not answer" in waits
    assert len(all_rows(snowflake_database)) == 9
    assert_tracks_is_the_union(snowflake_database)


@pytest.mark.parametrize(
    ("number", "text", "message"),
    [
        (
            625,
            "is aborted",
            r"other loads into schema customerio have not ended within 600 s, or too many wait \(625\)",
        ),
        (
            630,
            "Statement reached its timeout of 300 second(s)",
            r"other loads .* have not ended within the warehouse's time-out: .*Statement reached .* of 300 second",
        ),
        (604, "SQL execution canceled", r"a statement was canceled: .*SQL execution canceled \(604, 57014\)"),
    ],
)
def test_end_of_a_wait_says_why(snowflake_database: Place, number: int, text: str, message: str) -> None:
    load(snowflake_database)
    snowflake_database.snowflake.failures = {"UPDATE": [(number, "57014", text)]}
    with pytest.raises(TryAgainLaterError, match=message):
        load(snowflake_database)


def test_failed_load_does_nothing(snowflake_database: Place) -> None:
    load(snowflake_database)
    with WarehouseSink(snowflake_database.warehouse(), NAMES) as sink:
        sink.take(events(0, 9))
        failure = 100_038, "22018", "Numeric value 'person@example.com' is not recognized"
        snowflake_database.snowflake.failures = {'INTO "CUSTOMERIO"."EMAIL_OPENED"': [failure]}
        with pytest.raises(ConfigurationError, match=r"rejected the rows \(100038, 22018\)"):
            sink.flush()
        assert len(all_rows(snowflake_database)) == 3
        assert_tracks_is_the_union(snowflake_database)
        sink.flush()
    assert sink.counts() == {"events": 9, "new": 6}
    assert_tracks_is_the_union(snowflake_database)


# Leftovers of a load


def test_leftovers_of_killed_workers_are_removed(snowflake_database: Place) -> None:
    load(snowflake_database, names=NAMES)
    world = snowflake_database.snowflake
    now = datetime.now(UTC)
    for name, age, owner in (("old", 25, "LOADER"), ("young", 23, "LOADER"), ("theirs", 25, "STRANGER")):
        table = f"CUSTOMERIO_STAGE_{name.upper()}"
        snowflake_database.query(f"CREATE TABLE customerio.{table} (id varchar)")
        world.created[table], world.owners[table] = (now - timedelta(hours=age)).isoformat(), owner
    load(snowflake_database, 0, 6)
    left = {name for name in snowflake_database.tables() if name.startswith("customerio_stage")}
    assert left == {"customerio_stage_young", "customerio_stage_theirs"}


def test_a_failed_drop_keeps_no_other_table(snowflake_database: Place) -> None:
    world = snowflake_database.snowflake
    world.failures = {'DROP TABLE IF EXISTS "CUSTOMERIO"."CUSTOMERIO_STAGE': [(630, "57014", "stopped")] * 2}
    assert load(snowflake_database) == {"events": 3, "new": 3}
    staged = [one for one in world.statements if one.startswith("CREATE TRANSIENT TABLE")]
    left = [name for name in snowflake_database.tables() if name.startswith("customerio_stage")]
    assert (len(staged), len(left)) == (1 + 3, 1 + 1)  # the first one is without rows


def test_no_wait_is_told_after_a_failure(snowflake_database: Place) -> None:
    warehouse = snowflake_database.warehouse()
    session, _ = warehouse._database.connect()
    snowflake_database.snowflake.failures = {"SELECT 1": [(3001, "42501", "no")]}
    with pytest.raises(Exception, match="no"):
        session.execute("SELECT 1")
    assert warehouse.waiting() is None
    session.close()


def test_full_disk(snowflake_database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes nothing, as a disk without room."""
    with WarehouseSink(snowflake_database.warehouse(), NAMES) as sink:
        sink.take(events(0, 9))
        monkeypatch.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "w+b"))
        with pytest.raises(TryAgainLaterError, match=r"can't be written to .*: No space left on device"):
            sink.flush()
    assert all_rows(snowflake_database) == []


# Tables of others


@pytest.mark.parametrize("kind", ["TIMESTAMP_NTZ", "TIMESTAMP_LTZ"])
def test_times_of_another_type_are_in_utc(snowflake_database: Place, kind: str) -> None:
    snowflake_database.query("CREATE SCHEMA customerio")
    snowflake_database.query(f"CREATE TABLE customerio.email_opened (id varchar, timestamp {kind})")
    load(snowflake_database, names=OPENED)
    [(found,)] = snowflake_database.query("SELECT timestamp FROM customerio.email_opened WHERE subject = 'Subject 1'")
    assert found.replace(tzinfo=UTC) == datetime.fromtimestamp(NOVEMBER + 1, UTC)


def test_short_column_is_named(snowflake_database: Place) -> None:
    snowflake_database.query("CREATE SCHEMA customerio")
    snowflake_database.query("CREATE TABLE customerio.email_opened (id varchar, subject varchar(512))")
    with pytest.raises(ConfigurationError, match=r"column subject of .* is TEXT\(512\), and not VARCHAR") as caught:
        load(snowflake_database)
    fix = 'ALTER TABLE "CUSTOMERIO"."EMAIL_OPENED" ALTER COLUMN "SUBJECT" SET DATA TYPE VARCHAR;'
    assert f"Run {fix}" in str(caught.value)


def test_only_the_owner_adds_columns(snowflake_database: Place) -> None:
    snowflake_database.query("CREATE SCHEMA customerio")
    for table in ("tracks", "email_opened"):
        snowflake_database.query(f"CREATE TABLE customerio.{table} (id varchar, event varchar)")
    world, given = snowflake_database.snowflake, snowflake_database.connection
    # Roles that were made in quotes, which GRANT needs, too.
    world.owners |= {"TRACKS": "segment", "EMAIL_OPENED": "segment"}
    world.granted = {"my loader": {"INSERT ON TRACKS", "INSERT ON EMAIL_OPENED"}}
    with connected(given | {"extra": given["extra"] | {"role": '"my loader"'}}):
        with pytest.raises(ConfigurationError) as caught:
            load(snowflake_database, names=OPENED)
        text = str(caught.value)
        assert re.search(r"table tracks of segment lacks received_at, .*; table email_opened of segment lacks", text)
        assert 'or GRANT ROLE "segment" TO ROLE "my loader", or run as the owner: ALTER TABLE' in text
        world.owners["CUSTOMERIO_LOCK"] = "my loader"
        world.granted["my loader"].add("segment")
        assert load(snowflake_database, names=OPENED) == {"events": 1, "new": 1}


def test_grants_name_the_role_as_it_is(snowflake_database: Place) -> None:
    given = snowflake_database.connection
    snowflake_database.snowflake.failures = {"CREATE SCHEMA": [(3001, "42501", "no")]}
    with (
        connected(given | {"extra": given["extra"] | {"role": '"my loader"'}}),
        pytest.raises(ConfigurationError, match=r'CREATE SCHEMA ON DATABASE "DATABASE\d+" TO ROLE "my loader" '),
    ):
        load(snowflake_database)


# Errors


@pytest.mark.parametrize(
    ("part", "number", "state", "error", "message"),
    [
        ("CREATE SCHEMA", 3001, "42501", ConfigurationError, 'GRANT USAGE, CREATE SCHEMA ON DATABASE "DATABASE'),
        ("CREATE SCHEMA", 2002, "42710", ConfigurationError, 'the role "LOADER" lacks a right'),
        (
            "CREATE TEMP",
            3001,
            "42501",
            ConfigurationError,
            r'CREATE STAGE ON SCHEMA "DATABASE\d+"\."CUSTOMERIO" TO ROL',
        ),
        ("COPY INTO", 606, "57P03", ConfigurationError, 'GRANT USAGE ON WAREHOUSE "LOADING" TO ROLE "LOADER"'),
        ("INSERT INTO", 2003, "42S02", ConfigurationError, 'GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA "DAT'),
        ("INSERT INTO", 904, "42000", ConfigurationError, r"\(904, 42000\)\. Check whether somebody else changed"),
        ("COPY INTO", 100_038, "22018", ConfigurationError, r"rejected the rows \(100038, 22018\)\. Look for a const"),
        (
            "INSERT INTO",
            100_072,
            "22000",
            ConfigurationError,
            r"rejected the rows \(100072, 22000\)\. Look for a",
        ),
        ("INSERT INTO", 630, "57014", TryAgainLaterError, r"stopped a statement: .*A larger warehouse would take less"),
        (
            "INSERT INTO",
            604,
            "57014",
            TryAgainLaterError,
            r"a statement was canceled: .*told \(604, 57014\)\.$",
        ),
        ("INSERT INTO", 100_183, "P0000", TryAgainLaterError, r"query history has the text, .*\(100183, P0000\)"),
    ],
)
def test_failure_shows_no_value(
    snowflake_database: Place, part: str, number: int, state: str, error: type[Exception], message: str
) -> None:
    shown = state[:2] in snowflake_module._CLASSES_WITHOUT_VALUES
    text = "as it was told" if shown else "the row of Jane Doe"
    snowflake_database.snowflake.failures = {part: [(number, state, text)] * 100}
    with pytest.raises(error, match=message) as caught:
        load(snowflake_database)
    assert str(caught.value).startswith("Snowflake (connection 'warehouse_default'): ")
    assert "Jane" not in str(caught.value)
    assert ("as it was told" in str(caught.value)) is shown
    snowflake_database.snowflake.failures = {}
    assert load(snowflake_database) == {"events": 3, "new": 3}


@pytest.mark.parametrize(
    ("changes", "extra", "error", "message"),
    [
        ({"login": "nobody"}, {}, ConfigurationError, "login rejected: .*Incorrect username or password"),
        (
            {},
            {"database": "elsewhere"},
            ConfigurationError,
            "names no database, or one that the role can't use.*GRANT",
        ),
        ({}, {"private_key_content": "no key"}, ConfigurationError, "the credentials can't be loaded"),
        ({}, {"private_key_file": "/no/such/file.p8"}, ConfigurationError, "the credentials can't be loaded"),
        ({}, {"account": ""}, ConfigurationError, "login rejected: .*(?i:account)"),
    ],
)
def test_failed_connection_check(
    snowflake_database: Place,
    changes: dict[str, Any],
    extra: dict[str, Any],
    error: type[CustomerIOToSegmentError],
    message: str,
) -> None:
    given = snowflake_database.connection
    given = given | {"password": "its-password-1234"} | changes | {"extra": given["extra"] | extra}
    with connected(given), pytest.raises(error, match=message) as caught:
        snowflake_database.warehouse().check()
    assert "its-password" not in str(caught.value)


def test_a_warehouse_is_needed(snowflake_database: Place) -> None:
    snowflake_database.snowflake.warehouse = None
    with pytest.raises(ConfigurationError, match=r"names no warehouse, or one .*GRANT USAGE ON WAREHOUSE <warehouse>"):
        snowflake_database.warehouse().check()


# Sessions


def test_no_setting_counts(snowflake_database: Place) -> None:
    given = snowflake_database.connection
    settings = {"QUERY_TAG": "theirs", "TIMEZONE": "Asia/Kathmandu", "AUTOCOMMIT": False, "LOCK_TIMEOUT": 1}
    settings |= {"USE_CACHED_RESULT": True}
    with connected(given | {"extra": given["extra"] | {"session_parameters": settings}}):
        assert load(snowflake_database) == {"events": 3, "new": 3}
    first, second = (one["SESSION_PARAMETERS"] for one in snowflake_database.snowflake.logins[-2:])
    for found in (first, second):
        assert found.items() >= {"QUERY_TAG": "theirs", "TIMEZONE": "UTC", "AUTOCOMMIT": True}.items()
        assert (found["TIMESTAMP_INPUT_FORMAT"], found["USE_CACHED_RESULT"]) == ("AUTO", False)
    assert first["STATEMENT_TIMEOUT_IN_SECONDS"] > first["LOCK_TIMEOUT"] == 600
    assert second["STATEMENT_TIMEOUT_IN_SECONDS"] < 300


def test_login_with_a_key(snowflake_database: Place) -> None:
    key = rsa.generate_private_key(65537, 2048)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    given = snowflake_database.connection
    with connected(given | {"password": "", "extra": given["extra"] | {"private_key_content": text}}):
        snowflake_database.warehouse().check()
    assert snowflake_database.snowflake.logins[-1]["AUTHENTICATOR"] == "SNOWFLAKE_JWT"


def test_openlineage_knows_the_tables(snowflake_database: Place) -> None:
    given = snowflake_database.connection
    with connected(given | {"extra": given["extra"] | {"account": "org-acc", "database": "db"}}):
        destination = WarehouseDestination(Options(warehouse_conn_id="warehouse_default", schema="customerio"))
    result = Result(Interval(0, 1), Tally())
    result.events["Email Opened"] = 3
    found = [(one.namespace, one.name) for one in destination.datasets(result)]
    names = ("DB.CUSTOMERIO.TRACKS", "DB.CUSTOMERIO.EMAIL_OPENED")
    assert found == [("snowflake://org-acc", name) for name in names]

"""Tables made by others are filled as they are, missing parts are named with their fix, and no error shows a value."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_cio.events.occurrence import Identifiers
from airflow_provider_cio.exceptions import ConfigurationError, CustomerIOToSegmentError, TryAgainLaterError
from airflow_provider_cio.warehouse import database_for
from airflow_provider_cio.warehouse.connection import open_warehouse
from airflow_provider_cio.warehouse.database import shown
from airflow_provider_cio.warehouse.postgres_family import text_of
from airflow_provider_cio.warehouse.sink import WarehouseSink
from tests.unit.support import NOVEMBER
from tests.unit.warehouse.events import NAMES, event, events
from tests.unit.warehouse.places import Place, all_rows, assert_tracks_is_the_union, connected

pytestmark = pytest.mark.timeout(400)

OPENED = ["Email Opened"]


def load(place: Place, *loaded: Any, names: list[str] | tuple[str, ...] = OPENED) -> dict[str, int]:
    with WarehouseSink(place.warehouse(), names) as sink:
        sink.take(loaded)
        sink.flush()
    return sink.counts()


def texts(place: Place) -> str:
    return "varchar(32768)" if place.kind == "redshift" else "varchar"


# Times and columns


def test_all_times_of_an_event_are_its_own(database: Place) -> None:
    load(database, *events(0, 9), names=NAMES)
    for row in [*all_rows(database), *database.rows("tracks")]:
        number = row["timestamp"] - NOVEMBER
        assert row["received_at"] == row["sent_at"] == row["original_timestamp"] == row["timestamp"]
        assert 0 <= number < 9
        assert row["uuid_ts"] > row["timestamp"] + 1000
        assert row.get("loaded_at", row["uuid_ts"]) == row["uuid_ts"]
    assert_tracks_is_the_union(database)


def test_redshifts_tables_have_a_uuid(redshift_database: Place) -> None:
    load(redshift_database, *events(0, 9), names=NAMES)
    kinds = redshift_database.query(
        "SELECT DISTINCT data_type FROM information_schema.columns WHERE table_schema = 'customerio' "
        "AND column_name = 'uuid'"
    )
    assert kinds == [("bigint",)]
    assert redshift_database.query("SELECT count(*), count(uuid) FROM customerio.tracks") == [(9, 0)]


def test_a_uuid_of_theirs_may_be_of_any_type(redshift_database: Place) -> None:
    redshift_database.query("CREATE SCHEMA customerio")
    redshift_database.query("CREATE TABLE customerio.email_opened (id varchar(512), uuid varchar(36) DEFAULT 'theirs')")
    load(redshift_database, event(1))
    assert redshift_database.query("SELECT uuid FROM customerio.email_opened") == [("theirs",)]


def test_columns_that_only_webhooks_fill_are_not_made_and_left_alone(database: Place) -> None:
    load(database, event(1))
    only = {"journey_id", "trigger_id", "content", "tracked_response", "synthetic"}
    (row,) = database.rows("email_opened")
    assert not only & row.keys()
    database.query("ALTER TABLE customerio.email_opened ADD COLUMN journey_id date")
    assert load(database, event(2)) == {"events": 1, "new": 1}


# Ids of another type


@pytest.mark.parametrize("kind", ["text", "bigint", "numeric", "integer", "double precision"])
def test_ids_are_loaded_into_the_type_that_is_there(database: Place, kind: str) -> None:
    if database.kind == "bigquery":
        kind = {"text": "varchar", "numeric": "decimal(38, 9)", "integer": "bigint"}.get(kind, kind)
    there = texts(database) if kind == "text" else kind
    database.query("CREATE SCHEMA customerio")
    ids = f"campaign_id {there}, action_id {there}"
    database.query(f"CREATE TABLE customerio.email_opened (id {texts(database)} PRIMARY KEY, {ids})")
    assert load(database, event(1, campaign_id=1000397, action_id="12"), event(2)) == {"events": 2, "new": 2}
    found = database.query("SELECT campaign_id, action_id FROM customerio.email_opened ORDER BY 1 NULLS LAST")
    expected: tuple[Any, Any] = ("1000397", "12") if kind in ("text", "varchar") else (1000397, 12)
    assert found == [expected, (None, None)]


@pytest.mark.parametrize("kind", ["bigint", "numeric"])
def test_text_in_a_column_of_numbers_is_null_and_counted(
    database: Place, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    if database.kind == "bigquery" and kind == "numeric":
        kind = "decimal(38, 9)"
    long = texts(database)
    database.query("CREATE SCHEMA customerio")
    database.query(
        f"CREATE TABLE customerio.tracks (id {long} PRIMARY KEY, user_id {kind}, anonymous_id {long}, event {long})"
    )
    made = [
        event(1, customer_identifiers=Identifiers(id="42")),
        event(2, customer_identifiers=Identifiers(id="forty-two")),
        event(3, customer_identifiers=Identifiers(id="12345678901234567890")),
        event(4, customer_identifiers=Identifiers(id="1.5"), campaign_id="spring"),
    ]
    assert load(database, *made) == {"events": 4, "new": 4, "null_ids": 4}
    assert database.query("SELECT user_id FROM customerio.tracks ORDER BY 1 NULLS LAST") == [(42,), *[(None,)] * 3]
    users = {row["user_id"] for row in database.rows("email_opened")}
    assert users == {"42", "forty-two", "12345678901234567890", "1.5"}
    assert "user_id has text that is no number: it is NULL where a table has numbers." in caplog.text
    assert "campaign_id has text that is no number" in caplog.text
    assert "forty" not in caplog.text


def test_all_columns_of_other_types_are_named_before_the_first_request(database: Place) -> None:
    database.query("CREATE SCHEMA customerio")
    database.query(f"CREATE TABLE customerio.tracks (id {texts(database)} PRIMARY KEY, user_id boolean, sent_at date)")
    database.query(f"CREATE TABLE customerio.email_opened (id {texts(database)} PRIMARY KEY, campaign_id boolean)")
    with pytest.raises(ConfigurationError) as caught, WarehouseSink(database.warehouse(), NAMES):
        pass
    for named in ("user_id of table customerio.tracks", "sent_at of table", "campaign_id of table customerio.email"):
        assert f"column {named}" in str(caught.value)
    assert "ALTER" not in str(caught.value)
    assert database.tables() == {"tracks", "email_opened"}


# Rights


@pytest.fixture
def stranger(server_database: Place) -> Iterator[tuple[Place, str]]:
    """Make a database with Segment's tables, and a user beside their owner."""
    name = server_database.connection["schema"]
    user, owner = f"stranger_{name}", f"segment_{name}"
    for one in (user, owner):
        server_database.query(f"CREATE USER {one}")
    server_database.query(f"GRANT CREATE, TEMPORARY ON DATABASE {name} TO {user}")
    server_database.query(f"CREATE SCHEMA customerio AUTHORIZATION {owner}")
    yield server_database, user
    for one in (user, owner):
        server_database.query(f"DROP OWNED BY {one} CASCADE")
        server_database.query(f"DROP USER {one}")


def test_columns_that_only_the_owner_can_add_are_named_with_a_way_out(stranger: tuple[Place, str]) -> None:
    place, user = stranger
    owner = user.replace("stranger", "segment")
    long = texts(place)
    for table in ("tracks", "email_opened"):
        place.query(f"CREATE TABLE customerio.{table} (id {long} PRIMARY KEY, event {long})")
        place.query(f"ALTER TABLE customerio.{table} OWNER TO {owner}")
    place.query(f"GRANT USAGE, CREATE ON SCHEMA customerio TO {user}")
    place.query(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA customerio TO {user}")
    with connected(place.connection | {"login": user}), pytest.raises(ConfigurationError) as caught:
        load(place, event(1))
    text = str(caught.value)
    assert re.search(
        rf"table tracks of {owner} lacks received_at, sent_at, .*; table email_opened of {owner} lacks", text
    )
    assert "Run the task once as the owner" in text
    statements = re.findall(r'ALTER TABLE "customerio"\."\w+" ADD COLUMN [^;]+', text.rstrip("."))
    assert len(statements) > 30
    if place.kind == "postgres":
        (grant,) = re.findall(r'GRANT "\w+" TO "\w+"', text)
        place.query(grant)
    else:  # Redshift grants no user to another one
        assert "GRANT" not in text
        for statement in statements:
            place.query(statement)
    with connected(place.connection | {"login": user}):
        assert load(place, event(1)) == {"events": 1, "new": 1}


def test_a_schema_that_the_user_may_not_see_is_told_as_such(stranger: tuple[Place, str]) -> None:
    place, user = stranger
    with (
        connected(place.connection | {"login": user}),
        pytest.raises(
            ConfigurationError,
            match=r"there is a schema customerio, and the user has no right to it\. .*GRANT USAGE, CREATE ON SCHEMA",
        ),
    ):
        load(place, event(1))


def test_a_table_that_the_user_may_not_see_is_told_as_such(postgres_database: Place) -> None:
    name = postgres_database.connection["schema"]
    user = f"blind_{name}"
    postgres_database.query(f"CREATE USER {user}")
    postgres_database.query("CREATE SCHEMA customerio")
    postgres_database.query(f"GRANT USAGE, CREATE ON SCHEMA customerio TO {user}")
    postgres_database.query("CREATE TABLE customerio.tracks (id text PRIMARY KEY)")
    try:
        with (
            connected(postgres_database.connection | {"login": user}),
            pytest.raises(
                ConfigurationError, match=r'no right to it, .*"tracks" already exists \(42P07\)\. .*GRANT SELECT'
            ),
        ):
            load(postgres_database, event(1))
    finally:
        postgres_database.query(f"DROP OWNED BY {user}")
        postgres_database.query(f"DROP USER {user}")


# No value in an error


def refuse_rows(place: Place, code: str) -> None:
    """Make a trigger that raises with the row's own values."""
    place.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no row of % (%)', "
        f"NEW.subject, NEW.context_traits_email USING ERRCODE = '{code}', TABLE = NEW.context_traits_email, "
        "COLUMN = NEW.subject, CONSTRAINT = NEW.subject; END $$"
    )
    place.query("CREATE TRIGGER t BEFORE INSERT ON customerio.email_opened FOR EACH ROW EXECUTE FUNCTION refuse()")


@pytest.mark.parametrize(
    "code", ["P0001", "CIO01", "22023", "23514", "44000", "42501", "42704", "57014", "XX000", "0A000"]
)
def test_what_a_trigger_says_is_not_shown(server_database: Place, code: str) -> None:
    load(server_database, event(1))
    refuse_rows(server_database, code)
    with pytest.raises(CustomerIOToSegmentError) as caught:
        load(server_database, event(2, subject="of Jane Doe"))
    assert code in str(caught.value) or code == "42501"
    assert "Jane" not in str(caught.value)
    assert "example.com" not in str(caught.value)
    assert isinstance(caught.value, TryAgainLaterError) is (code in ("57014", "XX000"))  # what a rule refuses is final


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        *(("", True), ("08006", True), ("42501", True), ("53100", True), ("57014", True), ("3D000", True)),
        *(("22001", False), ("23514", False), ("44000", False), ("42601", False), ("P0001", False), ("XX000", False)),
    ],
)
def test_a_text_is_shown_if_its_class_can_hold_no_value(code: str, shown: bool) -> None:
    assert (text_of(code, "of Jane", of_function=False) == "of Jane") is shown
    assert "Jane" not in text_of(code, "of Jane", of_function=True)


def test_a_duckdb_shows_no_value(duckdb_database: Place) -> None:
    load(duckdb_database, event(1))
    duckdb_database.query("CREATE TABLE customerio.kept AS SELECT * FROM customerio.email_opened LIMIT 0")
    duckdb_database.query("DROP TABLE customerio.email_opened")
    duckdb_database.query(
        "CREATE TABLE customerio.email_opened (id VARCHAR, subject VARCHAR CHECK (CAST(subject AS INT) > 0))"
    )
    with pytest.raises(ConfigurationError, match=r"rejected the rows \(\w+Exception\)") as caught:
        load(duckdb_database, event(2, subject="of Jane Doe"))
    assert "Jane" not in str(caught.value)


@pytest.mark.parametrize(
    ("conn_type", "host", "namespace"),
    [
        ("postgres", "token@db.example.com", "postgres://db.example.com"),
        ("postgres", "https://user:pass@word@db.example.com/x?password=secret", "postgres://db.example.com/x"),
        ("postgres", "postgres://us?er:secret@db.example.com", "postgres://"),
        ("postgres", "db.example.com?sslpassword=secret@x", "postgres://"),
        ("postgres", "db.example.com password=secret", "postgres://db.example.com"),
        ("postgres", "db.example.com;password=secret", "postgres://db.example.com"),
        ("postgres", "/var/run/postgresql", "postgres:///var/run/postgresql"),
        ("redshift", "user:secret@a.c0ffee.eu-west-1.redshift.amazonaws.com", "redshift://a.eu-west-1:5439"),
        ("duckdb", "md:mine?motherduck_token=secret", "duckdb://md:mine"),
        ("duckdb", "/data/of us/file.duckdb", "duckdb:///data/of us/file.duckdb"),
    ],
)
def test_lineage_has_no_secret_of_the_host(conn_type: str, host: str, namespace: str) -> None:
    assert database_for(conn_type).namespace(host, None) == namespace


def test_an_error_has_no_secret_of_the_host() -> None:
    given = {"conn_type": "postgres", "host": "user:secretive@nowhere.invalid", "login": "me", "schema": "x"}
    with connected(given), pytest.raises(TryAgainLaterError) as caught:
        open_warehouse("warehouse_default", "customerio").check()
    assert "secretive" not in str(caught.value)


def test_a_drivers_text_has_no_secret_of_the_host() -> None:
    text = shown(
        'no host "me:secret@db", no md:mine?motherduck_token=secret&x=1, no postgres://me:secret@db password=secret'
    )
    assert text == 'no host "***@db", no md:mine?motherduck_token=***&x=1, no postgres://***@db password=***'


# Temporary files


def test_a_tmpdir_that_is_not_there_is_named(duckdb_database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/no/such/folder")
    with pytest.raises(
        ConfigurationError, match="TMPDIR is /no/such/folder, and there is no such folder on the worker: create"
    ):
        load(duckdb_database, event(1))


def test_a_folder_that_went_away_is_named(
    duckdb_database: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(
        ConfigurationError, match=r"no folder for temporary files \(.*gone.*\): create it, or set TMPDIR"
    ):
        load(duckdb_database, event(1))

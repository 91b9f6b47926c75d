"""Check the parts that only BigQuery has; all else is tested with the other databases."""

from __future__ import annotations

import logging
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.operators.destination import WarehouseDestination
from airflow_provider_cio.operators.options import Options
from airflow_provider_cio.pipeline.result import Result, Tally
from airflow_provider_cio.warehouse import bigquery as bigquery_module
from airflow_provider_cio.warehouse.sink import WarehouseSink
from tests.bigquery import PROJECT
from tests.unit.warehouse.events import NAMES, events
from tests.unit.warehouse.places import Place, all_rows, assert_tracks_is_the_union, connected

pytestmark = pytest.mark.timeout(400)

_UPDATE = "UPDATE customerio.customerio_lock SET locked_at = now()"


def load(place: Place, first: int = 0, last: int = 9) -> dict[str, int]:
    with WarehouseSink(place.warehouse(), NAMES) as sink:
        sink.take(events(first, last))
        sink.flush()
    return sink.counts()


def test_tables_and_views(bigquery_database: Place) -> None:
    load(bigquery_database)
    kinds: dict[str, str] = dict(
        bigquery_database.query("SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'email_opened'")
    )
    assert (kinds["id"], kinds["subject"], kinds["machine"]) == ("VARCHAR", "VARCHAR", "BOOLEAN")
    assert kinds["loaded_at"] == kinds["received_at"] == kinds["_PARTITIONTIME"] == "TIMESTAMP WITH TIME ZONE"
    assert kinds["campaign_id"] == "BIGINT"
    assert all(row["loaded_at"] == row["uuid_ts"] for row in all_rows(bigquery_database))
    sent = "\n".join(bigquery_database.bigquery.statements)
    assert re.search(r"CREATE TABLE IF NOT EXISTS `[\w-]+`\.`customerio`\.`tracks` \(`id` STRING, ", sent)
    assert sent.count(" PARTITION BY _PARTITIONDATE") == 1 + len(NAMES)
    bigquery_database.query("INSERT INTO customerio.tracks SELECT * FROM customerio.tracks")  # as Segment may
    assert bigquery_database.query("SELECT count(*) FROM customerio.tracks") == [(18,)]
    assert bigquery_database.query("SELECT count(*) FROM customerio.tracks_view") == [(9,)]
    bigquery_database.query("UPDATE customerio.tracks SET _PARTITIONTIME = _PARTITIONTIME - INTERVAL 61 DAY")
    assert bigquery_database.query("SELECT count(*) FROM customerio.tracks_view") == [(0,)]


def test_staged_rows_are_removed(bigquery_database: Place) -> None:
    load(bigquery_database)
    assert bigquery_database.tables() == {"tracks", "email_opened", "email_delivered", "email_link_clicked"}
    assert bigquery_database.bigquery.expirations == {}


def test_full_disk(bigquery_database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes nothing, as a disk without room."""
    with WarehouseSink(bigquery_database.warehouse(), NAMES) as sink:
        sink.take(events(0, 9))
        monkeypatch.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "w+b"))
        with pytest.raises(TryAgainLaterError, match=r"can't be written to .*: No space left on device"):
            sink.flush()
    assert all_rows(bigquery_database) == []


def test_abandoned_stages_expire(bigquery_database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigquery_module._JobRunner, "close", lambda self: None)
    load(bigquery_database)
    stages = [name for name in bigquery_database.tables() if name.startswith("customerio_stage")]
    expirations = bigquery_database.bigquery.expirations
    assert expirations.keys() == {f"customerio.{name}" for name in stages}
    ((now,),) = bigquery_database.query("SELECT CAST(now() + INTERVAL 1 DAY AS VARCHAR)")
    assert all(now[:10] == moment[:10] or now[:10] > moment[:10] for moment in expirations.values())


def test_load_waits_for_another(bigquery_database: Place) -> None:
    load(bigquery_database, 0, 3)
    warehouse = bigquery_database.warehouse()
    with WarehouseSink(warehouse, NAMES) as sink, bigquery_database.connect() as other, ThreadPoolExecutor() as pool:
        sink.take(events(3, 6))
        other.execute("BEGIN")
        other.execute(_UPDATE)
        second = pool.submit(sink.flush)
        while warehouse.waiting() != "Waiting for another load into dataset customerio to end":
            assert not second.done()
        ((end,),) = other.execute("SELECT CAST(get_current_timestamp() AS VARCHAR)").fetchall()
        other.execute("COMMIT")
        second.result(timeout=60)
    assert warehouse.waiting() is None
    assert sink.counts() == {"events": 3, "new": 3}
    assert bigquery_database.query(f"SELECT count(*) FROM customerio.tracks WHERE uuid_ts > '{end}'") == [(3,)]


def test_load_gives_up_waiting(bigquery_database: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigquery_module, "_LOCK_TIMEOUT", 1.0)
    load(bigquery_database, 0, 3)
    with bigquery_database.connect() as other:
        other.execute("BEGIN")
        other.execute(_UPDATE)
        with pytest.raises(TryAgainLaterError, match="other loads into dataset customerio have not ended within 1 s"):
            load(bigquery_database, 0, 6)
        other.execute("COMMIT")
    assert len(all_rows(bigquery_database)) == 3
    assert load(bigquery_database, 0, 6) == {"events": 6, "new": 3}


@pytest.mark.parametrize("part", ["CREATE SCHEMA", "CREATE TABLE IF NOT EXISTS", "load", "BEGIN TRANSACTION"])
@pytest.mark.parametrize(
    ("reason", "error", "message"),
    [
        (
            "accessDenied",
            ConfigurationError,
            r"lacks a role: .* Grant roles/bigquery.jobUser on .*roles/bigquery.dataEditor on",
        ),
        ("billingNotEnabled", ConfigurationError, "BigQuery needs billing"),
        ("invalid", ConfigurationError, r"rejected the rows \(invalid\)\. Look for a constraint"),
        (
            "invalidQuery",
            ConfigurationError,
            r"list of jobs has the text \(400, invalidQuery\)\. Check that the connection has the project",
        ),
        ("resourcesExceeded", ConfigurationError, r"\(400, resourcesExceeded\)"),
        ("stopped", TryAgainLaterError, r"stopped"),
    ],
)
def test_failure_shows_no_value(
    bigquery_database: Place, part: str, reason: str, error: type[Exception], message: str
) -> None:
    bigquery_database.bigquery.failures = {part: [reason] * 100}
    with pytest.raises(error, match=message) as caught:
        load(bigquery_database)
    assert str(caught.value).startswith("BigQuery (connection 'warehouse_default'): ")
    assert "example.com" not in str(caught.value)
    bigquery_database.bigquery.failures = {}
    assert load(bigquery_database) == {"events": 9, "new": 9}


def test_failed_load_does_nothing(bigquery_database: Place) -> None:
    load(bigquery_database, 0, 3)
    warehouse = bigquery_database.warehouse()
    with WarehouseSink(warehouse, NAMES) as sink:
        sink.take(events(0, 9))
        bigquery_database.bigquery.failures = {"INSERT INTO `customerio`.`email_opened`": ["resourcesExceeded"]}
        with pytest.raises(ConfigurationError, match="resourcesExceeded"):
            sink.flush()
        assert len(all_rows(bigquery_database)) == 3
        assert_tracks_is_the_union(bigquery_database)
        sink.flush()
    assert sink.counts() == {"events": 9, "new": 6}
    assert_tracks_is_the_union(bigquery_database)


@pytest.mark.parametrize("reason", ["duplicate", "rateLimitExceeded", "backendError"])
def test_passing_failure_is_retried(bigquery_database: Place, reason: str) -> None:
    bigquery_database.bigquery.failures = {"CREATE VIEW": [reason], "BEGIN TRANSACTION": [reason] * 2}
    assert load(bigquery_database) == {"events": 9, "new": 9}


def test_location_of_the_dataset(bigquery_database: Place, caplog: pytest.LogCaptureFixture) -> None:
    bigquery_database.query("CREATE SCHEMA customerio")
    bigquery_database.bigquery.options = {"location": "EU", "defaultTableExpirationMs": "3600000"}
    with caplog.at_level(logging.WARNING):
        assert load(bigquery_database) == {"events": 9, "new": 9}
    assert "BigQuery deletes tables or partitions of dataset customerio when they are old." in caplog.text


def test_location_of_a_new_dataset(bigquery_database: Place) -> None:
    bigquery_database.bigquery.options = {"location": "EU"}
    given = bigquery_database.connection
    with connected(given | {"extra": given["extra"] | {"location": "EU"}}):
        assert load(bigquery_database) == {"events": 9, "new": 9}


def test_connection_of_general_type(bigquery_database: Place) -> None:
    with connected(bigquery_database.connection | {"conn_type": "google_cloud_platform"}):
        assert load(bigquery_database) == {"events": 9, "new": 9}


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        ({"project": "elsewhere"}, ConfigurationError, "lacks a role: Access Denied: Project elsewhere"),
        ({"is_anonymous": False, "keyfile_dict": "{}"}, ConfigurationError, "credentials can't be loaded"),
        ({"is_anonymous": False, "keyfile_dict": "no JSON"}, ConfigurationError, "credentials can't be loaded"),
        ({"is_anonymous": False, "key_path": "/no/such/file.json"}, ConfigurationError, "credentials can't be loaded"),
    ],
)
def test_failed_connection_check(
    bigquery_database: Place, extra: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = bigquery_database.connection
    with connected(given | {"extra": given["extra"] | extra}), pytest.raises(error, match=message):
        bigquery_database.warehouse().check()


def test_openlineage_knows_the_tables(bigquery_database: Place) -> None:
    destination = WarehouseDestination(Options(warehouse_conn_id="warehouse_default", schema="customerio"))
    result = Result(Interval(0, 1), Tally())
    result.events["Email Opened"] = 3
    found = [(one.namespace, one.name) for one in destination.datasets(result)]
    assert found == [
        ("bigquery", f"{PROJECT}.customerio.tracks"),
        ("bigquery", f"{PROJECT}.customerio.email_opened"),
    ]


def test_few_statements_are_sent(bigquery_database: Place) -> None:
    """A load sends few statements, because a real BigQuery needs about a second for each."""
    load(bigquery_database)
    before = len(bigquery_database.bigquery.statements)
    began = time.monotonic()
    load(bigquery_database, 0, 300)
    assert time.monotonic() - began < 60
    # To connect and look; a stage to try, and its script; for each table a stage and a load job; the script.
    assert len(bigquery_database.bigquery.statements) - before <= 4 + 2 * len(NAMES) + 2

"""Run usual queries for Segment's tables on this provider's tables, on each database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_cio.warehouse.sink import WarehouseSink
from tests.unit.support import DAY, NOVEMBER
from tests.unit.warehouse.places import Place
from tests.unit.warehouse.test_examples import happened

HOUR = 3600
SPRING = 1000397
EVENTS = [
    *happened("a", "1", SPRING, delivered=0, opened=2 * DAY, clicked=2 * DAY + 60),
    *happened("b", "2", SPRING, delivered=HOUR, opened=HOUR + 30),
    *happened("c", "1", 7, delivered=DAY, opened=DAY + 20 * 60, clicked=DAY + 50 * 60),
    *happened("d", "3", None, delivered=2 * DAY),
]
DAYS = [datetime.fromtimestamp(NOVEMBER + n * DAY, UTC).date() for n in range(3)]


@pytest.fixture(scope="module")
def ask(shared_database: Place) -> Callable[[str], list[tuple[Any, ...]]]:
    """Load a database in one go, and make a table of Customer.io's campaigns; return a function for queries."""
    with WarehouseSink(shared_database.warehouse(), ["Email Delivered", "Email Opened", "Email Link Clicked"]) as sink:
        sink.take(EVENTS)
        sink.flush()
    shared_database.query("CREATE SCHEMA lists")
    shared_database.query("CREATE TABLE lists.campaigns (campaign_id bigint, name varchar(99))")
    shared_database.query(f"INSERT INTO lists.campaigns VALUES ({SPRING}, 'Spring'), (7, 'Welcome')")
    return shared_database.query


@pytest.mark.parametrize("time", ["sent_at", "received_at", "original_timestamp", "timestamp"])
def test_opens_by_day(ask: Callable[[str], list[Any]], time: str) -> None:
    found = ask(f"SELECT CAST({time} AS date) AS day, count(*) FROM customerio.email_opened GROUP BY 1 ORDER BY 1")
    assert found == [(day, 1) for day in DAYS]


@pytest.mark.parametrize("time", ["sent_at", "received_at"])
def test_hours_from_delivery_to_open(ask: Callable[[str], list[Any]], time: str) -> None:
    found = ask(
        f"SELECT d.delivery_id, CAST((EXTRACT(epoch FROM o.{time}) - EXTRACT(epoch FROM d.{time})) / 3600 AS bigint) "
        "FROM customerio.email_opened o JOIN customerio.email_delivered d USING (delivery_id) ORDER BY 1"
    )
    assert found == [("a", 48), ("b", 0), ("c", 0)]


@pytest.mark.parametrize("time", ["sent_at", "received_at"])
def test_sessions_of_a_person(ask: Callable[[str], list[Any]], time: str) -> None:
    """A pause of half an hour begins a new session."""
    found = ask(
        f"""
        SELECT user_id, sum(begins) FROM (
            SELECT user_id, CASE WHEN {time} - lag({time}) OVER (PARTITION BY user_id ORDER BY {time})
                <= INTERVAL '30 minutes' THEN 0 ELSE 1 END AS begins
            FROM customerio.tracks WHERE event <> 'email_delivered'
        ) AS steps GROUP BY 1 ORDER BY 1
        """
    )
    assert [(user, int(count)) for user, count in found] == [("1", 2), ("2", 1)]


@pytest.mark.parametrize("time", ["sent_at", "received_at"])
def test_the_last_hours_of_a_day(ask: Callable[[str], list[Any]], time: str) -> None:
    end = datetime.fromtimestamp(NOVEMBER + 2 * DAY + 120, UTC).strftime("%Y-%m-%d %H:%M:%S")
    found = ask(
        f"SELECT event FROM customerio.tracks WHERE {time} > CAST('{end}' AS timestamp) - INTERVAL '12 hours' "
        f"AND {time} <= CAST('{end}' AS timestamp) ORDER BY {time}, event"
    )
    assert found == [("email_delivered",), ("email_opened",), ("email_link_clicked",)]


def test_a_cursor_over_the_time_of_arrival_with_a_limit(ask: Callable[[str], list[Any]]) -> None:
    seen: list[str] = []
    last = "1970-01-01 00:00:00"
    while page := ask(
        "SELECT delivery_id, received_at FROM customerio.email_delivered WHERE received_at > "
        f"CAST('{last}' AS timestamp) ORDER BY received_at LIMIT 2"
    ):
        seen += [row[0] for row in page]
        last = page[-1][1].strftime("%Y-%m-%d %H:%M:%S")
    assert seen == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "condition",
    [
        f"campaign_id = {SPRING}",
        f"campaign_id = '{SPRING}'",
        f"campaign_id > {SPRING - 1}",
        f"campaign_id IN ({SPRING}, 8)",
        "campaign_id IN (SELECT campaign_id FROM lists.campaigns WHERE name = 'Spring')",
        "campaign_id BETWEEN 8 AND 2000000",
        f"CAST(campaign_id AS varchar(20)) = '{SPRING}'",
        "campaign_id NOT IN (SELECT campaign_id FROM lists.campaigns WHERE name = 'Welcome')",
    ],
)
def test_a_campaign_by_its_number(ask: Callable[[str], list[Any]], condition: str) -> None:
    found = ask(f"SELECT delivery_id FROM customerio.email_delivered WHERE {condition} ORDER BY 1")
    assert found == [("a",), ("b",)]


def test_names_from_a_list_of_campaigns(ask: Callable[[str], list[Any]]) -> None:
    found = ask(
        "SELECT c.name, count(*) FROM customerio.email_delivered JOIN lists.campaigns AS c USING (campaign_id) "
        "GROUP BY 1 ORDER BY 1"
    )
    assert found == [("Spring", 2), ("Welcome", 1)]


def test_a_person_by_an_id_that_is_text(ask: Callable[[str], list[Any]]) -> None:
    found = ask("SELECT count(*) FROM customerio.tracks WHERE user_id = '1' AND anonymous_id IS NULL")
    assert found == [(6,)]


def test_event_tables_by_position(ask: Callable[[str], list[Any]]) -> None:
    found = ask(
        "SELECT count(*), count(DISTINCT id) FROM (SELECT * FROM customerio.email_delivered UNION ALL "
        "SELECT * FROM customerio.email_opened UNION ALL SELECT * FROM customerio.email_link_clicked) AS every_event"
    )
    assert found == [(len(EVENTS), len(EVENTS))]


def test_a_watermark_finds_all_of_a_later_load_and_nothing_else(
    shared_database: Place, ask: Callable[[str], list[Any]]
) -> None:
    ask("CREATE TABLE lists.seen AS SELECT max(uuid_ts) AS uuid_ts FROM customerio.tracks")
    with WarehouseSink(shared_database.warehouse(), ["Email Delivered"]) as sink:
        sink.take(happened("late", "9", None, delivered=-30 * DAY))
        sink.flush()
    found = ask("SELECT user_id FROM customerio.tracks WHERE uuid_ts > (SELECT max(uuid_ts) FROM lists.seen)")
    assert found == [("9",)]
    for table in ("tracks", "email_delivered"):
        ask(f"DELETE FROM customerio.{table} WHERE user_id = '9'")


def test_the_redshift_only_column(ask: Callable[[str], list[Any]], shared_database: Place) -> None:
    if shared_database.kind != "redshift":
        pytest.skip("Segment makes it on Redshift")
    assert ask("SELECT count(*), max(uuid) FROM customerio.email_opened") == [(3, None)]

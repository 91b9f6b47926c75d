"""The queries of `docs/warehouse.md` find the rows of the tables, on each database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_cio.events.catalog import CATALOG, DEFAULT_COLLECTIONS
from airflow_provider_cio.events.event import Event
from airflow_provider_cio.events.mapping import Mapper, Properties
from airflow_provider_cio.events.occurrence import Identifiers, Message, Occurrence
from airflow_provider_cio.warehouse.sink import WarehouseSink
from tests.redshift import assert_redshift_knows
from tests.sql_examples import sql_examples
from tests.unit.support import DAY, NOVEMBER
from tests.unit.warehouse.places import Place

SPRING, SUMMER = 1, 2
NAMES = {SPRING: "Spring", SUMMER: "Summer"}


def happened(delivery: str, person: str, campaign: int | None, **times: int) -> list[Event]:
    """Return events by times, in seconds after November began, by the collection's last word.

    :param times: seconds after November began, by the collection's last word.
    """
    row = Message(delivery, "email", Identifiers(person), campaign_id=campaign)
    mapper = Mapper("test", name_of=lambda delivery: NAMES.get(int(str(delivery.campaign_id or 0))))
    collections = {one.metric: one for one in CATALOG.values() if one.channel == "email"}
    return [mapper.event(Occurrence(row, collections[metric], NOVEMBER + at)) for metric, at in times.items()]


def delivery_of(event: Event) -> str:
    properties = event.properties
    assert isinstance(properties, Properties)
    return str(properties.delivery_id)


EVENTS = [
    *happened("a", "42", SPRING, delivered=0, opened=60, clicked=120),
    *happened("b", "43", SPRING, delivered=0, opened=8 * DAY, unsubscribed=8 * DAY + 5),
    *happened("c", "44", SPRING, delivered=0),
    *happened("d", "42", SUMMER, delivered=3600, opened=3700, clicked=7200),
    *happened("e", "45", None, delivered=0, clicked=30),
]
ORDERS = [
    ("o1", "42", 600, "10.50"),  # after the click in Spring
    ("o2", "42", 7300, "20.00"),  # after both; the last one is that in Summer
    ("o3", "42", 3 * DAY, "99.00"),  # long after
    ("o4", "43", 600, "50.00"),  # never clicked
    ("o5", "45", 20, "7.00"),  # before the click
    ("o6", "45", 40, "5.00"),
]
#: Events that are loaded later than the others, after `shop.seen` was made.
LATER = [*happened("f", "46", None, delivered=0, opened=5), *happened("g", "47", None, delivered=-9 * DAY)]
#: Rows of the hosted source: the same deliveries and times, other ids.
HOSTED = ("a", "d")
LATER_ROWS = sorted((event.message_id, event.event) for event in LATER)
EXPECTED: dict[str, list[tuple[Any, ...]]] = {
    "new rows": [("Email Delivered", 2), ("Email Opened", 1)],
    "next page": LATER_ROWS,
    "opens without repeats": sorted(
        ((event.message_id, delivery_of(event), event.timestamp) for event in EVENTS if "Opened" in event.event),
        key=lambda row: row[2],
    ),
    "tracks without repeats": [("Email Delivered", 5), ("Email Opened", 3)],
    "owners": [],
    "hand over": [],
    "funnel by campaign": [("Spring", 3, 2, 1), ("(none)", 1, 0, 1), ("Summer", 1, 1, 1)],
    "unsubscribes by campaign": [("Spring", 3, 1, Decimal("333.3")), ("(none)", 1, 0, 0), ("Summer", 1, 0, 0)],
    "orders after a click": [("Summer", 1, Decimal("20.00")), ("Spring", 1, Decimal("10.50")), ("(none)", 1, 5)],
    "late opens": [("Spring", 2, 1), ("Summer", 1, 0)],
    "one person": [
        (datetime.fromtimestamp(NOVEMBER + at, UTC), f"Email {what}")
        for at, what in [
            *((0, "Delivered"), (60, "Opened"), (120, "Link Clicked")),
            *((3600, "Delivered"), (3700, "Opened"), (7200, "Link Clicked")),
        ]
    ],
}


def test_each_example_has_an_answer() -> None:
    assert list(sql_examples()) == list(EXPECTED)


def load(place: Place, loaded: list[Event]) -> None:
    with WarehouseSink(place.warehouse(), DEFAULT_COLLECTIONS) as sink:
        sink.take(loaded)
        sink.flush()


@pytest.fixture(scope="module")
def ask(shared_database: Place) -> Callable[[str], list[tuple[Any, ...]]]:
    load(shared_database, EVENTS)
    shared_database.query("CREATE SCHEMA shop")
    moment_of = "timestamp" if shared_database.kind == "redshift" else "timestamptz"
    shared_database.query(
        f"CREATE TABLE shop.orders (order_id text, user_id text, ordered_at {moment_of}, amount numeric(10, 2))"
    )
    for order, person, at, amount in ORDERS:
        moment = datetime.fromtimestamp(NOVEMBER + at, UTC).isoformat()
        shared_database.query(f"INSERT INTO shop.orders VALUES ('{order}', '{person}', '{moment}', {amount})")
    return shared_database.query


def presented(value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is None:  # a time of Redshift's
        return value.replace(tzinfo=UTC)
    return round(value, 2) if isinstance(value, float) else value


@pytest.mark.parametrize("name", EXPECTED)
def test_redshift_knows_each_statement(name: str) -> None:
    assert_redshift_knows(sql_examples()[name])


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in ("owners", "hand over")])
def test_example_gives_the_answer(
    shared_database: Place, ask: Callable[[str], list[tuple[Any, ...]]], name: str
) -> None:
    beside: AbstractContextManager[None] = nullcontext()
    if "without repeats" in name:
        beside = beside_hosted_rows(shared_database)
    elif name in ("new rows", "next page"):
        beside = beside_later_rows(shared_database)
    with beside:
        found = [tuple(map(presented, row)) for row in ask(sql_examples()[name])]
    if name == "next page":  # with the time of the load
        found = [row[:2] for row in found]
    expected = [
        tuple(float(v) if isinstance(v, Decimal) and isinstance(f, float) else v for v, f in zip(row, got, strict=True))
        for row, got in zip(EXPECTED[name], found, strict=True)
    ]
    assert found == expected


@contextmanager
def beside_hosted_rows(place: Place) -> Iterator[None]:
    """Add each event of two deliveries a second time to the same tables, as the hosted source has sent it."""
    deliveries = ", ".join(f"'{one}'" for one in HOSTED)
    for table in ("email_delivered", "email_opened"):
        common = "received_at, sent_at, original_timestamp, timestamp, event, event_text, user_id"
        rows = f"FROM customerio.{table} WHERE delivery_id IN ({deliveries}) AND id LIKE 'cio-%'"
        place.query(
            f"INSERT INTO customerio.{table} (id, delivery_id, {common}) SELECT '!' || id, delivery_id, {common} {rows}"
        )
        place.query(f"INSERT INTO customerio.tracks (id, {common}) SELECT '!' || id, {common} {rows}")
    yield
    for table in ("tracks", "email_delivered", "email_opened"):
        place.query(f"DELETE FROM customerio.{table} WHERE id LIKE '!%'")


@contextmanager
def beside_later_rows(place: Place) -> Iterator[None]:
    place.query("CREATE TABLE shop.seen AS SELECT id, uuid_ts FROM customerio.tracks")
    load(place, LATER)
    yield
    place.query("DROP TABLE shop.seen")
    ids = ", ".join(f"'{event.message_id}'" for event in LATER)
    for table in ("tracks", "email_delivered", "email_opened"):
        place.query(f"DELETE FROM customerio.{table} WHERE id IN ({ids})")


def test_a_page_goes_on_in_the_middle_of_a_load(shared_database: Place, ask: Callable[[str], list[Any]]) -> None:
    query = sql_examples()["next page"].replace("LIMIT 1000", "LIMIT 4")
    shared_database.query(
        "CREATE TABLE shop.seen AS SELECT id, uuid_ts FROM customerio.tracks WHERE id = (SELECT "
        "min(id) FROM customerio.tracks)"
    )
    read = [event.message_id for event in EVENTS if event.message_id == min(one.message_id for one in EVENTS)]
    while page := ask(query):
        read += [row[0] for row in page]
        ids = ", ".join(f"'{row[0]}'" for row in page)
        shared_database.query(f"INSERT INTO shop.seen SELECT id, uuid_ts FROM customerio.tracks WHERE id IN ({ids})")
    shared_database.query("DROP TABLE shop.seen")
    assert read == sorted(event.message_id for event in EVENTS)


def test_the_owners_are_named_and_can_hand_over(server_database: Place) -> None:
    load(server_database, EVENTS)
    owner, segment = server_database.connection["login"], f"segment_{server_database.connection['schema']}"
    tables = sorted(server_database.tables())
    assert server_database.query(sql_examples()["owners"]) == [(table, owner) for table in tables]
    server_database.query(f"CREATE USER {segment}")
    query = sql_examples()["hand over"].replace("segment", segment)
    for (statement,) in server_database.query(query):
        server_database.query(statement)
    assert server_database.query(sql_examples()["owners"]) == [(table, segment) for table in tables]
    assert server_database.query(query) == []
    server_database.query(f"DROP OWNED BY {segment}")
    server_database.query(f"DROP USER {segment}")

"""The queries of `docs/warehouse.md` find what is in the tables, on each database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_cio.events.catalog import CATALOG, DEFAULT_COLLECTIONS
from airflow_provider_cio.events.event import Event
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.events.occurrence import Identifiers, Message, Occurrence
from airflow_provider_cio.warehouse.sink import WarehouseSink
from tests.redshift import assert_redshift_knows
from tests.sql_examples import sql_examples
from tests.unit.support import DAY, NOVEMBER
from tests.unit.warehouse.places import Place

SPRING, SUMMER = 1, 2
NAMES = {SPRING: "Spring", SUMMER: "Summer"}


def happened(delivery: str, person: str, campaign: int | None, **times: int) -> list[Event]:
    """:param times: seconds after November began, by the collection's last word."""
    row = Message(delivery, "email", Identifiers(person), campaign_id=campaign)
    mapper = Mapper("test", name_of=lambda delivery: NAMES.get(int(str(delivery.campaign_id or 0))))
    collections = {one.metric: one for one in CATALOG.values() if one.channel == "email"}
    return [mapper.event(Occurrence(row, collections[metric], NOVEMBER + at)) for metric, at in times.items()]


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
EXPECTED: dict[str, list[tuple[Any, ...]]] = {
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


def test_each_example_has_an_answer_here() -> None:
    assert list(sql_examples()) == list(EXPECTED)


@pytest.fixture(scope="module")
def ask(shared_database: Place) -> Callable[[str], list[tuple[Any, ...]]]:
    with WarehouseSink(shared_database.warehouse(), DEFAULT_COLLECTIONS) as sink:
        sink.take(EVENTS)
        sink.flush()
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
def test_redshift_knows_it(name: str) -> None:
    assert_redshift_knows(sql_examples()[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_its_answer_is_what_happened(ask: Callable[[str], list[tuple[Any, ...]]], name: str) -> None:
    found = [tuple(map(presented, row)) for row in ask(sql_examples()[name])]
    expected = [
        tuple(float(v) if isinstance(v, Decimal) and isinstance(f, float) else v for v, f in zip(row, got, strict=True))
        for row, got in zip(EXPECTED[name], found, strict=True)
    ]
    assert found == expected

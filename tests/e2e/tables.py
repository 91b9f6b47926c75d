"""Compare the warehouse after a backfill with Customer.io, and query it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb

from tests.e2e.compare import COLLECTIONS, differences, moment
from tests.e2e.world import World
from tests.sql_examples import sql_examples

TRACKS = "SELECT event_text, timestamp, user_id, anonymous_id, id FROM customerio.tracks"


@contextmanager
def opened(file: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the DuckDB file, with all times in UTC."""
    with duckdb.connect(str(file)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of all tables but `tracks`, as events."""
    tables = [name.lower().replace(" ", "_") for name in COLLECTIONS]
    columns = "event_text, delivery_id, timestamp, user_id, anonymous_id, subject, recipient"
    sql = " UNION ALL ".join(f"SELECT id, {columns} FROM customerio.{table}" for table in tables)
    with opened(file) as connection:
        found = connection.execute(sql).fetchall()
    return [
        {
            "messageId": id,
            "event": event,
            "timestamp": moment.isoformat(),
            "userId": user,
            "anonymousId": anonymous,
            "properties": {"delivery_id": delivery, "subject": subject, "recipient": recipient},
        }
        for id, event, delivery, moment, user, anonymous, subject, recipient in found
    ]


def compare_tables(world: World, file: Path, days: Sequence[str]) -> tuple[int, list[str]]:
    """Return the number of rows, and each difference from the occurrences that Customer.io held on these days."""
    start, end = moment(days[0]), moment(days[-1])
    truth = world.sandbox("truth", start=start, end=end + 86_400)["events"]
    kept = rows(file)
    found = differences([row for row in truth if row["collection"] in COLLECTIONS], kept)
    with opened(file) as connection:
        tracks = {row[-1]: row[:-1] for row in connection.execute(TRACKS).fetchall()}
    if tracks.keys() != {event["messageId"] for event in kept}:
        found.append("tracks does not hold the same ids as the other tables")
    return len(kept), found


def put_orders(file: Path) -> int:
    """Make a small table of a shop's orders from clicks: some buy within the day, some later, most never."""
    with opened(file) as connection:
        clicks = connection.execute(
            "SELECT user_id, timestamp FROM customerio.email_link_clicked WHERE user_id IS NOT NULL ORDER BY id"
        ).fetchall()
        connection.execute("CREATE SCHEMA shop")
        connection.execute(
            "CREATE TABLE shop.orders "
            "(order_id VARCHAR, user_id VARCHAR, ordered_at TIMESTAMPTZ, amount DECIMAL(10, 2))"
        )
        orders = []
        for number, (user, clicked) in enumerate(clicks):
            dice = hashlib.sha256(f"{user}{number}".encode()).digest()
            if dice[0] < 100:
                later = timedelta(minutes=10 * dice[1])  # up to 42 hours
                orders.append((f"order {number}", user, clicked + later, 9 + dice[2]))
        if orders:
            connection.executemany("INSERT INTO shop.orders VALUES (?, ?, ?, ?)", orders)
    return len(orders)


def answer(file: Path, name: str) -> list[str]:
    """Run one of the queries of `docs/warehouse.md`, and return its rows as lines."""
    sql = sql_examples()[name]
    with opened(file) as connection:
        cursor = connection.execute(sql)
        names = [column[0] for column in cursor.description or ()]
        found = [[str(value) for value in row] for row in cursor.fetchall()]
    widths = [max(map(len, column)) for column in zip(names, *found, strict=True)]
    table = [
        "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(zipped))
        for zipped in (list(zip(row, widths, strict=True)) for row in [names, *found])
    ]
    return [*sql.rstrip().splitlines(), "", *table]

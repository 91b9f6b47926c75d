"""Load into PostgreSQL and DuckDB: with the sink, and with dlt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import psycopg

from tests.benchmarks.figures import Figure
from tests.benchmarks.world import PEER_PYTHON, run
from tests.postgres import postgres_server

AIM_TIMES, LEAST_TIMES = 2.0, 1.0  # as fast as dlt
LEAST_RATE = 10_000.0  # rows a second: what Customer.io's API can give
AIM_MEMORY, MOST_MEMORY = 1.05, 1.10
MIB = 2**20
_PART = "Loading into a warehouse"

Taken = dict[str, Any]


def measure(quick: bool) -> Iterator[Figure]:
    few, counts = (5_000, (20_000,)) if quick else (50_000, (100_000, 1_000_000))
    with postgres_server() as server, TemporaryDirectory(prefix="warehouse-") as folder:
        for kind in ("postgres", "duckdb"):
            small = _ours(_database(kind, server, Path(folder), few), few)
            for count in counts:
                rows = Path(folder) / f"rows-{count}"
                if not rows.exists():
                    rows.mkdir()
                    run("run_warehouse", {"rows": str(rows), "events": count})
                ours = _database(kind, server, Path(folder), count)
                theirs = _database(kind, server, Path(folder), count, "dlt")
                for first in (True, False):
                    mine = _ours(ours, count)
                    wrong = _wrong(ours, mine, count, count if first else 0)
                    yield _rate(kind, count, mine, first=first, wrong=wrong)
                    if PEER_PYTHON.exists():
                        yield _beside(mine, _dlt(theirs, rows, count))
                    if first:
                        large = mine
            yield _memory(kind, small, large, few, counts[-1])


def _rate(kind: str, count: int, taken: Taken, *, first: bool, wrong: str) -> Figure:
    return Figure(
        _PART,
        f"{kind}, {count:,} events, {'first load' if first else 'the same again'}: rows a second",
        count / taken["seconds"],
        "{:,.0f}",
        aim=LEAST_RATE,
        more_is_better=True,
        note=f"{taken['seconds']:.1f} s, from connecting to the last commit; {taken['new']:,} were new",
        wrong=wrong,
        details={"run": taken},
    )


def _beside(mine: Taken, other: Taken) -> Figure:
    return Figure(
        _PART,
        "  times as fast as dlt",
        other["seconds"] / mine["seconds"],
        "{:.1f}",
        aim=AIM_TIMES,
        least=LEAST_TIMES,
        more_is_better=True,
        note=f"dlt {other['version']}: {other['seconds']:.1f} s, upsert of Arrow tables that were in memory before",
        wrong=other["wrong"],
        details={"run": other},
    )


def _memory(kind: str, small: Taken, large: Taken, few: int, many: int) -> Figure:
    return Figure(
        _PART,
        f"{kind}: peak memory, {many:,} over {few:,}",
        large["peak_memory"] / small["peak_memory"],
        "{:.2f}",
        aim=AIM_MEMORY,
        least=MOST_MEMORY,
        note=f"{small['peak_memory'] / MIB:.0f} and {large['peak_memory'] / MIB:.0f} MiB",
    )


def _database(kind: str, server: Mapping[str, Any], folder: Path, count: int, who: str = "ours") -> dict[str, Any]:
    """Make a new database; return its fields of an Airflow connection."""
    name = f"{who}_{count}"
    if kind == "duckdb":
        return {"conn_type": "duckdb", "host": str(folder / f"{name}.duckdb")}
    with _connect(server) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return {**server, "schema": name}


def _ours(connection: dict[str, Any], count: int) -> Taken:
    return run("run_warehouse", {"connection": connection, "events": count})


def _dlt(connection: dict[str, Any], rows: Path, count: int) -> Taken:
    taken = run("run_dlt", {"connection": connection, "rows": str(rows)}, python=str(PEER_PYTHON))
    found = _count(connection, "SELECT count(*), count(DISTINCT id) FROM by_dlt.tracks")
    return taken | {"wrong": "" if found == (count, count) else f"dlt's tracks has {found}"}


def _wrong(connection: dict[str, Any], taken: Taken, count: int, new: int) -> str:
    found = _count(connection, "SELECT count(*), count(DISTINCT id) FROM customerio.tracks")
    if found != (count, count) or taken["new"] != new:
        return f"tracks has {found}, {taken['new']} were new; {count} and {new} were expected"
    return ""


def _count(connection: dict[str, Any], sql: str) -> tuple[int, ...]:
    if connection["conn_type"] == "duckdb":
        with duckdb.connect(connection["host"], read_only=True) as file:
            return tuple(file.execute(sql).fetchall()[0])
    with _connect(connection) as server:
        return tuple(server.execute(sql).fetchall()[0])


def _connect(fields: Mapping[str, Any]) -> psycopg.Connection[tuple[Any, ...]]:
    host, port, user, database = (fields[part] for part in ("host", "port", "login", "schema"))
    return psycopg.connect(host=host, port=port, user=user, dbname=database, autocommit=True)

"""Empty databases for the tests, each behind the Airflow connection `warehouse_default`, as a user has them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.warehouse.connection import open_warehouse
from airflow_provider_cio.warehouse.loading import Warehouse
from tests import bigquery
from tests.redshift import StandIn, assert_redshift_knows

if TYPE_CHECKING:
    from tests.snowflake import World

Row = tuple[Any, ...]


class Place:
    """One database. `connection` has its fields of an Airflow connection.

    :param port: where PostgreSQL itself is, if the connection is to what stands before it.
    :param statements: what was sent through that.
    :param stand_in: for BigQuery.
    :param world: what stands in for Snowflake, where names are in upper case; here they are in lower case, too.
    """

    def __init__(
        self,
        connection: dict[str, Any],
        port: int | None = None,
        statements: Sequence[str] = (),
        stand_in: bigquery.StandIn | None = None,
        world: World | None = None,
    ) -> None:
        self.connection = connection
        self.statements = statements
        self._port = port or connection.get("port")
        self._stand_in = stand_in
        self._world = world

    @property
    def kind(self) -> str:
        """Name of the database, as in the package's extras."""
        return str(self.connection["conn_type"]).replace("gcpbigquery", "bigquery")

    @property
    def bigquery(self) -> bigquery.StandIn:
        assert self._stand_in
        return self._stand_in

    @property
    def snowflake(self) -> World:
        assert self._world
        return self._world

    def warehouse(self, schema: str = "customerio") -> Warehouse:
        return open_warehouse("warehouse_default", schema)

    def query(self, sql: str) -> list[Row]:
        """Return the rows that a statement finds; none if it is no query."""
        with self.connect() as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def rows(self, table: str, schema: str = "customerio") -> list[dict[str, Any]]:
        """Return each row as column -> value; times are whole Unix seconds."""
        types = self._types(schema, table)
        listed = ", ".join(
            f'CAST(EXTRACT(epoch FROM "{name}") AS bigint)' if kind.startswith("timestamp") else f'"{name}"'
            for name, kind in types.items()
        )
        found = self.query(f'SELECT {listed} FROM "{schema}"."{table}"')
        return [dict(zip(types, row, strict=True)) for row in found]

    def columns(self, schema: str, table: str) -> list[str]:
        return list(self._types(schema, table))

    def _types(self, schema: str, table: str) -> dict[str, str]:
        """Return each column's type, in lower case."""
        where = (schema.upper(), table.upper()) if self._world else (schema, table)
        return {name.lower(): kind.lower() for name, kind in self.query(_COLUMNS.format(*where))}

    def tables(self, schema: str = "customerio") -> set[str]:
        found = self.query(
            f"SELECT table_name FROM information_schema.tables WHERE lower(table_schema) = '{schema}' "
            "AND table_type = 'BASE TABLE'"
        )
        return {name.lower() for (name,) in found} - {LOCK}

    @contextmanager
    def connect(self) -> Iterator[Any]:
        """Open a connection of the driver's own, each of whose statements is committed."""
        fields = self.connection
        if self._stand_in:
            with self._stand_in.duck.cursor() as connection:
                connection.execute("SET TimeZone = 'UTC'")
                yield connection
        elif self._world:
            yield _Upper(self._world)
        elif self.kind == "duckdb":
            with duckdb.connect(fields["host"]) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                yield connection
        else:
            with psycopg.connect(
                host=fields["host"],
                port=self._port,
                user=fields["login"],
                dbname=fields["schema"],
                autocommit=True,
            ) as connection:
                yield connection


class _Upper:
    """Connection to the stand-in for Snowflake. Names in quotes are in upper case, as those without are."""

    def __init__(self, world: World) -> None:
        self._cursor = world.connect()

    def execute(self, sql: str) -> Any:
        return self._cursor.execute(re.sub(r'"\w+"', lambda name: name[0].upper(), sql))


#: Table of a loader on BigQuery or Snowflake, beside Segment's.
LOCK = "customerio_lock"
_COLUMNS = (
    "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = '{}' AND table_name = '{}' "
    f"AND table_catalog = current_database() AND column_name <> '{bigquery.HIDDEN}'"
)


@contextmanager
def place(kind: str, server: Any, folder: Path, name: str) -> Iterator[Place]:
    """Make a new database, behind `warehouse_default` as long as it is open.

    :param server: PostgreSQL's, see `tests.postgres`; or Snowflake's, see `tests.snowflake`.
    :param name: one that no other place has.
    """
    if kind == "duckdb":
        made = Place({"conn_type": "duckdb", "host": str(folder / f"{name}.duckdb")})
        with connected(made.connection):
            yield made
        return
    if kind == "bigquery":
        extra = {"project": bigquery.PROJECT, "is_anonymous": True, "use_legacy_sql": False}
        fields = {"conn_type": "gcpbigquery", "extra": extra}
        with (
            bigquery.StandIn(folder / f"{name}.duckdb") as server_of_google,
            pytest.MonkeyPatch.context() as patch,
            connected(fields),
        ):
            patch.setenv("BIGQUERY_EMULATOR_HOST", server_of_google.url)
            yield Place(fields, stand_in=server_of_google)
        return
    if kind == "snowflake":
        from tests.snowflake import WAREHOUSE

        extra = {"account": "tests", "database": name, "warehouse": WAREHOUSE, "host": "127.0.0.1", "port": server.port}
        fields = {"conn_type": "snowflake", "login": "loader", "password": "secret of tests", "extra": extra}
        with server.world(name) as world, connected(fields):
            yield Place(fields, statements=world.statements, world=world)
        return
    with psycopg.connect(
        host=server["host"], port=server["port"], user=server["login"], dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    fields = server | {"schema": name}
    if kind == "postgres":
        with connected(fields):
            yield Place(fields)
        return
    with StandIn(server) as redshift:
        fields |= {"conn_type": "redshift", "port": redshift.port, "extra": {"ssl": False}}
        with connected(fields):
            yield Place(fields, server["port"], redshift.statements)
        for statement in set(redshift.statements):
            assert_redshift_knows(statement)


@contextmanager
def connected(connection: dict[str, Any], conn_id: str = "WAREHOUSE_DEFAULT") -> Iterator[None]:
    """Set Airflow's connection to these fields."""
    variable = f"AIRFLOW_CONN_{conn_id}"
    before = os.environ.get(variable)
    os.environ[variable] = json.dumps(connection)
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def all_rows(place: Place, schema: str = "customerio") -> list[dict[str, Any]]:
    """Return the rows of all tables but `tracks`."""
    names = place.tables(schema) & {collection.table for collection in CATALOG.values()}
    return [row for name in sorted(names) for row in place.rows(name, schema)]


def assert_tracks_is_the_union(place: Place, schema: str = "customerio") -> None:
    """Assert that `tracks` is the union of the other tables, row for row, in all columns that it has."""
    tracks = place.rows("tracks", schema)
    columns = place.columns(schema, "tracks")
    union = [{name: row[name] for name in columns} for row in all_rows(place, schema)]
    assert sorted(tracks, key=_id) == sorted(union, key=_id)
    assert len({row["id"] for row in tracks}) == len(tracks)


def _id(row: dict[str, Any]) -> str:
    return str(row["id"])

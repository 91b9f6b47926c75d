"""Load numbered events from a process of its own: `python -m tests.unit.warehouse.load CONNECTION FIRST LAST [POINT]`.

CONNECTION has the fields of an Airflow connection as JSON. At POINT, one of `POINTS`, the process is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from airflow_provider_cio.warehouse import database_for
from airflow_provider_cio.warehouse.database import Database
from airflow_provider_cio.warehouse.loading import Warehouse
from airflow_provider_cio.warehouse.sink import WarehouseSink
from tests.unit.warehouse.events import NAMES, events


def hook(fields: dict[str, Any]) -> Any:
    """Return the parts of a hook that a `Database` needs, without Airflow, which takes seconds to start."""
    if fields["conn_type"] == "duckdb":
        return File(fields["host"])
    if fields["conn_type"] == "gcpbigquery":
        from google.auth.credentials import AnonymousCredentials

        project = fields["extra"]["project"]
        return SimpleNamespace(get_credentials_and_project_id=lambda: (AnonymousCredentials(), project))
    if fields["conn_type"] == "snowflake":
        return Snow(fields)
    return SimpleNamespace(get_conn=opener(fields))


class Snow:
    """Fake of Snowflake's hook."""

    session_parameters: dict[str, Any] | None = None

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def get_conn_id(self) -> str:
        return "warehouse_default"

    def get_connection(self, conn_id: str) -> Any:
        return SimpleNamespace(extra_dejson=self._fields["extra"])

    def get_conn(self) -> Any:
        from snowflake.connector import connect

        fields = {**self._fields["extra"], "user": self._fields["login"], "password": self._fields["password"]}
        return connect(**fields, protocol="http", session_parameters=self.session_parameters)


class File:
    """Fake of DuckDB's hook."""

    def __init__(self, database: str) -> None:
        self.database = database

    def get_database(self) -> str:
        return self.database

    def get_conn(self) -> Any:
        import duckdb

        return duckdb.connect(self.database)


def opener(fields: dict[str, Any]) -> Callable[[], Any]:
    if fields["conn_type"] == "redshift":
        import redshift_connector

        where = {"host": fields["host"], "port": fields["port"], "database": fields["schema"]}
        return partial(redshift_connector.connect, user=fields["login"], **where, **fields["extra"])
    import psycopg

    return partial(
        psycopg.connect, host=fields["host"], port=fields["port"], user=fields["login"], dbname=fields["schema"]
    )


POINTS = ("when all is staged", "within an INSERT, most likely", "after the first table", "before COMMIT")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(point: str, kind: type[Database]) -> None:
    """Let the next INSERTs into this kind of database end the process, as if the machine dies."""
    insert = kind.insert

    def dying(self: Database, cursor: Any, inserts: Sequence[tuple[str, str]]) -> int:
        if point == POINTS[0]:
            die()
        if point == POINTS[1]:
            threading.Timer(0.02, die).start()
        if point == POINTS[2]:
            insert(self, cursor, inserts[:1])
            die()
        added = insert(self, cursor, inserts)
        if point == POINTS[3]:
            die()
        return added

    kind.insert = dying  # type: ignore[method-assign]


def main(connection: str, first: str, last: str, point: str = "") -> None:
    fields = json.loads(connection)
    kind = database_for(fields["conn_type"])
    with WarehouseSink(Warehouse("the warehouse", partial(kind, hook(fields)), "customerio"), NAMES) as sink:
        sink.take(events(int(first), int(last)))
        if point:
            die_at(point, kind)
        sink.flush()
    print(json.dumps(sink.counts()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

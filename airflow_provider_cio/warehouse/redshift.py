"""Amazon Redshift, with Amazon's own driver. It was not run against a real one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any, ClassVar

from airflow_provider_cio.events.event import MAX_EVENT_BYTES
from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.http.errors import presentable
from airflow_provider_cio.warehouse.database import Database, TryAgainNowError, sqlstate_error
from airflow_provider_cio.warehouse.tables import SPOOLED, TRACKS, Kind, csv_values

#: Milliseconds: how long a load waits for another one.
_PATIENCE = 10 * 60 * 1000
#: Characters of rows in one INSERT. Redshift takes statements of 16 MB.
_BATCH = 1024 * 1024
#: A cluster's or a workgroup's, and its region's.
_HOST = re.compile(r"([^.]+)\.[^.]+\.([^.]+)\.redshift(?:-serverless)?\.amazonaws\.com(?:\.cn)?")
#: Two that make the same thing at once, a cycle of waits, transactions that can't be put one after the other.
_COLLISIONS = ("42P06", "42P07", "23505", "40001", "40P01")
_SERIALIZABLE = "1023"  # in place of a text, with the code of an internal error


class Redshift(Database):
    name = "Redshift"
    extra = "redshift"
    types: ClassVar = {
        Kind.ID: "varchar(512)",
        Kind.TEXT: f"varchar({MAX_EVENT_BYTES})",  # a length is in bytes here
        Kind.BOOLEAN: "boolean",
        Kind.TIME: "timestamp",
    }
    accepted: ClassVar = {
        Kind.ID: ("character varying",),
        Kind.TEXT: ("character varying",),
        Kind.BOOLEAN: ("boolean",),
        Kind.TIME: ("timestamp without time zone",),
    }
    # It only tells the planner: Redshift enforces none.
    key = ', PRIMARY KEY ("id")'
    layout = ' DISTKEY ("id") SORTKEY ("received_at")'
    clock = "CAST(timeofday() AS timestamp)"
    spool_bytes = 16 * 1000 * 1000  # the driver keeps all statements of a connection in memory

    @classmethod
    def namespace(cls, host: str, port: int | None) -> str:
        match = _HOST.fullmatch(host)
        return super().namespace(".".join(match.groups()) if match else host, port or 5439)

    def connect(self) -> tuple[Any, Any]:
        self._waits("Waiting for Redshift to answer")  # the hook tries several times
        connection = self._hook.get_conn()
        self._waits(None)
        connection.autocommit = True  # BEGIN and COMMIT are statements of ours
        return connection, connection.cursor()

    def has_schema(self, cursor: Any) -> bool:
        """Also one of somebody else's, which information_schema does not show."""
        cursor.execute(f"SELECT 1 FROM pg_namespace WHERE nspname = '{self._schema}'")
        return bool(cursor.fetchone())

    def stage(self, cursor: Any, name: str, file: IO[bytes]) -> str:
        """By statements alone: a COPY would need a bucket."""
        cursor.execute(f"CREATE TEMP TABLE {name} ({self.stage_columns()})")
        for batch in _batches(_rows(file)):
            cursor.execute(f"INSERT INTO {name} VALUES {batch}")
        cursor.execute(f"ANALYZE {name}")  # or a plan takes it for empty
        return name

    def lock(self, cursor: Any) -> None:
        """A lock on `tracks`, in place of keys: each load needs that table.

        A transaction sees what was there at its first statement that is not LOCK, so it begins anew with that one.
        https://docs.aws.amazon.com/redshift/latest/dg/c_serial_isolation.html
        """
        cursor.execute(
            f"SELECT 1 FROM information_schema.tables WHERE table_schema = '{self._schema}' AND table_name = '{TRACKS}'"
        )
        exists = bool(cursor.fetchone())
        cursor.execute("COMMIT")
        cursor.execute("SET timezone TO 'UTC'")
        cursor.execute(f"SET statement_timeout TO {_PATIENCE}")
        cursor.execute("BEGIN")
        if exists:
            self._waits(f"Waiting for another load into schema {self._schema} to end")
            cursor.execute(f"LOCK {self.quoted(self._schema, TRACKS)}")
            self._waits(None)
        cursor.execute("SET statement_timeout TO DEFAULT")

    def insertion(self, stage: str, table: str, columns: str, values: str) -> str:
        return (
            f'INSERT INTO {table} ({columns}) SELECT {values} FROM (SELECT *, row_number() OVER (PARTITION BY "id" '
            f'ORDER BY "id") AS nth FROM {stage}) AS rows_staged LEFT JOIN (SELECT "id" AS id_there FROM {table}) AS '
            'rows_there ON id_there = "id" WHERE nth = 1 AND id_there IS NULL'
        )

    def explain(self, error: Exception) -> Exception | None:
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
        from redshift_connector.error import Error

        if isinstance(error, BotoCoreError | ClientError):
            return ConfigurationError(f"AWS gives no password for it: {presentable(str(error), ())}")
        if isinstance(error, OSError):  # of a connection that breaks
            return TryAgainLaterError(f"{error.strerror or type(error).__name__} (no connection)")
        if not isinstance(error, Error):
            return None
        told = next(iter(error.args), "")
        if not isinstance(told, dict):
            return TryAgainLaterError(f"{presentable(': '.join(map(str, error.args)), ())} (no connection)")
        code, text = told.get("C", ""), presentable(told.get("M", ""), ())
        if code in _COLLISIONS or text == _SERIALIZABLE:
            return TryAgainNowError(f"another session writes to the same tables ({code}, {text})")
        if code == "25006":
            return ConfigurationError(f"nothing can be written there: {text}. Give another connection")
        if code[:2] in ("28", "3D"):
            return ConfigurationError(f"it does not let us in: {text}. Correct the connection")
        return sqlstate_error(code, text, rights="SELECT, INSERT and UPDATE on its tables (LOCK needs the latter)")


def _batches(rows: Iterator[str]) -> Iterator[str]:
    batch: list[str] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row)
        if size >= _BATCH:
            yield ",".join(batch)
            batch, size = [], 0
    if batch:
        yield ",".join(batch)


def _rows(file: IO[bytes]) -> Iterator[str]:
    """The rows of the spool as lists of SQL's literals, in brackets."""
    for values in csv_values(file):
        yield f"({','.join(_literal(column.kind, value) for column, value in zip(SPOOLED, values, strict=True))})"


def _literal(kind: Kind, value: str | bool | None) -> str:
    if not isinstance(value, str):
        return {True: "true", False: "false", None: "null"}[value]
    text = value.replace("\\", "\\\\").replace("'", "''")
    return f"TIMESTAMP '{text.replace('T', ' ').removesuffix('Z')}'" if kind is Kind.TIME else f"'{text}'"

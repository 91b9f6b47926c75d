"""Load into Amazon Redshift, with Amazon's own driver. Not tested with a real Redshift."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import IO, Any, ClassVar

from airflow_provider_cio.events.event import MAX_EVENT_BYTES
from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.warehouse.database import public_host, shown, write_conflict
from airflow_provider_cio.warehouse.postgres_family import PostgresFamily, text_of
from airflow_provider_cio.warehouse.tables import SPOOLED, TRACKS, Column, Kind, csv_values

#: Longest time, in milliseconds, that a load waits for another one before it leaves the retry to Airflow.
_LOCK_TIMEOUT = 10 * 60 * 1000
#: Characters of rows after which an INSERT is closed. Redshift takes statements of up to 16 MB:
#: https://docs.aws.amazon.com/redshift/latest/dg/c_redshift-sql.html
_BATCH = 1024 * 1024
#: Host of a cluster or a workgroup; the groups are its name and its region.
_HOST = re.compile(r"([^.]+)\.[^.]+\.([^.]+)\.redshift(?:-serverless)?\.amazonaws\.com(?:\.cn)?")
#: SQLSTATEs of a conflict with another writer: duplicate schema, duplicate table, duplicate key (two made the same
#: object), serialization failure, deadlock.
_CONFLICTS = ("42P06", "42P07", "23505", "40001", "40P01")
#: Settings of a session that a load relies on, because a role may have others.
_SETTINGS = ("client_encoding TO 'UTF8'", "datestyle TO 'ISO'", "timezone TO 'UTC'")
#: Text of a serialization failure that Redshift reports with the SQLSTATE of an internal error.
_SERIALIZATION_FAILURE = "1023"


class Redshift(PostgresFamily):
    """Redshift. It enforces no keys, so a lock on `tracks` keeps two loads from storing an event twice."""

    name = "Redshift"
    scheme = "redshift"
    package = "apache-airflow-providers-amazon"
    types: ClassVar = {
        Kind.ID: "varchar(512)",
        Kind.TEXT: f"varchar({MAX_EVENT_BYTES})",  # Redshift counts bytes
        Kind.NUMBER: "bigint",
        Kind.BOOLEAN: "boolean",
        Kind.TIME: "timestamp",
    }
    accepted_types: ClassVar = {
        Kind.ID: ("character varying",),
        Kind.TEXT: ("character varying",),
        Kind.NUMBER: ("bigint",),
        Kind.BOOLEAN: ("boolean",),
        Kind.TIME: ("timestamp without time zone",),
    }
    id_types: ClassVar = {
        Kind.NUMBER: ("character varying", "numeric", "integer", "double precision"),
        Kind.TEXT: ("bigint", "numeric", "double precision"),
    }
    additional_columns: ClassVar = (Column("uuid", Kind.NUMBER),)
    privileges = "SELECT, INSERT, UPDATE"  # LOCK needs the right to UPDATE
    # A hint to the planner; Redshift does not enforce it.
    primary_key = ', PRIMARY KEY ("id")'
    table_options = ' DISTKEY ("id") SORTKEY ("received_at")'
    clock = "CAST(timeofday() AS timestamp)"
    spool_bytes = 16 * 1000 * 1000  # the driver keeps the statements of a connection in memory

    @classmethod
    def namespace(cls, host: str, port: int | None) -> str:
        host = public_host(host)
        match = _HOST.fullmatch(host)
        return super().namespace(".".join(match.groups()) if match else host, port or 5439)

    def connect(self) -> tuple[Any, Any]:
        self._report_wait("Waiting for Redshift to answer")  # the hook retries by itself
        connection = self._hook.get_conn()
        self._report_wait(None)
        connection.autocommit = True  # the load executes BEGIN and COMMIT itself
        cursor = connection.cursor()
        try:
            for setting in _SETTINGS:
                cursor.execute(f"SET {setting}")
            cursor.execute(r"SELECT length('\\')")
            self._escape = "\\" * (3 - int(cursor.fetchone()[0]))
        except BaseException:
            connection.close()
            raise
        return connection, cursor

    def is_not_allowed(self, error: Exception) -> bool:
        return bool(_fields(error).get("C") == "42501")

    def stage(self, cursor: Any, name: str, file: IO[bytes]) -> str:
        """Copy the rows by INSERTs, because COPY would need a bucket."""
        cursor.execute(f"CREATE TEMP TABLE {name} ({self.stage_columns()})")
        for batch in _batches(_rows(file, self._escape)):
            cursor.execute(f"INSERT INTO {name} VALUES {batch}")
        cursor.execute(f"ANALYZE {name}")  # without it the planner takes the table for empty
        return name

    def lock(self, cursor: Any) -> None:
        """Lock `tracks`, which each load needs, and begin a new transaction with that LOCK.

        Redshift takes the snapshot of a transaction at its first statement other than LOCK. An older transaction would
        miss the rows of the load that it waited for: https://docs.aws.amazon.com/redshift/latest/dg/c_serial_isolation.html
        """
        cursor.execute(
            f"SELECT 1 FROM information_schema.tables WHERE table_schema = '{self._schema}' AND table_name = '{TRACKS}'"
        )
        exists = bool(cursor.fetchone())
        cursor.execute("COMMIT")
        cursor.execute(f"SET statement_timeout TO {_LOCK_TIMEOUT}")
        cursor.execute("BEGIN")
        if exists:
            self._report_wait(f"Waiting for another load into schema {self._schema} to end")
            cursor.execute(f"LOCK {self.quoted(self._schema, TRACKS)}")
            self._report_wait(None)
        cursor.execute("SET statement_timeout TO DEFAULT")

    def insert_sql(self, stage: str, table: str, columns: str, values: str) -> str:
        return (
            f'INSERT INTO {table} ({columns}) SELECT {values} FROM (SELECT *, row_number() OVER (PARTITION BY "id" '
            f'ORDER BY "id") AS nth FROM {stage}) AS staged LEFT JOIN (SELECT "id" AS loaded_id FROM {table}) AS '
            'loaded ON loaded_id = "id" WHERE nth = 1 AND loaded_id IS NULL'
        )

    def explain(self, error: Exception) -> Exception | None:
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
        from redshift_connector.error import Error

        if isinstance(error, BotoCoreError | ClientError):
            return ConfigurationError(
                f"AWS issued no database password: {shown(str(error))}. Check credentials and region of the "
                "AWS connection"
            )
        if isinstance(error, OSError):  # the connection broke
            return TryAgainLaterError(f"{error.strerror or type(error).__name__} (no connection)")
        if not isinstance(error, Error):
            return None
        fields = _fields(error)
        if not fields:
            return TryAgainLaterError(f"{shown(': '.join(map(str, error.args)))} (no connection)")
        code, text = fields.get("C", ""), fields.get("M", "")
        if text == _SERIALIZATION_FAILURE:
            return write_conflict(f"{code}, {text}")
        text = text_of(code, text, of_function="W" in fields)
        if code in _CONFLICTS:
            return write_conflict(f"{code}, {text}")
        return self.sqlstate_error(code, text)


def _fields(error: Exception) -> Mapping[str, str]:
    """Return the fields of the server's error; none if there was no connection."""
    fields = next(iter(error.args), None)
    return fields if isinstance(fields, dict) else {}


def _batches(rows: Iterator[str]) -> Iterator[str]:
    """Join rows with commas, up to some `_BATCH` characters at a time."""
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


def _rows(file: IO[bytes], escape: str) -> Iterator[str]:
    """Yield each spooled row as SQL literals in brackets.

    :param escape: a backslash, as a literal has it.
    """
    for values in csv_values(file):
        cells = zip(SPOOLED, values, strict=True)
        yield f"({','.join(_literal(column.kind, value, escape) for column, value in cells)})"


def _literal(kind: Kind, value: str | int | bool | None, escape: str) -> str:
    if value is None:
        return "null"
    if not isinstance(value, str):
        return str(value).lower()
    text = value.replace("\\", escape).replace("'", "''")
    return f"TIMESTAMP '{text.replace('T', ' ').removesuffix('Z')}'" if kind is Kind.TIME else f"'{text}'"

"""PostgreSQL, with psycopg 2 or 3, whichever Airflow's provider uses."""

from __future__ import annotations

from typing import IO, Any, ClassVar

from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.http.errors import presentable
from airflow_provider_cio.warehouse.database import Database, sqlstate_error
from airflow_provider_cio.warehouse.tables import Kind

#: How long a load waits for another one.
_PATIENCE = "10min"
_COPY = "COPY {} FROM STDIN (FORMAT csv, NULL 'null', ENCODING 'UTF8')"
_CHUNK = 1 << 16
# What a server that can't be reached says, and what it says of a wrong connection, are told apart by text only: there
# is no code yet.
_WRONG_CONNECTION = ("authentication failed", "does not exist", "no pg_hba.conf entry", "not permitted to log in")


class Postgres(Database):
    name = "PostgreSQL"
    extra = "postgres"
    types: ClassVar = {
        Kind.ID: "varchar(1024)",
        Kind.TEXT: "text",
        Kind.BOOLEAN: "boolean",
        Kind.TIME: "timestamptz",
    }
    accepted: ClassVar = {
        Kind.ID: ("character varying", "text"),
        Kind.TEXT: ("text", "character varying"),
        Kind.BOOLEAN: ("boolean",),
        Kind.TIME: ("timestamp with time zone",),
    }
    key = ', PRIMARY KEY ("id")'
    clock = "clock_timestamp()"

    def connect(self) -> tuple[Any, Any]:
        connection = self._hook.get_conn()
        connection.autocommit = True  # BEGIN and COMMIT are statements of ours
        if hasattr(connection, "row_factory"):  # psycopg 3
            from psycopg.rows import tuple_row

            return connection, connection.cursor(row_factory=tuple_row)
        from psycopg2.extensions import cursor  # type: ignore[import-untyped]

        return connection, connection.cursor(cursor_factory=cursor)

    def stage(self, cursor: Any, name: str, file: IO[bytes]) -> str:
        cursor.execute(f"CREATE TEMP TABLE {name} ({self.stage_columns()}) ON COMMIT DROP")
        if hasattr(cursor, "copy_expert"):  # psycopg 2
            cursor.copy_expert(_COPY.format(name), file, _CHUNK)
            return name
        with cursor.copy(_COPY.format(name)) as copy:
            while chunk := file.read(_CHUNK):
                copy.write(chunk)
        return name

    def lock(self, cursor: Any) -> None:
        """A lock that needs no right on any table, and hinders no reader."""
        cursor.execute(f"SET LOCAL lock_timeout = '{_PATIENCE}'")
        self._waits(f"Waiting for another load into schema {self._schema} to end")
        cursor.execute(f"SELECT pg_advisory_xact_lock(hashtextextended('airflow-provider-cio {self._schema}', 0))")
        self._waits(None)

    def insertion(self, stage: str, table: str, columns: str, values: str) -> str:
        return f'INSERT INTO {table} ({columns}) SELECT {values} FROM {stage} ON CONFLICT ("id") DO NOTHING'

    def explain(self, error: Exception) -> Exception | None:
        diagnosis = getattr(error, "diag", None)
        if diagnosis is None:
            return None
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
        text = presentable(diagnosis.message_primary or str(error).partition("\n")[0], ())
        if code == "25006":
            return ConfigurationError(f"nothing can be written there: {text}. Give the connection of a primary")
        if code == "42P10":
            return ConfigurationError("a table has no primary key: ALTER TABLE ... ADD PRIMARY KEY (id)")
        if not code and any(sign in text for sign in _WRONG_CONNECTION):
            return ConfigurationError(f"it does not let us in: {text}. Correct the connection")
        where = [getattr(diagnosis, part) for part in ("table_name", "column_name", "constraint_name")]
        named = ", ".join(filter(None, where)) or "no table named"
        return sqlstate_error(code, text, rights="SELECT and INSERT on its tables", named=named)

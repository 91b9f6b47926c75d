"""Load into PostgreSQL, with psycopg 2 or 3, as Airflow's provider does."""

from __future__ import annotations

from typing import IO, Any, ClassVar

from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.http.errors import presentable
from airflow_provider_cio.warehouse.database import Database, login_rejected, sqlstate_error
from airflow_provider_cio.warehouse.tables import Kind

#: Longest time, in PostgreSQL's notation, that a load waits for another one before it leaves the retry to Airflow.
_LOCK_TIMEOUT = "10min"
_COPY = "COPY {} FROM STDIN (FORMAT csv, NULL 'null', ENCODING 'UTF8')"
#: Bytes of the file that are copied at a time.
_CHUNK = 1 << 16
#: Parts of the server's text that show a wrong login. psycopg has no SQLSTATE until it is connected, so only the text
#: tells a wrong login from a server that is away.
_LOGIN_REJECTED = ("authentication failed", "does not exist", "no pg_hba.conf entry", "not permitted to log in")


class Postgres(Database):
    """PostgreSQL. Its primary key on `id` keeps an event from being stored twice."""

    name = "PostgreSQL"
    extra = "postgres"
    types: ClassVar = {
        Kind.ID: "varchar(1024)",
        Kind.TEXT: "text",
        Kind.BOOLEAN: "boolean",
        Kind.TIME: "timestamptz",
    }
    accepted_types: ClassVar = {
        Kind.ID: ("character varying", "text"),
        Kind.TEXT: ("text", "character varying"),
        Kind.BOOLEAN: ("boolean",),
        Kind.TIME: ("timestamp with time zone",),
    }
    primary_key = ', PRIMARY KEY ("id")'
    clock = "clock_timestamp()"

    def connect(self) -> tuple[Any, Any]:
        connection = self._hook.get_conn()
        connection.autocommit = True  # the load executes BEGIN and COMMIT itself
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
        """Take an advisory lock, which needs no right on a table and blocks no reader."""
        cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        self._report_wait(f"Waiting for another load into schema {self._schema} to end")
        cursor.execute(f"SELECT pg_advisory_xact_lock(hashtextextended('airflow-provider-cio {self._schema}', 0))")
        self._report_wait(None)

    def insert_sql(self, stage: str, table: str, columns: str, values: str) -> str:
        return f'INSERT INTO {table} ({columns}) SELECT {values} FROM {stage} ON CONFLICT ("id") DO NOTHING'

    def explain(self, error: Exception) -> Exception | None:
        diagnosis = getattr(error, "diag", None)
        if diagnosis is None:
            return None
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
        text = presentable(diagnosis.message_primary or str(error).partition("\n")[0], ())
        if code == "42P10":  # no key for ON CONFLICT
            return ConfigurationError(
                f"a table in schema {self._schema} has no primary key: run ALTER TABLE ... ADD PRIMARY KEY (id)"
            )
        if not code and any(part in text for part in _LOGIN_REJECTED):
            return login_rejected(text)
        names = [getattr(diagnosis, part) for part in ("table_name", "column_name", "constraint_name")]
        rule = ", ".join(filter(None, names)) or "no table named"
        return sqlstate_error(code, text, schema=self._schema, privileges="SELECT, INSERT", rule=rule)

"""Load into PostgreSQL, with psycopg 2 or 3, as Airflow's provider does."""

from __future__ import annotations

from typing import IO, Any, ClassVar

from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.warehouse.database import shown
from airflow_provider_cio.warehouse.postgres_family import PostgresFamily, login_rejected, text_of
from airflow_provider_cio.warehouse.tables import Kind

#: Longest time, in PostgreSQL's notation, that a load waits for another one before it leaves the retry to Airflow.
_LOCK_TIMEOUT = "10min"
_COPY = "COPY {} FROM STDIN (FORMAT csv, NULL 'null', ENCODING 'UTF8')"
#: Bytes of the file that are copied at a time.
_CHUNK = 1 << 16
#: Parts of the server's text that show a wrong login. psycopg has no SQLSTATE until it is connected, so only the text
#: tells a wrong login from a server that is away.
_LOGIN_REJECTED = ("authentication failed", "does not exist", "no pg_hba.conf entry", "not permitted to log in")


class Postgres(PostgresFamily):
    """PostgreSQL. Its primary key on `id` keeps an event from being stored twice."""

    name = "PostgreSQL"
    scheme = "postgres"
    package = "apache-airflow-providers-postgres"
    types: ClassVar = {
        Kind.ID: "varchar(1024)",
        Kind.TEXT: "text",
        Kind.NUMBER: "bigint",
        Kind.BOOLEAN: "boolean",
        Kind.TIME: "timestamptz",
    }
    accepted_types: ClassVar = {
        Kind.ID: ("character varying", "text"),
        Kind.TEXT: ("text", "character varying"),
        Kind.NUMBER: ("bigint",),
        Kind.BOOLEAN: ("boolean",),
        Kind.TIME: ("timestamp with time zone",),
    }
    id_types: ClassVar = {
        Kind.NUMBER: ("text", "character varying", "numeric", "integer", "double precision"),
        Kind.TEXT: ("bigint", "numeric", "double precision"),
    }
    primary_key = ', PRIMARY KEY ("id")'
    clock = "clock_timestamp()"
    share_tables = "GRANT {owner} TO {user}"
    # For this transaction only, because a pooler may give the session to others. Who waits for the lock has to see the
    # rows of the load that had it, so the isolation matters; the other settings change the meaning of text.
    begin = (
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        "SET LOCAL client_encoding TO 'UTF8'",
        "SET LOCAL standard_conforming_strings TO on",
        "SET LOCAL DateStyle TO 'ISO, YMD'",
        "SET LOCAL TimeZone TO 'UTC'",
    )

    def connect(self) -> tuple[Any, Any]:
        """Connect, and check that the database can hold all text.

        :raises ConfigurationError: its encoding is not UTF8.
        """
        connection = self._hook.get_conn()
        try:
            connection.autocommit = True  # the load executes BEGIN and COMMIT itself
            cursor = _cursor(connection)
            cursor.execute("SHOW server_encoding")
            [encoding] = cursor.fetchone()
            if encoding != "UTF8":
                raise ConfigurationError(
                    f"the database has encoding {encoding}, which can't hold all text: load into a database that was "
                    "made with ENCODING 'UTF8'"
                )
        except BaseException:
            connection.close()
            raise
        return connection, cursor

    def is_not_allowed(self, error: Exception) -> bool:
        return _sqlstate(error) == "42501"

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
        code = _sqlstate(error)
        first_line = diagnosis.message_primary or str(error).partition("\n")[0]
        # COPY has a context, too; others are of functions.
        of_function = not (diagnosis.context or "COPY ").startswith("COPY ")
        text = text_of(code, first_line, of_function=of_function)
        if code == "42P10":  # no key for ON CONFLICT
            return ConfigurationError(
                f"a table in schema {self._schema} has no primary key: run ALTER TABLE ... ADD PRIMARY KEY (id)"
            )
        if not code and any(part in first_line for part in _LOGIN_REJECTED):
            return login_rejected(shown(first_line))
        return self.sqlstate_error(code, text, "raised by a function" if of_function else _rule(diagnosis))


def _cursor(connection: Any) -> Any:
    """Return a cursor whose rows are tuples, whatever the connection's default is."""
    if hasattr(connection, "row_factory"):  # psycopg 3
        from psycopg.rows import tuple_row

        return connection.cursor(row_factory=tuple_row)
    from psycopg2.extensions import cursor  # type: ignore[import-untyped]

    return connection.cursor(cursor_factory=cursor)


def _rule(diagnosis: Any) -> str:
    """Return the names of the table, column and constraint that rejected a row. A function may put any text there."""
    names = [getattr(diagnosis, part) for part in ("table_name", "column_name", "constraint_name")]
    return shown(", ".join(filter(None, names))) or "no table named"


def _sqlstate(error: Exception) -> str:
    """Return the SQLSTATE of an error of psycopg 3 or 2; empty if there was no connection."""
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""

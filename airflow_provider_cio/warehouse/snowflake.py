"""Load into Snowflake, with Snowflake's own driver. Not tested with a real Snowflake.

Snowflake enforces no key, and a session may see late what another one has committed. Only a session that is opened
after the commit surely sees it: https://docs.snowflake.com/en/sql-reference/transactions. So a load has two sessions.
The first one stages the rows. Then it takes a lock (see `snowflake_lock`), for which it waits until no other load has
it. Only then the second one is opened. It inserts the rows.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, ClassVar

from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.warehouse.database import (
    ColumnRow,
    Database,
    ReportWait,
    public_host,
    rows_rejected,
    shown,
)
from airflow_provider_cio.warehouse.snowflake_lock import INSERT_TIMEOUT, LOCK_TIMEOUT, Lock
from airflow_provider_cio.warehouse.snowflake_session import CANCELED, TIMED_OUT, Session, open_session, sqlstate
from airflow_provider_cio.warehouse.tables import SPOOLED, Kind

#: Longest time, in seconds, of any other statement of the first session: more, because the wait is a statement's, too.
_STATEMENT_TIMEOUT = LOCK_TIMEOUT + 60
#: Table whose row each load updates, because Snowflake lets two loads insert side by side.
_LOCK = "customerio_lock"
#: Beginning of the names of stages, and of tables with staged rows.
_STAGE = "customerio_stage_"
#: Variable of the second session that has the time of the load.
_LOAD_TIME = "CUSTOMERIO_LOAD_TIME"
#: Classes of SQLSTATE whose text names objects, settings or limits, and no value of a row. The driver's own errors may
#: have none.
_CLASSES_WITHOUT_VALUES = ("", "02", "08", "0A", "25", "28", "40", "42", "53", "54", "55", "57", "58")
#: SQLSTATE of a missing right.
_NOT_ALLOWED = "42501"
#: SQLSTATEs of an object that is missing, or is there already. Both may be said of one that the role can't see.
_UNSEEN = ("02000", "42S02", "42710")
#: Numbers of errors: no warehouse is in use; Snowflake does not know the account (HTTP 403 and 404).
_NO_WAREHOUSE = 606
_UNKNOWN_ACCOUNT = (290403, 290404)
#: First three digits of the driver's numbers for a connection that lacks an account, a login or a password.
_NO_LOGIN = 251


class Snowflake(Database):
    """Snowflake. All names are in upper case, as Segment's are there."""

    name = "Snowflake"
    scheme = "snowflake"
    package = "apache-airflow-providers-snowflake"
    types: ClassVar = {
        Kind.ID: "VARCHAR(1024)",
        Kind.TEXT: "VARCHAR",
        Kind.NUMBER: "NUMBER",
        Kind.BOOLEAN: "BOOLEAN",
        Kind.TIME: "TIMESTAMP_TZ",
    }
    accepted_types: ClassVar = {
        Kind.ID: ("text",),
        Kind.TEXT: ("text",),
        Kind.NUMBER: ("number",),
        Kind.BOOLEAN: ("boolean",),
        # A load's times are in UTC, so each of these types keeps the moment.
        Kind.TIME: ("timestamp_tz", "timestamp_ltz", "timestamp_ntz"),
    }
    id_types: ClassVar = {Kind.NUMBER: ("text", "float"), Kind.TEXT: ("number", "float")}
    is_number = "REGEXP_LIKE({}, '-?[0-9]{{1,18}}')"  # it has to match the whole text
    alter_type = "SET DATA TYPE"
    share_tables = "GRANT ROLE {owner} TO ROLE {user}"
    spool_bytes = 50 * 1000 * 1000  # half of the others', because staging writes the rows to disk again, as parquet

    def __init__(self, hook: Any, schema: str, report_wait: ReportWait) -> None:
        super().__init__(hook, schema, report_wait)
        self._role = self._database = self._warehouse = ""

    @classmethod
    def namespace(cls, host: str, port: int | None) -> str:
        return f"snowflake://{public_host(host)}"

    @classmethod
    def host(cls, connection: Any) -> str:
        """Return the account, with its region if the connection has that in a field of its own."""
        return ".".join(filter(None, (_field(connection, "account"), _field(connection, "region"))))

    @classmethod
    def database_name(cls, connection: Any) -> str:
        return _field(connection, "database")

    @classmethod
    def dataset_name(cls, *names: str) -> str:
        return super().dataset_name(*names).upper()

    def quoted(self, *names: str) -> str:
        return super().quoted(*names).upper()

    def connect(self) -> tuple[Any, Any]:
        """Connect, and check that the session has a database and a warehouse.

        :raises ConfigurationError: it has none, or the credentials can't be loaded.
        """
        session = open_session(self._hook, {"LOCK_TIMEOUT": LOCK_TIMEOUT}, _STATEMENT_TIMEOUT, self._report_wait)
        try:
            [found] = session.execute("SELECT CURRENT_ROLE(), CURRENT_DATABASE(), CURRENT_WAREHOUSE()")
            self._role, self._database, self._warehouse = (name or "" for name in found)
            for kind, name in (("database", self._database), ("warehouse", self._warehouse)):
                if not name:
                    raise self._not_allowed(f"the connection names no {kind}, or one that the role can't use")
        except BaseException:
            session.close()
            raise
        return session, session

    @contextmanager
    def transaction(self, cursor: Any) -> Iterator[None]:
        """Do nothing, because each DDL statement would commit the transaction. `insert` has its own ones."""
        yield

    def has_schema(self, cursor: Any) -> bool:
        """Return True, after a missing schema was created: another load may do so at the same time."""
        name = self._schema.upper()
        if not cursor.execute(f"SELECT 1 FROM INFORMATION_SCHEMA.SCHEMATA WHERE SCHEMA_NAME = '{name}'"):
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {self.quoted(name)}")
        return True

    def columns(self, cursor: Any) -> Sequence[ColumnRow]:
        rows = cursor.execute(
            "SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, CHARACTER_MAXIMUM_LENGTH FROM INFORMATION_SCHEMA.COLUMNS "
            f"WHERE TABLE_SCHEMA = '{self._schema.upper()}'"
        )
        # A name in lower case is another name, which was quoted.
        upper = [row for row in rows if row[0].isupper() and row[1].isupper()]
        return [(table.lower(), column.lower(), kind, length) for table, column, kind, length in upper]

    def create(self, cursor: Any, table: str, columns: str) -> None:
        cursor.execute(f"CREATE TABLE IF NOT EXISTS {self.quoted(self._schema, table)} ({columns})")

    def additions(self, table: str, columns: Sequence[str]) -> Sequence[str]:
        name = self.quoted(self._schema, table)
        return [f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {column}" for column in columns]

    def is_not_allowed(self, error: Exception) -> bool:
        return sqlstate(error) == _NOT_ALLOWED

    def owners(self, cursor: Any) -> tuple[str, Mapping[str, str]]:
        schema = self._schema.upper()
        rows = cursor.execute(
            f"SELECT TABLE_NAME, TABLE_OWNER FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = '{schema}'"
        )
        return self._role, {table.lower(): owner for table, owner in rows if owner}

    def stage(self, cursor: Any, name: str, file: IO[bytes]) -> str:
        """Copy the rows into a table, which is not a temporary one, because the second session has to see it."""
        if not cursor.files:
            self._drop_leftovers(cursor)
            files = self.quoted(self._schema, f"{_STAGE}{uuid.uuid4().hex}")
            cursor.execute(f"CREATE TEMPORARY STAGE {files}")
            cursor.files = files
        table = self.quoted(self._schema, f"{name}_{uuid.uuid4().hex}")
        cursor.execute(f"CREATE TRANSIENT TABLE {table} ({self.stage_columns()}) DATA_RETENTION_TIME_IN_DAYS = 0")
        cursor.staged.append(table)
        columns = ", ".join(self.quoted(name) for name, _ in SPOOLED)
        values = ", ".join(f"$1:{name}::{self.types[kind]}" for name, kind in SPOOLED)
        cursor.execute(
            f"COPY INTO {table} ({columns}) FROM (SELECT {values} FROM {cursor.put(file)}) "
            "FILE_FORMAT = (TYPE = PARQUET) ON_ERROR = ABORT_STATEMENT"
        )
        return table

    def lock(self, cursor: Any) -> None:
        """Do nothing, because `insert` takes the lock: what comes before it is DDL, which would end it."""

    def load_time(self, cursor: Any) -> str:
        return f"${_LOAD_TIME}::{self.types[Kind.TIME]}"

    def insert(self, cursor: Any, inserts: Sequence[tuple[str, str]]) -> int:
        """Execute INSERTs in one transaction of a second session, while the first one has the lock.

        :raises TryAgainLaterError: other loads have not ended within ten minutes.
        :raises TryAgainNowError: the first session has lost the lock.
        """
        lock = Lock(cursor, self._schema, self.quoted(self._schema, _LOCK), self._report_wait)
        with super().transaction(cursor):
            lock.take()
            [(moment,)] = cursor.execute("SELECT CURRENT_TIMESTAMP()")  # in the UPDATE it is the time before the wait
            second = open_session(self._hook, {}, INSERT_TIMEOUT, self._report_wait)
            try:
                second.execute(f"SET {_LOAD_TIME} = '{moment.isoformat()}'")
                second.execute("BEGIN")
                added = 0
                for into_table, into_tracks in inserts:
                    lock.check()
                    second.execute(into_table)
                    added += second.rowcount
                    lock.check()
                    second.execute(into_tracks)
                lock.check()
                lock.commit(second)
            except BaseException:
                with suppress(Exception):  # the end of the session does so, too
                    second.execute("ROLLBACK")
                raise
            finally:
                with suppress(Exception):
                    second.close()
        return added

    def explain(self, error: Exception) -> Exception | None:
        from snowflake.connector.errors import DatabaseError, Error, OperationalError

        if isinstance(error, OSError):  # errors of requests are OSErrors
            return TryAgainLaterError(f"{shown(str(error))} ({type(error).__name__})")
        if not isinstance(error, Error):
            return None
        code, state = error.errno, sqlstate(error)
        text = "Snowflake's query history has the text, which may hold values of rows"
        if state[:2] in _CLASSES_WITHOUT_VALUES:
            text = shown(str(error.raw_msg or type(error).__name__))
        text = f"{text} ({', '.join(filter(None, (str(code), state)))})"
        if state in (_NOT_ALLOWED, *_UNSEEN) or code == _NO_WAREHOUSE:
            return self._not_allowed(text)
        if code in _UNKNOWN_ACCOUNT:
            return ConfigurationError(f"there is no such account: {text}. Check the account of the connection")
        if code == TIMED_OUT:
            text = f"Snowflake stopped a statement: {text}. A larger warehouse would take less time"
        if code == CANCELED:
            text = f"a statement was canceled: {text}"
        rejected = state[:2] in ("08", "28") and isinstance(error, DatabaseError)
        if code // 1000 == _NO_LOGIN or (rejected and not isinstance(error, OperationalError)):
            return ConfigurationError(
                f"login rejected: {text}. Check login, private key or password, and account of the connection"
            )
        if state[:2] in ("22", "23"):
            return rows_rejected(f"{code}, {state}")
        if state[:2] in ("0A", "42"):
            return ConfigurationError(f"{text}. Check whether somebody else changed schema {self._schema}")
        return TryAgainLaterError(text)

    def _drop_leftovers(self, cursor: Session) -> None:
        """Drop the staged tables that killed workers have left, after a day."""
        leftovers = cursor.execute(
            f"SELECT TABLE_NAME FROM INFORMATION_SCHEMA.TABLES WHERE TABLE_SCHEMA = '{self._schema.upper()}' AND "
            f"STARTSWITH(TABLE_NAME, '{_STAGE.upper()}') AND TABLE_OWNER = CURRENT_ROLE() AND "
            "CREATED < DATEADD(day, -1, CURRENT_TIMESTAMP())"
        )
        for (table,) in leftovers:
            cursor.execute(f"DROP TABLE IF EXISTS {self.quoted(self._schema, table)}")

    def _not_allowed(self, text: str) -> ConfigurationError:
        """Return the error for a missing right, with the statements for all rights that a load needs."""
        role, database, warehouse = (
            self.quoted_as_told(name) if name else f"<{kind}>"
            for kind, name in (("role", self._role), ("database", self._database), ("warehouse", self._warehouse))
        )
        schema = f"{database}.{self.quoted(self._schema)}"
        return ConfigurationError(
            f"the role {role} lacks a right: {text}. Run the statement for it: GRANT USAGE ON WAREHOUSE {warehouse} TO "
            f"ROLE {role}; GRANT USAGE, CREATE SCHEMA ON DATABASE {database} TO ROLE {role} (to make the schema); "
            f"GRANT USAGE, CREATE TABLE, CREATE STAGE ON SCHEMA {schema} TO ROLE {role}; GRANT SELECT, INSERT, UPDATE "
            f"ON ALL TABLES IN SCHEMA {schema} TO ROLE {role}. Only the owner of a table can add a column to it"
        )


def _field(connection: Any, name: str) -> str:
    """Return a field of the connection; old versions of Airflow's provider gave it a longer name in the extra."""
    extra = connection.extra_dejson
    return str(extra.get(name) or extra.get(f"extra__snowflake__{name}") or "")

"""Base class of the databases: the statements and types that a load needs, and the errors that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, ClassVar

from airflow_provider_cio.exceptions import ConfigurationError, CustomerIOToSegmentError, TryAgainLaterError
from airflow_provider_cio.warehouse.tables import SPOOLED, Column, Kind

#: Table, column, type, and the greatest length if the type has one.
ColumnRow = tuple[str, str, str, int | None]
#: Called with a sentence when a wait begins, and with None when it ends.
ReportWait = Callable[[str | None], None]


class TryAgainNowError(TryAgainLaterError):
    """The database undid the load; another try within seconds may succeed."""


def login_rejected(text: str) -> ConfigurationError:
    """Return the error for a wrong user, password or database."""
    return ConfigurationError(f"login rejected: {text}. Check login, password and database of the connection")


def rows_rejected(detail: str) -> ConfigurationError:
    """Return the error for rows that a table does not accept.

    :param detail: a code or names. The database's own text may hold values of a row, so it is not shown.
    """
    return ConfigurationError(
        f"the database rejected the rows ({detail}). Look for a constraint or a trigger that was added to a table"
    )


def write_conflict(detail: str) -> TryAgainNowError:
    """Return the error for a load that the database stopped in favor of another writer."""
    return TryAgainNowError(f"another session writes to the same tables ({detail})")


def sqlstate_error(code: str, text: str, *, schema: str, privileges: str, rule: str = "") -> CustomerIOToSegmentError:
    """Return the error for a SQLSTATE of PostgreSQL or a descendant.

    https://www.postgresql.org/docs/current/errcodes-appendix.html

    :param code: empty if there was no connection.
    :param text: the server's text; not shown if it may hold values of a row.
    :param privileges: on tables, that a load needs.
    :param rule: names of the table, column and constraint that rejected a row, as far as the server tells them.
    """
    if code == "25006":
        return ConfigurationError(f"the connection is read-only: {text}. Use a connection that may write")
    if code == "42501":
        return ConfigurationError(
            f"the user lacks a privilege: {text}. Run the statement for it: GRANT CREATE ON DATABASE <database> TO "
            "<user> (to make the schema); GRANT TEMPORARY ON DATABASE <database> TO <user>; GRANT USAGE, CREATE ON "
            f"SCHEMA {schema} TO <user>; GRANT {privileges} ON ALL TABLES IN SCHEMA {schema} TO <user>. Only the owner "
            "of a table can add a column to it"
        )
    if code[:2] == "42":  # an object is missing, or there already, or of another kind
        return ConfigurationError(f"{text} ({code}). Check whether somebody else changed schema {schema}")
    if code[:2] in ("22", "23"):  # a value does not fit its column, or breaks a constraint
        return rows_rejected(", ".join(filter(None, (code, rule))))
    return TryAgainLaterError(f"{text} ({code or 'no connection'})")


class Database(ABC):
    """A kind of database. The defaults suit a cursor (PEP 249) that commits each statement outside of BEGIN.

    :param hook: Airflow's hook of the connection.
    :param schema: name of the schema that has the tables.
    :param report_wait: told of each wait for another process or for the server.
    """

    #: Name of the product, for errors and logs.
    name: ClassVar[str]
    #: Extra of this distribution that installs the database's Airflow provider.
    extra: ClassVar[str]
    #: Type with which a new column is declared.
    types: ClassVar[Mapping[Kind, str]]
    #: Types that an existing column may have: as `columns` returns them, in lower case.
    accepted_types: ClassVar[Mapping[Kind, Collection[str]]]
    #: Constraint of the column `id` in a new table; begins with a space, or is empty.
    id_constraint: ClassVar[str] = " NOT NULL"
    #: Constraint of a new table, after its columns; begins with a comma, or is empty.
    primary_key: ClassVar[str] = ""
    #: Options of a new table, after the closing bracket; begin with a space, or are empty.
    table_options: ClassVar[str] = ""
    #: Columns for the time of the load that Segment makes in this kind of database only.
    additional_columns: ClassVar[Sequence[Column]] = ()
    #: Whether the user's rights can differ between two tables of one schema.
    rights_by_table: ClassVar[bool] = True
    #: Words between a column and its new type in ALTER COLUMN.
    alter_type: ClassVar[str] = "TYPE"
    #: Quotation mark around a name.
    quote: ClassVar[str] = '"'
    #: Bytes of spooled rows at which a load begins: some 300,000 rows, which bounds the use of the worker's disk.
    spool_bytes: ClassVar[int] = 100 * 1000 * 1000
    #: Expression for the present time; within a transaction, of the moment when it is evaluated.
    clock: ClassVar[str]

    def __init__(self, hook: Any, schema: str, report_wait: ReportWait) -> None:
        self._hook = hook
        self._schema = schema
        self._report_wait = report_wait

    @classmethod
    def namespace(cls, host: str, port: int | None) -> str:
        """Return OpenLineage's name of the server: https://openlineage.io/docs/spec/naming."""
        return f"{cls.extra}://{host}{f':{port}' if port else ''}"

    @classmethod
    def database_name(cls, connection: Any) -> str:
        """Return the name of the database in an Airflow connection; empty if there is none."""
        return connection.schema or ""

    def quoted(self, *names: str) -> str:
        """Quote names and join them with dots: a schema and its table, for example."""
        return ".".join(f"{self.quote}{name}{self.quote}" for name in names)

    @abstractmethod
    def connect(self) -> tuple[Any, Any]:
        """Return a new connection, which the caller closes, and a cursor of it."""

    @contextmanager
    def transaction(self, cursor: Any) -> Iterator[None]:
        """Commit at the end, or roll back on an exception."""
        cursor.execute("BEGIN")
        try:
            yield
            cursor.execute("COMMIT")
        except BaseException:
            with suppress(Exception):  # if the connection is gone, the database rolls back by itself
                cursor.execute("ROLLBACK")
            raise

    def has_schema(self, cursor: Any) -> bool:
        """Return whether the schema exists."""
        cursor.execute(
            f"SELECT 1 FROM information_schema.schemata WHERE schema_name = '{self._schema}' "
            "AND catalog_name = current_database()"
        )
        return bool(cursor.fetchone())

    def columns(self, cursor: Any) -> Sequence[ColumnRow]:
        """Return the columns of all tables in the schema."""
        cursor.execute(
            "SELECT table_name, column_name, data_type, character_maximum_length FROM information_schema.columns "
            f"WHERE table_schema = '{self._schema}' AND table_catalog = current_database()"
        )
        found: Sequence[ColumnRow] = cursor.fetchall()
        return found

    def create(self, cursor: Any, table: str, columns: str) -> None:
        """Create a table.

        :param columns: their declarations, separated by commas.
        """
        cursor.execute(
            f"CREATE TABLE {self.quoted(self._schema, table)} ({columns}{self.primary_key}){self.table_options}"
        )

    def add_columns(self, cursor: Any, table: str, columns: Sequence[str]) -> None:
        """Add columns to a table.

        :param columns: their declarations.
        """
        for column in columns:
            cursor.execute(f"ALTER TABLE {self.quoted(self._schema, table)} ADD COLUMN {column}")

    @abstractmethod
    def stage(self, cursor: Any, name: str, file: IO[bytes]) -> str:
        """Copy a file of CSV lines into a relation that no other load uses. Call it within a transaction.

        :returns: the relation, as statements name it.
        """

    @abstractmethod
    def lock(self, cursor: Any) -> None:
        """Lock the schema against other loads until the transaction ends, waiting for a load that has the lock.

        Call it right after staging, before any other statement.
        """

    def load_time(self, cursor: Any) -> str:
        """Return an expression for the present time that has one value for the whole load. Call it after `lock`.

        A load that got the lock later has a later time, so a reader that keeps the greatest `uuid_ts` misses no row.
        """
        cursor.execute(f"SELECT CAST({self.clock} AS VARCHAR(64))")
        return f"CAST('{cursor.fetchone()[0]}' AS {self.types[Kind.TIME]})"

    @abstractmethod
    def insert_sql(self, stage: str, table: str, columns: str, values: str) -> str:
        """Return an INSERT of the staged rows whose id is not in the table yet, one row for each id.

        :param table: with its schema, quoted.
        :param columns: of the table, quoted.
        :param values: the expressions for them, in the same order.
        """

    def insert(self, cursor: Any, inserts: Sequence[tuple[str, str]]) -> int:
        """Execute INSERTs.

        :param inserts: for each event's table, the statement for it and the one for `tracks`.
        :returns: the number of rows added to the events' tables.
        """
        added = 0
        for into_table, into_tracks in inserts:
            cursor.execute(into_table)
            added += self.added_rows(cursor)
            cursor.execute(into_tracks)
        return added

    def added_rows(self, cursor: Any) -> int:
        """Return the number of rows that the INSERT just executed has added."""
        return int(cursor.rowcount)

    @abstractmethod
    def explain(self, error: Exception) -> Exception | None:
        """Return the provider's own error for an error of the driver; None if it is not one of the driver's.

        Its text holds no value of a row.
        """

    def stage_columns(self) -> str:
        """Return the declarations of the columns of a staged relation."""
        return ", ".join(f"{self.quoted(name)} {self.types[kind]}" for name, kind in SPOOLED)

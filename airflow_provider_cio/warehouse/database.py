"""What differs from database to database, and what the load needs of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, ClassVar

from airflow_provider_cio.exceptions import ConfigurationError, CustomerIOToSegmentError, TryAgainLaterError
from airflow_provider_cio.warehouse.tables import SPOOLED, Column, Kind

#: Table, column, type, and the greatest length if the type has one.
ColumnRow = tuple[str, str, str, int | None]


class TryAgainNowError(TryAgainLaterError):
    """Nothing was done, and another try at once may succeed."""


def sqlstate_error(code: str, text: str, *, rights: str, named: str = "") -> CustomerIOToSegmentError:
    """The error for a SQLSTATE, of a server that is PostgreSQL or descends from it.

    :param code: empty if there was no connection.
    :param rights: that a load needs on the tables.
    :param named: what the server names of the rule that a row broke. Its text may hold values.
    """
    if code == "42501":
        return ConfigurationError(
            f"its user lacks a right: {text}. Needed are TEMPORARY on the database, and CREATE there if the "
            f"schema is to be made; USAGE and CREATE on the schema; {rights}. GRANT it"
        )
    if code[:2] == "42":  # something is not as expected, or not allowed
        return ConfigurationError(f"{text} ({code}). See that nobody else made something of this name")
    if code[:2] in ("22", "23"):
        where = ", ".join(filter(None, (code, named)))
        return ConfigurationError(f"it does not take the rows, by a rule that was added to a table ({where})")
    return TryAgainLaterError(f"{text} ({code or 'no connection'})")


class Database(ABC):
    """One kind of database. What is here speaks through cursors (PEP 249) that commit each statement outside of BEGIN.

    :param hook: Airflow's, of the connection.
    :param schema: where the tables are.
    :param waits: is told what is waited for, None when it came.
    """

    #: As errors and logs call it.
    name: ClassVar[str]
    #: The extra of this distribution that installs its Airflow provider.
    extra: ClassVar[str]
    #: What a new column is declared as.
    types: ClassVar[Mapping[Kind, str]]
    #: What an existing one may be called, in lower case; see `columns`.
    accepted: ClassVar[Mapping[Kind, Collection[str]]]
    #: What a new table declares of its column `id` after the type.
    of_the_id: ClassVar[str] = " NOT NULL"
    #: The same, after all columns; begins with a comma, or is empty.
    key: ClassVar[str] = ""
    #: What a new table's declaration has after its columns.
    layout: ClassVar[str] = ""
    #: Times of the load that only this kind of database has.
    own_columns: ClassVar[Sequence[Column]] = ()
    #: Whether the rights on one table may differ from those on another one in the same schema.
    rights_by_table: ClassVar[bool] = True
    #: In ALTER COLUMN, between a column and its new type.
    retype: ClassVar[str] = "TYPE"
    #: What stands around a name.
    quote: ClassVar[str] = '"'
    #: Of the spool, with which a load begins, without being asked: about 300,000 rows.
    spool_bytes: ClassVar[int] = 100 * 1000 * 1000
    #: An expression for the present time; within a transaction, of the moment when it is evaluated.
    clock: ClassVar[str]

    def __init__(self, hook: Any, schema: str, waits: Callable[[str | None], None]) -> None:
        self._hook = hook
        self._schema = schema
        self._waits = waits

    @classmethod
    def namespace(cls, host: str, port: int | None) -> str:
        """OpenLineage's name of the server: https://openlineage.io/docs/spec/naming."""
        return f"{cls.extra}://{host}{f':{port}' if port else ''}"

    @classmethod
    def database_of(cls, connection: Any) -> str:
        """The name of the database, in an Airflow connection; empty if it does not say."""
        return connection.schema or ""

    def quoted(self, *names: str) -> str:
        """A name, or one within another."""
        return ".".join(f"{self.quote}{name}{self.quote}" for name in names)

    @abstractmethod
    def connect(self) -> tuple[Any, Any]:
        """A new connection, and a cursor of it. The caller closes the connection."""

    @contextmanager
    def transaction(self, cursor: Any) -> Iterator[None]:
        """All that is done in it is done when it ends, or nothing if it ends by an exception."""
        cursor.execute("BEGIN")
        try:
            yield
            cursor.execute("COMMIT")
        except BaseException:
            with suppress(Exception):  # the connection may be gone; then the database does it
                cursor.execute("ROLLBACK")
            raise

    def has_schema(self, cursor: Any) -> bool:
        cursor.execute(
            f"SELECT 1 FROM information_schema.schemata WHERE schema_name = '{self._schema}' "
            "AND catalog_name = current_database()"
        )
        return bool(cursor.fetchone())

    def columns(self, cursor: Any) -> Sequence[ColumnRow]:
        """Of all tables in the schema."""
        cursor.execute(
            "SELECT table_name, column_name, data_type, character_maximum_length FROM information_schema.columns "
            f"WHERE table_schema = '{self._schema}' AND table_catalog = current_database()"
        )
        found: Sequence[ColumnRow] = cursor.fetchall()
        return found

    def create(self, cursor: Any, table: str, columns: str) -> None:
        """Make a table.

        :param columns: as they are declared.
        """
        cursor.execute(f"CREATE TABLE {self.quoted(self._schema, table)} ({columns}{self.key}){self.layout}")

    def add_columns(self, cursor: Any, table: str, columns: Sequence[str]) -> None:
        """:param columns: as they are declared."""
        for column in columns:
            cursor.execute(f"ALTER TABLE {self.quoted(self._schema, table)} ADD COLUMN {column}")

    @abstractmethod
    def stage(self, cursor: Any, name: str, file: IO[bytes]) -> str:
        """Within a transaction: make a relation of a file of CSV lines, that no other load uses.

        :returns: the relation, as statements name it.
        """

    @abstractmethod
    def lock(self, cursor: Any) -> None:
        """Within a transaction that has done nothing but to stage: let nobody else load into this schema until it ends,
        waiting for who does."""

    def moment(self, cursor: Any) -> str:
        """Once the load is alone: an expression for the present time, the same whenever it is evaluated.

        So times in `uuid_ts` never fall behind what others have read.
        """
        cursor.execute(f"SELECT CAST({self.clock} AS VARCHAR(64))")
        return f"CAST('{cursor.fetchone()[0]}' AS {self.types[Kind.TIME]})"

    @abstractmethod
    def insertion(self, stage: str, table: str, columns: str, values: str) -> str:
        """An INSERT of the staged rows whose id is not in the table yet, one for each id.

        :param table: with its schema, quoted.
        :param columns: of the table, quoted; `values` are the expressions for them, in the same order.
        """

    def insert(self, cursor: Any, insertions: Sequence[tuple[str, str]]) -> int:
        """Execute them.

        :param insertions: for each table, the one into it and the one into `tracks`.
        :returns: how many rows the tables have got.
        """
        new = 0
        for into_table, into_tracks in insertions:
            cursor.execute(into_table)
            new += self.inserted(cursor)
            cursor.execute(into_tracks)
        return new

    def inserted(self, cursor: Any) -> int:
        """Rows that the INSERT just executed has added."""
        return int(cursor.rowcount)

    @abstractmethod
    def explain(self, error: Exception) -> Exception | None:
        """An error of the driver as one of ours, or None if it is no error of the driver.

        No value of a row may be in its text.
        """

    def stage_columns(self) -> str:
        """The columns of a staged relation, for its declaration."""
        return ", ".join(f"{self.quoted(name)} {self.types[kind]}" for name, kind in SPOOLED)

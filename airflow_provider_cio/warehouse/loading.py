"""Make the tables of a warehouse, and load the spool into them in one transaction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from airflow_provider_cio.events.event import MAX_EVENT_BYTES, MAX_MESSAGE_ID
from airflow_provider_cio.exceptions import ConfigurationError, CustomerIOToSegmentError
from airflow_provider_cio.warehouse.database import Database, ReportWait, TryAgainNowError
from airflow_provider_cio.warehouse.spool import Spool, temporary_file
from airflow_provider_cio.warehouse.tables import (
    LOAD_COLUMNS,
    LOAD_TIMES,
    OFTEN_NUMBERS,
    SENDER_VALUES,
    TRACKS,
    Column,
    Kind,
    columns_of,
)

#: Length that an existing column needs, to hold the longest text of an event: characters, or bytes on Redshift.
_NEEDED_LENGTHS = {Kind.ID: MAX_MESSAGE_ID, Kind.TEXT: MAX_EVENT_BYTES, Kind.NUMBER: len(str(-(2**63)))}
#: Name of a relation of staged rows; in a load, the name of their table follows.
_STAGE = "customerio_stage"
#: Seconds before each further try: a conflict with another writer is over within seconds, or is left to Airflow.
_PAUSES = (1, 2, 4, 8)
_T = TypeVar("_T")
#: Name of a column -> its type and, if the type has one, its greatest length.
_Columns = dict[str, tuple[str, int | None]]


class Warehouse:
    """Segment's tables in one schema. Each method opens a connection and closes it again.

    :param name: name of the connection in errors.
    :param database: called with the schema and a callback for waits; returns the `Database`.
    :param schema: lower-case letters, digits and underscores.
    :raises ConfigurationError: from the constructor, the schema is the database's own.
    :raises ConfigurationError, TryAgainLaterError: from each method that connects, in place of the driver's errors.
    """

    def __init__(self, name: str, database: Callable[[str, ReportWait], Database], schema: str) -> None:
        self._name = name
        self._schema = schema
        self._wait: str | None = None
        #: Table -> ids that it has with another type than ours, and that type.
        self._converted: dict[str, dict[str, str]] = {}
        try:
            self._database = database(schema, self._set_wait)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}.") from None

    @property
    def spool_bytes(self) -> int:
        """Bytes of spooled rows at which a load should begin."""
        return self._database.spool_bytes

    @property
    def numbers(self) -> frozenset[str]:
        """Columns of text that are numbers in an existing table. A value that is none is NULL there."""
        return frozenset(name for columns in self._converted.values() for name in columns if name in OFTEN_NUMBERS)

    def waiting(self) -> str | None:
        """Return one sentence about the warehouse's current wait, or None."""
        return self._wait

    def check(self) -> None:
        """Connect once, to find a wrong connection before anything is read."""
        with self._cursor() as cursor:
            cursor.execute("SELECT 1")

    def prepare(self, tables: Sequence[str]) -> None:
        """Create missing schema, tables and columns, and load no rows once, to find missing rights before the load.

        Existing columns and rows stay as they are.

        :raises ConfigurationError: a right is missing, or an existing column has another type or is too short.
        """
        self._with_retries(lambda: self._prepare(tables))

    def load(self, spool: Spool) -> int:
        """Add each row to its table and to `tracks`, unless its id is there: all rows, or none on an error.

        :returns: the number of rows that were new to their tables.
        """
        return self._with_retries(lambda: self._load(spool))

    def _prepare(self, tables: Sequence[str]) -> None:
        with self._transaction() as cursor:
            self._database.lock(cursor)
            if not self._database.has_schema(cursor):
                cursor.execute(f"CREATE SCHEMA {self._database.quoted(self._schema)}")
            existing = self._existing(cursor)
            self._converted = self._check_columns({one: existing[one] for one in (TRACKS, *tables) if one in existing})
            self._add_missing_columns(cursor, {one: existing[one] for one in (TRACKS, *tables) if one in existing})
            for table in (TRACKS, *tables):
                if table not in existing:
                    self._create(cursor, table)
            # To insert no rows fails as a load would, if a right or a primary key is missing.
            with temporary_file() as no_rows:
                stage = self._database.stage(cursor, _STAGE, no_rows)
            self._insert(cursor, dict.fromkeys(tables if self._database.rights_by_table else tables[:1], stage))

    def _load(self, spool: Spool) -> int:
        with self._transaction() as cursor:
            stages = {}
            for table, file in spool.files():
                stages[table] = self._database.stage(cursor, f"{_STAGE}_{table}", file)
            self._database.lock(cursor)
            return self._insert(cursor, stages)

    def _insert(self, cursor: Any, stages: Mapping[str, str]) -> int:
        """Insert staged rows.

        :param stages: table of an event -> the relation that has its rows.
        """
        load_time = self._database.load_time(cursor)
        return self._database.insert(
            cursor,
            [
                (self._insert_sql(stage, table, table, load_time), self._insert_sql(stage, TRACKS, table, load_time))
                for table, stage in stages.items()
            ],
        )

    def _insert_sql(self, stage: str, table: str, event: str, load_time: str) -> str:
        """Return the INSERT of a relation's rows into a table.

        :param event: value of the column `event`.
        """
        quoted = self._database.quoted
        load_values = {name: quoted("original_timestamp") for name, kind in LOAD_COLUMNS if kind is Kind.TIME}
        load_values |= dict.fromkeys(LOAD_TIMES, load_time)
        load_values |= {name: f"'{text}'" for name, text in SENDER_VALUES.items()} | {"event": f"'{event}'"}
        filled = self._filled_columns_of(table)
        for column in filled:
            if found := self._converted.get(table, {}).get(column.name):
                load_values[column.name] = self._database.converted(column, found)
        columns = ", ".join(quoted(column.name) for column in filled)
        values = ", ".join(load_values.get(column.name) or quoted(column.name) for column in filled)
        return self._database.insert_sql(stage, quoted(self._schema, table), columns, values)

    def _create(self, cursor: Any, table: str) -> None:
        columns = [
            self._declaration(column) + (self._database.id_constraint if column.kind is Kind.ID else "")
            for column in self._columns_of(table)
        ]
        self._database.create(cursor, table, ", ".join(columns))

    def _check_columns(self, existing: Mapping[str, _Columns]) -> dict[str, dict[str, str]]:
        """Check the types and lengths of existing columns.

        :returns: table -> ids that need a conversion -> the type that they have in the table.
        :raises ConfigurationError: columns have another type, or are too short. The text names all of them.
        """
        database = self._database
        faults, fixes = [], []
        converted: dict[str, dict[str, str]] = {}
        for table, columns in existing.items():
            for column in self._filled_columns_of(table):
                if column.name not in columns:
                    continue
                found, length = columns[column.name]
                needed = database.types[column.kind]
                fits = found.lower() in database.accepted_types[column.kind]
                if not fits and self._convertible(column, found):
                    converted.setdefault(table, {})[column.name] = found
                    fits = True
                too_short = fits and length is not None and length < _NEEDED_LENGTHS.get(column.kind, 0)
                if fits and not too_short:
                    continue
                shown = f"{found}({length})" if too_short else found
                faults.append(f"column {column.name} of table {self._schema}.{table} is {shown}, and not {needed}")
                if too_short:
                    fixes.append(
                        f"ALTER TABLE {database.quoted(self._schema, table)} ALTER COLUMN "
                        f"{database.quoted(column.name)} {database.alter_type} {needed}"
                    )
        if faults:
            fix = f"Run {'; '.join(fixes)}; or load" if fixes else "Load"
            raise ConfigurationError(f"{'; '.join(faults)}. Nothing was changed. {fix} into another schema")
        return converted

    def _convertible(self, column: Column, found: str) -> bool:
        """Return whether the column is an id that a table of Segment's may have as a number, or as text."""
        if column.kind is not Kind.NUMBER and column.name not in OFTEN_NUMBERS:
            return False
        return found.lower().partition("(")[0] in self._database.id_types[column.kind]

    def _add_missing_columns(self, cursor: Any, existing: Mapping[str, _Columns]) -> None:
        """Add the columns that existing tables lack.

        :raises ConfigurationError: a table is another user's. The text names tables, columns, statements and owners.
        """
        missing = {
            table: [column for column in self._columns_of(table) if column.name not in columns]
            for table, columns in existing.items()
        }
        statements = {
            table: self._database.additions(table, [self._declaration(column) for column in columns])
            for table, columns in missing.items()
            if columns
        }
        if not statements:
            return
        user, owners = self._database.owners(cursor)
        try:
            for table_statements in statements.values():
                for statement in table_statements:
                    cursor.execute(statement)
        except Exception as error:
            others = [table for table in statements if owners.get(table, user) != user]
            if not others or not self._database.is_not_allowed(error):
                raise
            raise ConfigurationError(
                _not_the_owner(self._database, user, owners, missing, statements, others)
            ) from None

    def _existing(self, cursor: Any) -> dict[str, _Columns]:
        """Return the columns of each existing table."""
        tables: dict[str, _Columns] = {}
        for table, column, kind, length in self._database.columns(cursor):
            tables.setdefault(table, {})[column] = (kind, length)
        return tables

    def _columns_of(self, table: str) -> Sequence[Column]:
        return (*columns_of(table), *self._database.additional_columns)

    def _filled_columns_of(self, table: str) -> Sequence[Column]:
        """Return the columns that a load fills."""
        additional = [column for column in self._database.additional_columns if column.name in LOAD_TIMES]
        return (*columns_of(table), *additional)

    def _declaration(self, column: Column) -> str:
        return f"{self._database.quoted(column.name)} {self._database.types[column.kind]}"

    def _with_retries(self, work: Callable[[], _T]) -> _T:
        for pause in _PAUSES:
            try:
                return work()
            except TryAgainNowError as error:
                self._wait = f"Trying again: {error}"
                time.sleep(pause)
        return work()

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self._cursor() as cursor, self._database.transaction(cursor):
            yield cursor

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """Connect, and close the connection at the end. Errors get the name of the connection.

        :raises ConfigurationError, TryAgainLaterError: in place of any error of the driver.
        """
        connection = None
        try:
            connection, cursor = self._database.connect()
            yield cursor
        except CustomerIOToSegmentError as error:
            raise type(error)(f"{self._name}: {error}.") from None
        except Exception as error:
            known = self._database.explain(error)
            if known is None:
                raise
            raise type(known)(f"{self._name}: {known}.") from None
        finally:
            self._wait = None
            if connection is not None:
                with suppress(Exception):
                    connection.close()

    def _set_wait(self, wait: str | None) -> None:
        self._wait = wait


def _not_the_owner(
    database: Database,
    user: str,
    owners: Mapping[str, str],
    missing: Mapping[str, Sequence[Column]],
    statements: Mapping[str, Sequence[str]],
    tables: Sequence[str],
) -> str:
    """Return the text of an error for tables of other owners that lack columns."""
    lacking = "; ".join(
        f"table {table} of {owners[table]} lacks {', '.join(column.name for column in missing[table])}"
        for table in tables
    )
    run = "; ".join(statement for table in tables for statement in statements[table])
    shares = "; ".join(
        database.share_tables.format(owner=database.quoted_as_told(owner), user=database.quoted_as_told(user))
        for owner in dict.fromkeys(owners[table] for table in tables)
        if database.share_tables
    )
    return (
        f"{lacking}, and only its owner can add a column. Run the task once as the owner, "
        f"{f'or {shares}, ' if shares else ''}or run as the owner: {run}"
    )

"""The load: what is in the spool goes into the tables, in one transaction."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from airflow_provider_cio.events.event import MAX_EVENT_BYTES, MAX_MESSAGE_ID
from airflow_provider_cio.exceptions import ConfigurationError, CustomerIOToSegmentError
from airflow_provider_cio.warehouse.database import Database, TryAgainNowError
from airflow_provider_cio.warehouse.spool import Spool
from airflow_provider_cio.warehouse.tables import MADE_BY, OF_THE_LOAD, TRACKS, Column, Kind, columns_of

#: Of each kind, the longest text that an event has: an existing column must not be shorter.
_LENGTHS = {Kind.ID: MAX_MESSAGE_ID, Kind.TEXT: MAX_EVENT_BYTES}
#: Where rows are staged, with the name of their table after it.
_STAGE = "customerio_stage"
#: Seconds before each further try.
_PAUSES = (1, 2, 4, 8)
_T = TypeVar("_T")
#: Name -> its type and, if it has one, its greatest length.
_Columns = dict[str, tuple[str, int | None]]


class Warehouse:
    """Segment's tables in one schema. Each method has a connection of its own, open no longer than it takes.

    :param name: how errors call the connection.
    :param database: makes the `Database`; is given the schema, and what tells of a wait.
    :param schema: lower-case letters, digits and underscores.
    """

    def __init__(
        self, name: str, database: Callable[[str, Callable[[str | None], None]], Database], schema: str
    ) -> None:
        self._name = name
        self._schema = schema
        self._waiting: str | None = None
        self._database = database(schema, self._wait)

    @property
    def spool_bytes(self) -> int:
        """With so many bytes in the spool it is time for a load."""
        return self._database.spool_bytes

    def waiting(self) -> str | None:
        """What it waits for, in one sentence; None if it does not."""
        return self._waiting

    def check(self) -> None:
        """Connect, once, to find a wrong connection before anything is read.

        :raises ConfigurationError, TryAgainLaterError: it can't.
        """
        with self._cursor() as cursor:
            cursor.execute("SELECT 1")

    def prepare(self, tables: Sequence[str]) -> None:
        """Make what is not there of schema, tables and columns, and see that a load would succeed.

        Nothing that is there is changed.

        :raises ConfigurationError: a right is missing, or an existing table is of another form.
        """
        self._several_times(lambda: self._prepare(tables))

    def load(self, spool: Spool) -> int:
        """Add the rows whose ids are not there, to each table and to `tracks`: all of them, or none.

        :returns: how many were new to their tables.
        """
        return self._several_times(lambda: self._load(spool))

    def _prepare(self, tables: Sequence[str]) -> None:
        with self._transaction() as cursor:
            self._database.lock(cursor)
            if not self._database.has_schema(cursor):
                cursor.execute(f"CREATE SCHEMA {self._database.quoted(self._schema)}")
            existing = self._existing(cursor)
            self._check_columns({table: existing[table] for table in (TRACKS, *tables) if table in existing})
            for table in (TRACKS, *tables):
                if table in existing:
                    self._complete(cursor, table, existing[table])
                else:
                    self._create(cursor, table)
            with tempfile.TemporaryFile() as nothing:  # shows whether the rights and the keys are there
                stage = self._database.stage(cursor, _STAGE, nothing)
            self._insert(cursor, dict.fromkeys(tables if self._database.rights_by_table else tables[:1], stage))

    def _load(self, spool: Spool) -> int:
        with self._transaction() as cursor:
            stages = {}
            for table, file in spool.files():
                stages[table] = self._database.stage(cursor, f"{_STAGE}_{table}", file)
            self._database.lock(cursor)
            return self._insert(cursor, stages)

    def _insert(self, cursor: Any, stages: Mapping[str, str]) -> int:
        """:param stages: table -> where its rows are."""
        moment = self._database.moment(cursor)
        return self._database.insert(
            cursor,
            [
                (self._insertion(stage, table, table, moment), self._insertion(stage, TRACKS, table, moment))
                for table, stage in stages.items()
            ],
        )

    def _insertion(self, stage: str, into: str, event: str, moment: str) -> str:
        quoted = self._database.quoted
        of_the_load = {name: moment for name, kind in (*OF_THE_LOAD, *self._database.own_columns) if kind is Kind.TIME}
        of_the_load |= {name: f"'{text}'" for name, text in MADE_BY.items()}
        of_the_load |= {"timestamp": quoted("original_timestamp"), "event": f"'{event}'"}
        names = [name for name, _ in self._columns_of(into)]
        listed = ", ".join(map(quoted, names))
        values = ", ".join(of_the_load.get(name) or quoted(name) for name in names)
        return self._database.insertion(stage, self._named(into), listed, values)

    def _create(self, cursor: Any, table: str) -> None:
        columns = ", ".join(
            f"{self._declared(column)}{self._database.of_the_id * (column.kind is Kind.ID)}"
            for column in self._columns_of(table)
        )
        self._database.create(cursor, table, columns)

    def _check_columns(self, existing: Mapping[str, _Columns]) -> None:
        """:raises ConfigurationError: columns are of another type, or too short; all of them are named."""
        wrong, fixes = [], []
        for table, there in existing.items():
            for column in self._columns_of(table):
                if column.name not in there:
                    continue
                kind, length = there[column.name]
                too_short = length is not None and length < _LENGTHS.get(column.kind, 0)
                if kind.lower() not in self._database.accepted[column.kind] or too_short:
                    found = f"{kind}({length})" if too_short else kind
                    wanted = self._database.types[column.kind]
                    wrong.append(f"column {column.name} of table {self._schema}.{table} is {found}, and not {wanted}")
                    name, retype = self._database.quoted(column.name), self._database.retype
                    fixes.append(f"ALTER TABLE {self._named(table)} ALTER COLUMN {name} {retype} {wanted}")
        if wrong:
            raise ConfigurationError(
                f"{'; '.join(wrong)}. Nothing was changed. {'; '.join(fixes)}; or load into another schema"
            )

    def _complete(self, cursor: Any, table: str, existing: _Columns) -> None:
        missing = [self._declared(column) for column in self._columns_of(table) if column.name not in existing]
        if missing:
            self._database.add_columns(cursor, table, missing)

    def _existing(self, cursor: Any) -> dict[str, _Columns]:
        """Of each table."""
        tables: dict[str, _Columns] = {}
        for table, column, kind, length in self._database.columns(cursor):
            tables.setdefault(table, {})[column] = (kind, length)
        return tables

    def _columns_of(self, table: str) -> Sequence[Column]:
        return (*columns_of(table), *self._database.own_columns)

    def _named(self, table: str) -> str:
        return self._database.quoted(self._schema, table)

    def _declared(self, column: Column) -> str:
        return f"{self._database.quoted(column.name)} {self._database.types[column.kind]}"

    def _several_times(self, work: Callable[[], _T]) -> _T:
        for pause in _PAUSES:
            try:
                return work()
            except TryAgainNowError as error:
                self._waiting = f"Trying again: {error}"
                time.sleep(pause)
        return work()

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self._cursor() as cursor, self._database.transaction(cursor):
            yield cursor

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """:raises ConfigurationError, TryAgainLaterError: in place of any error of the driver."""
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
            self._waiting = None
            if connection is not None:
                with suppress(Exception):
                    connection.close()

    def _wait(self, what: str | None) -> None:
        self._waiting = what

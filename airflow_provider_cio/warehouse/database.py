"""Base class of the databases: the statements and types that a load needs, and the errors that they share."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, ClassVar

from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.http.errors import safe_text
from airflow_provider_cio.warehouse.tables import NUMBER, SPOOLED, Column, Kind

#: Table, column, type, and the greatest length if the type has one.
ColumnRow = tuple[str, str, str, int | None]
#: Called with a sentence when a wait begins, and with None when it ends.
ReportWait = Callable[[str | None], None]

#: End of a host, after which there may be options, such as a token.
_END_OF_HOST = re.compile(r"[\s?#&;=]")
#: Users, passwords and tokens in the host of a connection, which drivers repeat in their errors.
_SECRETS = re.compile(r"[^\s\"'/]+(?=@)|(?i:(?<=token=)|(?<=password=))[^\s\"'&;]+")


def public_host(host: str) -> str:
    """Return a host without what may be secret: a user, a password, options. Empty if that can't be told apart."""
    login, _, rest = host.rpartition("@")
    if _END_OF_HOST.search(login):
        return ""
    return _END_OF_HOST.split(rest.rpartition("://")[2])[0]


def shown(text: str) -> str:
    """Return a driver's text as one short line, without addresses, and without the secrets of a host."""
    return safe_text(_SECRETS.sub("***", text))


class TryAgainNowError(TryAgainLaterError):
    """The database undid the load; another try within seconds may succeed."""


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


class Database(ABC):
    """A kind of database. The defaults suit a cursor (PEP 249) that commits each statement outside of BEGIN.

    :param hook: Airflow's hook of the connection.
    :param schema: name of the schema that has the tables.
    :param report_wait: told of each wait for another process or for the server.
    """

    #: Name of the product, for errors and logs.
    name: ClassVar[str]
    #: Scheme of its servers' names in OpenLineage.
    scheme: ClassVar[str]
    #: Distribution with Airflow's provider for it.
    package: ClassVar[str]
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
    #: Columns that Segment makes in this kind of database only. A load leaves them NULL, but for `LOAD_TIMES`.
    additional_columns: ClassVar[Sequence[Column]] = ()
    #: Types of existing columns for ids that are not of the declared type: ids are converted to them.
    id_types: ClassVar[Mapping[Kind, Collection[str]]]
    #: Condition that the text in braces is a number.
    is_number: ClassVar[str] = f"{{}} ~ '{NUMBER.replace('{', '{{').replace('}', '}}')}'"
    #: Expression for a name in the catalog, in the form in which the database compares it.
    folded: ClassVar[str] = "{}"
    #: Schemas that are the database's own, as a regular expression.
    own_schemas: ClassVar[str] = "information_schema|pg_.*"
    #: Statements that begin a transaction, with the settings that a load relies on.
    begin: ClassVar[Sequence[str]] = ("BEGIN",)
    #: Whether the user's rights can differ between two tables of one schema.
    rights_by_table: ClassVar[bool] = True
    #: Words between a column and its new type in ALTER COLUMN.
    alter_type: ClassVar[str] = "TYPE"
    #: Statement that lets a user add columns to the tables of an owner; empty if there is none.
    share_tables: ClassVar[str] = ""
    #: Quotation mark around a name.
    quote: ClassVar[str] = '"'
    #: Bytes of spooled rows at which a load begins: some 300,000 rows, which bounds the use of the worker's disk.
    spool_bytes: ClassVar[int] = 100 * 1000 * 1000
    #: Expression for the present time; within a transaction, of the moment when it is evaluated.
    clock: ClassVar[str]

    def __init__(self, hook: Any, schema: str, report_wait: ReportWait) -> None:
        if re.fullmatch(self.own_schemas, schema):
            raise ConfigurationError(f"schema {schema} is the database's own: give another one, such as customerio")
        self._hook = hook
        self._schema = schema
        self._report_wait = report_wait

    @classmethod
    def namespace(cls, host: str, port: int | None) -> str:
        """Return OpenLineage's name of the server: https://openlineage.io/docs/spec/naming.

        A user, a password or options in the host are left out.
        """
        return f"{cls.scheme}://{public_host(host)}{f':{port}' if port else ''}"

    @classmethod
    def host(cls, connection: Any) -> str:
        """Return the server in an Airflow connection; empty if there is none."""
        return connection.host or ""

    @classmethod
    def dataset_name(cls, *names: str) -> str:
        """Return OpenLineage's name of a table.

        :param names: of the database, which may be empty, of the schema and of the table.
        """
        return ".".join(filter(None, names))

    @classmethod
    def database_name(cls, connection: Any) -> str:
        """Return the name of the database in an Airflow connection; empty if there is none."""
        return connection.schema or ""

    def quoted(self, *names: str) -> str:
        """Quote names and join them with dots: a schema and its table, for example."""
        return ".".join(f"{self.quote}{name}{self.quote}" for name in names)

    def quoted_as_told(self, name: str) -> str:
        """Quote the name of a user or role, as the database tells it: with capitals and spaces if it has some."""
        return f"{self.quote}{name.replace(self.quote, self.quote * 2)}{self.quote}"

    @abstractmethod
    def connect(self) -> tuple[Any, Any]:
        """Return a new connection, which the caller closes, and a cursor of it."""

    @contextmanager
    def transaction(self, cursor: Any) -> Iterator[None]:
        """Commit at the end, or roll back on an exception."""
        try:
            for statement in self.begin:
                cursor.execute(statement)
            yield
            cursor.execute("COMMIT")
        except BaseException:
            with suppress(Exception):  # if the connection is gone, the database rolls back by itself
                cursor.execute("ROLLBACK")
            raise

    def has_schema(self, cursor: Any) -> bool:
        """Return whether the schema exists."""
        cursor.execute(
            f"SELECT 1 FROM information_schema.schemata WHERE {self.folded.format('schema_name')} = '{self._schema}' "
            "AND catalog_name = current_database()"
        )
        return bool(cursor.fetchone())

    def columns(self, cursor: Any) -> Sequence[ColumnRow]:
        """Return the columns of all tables in the schema."""
        cursor.execute(
            f"SELECT {self.folded.format('table_name')}, {self.folded.format('column_name')}, data_type, "
            "character_maximum_length FROM information_schema.columns WHERE "
            f"{self.folded.format('table_schema')} = '{self._schema}' AND table_catalog = current_database()"
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

    def additions(self, table: str, columns: Sequence[str]) -> Sequence[str]:
        """Return the statements that add columns to a table.

        :param columns: their declarations.
        """
        return [f"ALTER TABLE {self.quoted(self._schema, table)} ADD COLUMN {column}" for column in columns]

    def is_not_allowed(self, error: Exception) -> bool:
        """Return whether the driver's error is about a missing privilege."""
        return False

    def owners(self, cursor: Any) -> tuple[str, Mapping[str, str]]:
        """Return the user, and the owner of each table in the schema; no table if a right does not hang on it."""
        return "", {}

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

    def insert_sql(self, stage: str, table: str, columns: str, values: str) -> str:
        """Return an INSERT of the staged rows whose id is not in the table yet, one row for each id.

        :param table: with its schema, quoted.
        :param columns: of the table, quoted.
        :param values: the expressions for them, in the same order.
        """
        key, nth = self.quoted("id"), self.quoted("nth")
        return (
            f"INSERT INTO {table} ({columns}) SELECT {values} FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY {key} "
            f"ORDER BY {key}) AS {nth} FROM {stage}) AS staged WHERE {nth} = 1 AND NOT EXISTS "
            f"(SELECT 1 FROM {table} AS loaded WHERE loaded.{key} = staged.{key})"
        )

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

    def converted(self, column: Column, found: str) -> str:
        """Return the expression for a staged id in a column of another type; text that is no number becomes NULL."""
        name = self.quoted(column.name)
        cast = f"CAST({name} AS {found})"
        if column.kind is Kind.TEXT:
            return f"CASE WHEN {self.is_number.format(name)} THEN {cast} END"
        return cast

    def stage_columns(self) -> str:
        """Return the declarations of the columns of a staged relation."""
        return ", ".join(f"{self.quoted(name)} {self.types[kind]}" for name, kind in SPOOLED)

"""What differs from database to database, and what the load needs of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import IO, Any, ClassVar

from airflow_provider_cio.exceptions import ConfigurationError, CustomerIOToSegmentError, TryAgainLaterError
from airflow_provider_cio.sinks.warehouse.tables import SPOOLED, Kind


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
    """One kind of database. It speaks through cursors (PEP 249) that commit each statement outside of BEGIN.

    :param open_connection: the Airflow hook's `get_conn`.
    :param waits: is told what is waited for, None when it came.
    """

    #: As errors and logs call it.
    name: ClassVar[str]
    #: The extra of this distribution that installs its Airflow provider.
    extra: ClassVar[str]
    #: What a new column is declared as.
    types: ClassVar[Mapping[Kind, str]]
    #: What `information_schema.columns.data_type` may call an existing one, in lower case.
    accepted: ClassVar[Mapping[Kind, Collection[str]]]
    #: What a new table declares of its column `id`, besides that it is never NULL; begins with a comma, or is empty.
    key: ClassVar[str]
    #: What a new table's declaration has after its columns.
    layout: ClassVar[str] = ""
    #: Of the spool, with which a load begins, without being asked: about 300,000 rows.
    spool_bytes: ClassVar[int] = 100 * 1000 * 1000
    #: An expression for the present time; within a transaction, of the moment when it is evaluated.
    clock: ClassVar[str]

    def __init__(self, open_connection: Callable[[], Any], waits: Callable[[str | None], None]) -> None:
        self._open_connection = open_connection
        self._waits = waits

    @classmethod
    def namespace(cls, host: str, port: int | None) -> str:
        """OpenLineage's name of the server: https://openlineage.io/docs/spec/naming."""
        return f"{cls.extra}://{host}{f':{port}' if port else ''}"

    @abstractmethod
    def connect(self) -> tuple[Any, Any]:
        """A new connection, and a cursor of it. The caller closes the connection."""

    def has_schema(self, cursor: Any, schema: str) -> bool:
        cursor.execute(
            f"SELECT 1 FROM information_schema.schemata WHERE schema_name = '{schema}' "
            "AND catalog_name = current_database()"
        )
        return bool(cursor.fetchone())

    @abstractmethod
    def stage(self, cursor: Any, name: str, file: IO[bytes]) -> None:
        """Within a transaction: make a relation of a file of CSV lines, that no other connection sees."""

    @abstractmethod
    def lock(self, cursor: Any, schema: str) -> None:
        """Within a transaction that has done nothing but to stage: let nobody else load into this schema until it ends,
        waiting for who does."""

    @abstractmethod
    def insertion(self, stage: str, table: str, columns: str, values: str) -> str:
        """An INSERT of the staged rows whose id is not in the table yet, one for each id.

        :param table: with its schema, quoted.
        :param columns: of the table, quoted; `values` are the expressions for them, in the same order.
        """

    @abstractmethod
    def inserted(self, cursor: Any) -> int:
        """Rows that the INSERT just executed has added."""

    @abstractmethod
    def explain(self, error: Exception) -> Exception | None:
        """An error of the driver as one of ours, or None if it is no error of the driver.

        No value of a row may be in its text.
        """

    def stage_columns(self) -> str:
        """The columns of a staged relation, for its declaration."""
        return ", ".join(f'"{name}" {self.types[kind]}' for name, kind in SPOOLED)

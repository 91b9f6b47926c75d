"""Load into a DuckDB file. Only one process at a time can have it open, so each load opens and closes it."""

from __future__ import annotations

import copy
import logging
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, ClassVar

from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.warehouse.database import (
    Database,
    ReportWait,
    TryAgainNowError,
    rows_rejected,
    shown,
)
from airflow_provider_cio.warehouse.tables import SPOOLED, Kind

#: Longest time, in seconds, that a load waits for another process to close the file before it leaves the retry to
#: Airflow.
OPEN_TIMEOUT = 600.0
#: Longest pause, in seconds, between two tries to open the file, so that a load soon notices that it is free.
_LONGEST_PAUSE = 1.0
#: Logger for the hook after it has opened the file once, because it logs a line each time.
_quiet = logging.getLogger(f"{__name__}.polling")
_quiet.setLevel(logging.WARNING)
#: Memory for DuckDB. It is enough for tables of any size, because DuckDB spills to a folder beside the file. By default
#: DuckDB takes four fifths of the machine's memory.
MEMORY = "64MB"
#: Memory for the rest of the run after a load ran out of `MEMORY`: many tables in DuckDB 1, or a table with a key.
MORE_MEMORY = "256MB"
#: Threads for DuckDB, which by default uses all cores of the worker.
THREADS = 1
_TYPES = {
    Kind.ID: "VARCHAR",
    Kind.TEXT: "VARCHAR",
    Kind.NUMBER: "BIGINT",
    Kind.BOOLEAN: "BOOLEAN",
    Kind.TIME: "TIMESTAMPTZ",
}
#: Options of `read_csv` that leave nothing to guess. Sizes are in bytes: the line of an event is under 256 KB, and
#: buffers for longer lines would take 32 MB.
_CSV = (
    "header = false, auto_detect = false, delim = ',', quote = '\"', escape = '\"', new_line = '\\n', "
    "buffer_size = 1048576, max_line_size = 262144, nullstr = 'null', allow_quoted_nulls = false, columns = {"
    + ", ".join(f"'{name}': '{_TYPES[kind]}'" for name, kind in SPOOLED)
    + "}"
)


class DuckDB(Database):
    """DuckDB. Its tables need no key, because a load has the file alone. Each load would rewrite a key's index."""

    name = "DuckDB"
    scheme = "duckdb"
    package = "apache-airflow-providers-duckdb"
    types: ClassVar = _TYPES
    accepted_types: ClassVar = {
        Kind.ID: ("varchar",),
        Kind.TEXT: ("varchar",),
        Kind.NUMBER: ("bigint",),
        Kind.BOOLEAN: ("boolean",),
        Kind.TIME: ("timestamp with time zone",),
    }
    id_types: ClassVar = {
        Kind.NUMBER: ("varchar", "decimal", "hugeint", "integer", "double"),
        Kind.TEXT: ("bigint", "decimal", "hugeint", "double"),
    }
    folded = "lower({})"
    own_schemas = "information_schema|pg_catalog|temp|system"
    # Larger than the others', because each load scans all ids and rewrites up to 122,880 rows of each table.
    spool_bytes = 200 * 1000 * 1000
    clock = "now()"

    def __init__(self, hook: Any, schema: str, report_wait: ReportWait) -> None:
        super().__init__(hook, schema, report_wait)
        self._memory = MEMORY

    @classmethod
    def namespace(cls, host: str, port: int | None) -> str:
        """Return the path of the file, without options, such as a token."""
        return f"duckdb://{host.partition('?')[0]}"

    def connect(self) -> tuple[Any, Any]:
        """Open the file, with DuckDB's use of memory and threads limited.

        :raises ConfigurationError: the database is in memory, so its tables would be lost on closing; or it has the
            name of the schema, so DuckDB can't tell them apart.
        """
        import duckdb

        connection = self._open_when_free()
        try:
            connection.execute(
                "SELECT type, path, lower(database_name) FROM duckdb_databases() WHERE database_name = "
                "current_database()"
            )
            kind, path, name = connection.fetchone()
            if kind == "duckdb" and path is None:
                raise ConfigurationError(
                    "the database is in memory and is lost when it is closed: put the path of a file into field Host"
                )
            if name == self._schema:
                raise ConfigurationError(
                    f"file and schema are both named {name}, so DuckDB can't tell which of them a query means: rename "
                    "the file, or load into another schema"
                )
            connection.execute(f"SET threads = {THREADS}")
            connection.execute(f"SET memory_limit = '{self._memory}'")
            # Keep freed blocks: giving each back to the system takes an eighth of a load's time.
            with suppress(duckdb.Error):  # DuckDB 1.3 lacks the setting, and no version lets it shrink
                connection.execute(f"SET block_allocator_memory = '{self._memory}'")
        except BaseException:
            connection.close()
            raise
        return connection, connection

    def stage(self, cursor: Any, name: str, file: IO[bytes]) -> str:
        path = f"/dev/fd/{file.fileno()}"  # the file has no name
        cursor.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM read_csv('{path}', {_CSV})")
        first_of_each_id = f'SELECT min(rowid) FROM {name} GROUP BY "id"'
        cursor.execute(f"DELETE FROM {name} WHERE rowid NOT IN ({first_of_each_id})")
        return name

    def lock(self, cursor: Any) -> None:
        """Do nothing, because an open file is closed to every other process."""

    def insert_sql(self, stage: str, table: str, columns: str, values: str) -> str:
        loaded = f'SELECT staged.rowid FROM {stage} AS staged JOIN {table} AS loaded ON loaded."id" = staged."id"'
        return f"INSERT INTO {table} ({columns}) SELECT {values} FROM {stage} WHERE rowid NOT IN ({loaded})"

    def added_rows(self, cursor: Any) -> int:
        return int(cursor.fetchone()[0])

    def explain(self, error: Exception) -> Exception | None:
        import duckdb

        if not isinstance(error, duckdb.Error):
            return None
        text = shown(str(error))
        if isinstance(error, duckdb.InvalidInputException) and "read-only" in text:
            return ConfigurationError("the file is opened read-only: remove read_only from the connection's extra")
        if isinstance(error, duckdb.OutOfMemoryException):
            if self._memory != MORE_MEMORY:
                self._memory = MORE_MEMORY
                return TryAgainNowError(f"the load does not fit into {MEMORY} of memory")
            return ConfigurationError(
                f"the load does not fit into {MORE_MEMORY} of memory ({type(error).__name__}). A primary key or an "
                "index that was added to a table has to fit: make the table without it, or load into another schema"
            )
        if isinstance(error, duckdb.IOException) and "Cannot open file" in text:
            return ConfigurationError(f"{text}. Create the folder, and let this worker write to it")
        if isinstance(error, duckdb.IOException) and "Is a directory" in text:
            return ConfigurationError(f"{text}. Put the path of a file into field Host")
        if isinstance(error, duckdb.IOException) and "not a valid DuckDB database" in text:
            return ConfigurationError(f"{text} Use the path of another file, or delete this one if it is empty")
        # Only these texts can hold no value of a row: they name files and tables.
        if isinstance(error, duckdb.IOException | duckdb.ConnectionException):
            return TryAgainLaterError(f"{text} ({type(error).__name__})")
        if isinstance(error, duckdb.BinderException | duckdb.CatalogException):
            return ConfigurationError(f"{text}. Check whether somebody else changed schema {self._schema}")
        if isinstance(error, duckdb.DataError | duckdb.IntegrityError | duckdb.ProgrammingError):
            return rows_rejected(type(error).__name__)
        return TryAgainLaterError(type(error).__name__)

    def _make_file(self) -> None:
        """Create the file if there is none: complete, under a temporary name, and then under its own.

        DuckDB begins with an empty file and can't open an empty one. A process that dies in between, or a second one
        that comes then, would leave a file that can't be opened.
        """
        import duckdb

        path = self._hook.get_database()
        if path.startswith((":memory:", "md:", "motherduck:")) or os.path.exists(path):
            return
        temporary = Path(path).with_name(f".{Path(path).name}.{uuid.uuid4().hex}")
        hook = _silenced(self._hook)
        hook.database = str(temporary)
        # Opening the file itself reports any error again. Without links, as on some file systems, DuckDB creates it.
        with suppress(duckdb.Error, OSError):
            try:
                hook.get_conn().close()
                os.link(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def _open_when_free(self) -> Any:
        """Open the file as soon as no other process has it open.

        :raises TryAgainLaterError: another process has not closed it within ten minutes.
        """
        import duckdb

        self._make_file()
        began, pause, hook = time.monotonic(), 0.02, self._hook
        path = hook.get_database().partition("?")[0]
        while True:
            try:
                connection = hook.get_conn()
                self._report_wait(None)
                self._hook = _silenced(hook)
                return connection
            except duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise
                if time.monotonic() - began > OPEN_TIMEOUT:
                    raise TryAgainLaterError(
                        f"another process has not closed {path} within {OPEN_TIMEOUT:g} s. Close the file there, or "
                        "let fewer runs load at the same time"
                    ) from None
                self._report_wait(f"Waiting for another process to close {path}, {OPEN_TIMEOUT:g} s at most")
                hook = _silenced(hook)
                time.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 1.5)


def _silenced(hook: Any) -> Any:
    """Return the same hook without its log lines."""
    hook = copy.copy(hook)
    hook._log = _quiet
    return hook

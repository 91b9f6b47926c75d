"""A DuckDB file. One process at a time can have it open, so loads take turns, and others can read between them."""

from __future__ import annotations

import copy
import logging
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, ClassVar

from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.warehouse.database import Database, TryAgainNowError
from airflow_provider_cio.warehouse.tables import SPOOLED, Kind

#: Seconds: how long a load waits for another process to close the file.
PATIENCE = 600.0
_LONGEST_PAUSE = 1.0
#: What the hook logs to while it is asked again and again: it would have a line for each time.
_quiet = logging.getLogger(f"{__name__}.polling")
_quiet.setLevel(logging.WARNING)
#: What DuckDB may take of the worker, which is the same for any size of table: what does not fit goes to disk, into a
#: folder beside the file. By default it would take four fifths of the machine's memory, and each of its cores.
MEMORY = "64MB"
#: The same, once a load did not succeed with less: many tables in DuckDB 1, or a table with a key.
MORE_MEMORY = "256MB"
THREADS = 1
_TYPES = {Kind.ID: "VARCHAR", Kind.TEXT: "VARCHAR", Kind.BOOLEAN: "BOOLEAN", Kind.TIME: "TIMESTAMPTZ"}
# Nothing is guessed: not the types, nor what ends a line, nor whether a quoted null is NULL. No event makes a line of
# 256 KB, and buffers for longer ones would take 32 MB.
_CSV = (
    "header = false, auto_detect = false, delim = ',', quote = '\"', escape = '\"', new_line = '\\n', "
    "buffer_size = 1048576, max_line_size = 262144, nullstr = 'null', allow_quoted_nulls = false, columns = {"
    + ", ".join(f"'{name}': '{_TYPES[kind]}'" for name, kind in SPOOLED)
    + "}"
)


class DuckDB(Database):
    name = "DuckDB"
    extra = "duckdb"
    types: ClassVar = _TYPES
    accepted: ClassVar = {
        Kind.ID: ("varchar",),
        Kind.TEXT: ("varchar",),
        Kind.BOOLEAN: ("boolean",),
        Kind.TIME: ("timestamp with time zone",),
    }
    # Each load writes the last rows of a table again, up to 122,880, and looks through all ids: fewer loads cost less.
    spool_bytes = 200 * 1000 * 1000
    # No key is needed, since loads are alone with the file; and an index of all ids is written anew with each load.
    clock = "now()"

    def __init__(self, hook: Any, schema: str, waits: Callable[[str | None], None]) -> None:
        super().__init__(hook, schema, waits)
        self._memory = MEMORY

    def connect(self) -> tuple[Any, Any]:
        """:raises ConfigurationError: a database in memory, which would be gone at once."""
        import duckdb

        connection = self._open_when_free()
        try:
            connection.execute("SELECT type, path FROM duckdb_databases() WHERE database_name = current_database()")
            if connection.fetchone() == ("duckdb", None):
                raise ConfigurationError(
                    "it is in memory, and gone when it is closed: give the connection a path (field Host)"
                )
            connection.execute(f"SET threads = {THREADS}")
            connection.execute(f"SET memory_limit = '{self._memory}'")
            # Kept, rather than given back to the system block by block, which is an eighth of a load's time.
            with suppress(duckdb.Error):  # DuckDB 1.3 does not know it, and none makes it less than it was
                connection.execute(f"SET block_allocator_memory = '{self._memory}'")
        except BaseException:
            connection.close()
            raise
        return connection, connection

    def stage(self, cursor: Any, name: str, file: IO[bytes]) -> str:
        path = f"/dev/fd/{file.fileno()}"  # the file has no name
        cursor.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM read_csv('{path}', {_CSV})")
        firsts = f'SELECT min(rowid) FROM {name} GROUP BY "id"'
        cursor.execute(f"DELETE FROM {name} WHERE rowid NOT IN ({firsts})")
        return name

    def lock(self, cursor: Any) -> None:
        """Who has the file open, has it alone."""

    def insertion(self, stage: str, table: str, columns: str, values: str) -> str:
        known = f'SELECT staged.rowid FROM {stage} AS staged JOIN {table} AS loaded ON loaded."id" = staged."id"'
        return f"INSERT INTO {table} ({columns}) SELECT {values} FROM {stage} WHERE rowid NOT IN ({known})"

    def inserted(self, cursor: Any) -> int:
        return int(cursor.fetchone()[0])

    def explain(self, error: Exception) -> Exception | None:
        import duckdb

        if not isinstance(error, duckdb.Error):
            return None
        text = " ".join(str(error).split())
        if isinstance(error, duckdb.ConversionException | duckdb.ConstraintException):  # the text holds values
            return ConfigurationError(f"it does not take the rows, by a rule of a table ({type(error).__name__})")
        if isinstance(error, duckdb.InvalidInputException) and "read-only" in text:
            return ConfigurationError("it is opened read-only: take read_only from the connection's extra")
        if isinstance(error, duckdb.OutOfMemoryException):
            if self._memory != MORE_MEMORY:
                self._memory = MORE_MEMORY
                return TryAgainNowError(f"{MEMORY} of memory were not enough")
            return ConfigurationError(
                f"the load does not fit into {MORE_MEMORY} ({type(error).__name__}). A primary key or an index that "
                "was added to a table has to: make a table without it, or load into another schema"
            )
        if isinstance(error, duckdb.IOException) and "Cannot open file" in text:
            return ConfigurationError(f"{text}. The folder must be there, and this worker may write to it")
        if isinstance(error, duckdb.IOException) and "not a valid DuckDB database" in text:
            return ConfigurationError(f"{text} Give the path of another file; or delete it, if it is empty")
        return TryAgainLaterError(f"{text} ({type(error).__name__})")

    def _make_file(self) -> None:
        """If there is none, make it under another name, and give it its own once it is whole.

        DuckDB makes an empty file first, and opens none that is empty: who dies there, or comes when another one is at
        it, would leave a file that nobody can open.
        """
        import duckdb

        path = self._hook.get_database()
        if path.startswith((":memory:", "md:", "motherduck:")) or os.path.exists(path):
            return
        made = Path(path).with_name(f".{Path(path).name}.{uuid.uuid4().hex}")
        maker = copy.copy(self._hook)
        maker.database = str(made)
        # What hinders it, DuckDB will say of the file itself. Some file systems have no links.
        with suppress(duckdb.Error, OSError):
            try:
                maker.get_conn().close()
                os.link(made, path)
            finally:
                made.unlink(missing_ok=True)

    def _open_when_free(self) -> Any:
        """:raises TryAgainLaterError: another process has it open all the time."""
        import duckdb

        self._make_file()
        began, pause, hook = time.monotonic(), 0.02, self._hook
        while True:
            try:
                connection = hook.get_conn()
                self._waits(None)
                return connection
            except duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise
                if time.monotonic() - began > PATIENCE:
                    raise TryAgainLaterError("another process has it open, and does not close it") from None
                self._waits("Waiting for another process to close the DuckDB file")
                if hook is self._hook:
                    hook = copy.copy(hook)
                    hook._log = _quiet
                time.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 1.5)

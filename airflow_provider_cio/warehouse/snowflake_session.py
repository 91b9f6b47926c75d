"""Sessions of Snowflake, opened by Airflow's hook and run by Snowflake's own driver."""

from __future__ import annotations

import copy
import itertools
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.warehouse.database import ReportWait, shown
from airflow_provider_cio.warehouse.spool import temporary_file, write_error
from airflow_provider_cio.warehouse.tables import SPOOLED, Kind, csv_values

#: Settings that a load relies on, because an account, a user or a connection may have others.
_SETTINGS: Mapping[str, object] = {
    "ABORT_DETACHED_QUERY": True,
    "AUTOCOMMIT": True,
    "TIMESTAMP_INPUT_FORMAT": "AUTO",
    "TIMEZONE": "UTC",
    "USE_CACHED_RESULT": False,  # the check of the lock repeats one SELECT
}
#: SQLSTATE of a statement that Snowflake has stopped: for its time-out, for LOCK_TIMEOUT, since too many wait for a
#: lock, or since somebody canceled it.
STOPPED = "57014"
#: Numbers of errors with that SQLSTATE: canceled; time-out of the session or of the warehouse.
CANCELED, TIMED_OUT = 604, 630
#: Seconds after a statement's time-out when the driver gives up, too. Without a time-out, it would retry for ever.
_MARGIN = 60
#: Rows that are in memory at a time while they are written as parquet: some 5 MB.
_ROWS = 5000


class Session:
    """A connection and its cursor in one: drops staged tables on `close`.

    :param connection: of the driver.
    :param timeout: longest time of a statement, in seconds.
    """

    def __init__(self, connection: Any, timeout: int, report_wait: ReportWait) -> None:
        #: Tables to drop on `close`, quoted.
        self.staged: list[str] = []
        #: Temporary stage of the session, quoted; empty if there is none.
        self.files = ""
        #: Number of rows that the last statement changed.
        self.rowcount = 0
        self._connection = connection
        self._cursor = connection.cursor()
        self._timeout = timeout
        self._report_wait = report_wait

    def execute(
        self,
        sql: str,
        file: IO[bytes] | None = None,
        *,
        wait: str = "Waiting for Snowflake to answer",
        timeout: int | None = None,
    ) -> list[tuple[Any, ...]]:
        """Return the rows of a statement.

        :param file: the content for a PUT.
        :param wait: what the session is said to wait for.
        :param timeout: seconds after which the driver gives up; by default, later than Snowflake does.
        """
        self._report_wait(wait)  # the driver retries by itself
        try:
            self._cursor.execute(
                sql, timeout=timeout or self._timeout + _MARGIN, **({"file_stream": file} if file else {})
            )
            self.rowcount = self._cursor.rowcount or 0
            rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        finally:
            self._report_wait(None)
        return rows

    def put(self, file: IO[bytes]) -> str:
        """Upload spooled rows as parquet into the session's stage.

        CSV would not do, because Snowflake can't tell the text "null" from NULL there.

        :returns: the file in the stage, as statements name it.
        """
        name = f"{uuid.uuid4().hex}.parquet"
        rows = temporary_file()
        try:
            _write_parquet(file, rows)
            self.execute(f"PUT 'file://{name}' @{self.files} SOURCE_COMPRESSION = NONE AUTO_COMPRESS = FALSE", rows)
        finally:
            with suppress(OSError):  # closing writes what is left, which a full disk refuses
                rows.close()
        return f"@{self.files}/{name}"

    def close(self) -> None:
        """Drop the staged tables, and close the connection."""
        try:
            for table in self.staged:
                with suppress(Exception):  # a later load drops what is left
                    self.execute(f"DROP TABLE IF EXISTS {table}")
        finally:
            self._connection.close()


def open_session(hook: Any, settings: Mapping[str, object], timeout: int, report_wait: ReportWait) -> Session:
    """Open a session.

    :param settings: of the session, beside those that all sessions have.
    :param timeout: longest time of a statement, in seconds.
    :raises ConfigurationError: the credentials can't be loaded.
    """
    from snowflake.connector.errors import Error

    report_wait("Waiting for Snowflake to answer")
    hook = copy.copy(hook)  # a hook remembers the settings of its first session
    try:
        given = hook.get_connection(hook.get_conn_id()).extra_dejson.get("session_parameters")
        own = {**_SETTINGS, **settings, "STATEMENT_TIMEOUT_IN_SECONDS": timeout}
        hook.session_parameters = {**given, **own} if isinstance(given, dict) else own
        connection = hook.get_conn()
    except (Error, OSError):  # `explain` knows them
        raise
    except Exception as error:  # one of Airflow, or of a library for keys
        raise ConfigurationError(
            f"the credentials can't be loaded: {shown(str(error))} ({type(error).__name__}). Correct the connection"
        ) from None
    report_wait(None)
    return Session(connection, timeout, report_wait)


def sqlstate(error: Any) -> str:
    """Return the SQLSTATE of an error of the driver; empty if it has none."""
    state = str(getattr(error, "sqlstate", None) or "")
    return "" if state == "n/a" else state


def _write_parquet(file: IO[bytes], rows: IO[bytes]) -> None:
    """Write spooled rows as parquet. Times stay text.

    :raises TryAgainLaterError: the disk is full or read-only.
    """
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    types = {Kind.NUMBER: pyarrow.int64(), Kind.BOOLEAN: pyarrow.bool_()}
    schema = pyarrow.schema([(name, types.get(kind, pyarrow.string())) for name, kind in SPOOLED])
    values = csv_values(file)
    try:
        with ParquetWriter(rows, schema) as writer:
            while batch := list(itertools.islice(values, _ROWS)):
                cells = zip(*batch, strict=True)
                columns = [pyarrow.array(next(cells), field.type) for field in schema]
                writer.write_batch(pyarrow.record_batch(columns, schema=schema))
        rows.flush()
    except OSError as error:
        raise write_error(error) from error

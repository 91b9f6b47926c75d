"""Load into Google BigQuery, with Google's own client. Not tested with a real BigQuery."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, ClassVar

import msgspec

from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.warehouse.database import (
    ColumnRow,
    Database,
    ReportWait,
    TryAgainNowError,
    rows_rejected,
    shown,
    write_conflict,
)
from airflow_provider_cio.warehouse.spool import Spool
from airflow_provider_cio.warehouse.tables import NUMBER, SPOOLED, Column, Kind, csv_values

log = logging.getLogger(__name__)

#: Longest time, in seconds, that a load waits for others before it leaves the retry to Airflow.
_LOCK_TIMEOUT = 600.0
#: Longest pause, in seconds, between two tries to get the lock: each try is a job, which takes seconds itself.
_LONGEST_PAUSE = 20.0
#: Table whose one row each load updates, because BigQuery finds no conflict between two loads that only insert.
_LOCK = "customerio_lock"
#: Days that a view shows, as Segment's do: https://segment.com/docs/connections/storage/catalog/bigquery/
_VIEW_DAYS = 60
_encode = msgspec.json.Encoder().encode


class BigQuery(Database):
    """BigQuery, with a dataset as the schema.

    A load is one script, so that BigQuery finishes it or rolls it back even if the worker dies. Tables are made one by
    one, because a transaction can't create any: https://cloud.google.com/bigquery/docs/transactions
    """

    name = "BigQuery"
    scheme = "bigquery"
    package = "apache-airflow-providers-google"
    types: ClassVar = {
        Kind.ID: "STRING",
        Kind.TEXT: "STRING",
        Kind.NUMBER: "INT64",
        Kind.BOOLEAN: "BOOL",
        Kind.TIME: "TIMESTAMP",
    }
    accepted_types: ClassVar = {
        Kind.ID: ("string",),
        Kind.TEXT: ("string",),
        Kind.NUMBER: ("int64",),
        Kind.BOOLEAN: ("bool",),
        Kind.TIME: ("timestamp",),
    }
    id_types: ClassVar = {
        Kind.NUMBER: ("string", "numeric", "bignumeric", "float64"),
        Kind.TEXT: ("int64", "numeric", "bignumeric", "float64"),
    }
    is_number = f"REGEXP_CONTAINS({{}}, r'{NUMBER.replace('{', '{{').replace('}', '}}')}')"
    id_constraint = ""  # as in Segment's tables
    table_options = " PARTITION BY _PARTITIONDATE"
    additional_columns: ClassVar = (Column("loaded_at", Kind.TIME),)
    rights_by_table = False  # a role on the dataset holds for all its tables
    spool_bytes = 50 * 1000 * 1000  # half of the others', because staging writes the rows to disk again, as JSON
    alter_type = "SET DATA TYPE"
    quote = "`"

    @classmethod
    def namespace(cls, host: str, port: int | None) -> str:
        return "bigquery"

    @classmethod
    def database_name(cls, connection: Any) -> str:
        """Return the project; empty if the credentials name it."""
        return str(connection.extra_dejson.get("project") or "")

    def connect(self) -> tuple[Any, Any]:
        from google.cloud.bigquery import Client

        try:
            credentials, project = self._hook.get_credentials_and_project_id()
        except Exception as error:  # one of Airflow, of Google's library, of a file or of JSON
            raise ConfigurationError(
                f"the credentials can't be loaded: {shown(str(error))} ({type(error).__name__}). Correct the connection"
            ) from None
        session = _JobRunner(Client(project=project, credentials=credentials), self._report_wait)
        try:
            session.open_dataset(self._schema, getattr(self._hook, "location", None))
        except BaseException:
            session.close()
            raise
        return session, session

    @contextmanager
    def transaction(self, cursor: Any) -> Iterator[None]:
        """Do nothing, because `insert` runs a script that has the transaction."""
        yield

    def has_schema(self, cursor: Any) -> bool:
        dataset = cursor.dataset
        if dataset and (dataset.default_table_expiration_ms or dataset.default_partition_expiration_ms):
            log.warning("BigQuery deletes tables or partitions of dataset %s when they are old.", self._schema)
        return dataset is not None

    def columns(self, cursor: Any) -> Sequence[ColumnRow]:
        rows = cursor.execute(
            "SELECT table_name, LOWER(column_name) AS name, data_type FROM "
            f"{self.quoted(self._schema)}.INFORMATION_SCHEMA.COLUMNS"
        )
        return [(table, column, kind, None) for table, column, kind in rows]

    def create(self, cursor: Any, table: str, columns: str) -> None:
        """Create a table, and Segment's view of it, which shows each id of the last days once."""
        table_path = self.quoted(cursor.client.project, self._schema, table)
        cursor.execute(f"CREATE TABLE IF NOT EXISTS {table_path} ({columns}){self.table_options}")
        cursor.execute(
            f"CREATE VIEW IF NOT EXISTS {self.quoted(self._schema, f'{table}_view')} AS SELECT * EXCEPT (nth) FROM ("
            f"SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY loaded_at DESC) AS nth FROM {table_path} WHERE "
            f"_PARTITIONTIME >= TIMESTAMP_TRUNC(TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL {_VIEW_DAYS} DAY), DAY)"
            ") WHERE nth = 1"
        )

    def additions(self, table: str, columns: Sequence[str]) -> Sequence[str]:
        """Return one statement for all columns, because BigQuery allows five changes of a table in ten seconds.

        https://cloud.google.com/bigquery/quotas
        """
        added = ", ".join(f"ADD COLUMN IF NOT EXISTS {column}" for column in columns)
        return [f"ALTER TABLE {self.quoted(self._schema, table)} {added}"]

    def stage(self, cursor: Any, name: str, file: IO[bytes]) -> str:
        """Copy the rows by a load job into a table, which BigQuery deletes after a day if the worker can't."""
        stage = f"{name}_{uuid.uuid4().hex}"
        quoted = self.quoted(self._schema, stage)
        cursor.execute(
            f"CREATE TABLE {quoted} ({self.stage_columns()}) OPTIONS (expiration_timestamp = "
            "TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 1 DAY))"
        )
        cursor.staged.append(f"{cursor.client.project}.{self._schema}.{stage}")
        spool = Spool()
        try:
            for values in csv_values(file):
                spool.add(stage, _json_line(values), 1)
            for _, rows in spool.files():
                cursor.load(rows, cursor.staged[-1])
        finally:
            spool.clear()
        return quoted

    def lock(self, cursor: Any) -> None:
        """Do nothing, because the script of `insert` updates the lock's row."""

    def load_time(self, cursor: Any) -> str:
        return f"(SELECT MAX(locked_at) FROM {self.quoted(self._schema, _LOCK)})"

    def insert(self, cursor: Any, inserts: Sequence[tuple[str, str]]) -> int:
        """Execute INSERTs in one transaction, and again each time that another load makes BigQuery cancel it.

        BigQuery cancels one of two transactions that update the same table.

        :raises TryAgainLaterError: other loads have not ended within ten minutes.
        """
        lock = self.quoted(self._schema, _LOCK)
        script = [
            "DECLARE added INT64 DEFAULT 0",
            f"CREATE TABLE IF NOT EXISTS {lock} AS SELECT CURRENT_TIMESTAMP() AS locked_at",
            "BEGIN TRANSACTION",
            f"UPDATE {lock} SET locked_at = CURRENT_TIMESTAMP() WHERE TRUE",
        ]
        for into_table, into_tracks in inserts:
            script += [into_table, "SET added = added + @@row_count", into_tracks]
        script += ["COMMIT TRANSACTION", "SELECT added"]
        began, pause = time.monotonic(), 1.0
        while True:
            try:
                [(added,)] = cursor.execute(";\n".join(script))
            except Exception as error:
                if not isinstance(self.explain(error), TryAgainNowError):
                    raise
                if time.monotonic() - began > _LOCK_TIMEOUT:
                    raise TryAgainLaterError(
                        f"other loads into dataset {self._schema} have not ended within {_LOCK_TIMEOUT:g} s"
                    ) from None
                self._report_wait(f"Waiting for another load into dataset {self._schema} to end")
                time.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 1.5)
            else:
                self._report_wait(None)
                return int(added)

    def explain(self, error: Exception) -> Exception | None:
        from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError
        from google.auth.exceptions import GoogleAuthError, TransportError

        if isinstance(error, TransportError | OSError):  # errors of requests are OSErrors
            return TryAgainLaterError(f"{type(error).__name__} (no connection)")
        if isinstance(error, GoogleAuthError):
            return ConfigurationError(f"Google rejected the credentials: {shown(str(error))}. Correct the connection")
        if not isinstance(error, GoogleAPIError):
            return None
        # Only the first of its errors is shown: further ones, and the error as text, may hold values of rows.
        first, *_ = *(item for item in getattr(error, "errors", ()) if isinstance(item, dict)), {}
        code, reason = error.code if isinstance(error, GoogleAPICallError) else None, first.get("reason", "")
        text = shown(first.get("message") or getattr(error, "message", None) or type(error).__name__)
        codes = ", ".join(filter(None, (str(code or ""), reason)))
        if code == 409 or "concurrent update" in text:
            return write_conflict(text)
        if reason in ("invalid", "invalidInput"):  # the text may hold values of rows
            return rows_rejected(reason)
        if reason == "invalidQuery":  # the text may hold a value that a conversion met
            text = "BigQuery's list of jobs has the text"
        told = f"{text} ({codes})"
        if reason == "accessDenied" or code == 401:
            return ConfigurationError(
                f"the user lacks a role: {told}. Grant roles/bigquery.jobUser on the project, and "
                f"roles/bigquery.dataEditor on dataset {self._schema}, or on the project if there is no such dataset"
            )
        if reason == "billingNotEnabled":
            return ConfigurationError(
                f"{told}. Enable billing: a load inserts rows by statements, and BigQuery needs billing for them"
            )
        if code in (400, 404):
            return ConfigurationError(
                f"{told}. Check that the connection has the project and the location of the dataset"
            )
        return TryAgainLaterError(told)


class _JobRunner:
    """A connection and its cursor in one: runs jobs, waits for them, and deletes staged tables on `close`."""

    def __init__(self, client: Any, report_wait: ReportWait) -> None:
        self.client = client
        #: Dataset that `open_dataset` found; None if it does not exist.
        self.dataset: Any = None
        #: Tables to delete on `close`, as ``project.dataset.table``.
        self.staged: list[str] = []
        self._location: str | None = None
        self._report_wait = report_wait

    def open_dataset(self, dataset: str, location: str | None) -> None:
        """Look the dataset up, and run all further jobs in its location; in `location` if it does not exist."""
        from google.api_core.exceptions import NotFound

        self._report_wait("Waiting for BigQuery to answer")
        try:
            self.dataset = self.client.get_dataset(dataset)
        except NotFound:
            self._location = location or None
        else:
            self._location = self.dataset.location
        self._report_wait(None)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, or of the last statement of a script."""
        self._report_wait("Waiting for BigQuery to answer")  # the client retries by itself
        rows = [row.values() for row in self.client.query(sql, location=self._location).result()]
        self._report_wait(None)
        return rows

    def load(self, rows: IO[bytes], table: str) -> None:
        """Append rows, one JSON object a line, to a table by a load job."""
        from google.cloud.bigquery import LoadJobConfig

        self._report_wait("Waiting for BigQuery to take the rows")
        config = LoadJobConfig(source_format="NEWLINE_DELIMITED_JSON", write_disposition="WRITE_APPEND")
        location = self._location
        self.client.load_table_from_file(rows, table, location=location, job_config=config).result()
        self._report_wait(None)

    def close(self) -> None:
        """Delete the staged tables, and close the client."""
        try:
            for table in self.staged:
                self.client.delete_table(table, not_found_ok=True)
        finally:
            self.client.close()


def _json_line(values: list[str | int | bool | None]) -> bytes:
    """Encode a spooled row as one line of JSON, without its NULLs."""
    cells = zip(SPOOLED, values, strict=True)
    return _encode({column.name: value for column, value in cells if value is not None}) + b"\n"

"""Google BigQuery, with Google's own client. It was not run against a real one."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, ClassVar

import msgspec

from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.http.errors import presentable
from airflow_provider_cio.warehouse.database import ColumnRow, Database, TryAgainNowError
from airflow_provider_cio.warehouse.spool import Spool
from airflow_provider_cio.warehouse.tables import SPOOLED, Column, Kind, csv_values

log = logging.getLogger(__name__)

#: Seconds: how long a load waits for another one.
_PATIENCE = 600.0
_LONGEST_PAUSE = 20.0
#: Its one row is updated by each load, since two that only insert would not hinder each other.
_LOCK = "customerio_lock"
#: Days that Segment's views look back: https://segment.com/docs/connections/storage/catalog/bigquery/
_VIEWED = 60
_encode = msgspec.json.Encoder().encode


class BigQuery(Database):
    """A dataset is the schema. A load is one script, so that BigQuery ends or undoes it though the worker may be gone.

    Tables are made one by one, since a transaction can make none:
    https://cloud.google.com/bigquery/docs/transactions
    """

    name = "BigQuery"
    extra = "bigquery"
    types: ClassVar = {Kind.ID: "STRING", Kind.TEXT: "STRING", Kind.BOOLEAN: "BOOL", Kind.TIME: "TIMESTAMP"}
    accepted: ClassVar = {
        Kind.ID: ("string",),
        Kind.TEXT: ("string",),
        Kind.BOOLEAN: ("bool",),
        Kind.TIME: ("timestamp",),
    }
    of_the_id = ""  # as in Segment's tables
    layout = " PARTITION BY _PARTITIONDATE"
    own_columns: ClassVar = (Column("loaded_at", Kind.TIME),)
    rights_by_table = False
    spool_bytes = 50 * 1000 * 1000  # for a load job it is written once more, as JSON
    retype = "SET DATA TYPE"
    quote = "`"

    @classmethod
    def namespace(cls, host: str, port: int | None) -> str:
        return "bigquery"

    @classmethod
    def database_of(cls, connection: Any) -> str:
        """The project; without one it comes from the credentials."""
        return str(connection.extra_dejson.get("project") or "")

    def connect(self) -> tuple[Any, Any]:
        from google.cloud.bigquery import Client

        try:
            credentials, project = self._hook.get_credentials_and_project_id()
        except Exception as error:  # Airflow's, Google's, of files and of JSON
            said = f"{presentable(str(error), ())} ({type(error).__name__})"
            raise ConfigurationError(f"Google gives no access: {said}. Correct the connection") from None
        session = _Session(Client(project=project, credentials=credentials), self._waits)
        try:
            session.look_at(self._schema, getattr(self._hook, "location", None))
        except BaseException:
            session.close()
            raise
        return session, session

    @contextmanager
    def transaction(self, cursor: Any) -> Iterator[None]:
        """None: what has to be done at once is in one script."""
        yield

    def has_schema(self, cursor: Any) -> bool:
        dataset = cursor.dataset
        if dataset and (dataset.default_table_expiration_ms or dataset.default_partition_expiration_ms):
            log.warning("BigQuery deletes tables or partitions of dataset %s when they are old.", self._schema)
        return dataset is not None

    def columns(self, cursor: Any) -> Sequence[ColumnRow]:
        rows = cursor.execute(
            f"SELECT table_name, column_name, data_type FROM {self.quoted(self._schema)}.INFORMATION_SCHEMA.COLUMNS"
        )
        return [(table, column, kind, None) for table, column, kind in rows]

    def create(self, cursor: Any, table: str, columns: str) -> None:
        """With the view that Segment makes of it, which has each id once."""
        named = self.quoted(cursor.client.project, self._schema, table)
        cursor.execute(f"CREATE TABLE IF NOT EXISTS {named} ({columns}){self.layout}")
        cursor.execute(
            f"CREATE VIEW IF NOT EXISTS {self.quoted(self._schema, f'{table}_view')} AS SELECT * EXCEPT (nth) FROM ("
            f"SELECT *, ROW_NUMBER() OVER (PARTITION BY id ORDER BY loaded_at DESC) AS nth FROM {named} WHERE "
            f"_PARTITIONTIME >= TIMESTAMP_TRUNC(TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL {_VIEWED} DAY), DAY)"
            ") WHERE nth = 1"
        )

    def add_columns(self, cursor: Any, table: str, columns: Sequence[str]) -> None:
        """At once, since a table's form can be changed five times in ten seconds."""
        added = ", ".join(f"ADD COLUMN IF NOT EXISTS {column}" for column in columns)
        cursor.execute(f"ALTER TABLE {self.quoted(self._schema, table)} {added}")

    def stage(self, cursor: Any, name: str, file: IO[bytes]) -> str:
        """By a load job, into a table that lives for a day if nobody deletes it."""
        named = f"{name}_{uuid.uuid4().hex}"
        staged = self.quoted(self._schema, named)
        cursor.execute(
            f"CREATE TABLE {staged} ({self.stage_columns()}) OPTIONS (expiration_timestamp = "
            "TIMESTAMP_ADD(CURRENT_TIMESTAMP(), INTERVAL 1 DAY))"
        )
        cursor.staged.append(f"{cursor.client.project}.{self._schema}.{named}")
        spool = Spool()
        try:
            for values in csv_values(file):
                spool.add(named, _json_line(values), 1)
            for _, rows in spool.files():
                cursor.load(rows, cursor.staged[-1])
        finally:
            spool.clear()
        return staged

    def lock(self, cursor: Any) -> None:
        """The script does it."""

    def moment(self, cursor: Any) -> str:
        return f"(SELECT MAX(locked_at) FROM {self.quoted(self._schema, _LOCK)})"

    def insertion(self, stage: str, table: str, columns: str, values: str) -> str:
        return (
            f"INSERT INTO {table} ({columns}) SELECT {values} FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY id) AS "
            f"nth FROM {stage}) AS staged WHERE nth = 1 AND NOT EXISTS (SELECT 1 FROM {table} AS loaded WHERE "
            "loaded.id = staged.id)"
        )

    def insert(self, cursor: Any, insertions: Sequence[tuple[str, str]]) -> int:
        """BigQuery cancels one of two transactions that update the same table. Then this one waits, and begins anew."""
        lock = self.quoted(self._schema, _LOCK)
        script = [
            "DECLARE added INT64 DEFAULT 0",
            f"CREATE TABLE IF NOT EXISTS {lock} AS SELECT CURRENT_TIMESTAMP() AS locked_at",
            "BEGIN TRANSACTION",
            f"UPDATE {lock} SET locked_at = CURRENT_TIMESTAMP() WHERE TRUE",
        ]
        for into_table, into_tracks in insertions:
            script += [into_table, "SET added = added + @@row_count", into_tracks]
        script += ["COMMIT TRANSACTION", "SELECT added"]
        began, pause = time.monotonic(), 1.0
        while True:
            try:
                [(added,)] = cursor.execute(";\n".join(script))
            except Exception as error:
                if not isinstance(self.explain(error), TryAgainNowError):
                    raise
                if time.monotonic() - began > _PATIENCE:
                    raise TryAgainLaterError(f"other loads into dataset {self._schema} do not end") from None
                self._waits(f"Waiting for another load into dataset {self._schema} to end")
                time.sleep(pause)
                pause = min(_LONGEST_PAUSE, pause * 1.5)
            else:
                self._waits(None)
                return int(added)

    def explain(self, error: Exception) -> Exception | None:
        from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError
        from google.auth.exceptions import GoogleAuthError, TransportError

        if isinstance(error, TransportError | OSError):  # of which those of requests are
            return TryAgainLaterError(f"{type(error).__name__} (no connection)")
        if isinstance(error, GoogleAuthError):
            return ConfigurationError(f"Google gives no access: {presentable(str(error), ())}. Correct the connection")
        if not isinstance(error, GoogleAPIError):
            return None
        # The first says what it is about; those after it, and the error as text, may hold values of rows.
        first, *_ = *(one for one in getattr(error, "errors", ()) if isinstance(one, dict)), {}
        code, reason = error.code if isinstance(error, GoogleAPICallError) else None, first.get("reason", "")
        text = presentable(first.get("message") or getattr(error, "message", None) or type(error).__name__, ())
        said = f"{text} ({', '.join(filter(None, (str(code or ''), reason)))})"
        if code == 409 or "concurrent update" in text:
            return TryAgainNowError(f"another session writes to the same tables ({text})")
        if reason in ("invalid", "invalidInput"):  # of rows; the text may hold their values
            return ConfigurationError(f"it does not take the rows, by a rule that was added to a table ({reason})")
        if reason == "accessDenied" or code == 401:
            return ConfigurationError(
                f"its user lacks a right: {said}. Needed are the roles BigQuery Job User on the project, and BigQuery "
                "Data Editor on the dataset, or on the project if the dataset is to be made. Grant them"
            )
        if reason == "billingNotEnabled":
            return ConfigurationError(f"{said}. Loads change tables by statements, and those need billing")
        if code in (400, 404):
            return ConfigurationError(f"{said}. See that project and location of the connection are the dataset's")
        return TryAgainLaterError(said)


class _Session:
    """What stands for a connection and its cursor.

    :param waits: is told what is waited for.
    """

    def __init__(self, client: Any, waits: Callable[[str | None], None]) -> None:
        self.client = client
        #: None if there is none.
        self.dataset: Any = None
        #: Tables to delete at the end, with project and dataset.
        self.staged: list[str] = []
        self._location: str | None = None
        self._waits = waits

    def look_at(self, dataset: str, location: str | None) -> None:
        """All that follows is done where this dataset is, or at the given location if there is no such dataset."""
        from google.api_core.exceptions import NotFound

        self._waits("Waiting for BigQuery to answer")
        try:
            self.dataset = self.client.get_dataset(dataset)
        except NotFound:
            self._location = location or None
        else:
            self._location = self.dataset.location
        self._waits(None)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a statement, or of a script's last one."""
        self._waits("Waiting for BigQuery to answer")  # the client tries again by itself
        rows = [row.values() for row in self.client.query(sql, location=self._location).result()]
        self._waits(None)
        return rows

    def load(self, rows: IO[bytes], table: str) -> None:
        from google.cloud.bigquery import LoadJobConfig

        self._waits("Waiting for BigQuery to take the rows")
        config = LoadJobConfig(source_format="NEWLINE_DELIMITED_JSON", write_disposition="WRITE_APPEND")
        location = self._location
        self.client.load_table_from_file(rows, table, location=location, job_config=config).result()
        self._waits(None)

    def close(self) -> None:
        try:
            for table in self.staged:
                self.client.delete_table(table, not_found_ok=True)
        finally:
            self.client.close()


def _json_line(values: list[str | bool | None]) -> bytes:
    named = zip(SPOOLED, values, strict=True)
    return _encode({column.name: value for column, value in named if value is not None}) + b"\n"

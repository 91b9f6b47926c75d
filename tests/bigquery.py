"""A DuckDB in place of BigQuery, for Google's own client: as much of the REST API as a load needs. sqlglot parses each
statement as BigQuery's, and makes it DuckDB's.

https://docs.cloud.google.com/bigquery/docs/reference/rest is what it follows. Its transactions are DuckDB's, which are
like BigQuery's: each sees what was there when it began, two that update the same table can't both be done, and those
that only insert do not hinder each other (https://docs.cloud.google.com/bigquery/docs/transactions).
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from contextlib import suppress
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

PROJECT = "test-project"
#: A table by ingestion time has this column, which `*` leaves out.
HIDDEN = "_PARTITIONTIME"
#: A reason -> the HTTP status: https://docs.cloud.google.com/bigquery/docs/error-messages
_STATUS = {
    "accessDenied": 403,
    "backendError": 503,
    "billingNotEnabled": 403,
    "duplicate": 409,
    "internalError": 500,
    "notFound": 404,
    "rateLimitExceeded": 403,
}
#: Names of DuckDB's types in INFORMATION_SCHEMA.
_TYPES = {
    "VARCHAR": "STRING",
    "BOOLEAN": "BOOL",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP",
    "BIGINT": "INT64",
    "DECIMAL(38,9)": "NUMERIC",
    "DOUBLE": "FLOAT64",
}
_INFORMATION_SCHEMA = (
    "SELECT table_name, column_name, CASE data_type "
    + " ".join(f"WHEN '{duck}' THEN '{name}'" for duck, name in _TYPES.items())
    + " ELSE data_type END AS data_type FROM duckdb_columns() WHERE schema_name = '{}'"
)
#: Words that sqlglot takes, and BigQuery does not.
_FOREIGN = {"VARCHAR", "TEXT", "TIMESTAMPTZ", "CONFLICT", "RETURNING", "COPY"}
#: https://docs.cloud.google.com/bigquery/quotas#standard_tables: changes of a table's columns in so many seconds.
_CHANGES, _SECONDS = 5, 10
#: Seconds: how long a question for a job waits for its end.
_POLL = 0.5
Json = dict[str, Any]


class BigQueryError(Exception):
    """:param reason: one of Google's."""

    def __init__(self, reason: str, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.errors = [{"reason": reason, "message": text} for text in (message, detail) if text]
        self.status = _STATUS.get(reason, 400)


class StandIn:
    """Listens on a port of its own as long as it is open.

    :param path: of DuckDB's file.
    """

    def __init__(self, path: Path) -> None:
        self.duck = duckdb.connect(str(path))
        self.duck.execute("SET TimeZone = 'UTC'")
        self.duck.execute("SET immediate_transaction_mode = true")  # a snapshot is of BEGIN
        #: As the client sent them; a script is one.
        self.statements: list[str] = []
        #: Part of a statement, or "load" -> the reasons with which the next such ones fail.
        self.failures: dict[str, list[str]] = {}
        #: Of every dataset, in the form of REST. A job that does not say where it runs, runs in the US.
        self.options: Json = {"location": "US"}
        #: Table -> when it is deleted at last.
        self.expirations: dict[str, str] = {}
        self._changes: defaultdict[str, list[float]] = defaultdict(list)
        self._jobs: dict[str, Job] = {}
        self._uploads: dict[str, tuple[Json, Any]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.stand_in = self  # type: ignore[attr-defined]
        #: For BIGQUERY_EMULATOR_HOST, which Google's client reads.
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.duck.close()

    # Requests

    def answer(self, method: str, url: str, headers: Message, body: bytes) -> tuple[int, Json | None, Json]:
        """Answer a request.

        :returns: the status, what the body has, and headers.
        """
        path, asked = unquote(urlsplit(url).path), dict(parse_qsl(urlsplit(url).query))
        if path.startswith("/upload/"):
            return self._upload(method, asked, headers, body)
        project, *parts = path.removeprefix("/bigquery/v2/projects/").split("/")
        if project != PROJECT:
            raise BigQueryError("accessDenied", f"Access Denied: Project {project}: no bigquery.jobs.create permission")
        match method, *parts:
            case "POST", "jobs":
                return 200, self._start(json.loads(body)).resource(), {}
            case "GET", "jobs", job_id:
                return 200, self._jobs[job_id].waited(_POLL).resource(), {}
            case "GET", "queries", job_id:
                return 200, self._jobs[job_id].waited(_POLL).results(), {}
            case "GET", "datasets", dataset:
                return 200, self._dataset(dataset), {}
            case "DELETE", "datasets", dataset, "tables", table:
                self.duck.cursor().execute(f'DROP TABLE "{dataset}"."{table}"')
                del self.expirations[f"{dataset}.{table}"]
                return 204, None, {}
        raise BigQueryError("notFound", f"Not in this stand-in: {method} {path}")

    def _dataset(self, dataset: str) -> Json:
        found = self.duck.cursor().execute("SELECT 1 FROM duckdb_schemas() WHERE schema_name = ?", [dataset])
        if not found.fetchone():
            raise BigQueryError("notFound", f"Not found: Dataset {PROJECT}:{dataset}")
        return {"datasetReference": {"projectId": PROJECT, "datasetId": dataset}} | self.options

    def _upload(self, method: str, asked: Json, headers: Message, body: bytes) -> tuple[int, Json, Json]:
        """Take in an upload (https://docs.cloud.google.com/bigquery/docs/reference/api-uploads)."""
        if asked["uploadType"] == "multipart":
            parts = message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
            boundary = b"--" + str(parts.get_boundary()).encode()
            described, data = (one.split(b"\r\n\r\n", 1)[1] for one in body.split(boundary)[1:3])
            return 200, self._start(json.loads(described), data.removesuffix(b"\r\n")).resource(), {}
        if method == "POST":
            upload = str(uuid.uuid4())
            self._uploads[upload] = json.loads(body), bytearray()
            where = f"{self.url}/upload/bigquery/v2/projects/{PROJECT}/jobs?uploadType=resumable&upload_id={upload}"
            return 200, {}, {"Location": where}
        sent, data = self._uploads[asked["upload_id"]]
        data += body
        if headers["Content-Range"].endswith("/*"):
            return 308, {}, {"Range": f"bytes=0-{len(data) - 1}"}
        return 200, self._start(sent, bytes(data)).resource(), {}

    def _start(self, sent: Json, data: bytes = b"") -> Job:
        sent["jobReference"].setdefault("location", "US")
        job = self._jobs[sent["jobReference"]["jobId"]] = Job(sent)
        query = sent["configuration"].get("query", {}).get("query", "load")
        self.statements.append(query)
        threading.Thread(target=self._run, args=(job, query, data), daemon=True).start()
        return job

    def _run(self, job: Job, query: str, data: bytes) -> None:
        try:
            location = job.sent["jobReference"]["location"]
            if location != self.options["location"] and re.search("(?:FROM|INTO|TABLE) `", query):
                raise BigQueryError("notFound", f"Not found: Dataset was not found in location {location}")
            if query == "load":
                self._load(job.sent["configuration"]["load"], data)
            else:
                job.columns, job.rows = Script(self).run(query)
        except BigQueryError as error:
            job.error = error
        except duckdb.Error as error:
            job.error = BigQueryError("invalidQuery", str(error))
        finally:
            job.done.set()

    def _load(self, load: Json, data: bytes) -> None:
        """Run a load job, which loads all of the file, or nothing."""
        self.fail_if_told("load")
        assert load["sourceFormat"] == "NEWLINE_DELIMITED_JSON"
        assert load["writeDisposition"] == "WRITE_APPEND"
        table = '"{datasetId}"."{tableId}"'.format(**load["destinationTable"])
        cursor = self.duck.cursor()
        columns = {name: kind for name, kind, *_ in cursor.execute(f"DESCRIBE {table}").fetchall()}
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            file.write(data)
            file.flush()
            try:
                cursor.execute(
                    f"INSERT INTO {table} SELECT * FROM read_json('{file.name}', format = 'newline_delimited', "
                    f"auto_detect = false, columns = {columns})"
                )
            except duckdb.Error as error:  # its details hold values, as the real one's
                text = "Error while reading data, error message: too many errors, giving up."
                raise BigQueryError("invalid", text, str(error)) from error

    def fail_if_told(self, statement: str) -> None:
        for part, reasons in self.failures.items():
            if part in statement and reasons:
                raise BigQueryError(reasons.pop(0), "as it was told", "the row of person@example.com")

    def column_added(self, table: str) -> None:
        recent = self._changes[table]
        recent[:] = [moment for moment in recent if moment > time.monotonic() - _SECONDS]
        recent.append(time.monotonic())
        if len(recent) > _CHANGES:
            raise BigQueryError("rateLimitExceeded", "Exceeded rate limits: too many table update operations")


class Job:
    def __init__(self, sent: Json) -> None:
        self.sent = sent
        self.done = threading.Event()
        self.error: BigQueryError | None = None
        self.columns: list[str] = []
        self.rows: list[tuple[Any, ...]] = []

    def waited(self, seconds: float) -> Job:
        self.done.wait(seconds)
        return self

    def resource(self) -> Json:
        status: Json = {"state": "DONE" if self.done.is_set() else "RUNNING"}
        if self.error:
            status |= {"errorResult": self.error.errors[0], "errors": self.error.errors}
        return self.sent | {"status": status, "statistics": {}}

    def results(self) -> Json:
        """Return a page of results, in which all values are texts."""
        if self.error:
            raise self.error
        return {
            "jobReference": self.sent["jobReference"],
            "jobComplete": self.done.is_set(),
            "totalRows": str(len(self.rows)),
            "schema": {"fields": [{"name": name, "type": "STRING"} for name in self.columns]},
            "rows": [{"f": [{"v": str(value)} for value in row]} for row in self.rows],
        }


class Script:
    """Statements of one job, on a connection of its own."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self._duck = stand_in.duck.cursor()
        self._duck.execute("SET TimeZone = 'UTC'")
        self._variables: Json = {}
        self._changed = 0  # rows, by the last statement
        self._in_transaction = False

    def run(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run the statements.

        :returns: the names of the columns and the rows of the last SELECT.
        """
        columns: list[str] = []
        rows: list[tuple[Any, ...]] = []
        try:
            for statement in _parsed(sql):
                self._stand_in.fail_if_told(statement.sql("bigquery"))
                match statement:
                    case exp.Declare(expressions=[exp.DeclareItem() as one]):
                        self._variables[one.this[0].name] = self._value(one.args["default"])
                    case exp.Set(expressions=[exp.SetItem(this=exp.EQ() as one)]):
                        self._variables[one.this.name] = self._value(one.expression)
                    case exp.Transaction() | exp.Commit():
                        self._duck.execute("BEGIN" if isinstance(statement, exp.Transaction) else "COMMIT")
                        self._in_transaction = isinstance(statement, exp.Transaction)
                    case exp.Create() | exp.Alter():
                        self._define(statement)
                    case exp.Insert() | exp.Update():
                        self._changed = self._execute(statement).fetchall()[0][0]
                    case exp.Select():
                        columns = [one.alias_or_name or "f0_" for one in statement.expressions]
                        rows = self._execute(statement).fetchall()
                    case _:
                        raise BigQueryError("invalidQuery", f"Not in this stand-in: {statement.sql('bigquery')}")
        except duckdb.TransactionException as error:
            text = f"Transaction is aborted due to concurrent update against table {PROJECT}:x. Transaction ID: 1"
            raise BigQueryError("invalidQuery", text) from error
        finally:
            with suppress(duckdb.Error):  # none is open
                self._duck.execute("ROLLBACK")
            self._duck.close()
        return columns, rows

    def _value(self, expression: exp.Expression) -> Any:
        return self._execute(exp.select(expression)).fetchall()[0][0]

    def _execute(self, statement: exp.Expression) -> duckdb.DuckDBPyConnection:
        for counted in list(statement.find_all(exp.Parameter)):
            if isinstance(counted.this, exp.Parameter):  # @@row_count
                counted.replace(exp.Literal.number(self._changed))
        for column in list(statement.find_all(exp.Column)):
            if not column.table and column.name in self._variables:
                column.replace(exp.convert(self._variables[column.name]))
        for table in list(statement.find_all(exp.Table)):
            assert table.catalog in ("", PROJECT)
            table.set("catalog", None)
            if table.name == "INFORMATION_SCHEMA.COLUMNS":
                rows = sqlglot.parse_one(_INFORMATION_SCHEMA.format(table.db), dialect="duckdb")
                table.replace(rows.subquery("columns"))  # type: ignore[attr-defined]
        return self._duck.execute(statement.sql("duckdb"))

    def _define(self, statement: exp.Create | exp.Alter) -> None:
        table = statement.find(exp.Table)
        assert table
        name = f"{table.db}.{table.name}"
        if self._in_transaction:
            raise BigQueryError("invalidQuery", "DDL statements are not supported in a transaction")
        if isinstance(statement, exp.Alter):
            self._stand_in.column_added(name)
            for column in statement.args["actions"]:  # of which DuckDB takes one at a time
                exists = "IF NOT EXISTS " * bool(column.args.get("exists"))
                column.set("exists", None)
                self._duck.execute(f'ALTER TABLE "{table.db}"."{table.name}" ADD COLUMN {exists}{column.sql("duckdb")}')
            return
        if statement.find(exp.PrimaryKey, exp.PrimaryKeyColumnConstraint):
            raise BigQueryError("invalidQuery", "Enforcement of a key is not supported")
        for option in statement.find_all(exp.Property):
            if option.name == "expiration_timestamp":
                self._stand_in.expirations[name] = str(self._value(option.args["value"]))
        by_time = any("_PARTITION" in one.sql() for one in statement.find_all(exp.PartitionedByProperty))
        statement.set("properties", None)
        if by_time:
            column = f"CREATE TABLE t ({HIDDEN} TIMESTAMPTZ DEFAULT date_trunc('day', now()))"
            statement.this.append("expressions", sqlglot.parse_one(column, dialect="duckdb").this.expressions[0])
        if statement.args["kind"] == "VIEW":
            for star in statement.find_all(exp.Star):
                star.set("except_", [*(star.args.get("except_") or ()), exp.to_identifier(HIDDEN)])
                break
        try:
            self._execute(statement)
        except duckdb.CatalogException as error:
            if "already exists" not in str(error):
                raise
            raise BigQueryError("duplicate", f"Already Exists: {PROJECT}:{name}") from error


def _parsed(sql: str) -> list[exp.Expression]:
    """Return the statements of a script.

    :raises BigQueryError: it has something that BigQuery does not know.
    """
    try:
        tokens = sqlglot.tokenize(sql, dialect="bigquery")
        statements: list[Any] = [one for one in sqlglot.parse(sql, dialect="bigquery") if one is not None]
    except SqlglotError as error:
        raise BigQueryError("invalidQuery", f"Syntax error: {error}") from error
    plain = {one.text.upper() for one in tokens if one.token_type.name not in ("STRING", "IDENTIFIER")}
    if foreign := plain & _FOREIGN:
        raise BigQueryError("invalidQuery", f"Syntax error: Unexpected {', '.join(sorted(foreign))}")
    for one in statements:
        if isinstance(one, exp.Command) or (isinstance(one, exp.Update) and not one.args.get("where")):
            raise BigQueryError("invalidQuery", f"Syntax error: {one.sql('bigquery')}")
    return statements


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers: Json = {}
        answer: Json | None
        try:
            stand_in: StandIn = self.server.stand_in  # type: ignore[attr-defined]
            status, answer, headers = stand_in.answer(self.command, self.path, self.headers, body)
        except BigQueryError as error:
            status = error.status
            answer = {"error": {"code": status, "message": str(error), "errors": error.errors}}
        encoded = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(encoded))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(encoded)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

"""fakesnow in place of Snowflake, for Snowflake's own driver: as much as a load needs, and what fakesnow lacks of it.

- An UPDATE waits for another transaction's, up to LOCK_TIMEOUT; a transaction that others wait for is rolled back if
  its process has ended: at once, and not after five minutes. DDL commits.
- A session never sees what another one has committed after it was opened, wherever that decides what is inserted.
  Snowflake may show it late; here it is as late as can be.
- A COMMIT may take effect late, and have no answer.
- Tables have owners and a time of creation; sessions have roles and a warehouse.
- An error of DuckDB is one of Snowflake's, with values in its text where Snowflake's may have some.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import duckdb
import fakesnow.server
import psutil
import sqlglot
import uvicorn
from fakesnow.conn import FakeSnowflakeConnection
from fakesnow.cursor import FakeSnowflakeCursor
from fakesnow.instance import FakeSnow
from snowflake.connector import connection as driver
from snowflake.connector.errors import ProgrammingError
from sqlglot import exp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

ROLE, OTHER_ROLE, WAREHOUSE = "LOADER", "STRANGER", "LOADING"
#: Rows of a transaction that is not committed have greater ids in DuckDB.
_UNCOMMITTED = 1 << 62
_FUNCTIONS = re.compile(r"CURRENT_(ROLE|DATABASE|WAREHOUSE)\(\)")
_DDL = re.compile(r"(CREATE|ALTER|DROP)\b")
_TABLE = re.compile(r'CREATE (?:TRANSIENT )?TABLE (IF NOT EXISTS )?"?(\w+)"?\."?(\w+)"?')
_CHANGED = re.compile(r'(?:ALTER TABLE|INSERT INTO|UPDATE) "?(\w+)"?\."?(\w+)"?')
#: Two sessions may create one table at once. In DuckDB one of them would fail.
_one_ddl = threading.Lock()
_login: ContextVar[dict[str, Any]] = ContextVar("login")


class World:
    """State of a stand-in's database beside its tables.

    :param name: in upper case.
    """

    def __init__(self, name: str, stand_in: StandIn) -> None:
        self.name = name
        #: All that drivers have sent.
        self.statements: list[str] = []
        #: A part of a statement -> the errors with which the next ones fail: number, SQLSTATE and text.
        self.failures: dict[str, list[tuple[int, str, str]]] = {}
        #: A part of a statement -> how long it takes.
        self.seconds: dict[str, float] = {}
        #: If it is not 0: seconds until the next COMMIT takes effect. It gets no answer.
        self.late_commit = 0.0
        #: Table -> the role that owns it, and when it was made, in ISO 8601.
        self.owners: dict[str, str] = {}
        self.created: dict[str, str] = {}
        #: Role -> the ones whose rights it has, too.
        self.granted: dict[str, set[str]] = {}
        self.warehouse: str | None = WAREHOUSE
        #: What each session was opened with.
        self.logins: list[dict[str, Any]] = []
        self.sessions: list[Session] = []
        self.stand_in = stand_in

    def connect(self) -> FakeSnowflakeCursor:
        """Connect for the tests themselves: commits of others are seen at once."""
        snow = self.stand_in.snow
        made = FakeSnowflakeConnection(snow.duck_conn.cursor(), snow.results_cache, self.name)
        made._duck_conn.execute("SET TimeZone = 'UTC'")
        return made.cursor()


class Session(FakeSnowflakeConnection):  # type: ignore[misc]
    """Session of a driver."""

    world: World
    role: str
    lock_timeout: float
    #: Table -> the id of the first row that was not there when the session was opened.
    horizon: dict[tuple[str, str], int]
    process: psutil.Process
    in_transaction = False
    busy = False
    #: Runs a COMMIT that gets no answer.
    committing: threading.Timer | None = None

    def cursor(self, *_: Any) -> Cursor:
        return Cursor(conn=self, duck_conn=self._duck_conn)

    def open(self, world: World, role: str, login: dict[str, Any]) -> None:
        world.logins.append(login)
        self.process = psutil.Process(login["process"])
        self.world, self.role = world, role
        self.lock_timeout = float(login["SESSION_PARAMETERS"].get("LOCK_TIMEOUT", 43200))
        tables = self._duck_conn.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = ? AND schema_name[1] <> '_'",
            [world.name],
        ).fetchall()
        self.horizon = {}
        for schema, table in tables:
            with suppress(duckdb.CatalogException):  # dropped in between
                found = self._duck_conn.execute(f'SELECT max(rowid) FROM "{world.name}"."{schema}"."{table}"')
                self.horizon[schema, table] = (found.fetchone() or (None,))[0] or 0
                self.horizon[schema, table] += 1
        world.sessions.append(self)

    def close(self, retry: bool = True) -> None:
        if self in self.world.sessions:
            self.world.sessions.remove(self)
        if not self.is_committing():  # it goes on
            super().close(retry)

    def commit_late(self, seconds: float) -> None:
        self.committing = threading.Timer(seconds, self._duck_conn.execute, ["COMMIT"])
        self.committing.start()

    def is_committing(self) -> bool:
        return self.committing is not None and self.committing.is_alive()

    def roll_back(self) -> None:
        with suppress(duckdb.Error):
            self._duck_conn.execute("ROLLBACK")
        self.in_transaction = False


class Cursor(FakeSnowflakeCursor):  # type: ignore[misc]
    _conn: Session

    def execute(self, command: str, params: Any = None, *args: Any, **kwargs: Any) -> Any:
        session, world = self._conn, self._conn.world
        session.busy = True
        try:
            world.statements.append(command)
            self._fail_if_told(command)
            self._check_owner(command)
            if command == "COMMIT" and world.late_commit:
                session.commit_late(world.late_commit)
                world.late_commit = 0.0
            if command == "COMMIT" and session.is_committing():
                raise ConnectionError("no answer")  # the driver repeats it
            if match := re.match(r'GRANT ROLE "(\w+)" TO ROLE "(\w+)"', command):
                world.granted.setdefault(match[2], set()).add(match[1])
                command = "SELECT 'Statement executed successfully.' AS status"
            if _DDL.match(command) and session.in_transaction:
                self._execute_as_snowflake("COMMIT", params, *args, **kwargs)
            if command.startswith("UPDATE"):
                return self._wait_and_execute(command, params, *args, **kwargs)
            with _one_ddl if _DDL.match(command) else nullcontext():
                return self._execute_as_snowflake(self._rewritten(command), params, *args, **kwargs)
        except duckdb.Error as error:
            raise ProgrammingError(str(error), errno=100_000, sqlstate="22000") from error
        finally:
            session.busy = False

    def _execute_as_snowflake(self, command: str, *args: Any, **kwargs: Any) -> Any:
        try:
            found = super().execute(command, *args, **kwargs)
        except ProgrammingError as error:
            if "already exists" in str(error.raw_msg):
                raise ProgrammingError(error.raw_msg, errno=2002, sqlstate="42710") from error
            raise
        if command in ("BEGIN", "COMMIT", "ROLLBACK"):
            self._conn.in_transaction = command == "BEGIN"
        if match := _TABLE.match(command):
            self._conn.world.owners.setdefault(match[3], self._conn.role)
            self._conn.world.created.setdefault(match[3], datetime.now(UTC).isoformat())
            if not match[1]:  # it is the session's own
                self._conn.horizon[match[2], match[3]] = _UNCOMMITTED
        return found

    def _wait_and_execute(self, command: str, *args: Any, **kwargs: Any) -> Any:
        """Execute the first statement of a transaction, which waits for transactions that change the same rows."""
        session = self._conn
        deadline = time.monotonic() + session.lock_timeout
        while True:
            try:
                return self._execute_as_snowflake(command, *args, **kwargs)
            except duckdb.TransactionException:
                if not session.in_transaction:
                    raise
                session._duck_conn.execute("ROLLBACK")
                session._duck_conn.execute("BEGIN TRANSACTION")
            for other in list(session.world.sessions):
                if other.in_transaction and not other.process.is_running():
                    other.roll_back()
            if time.monotonic() > deadline:
                raise ProgrammingError("this lock has not yet been released", errno=625, sqlstate="57014")
            time.sleep(0.02)

    def _rewritten(self, command: str) -> str:
        """Return the statement with what fakesnow lacks; an INSERT with what the session is sure to see."""
        session, world = self._conn, self._conn.world
        values = {"ROLE": session.role, "DATABASE": world.name, "WAREHOUSE": world.warehouse}
        command = _FUNCTIONS.sub(lambda match: f"'{values[match[1]]}'" if values[match[1]] else "NULL", command)
        if "INFORMATION_SCHEMA.TABLES" in command:
            created = _case(world.created, "CURRENT_TIMESTAMP()::VARCHAR")
            tables = (
                f"(SELECT TABLE_SCHEMA, TABLE_NAME, {_case(world.owners, repr(ROLE))} AS TABLE_OWNER, "
                f"{created}::TIMESTAMP_TZ AS CREATED FROM INFORMATION_SCHEMA.TABLES) AS TABLES"
            )
            return command.replace("INFORMATION_SCHEMA.TABLES", tables)
        if not command.startswith("INSERT"):
            return command
        insert = sqlglot.parse_one(command, read="snowflake")
        for table in list(insert.args["expression"].find_all(exp.Table)):
            first_unseen = session.horizon.get((table.db, table.name), 0)
            seen = f"SELECT * FROM {exp.table_(table.this.copy(), table.args['db'].copy()).sql('snowflake')} WHERE "
            seen += f"rowid < {first_unseen} OR rowid >= {_UNCOMMITTED}"
            found: Any = sqlglot.parse_one(seen, read="snowflake")
            table.replace(found.subquery(table.alias or table.name))
        return insert.sql("snowflake")

    def _check_owner(self, command: str) -> None:
        """Check the rights: only the owner adds columns, and another role needs a grant for all else."""
        session, world = self._conn, self._conn.world
        match = _CHANGED.match(command)
        owner = world.owners.get(match[2], ROLE) if match else ""
        if match and owner not in (session.role, *world.granted.get(session.role, ())):
            kinds = {"A": "OWNERSHIP", "I": "INSERT", "U": "UPDATE"}
            if f"{kinds[command[0]]} ON {match[2]}" not in world.granted.get(session.role, ()):
                text = f"SQL access control error:\nInsufficient privileges to operate on table '{match[2]}'."
                raise ProgrammingError(text, errno=3001, sqlstate="42501")

    def _fail_if_told(self, command: str) -> None:
        for part, seconds in self._conn.world.seconds.items():
            if part in command:
                time.sleep(seconds)
        for part, errors in self._conn.world.failures.items():
            if part in command and errors:
                number, state, text = errors.pop(0)
                raise ProgrammingError(text, errno=number, sqlstate=state)


def _case(values: dict[str, str], default: str) -> str:
    """Return the expression for the value of a table, by its name."""
    cases = " ".join(f"WHEN '{table}' THEN '{value}'" for table, value in values.items())
    return f"(CASE TABLE_NAME {cases} ELSE {default} END)" if cases else default


class _Snow(FakeSnow):  # type: ignore[misc]
    worlds: dict[str, World]

    def connect(self, database: Any = None, schema: Any = None, nop_regexes: Any = None, **kwargs: Any) -> Any:
        data = _login.get()
        given = data["query"]
        known = self.worlds.get(str(database).upper())
        name = known.name if known else None  # as of an unknown database, the session has none
        made = Session(self.duck_conn.cursor(), self.results_cache, name, "PUBLIC", nop_regexes=nop_regexes, **kwargs)
        role = given.get("roleName") or ROLE
        made.open(known or self.worlds[""], role[1:-1] if role.startswith('"') else role.upper(), data)
        return made


class StandIn:
    """Server on loopback."""

    def __init__(self) -> None:
        self.snow = _Snow()
        self.snow.worlds = {"": World("", self)}
        fakesnow.server.shared_fs = self.snow
        own = [
            Route("/session/v1/login-request", _log_in, methods=["POST"]),
            Route("/session", _log_out, methods=["POST"]),
        ]
        app = Starlette(routes=[*own, *fakesnow.server.routes])
        self._server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> StandIn:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.snow.duck_conn.close()

    @property
    def port(self) -> int:
        return int(self._server.servers[0].sockets[0].getsockname()[1])

    @contextmanager
    def world(self, name: str) -> Iterator[World]:
        """Make an empty database. Drivers speak HTTP as long as it is there."""
        made = World(name.upper(), self)
        made.connect()  # makes the database
        made.connect().execute("CREATE SCHEMA PUBLIC")
        self.snow.worlds[made.name] = made
        before = driver.DEFAULT_CONFIGURATION["protocol"]
        driver.DEFAULT_CONFIGURATION["protocol"] = ("http", str)
        try:
            yield made
        finally:
            driver.DEFAULT_CONFIGURATION["protocol"] = before
            del self.snow.worlds[made.name]


async def _log_in(request: Request) -> Response:
    body = await request.body()
    data = json.loads(gzip.decompress(body) if request.headers.get("Content-Encoding") == "gzip" else body)["data"]
    if data["LOGIN_NAME"] == "nobody":
        told = {"code": "390100", "message": "Incorrect username or password was specified.", "data": {}}
        return JSONResponse({"success": False} | told)
    assert request.client
    ends = request.client.port, request.url.port
    found: list[Any] = [one for one in psutil.net_connections("tcp4") if one.laddr and one.raddr]
    [process] = [one.pid for one in found if (one.laddr.port, one.raddr.port) == ends]
    _login.set({"query": dict(request.query_params), "process": process, **data})
    answer: Response = await fakesnow.server.login_request(request)
    return answer


async def _log_out(request: Request) -> Response:
    session = fakesnow.server.sessions.get(fakesnow.server.to_token(request))
    answer: Response = await fakesnow.server.session(request)
    if session and "delete" in request.query_params:
        session.close()
    return answer

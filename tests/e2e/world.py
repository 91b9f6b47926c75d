"""A whole world on loopback: the sandbox, and a real Airflow that works against it."""

import base64
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.e2e.airflow import Airflow, quiet
from tests.e2e.processes import REPO, Processes
from tests.ports import free_port

DAGS = REPO / "dags"
DAG_ID = "customerio_to_segment"


class World(Airflow):
    """
    Starts everything on entry, and leaves nothing running on exit, however that comes.

    :param sandbox_args: for `python -m tests.sandbox`, beside `--port`.
    :param sandbox_settings: posted to `/_sandbox/settings` before Airflow starts.
    :param connections: extra fields of the two connections, by connection type.
    :param stored_connections: put the connections into the database, where the UI shows them,
        and not into the environment.
    :param make_connections: False leaves both to the caller, who finds in `connections` what they should hold.
    :param parallelism: how many tasks Airflow runs at a time.
    :param settings: further settings of Airflow's, by name (`SECTION__OPTION`); they replace those of this class.
    :param say: called with each line of progress.
    """

    def __init__(
        self,
        *,
        dags: Path = DAGS,
        sandbox_args: Sequence[str] = (),
        sandbox_settings: Mapping[str, Any] | None = None,
        connections: Mapping[str, Mapping[str, Any]] | None = None,
        stored_connections: bool = False,
        make_connections: bool = True,
        parallelism: int = 4,
        settings: Mapping[str, str] | None = None,
        say: Callable[[str], None] = quiet,
    ) -> None:
        super().__init__(Processes(), f"http://127.0.0.1:{free_port()}", say)
        self._use(dags, sandbox_args, sandbox_settings, connections, make_connections)
        self.stored_connections = stored_connections
        self.parallelism = parallelism
        self.settings = dict(settings or {})
        self.sandbox_url = ""

    def _use(
        self,
        dags: Path = DAGS,
        sandbox_args: Sequence[str] = (),
        sandbox_settings: Mapping[str, Any] | None = None,
        connections: Mapping[str, Mapping[str, Any]] | None = None,
        make_connections: bool = True,
    ) -> None:
        self.dags = dags
        self.sandbox_args = tuple(sandbox_args)
        self.sandbox_settings = dict(sandbox_settings or {})
        self.connection_extras = dict(connections or {})
        self.make_connections = make_connections

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(self._http)
            stack.enter_context(self._processes)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # Start

    def _start(self) -> None:
        self.env = self._environment()
        start = self._processes.start
        start("migration", "-m", "airflow", "db", "migrate", env=self.env)
        self._start_sandbox()
        self._processes.finish("migration")
        self.elapsed("Airflow's database is ready")
        if self.make_connections and not self.stored_connections:
            for conn_id, connection in self.connections.items():
                self.env[f"AIRFLOW_CONN_{conn_id.upper()}"] = json.dumps(connection)
        start("api-server", "-m", "airflow", "api-server", env=self.env)
        start("dag-processor", "-m", "airflow", "dag-processor", env=self.env)
        # Without its log server, which serves what the API reads from disk anyway.
        # There is no triggerer: nothing here needs one.
        start("scheduler", "-m", "airflow", "scheduler", "--skip-serve-logs", env=self.env)
        self.wait(self._serving, "Airflow")
        self._store_connections()
        self.elapsed(f"Airflow {self.api('version')['version']} runs at {self.airflow_url}")

    def _start_sandbox(self) -> None:
        args = ("-m", "tests.sandbox", "--port", "0", *self.sandbox_args)
        self._processes.start("sandbox", *args, env=self.env, pipe=True)
        said = json.loads(self._processes.first_line("sandbox"))
        self.sandbox_url = said["url"]
        if self.sandbox_settings:
            self.sandbox("settings", post=self.sandbox_settings)
        self.connections = {
            "customerio_default": self._connection("customerio", said["app_key"]),
            "segment_default": self._connection("segment_source", said["write_key"]),
        }
        self.elapsed(f"the sandbox plays Customer.io and Segment at {self.sandbox_url}")

    def _store_connections(self) -> None:
        if self.make_connections and self.stored_connections:
            for conn_id, connection in self.connections.items():
                self.api("connections", post={"connection_id": conn_id, **connection})

    def restart_api_server(self, *, seconds_away: float) -> None:
        """Restart the API server as an upgrade of Airflow does, and return when it serves again."""
        self._processes.stop("api-server")
        self.elapsed("the API server is away")
        time.sleep(seconds_away)
        self._processes.start("api-server", "-m", "airflow", "api-server", env=self.env)
        self.wait(self._serving, "API server")
        self.elapsed("the API server is back")

    def start(self, name: str, *args: str, **env: str) -> None:
        """Start one more process of this Airflow: `airflow ARGS`, with some environment of its own."""
        self._processes.start(name, "-m", "airflow", *args, env=self.env | env)

    def kill(self, name: str) -> None:
        """Kill processes; see `Processes.kill`."""
        self._processes.kill(name)

    def _connection(self, kind: str, password: str) -> dict[str, Any]:
        # Before 3.3.3, Airflow's UI can't test a connection whose field *Port* is empty: apache/airflow 73298.
        host, _, port = self.sandbox_url.rpartition(":")
        connection: dict[str, Any] = {"conn_type": kind, "host": host, "port": int(port), "password": password}
        if extra := self.connection_extras.get(kind):
            connection["extra"] = json.dumps(extra)
        return connection

    def _environment(self) -> dict[str, str]:
        """Return the caller's environment without its Airflow settings, and with those of this Airflow."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW_")}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        settings = {
            "API__BASE_URL": self.airflow_url,
            "API__HOST": "127.0.0.1",
            "API__PORT": self.airflow_url.rpartition(":")[2],
            "API__SECRET_KEY": secrets.token_urlsafe(),
            "API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "CORE__DAGS_FOLDER": str(self.dags),
            # With [api] port alone, tasks would look for it on port 8080.
            "CORE__EXECUTION_API_SERVER_URL": f"{self.airflow_url}/execution/",
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__PARALLELISM": str(self.parallelism),
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "CORE__TEST_CONNECTION": "Enabled",
            # Seconds until a changed DAG is stored again, and until a file is read again that has not changed.
            "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            # Seconds to wait for SQLite's lock: on a busy machine the five of the default end the scheduler.
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self._processes.home}/airflow.db?timeout=60",
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            # Only what is asked for runs: no run of yesterday's interval as soon as the DAG is there.
            "SCHEDULER__USE_JOB_SCHEDULE": "False",
            "USAGE_DATA_COLLECTION__ENABLED": "False",
            # Seconds; a busy machine may need more than the five that are the default.
            "WORKERS__EXECUTION_API_TIMEOUT": "30",
        }
        env.update({f"AIRFLOW__{name}": value for name, value in (settings | self.settings).items()})
        env["AIRFLOW_HOME"] = str(self._processes.home)
        env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1,localhost"
        env["PYTHONUNBUFFERED"] = "1"
        return env

    # Sandbox

    def sandbox(self, route: str, *, post: Any = None, **params: str | int) -> Any:
        """Call one of the sandbox's control routes; POST if a body is given."""
        return self._call(f"{self.sandbox_url}/_sandbox/{route}", params, post=post)

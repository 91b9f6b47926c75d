"""A whole world on loopback: the sandbox, and a real Airflow that works against it."""

import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from tests.e2e.processes import REPO, Processes, WorldError

DAGS = REPO / "dags"
DAG_ID = "customerio_to_segment"
TASK_ID = "customerio_to_segment"
FINISHED = frozenset({"success", "failed"})
TROUBLE = frozenset({"failed", "up_for_retry", "upstream_failed"})


@dataclass(frozen=True, kw_only=True)
class Run:
    """A DAG run, and the states of its tasks."""

    dag_id: str
    run_id: str
    logical_date: str
    state: str
    tasks: Mapping[str, str | None]

    @property
    def day(self) -> str:
        """The UTC date its data interval starts on."""
        return self.logical_date[:10]

    def __str__(self) -> str:
        trouble = [f", task {task} {state}" for task, state in self.tasks.items() if state in TROUBLE]
        return f"{self.day} {self.state}{''.join(trouble)}"


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def quiet(_: str) -> None:
    """Say nothing."""


def readable(line: str) -> str:
    """A line of a task's log, which is JSON, for people."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    causes = [f"\n  {error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail") or ()]
    return f"{entry.get('timestamp', '')[11:19]} {entry.get('level', '')} {entry['event']}{''.join(causes)}"


class World:
    """
    Starts everything on entry, and leaves nothing running on exit, however that comes.

    :param sandbox_args: for `python -m tests.sandbox`, beside `--port`.
    :param sandbox_settings: posted to `/_sandbox/settings` before Airflow starts.
    :param connections: extra fields of the two connections, by connection type.
    :param stored_connections: put the connections into the database, where the UI shows them,
        and not into the environment.
    :param parallelism: how many tasks Airflow runs at a time.
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
        parallelism: int = 4,
        say: Callable[[str], None] = quiet,
    ) -> None:
        self.dags = dags
        self.sandbox_args = tuple(sandbox_args)
        self.sandbox_settings = dict(sandbox_settings or {})
        self.connection_extras = dict(connections or {})
        self.stored_connections = stored_connections
        self.parallelism = parallelism
        self.say = say
        self.sandbox_url = ""
        self.airflow_url = f"http://127.0.0.1:{free_port()}"
        self._http = requests.Session()
        self._http.trust_env = False
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(self._http)
            self._processes = stack.enter_context(Processes())
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
        start("sandbox", "-m", "tests.sandbox", "--port", "0", *self.sandbox_args, env=self.env, pipe=True)
        start("migration", "-m", "airflow", "db", "migrate", env=self.env)
        said = json.loads(self._processes.first_line("sandbox"))
        self.sandbox_url = said["url"]
        if self.sandbox_settings:
            self.sandbox("settings", post=self.sandbox_settings)
        self.elapsed(f"the sandbox plays Customer.io and Segment at {self.sandbox_url}")
        self._processes.finish("migration")
        self.elapsed("Airflow's database is ready")
        connections = {
            "customerio_default": self._connection("customerio", said["app_key"]),
            "segment_default": self._connection("segment_source", said["write_key"]),
        }
        if not self.stored_connections:
            for conn_id, connection in connections.items():
                self.env[f"AIRFLOW_CONN_{conn_id.upper()}"] = json.dumps(connection)
        start("api-server", "-m", "airflow", "api-server", env=self.env)
        start("dag-processor", "-m", "airflow", "dag-processor", env=self.env)
        # Without its log server, which serves what the API reads from disk anyway.
        # There is no triggerer: nothing here needs one.
        start("scheduler", "-m", "airflow", "scheduler", "--skip-serve-logs", env=self.env)
        self.wait(self._serving, "Airflow")
        if self.stored_connections:
            for conn_id, connection in connections.items():
                self.api("connections", post={"connection_id": conn_id, **connection})
        self.elapsed(f"Airflow {self.api('version')['version']} runs at {self.airflow_url}")

    def restart_api_server(self, *, seconds_away: float) -> None:
        """As in an upgrade of Airflow; returns when it serves again."""
        self._processes.stop("api-server")
        self.elapsed("the API server is away")
        time.sleep(seconds_away)
        self._processes.start("api-server", "-m", "airflow", "api-server", env=self.env)
        self.wait(self._serving, "API server")
        self.elapsed("the API server is back")

    def _connection(self, kind: str, password: str) -> dict[str, str]:
        connection = {"conn_type": kind, "host": self.sandbox_url, "password": password}
        if extra := self.connection_extras.get(kind):
            connection["extra"] = json.dumps(extra)
        return connection

    def _environment(self) -> dict[str, str]:
        """The caller's environment less what is Airflow's, plus what makes this Airflow stand alone."""
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
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            # Only what is asked for runs: no run of yesterday's interval as soon as the DAG is there.
            "SCHEDULER__USE_JOB_SCHEDULE": "False",
            "USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        env.update({f"AIRFLOW__{name}": value for name, value in settings.items()})
        env["AIRFLOW_HOME"] = str(self._processes.home)
        env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1,localhost"
        env["PYTHONUNBUFFERED"] = "1"
        return env

    # Airflow

    def airflow(self, *args: str) -> str:
        """Run one `airflow` command to its end; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *args],
            cwd=REPO,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode != 0:
            raise WorldError(f"airflow {' '.join(args)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def api(self, path: str, *, post: Any = None, patch: Any = None, **params: str | int) -> Any:
        """Airflow's REST API; POST or PATCH if there is something for it. On this loopback everybody is an admin."""
        url = f"{self.airflow_url}/api/v2/{path}"
        # SQLite has room for one writer, and now and then says "database is locked".
        for pause in (0.5, 1.0, 2.0):
            try:
                return self._call(url, post, params, patch=patch)
            except requests.HTTPError as error:
                if error.response.status_code != 500:
                    raise
                time.sleep(pause)
        return self._call(url, post, params, patch=patch)

    def trigger(self, dag_id: str, **body: Any) -> None:
        """Start a run that has the DAG's own name, once the DAG is known.

        :param body: of the request; without a logical date the run has no data interval.
        """
        self.wait(lambda: self._serialized(dag_id), f"DAG {dag_id}")
        self.api(f"dags/{dag_id}/dagRuns", post={"logical_date": None, "dag_run_id": dag_id, **body})
        self.elapsed(f"{dag_id}: triggered")

    def task(self, dag_id: str) -> dict[str, Any]:
        """The one task instance of the run that was triggered, as it is now."""
        found: list[dict[str, Any]] = self.api(f"dags/{dag_id}/dagRuns/{dag_id}/taskInstances")["task_instances"]
        return found[0] if found else {"state": None, "try_number": 0, "start_date": None}

    def backfill(self, dag_id: str, from_date: str, to_date: str, *, timeout: float = 180) -> list[Run]:
        """
        Run `airflow backfill create` and wait for all its runs.

        :param from_date: the first logical date, as `YYYY-MM-DD`; `to_date` is the last one, both inclusive.
        :returns: the runs, by logical date. Whether they succeeded is for the caller to say.
        """
        self.wait(lambda: self._serialized(dag_id), f"DAG {dag_id}")
        self.elapsed(f"airflow backfill create --dag-id {dag_id} --from-date {from_date} --to-date {to_date}")
        # The scheduler would start the first run while the next is being created: then SQLite, which has room for one
        # writer, now and then says "database is locked".
        self._pause(dag_id, True)
        self.airflow(*("backfill", "create", "--dag-id", dag_id, "--from-date", from_date, "--to-date", to_date))
        self._pause(dag_id, False)
        told: set[str] = set()

        def runs() -> list[Run]:
            return [run for run in self.runs(dag_id) if from_date <= run.day <= to_date]

        def complete() -> bool:
            now = runs()
            for line in map(str, now):
                if line not in told and "queued" not in line:
                    told.add(line)
                    self.elapsed(f"  {line}")
            return bool(now) and all(run.state in FINISHED for run in now)

        try:
            self.wait(complete, f"end of the backfill of {dag_id}", timeout=timeout)
        except WorldError as error:
            raise WorldError("\n".join([str(error), *map(self.logs, runs())])) from error
        return runs()

    def _pause(self, dag_id: str, paused: bool) -> None:
        self.api(f"dags/{dag_id}", patch={"is_paused": paused})

    def rerun(self, run: Run, *, timeout: float = 120) -> Run:
        """Clear all tasks of a run, wait for it, and return it as it is then."""
        self.elapsed(f"clear {run.run_id}")
        self.api(f"dags/{run.dag_id}/dagRuns/{run.run_id}/clear", post={"dry_run": False})

        def now() -> Run:
            return next(other for other in self.runs(run.dag_id) if other.run_id == run.run_id)

        self.wait(lambda: now().state in FINISHED, f"second run of {run.day}", timeout=timeout)
        return now()

    def runs(self, dag_id: str) -> list[Run]:
        """All backfill runs of this DAG so far, by logical date."""
        path = f"dags/{dag_id}/dagRuns"
        runs = self.api(path, run_type="backfill", order_by="logical_date", limit=100)["dag_runs"]
        tasks: dict[str, dict[str, str | None]] = defaultdict(dict)
        for task in self.api(f"{path}/~/taskInstances", limit=1000)["task_instances"]:
            tasks[task["dag_run_id"]][task["task_id"]] = task["state"]
        return [
            Run(
                dag_id=dag_id,
                run_id=run["dag_run_id"],
                logical_date=run["logical_date"],
                state=run["state"],
                tasks=tasks[run["dag_run_id"]],
            )
            for run in runs
        ]

    def xcom(self, run: Run, task_id: str = TASK_ID, key: str = "return_value") -> Any:
        """What a task of a run left in XCom."""
        return self.api(
            f"dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}/xcomEntries/{key}",
            deserialize="true",
        )["value"]

    def logs(self, run: Run) -> str:
        """The logs of all tasks of a run that did not succeed, the last try of each."""
        parts = []
        for task_id, state in run.tasks.items():
            if state == "success":
                continue
            parts.append(f"--- {run.run_id} {task_id}: {state}")
            tries = sorted(
                (self._processes.home / "logs").glob(f"dag_id={run.dag_id}/run_id={run.run_id}/task_id={task_id}/*.log")
            )
            for path in tries[-1:]:
                parts.extend(readable(line) for line in path.read_text(errors="replace").splitlines())
        return "\n".join(parts)

    def _serving(self) -> bool:
        try:
            health = self.api("monitor/health")
        except requests.RequestException:
            return False
        return bool(health["scheduler"]["status"] == "healthy")

    def _serialized(self, dag_id: str) -> bool:
        errors = self.api("importErrors")["import_errors"]
        if errors:
            raise WorldError("\n".join(error["stack_trace"] for error in errors))
        return bool(self.api("dags", dag_id_pattern=dag_id)["dags"])

    # Sandbox

    def sandbox(self, route: str, *, post: Any = None, **params: str | int) -> Any:
        """One of the sandbox's control routes; POST if there is something to post."""
        return self._call(f"{self.sandbox_url}/_sandbox/{route}", post, params)

    def _call(self, url: str, post: Any, params: Mapping[str, str | int], patch: Any = None) -> Any:
        method = "POST" if post is not None else "PATCH" if patch is not None else "GET"
        answer = self._http.request(method, url, params=params, json=patch if post is None else post, timeout=30)
        answer.raise_for_status()
        return answer.json()

    # Waiting and telling

    def wait(self, true: Callable[[], bool], what: str, *, timeout: float = 90) -> None:
        """As `Processes.wait`."""
        self._processes.wait(true, what, timeout=timeout)

    def elapsed(self, line: str) -> None:
        """Say a line, with the seconds since the start."""
        self.say(f"{time.monotonic() - self._started:5.1f} s  {line}")

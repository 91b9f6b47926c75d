"""A running Airflow, seen from outside: its command, its REST API, and its tasks' logs."""

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests

from tests.e2e.processes import REPO, Processes, WorldError

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
        """Return the UTC date on which the data interval starts."""
        return self.logical_date[:10]

    def __str__(self) -> str:
        trouble = [f", task {task} {state}" for task, state in self.tasks.items() if state in TROUBLE]
        return f"{self.day} {self.state}{''.join(trouble)}"


def quiet(_: str) -> None:
    """Say nothing."""


def readable(line: str) -> str:
    """Format a line of a task's log, which is JSON, for people."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    causes = [f"\n  {error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail") or ()]
    return f"{entry.get('timestamp', '')[11:19]} {entry.get('level', '')} {entry['event']}{''.join(causes)}"


class Airflow:
    """Handle of a running Airflow.

    :param processes: which it is made of.
    :param url: of its API server.
    :param say: called with each line of progress.
    """

    env: dict[str, str]

    def __init__(self, processes: Processes, url: str, say: Callable[[str], None] = quiet) -> None:
        self.airflow_url = url
        self.say = say
        self._processes = processes
        self._http = requests.Session()
        self._http.trust_env = False
        self._started = time.monotonic()

    def airflow(self, *args: str) -> str:
        """Run one `airflow` command to its end; return its output."""
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
        """Call Airflow's REST API, with POST or PATCH if a body is given. Everybody on this loopback is an admin."""
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
        self.wait(lambda: self.has_dag(dag_id), f"DAG {dag_id}")
        self.api(f"dags/{dag_id}/dagRuns", post={"logical_date": None, "dag_run_id": dag_id, **body})
        self.elapsed(f"{dag_id}: triggered")

    def task(self, dag_id: str) -> dict[str, Any]:
        """Return the current state of the one task instance of the triggered run."""
        found: list[dict[str, Any]] = self.api(f"dags/{dag_id}/dagRuns/{dag_id}/taskInstances")["task_instances"]
        return found[0] if found else {"state": None, "try_number": 0, "start_date": None}

    def backfill(self, dag_id: str, from_date: str, to_date: str, *, timeout: float = 180) -> list[Run]:
        """Run `start_backfill`, then `finish_backfill`."""
        self.start_backfill(dag_id, from_date, to_date)
        return self.finish_backfill(dag_id, from_date, to_date, timeout=timeout)

    def start_backfill(self, dag_id: str, from_date: str, to_date: str, *options: str) -> None:
        """
        Run `airflow backfill create`, once the DAG is known.

        :param from_date: the first logical date, as `YYYY-MM-DD`; `to_date` is the last one, both inclusive.
        """
        self.wait(lambda: self.has_dag(dag_id), f"DAG {dag_id}")
        create = ("backfill", "create", "--dag-id", dag_id, "--from-date", from_date, "--to-date", to_date, *options)
        self.elapsed(" ".join(("airflow", *create)))
        # The scheduler would start the first run while the next is being created: then SQLite, which has room for one
        # writer, now and then says "database is locked".
        self._pause(dag_id, True)
        self.wait(lambda: self.created(create), "the backfill")
        self._pause(dag_id, False)

    def created(self, create: Sequence[str]) -> bool:
        """
        Run `airflow backfill create`, given as words.

        :returns: False where it can be asked again: a lock, after which Airflow removes what it had created; or the
            scheduler has not yet seen that the last backfill is over.
        """
        try:
            self.airflow(*create)
        except WorldError as error:
            if "database is locked" in str(error) or "Another backfill is running" in str(error):
                return False
            raise
        return True

    def finish_backfill(self, dag_id: str, from_date: str, to_date: str, *, timeout: float = 180) -> list[Run]:
        """
        Wait for all runs of a backfill.

        :returns: the runs, by logical date. Whether they succeeded is for the caller to say.
        """
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
        """Return all backfill runs of this DAG so far, by logical date."""
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
        """Return a value that a task of a run left in XCom."""
        return self.api(
            f"dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task_id}/xcomEntries/{key}",
            deserialize="true",
        )["value"]

    def logs(self, run: Run) -> str:
        """Return the logs of all tasks of a run that did not succeed, the last try of each."""
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
            # The first request of this kind has the API server build its routes. On a busy machine that takes half a
            # minute, and a task waits for five seconds.
            self._call(f"{self.airflow_url}/execution/health", None, {})
            # Most versions let everybody in where all are admins; 3.0.0 and 3.1 want a token, which anybody gets.
            token = self._call(f"{self.airflow_url}/auth/token", None, {})["access_token"]
            self._http.headers["Authorization"] = f"Bearer {token}"
        except requests.RequestException:
            return False
        return bool(health["scheduler"]["status"] == "healthy")

    def has_dag(self, dag_id: str) -> bool:
        """Return whether Airflow has read the DAG; raise if it could not read a file."""
        errors = self.api("importErrors")["import_errors"]
        if errors:
            raise WorldError("\n".join(error["stack_trace"] for error in errors))
        # The pattern also fits the ids that only contain this one.
        return any(dag["dag_id"] == dag_id for dag in self.api("dags", dag_id_pattern=dag_id)["dags"])

    def _call(self, url: str, post: Any, params: Mapping[str, str | int], patch: Any = None) -> Any:
        method = "POST" if post is not None else "PATCH" if patch is not None else "GET"
        answer = self._http.request(method, url, params=params, json=patch if post is None else post, timeout=120)
        answer.raise_for_status()
        return answer.json()

    # Waiting and telling

    def wait(self, true: Callable[[], bool], what: str, *, timeout: float = 180) -> None:
        """Wait; see `Processes.wait`."""
        self._processes.wait(true, what, timeout=timeout)

    def elapsed(self, line: str) -> None:
        """Say a line, with the seconds since the start."""
        self.say(f"{time.monotonic() - self._started:5.1f} s  {line}")

"""A running Airflow, seen from outside: its command, its REST API, and its tasks' logs."""

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
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
        self._backfills: dict[str, int] = {}
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

    def api(
        self, path: str, *, post: Any = None, patch: Any = None, method: str | None = None, **params: str | int
    ) -> Any:
        """Call Airflow's REST API. Everybody on this loopback is an admin.

        :param method: if it is neither POST nor PATCH, which a body makes it, nor else GET.
        """
        url = f"{self.airflow_url}/api/v2/{path}"
        # SQLite has room for one writer, and now and then says "database is locked".
        for pause in (0.5, 1.0, 2.0):
            try:
                return self._call(url, params, post=post, patch=patch, method=method)
            except requests.HTTPError as error:
                if error.response.status_code != 500:
                    raise
                time.sleep(pause)
        return self._call(url, params, post=post, patch=patch, method=method)

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

    def start_backfill(self, dag_id: str, from_date: str, to_date: str, **options: Any) -> None:
        """Create a backfill, and let the DAG run.

        :param options: as of `create_backfill`.
        """
        self.create_backfill(dag_id, from_date, to_date, **options)
        self.unpause(dag_id)

    def create_backfill(self, dag_id: str, from_date: str, to_date: str, **options: Any) -> None:
        """
        Create a backfill, once the DAG is known. The DAG is paused: the scheduler would start the first run while the
        next is being created, and then SQLite, which has room for one writer, now and then says "database is locked".

        :param from_date: the first logical date; `to_date` is the last one, both inclusive, in UTC.
        :param options: further fields of the request.
        """
        first, last = (f"{datetime.fromisoformat(date):%Y-%m-%dT%H:%M}Z" for date in (from_date, to_date))
        body = {"dag_id": dag_id, "from_date": first, "to_date": last, **options}

        def created() -> bool:
            try:
                self._backfills[dag_id] = self.api("backfills", post=body)["id"]
            except requests.HTTPError as error:
                # 409: Airflow has not yet seen that the last backfill is over. 503: a lock, and nothing was created.
                if error.response.status_code in (409, 503):
                    return False
                raise WorldError(f"{body}: {error.response.text}") from error
            return True

        self.pause(dag_id)
        self.elapsed(f"backfill of {dag_id}, {from_date} to {to_date}")
        if dag_id in self._backfills:
            self._close_backfill(dag_id)
        self.wait(created, "the backfill")

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
            # To list the runs and their tasks costs the API server a tenth of a second or so.
            self.wait(complete, f"end of the backfill of {dag_id}", timeout=timeout, every=1.0)
        except WorldError as error:
            raise WorldError("\n".join([str(error), *map(self.logs, runs())])) from error
        return runs()

    def _close_backfill(self, dag_id: str) -> None:
        """
        Tell Airflow that the DAG's last backfill is over. It looks every half a minute, and refuses another until then.

        This pauses that backfill, so that a run of it that is cleared later would not start.
        """
        try:
            self.api(f"backfills/{self._backfills.pop(dag_id)}/cancel", method="PUT")
        except requests.HTTPError as error:
            if error.response.status_code != 409:  # which says that it knows
                raise

    def pause(self, dag_id: str) -> None:
        """Pause the DAG, once it is known."""
        self.wait(lambda: self.has_dag(dag_id), f"DAG {dag_id}")
        self.api(f"dags/{dag_id}", patch={"is_paused": True})

    def unpause(self, dag_id: str) -> None:
        """Let the DAG run, once it is known."""
        self.wait(lambda: self.has_dag(dag_id), f"DAG {dag_id}")
        self.api(f"dags/{dag_id}", patch={"is_paused": False})

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
            self._call(f"{self.airflow_url}/execution/health", {})
            # Most versions let everybody in where all are admins; 3.0.0 and 3.1 want a token, which anybody gets.
            token = self._call(f"{self.airflow_url}/auth/token", {})["access_token"]
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

    def mounts(self) -> list[str]:
        """Return where this provider's plugin has put its apps in the API server."""
        [plugin] = [one for one in self.api("plugins")["plugins"] if one["name"] == "customerio"]
        return [app["url_prefix"] for app in plugin["fastapi_apps"]]

    def _call(
        self,
        url: str,
        params: Mapping[str, str | int],
        *,
        post: Any = None,
        patch: Any = None,
        method: str | None = None,
    ) -> Any:
        method = method or ("POST" if post is not None else "PATCH" if patch is not None else "GET")
        answer = self._http.request(method, url, params=params, json=patch if post is None else post, timeout=120)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    # Waiting and telling

    def wait(self, true: Callable[[], bool], what: str, *, timeout: float = 180, every: float = 0.3) -> None:
        """Wait; see `Processes.wait`."""
        self._processes.wait(true, what, timeout=timeout, every=every)

    def elapsed(self, line: str) -> None:
        """Say a line, with the seconds since the start."""
        self.say(f"{time.monotonic() - self._started:5.1f} s  {line}")

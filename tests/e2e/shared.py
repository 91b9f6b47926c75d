"""An Airflow that modules of tests use one after the other, because to start one takes half a minute of a core."""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.e2e.world import World

#: Airflow's own: a new DAG is paused, and the scheduler makes runs.
AS_INSTALLED = {
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
    "SCHEDULER__USE_JOB_SCHEDULE": "True",
}
#: What is asked for runs, and there is one stream, `main`.
AS_ASKED = {
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "CUSTOMERIO__STREAMS": '{"main": {}}',
    "SCHEDULER__USE_JOB_SCHEDULE": "False",
}
#: For all modules.
COMMON = {
    "API__ENABLE_XCOM_DESERIALIZE_SUPPORT": "True",  # before Airflow 3.1 that is off
    # Seconds until the DAG processor has seen a new file, or that one is gone.
    "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
    "DAG_PROCESSOR__REFRESH_INTERVAL": "1",
}


class SharedWorld(World):
    """World for one module after the other, each with DAGs, a sandbox and connections of its own."""

    def __init__(self, *, settings: Mapping[str, str], **options: Any) -> None:
        super().__init__(stored_connections=True, settings=settings, say=print, **options)
        self._modules = 0

    def furnish(self, **options: Any) -> None:
        """Make this the world of the next module.

        :param options: of `World`: the DAGs, and those of the sandbox and the connections.
        """
        self._started = time.monotonic()
        self._use(**options)
        self._copy_dags()
        self._start_sandbox()
        self._store_connections()

    def clear(self) -> None:
        """Remove the module's DAGs with all their runs and logs, its connections and pools, and its sandbox."""
        for dag_id in self._dag_ids():
            self.api(f"dags/{dag_id}", patch={"is_paused": True})
        self._backfills.clear()
        shutil.rmtree(self.dags)
        # Its DAG processor would fail if it marked as stale what has just been deleted.
        self.wait(lambda: not self.api("dags", exclude_stale="true")["dags"], "stale DAGs", timeout=120)
        self.wait(self._without_dags, "end of all tasks", timeout=120)
        for one in self.api("connections", limit=100)["connections"]:
            self.api(f"connections/{one['connection_id']}", method="DELETE")
        for one in self.api("pools", limit=100)["pools"]:
            if one["name"] != "default_pool":
                self.api(f"pools/{one['name']}", method="DELETE")
        self._processes.stop("sandbox")
        for logs in (self._processes.home / "logs").glob("dag_id=*"):
            shutil.rmtree(logs)
        self.elapsed("all is cleared for the next module")

    def has_dag(self, dag_id: str) -> bool:
        """Return whether Airflow has read the DAG in this module's folder: the module before may have had one, too."""
        return super().has_dag(dag_id) and Path(self.api(f"dags/{dag_id}")["fileloc"]).parent.name == self.dags.name

    def _dag_ids(self) -> list[str]:
        return [dag["dag_id"] for dag in self.api("dags", exclude_stale="false", limit=100)["dags"]]

    def _without_dags(self) -> bool:
        """Delete all DAGs that have no running task; return whether none is left."""
        for dag_id in self._dag_ids():
            try:
                self.api(f"dags/{dag_id}", method="DELETE")
            except requests.HTTPError as error:
                if error.response.status_code != 409:
                    raise
        return not self._dag_ids()

    def _copy_dags(self) -> None:
        self._modules += 1
        folder = self._processes.home / "dags" / str(self._modules)
        shutil.copytree(self.dags, folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.dags = folder

    def _environment(self) -> dict[str, str]:
        self._copy_dags()
        return super()._environment() | {"AIRFLOW__CORE__DAGS_FOLDER": str(self.dags.parent)}


class SharedAirflow:
    """At most one Airflow that runs, for all modules that get by with its settings."""

    def __init__(self) -> None:
        self._running: SharedWorld | None = None

    @contextmanager
    def world(self, *, settings: Mapping[str, str] = AS_ASKED, **options: Any) -> Iterator[World]:
        """
        Make a world for a module. If anything goes wrong in it, the next module gets another Airflow.

        :param settings: of Airflow's, by name (`SECTION__OPTION`). The Airflow that runs may have further ones.
        :param options: of `World`: the DAGs, and those of the sandbox and the connections.
        """
        try:
            world = self._running
            if world is None or not settings.items() <= world.settings.items():
                self.close()
                world = SharedWorld(settings={**COMMON, **settings}, **options)
                world.__enter__()
                self._running = world
            else:
                world.furnish(**options)
            yield world
            world.clear()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the Airflow that runs, if there is one."""
        if self._running is not None:
            world, self._running = self._running, None
            world.__exit__(None, None, None)

"""Helpers of the picture's tests: its files as the app serves them, and a fake Airflow with a few answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from playwright.sync_api import Page, Route

from airflow_provider_cio.flow.app import app

ORIGIN, PREFIX = "http://airflow.test", "/air/flow"
FIRST = datetime(2026, 11, 1, tzinfo=UTC)
DAG = "customerio_to_segment"
DAY = timedelta(days=1)


@dataclass
class Answer:
    """An answer of the app."""

    status: int
    headers: dict[str, str]
    body: bytes


def served(path: str, method: str = "GET", *, root: str = f"{PREFIX}/cio-flow", **headers: str) -> Answer:
    """Return the app's answer, without a server, because the app never waits."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("no file needs the body of a request")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": f"{root}{path}",
        "root_path": root,
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    running = app(scope, receive, send).__await__()
    assert list(running) == []
    start, body = sent
    return Answer(start["status"], {key.decode(): value.decode() for key, value in start["headers"]}, body["body"])


def moment(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def result(start: datetime, length: timedelta = DAY, **more: Any) -> dict[str, Any]:
    """Return an operator's result with the fields that the picture reads."""
    told = {
        "interval": {"start": moment(start), "end": moment(start + length)},
        "events": {"Email Delivered": 100, "Email Opened": 40},
        "sent": {"events": 140, "batches": 1, "bytes": 9000},
        "skipped": {"other_channel": 7},
    }
    return told | more


@dataclass
class MadeUp:
    """Runs, task instances and results, as Airflow's API shows them."""

    dag_id: str = DAG
    task_id: str = DAG
    runs: list[dict[str, Any]] = field(default_factory=list)
    instances: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    dag: dict[str, Any] = field(default_factory=dict)

    def add(
        self,
        start: datetime,
        state: str | None = "success",
        *,
        length: timedelta = DAY,
        kept: Any = "its own",
        name: str = "scheduled",
        map_indexes: Iterable[int] = (-1,),
        began: datetime | None = None,
        has_interval: bool = True,
    ) -> str:
        """Add a run with this state of its task; return its id. `kept` is the result in XCom, None if there is none."""
        end = start + length
        run_id = f"{name}__{moment(start)}"
        self.runs.append(
            {
                "dag_id": self.dag_id,
                "dag_run_id": run_id,
                "state": state,
                "data_interval_start": moment(start) if has_interval else None,
                "data_interval_end": moment(end) if has_interval else None,
                "run_after": moment(end),
            }
        )
        for map_index in map_indexes:
            instance = {
                "id": f"{run_id}-{map_index}",
                "dag_id": self.dag_id,
                "task_id": self.task_id,
                "dag_run_id": run_id,
                "map_index": map_index,
                "state": state,
                "start_date": moment(began or end),
                "run_after": moment(end),
            }
            self.instances.append(instance)
            found = kept
            if kept == "its own":
                found = result(start, length) if state == "success" else None
            if found is not None:
                self.results[f"{run_id}-{map_index}"] = found
        return run_id

    def days(self, count: int, first: datetime = FIRST) -> None:
        """Add this many days that went well."""
        for i in range(count):
            self.add(first + i * DAY)


class Server:
    """Server of the page under a prefix, and of the API of a few made-up DAGs.

    :param refuse: statuses, by a part of the path.
    """

    def __init__(self, page: Page, *dags: MadeUp) -> None:
        self.dags = {one.dag_id: one for one in dags}
        self.refuse: dict[str, int] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        page.route(f"{ORIGIN}/**", self._route)

    def _route(self, route: Route) -> None:
        request = route.request
        path = urlsplit(request.url).path
        if path.startswith(f"{PREFIX}/cio-flow/"):
            found = served(path.removeprefix(f"{PREFIX}/cio-flow"))
            route.fulfill(status=found.status, headers=found.headers, body=found.body)
        elif path.startswith(f"{PREFIX}/api/v2/"):
            self._api(route, unquote(path.removeprefix(f"{PREFIX}/api/v2/")))
        else:
            route.fulfill(status=200, content_type="text/html", body=f"<p>Airflow's page {path}</p>")

    def _api(self, route: Route, path: str) -> None:
        self.asked.append(path)
        self.headers.append(route.request.headers)
        status = next((status for part, status in self.refuse.items() if part in path), 200)
        found = None if status != 200 else self._found(path, route.request.url, route.request.post_data_json)
        route.fulfill(
            status=404 if found is None and status == 200 else status,
            content_type="application/json",
            body=json.dumps(found or {"detail": "no"}),
        )

    def _found(self, path: str, url: str, body: Any) -> Any:
        if path == "dags":
            return {"dags": [{"dag_id": dag_id} for dag_id in self.dags]}
        if path.endswith("/list"):
            return self._list(path, body)
        if path == "assets/events":
            query = parse_qs(urlsplit(url).query)
            return {"asset_events": self._asset_events(query["source_dag_id"][0], int(query["offset"][0]))}
        _, dag_id, *rest = path.split("/")
        one = self.dags[dag_id]
        if not rest:
            return {"dag_id": dag_id, "is_paused": False} | one.dag
        if rest == ["tasks"]:
            ours = {"class_name": "CustomerIOToSegmentOperator", "module_path": "airflow_provider_cio"}
            return {"tasks": [{"task_id": one.task_id, "class_ref": ours}, {"task_id": "other", "class_ref": {}}]}
        map_index = parse_qs(urlsplit(url).query)["map_index"][0]
        value = one.results.get(f"{rest[1]}-{map_index}")
        return None if value is None else {"value": json.dumps(value)}

    def _list(self, path: str, body: Any) -> Any:
        one = self.dags[body["dag_ids"][0]]
        key, found = ("task_instances", one.instances) if "taskInstances" in path else ("dag_runs", one.runs)
        since, until = body.get("run_after_gte", ""), body.get("run_after_lte", "9")
        found = sorted((row for row in found if since <= row["run_after"] <= until), key=lambda row: row["run_after"])
        offset = body.get("page_offset", 0)
        return {key: found[::-1][offset : offset + body["page_limit"]]}

    def _asset_events(self, dag_id: str, offset: int) -> list[Any]:
        return []

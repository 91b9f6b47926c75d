"""An early run waits out the settling time in a real Airflow, and takes neither its only slot nor a try.

`make matrix` runs this in each version, so what else needs a whole Airflow of that version is here too."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from tests.e2e.airflow import FINISHED
from tests.e2e.compare import COLLECTIONS, differences, seconds
from tests.e2e.shared import SharedAirflow
from tests.e2e.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

POOL = "one_slot"
SETTLING = 30  # seconds
SHOWN_LATE = 20  # seconds at most until Customer.io shows what happened
DAG_FILE = f"""
from datetime import timedelta

import pendulum
from airflow.sdk import DAG, task

from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator

with DAG("early", schedule=None, start_date=pendulum.datetime(2026, 1, 1)):
    CustomerIOToSegmentOperator(task_id="send", settling_time=timedelta(seconds={SETTLING}), pool="{POOL}")

with DAG("other", schedule=None, start_date=pendulum.datetime(2026, 1, 1)):
    task(task_id="work", pool="{POOL}")(lambda: None)()
"""


class Story(NamedTuple):
    """Early task while it waits, and when it is over; the other task that ran meanwhile.

    :param end: of the early run's interval.
    :param requests: that Customer.io had got when the wait began.
    :param starts: how often the early task was started only to see that it is early.
    :param tested: what the test of each connection said, by its id.
    :param picture: what the page of the picture asks for, by what it asks.
    """

    end: float
    waiting: dict[str, Any]
    pool: dict[str, Any]
    requests: int
    other: dict[str, Any]
    still_waiting: dict[str, Any]
    over: dict[str, Any]
    tries: int
    starts: int
    result: dict[str, Any]
    truth: list[dict[str, Any]]
    segment: dict[str, Any]
    tested: dict[str, dict[str, Any]]
    picture: dict[str, Any]


@pytest.fixture(scope="module")
def story(shared: SharedAirflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder: Path = tmp_path_factory.mktemp("dags")
    (folder / "settling.py").write_text(DAG_FILE)
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=30)
    history = ("--seed", "6", "--deliveries", "4000", "--start", start.isoformat(), "--days", str(1 / 24))
    with shared.world(
        dags=folder,
        sandbox_args=(*history, "--latency", "0.1"),
        sandbox_settings={"visible_after": SHOWN_LATE, "visible_from_creation": True},
    ) as world:
        world.api("pools", post={"name": POOL, "slots": 1})
        world.wait(lambda: world.has_dag("early"), "DAG")
        end = datetime.now(UTC).replace(microsecond=0)
        interval = {"data_interval_start": start.isoformat(), "data_interval_end": end.isoformat()}
        world.trigger("early", logical_date=start.isoformat(), **interval)
        waiting = wait_for(world, "early", {"up_for_reschedule"})
        pool = world.api(f"pools/{POOL}")
        requests = world.sandbox("customerio")["requests"]
        world.trigger("other")
        other = wait_for(world, "other", FINISHED)
        still_waiting = world.task("early")
        over = wait_for(world, "early", FINISHED)
        run = "dags/early/dagRuns/early/taskInstances/send"
        bounds = {"start": int(start.timestamp()), "end": int(end.timestamp())}
        yield Story(
            end=end.timestamp(),
            waiting=waiting,
            pool=pool,
            requests=requests,
            other=other,
            still_waiting=still_waiting,
            over=over,
            tries=world.api(f"{run}/tries")["total_entries"],
            starts=str(world.api(f"{run}/logs/1", full_content="true")["content"]).count("has its settling time until"),
            result=world.api(f"{run}/xcomEntries/return_value", deserialize="true")["value"],
            truth=[row for row in world.sandbox("truth", **bounds)["events"] if row["collection"] in COLLECTIONS],
            segment=world.sandbox("segment", events=1),
            tested={
                conn_id: world.api("connections/test", post={"connection_id": conn_id, **connection})
                for conn_id, connection in world.connections.items()
            },
            picture=asked_by_the_picture(world, start),
        )


def asked_by_the_picture(world: World, start: datetime) -> dict[str, Any]:
    since = {"dag_ids": ["early"], "run_after_gte": start.isoformat(), "page_limit": 1000, "page_offset": 0}
    hour_before = (start - timedelta(hours=1)).isoformat()
    until = {"dag_ids": ["early"], "run_after_lte": hour_before, "page_limit": 1, "order_by": "-run_after"}
    runs, instances = "dags/~/dagRuns/list", "dags/~/dagRuns/~/taskInstances/list"
    return {
        "page": requests.get(f"{world.airflow_url}/cio-flow/", timeout=60),
        "other": requests.get(f"{world.airflow_url}/cio-flow/nothing.js", timeout=60),
        "dag": world.api("dags/early"),
        "tasks": world.api("dags/early/tasks")["tasks"],
        "runs": world.api(runs, post=since | {"order_by": "-run_after"})["dag_runs"],
        "before": world.api(runs, post=until)["dag_runs"],
        "instances": world.api(instances, post=since | {"task_ids": ["send"], "order_by": "id"})["task_instances"],
        "result": world.api("dags/early/dagRuns/early/taskInstances/send/xcomEntries/return_value", map_index=-1),
        "events": world.api("assets/events", source_dag_id="early", source_task_id="send", order_by="-timestamp"),
        "links": world.api("dags/early/dagRuns/early/taskInstances/send/links")["extra_links"],
    }


def wait_for(world: World, dag_id: str, states: set[str] | frozenset[str]) -> dict[str, Any]:
    world.wait(lambda: world.task(dag_id)["state"] in states, f"{dag_id} in {' or '.join(states)}")
    world.elapsed(f"{dag_id}: {world.task(dag_id)['state']} in try {world.task(dag_id)['try_number']}")
    return world.task(dag_id)


def test_early_run_takes_no_slot(story: Story) -> None:
    assert story.waiting["state"] == story.still_waiting["state"] == "up_for_reschedule"
    assert (story.pool["occupied_slots"], story.pool["running_slots"]) == (0, 0)
    assert story.other["state"] == "success"
    assert story.requests == 0
    assert story.starts == 1


def test_the_wait_takes_no_try(story: Story) -> None:
    assert story.over["state"] == "success"
    assert story.over["try_number"] == story.tries == 1
    assert seconds(story.over["end_date"]) >= story.end + SETTLING


def test_late_events_are_sent(story: Story) -> None:
    assert differences(story.truth, story.segment["events"]) == []
    assert any(row["time"] > story.end - SHOWN_LATE for row in story.truth)
    assert story.result["sent"]["events"] == len(story.segment["events"])
    assert (story.segment["duplicates"], story.segment["dropped"]) == (0, {})


def test_api_server_tests_connections(story: Story) -> None:
    assert {conn_id: answer["status"] for conn_id, answer in story.tested.items()} == {
        "customerio_default": True,
        "segment_default": True,
    }
    assert "accepts the key" in story.tested["customerio_default"]["message"]
    assert "took an empty batch" in story.tested["segment_default"]["message"]


def test_the_picture_gets_what_it_asks_for(story: Story) -> None:
    found = story.picture
    assert (found["page"].status_code, found["other"].status_code) == (200, 404)
    assert "script-src 'self'" in found["page"].headers["content-security-policy"]
    assert '<script type="module" src="page.js">' in found["page"].text
    [task] = found["tasks"]
    assert task["class_ref"]["class_name"] == "CustomerIOToSegmentOperator"
    assert {"customerio_conn_id", "opens_and_clicks", "settling_time"} <= set(task["template_fields"])
    assert "next_dagrun_data_interval_start" in found["dag"]
    [run], [instance] = found["runs"], found["instances"]
    assert (run["dag_run_id"], run["data_interval_end"] is not None) == ("early", True)
    assert (instance["dag_run_id"], instance["task_id"], instance["map_index"]) == ("early", "send", -1)
    assert instance["state"] == "success"
    assert all(instance[key] for key in ("id", "start_date", "run_after"))
    assert (found["before"], found["events"]["asset_events"]) == ([], [])
    value = found["result"]["value"]
    assert (json.loads(value) if isinstance(value, str) else value) == story.result
    assert found["links"] == {"What flowed": "cio-flow/?dag_id=early&task_id=send"}

"""Effects of a run on the rest of a real Airflow: DAGs scheduled on its asset, OpenLineage, and StatsD."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.airflow import FINISHED, TASK_ID
from tests.e2e.shared import AS_INSTALLED, SharedAirflow
from tests.e2e.world import DAG_ID, DAGS, World
from tests.unit.statsd import STATSD, listening

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DATE = '{}_date=pendulum.datetime(2026, 11, {}, tz="UTC")'
START = DATE.format("start", 1)
DAYS = ["2026-11-05", "2026-11-06"]
PARTITION = "2026-11-07"
CONSUMER = "customerio_downstream"
PARTITIONED = f"""
import pendulum
from airflow.sdk import DAG, Asset, PartitionedAtRuntime

from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator

with DAG("partitioned", schedule=PartitionedAtRuntime(), start_date=pendulum.datetime(2026, 1, 1, tz="UTC")):
    CustomerIOToSegmentOperator(
        task_id="{TASK_ID}",
        interval_start="{{{{ partition_key }}}}",
        interval_end="{{{{ macros.ds_add(partition_key, 1) }}}}",
        outlets=[Asset("partitions")],
    )
"""


class Story(NamedTuple):
    """Observations after two days by schedule, and one partition by hand.

    :param results: by run id, of the two days.
    :param events: of the two assets, by name of the asset.
    :param lineage: what OpenLineage's file transport has written.
    """

    world: World
    results: dict[str, dict[str, Any]]
    events: dict[str, list[dict[str, Any]]]
    consumed: list[dict[str, Any]]
    lineage: list[dict[str, Any]]
    metrics: list[str]


@pytest.fixture(scope="module")
def story(shared: SharedAirflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    dags: Path = tmp_path_factory.mktemp("dags")
    shutil.copy(DAGS / f"{CONSUMER}.py", dags)
    example = (DAGS / f"{DAG_ID}.py").read_text()
    assert example.count(START) == 1
    (dags / f"{DAG_ID}.py").write_text(example.replace(START, ", ".join(map(DATE.format, ("start", "end"), (5, 6)))))
    (dags / "partitioned.py").write_text(PARTITIONED)
    lineage = tmp_path_factory.mktemp("lineage") / "events.jsonl"
    history = ("--seed", "4", "--deliveries", "3000", "--start", "2026-11-01", "--days", "8")
    with listening() as listener:
        watched = {
            **{name.removeprefix("AIRFLOW__"): value for name, value in STATSD.items()},
            "METRICS__STATSD_PORT": str(listener.port),
            "METRICS__METRICS_ALLOW_LIST": "customerio",  # all of Airflow's would overflow the socket's buffer
            "OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(lineage), "append": True}),
        }
        with shared.world(dags=dags, sandbox_args=history, settings=AS_INSTALLED | watched) as world:
            for dag_id in (CONSUMER, "partitioned", DAG_ID):  # which sends last what the others wait for
                world.unpause(dag_id)
            world.wait(lambda: len(consumed(world)) == len(DAYS), "consumer's results", timeout=200)
            world.trigger("partitioned", partition_key=PARTITION)
            world.wait(lambda: world.task("partitioned")["state"] in FINISHED, "partitioned run")
            events: dict[str, list[dict[str, Any]]] = {}
            for event in world.api("assets/events", limit=100)["asset_events"]:
                events.setdefault(event["name"], []).append(event)
            yield Story(
                world,
                results=returned(world, DAG_ID, TASK_ID),
                events=events,
                consumed=consumed(world),
                lineage=[json.loads(line) for line in lineage.read_text().splitlines()],
                metrics=listener.received(),
            )


def returned(world: World, dag_id: str, task_id: str) -> dict[str, Any]:
    """Return the value that the task returned in each run that succeeded, by run id."""
    runs = world.api("dags/~/dagRuns", limit=100)["dag_runs"]
    return {
        run_id: world.api(
            f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value", deserialize="true"
        )["value"]
        for run_id in (run["dag_run_id"] for run in runs if (run["dag_id"], run["state"]) == (dag_id, "success"))
    }


def consumed(world: World) -> list[dict[str, Any]]:
    """Return the results that the consumer got, one by one or together."""
    return [result for run in returned(world, CONSUMER, "use_the_events").values() for result in run]


def test_asset_event_has_the_result(story: Story) -> None:
    assert {event["source_run_id"]: event["extra"] for event in story.events["customerio_events"]} == story.results
    assert all(sum(result["events"].values()) > 0 for result in story.results.values())


def test_third_example_gets_results(story: Story) -> None:
    assert sorted(one["interval"]["start"][:10] for one in story.consumed) == DAYS
    assert sorted(story.consumed, key=json.dumps) == sorted(story.results.values(), key=json.dumps)


def test_asset_event_has_the_partition(story: Story) -> None:
    assert story.world.task("partitioned")["state"] == "success"
    (event,) = story.events["partitions"]
    assert event["partition_key"] == PARTITION
    assert event["extra"]["interval"]["start"][:10] == PARTITION


def test_new_parameter_new_dag_version(story: Story) -> None:
    def versions() -> list[int]:
        found = story.world.api("dags/partitioned/dagVersions")["dag_versions"]
        return sorted(version["version_number"] for version in found)

    assert versions() == [1]
    (story.world.dags / "partitioned.py").write_text(PARTITIONED.replace("outlets=", 'pii="hash", outlets='))
    story.world.wait(lambda: versions() == [1, 2], "a second version of the DAG")


def test_openlineage_gets_datasets(story: Story) -> None:
    started, complete = (
        {
            event["run"]["facets"]["airflow"]["dagRun"]["run_id"]: event
            for event in story.lineage
            if event["eventType"] == kind and event["job"]["name"] == f"{DAG_ID}.{TASK_ID}"
        }
        for kind in ("START", "COMPLETE")
    )
    host = story.world.sandbox_url.removeprefix("http://")
    for run_id, result in story.results.items():
        (outlet,) = started[run_id]["outputs"]  # which the DAG declares; the sandbox has another host
        assert (outlet["namespace"], outlet["name"]) == ("segment://api.segment.io", "segment_default")
        (read,), (written,) = complete[run_id]["inputs"], complete[run_id]["outputs"]
        assert (read["namespace"], read["name"]) == (f"customerio://{host}", "customerio_default.deliveries")
        assert read["inputFacets"]["inputStatistics"]["rowCount"] == result["read"]["deliveries"]
        assert (written["namespace"], written["name"]) == (f"segment://{host}", "segment_default")
        statistics = written["outputFacets"]["outputStatistics"]
        assert (statistics["rowCount"], statistics["size"]) == (result["sent"]["events"], result["sent"]["bytes"])


def test_statsd_gets_the_counts(story: Story) -> None:
    counted: Counter[str] = Counter()
    for line in story.metrics:
        name, _, value = line.partition(":")
        if f"dag_id={DAG_ID}," in f"{name}," and value.endswith("|c"):
            counted[name] += int(value.removesuffix("|c"))
    tags = f"dag_id={DAG_ID},task_id={TASK_ID}"
    wanted: Counter[str] = Counter()
    for result in story.results.values():
        for collection, n in result["events"].items():
            table = collection.lower().replace(" ", "_")
            wanted[f"airflow.customerio.events,{tags},collection={table}"] += n
        for reason, n in result["skipped"].items():
            wanted[f"airflow.customerio.skipped,{tags},reason={reason}"] += n
        wanted[f"airflow.customerio.requests,{tags}"] += result["read"]["requests"]
    assert counted == wanted
    durations = [line for line in story.metrics if line.startswith(f"airflow.customerio.duration,{tags}:")]
    assert len(durations) == len(DAYS)
    assert all(0 < float(line.rpartition(":")[2].removesuffix("|ms")) < 300_000 for line in durations)

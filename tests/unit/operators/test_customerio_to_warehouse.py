"""Check the parts of the operator to the warehouse that the operator to Segment does not share."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import duckdb
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import Asset
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_provider_cio.events.catalog import resolve_collections
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.operators.checkpoint_store import CHECKPOINT_KEY
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from airflow_provider_cio.operators.customerio_to_warehouse import CustomerIOToWarehouseOperator
from airflow_provider_cio.warehouse.sink import WarehouseSink
from tests.sandbox import History, Sandbox
from tests.unit.support import DAY, NOVEMBER, context_of, small_pages

DAY_ONE = Interval(NOVEMBER, NOVEMBER + DAY)
RUN = context_of(DAY_ONE.start, DAY_ONE.end)
HISTORY = History.generate(seed=5, deliveries=900, start=NOVEMBER - 9 * DAY, end=NOVEMBER + 2 * DAY)


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the DuckDB file behind `warehouse_default`."""
    path = tmp_path / "warehouse.duckdb"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps({"conn_type": "duckdb", "host": str(path)}))
    return path


def operator(**parameters: Any) -> CustomerIOToWarehouseOperator:
    return CustomerIOToWarehouseOperator(task_id="load", **parameters)


def query(file: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(file), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def test_run_loads_its_interval(sandbox: Sandbox, file: Path) -> None:
    result = operator().execute(RUN)
    assert json.loads(json.dumps(result)) == result
    assert list(result) == ["interval", "read", "events", "loaded", "skipped", "ages"]
    wanted = [row for row in HISTORY.truth(*DAY_ONE, channels={"email"}) if row.collection in result["events"]]
    named = [row for row in wanted if row.user_id or row.anonymous_id]
    assert result["loaded"] == {"events": len(named), "new": len(named)}
    assert result["skipped"].get("unidentified", 0) == len(wanted) - len(named)
    found = query(file, "SELECT event_text, epoch(timestamp)::bigint, user_id, anonymous_id FROM customerio.tracks")
    assert sorted(found, key=repr) == sorted(
        ((row.collection, row.time, row.user_id, row.anonymous_id) for row in named), key=repr
    )
    assert sandbox.segment.requests == []
    assert operator().execute(RUN)["loaded"] == {"events": len(named), "new": 0}


def test_lineage_names_the_tables(sandbox: Sandbox, file: Path) -> None:
    pytest.importorskip("airflow.providers.openlineage", reason="OpenLineage's provider is not installed")
    task = operator(collections=["Email Opened", "Email Delivered"])
    events = task.execute(RUN)["events"]
    assert 0 < events["Email Opened"] < events["Email Delivered"]
    outputs = task.get_openlineage_facets_on_complete(None).outputs
    assert {one.namespace for one in outputs} == {f"duckdb://{file}"}
    found = {one.name: one.outputFacets["outputStatistics"].rowCount for one in outputs}
    assert found == {
        "customerio.email_opened": events["Email Opened"],
        "customerio.email_delivered": events["Email Delivered"],
        "customerio.tracks": sum(events.values()),
    }


def test_outlet_event_names_the_tables(sandbox: Sandbox, file: Path) -> None:
    events, tables = OutletEventAccessors(), Asset("customerio_tables")
    task = operator(collections=["Email Opened", "Email Delivered"], outlets=[tables])
    result = task.execute(RUN | {"outlet_events": events})
    named = ["customerio.email_opened", "customerio.email_delivered", "customerio.tracks"]
    assert events[tables].extra == result | {"tables": named}
    found = query(file, "SELECT table_schema || '.' || table_name FROM information_schema.tables")
    assert sorted(named) == sorted(name for (name,) in found)


def test_ids_match_the_other_operator(sandbox: Sandbox, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = json.loads(os.environ["AIRFLOW_CONN_SEGMENT_DEFAULT"])
    fields["extra"]["message_id_namespace"] = "both"
    monkeypatch.setenv("AIRFLOW_CONN_SEGMENT_DEFAULT", json.dumps(fields))
    CustomerIOToSegmentOperator(task_id="send").execute(RUN)
    operator(message_id_namespace="both").execute(RUN)
    sent = {event["messageId"] for event in sandbox.segment.kept}
    assert {name for (name,) in query(file, "SELECT id FROM customerio.tracks")} == sent
    operator(message_id_namespace="another", schema="elsewhere").execute(RUN)
    assert not {name for (name,) in query(file, "SELECT id FROM elsewhere.tracks")} & sent


def test_a_preview_makes_no_table(sandbox: Sandbox, file: Path) -> None:
    result = operator(preview=True).execute(RUN)
    assert result["preview"] is True
    assert result["loaded"] == {"events": 0, "new": 0}
    assert sum(result["events"].values()) > 0
    assert query(file, "SELECT 1 FROM information_schema.tables WHERE table_schema = 'customerio'") == []


def test_unstorable_event_is_kept(sandbox: Sandbox, file: Path, tmp_path: Path) -> None:
    row = {"type": "email", "created": NOVEMBER, "metrics": {"opened": NOVEMBER + 5}, "customer_id": "1"}
    sandbox.history = History(deliveries=[row | {"id": "good"}, row | {"id": "bad", "subject": "half \0 of it"}])
    with pytest.raises(AirflowFailException, match=r"can't be loaded.* nul_character_in_subject: 1 .*bad"):
        operator().execute(RUN)
    result = operator(dead_letter_path=str(tmp_path / "letters")).execute(RUN)
    assert result["dead_letters"]["events"] == {"nul_character_in_subject": 1}
    assert operator(preview=True).execute(RUN)["refused"] == {"nul_character_in_subject": 1}
    assert query(file, "SELECT delivery_id FROM customerio.email_opened") == [("good",)]
    (letters,) = (tmp_path / "letters").rglob("*.jsonl")
    assert json.loads(letters.read_text())["event"]["properties"]["delivery_id"] == "bad"


class Store:
    """Fake of Airflow's TaskStateStoreAccessor."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any) -> None:
        self.values[key] = json.loads(json.dumps(value))

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


def test_a_retry_does_the_rest(sandbox: Sandbox, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_cio.pipeline.pipeline.CHECKPOINT_EVERY", 0.0)
    small_pages(monkeypatch, 10)
    store = Store()
    context = RUN | {"task_state_store": store}
    fault = Interrupted(after=3)
    with monkeypatch.context() as patch:
        patch.setattr(WarehouseSink, "flush", fault.flush(WarehouseSink.flush))
        with pytest.raises(InterruptedError):
            operator().execute(context)
    assert store.values[CHECKPOINT_KEY]["done"]
    first = dict(query(file, "SELECT id, uuid_ts::varchar FROM customerio.tracks"))
    assert first
    result = operator().execute(context)
    assert result["resumed"] is True
    after = dict(query(file, "SELECT id, uuid_ts::varchar FROM customerio.tracks"))
    assert after.items() >= first.items()
    assert result["loaded"]["events"] == sum(result["events"].values()) == len(after)
    assert store.values == {}


class Interrupted:
    """Interruption of a run at its n-th load."""

    def __init__(self, after: int) -> None:
        self._left = after

    def flush(self, original: Any) -> Any:
        def flush(sink: WarehouseSink) -> None:
            original(sink)
            self._left -= 1
            if not self._left:
                raise InterruptedError

        return flush


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"schema": "Customerio"}, "schema must be a lower-case letter, then .* got 'Customerio'"),
        ({"schema": 'a"; DROP TABLE x'}, "schema must be"),
        ({"schema": ""}, "schema must be .* got empty text"),
        ({"schema": "9lives"}, "schema must be"),
        ({"schema": "x" * 64}, "at most 63"),
        ({"schema": None}, "schema must be .* got nothing"),
        ({"message_id_namespace": " "}, "message_id_namespace must be text, got empty text"),
        ({"message_id_namespace": 3}, "message_id_namespace must be text, got a number"),
        ({"warehouse_conn_id": ""}, "warehouse_conn_id must be the id of a connection"),
        ({"collections": ["Email Clicked"]}, "Did you mean"),
        ({"pii": "mask"}, "pii must be one of"),
    ],
)
def test_wrong_parameters_at_parse(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        operator(**parameters)


def test_wrong_rendered_schema(sandbox: Sandbox, file: Path) -> None:
    task = operator(schema="{{ params.it }}")
    task.render_template_fields(RUN | {"params": {"it": "No Schema"}})
    with pytest.raises(AirflowFailException, match="schema must be"):
        task.execute(RUN)
    assert sandbox.customerio.requests == []


def test_parameters_match_the_other() -> None:
    ours = inspect.signature(CustomerIOToWarehouseOperator.__init__).parameters
    siblings = inspect.signature(CustomerIOToSegmentOperator.__init__).parameters
    own = {"warehouse_conn_id", "schema", "message_id_namespace"}
    its = {"segment_conn_id", "send_to_customerio_destinations"}
    assert set(ours) - own == set(siblings) - its
    assert {name: ours[name].default for name in set(ours) & set(siblings)} == {
        name: siblings[name].default for name in set(ours) & set(siblings)
    }
    assert set(CustomerIOToWarehouseOperator.template_fields) == set(ours) - {"self", "kwargs"}
    assert (ours["warehouse_conn_id"].default, ours["schema"].default) == ("warehouse_default", "customerio")


def test_wrong_connection_asks_nothing(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowFailException, match="There is no connection 'warehouse_default'"):
        operator().execute(RUN)
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DEFAULT", json.dumps({"conn_type": "duckdb", "host": ""}))
    with pytest.raises(AirflowFailException, match="the database is in memory"):
        operator().execute(RUN)
    assert sandbox.customerio.requests == []


def test_channels_have_their_tables(sandbox: Sandbox, file: Path) -> None:
    operator(collections="all").execute(RUN)
    tables = query(file, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'customerio'")
    assert len(tables) == len(resolve_collections("all")) + 1

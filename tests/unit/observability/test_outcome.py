from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors

from tests.sandbox import History, Sandbox
from tests.unit.operators.test_customerio_to_segment import HISTORY as HISTORY
from tests.unit.operators.test_customerio_to_segment import RUN, operator
from tests.unit.statsd import Listener, listening, run
from tests.unit.support import NOVEMBER

EVENTS = Asset("events")
EXECUTE = """
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
day = {{"interval_start": "2026-11-01", "interval_end": "2026-11-02"}}
try:
    CustomerIOToSegmentOperator(task_id="send", **day, {parameters}).execute({{}})
except Exception as error:
    assert "event_too_large" in str(error), error
"""


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as listener:
        yield listener


def row(number: int, **changes: Any) -> dict[str, Any]:
    opened = {"opened": NOVEMBER + number}
    return {"id": f"d{number}", "type": "email", "created": NOVEMBER, "metrics": opened, "customer_id": "1"} | changes


def test_failed_run_is_counted(sandbox: Sandbox, listener: Listener) -> None:
    odd = [row(3, subject="x" * 20_000), row(4, customer_id=None), row(5, customer_id=None)]
    sandbox.history = History(deliveries=[row(0), row(1), *odd])
    run(EXECUTE.format(parameters=""), listener)
    received = listener.received()
    tags = "dag_id=adhoc_airflow,task_id=send"
    assert [line for line in received if "duration" not in line and "requests" not in line] == [
        f"airflow.customerio.events,{tags},collection=email_opened:2|c",
        f"airflow.customerio.skipped,{tags},reason=unidentified:2|c",
        f"airflow.customerio.refused,{tags},reason=event_too_large:1|c",
    ]
    asked = len(sandbox.customerio.requests)
    assert f"airflow.customerio.requests,{tags}:{asked}|c" in received
    assert sum(line.startswith(f"airflow.customerio.duration,{tags}:") for line in received) == 1


def test_a_preview_is_not_counted(sandbox: Sandbox, listener: Listener) -> None:
    run(EXECUTE.format(parameters="preview=True"), listener)
    assert listener.received() == []
    assert sandbox.customerio.requests


def test_outlet_event_has_the_result(sandbox: Sandbox) -> None:
    accessors = OutletEventAccessors()
    accessors[EVENTS].extra["of_the_user"] = 1
    result = operator(outlets=[EVENTS]).execute(RUN | {"outlet_events": accessors})
    assert accessors[EVENTS].extra == {"of_the_user": 1, **result}


def test_alias_is_left_alone(sandbox: Sandbox) -> None:
    accessors = OutletEventAccessors()
    result = operator(outlets=[AssetAlias("alias"), EVENTS]).execute(RUN | {"outlet_events": accessors})
    assert list(accessors) == [EVENTS]
    assert accessors[EVENTS].extra == result


def test_outlets_without_outlet_events(sandbox: Sandbox) -> None:
    assert operator(outlets=[EVENTS]).execute(RUN)["sent"]["events"] > 0


def datasets(task: Any) -> list[tuple[str, str, int]]:
    """Return the datasets of both ends: namespace, name, and rows."""
    found = task.get_openlineage_facets_on_complete(None)
    return [
        (one.namespace, one.name, facet.rowCount)
        for one, facets in [(one, one.inputFacets) for one in found.inputs]
        + [(one, one.outputFacets) for one in found.outputs]
        for facet in facets.values()
    ]


def test_lineage_names_lists_and_source(sandbox: Sandbox) -> None:
    pytest.importorskip("airflow.providers.openlineage", reason="OpenLineage's provider is not installed")
    task = operator(opens_and_clicks="every")
    result = task.execute(RUN)
    host = sandbox.url.removeprefix("http://")
    assert result["read"]["activities"] > 0
    assert datasets(task) == [
        (f"customerio://{host}", "customerio_default.deliveries", result["read"]["deliveries"]),
        (f"customerio://{host}", "customerio_default.activities", result["read"]["activities"]),
        (f"segment://{host}", "segment_default", result["sent"]["events"]),
    ]


def test_lineage_omits_unread_lists(sandbox: Sandbox) -> None:
    pytest.importorskip("airflow.providers.openlineage", reason="OpenLineage's provider is not installed")
    task = operator()
    task.execute(RUN)
    assert [name for _, name, _ in datasets(task)] == ["customerio_default.deliveries", "segment_default"]


def test_asset_is_the_dataset_of_a_run(sandbox: Sandbox) -> None:
    utils = pytest.importorskip("airflow.providers.openlineage.utils.utils", reason="OpenLineage is not installed")
    task = operator(opens_and_clicks="every")
    task.execute(RUN)
    written = [(namespace, name) for namespace, name, _ in datasets(task)]
    assert len(written) == 3
    assets = [Asset(f"{namespace}/{name}") for namespace, name in written]
    found = [utils.translate_airflow_asset(one, None) for one in assets]
    assert [(one.namespace, one.name) for one in found] == written


@pytest.mark.parametrize("rest", ["//api.segment.io", "//api.segment.io/", "///segment_default", "//host/of/two", "x"])
@pytest.mark.parametrize("scheme", ["customerio", "segment"])
def test_asset_needs_host_and_name(scheme: str, rest: str) -> None:
    with pytest.raises(ValueError, match=f"{scheme} must be a host and one name, such as {scheme}://api"):
        Asset(f"{scheme}:{rest}")


def test_a_preview_has_no_lineage(sandbox: Sandbox) -> None:
    pytest.importorskip("airflow.providers.openlineage", reason="OpenLineage's provider is not installed")
    task = operator(preview=True)
    task.execute(RUN)
    assert datasets(task) == []

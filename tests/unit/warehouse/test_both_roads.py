"""The tables hold the events that Segment keeps, however often and in whichever way the intervals are run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_cio.events.catalog import resolve_collections
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.warehouse.loading import Warehouse
from airflow_provider_cio.warehouse.sink import WarehouseSink
from airflow_provider_cio.warehouse.tables import Kind, columns_of, number_of
from tests.sandbox import History, Sandbox, Settings
from tests.unit.support import DAY, NOVEMBER, run_pipeline, small_pages
from tests.unit.warehouse.places import Place, all_rows, assert_tracks_is_the_union
from tests.unit.warehouse.test_tables import flattened

#: The tests have servers and processes of their own, which take long on a busy machine.
pytestmark = pytest.mark.timeout(400)

STRETCH = Interval(NOVEMBER, NOVEMBER + 3 * DAY)
OF_THE_LOAD = {"uuid_ts", "loaded_at"}
#: Ids that are numbers in the tables, whether the event has them as numbers or as text.
NUMBERS = {column.name for column in columns_of("email_opened") if column.kind is Kind.NUMBER}
SCHEMAS = itertools.count()

HISTORIES = st.builds(
    History.generate,
    seed=st.integers(0, 10**6),
    deliveries=st.integers(0, 120),
    start=st.just(NOVEMBER - 4 * DAY),
    end=st.just(STRETCH.end),
    burst=st.sampled_from([0.0, 0.5]),
    on_bounds=st.sampled_from([0.0, 0.5]),
    rare_identities=st.sampled_from([0.0, 0.3]),
    same_second=st.sampled_from([0.0, 0.7]),
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def small_pages_and_loads() -> Iterator[None]:
    """Make pages and loads small, so that there are many of them."""
    with pytest.MonkeyPatch.context() as patch:
        small_pages(patch, 12, 15)
        patch.setattr(Warehouse, "spool_bytes", 60_000)
        yield


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=HISTORIES,
    cuts=st.sets(st.integers(STRETCH.start + 1, STRETCH.end - 1), max_size=3),
    order=st.randoms(use_true_random=False),
    again=st.integers(0, 2),
    mode=st.sampled_from(["first", "first_human", "every", "every_human"]),
    names=st.sampled_from(["email", "sms", ["Email Opened", "SMS Link Clicked"]]),
    pii=st.sampled_from(["keep", "hash", "drop"]),
    on_unidentified=st.sampled_from(["skip", "cio_id"]),
)
def test_tables_hold_segments_events(
    shared_database: Place,
    sandbox: Sandbox,
    history: History,
    cuts: set[int],
    order: Any,
    again: int,
    mode: str,
    names: Any,
    pii: str,
    on_unidentified: str,
) -> None:
    sandbox.segment.reset()
    sandbox.history, sandbox.settings = history, Settings(now=STRETCH.end + 5 * DAY)
    schema = f"schema{next(SCHEMAS)}"
    warehouse = shared_database.warehouse(schema)
    collections = [one.name for one in resolve_collections(names)]
    bounds = [STRETCH.start, *sorted(cuts), STRETCH.end]
    intervals = [Interval(*pair) for pair in itertools.pairwise(bounds)]
    repeated = intervals[:again]
    order.shuffle(intervals)
    loaded = new = 0
    options: dict[str, Any] = {
        "names": names,
        "pii": pii,
        "on_unidentified": on_unidentified,
        "mode": mode,
        "warn": lambda text: None,
    }
    for interval in [*intervals, *repeated]:
        run_pipeline(sandbox, interval, **options)
        result = run_pipeline(sandbox, interval, **options, sink=WarehouseSink(warehouse, collections))
        loaded, new = loaded + result.work["events"], new + result.work["new"]
        assert result.work["events"] == result.events.total()

    kept = {event["messageId"]: expected(event) for event in sandbox.segment.kept}
    assert sandbox.segment.dropped == []
    rows = all_rows(shared_database, schema)
    assert {row["id"]: without_load(row) for row in rows} == kept
    assert len(rows) == len(kept) == new
    assert loaded == len(sandbox.segment.kept) + len(sandbox.segment.duplicates)
    assert_tracks_is_the_union(shared_database, schema)


def expected(event: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of an event as Segment kept it that are not NULL, without those of the load."""
    moment = int(datetime.fromisoformat(event["originalTimestamp"]).timestamp())
    row = flattened(event["properties"]) | flattened(event["context"], "context_")
    row |= {name: number_of(row[name]) for name in NUMBERS & row.keys()}
    row |= {"id": event["messageId"], "event_text": event["event"]}
    row |= dict.fromkeys(("original_timestamp", "timestamp", "sent_at", "received_at"), moment)
    row |= {"event": "_".join(event["event"].replace("-", " ").replace("WhatsApp", "Whats App").lower().split())}
    row |= {"user_id": event.get("userId"), "anonymous_id": event.get("anonymousId")}
    return {name: value for name, value in row.items() if value is not None}


def without_load(row: dict[str, Any]) -> dict[str, Any]:
    assert row["uuid_ts"] > 0
    return {name: value for name, value in row.items() if value is not None and name not in OF_THE_LOAD}

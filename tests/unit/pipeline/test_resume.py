"""A failed try leaves a checkpoint: the next one reads and sends only the rest, and nothing is lost."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest
from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time.comms import ErrorResponse
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from airflow_provider_cio.customerio import reader as reading
from airflow_provider_cio.customerio.windows import plan
from airflow_provider_cio.events.catalog import resolve_collections
from airflow_provider_cio.events.interval import Ages, Interval, Window
from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.operators.checkpoint_store import CHECKPOINT_KEY
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from airflow_provider_cio.pipeline import pipeline as line
from airflow_provider_cio.pipeline.checkpoint import Checkpoint, State
from airflow_provider_cio.pipeline.pipeline import Callbacks
from airflow_provider_cio.pipeline.result import Result
from airflow_provider_cio.segment import batches as segment
from airflow_provider_cio.segment.sink import SegmentSink
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.sandbox.faults import Side
from tests.sandbox.settings import Asked
from tests.unit.full import held, kept, to_send
from tests.unit.support import (
    DAY,
    EVERY_NAME,
    NOVEMBER,
    assert_kept_is_truth,
    context_of,
    requests_have_ended,
    run_pipeline,
    small_pages,
)

INTERVAL = Interval(NOVEMBER, NOVEMBER + 3 * DAY)
#: The whole of the history.
LOOKBACK = 3 * DAY
HISTORY = History.generate(seed=6, deliveries=900, start=NOVEMBER, end=INTERVAL.end, drafts=0.1)
CREATED = {delivery.id: delivery for delivery in HISTORY.deliveries}
NAMES = (*EVERY_NAME[:3], "Email Opened", "Email Link Clicked")
RUN = context_of(INTERVAL.start, INTERVAL.end)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Make pages and batches small, and checkpoints as frequent as possible."""
    with pytest.MonkeyPatch.context() as patch:
        small_pages(patch, 20)
        patch.setattr(segment, "MAX_BATCH_EVENTS", 50)
        patch.setattr(line, "CHECKPOINT_EVERY", 0.0)
        yield


class Store:
    """Fake of Airflow's TaskStateStoreAccessor, which keeps JSON values by key."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.states: list[State] = []

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        assert value is not None
        self.values[key] = json.dumps(value)
        assert len(self.values[key]) < 4000
        self.states.append(self.get(key))

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


def attempt(sandbox: Sandbox, states: list[State], interval: Interval = INTERVAL, **options: Any) -> Result:
    """Run one try of the pipeline, which continues from the last of the states and adds to them."""
    return run_pipeline(
        sandbox,
        interval,
        lookback=LOOKBACK,
        checkpoint=Checkpoint("fingerprint", states[-1] if states else None),
        callbacks=Callbacks(save=lambda state: states.append(json.loads(json.dumps(state)))),
        **options,
    )


def covers(state: State, drafts: bool, created: int) -> bool:
    return any(done[3] is drafts and done[1] <= created < done[2] for done in state["done"])


def assert_only_the_rest_was_asked(state: State, requests: list[Asked]) -> None:
    for asked in (one for one in requests if one.path == "/v1/messages"):
        for _, start, end, drafts in state["done"]:
            if drafts is ("drafts" in asked.params):
                assert int(asked.params["end_ts"]) < start or end <= int(asked.params["start_ts"])


# Through the line


@settings(max_examples=15)
@given(
    failures=st.lists(
        st.tuples(st.sampled_from(["customerio", "segment"]), st.integers(0, 45)), min_size=1, max_size=3
    ),
    in_flight=st.sampled_from([1, 2, 5, 12]),
    latency=st.sampled_from([0.0, 0.001]),
)
def test_later_try_sends_only_the_rest(
    world: Sandbox, failures: list[tuple[Side, int]], in_flight: int, latency: float
) -> None:
    world.settings = Settings(latency=latency, segment_latency=latency)
    world.history = HISTORY
    world.reset()
    states: list[State] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MAX_REQUESTS", in_flight)
        for side, at in failures:
            before = states[-1] if states else {"done": []}
            repeated = len(world.segment.duplicates)
            made = len(world.customerio.requests if side == "customerio" else world.segment.requests)
            world.faults.clear()
            world.faults.add(Fault(side=side, kind="401", at=made + at, times=10_000))
            try:
                attempt(world, states, names=NAMES)
            except ConfigurationError:
                pass
            else:
                break
            assert_repeats_only_the_rest(world, before, repeated)
        world.faults.clear()
        before = states[-1] if states else {"done": []}
        repeated = len(world.segment.duplicates)
        result = attempt(world, states, names=NAMES)
    assert_repeats_only_the_rest(world, before, repeated)
    assert_kept_is_truth(world, INTERVAL, NAMES, duplicates=None)
    # After a resume the counts are those of all tries.
    assert result.tally.read["deliveries"] == sum(d.channel == "email" for d in HISTORY.deliveries)
    assert result.events.total() == result.work["events"] == len(world.segment.kept)
    assert result.work["requests"] >= len(states[-1]["done"])
    for earlier, later in itertools.pairwise(states):  # what is done stays done
        done = [Window(*window) for window in earlier["done"]]
        assert Checkpoint("fingerprint", later).rest(done) == []


def assert_repeats_only_the_rest(world: Sandbox, before: State, already: int) -> None:
    for event in world.segment.duplicates[already:]:
        delivery = CREATED[event["properties"]["delivery_id"]]
        assert not covers(before, delivery.draft, delivery.created)


@pytest.mark.parametrize("in_flight", [1, 4, 12])
def test_late_failure_repeats_little(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, in_flight: int) -> None:
    monkeypatch.setattr(reading, "MAX_REQUESTS", in_flight)
    small_pages(monkeypatch, 4)
    sandbox.settings = Settings(latency=0.002)
    whole = attempt(sandbox, [])
    sandbox.reset()
    # With several in flight, one run needs some requests more than another.
    sandbox.faults.add(Fault(side="customerio", kind="401", at=whole.work["requests"] * 8 // 10, times=10_000))
    states: list[State] = []
    with pytest.raises(ConfigurationError):
        attempt(sandbox, states)
    sandbox.faults.clear()
    asked = len(sandbox.customerio.requests)
    result = attempt(sandbox, states)
    assert_kept_is_truth(sandbox, INTERVAL, duplicates=None)
    assert result.events == whole.events
    assert result.skipped == whole.skipped
    assert result.tally.read == whole.tally.read
    assert len(sandbox.customerio.requests) - asked < whole.work["requests"] * 0.9
    assert len(sandbox.segment.duplicates) < whole.work["events"] * 0.9


def test_last_checkpoint_covers_most(sandbox: Sandbox) -> None:
    states: list[State] = []
    attempt(sandbox, states)
    assert states
    assert all(set(state) == {"version", "fingerprint", "done", "tally", "work"} for state in states)
    assert max(len(json.dumps(state)) for state in states) < 3000
    planned = plan(INTERVAL, Ages(LOOKBACK), resolve_collections(["Email Opened"]))
    rest = Checkpoint("fingerprint", states[-1]).rest(planned)
    assert sum(window.end - window.start for window in rest) < (INTERVAL.end - INTERVAL.start)


def test_slow_batch_and_checkpoints(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "MAX_BATCH_EVENTS", 10_000)
    monkeypatch.setattr(segment, "MAX_BATCH_BYTES", 10**9)
    sandbox.settings = Settings(latency=0.005)
    states: list[State] = []
    result = attempt(sandbox, states)
    assert len(states) > 1
    assert 1 < result.work["batches"] <= result.work["requests"]


def test_retry_meets_refused_event(sandbox: Sandbox) -> None:
    """No checkpoint covers the refused event, nor any event acknowledged after it."""
    shared: Any = {"type": "email", "metrics": {"opened": NOVEMBER + 9000}, "customer_id": "1"}
    rows = [
        {"id": f"d{n}", "created": NOVEMBER + n, "subject": "POISON" if n == 400 else "fine"} | shared
        for n in range(1000)
    ]
    sandbox.history = History(deliveries=rows)
    sandbox.settings = Settings(refuse_containing="POISON", latency=0.001)
    sandbox.faults.add(Fault(side="customerio", kind="401", at=45))
    states: list[State] = []
    interval = Interval(NOVEMBER, NOVEMBER + 10_000)
    with pytest.raises(ConfigurationError):
        attempt(sandbox, states, interval)
    assert not any(covers(state, False, NOVEMBER + 400) for state in states)
    count = len(states)
    result = attempt(sandbox, states, interval)
    assert dict(result.refused) == {"refused_400": 1}
    assert result.refused_ids == {"refused_400": ["d400"]}
    assert not any(covers(state, False, NOVEMBER + 400) for state in states[count:])
    assert len({event["messageId"] for event in sandbox.segment.kept}) == 999


def test_oversized_event_stops_checkpoints(sandbox: Sandbox) -> None:
    """An event that is refused before it is sent, because of its size, is not covered either."""
    shared: Any = {"type": "email", "metrics": {"opened": NOVEMBER + 9000}, "customer_id": "1"}
    rows = [
        {"id": f"d{n}", "created": NOVEMBER + n, "subject": "x" * 40_000 if n == 999 else "fine"} | shared
        for n in range(1000)
    ]
    sandbox.history = History(deliveries=rows)
    states: list[State] = []
    result = attempt(sandbox, states, Interval(NOVEMBER, NOVEMBER + 10_000))
    assert dict(result.refused) == {"event_too_large": 1}
    assert not any(covers(state, False, NOVEMBER + 999) for state in states)


def test_retry_meets_malformed_row(sandbox: Sandbox) -> None:
    shared: Any = {"type": "email", "metrics": {"opened": NOVEMBER + 9000}, "customer_id": "1"}
    rows = [
        {"id": f"d{n}", "created": NOVEMBER + n, "customer_identifiers": 7 if n == 999 else None} | shared
        for n in range(1000)
    ]
    sandbox.history = History(deliveries=rows)
    states: list[State] = []
    for _ in range(2):
        result = attempt(sandbox, states, Interval(NOVEMBER, NOVEMBER + 10_000))
        assert result.refused_ids == {"malformed": ["d999"]}
    assert not any(covers(state, False, NOVEMBER + 999) for state in states)


class Killed(BaseException):
    """End of a worker: nothing catches this exception."""


@contextmanager
def killed(place: str, at: int) -> Iterator[None]:
    """Kill the worker at the n-th call of that method."""
    calls = itertools.count()
    known: Any = {
        "take": SegmentSink.take,
        "wait": SegmentSink.wait,
        "add": Checkpoint.add,
        "flush": SegmentSink.flush,
    }[place]

    def method(*arguments: Any) -> None:
        if next(calls) == at:
            raise Killed
        known(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint if place == "add" else SegmentSink, place, method)
        yield


def tries(world: Sandbox, kills: Sequence[tuple[str, int]], mode: str) -> Result:
    """Run tries that are killed, then one that is not; check the repeated events of each."""
    states: list[State] = []
    for place, at in kills:
        before, repeated = states[-1] if states else {"done": []}, len(world.segment.duplicates)
        with suppress(Killed), killed(place, at):
            attempt(world, states, LATER, names=NAMES, mode=mode)
        requests_have_ended()
        assert_repeats_only_the_rest(world, before, repeated)
    before, repeated = states[-1] if states else {"done": []}, len(world.segment.duplicates)
    asked = len(world.customerio.requests)
    result = attempt(world, states, LATER, names=NAMES, mode=mode)
    assert_repeats_only_the_rest(world, before, repeated)
    earlier = before["work"]["requests"] if before["done"] else 0
    assert result.work["requests"] == earlier + len(world.customerio.requests) - asked
    assert result.resumed is bool(before["done"])
    return result


#: With deliveries from before it and opens and clicks of them: in the mode "every" those are asked for by id.
LATER = Interval(NOVEMBER + DAY, INTERVAL.end)
KILLS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 90)),
        st.tuples(st.sampled_from(["wait", "add"]), st.integers(0, 20)),
        st.tuples(st.just("flush"), st.integers(0, 8)),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=16)
@given(
    kills=KILLS,
    mode=st.sampled_from(["first", "first_human", "every", "every_human"]),
    order=st.sampled_from(["newest", "nearly", "shuffled"]),
    in_flight=st.sampled_from([1, 4]),
)
def test_killed_tries_count_as_one_run(
    world: Sandbox, kills: list[tuple[str, int]], mode: str, order: Any, in_flight: int
) -> None:
    world.history = HISTORY
    world.settings = Settings(order=order, displaced=0.1, displaced_by=3600, now=INTERVAL.end + 40 * DAY)
    world.reset()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MAX_REQUESTS", in_flight)
        whole = attempt(world, [], LATER, names=NAMES, mode=mode)
        sent = {event["messageId"] for event in world.segment.kept}
        requests_have_ended()
        world.reset()
        result = tries(world, kills, mode)
    assert {event["messageId"] for event in world.segment.kept} == sent
    assert len(world.segment.kept) == len(sent) == whole.work["events"]
    assert result.events == whole.events
    assert result.skipped == whole.skipped
    assert result.tally.ages.by_collection() == whole.tally.ages.by_collection()
    assert result.tally.read == whole.tally.read
    assert result.work["events"] == whole.work["events"]


def test_retry_with_all_opens_and_clicks(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(now=INTERVAL.end + 40 * DAY)
    whole = attempt(sandbox, [], LATER, names=NAMES, mode="every")
    expected = kept(sandbox.segment.kept)
    assert expected == to_send(held(HISTORY, [LATER], NAMES, lookback=LOOKBACK))
    sandbox.reset()
    states: list[State] = []
    with pytest.raises(Killed), killed("take", whole.work["requests"] // 2):
        attempt(sandbox, states, LATER, names=NAMES, mode="every")
    requests_have_ended()
    batches = sandbox.segment.received_count
    first_try = len(sandbox.segment.kept)
    assert states
    assert first_try > 0
    result = attempt(sandbox, states, LATER, names=NAMES, mode="every")
    assert kept(sandbox.segment.kept) == expected
    assert sandbox.segment.received_count - batches < whole.work["events"]
    assert result.work["events"] == whole.work["events"]


def test_late_rows_survive_any_failure(sandbox: Sandbox) -> None:
    """A row that comes a page late is not taken for done because the rows about it are."""
    rows = [
        {"id": f"d{n}", "type": "email", "created": NOVEMBER + n, "metrics": {"opened": NOVEMBER + 9000}}
        | {"customer_id": "1", "subject": "s"}
        for n in range(200)
    ]
    interval = Interval(NOVEMBER, NOVEMBER + 10_000)
    sandbox.history = History(deliveries=rows)
    sandbox.settings = Settings(order="nearly", displaced=0.2, displaced_by=60)
    resumed = 0
    for at in range(14):
        sandbox.reset()
        states: list[State] = []
        with suppress(Killed), killed("take", at):
            attempt(sandbox, states, interval)
        requests_have_ended()
        resumed += bool(states)
        attempt(sandbox, states, interval)
        assert len(sandbox.segment.kept) == 200
    assert resumed > 0


# Through the operator


def operator(**parameters: Any) -> CustomerIOToSegmentOperator:
    return CustomerIOToSegmentOperator(task_id="send", **({"lookback": timedelta(seconds=LOOKBACK)} | parameters))


def fail(sandbox: Sandbox, store: Store | None, at: int = 30, **parameters: Any) -> None:
    """Run a try that Airflow would repeat: Customer.io asks for a longer wait than the client accepts.

    The reader may meet the fault before Segment has acknowledged anything; such a try leaves no checkpoint, so
    there is another one, with more time between the pages.
    """
    settings = sandbox.settings
    for latency in (0.003, 0.01, 0.03, 0.1):
        sandbox.settings = structs.replace(settings, latency=latency)
        sandbox.faults.add(Fault(side="customerio", kind="429", at=at, times=10_000, retry_after=100_000))
        with pytest.raises(TryAgainLaterError):
            operator(**parameters).execute(RUN | ({"task_state_store": store} if store is not None else {}))
        sandbox.faults.clear()
        wait_until_nothing_arrives(sandbox)
        if store is None or store.values:
            break
        sandbox.reset()
    else:
        raise AssertionError("no try left a checkpoint")
    sandbox.settings = settings


def wait_until_nothing_arrives(sandbox: Sandbox) -> None:
    """Wait for the requests in flight when a try failed."""
    seen = -1
    while seen != (now := len(sandbox.customerio.requests) + sandbox.segment.received_count):
        seen = now
        time.sleep(0.05)


def whole_run(sandbox: Sandbox, **parameters: Any) -> dict[str, Any]:
    """Return the result of a run without a fault, and let the sandbox forget it."""
    result = operator(**parameters).execute(RUN)
    sandbox.reset()
    return result


def test_retry_uses_the_checkpoint(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    sandbox.settings = Settings(latency=0.003)
    whole = whole_run(sandbox)
    store = Store()
    fail(sandbox, store)
    assert list(store.values) == [CHECKPOINT_KEY]
    asked = len(sandbox.customerio.requests)
    state = store.states[-1]
    result = operator().execute(RUN | {"task_state_store": store})
    assert "An earlier try has done part of this interval" in "".join(capfd.readouterr())
    assert_only_the_rest_was_asked(state, sandbox.customerio.requests[asked:])
    assert_repeats_only_the_rest(sandbox, state, 0)
    assert_kept_is_truth(sandbox, INTERVAL, duplicates=None)
    assert result["resumed"] is True
    for same in ("events", "skipped", "ages"):
        assert result[same] == whole[same]
    assert result["read"]["deliveries"] == whole["read"]["deliveries"]
    assert result["sent"]["events"] == whole["sent"]["events"]
    assert len(sandbox.segment.duplicates) < whole["sent"]["events"]
    assert result["read"]["requests"] <= len(sandbox.customerio.requests)
    assert store.values == {}


def test_cleared_task_runs_in_full(sandbox: Sandbox) -> None:
    store = Store()
    first = operator().execute(RUN | {"task_state_store": store})
    assert store.states
    assert store.values == {}
    second = operator().execute(RUN | {"task_state_store": store})
    assert second["sent"]["events"] == first["sent"]["events"]
    assert_kept_is_truth(sandbox, INTERVAL, duplicates=first["sent"]["events"])


@pytest.mark.parametrize(
    "changed",
    [
        {"pii": "hash"},
        {"segment_conn_id": "other"},
        {"customerio_conn_id": "other"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_other_parameters_start_over(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    """All other parameters are in `test_tries`, which compares fingerprints."""
    store = Store()
    fail(sandbox, store)
    assert store.values
    for side in ("customerio", "segment"):
        if f"{side}_conn_id" in changed:
            monkeypatch.setenv("AIRFLOW_CONN_OTHER", os.environ[f"AIRFLOW_CONN_{side.upper()}_DEFAULT"])
    context = RUN | {"ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=2)}
    whole = operator(**changed).execute(context)
    result = operator(**changed).execute(context | {"task_state_store": store})
    assert result["read"]["deliveries"] == whole["read"]["deliveries"]
    assert result["events"] == whole["events"]
    assert store.values == {}


def test_new_key_keeps_the_checkpoint(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    fail(sandbox, store)
    sandbox.settings.app_key = "another-key-of-the-same-workspace"
    connection = json.loads(os.environ["AIRFLOW_CONN_CUSTOMERIO_DEFAULT"])
    connection |= {"password": sandbox.settings.app_key, "extra": {"requests_per_second": 500, "timeout": 7}}
    monkeypatch.setenv("AIRFLOW_CONN_CUSTOMERIO_DEFAULT", json.dumps(connection))
    assert operator().execute(RUN | {"task_state_store": store})["resumed"] is True
    assert_kept_is_truth(sandbox, INTERVAL, duplicates=None)


def test_unreadable_store_warns(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    class Away(Store):
        def get(self, key: str, default: Any = None) -> Any:
            raise AirflowRuntimeError(ErrorResponse(detail={"status_code": 503}))

    operator().execute(RUN | {"task_state_store": Away()})
    assert "this try begins anew" in "".join(capfd.readouterr())
    assert_kept_is_truth(sandbox, INTERVAL)


def test_undeletable_checkpoint(sandbox: Sandbox) -> None:
    """A cleared task would do nothing otherwise."""

    class Away(Store):
        def delete(self, key: str) -> None:
            raise AirflowRuntimeError(ErrorResponse(detail={"status_code": 503}))

    store = Away()
    with pytest.raises(TryAgainLaterError, match="All events were delivered"):
        operator().execute(RUN | {"task_state_store": store})
    assert_kept_is_truth(sandbox, INTERVAL)
    working = Store()
    working.values = store.values
    operator().execute(RUN | {"task_state_store": working})
    assert working.values == {}


def test_no_store_starts_over(sandbox: Sandbox) -> None:
    whole = whole_run(sandbox)
    fail(sandbox, None)
    result = operator().execute(RUN)
    assert result["sent"]["events"] == whole["sent"]["events"]
    assert_kept_is_truth(sandbox, INTERVAL, duplicates=None)


def test_failing_store_is_harmless(sandbox: Sandbox) -> None:
    class Away(Store):
        def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
            super().set(key, value, retention=retention)
            if len(self.states) % 2:
                raise AirflowRuntimeError(ErrorResponse(detail={"status_code": 503}))

    store = Away()
    operator().execute(RUN | {"task_state_store": store})
    assert len(store.states) > 1
    assert_kept_is_truth(sandbox, INTERVAL)


def test_other_interval_starts_over(sandbox: Sandbox) -> None:
    """A checkpoint in another interval's store is harmless, though Airflow keeps one store for each task instance."""
    store = Store()
    fail(sandbox, store)
    later = Interval(NOVEMBER + DAY, NOVEMBER + 2 * DAY)
    sandbox.reset()
    context: Any = {
        "data_interval_start": pendulum.from_timestamp(later.start),
        "data_interval_end": pendulum.from_timestamp(later.end),
        "task_state_store": store,
    }
    operator(lookback=timedelta(days=30)).execute(context)
    assert_kept_is_truth(sandbox, later)

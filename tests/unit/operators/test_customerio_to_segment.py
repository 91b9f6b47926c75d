from __future__ import annotations

import json
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pendulum
import psutil
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout
from airflow.sdk import DAG
from airflow.sdk.execution_time.context import MacrosAccessor

from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from tests.airflow_names import timeout
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.unit.support import DAY, NOVEMBER, assert_kept_is_truth, connect, context_of, kill_in_execution

DAY_ONE = Interval(NOVEMBER, NOVEMBER + DAY)
RUN = context_of(DAY_ONE.start, DAY_ONE.end)
HISTORY = History.generate(seed=5, deliveries=1500, start=NOVEMBER - 9 * DAY, end=NOVEMBER + 2 * DAY)


def operator(**parameters: Any) -> CustomerIOToSegmentOperator:
    return CustomerIOToSegmentOperator(task_id="send", **parameters)


def left_behind() -> tuple[set[str], int]:
    """Return this package's threads, and all client sockets of this process."""
    own = {thread.name for thread in threading.enumerate()}
    return own, len([c for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED])


def test_run_sends_its_interval(sandbox: Sandbox) -> None:
    result = operator().execute(RUN)
    assert_kept_is_truth(sandbox, DAY_ONE)
    assert json.loads(json.dumps(result)) == result
    assert set(result) == {"interval", "read", "events", "sent", "skipped", "ages"}
    assert result["sent"]["events"] == len(sandbox.segment.kept) > 0


def test_the_parameters_are_templated(sandbox: Sandbox) -> None:
    with DAG("templated", start_date=pendulum.datetime(2026, 1, 1), schedule=None):
        task = operator(
            customerio_conn_id="{{ workspace }}_default",
            segment_conn_id="{{ 'segment' }}_default",
            interval_start="{{ ds }}",
            interval_end="{{ macros.ds_add(ds, 1) }}",
        )
    context: Any = {
        "workspace": "customerio",
        "ds": "2026-11-01",
        "macros": MacrosAccessor(),
    }
    task.render_template_fields(context)
    task.execute(context)
    assert_kept_is_truth(sandbox, DAY_ONE)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"collections": ["Email Clicked"]}, "Did you mean"),
        ({"lookback": timedelta(days=181)}, "lookback must be 0 to 180 days"),
        ({"lookback": timedelta(seconds=-1)}, "lookback must be 0 to 180 days"),
        ({"interval_start": "2026-11-01"}, "interval_start is set without interval_end"),
        ({"interval_start": "2026-11-02", "interval_end": "2026-11-01"}, "before it starts"),
    ],
)
def test_wrong_parameters_at_parse(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        operator(**parameters)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({}, "no data interval, because it was triggered without(?s:.*)CronDataIntervalTimetable"),
        (RUN | {"data_interval_end": RUN["data_interval_start"]}, "zero length(?s:.*)interval_start and interval_end"),
    ],
)
def test_missing_interval_asks_nothing(sandbox: Sandbox, context: Any, message: str) -> None:
    with pytest.raises(AirflowFailException, match=message):
        operator().execute(context)
    assert sandbox.customerio.requests == []


def assert_nothing_was_asked_again(sandbox: Sandbox) -> None:
    """Check requests: the look-back and the interval are asked side by side, and each list of names once."""
    asked = Counter(one.path for one in sandbox.customerio.requests)
    assert asked.pop("/v1/messages") <= 2
    assert set(asked.values()) <= {1}


def test_wrong_key_is_not_retried(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, sandbox, app_key="not-the-key-of-this-workspace")
    with pytest.raises(AirflowFailException, match=r"'customerio_default'.* 401(?s:.*App API key.*)region") as caught:
        operator().execute(RUN)
    assert "not-the-key" not in str(caught.value)
    assert_nothing_was_asked_again(sandbox)


def test_missing_scope_is_retried(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(scopes=("campaigns",))
    with pytest.raises(TryAgainLaterError, match=r"'customerio_default'.* 403(?s:.*)scope"):
        operator().execute(RUN)
    assert_nothing_was_asked_again(sandbox)


def test_segments_400_is_quoted(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(side="segment", kind="400", at=0, times=1000, body='{"message":"payload is malformed"}'))
    with pytest.raises(AirflowFailException, match=r"'segment_default'.* 400: payload is malformed"):
        operator().execute(RUN)


def test_oversized_event_fails_the_task(sandbox: Sandbox) -> None:
    def row(number: int, subject: str) -> dict[str, Any]:
        opened = {"opened": NOVEMBER + number}
        shared = {"type": "email", "created": NOVEMBER, "customer_id": "1"}
        return {"id": f"d{number}", "metrics": opened, "subject": subject, **shared}

    sandbox.history = History(deliveries=[row(n, "x" * (20_000 if n == 0 else 10)) for n in range(10)])
    with pytest.raises(AirflowFailException, match=r"1 event or row can.*event_too_large: 1 \(first ids: d0\)"):
        operator().execute(RUN)
    assert {event["properties"]["delivery_id"] for event in sandbox.segment.kept} == {f"d{n}" for n in range(1, 10)}


class Recording(SimpleNamespace):
    """Task instance that keeps what is pushed to XCom."""

    def __init__(self) -> None:
        super().__init__(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1, pushed=[])

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed.append((key, json.loads(json.dumps(value))))


def half_unidentified(number: int) -> dict[str, Any]:
    opened = {"opened": NOVEMBER + number, "exploded": NOVEMBER + number}
    shared = {"type": "email", "created": NOVEMBER, "subject": "x" * (40_000 if number == 3 else 1)}
    return {"id": f"d{number}", "metrics": opened, "customer_id": "1" if number % 2 else None, **shared}


def test_a_run_that_fails_for_refused_events_leaves_its_counts(sandbox: Sandbox, tmp_path: Path) -> None:
    """The counts are those of a successful run over the same rows, and the reasons."""
    sandbox.history = History(deliveries=[half_unidentified(number) for number in range(10)])
    ti = Recording()
    with pytest.raises(AirflowFailException, match="6 events or rows"):
        operator(on_unidentified="fail").execute(RUN | {"ti": ti})
    ((key, value),) = ti.pushed
    assert key == "return_value"
    assert value.pop("refused") == {"unidentified": 5, "event_too_large": 1}
    returned = operator(on_unidentified="dead_letter", dead_letter_path=str(tmp_path)).execute(RUN | {"ti": ti})
    assert returned.pop("dead_letters")["events"] == {"unidentified": 5, "event_too_large": 1}
    for result in (value, returned):
        result["sent"].pop("bytes")  # of other times
        result["read"].pop("requests")
    assert value == returned
    assert value["events"]["Email Opened"] == 4
    assert value["skipped"] == {"unknown_metric": 10}
    assert len(ti.pushed) == 1  # a successful result is Airflow's to push


def test_a_failed_run_with_dead_letters_names_their_place(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.history = History(deliveries=[half_unidentified(number) for number in range(10)])
    ti = Recording()
    with pytest.raises(AirflowFailException, match="They are in"):
        operator(on_unidentified="fail", dead_letter_path=str(tmp_path)).execute(RUN | {"ti": ti})
    ((_, value),) = ti.pushed
    assert value["refused"] == value["dead_letters"]["events"] == {"unidentified": 5, "event_too_large": 1}


def test_counts_that_can_not_be_pushed_hide_no_failure(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sandbox.history = History(deliveries=[half_unidentified(3)])
    ti = Recording()
    monkeypatch.setattr(Recording, "xcom_push", lambda *_, **__: 1 / 0)
    with pytest.raises(AirflowFailException, match="1 event or row can"):
        operator().execute(RUN | {"ti": ti})
    assert "could not be left in XCom: ZeroDivisionError" in "".join(capfd.readouterr())


def test_a_task_that_pushes_no_xcom_pushes_no_counts(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=[half_unidentified(3)])
    ti = Recording()
    with pytest.raises(AirflowFailException):
        operator(do_xcom_push=False).execute(RUN | {"ti": ti})
    assert ti.pushed == []


def test_overload_is_left_to_a_retry(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.faults.add(Fault(side="customerio", kind="429", at=0, times=1000, retry_after=100_000))
    with pytest.raises(TryAgainLaterError, match=r"'customerio_default'.* 429.*asks to wait 100000 s"):
        operator().execute(RUN)


def test_log_has_no_secret_or_address(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    operator().execute(RUN)
    out, err = capfd.readouterr()
    assert "events sent" in out + err
    assert sandbox.settings.app_key not in out + err
    assert sandbox.settings.write_key not in out + err
    assert "@" not in out + err


@pytest.mark.parametrize("side", ["customerio", "segment"])
def test_kill_ends_the_task_at_once(sandbox: Sandbox, side: Any) -> None:
    before = left_behind()
    sandbox.faults.add(Fault(side=side, kind="timeout", at=0, times=1000, seconds=3.0))
    task = operator()
    began = time.monotonic()
    kill_in_execution(task, RUN, lambda: time.sleep(0.5))
    assert time.monotonic() - began < 2.5  # before the first answer
    settle(before)
    task.on_kill()  # nothing runs any more: no effect


def test_kill_before_the_run_is_not_forgotten(sandbox: Sandbox) -> None:
    task = operator()
    asked: list[str] = []

    def get(key: str) -> None:
        asked.append(key)
        if len(asked) == 1:
            task.on_kill()

    store = SimpleNamespace(get=get, set=lambda *_: None, delete=lambda _: None)
    context: Any = {**RUN, "task_state_store": store}
    with pytest.raises(SystemExit):
        task.execute(context)
    assert sandbox.segment.kept == []
    task.execute(context)  # another try in the same process
    assert_kept_is_truth(sandbox, DAY_ONE)


def test_timeout_leaves_nothing_open(sandbox: Sandbox) -> None:
    before = left_behind()
    sandbox.faults.add(Fault(side="segment", kind="timeout", at=0, times=1000, seconds=3.0))
    task = operator()
    with pytest.raises(AirflowTaskTimeout), timeout(1):  # type: ignore[no-untyped-call]
        task.execute(RUN)
    task.on_kill()
    settle(before)


def settle(before: tuple[set[str], int]) -> None:
    """Wait, because the sandbox's side of a socket closes a moment after the client's."""
    give_up_at = time.monotonic() + 5
    while time.monotonic() < give_up_at:
        threads, sockets = left_behind()
        if threads <= before[0] and sockets <= before[1]:
            return
        time.sleep(0.05)
    assert left_behind() == before

"""Events that can't be sent: kept aside in a file, or the task fails at its end. Unidentified people among them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.interval import Interval
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from airflow_provider_cio.sinks.dead_letters import DeadLetters
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.unit.support import DAY, NOVEMBER, assert_kept_is_truth, connect, truth_of

INTERVAL = Interval(NOVEMBER, NOVEMBER + DAY)
HISTORY = History.generate(seed=5, deliveries=2500, start=NOVEMBER - 9 * DAY, end=NOVEMBER + 2 * DAY)
UNIDENTIFIED = [row for row in truth_of(HISTORY, INTERVAL) if not (row["user_id"] or row["anonymous_id"])]
assert UNIDENTIFIED
KEYS = {"interval", "read", "events", "sent", "skipped"}


def row(number: int, **fields: Any) -> dict[str, Any]:
    shared = {"type": "email", "created": NOVEMBER + number, "customer_id": "1", "subject": "fine"}
    return {"id": f"d{number}", "metrics": {"opened": NOVEMBER + 5000}} | shared | fields


POISONED = History(deliveries=[row(n, subject="POISON" if n in {3, 77} else "fine") for n in range(200)])
MIXED = History(
    deliveries=[
        *(row(n) for n in range(20)),
        row(20, subject="POISON"),
        row(21, subject="x" * 40_000),
        row(22, customer_id=None, recipient="nobody"),
    ]
)


@pytest.fixture(scope="module")
def world() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(world: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    world.settings = Settings(refuse_containing="POISON")
    world.history = HISTORY
    world.reset()
    connect(monkeypatch, world)
    return world


def run(try_number: int = 1, *, run_id: str = "scheduled__2026-11-01T00:00:00+00:00", **parameters: Any) -> Any:
    """The operator's result; `ti` is what a file is named after."""
    map_index = parameters.pop("map_index", -1)
    ti = SimpleNamespace(dag_id="daily", run_id=run_id, task_id="send", map_index=map_index, try_number=try_number)
    context: Any = {
        "ti": ti,
        "data_interval_start": pendulum.from_timestamp(INTERVAL.start),
        "data_interval_end": pendulum.from_timestamp(INTERVAL.end),
    }
    return CustomerIOToSegmentOperator(task_id="send", **parameters).execute(context)


def letters(path: Path | str) -> list[tuple[str, str]]:
    """(reason, delivery id) of each line."""
    found = []
    for line in Path(path).read_text().splitlines():
        letter = json.loads(line)
        assert set(letter) == {"reason", "event"}
        assert letter["event"]["type"] == "track"
        assert letter["event"]["messageId"].startswith("cio-")
        found.append((letter["reason"], letter["event"]["properties"]["delivery_id"]))
    return found


# The file


def test_refused_events_are_in_the_file_and_the_task_succeeds(
    sandbox: Sandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sandbox.history = POISONED
    folder = tmp_path / "dead" / "letters"
    result = run(dead_letter_path=str(folder))
    assert set(result) == KEYS | {"dead_letters"}
    assert json.loads(json.dumps(result)) == result
    (file,) = folder.rglob("*.jsonl")
    assert result["dead_letters"]["events"] == {"refused_400": 2}
    assert result["dead_letters"]["path"].endswith(str(file))
    assert sorted(letters(file)) == [("refused_400", "d3"), ("refused_400", "d77")]
    assert result["sent"]["events"] == result["events"]["Email Opened"] == len(sandbox.segment.kept) == 198
    said = "".join(capfd.readouterr())
    assert "warning" in said.lower()
    assert "refused_400: 2 (first deliveries: d77, d3)" in said or "refused_400: 2 (first deliveries: d3, d77)" in said
    assert str(file) in said


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_the_file_has_every_reason(sandbox: Sandbox, tmp_path: Path, scheme: str) -> None:
    sandbox.history = MIXED
    result = run(dead_letter_path=f"{scheme}{tmp_path}", on_unidentified="dead-letter")
    (file,) = tmp_path.rglob("*.jsonl")
    assert sorted(letters(file)) == [("event_too_large", "d21"), ("refused_400", "d20"), ("unidentified", "d22")]
    assert result["dead_letters"]["events"] == {"event_too_large": 1, "refused_400": 1, "unidentified": 1}
    assert result["skipped"] == {}
    assert result["sent"]["events"] == 20


def test_there_is_no_file_if_there_is_nothing_to_keep(sandbox: Sandbox, tmp_path: Path) -> None:
    result = run(dead_letter_path=str(tmp_path / "none"))
    assert set(result) == KEYS
    assert not (tmp_path / "none").exists()
    assert_kept_is_truth(sandbox, INTERVAL)


def test_there_is_one_file_for_each_run_and_try(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.history = POISONED
    runs: list[dict[str, Any]] = [
        {},
        {"try_number": 2},
        {"run_id": "manual/../../2026 ü"},
        {"map_index": 0},
        {"map_index": 1, "try_number": 2},
    ]
    for one in runs:
        run(dead_letter_path=str(tmp_path), **one)
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.jsonl"))
    assert len(files) == len(runs)
    assert all(len(letters(tmp_path / name)) == 2 for name in files)
    assert "daily/scheduled__2026-11-01T00%3A00%3A00+00%3A00/send.try1.jsonl" in files
    assert "daily/scheduled__2026-11-01T00%3A00%3A00+00%3A00/send.try2.jsonl" in files
    assert "daily/scheduled__2026-11-01T00%3A00%3A00+00%3A00/send.map1.try2.jsonl" in files


def test_a_try_that_fails_leaves_a_whole_file(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_cio import line
    from airflow_provider_cio.sinks import segment
    from airflow_provider_cio.sources import windows as extract

    monkeypatch.setattr(extract, "PAGE_SIZE", 10)
    monkeypatch.setattr(segment, "MAX_BATCH_EVENTS", 10)
    monkeypatch.setattr(line, "CHECKPOINT_EVERY", 0.0)
    sandbox.history = POISONED
    sandbox.settings = Settings(refuse_containing="POISON", latency=0.01)
    sandbox.faults.add(Fault(side="customerio", kind="429", at=19, times=1000, retry_after=100_000))
    with pytest.raises(TryAgainLaterError):
        run(dead_letter_path=str(tmp_path))
    for file in tmp_path.rglob("*.jsonl"):
        assert {reason for reason, _ in letters(file)} == {"refused_400"}
    sandbox.faults.clear()
    run(2, dead_letter_path=str(tmp_path))
    (file,) = tmp_path.rglob("*try2.jsonl")
    assert sorted(letters(file)) == [("refused_400", "d3"), ("refused_400", "d77")]


def test_the_file_is_whole_once_it_is_closed(tmp_path: Path) -> None:
    context = {"ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1)}
    with DeadLetters(str(tmp_path), context) as kept:
        kept.write("refused_400", b'{"a":1}')
        kept.write("refused_413", b'{"a":2}')
    text = kept.path.read_text()
    assert text == '{"reason":"refused_400","event":{"a":1}}\n{"reason":"refused_413","event":{"a":2}}\n'


def test_the_path_is_templated(tmp_path: Path) -> None:
    task = CustomerIOToSegmentOperator(task_id="send", dead_letter_path=f"{tmp_path}/{{{{ ds }}}}")
    context: Any = {"ds": "2026-11-01"}
    task.render_template_fields(context)
    assert task.dead_letter_path == f"{tmp_path}/2026-11-01"


# Without one


def test_without_a_path_the_task_fails_at_its_end_and_names_reasons_and_ids(sandbox: Sandbox) -> None:
    sandbox.history = MIXED
    with pytest.raises(AirflowFailException) as caught:
        run()
    said = str(caught.value)
    assert said.startswith("2 events can't be sent, all others were: ")
    assert "event_too_large: 1 (first deliveries: d21)" in said
    assert "refused_400: 1 (first deliveries: d20)" in said
    assert "answered 400: Bad Request" in said
    assert "dead_letter_path" in said
    assert len(sandbox.segment.kept) == 20


def test_only_the_first_ids_are_named(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=[row(n, subject="POISON" if n % 20 == 0 else "fine") for n in range(200)])
    with pytest.raises(AirflowFailException, match=r"refused_400: 10 \(first deliveries: (d\d+, ){4}d\d+\)"):
        run()
    assert len(sandbox.segment.kept) == 190


# Unidentified people


def test_unidentified_people_are_skipped_and_counted_by_default(sandbox: Sandbox, tmp_path: Path) -> None:
    ways: list[dict[str, Any]] = [{}, {"on_unidentified": "skip"}, {"dead_letter_path": str(tmp_path)}]
    for parameters in ways:
        sandbox.reset()
        result = run(**parameters)
        assert result["skipped"] == {"unidentified": len(UNIDENTIFIED)} != {"unidentified": 0}
        assert set(result) == KEYS
        assert_kept_is_truth(sandbox, INTERVAL)
    assert list(tmp_path.iterdir()) == []


def test_unidentified_people_can_be_kept_aside(sandbox: Sandbox, tmp_path: Path) -> None:
    result = run(on_unidentified="dead-letter", dead_letter_path=str(tmp_path))
    (file,) = tmp_path.rglob("*.jsonl")
    assert sorted(letters(file)) == sorted(("unidentified", row["delivery_id"]) for row in UNIDENTIFIED)
    assert result["dead_letters"]["events"] == {"unidentified": len(UNIDENTIFIED)}
    assert result["skipped"] == {}
    assert_kept_is_truth(sandbox, INTERVAL)


def test_unidentified_people_can_fail_the_task_after_all_else_was_sent(sandbox: Sandbox) -> None:
    named = rf"unidentified: {len(UNIDENTIFIED)} \(first deliveries: "
    with pytest.raises(AirflowFailException, match=named):
        run(on_unidentified="fail")
    assert_kept_is_truth(sandbox, INTERVAL)


def test_fail_fails_the_task_with_a_path_too(sandbox: Sandbox, tmp_path: Path) -> None:
    """Other events go to the file and the task succeeds; for unidentified people the user has asked for failure."""
    with pytest.raises(AirflowFailException, match=f"unidentified: {len(UNIDENTIFIED)} "):
        run(on_unidentified="fail", dead_letter_path=str(tmp_path))
    (file,) = tmp_path.rglob("*.jsonl")
    assert len(letters(file)) == len(UNIDENTIFIED)
    sandbox.history = POISONED
    assert run(on_unidentified="fail", dead_letter_path=str(tmp_path))["dead_letters"]["events"] == {"refused_400": 2}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"on_unidentified": "drop"}, "on_unidentified must be one of 'skip', 'dead-letter', 'fail'"),
        ({"on_unidentified": None}, "on_unidentified must be one of"),
        ({"on_unidentified": "dead-letter"}, "on_unidentified='dead-letter' needs dead_letter_path"),
    ],
)
def test_what_is_wrong_is_said_when_the_dag_is_parsed(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CustomerIOToSegmentOperator(task_id="send", **parameters)

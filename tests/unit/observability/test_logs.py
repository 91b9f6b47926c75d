"""Check what a finished run tells in the log, in the result and in the dead letters."""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.exceptions import CustomerIOToSegmentError, TryAgainLaterError, UnexpectedDataError
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from airflow_provider_cio.pipeline import ticker
from airflow_provider_cio.pipeline.dead_letters import events_in
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.unit.support import DAY, NOVEMBER, assert_kept_is_truth, small_pages

INTERVAL = Interval(NOVEMBER, NOVEMBER + DAY)
HISTORY = History.generate(seed=8, deliveries=300, start=NOVEMBER, end=INTERVAL.end)


def run(interval: Interval = INTERVAL, **parameters: Any) -> dict[str, Any]:
    context: Any = {
        "ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1),
        "data_interval_start": pendulum.from_timestamp(interval.start),
        "data_interval_end": pendulum.from_timestamp(interval.end),
    }
    return CustomerIOToSegmentOperator(task_id="send", **parameters).execute(context)


def warnings(capfd: pytest.CaptureFixture[str]) -> list[str]:
    lines = "\n".join(capfd.readouterr()).splitlines()
    # Airflow before 3.2 warns of every connection type with an underscore that it reads from the environment.
    return [line for line in lines if re.search(r"\bwarning\b", line, re.IGNORECASE) and "RFC3986" not in line]


def row(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "type": "email",
        "created": NOVEMBER,
        "metrics": {"opened": NOVEMBER + 5},
        "customer_id": "1",
    } | fields


def test_quiet_run_warns_of_nothing(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    result = run()
    assert warnings(capfd) == []
    assert set(result["read"]) == {"requests", "deliveries"}


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return a function for the messages of the task's own lines since its last call, without time, level and place."""

    def since_the_last_call() -> list[str]:
        found = re.findall(r"^\S+ \[\w+ *\] (.*?)(?: \[airflow\.task.*)?$", capfd.readouterr().out, re.M)
        # Airflow before 3.1 writes nothing to standard output.
        found += [one.getMessage() for one in caplog.records if one.name.startswith("airflow.task") and not found]
        caplog.clear()
        return [line for line in found if "RFC3986" not in line]

    return since_the_last_call


def test_log_of_a_run(sandbox: Sandbox, lines: Callable[[], list[str]]) -> None:
    result = run()
    start, collections, done = lines()
    assert start == "From 2026-11-01T00:00:00Z to 2026-11-02T00:00:00Z, of messages up to 30 days old"
    assert collections.startswith("Collections: Email Delivered, Email Opened, ")
    assert collections.endswith("Email Marked as Spam. Of opens and clicks, the first of each message")
    assert done.startswith(f"{result['sent']['events']} events sent (delivered {result['events']['Email Delivered']}, ")
    assert not re.search(r"[{}']|Done|batch|retried", done)


def test_log_of_a_preview(sandbox: Sandbox, lines: Callable[[], list[str]]) -> None:
    sandbox.history = History(deliveries=[row("odd", customer_identifiers=7), row("fine"), row("other")])
    run(preview=True)
    told = lines()
    (at,) = [number for number, line in enumerate(told) if "would be sent" in line]
    done, preview, refused = told[at], told[at + 1], told[-1]
    assert done.startswith("2 events would be sent (opened 2), 1 can't be sent (malformed 1); 3 deliveries read in ")
    assert preview == "This was a preview: nothing was sent"
    assert refused.startswith("1 event or row can't be sent: malformed: 1 (first ids: odd): Expected ")


def test_preview_tells_what_is_as_assumed(sandbox: Sandbox, lines: Callable[[], list[str]]) -> None:
    sandbox.settings = Settings(order="shuffled")
    real = run()
    asked = len(sandbox.customerio.requests)
    lines()
    preview = run(preview=True)
    assert len(sandbox.customerio.requests) - 2 * asked <= 10
    found = preview["found"]
    told = [line for line in lines() if re.match("As assumed, |Assumed, but ", line)]
    assert len(told) == len(found) == 8
    number = found["newest_first"]["out_of_order"]
    assert told[0].startswith(f"Assumed, but not found: deliveries are listed newest first ({number} of ")
    assert told[2] == "As assumed, the limit of a page is kept (2 rows for a limit of 2)"
    assert "found" not in real


def test_preview_tells_that_activities_were_unreadable(sandbox: Sandbox, lines: Callable[[], list[str]]) -> None:
    sandbox.settings = Settings(scopes=("messages",))
    run(preview=True)
    told = [line for line in lines() if "(activities could not be read: check the scope of the key)" in line]
    assert [line.partition(" (")[0] for line in told] == [
        "Nothing seen to tell whether the first open has the same time as an activity",
        "Nothing seen to tell whether a click has its link as `href` or `link`",
    ]


def test_preview_bears_a_failure_at_its_end(sandbox: Sandbox, lines: Callable[[], list[str]]) -> None:
    sandbox.history = History(deliveries=[row("fine")])
    run(preview=True)
    asked = [one.params.get("limit") for one in sandbox.customerio.requests]
    sandbox.reset()
    sandbox.faults.add(Fault(side="customerio", kind="401", at=asked.index("2"), times=99))
    result = run(preview=True)
    assert (result["found"], result["events"]["Email Opened"]) == ({}, 1)
    assert lines()[-1].startswith("This preview could not find out whether Customer.io is as assumed: ")


def test_preview_says_what_it_waits_for_at_its_end(
    sandbox: Sandbox, lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.history = History(deliveries=[row("fine")])
    run(preview=True)
    asked = [one.params.get("limit") for one in sandbox.customerio.requests]
    sandbox.reset()
    lines()
    monkeypatch.setattr(ticker, "PROGRESS_EVERY", 0.1)
    sandbox.faults.add(Fault(side="customerio", kind="503", at=asked.index("2"), retry_after=1))
    run(preview=True)
    told = lines()
    (at,) = [number for number, line in enumerate(told) if "This was a preview" in line]
    assert any("answered 503" in line and "before attempt 2" in line for line in told[at:])


def test_rate_limit_is_told(sandbox: Sandbox, lines: Callable[[], list[str]]) -> None:
    sandbox.faults.add(Fault(side="customerio", kinds=("429", "500"), at=0, times=2, retry_after=0))
    run()
    assert lines()[-1].endswith(" requests (2 repetitions: 1 for the rate limit, 1 after faults)")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"customerio_conn_id": "nope"}, "Add one of type customerio, or set customerio_conn_id to"),
        ({"segment_conn_id": "nope"}, "Add one of type segment_source, or set segment_conn_id to"),
    ],
)
def test_missing_connection_fails_at_once(
    sandbox: Sandbox, parameters: dict[str, Any], said: str, lines: Callable[[], list[str]]
) -> None:
    with pytest.raises(AirflowFailException) as caught:
        run(**parameters)
    problem, advice = str(caught.value).splitlines()
    assert (problem, advice.startswith(said)) == ("There is no connection 'nope'.", True)
    assert sandbox.customerio.requests == []


def test_error_is_shown_alone(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[str]]
) -> None:
    """Airflow would log each frame of an exception and of its cause, and about 90 characters of its text."""
    monkeypatch.setenv("AIRFLOW_CONN_CUSTOMERIO_DEFAULT", '{"conn_type": "customerio"}')
    with pytest.raises(AirflowFailException) as caught:
        run()
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("password is empty") == 1
    assert shown.endswith("is empty.\nPut an App API key (Account settings > API credentials > App API keys) there.\n")
    assert shown.count("  File ") < 5
    assert lines() == ["Put an App API key (Account settings > API credentials > App API keys) there."]


def test_an_id_is_named_once(sandbox: Sandbox) -> None:
    both = {"opened": NOVEMBER + 5, "delivered": NOVEMBER + 5}
    sandbox.history = History(deliveries=[row("big", subject="x" * 40_000, metrics=both)])
    with pytest.raises(AirflowFailException, match=r"event_too_large: 2 \(first ids: big\)"):
        run()


def test_list_out_of_order_warns(
    sandbox: Sandbox, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pages(monkeypatch, 20)
    sandbox.settings = Settings(order="shuffled")
    result = run()
    (warning,) = warnings(capfd)
    assert f"{result['read']['out_of_order']} pages of deliveries were not newest first: nothing is missed" in warning
    assert_kept_is_truth(sandbox, INTERVAL)


def test_run_without_deliveries_warns(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    sandbox.history = History(deliveries=[])
    result = run()
    (warning,) = warnings(capfd)
    assert "Customer.io showed no delivery at all: check collections, lookback and the workspace." in warning
    assert result["read"]["deliveries"] == result["sent"]["events"] == 0
    assert set(result["events"].values()) == {0}


def test_malformed_row_fails_the_task(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=[row("odd", customer_identifiers=7), row("fine")])
    with pytest.raises(
        AirflowFailException, match=r"1 event or row can.*malformed: 1 \(first ids: odd\).*customer_identifiers"
    ):
        run()
    assert [event["properties"]["delivery_id"] for event in sandbox.segment.kept] == ["fine"]


def test_malformed_row_is_kept(
    sandbox: Sandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str], lines: Callable[[], list[str]]
) -> None:
    big = row("big", subject="x" * 40_000)
    sandbox.history = History(
        deliveries=[row("odd", customer_identifiers=7), row("fine"), big, row("nobody", customer_id=None)]
    )
    result = run(dead_letter_path=str(tmp_path), on_unidentified="dead_letter")
    (file,) = tmp_path.rglob("*.jsonl")
    assert result["dead_letters"]["path"].endswith(str(file))
    assert result["dead_letters"]["events"] == {"malformed": 1, "event_too_large": 1, "unidentified": 1}
    letters = {letter["reason"]: letter for letter in map(json.loads, file.read_text().splitlines())}
    assert set(letters) == {"malformed", "event_too_large", "unidentified"}
    assert (letters["malformed"]["row"]["id"], letters["malformed"]["row"]["customer_identifiers"]) == ("odd", 7)
    assert "customer_identifiers" in letters["malformed"]["problem"]
    assert letters["event_too_large"]["event"]["properties"]["delivery_id"] == "big"
    assert any(str(file) in warning for warning in warnings(capfd))
    events = events_in(str(file))
    assert (len(list(events)), events.rows, events.unreadable) == (2, 1, 0)


def test_unwritable_path_is_found_early(sandbox: Sandbox, tmp_path: Path) -> None:
    """A run that refuses nothing finds it, too. Otherwise a later run would find it after sending some events."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(AirflowFailException, match="dead_letter_path .*file/letters can't be written to"):
        run(dead_letter_path=str(file / "letters"))
    assert sandbox.customerio.requests == sandbox.segment.requests == []
    assert run(dead_letter_path=str(tmp_path / "letters")).get("dead_letters") is None


def test_earlier_malformed_rows_warn(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    sandbox.history = History(deliveries=[row("odd", customer_identifiers=7), row("fine")])
    result = run(Interval(NOVEMBER + DAY, NOVEMBER + 2 * DAY))
    assert result["skipped"] == {"malformed": 1}
    (warning,) = warnings(capfd)
    assert "Left to other runs: 1 malformed row. Each is refused by the run without older_than whose" in warning


def test_opens_without_activity_warn(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """The opens are within the 30 days, but have no activity: the first open is sent as the delivery shows it."""
    day = int(time.time()) // DAY * DAY - 2 * DAY
    sandbox.history = History(deliveries=[row("d", created=day, metrics={"opened": day + 5, "clicked": day + 6})])
    sandbox.settings = Settings(activities_days=0.5)
    result = run(Interval(day, day + DAY), opens_and_clicks="every")
    assert result["sent"]["events"] == 2
    assert result["read"]["opens_and_clicks_without_activity"] == 2
    (warning,) = warnings(capfd)
    assert "2 opens and clicks have no activity of their time: they were sent as the list of deliveries" in warning


def test_endless_activity_lists_warn(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    day = int(time.time()) // DAY * DAY - 2 * DAY
    sandbox.history = History(deliveries=[row("d", created=day, metrics={"delivered": day + 5})])
    sandbox.settings = Settings(activities_end="new_cursor")
    result = run(Interval(day, day + DAY), opens_and_clicks="every")
    assert result["read"]["cut_short"] == 2  # of opens and of clicks
    (warning,) = warnings(capfd)
    assert "2 lists of activities were taken to have ended after several empty pages" in warning


def test_preview_counts_malformed_rows(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=[row("odd", customer_identifiers=7), row("fine")])
    result = run(preview=True)
    assert result["refused"] == {"malformed": 1}
    assert result["events"]["Email Opened"] == 1
    assert sandbox.segment.requests == []


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (TryAgainLaterError("later"), TryAgainLaterError),
        (TryAgainLaterError("after days", after=86_401), TryAgainLaterError),
        (UnexpectedDataError("odd"), AirflowFailException),
        (CustomerIOToSegmentError("any"), AirflowFailException),
        (OSError("not one of ours"), OSError),
    ],
)
def test_error_decides_on_the_retry(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception]
) -> None:
    """Airflow retries an ordinary exception, and no `AirflowFailException`."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(CustomerIOToSegmentOperator, "_run", fail)
    with pytest.raises(raised, match=str(error)) as caught:
        run()
    assert isinstance(caught.value, AirflowFailException) == (raised is AirflowFailException)

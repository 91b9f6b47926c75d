"""Run with other options than the default: channels, every occurrence, privacy, a preview."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest
from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.exceptions import TryAgainLaterError
from airflow_provider_cio.operators.customerio_to_segment import CustomerIOToSegmentOperator
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.unit.full import held, held_in_mode, kept, raw, to_send
from tests.unit.support import DAY, requests_have_ended, small_pages

# Activities are guaranteed for 30 days, so what happened must not be long ago.
START = int(time.time()) // DAY * DAY - 2 * DAY
RECENT = Interval(START, START + DAY)
OLD = Interval(START - 60 * DAY, START - 59 * DAY)
HISTORY = History.generate(
    seed=8, deliveries=1200, start=START - 5 * DAY, end=START + DAY, people=120, drafts=0.05, nasty=0.5
)
LONG_AGO = History.generate(seed=7, deliveries=400, start=OLD.start - DAY, end=OLD.end)


def during(interval: Interval, **more: Any) -> Any:
    """Return the context that a task needs."""
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="send", map_index=-1, try_number=1)
    bounds = {
        "data_interval_start": pendulum.from_timestamp(interval.start),
        "data_interval_end": pendulum.from_timestamp(interval.end),
    }
    return {"ti": ti, **bounds, **more}


SETTINGS = Settings(activities_days=30)


def operator(**parameters: Any) -> CustomerIOToSegmentOperator:
    return CustomerIOToSegmentOperator(task_id="send", **parameters)


# Requests


@pytest.mark.parametrize(
    ("collections", "types"),
    [
        ("all", {"email", "push", "twilio", "in_app", "whatsapp", "slack", "webhook"}),
        ("sms", {"twilio"}),
        (["in_app", "WhatsApp Opened"], {"in_app", "whatsapp"}),
        (["Email Opened"], {"email"}),
    ],
)
@pytest.mark.parametrize("mode", ["first", "every"])
def test_only_needed_types_are_read(sandbox: Sandbox, collections: Any, types: set[str], mode: Any) -> None:
    operator(collections=collections, opens_and_clicks=mode).execute(during(RECENT))
    asked = [one for one in sandbox.customerio.requests if one.path == "/v1/messages"]
    assert {one.params["type"] for one in asked} == types
    activities = {one.params["type"] for one in sandbox.customerio.requests if one.path == "/v1/activities"}
    assert {kind.partition("_")[2] for kind in activities} <= types
    assert bool(activities) == (mode == "every")


@pytest.mark.parametrize("mode", ["first", "every"])
def test_all_channels(sandbox: Sandbox, mode: Any) -> None:
    result = operator(collections="all", opens_and_clicks=mode).execute(during(RECENT))
    expected = to_send(held(HISTORY, [RECENT], every=mode == "every"))
    assert kept(sandbox.segment.kept) == expected
    assert json.loads(json.dumps(result)) == result
    assert set(result) == {"interval", "read", "events", "sent", "skipped", "ages"}
    assert set(result["read"]) >= {"requests", "deliveries"}
    assert ("activities" in result["read"]) == (mode == "every")
    assert result["sent"]["events"] == expected.total()
    assert {name: count for name, count in result["events"].items() if count} == Counter(
        one.collection for one in expected.elements()
    )


def test_one_id_in_all_modes(sandbox: Sandbox) -> None:
    """The events of all modes together are those of "every" alone."""
    for mode in ("first", "first_human", "every", "every_human", "first"):
        operator(collections=["Email Opened", "Email Link Clicked"], opens_and_clicks=mode).execute(during(RECENT))
    opens = held(HISTORY, [RECENT], ["Email Opened", "Email Link Clicked"])
    assert len(sandbox.segment.kept) == to_send(opens).total()
    assert len(sandbox.segment.duplicates) > 100


def test_every_human_drops_machines(sandbox: Sandbox) -> None:
    names = ["Email Opened", "Push Link Clicked", "Email Link Clicked"]
    result = operator(collections=names, opens_and_clicks="every_human").execute(during(RECENT))
    truth = held(HISTORY, [RECENT], names)
    people = [one for one in truth if not (one.machine or one.prefetched)]
    assert kept(sandbox.segment.kept) == to_send(people)
    assert result["skipped"]["machine"] == len(truth) - len(people) > 0


def test_unknown_metrics_are_counted(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": f"d{n}", "type": kind, "created": START, "metrics": {metric: START + n}, "customer_id": "1"}
        for n in range(30)
        for kind, metric in (("email", "exploded"), ("push", "deferred"), ("slack", "sent"))
    ]
    sandbox.history = History(deliveries=rows)
    result = operator(collections="all").execute(during(RECENT))
    assert result["skipped"] == {"unknown_metric": 60}
    said = [line for line in logged(capfd).splitlines() if "metrics that belong to no collection" in line]
    assert len(said) == 1
    assert "warning" in said[0].lower()
    assert "email.exploded" in said[0]
    assert "push.deferred" in said[0]


def test_a_name_from_outside_names_no_count(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """All unknown metrics share one reason, and the log names five of them."""
    names = [f"boom{n:03d} <b>ana@example.com</b>\n" for n in range(40)]
    rows = [
        {"id": f"d{n}", "type": "email", "created": START, "metrics": {name: START + 1}, "customer_id": "1"}
        for n, name in enumerate(names)
    ]
    sandbox.history = History(deliveries=rows)
    result = operator(collections="all").execute(during(RECENT))
    assert result["skipped"] == {"unknown_metric": 40}
    text = logged(capfd)
    assert text.count("email.boom") == 5
    assert "ana@" not in text


def test_first_human(sandbox: Sandbox) -> None:
    """No activity is asked for, and opens and clicks that no person made are counted."""
    names = ["Email Opened", "Push Link Clicked", "Email Link Clicked"]
    result = operator(collections=names, opens_and_clicks="first_human").execute(during(RECENT))
    first, people = (held_in_mode(mode, HISTORY, [RECENT], names) for mode in ("first", "first_human"))
    assert kept(sandbox.segment.kept) == to_send(people)
    times = {(one.delivery_id, one.metric, one.time) for one in people}
    gone = [one for one in first if (one.delivery_id, one.metric, one.time) not in times]
    assert result["skipped"]["machine"] == len(gone) > 0
    assert any(one.first_human for one in people)
    assert not any(one.path == "/v1/activities" for one in sandbox.customerio.requests)
    assert "human_not_recorded" not in result["read"]


# The reach of Customer.io's list


@pytest.mark.parametrize(("days", "lookback", "warns"), [(10, 180, True), (150, 30, True), (10, 160, False)])
def test_a_window_that_customerio_may_cut(
    sandbox: Sandbox, capfd: pytest.CaptureFixture[str], days: int, lookback: int, warns: bool
) -> None:
    start = int(time.time()) - days * DAY - 3600
    operator(lookback=lookback).execute(during(Interval(start, start + 3600)))
    text = "Customer.io may show less of those that are more than 180 days old"
    assert logged(capfd).count(text) == warns


# The thirty days


@pytest.mark.parametrize("mode", ["every", "every_human"])
def test_an_old_interval_falls_back(sandbox: Sandbox, capfd: pytest.CaptureFixture[str], mode: Any) -> None:
    sandbox.history = LONG_AGO
    task = operator(collections="all", opens_and_clicks=mode)
    result = task.execute(during(OLD))
    first = mode.replace("every_human", "first_human").replace("every", "first")
    assert kept(sandbox.segment.kept) == to_send(held_in_mode(first, LONG_AGO, [OLD]))
    assert result["sent"]["events"] > 50
    assert result["opens_and_clicks"] == first
    assert not any(one.path == "/v1/activities" for one in sandbox.customerio.requests)
    said = [line for line in logged(capfd).splitlines() if "warning" in line.lower() and "first opens" in line]
    assert len(said) == 1
    assert "first opens and clicks only, of messages less than 30 days old, as with" in said[0]
    before = len(sandbox.segment.kept)
    operator(collections="all", opens_and_clicks=first).execute(during(OLD))
    assert len(sandbox.segment.kept) == before  # the same events
    sandbox.reset()
    sandbox.history = HISTORY
    recent = task.execute(during(RECENT))
    assert recent["read"]["activities"] > 0
    assert "opens_and_clicks" not in recent


@pytest.mark.parametrize(("days", "is_old"), [(29.9, False), (30.1, True)])
def test_interval_start_decides_on_old(sandbox: Sandbox, days: float, is_old: bool) -> None:
    start = int(time.time() - days * DAY)
    result = operator(opens_and_clicks="every").execute(during(Interval(start, start + 3 * DAY)))
    assert result.get("opens_and_clicks") == ("first" if is_old else None)


@pytest.mark.parametrize("parameters", [{}, {"collections": "slack", "opens_and_clicks": "every"}])
def test_first_opens_are_never_too_old(sandbox: Sandbox, parameters: dict[str, Any]) -> None:
    sandbox.history = LONG_AGO
    assert "opens_and_clicks" not in operator(**parameters).execute(during(OLD))


# The settling time


def test_an_early_run_is_rescheduled(sandbox: Sandbox) -> None:
    end = int(time.time()) - 60
    with pytest.raises(AirflowRescheduleException) as caught:
        operator().execute(during(Interval(end - DAY, end)))
    assert caught.value.reschedule_date.timestamp() == end + 30 * 60
    assert sandbox.customerio.requests == []


@pytest.mark.parametrize("end", ["customerio_conn_id", "segment_conn_id"])
def test_an_early_run_fails_without_its_connection(sandbox: Sandbox, end: str) -> None:
    now = int(time.time())
    with pytest.raises(AirflowFailException, match="nobody"):
        operator(**{end: "nobody"}).execute(during(Interval(now - DAY, now)))


@pytest.mark.parametrize("settling_time", [timedelta(0), timedelta(seconds=59), 0, "{{ 0 }}"])
def test_a_settled_run_does_not_wait(sandbox: Sandbox, settling_time: Any) -> None:
    end = int(time.time()) - 60
    task = operator(settling_time=settling_time)
    task.render_template_fields(during(RECENT))
    assert task.execute(during(Interval(end - DAY, end)))["read"]["requests"] > 0


def test_a_long_wait_frees_the_slot(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault(side="customerio", kind="429", times=10_000, retry_after=3600))
    began = time.time()
    with pytest.raises(AirflowRescheduleException) as caught:
        operator().execute(during(RECENT))
    assert 3500 < caught.value.reschedule_date.timestamp() - began < 3700


class Rescheduled:
    """Fake of Airflow's task instance, for a context."""

    def __init__(self, hours_ago: float) -> None:
        self.first = datetime.now(UTC) - timedelta(hours=hours_ago)

    def get_first_reschedule_date(self, context: Any) -> datetime:
        return self.first


@pytest.mark.parametrize(
    ("hours_ago", "settled_hours_ago", "error"),
    [
        (22, 47, AirflowRescheduleException),
        (24, 47, TryAgainLaterError),
        (24, 22, AirflowRescheduleException),  # the first wait was for the settling time
    ],
)
def test_a_try_waits_a_day_at_most(
    sandbox: Sandbox, hours_ago: float, settled_hours_ago: float, error: type[Exception]
) -> None:
    sandbox.faults.add(Fault(side="customerio", kind="429", times=10_000, retry_after=3600))
    end = int(time.time() - settled_hours_ago * 3600)
    with pytest.raises(error):
        operator(settling_time=0).execute(during(Interval(end - DAY, end), ti=Rescheduled(hours_ago)))


# People


def test_cio_id_as_last_resort(sandbox: Sandbox) -> None:
    result = operator(collections="all", on_unidentified="cio_id").execute(during(RECENT))
    known = {one.id: one.identifiers.cio_id if one.identifiers else None for one in HISTORY.deliveries}
    truth = held(HISTORY, [RECENT], every=False)
    unnamed = [one for one in truth if not (one.user_id or one.anonymous_id)]
    rescued = {(one.delivery_id, one.collection): known[one.delivery_id] for one in unnamed if known[one.delivery_id]}
    assert 0 < len(rescued) < len(unnamed)
    assert len(sandbox.segment.kept) == to_send(truth).total() + len(rescued)
    assert result["skipped"]["unidentified"] == len(unnamed) - len(rescued)
    for event in sandbox.segment.kept:
        cio_id = rescued.get((event["properties"]["delivery_id"], event["event"]))
        if cio_id:
            assert event["anonymousId"] == cio_id
            assert "userId" not in event
        else:
            assert event.get("anonymousId") not in set(rescued.values())


@pytest.mark.parametrize("pii", ["hash", "drop"])
def test_pii_covers_events_and_letters(sandbox: Sandbox, tmp_path: Path, pii: Any) -> None:
    result = operator(
        collections="all",
        opens_and_clicks="every",
        pii=pii,
        on_unidentified="dead_letter",
        dead_letter_path=str(tmp_path),
    ).execute(during(RECENT))
    (file,) = tmp_path.rglob("*.jsonl")
    letters = file.read_text()
    assert len(letters.splitlines()) == result["dead_letters"]["events"]["unidentified"] > 0
    assert len(sandbox.segment.kept) > 200
    for text in (raw(sandbox.segment.kept), letters):
        assert "@" not in text
        assert not any(ip in text for ip in ("203.0.113.", "2001:db8:"))
        assert "+4917" not in text


# Preview


def samples(text: str) -> list[dict[str, Any]]:
    return [
        json.loads(found)
        for found in re.findall(r"For example \(personal data masked\): (\{.*\})(?: \[|$)", text, re.MULTILINE)
    ]


@pytest.mark.parametrize("mode", ["first", "every"])
def test_preview_counts_like_a_run(sandbox: Sandbox, mode: Any) -> None:
    preview = operator(collections="all", opens_and_clicks=mode, preview=True).execute(during(RECENT))
    assert sandbox.segment.requests == []
    assert json.loads(json.dumps(preview)) == preview
    sandbox.reset()
    real = operator(collections="all", opens_and_clicks=mode).execute(during(RECENT))
    assert real["sent"]["events"] == sum(preview["events"].values()) > 200
    assert preview["preview"] is True
    assert preview["sent"] == {"events": 0, "batches": 0, "bytes": 0}
    assert preview["refused"] == {}
    for same in ("interval", "events", "skipped"):
        assert preview[same] == real[same]
    assert preview["read"]["deliveries"] == real["read"]["deliveries"]
    assert preview["read"].get("activities") == real["read"].get("activities")
    assert "preview" not in real


@pytest.mark.parametrize("pii", ["keep", "hash"])
def test_preview_shows_masked_samples(sandbox: Sandbox, capfd: pytest.CaptureFixture[str], pii: Any) -> None:
    result = operator(collections="all", opens_and_clicks="every", preview=True, pii=pii).execute(during(RECENT))
    text = logged(capfd)
    shown = samples(text)
    assert Counter(event["event"] for event in shown) == {name: 1 for name, count in result["events"].items() if count}
    assert len(shown) > 20
    by_id = {one.id: one for one in HISTORY.deliveries}
    for event in shown:
        assert event["properties"]["delivery_id"] in by_id
        assert set(event) <= {"event", "timestamp", "userId", "anonymousId", "properties"}
        assert by_id[event["properties"]["delivery_id"]].metrics
        assert event.get("userId", event.get("anonymousId")) == "***"
        assert event["properties"].get("subject", "***") == "***"
    names = {event["properties"].get("campaign_name") for event in shown}
    assert len(names - {None}) > 3
    assert "***" not in names
    assert_nobody_is_in(text)
    assert re.search(r"^.*\b[\d,]+ events would be sent \(", text, re.M)
    assert "nothing was sent" in text


def test_run_shows_no_sample(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    operator(collections="all").execute(during(RECENT))
    assert samples(logged(capfd)) == []


class Untouchable:
    """Checkpoint store that must be left alone."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the store was asked for {name}")


def test_preview_keeps_the_checkpoint(sandbox: Sandbox) -> None:
    """The checkpoint of a failed run that is to be repeated stays as it is."""
    operator(preview=True).execute(during(RECENT, task_state_store=Untouchable()))


def test_preview_counts_refused_events(sandbox: Sandbox, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"type": "email", "created": START, "metrics": {"opened": START + 5}, "customer_id": "1"}
    sandbox.history = History(
        deliveries=[
            {"id": "big", "subject": "x" * 20_000} | shared,
            {"id": "nobody"} | shared | {"customer_id": None},
            {"id": "fine"} | shared,
        ]
    )
    for parameters in (
        {},
        {"dead_letter_path": str(tmp_path)},
        {"dead_letter_path": str(tmp_path), "on_unidentified": "dead_letter"},
        {"on_unidentified": "fail"},
    ):
        result = operator(preview=True, **parameters).execute(during(RECENT))
        assert result["events"]["Email Opened"] == 1
        counted = Counter(result["refused"]) + Counter(result["skipped"])
        assert counted == {"event_too_large": 1, "unidentified": 1}
    assert list(tmp_path.iterdir()) == []
    assert sandbox.segment.requests == []


# Another try


class Store:
    """Fake of Airflow's TaskStateStoreAccessor."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def set(self, key: str, value: Any, *, retention: timedelta | None = None) -> None:
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


@pytest.mark.parametrize("at", [2, 12, 20])
def test_another_try_loses_nothing(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    from airflow_provider_cio.pipeline import pipeline as line

    small_pages(monkeypatch, 50)
    monkeypatch.setattr(line, "CHECKPOINT_EVERY", 0.0)
    store = Store()
    sandbox.faults.add(Fault(side="customerio", kind="429", at=at, times=10_000, retry_after=100_000))
    task = operator(collections="all", opens_and_clicks="every")
    with pytest.raises(TryAgainLaterError):
        task.execute(during(RECENT, task_state_store=store))
    sandbox.faults.clear()
    result = task.execute(during(RECENT, task_state_store=store))
    assert kept(sandbox.segment.kept) == to_send(held(HISTORY, [RECENT]))
    assert result["sent"]["events"] == len(sandbox.segment.kept)


def test_a_checkpoint_of_another_mode(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who changes the parameter between two tries gets all opens and clicks of the whole interval."""
    from airflow_provider_cio.pipeline import pipeline as line
    from airflow_provider_cio.segment import batches as segment

    small_pages(monkeypatch, 20)
    monkeypatch.setattr(segment, "MAX_BATCH_EVENTS", 10)
    monkeypatch.setattr(line, "CHECKPOINT_EVERY", 0.0)
    sandbox.settings = Settings(latency=0.003)
    names = ["Email Sent", "Email Opened"]
    store = Store()
    sandbox.faults.add(Fault(side="customerio", kind="429", at=25, times=10_000, retry_after=100_000))
    with pytest.raises(TryAgainLaterError):
        operator(collections=names).execute(during(RECENT, task_state_store=store))
    assert store.values
    requests_have_ended()
    sandbox.reset()
    operator(collections=names, opens_and_clicks="every").execute(during(RECENT, task_state_store=store))
    assert kept(sandbox.segment.kept) == to_send(held(HISTORY, [RECENT], names))
    assert store.values == {}


# Logs


def logged(capfd: pytest.CaptureFixture[str]) -> str:
    return "\n".join(capfd.readouterr())


def assert_nobody_is_in(text: str) -> None:
    """Assert that there is no secret, no address of any kind, no subject, and no link."""
    settings = Settings()
    assert settings.app_key not in text
    assert settings.write_key not in text
    assert [
        one
        for one in ("@", "%40", "+4917", "203.0.113.", "2001:db8:", "Mozilla", "https://example", "d9c1")
        if one in text
    ] == []
    assert "Your order is on its way" not in text
    assert [one.recipient for one in HISTORY.deliveries if one.recipient and one.recipient in text] == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"opens_and_clicks": "every"},
        {"opens_and_clicks": "every_human", "pii": "hash"},
        {"opens_and_clicks": "every", "pii": "drop", "on_unidentified": "cio_id"},
        {"opens_and_clicks": "every", "on_unidentified": "dead_letter", "dead_letter_path": "PATH"},
        {"preview": True, "on_unidentified": "fail", "opens_and_clicks": "every"},
        {"preview": True, "pii": "hash"},
    ],
    ids=lambda parameters: ", ".join(map(str, parameters.values())),
)
@pytest.mark.parametrize("scopes", [None, ("messages", "activities")])
def test_logs_show_no_personal_data(
    sandbox: Sandbox,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    parameters: dict[str, Any],
    scopes: tuple[str, ...] | None,
) -> None:
    sandbox.settings = Settings(scopes=scopes)
    if "dead_letter_path" in parameters:
        parameters = parameters | {"dead_letter_path": str(tmp_path)}
    result = operator(collections="all", **parameters).execute(during(RECENT))
    text = logged(capfd)
    assert " deliveries and " in text or " deliveries read in " in text
    assert ("No campaign_name" in text) == bool(scopes)
    assert_nobody_is_in(text)
    assert_nobody_is_in(json.dumps(result))


def test_errors_show_no_personal_data(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AirflowFailException) as caught:
        operator(collections="all", opens_and_clicks="every", on_unidentified="fail").execute(during(RECENT))
    assert "unidentified: " in str(caught.value)
    assert_nobody_is_in(str(caught.value))
    assert_nobody_is_in(logged(capfd))
    sandbox.settings = Settings(scopes=("messages",))
    with pytest.raises(TryAgainLaterError, match=r"'customerio_default'.* 403(?s:.*)/v1/activities.*scope") as later:
        operator(opens_and_clicks="every").execute(during(RECENT))
    assert_nobody_is_in(str(later.value))

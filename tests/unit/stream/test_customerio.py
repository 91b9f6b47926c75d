"""The stream meets a sender that behaves like Customer.io: four seconds, an hour after some answers, one queue."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.stream import intake
from tests.e2e.compare import differences
from tests.sandbox import Fault, History, Sandbox
from tests.sandbox.catalog import CHANNELS
from tests.sandbox.reports import CUSTOMER_EVENTS, Habits, Report, Subscription, reports
from tests.sandbox.webhooks import LONG_PROBLEMS, LONG_STATUSES, Calling, Sender
from tests.unit.stream.support import KEY, Running, connect
from tests.unit.support import DAY, NOVEMBER, truth_of


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as one, pytest.MonkeyPatch.context() as patch:
        connect(patch, one)
        patch.setattr(intake, "PAUSE", 0.05)
        yield one


def push(sandbox: Sandbox, found: list[Report], calling: Calling, **options: object) -> Sender:
    with Running({"main": options}) as app:
        sender = Sender(f"{app.url}/main", calling)
        sender.push(found)
    return sender


def calling(**changes: object) -> Calling:
    """Make a sender of Customer.io's patience, whose hours are milliseconds."""
    return Calling(signing_key=KEY, speed=200_000.0, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("full", "content", "bare", "unknown", "odd"),
    [
        (False, False, False, False, False),
        (True, True, False, True, False),
        (False, True, True, True, True),
        (True, False, True, False, True),
    ],
)
def test_every_channel_is_accepted(
    sandbox: Sandbox, tmp_path: Path, full: bool, content: bool, bare: bool, unknown: bool, odd: bool
) -> None:
    sandbox.reset()
    history = History.generate(
        seed=11,
        deliveries=400,
        start=NOVEMBER,
        end=NOVEMBER + DAY,
        channels=CHANNELS,
        nasty=0.3,
        rare_identities=0.3,
    )
    found = reports(
        history,
        Subscription(full_resolution=full, with_content=content),
        Habits(
            bare=bare,
            unknown_keys=unknown,
            unknown_metrics=unknown,
            two_devices=unknown,
            odd_kinds=odd,
            preferences_key="object_type_type" if unknown else "object_type",
        ),
    )
    assert len({one.event for one in found}) > 40
    options = {
        "collections": "all",
        "dead_letter_path": str(tmp_path),
        "full_resolution": full,
        "message_content": content,
    }
    sender = push(sandbox, found, calling(in_flight=16), **options)
    assert Counter(call.status for call in sender.calls) == {204: len(found)}
    assert list(tmp_path.iterdir()) == [], "none of them is malformed"
    assert sandbox.segment.dropped == []
    events = Counter((event["properties"].get("delivery_id"), event["event"]) for event in sandbox.segment.kept)
    people = {name for delivery_id, name in events if delivery_id is None}
    assert people == {"Subscribed", "Unsubscribed"}
    events = Counter({key: count for key, count in events.items() if key[0] is not None})
    repeated = sum(count - 1 for count in events.values())
    assert (repeated > 0) is full
    assert content is any("content" in event["properties"] for event in sandbox.segment.kept)


def test_each_answer_and_each_change_of_a_subscription_is_kept_once(sandbox: Sandbox) -> None:
    sandbox.reset()
    history = History.generate(seed=5, deliveries=3000, start=NOVEMBER, end=NOVEMBER + DAY, channels=CHANNELS)
    events = ["sms_replied", "whatsapp_replied", *CUSTOMER_EVENTS]
    found = reports(history, Subscription(events=events), Habits(second_answers=True))
    sender = push(sandbox, found, calling(duplicates=0.5, in_flight=8), collections="all", on_unidentified="cio_id")
    assert {call.status for call in sender.calls} == {204}
    names = Counter(event["event"] for event in sandbox.segment.kept)
    people = [(one, json.loads(one.body)["data"]) for one in found]
    named = [one for one, data in people if data["customer_id"] or any(data["identifiers"].values())]
    told = Counter(one.metric.removeprefix("cio_") for one in named)
    assert names["SMS Replied"] + names["WhatsApp Replied"] == told["replied"] > 2
    for metric in ("subscribed", "unsubscribed", "subscription_preferences_changed"):
        assert names[metric.replace("_", " ").title()] == told[metric] > 0
    assert sandbox.segment.duplicates


def test_outage_loses_nothing(sandbox: Sandbox) -> None:
    sandbox.reset()
    stretch = Interval(NOVEMBER, NOVEMBER + 2 * DAY)
    sandbox.history = History.generate(seed=3, deliveries=400, start=NOVEMBER, end=NOVEMBER + DAY, channels=["email"])
    found = [one for one in reports(sandbox.history) if stretch.start <= one.time < stretch.end]
    for kind, at in (("503", 20), ("reset", 40), ("429", 60), ("401", 80), ("html", 100), ("reset_after", 120)):
        sandbox.faults.add(Fault(side="segment", kind=kind, at=at, times=8))  # type: ignore[arg-type]
    sender = push(sandbox, found, calling(duplicates=0.1, disorder=5))
    assert {call.status for call in sender.calls} == {204, 503}
    assert not any(call.status in LONG_STATUSES or call.problem in LONG_PROBLEMS for call in sender.calls)
    kept = sandbox.segment.kept
    assert differences(truth_of(sandbox.history, stretch), kept) == []
    assert sandbox.segment.dropped == []


def test_wrong_key_costs_an_hour(sandbox: Sandbox) -> None:
    sandbox.reset()
    history = History.generate(seed=3, deliveries=5, start=NOVEMBER, end=NOVEMBER + DAY, channels=["email"])
    [first, *_] = reports(history, Subscription(events=["email_delivered"]))
    wrong = push(sandbox, [first], Calling(signing_key="wrong", speed=1e9))
    assert {call.status for call in wrong.calls} == {401}
    assert wrong.calls[0].wait == 3600.0
    assert wrong.calls[-1].given_up, "after seven days"
    assert sandbox.segment.received_count == 0
    assert [call.status for call in push(sandbox, [first], calling()).calls] == [204]

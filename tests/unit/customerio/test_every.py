"""Every open and click of all channels is sent once by the interval that contains it, joined to its delivery."""

from __future__ import annotations

import itertools
import math
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.customerio import activities
from airflow_provider_cio.customerio import reader as reading
from airflow_provider_cio.customerio.activities import PendingActivities
from airflow_provider_cio.customerio.client import CustomerIOClient, Page
from airflow_provider_cio.customerio.rows import Activity, Delivery
from airflow_provider_cio.events.catalog import CATALOG, GROUPS
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.events.occurrence import Occurrence, engagement_in
from airflow_provider_cio.exceptions import TryAgainLaterError
from tests.sandbox import History, Sandbox, Settings
from tests.sandbox.delivery import identity
from tests.unit import support
from tests.unit.full import DOCUMENTED, Told, held, held_in_mode, kept, run_full, to_send
from tests.unit.support import DAY, NOVEMBER, run_pipeline

STRETCH = Interval(NOVEMBER, NOVEMBER + 3 * DAY)
DAY_ONE = Interval(NOVEMBER, NOVEMBER + DAY)
REPEATED = tuple(one.name for one in CATALOG.values() if one.metric in ("opened", "clicked"))
OPENS_AND_CLICKS = ("Email Opened", "Email Link Clicked")


@pytest.fixture(scope="module", autouse=True)
def small_pages() -> Iterator[None]:
    """Make pages small, so that a small history has many of them."""
    with pytest.MonkeyPatch.context() as patch:
        support.small_pages(patch, 20, 15)
        patch.setattr(activities, "_IDS_AT_ONCE", 3)
        yield


def row(number: int, created: int = NOVEMBER, **fields: Any) -> dict[str, Any]:
    """Return a delivery that was sent."""
    shared = {"type": "email", "created": created, "customer_id": "1", "metrics": {"sent": created}}
    return {"id": f"d{number}", "subject": f"Subject {number}", "recipient": "ana@example.com"} | shared | fields


def activity(number: int, time: int, delivery_id: str | None = "d1", **fields: Any) -> dict[str, Any]:
    """Return an open of an e-mail."""
    shared = {"type": "opened_email", "timestamp": time, "data": {"opened": time}}
    return {"id": f"01HF{number:022d}", "delivery_id": delivery_id} | shared | fields


# Exactly once


@st.composite
def stretches(draw: st.DrawFn) -> tuple[History, list[Interval]]:
    """Draw a history of all channels, and adjacent intervals cut anywhere, with some bounds on occurrences."""
    history = History.generate(
        seed=draw(st.integers(0, 10**6)),
        deliveries=draw(st.integers(0, 120)),
        start=NOVEMBER - 4 * DAY,
        end=NOVEMBER + 3 * DAY,
        burst=draw(st.sampled_from([0.0, 0.5])),
        on_bounds=draw(st.sampled_from([0.0, 0.5])),
        drafts=draw(st.sampled_from([0.0, 0.2])),
        longest_lag=draw(st.sampled_from([3600, 2 * DAY, 28 * DAY])),
        nasty=draw(st.sampled_from([0.0, 0.5])),
    )
    if draw(st.booleans()):
        history = with_deleted(history, draw(st.integers(2, 5)))
    times = [row.time for row in held(history, [STRETCH])]
    anywhere = st.integers(STRETCH.start + 1, STRETCH.end - 1)
    inside = [time for time in times if STRETCH.start < time < STRETCH.end]
    cut = st.one_of(anywhere, st.sampled_from(inside)) if inside else anywhere
    bounds = [STRETCH.start, *sorted(draw(st.sets(cut, max_size=3))), STRETCH.end]
    return history, [Interval(*pair) for pair in itertools.pairwise(bounds)]


def with_deleted(whole: History, one_in: int) -> History:
    """Return the workspace after some deliveries were deleted. Their activities are still listed."""
    rows = sorted(whole.activities.rows(), key=lambda row: -row["timestamp"])
    left = [one for number, one in enumerate(whole.deliveries) if number % one_in]
    history = History(deliveries=[_plain(one.row()) for one in left], activities=rows, names=whole.names)
    history.parents |= whole.parents
    return history


def _plain(row: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(row))
    return plain


def of_deleted(history: History, intervals: list[Interval], names: str | tuple[str, ...]) -> list[Told]:
    """Return the opens and clicks of deleted deliveries, with only the fields of their activity."""
    there = {one.id for one in history.deliveries}
    wanted = GROUPS["all"] if names == "all" else names
    found = []
    for one in history.activities.rows():
        metric, _, channel = one["type"].partition("_")
        inside = any(interval.start <= one["timestamp"] < interval.end for interval in intervals)
        if (channel, metric) not in DOCUMENTED or one["delivery_id"] in there or not inside:
            continue
        name = next(each.name for each in CATALOG.values() if (each.channel, each.metric) == (channel, metric))
        user_id, anonymous_id = identity(one)
        if name not in wanted or not (user_id or anonymous_id):
            continue
        data = one["data"]
        found.append(
            Told(
                name,
                one["delivery_id"],
                one["timestamp"],
                user_id,
                anonymous_id,
                None,
                None,
                None,
                data.get("href") or data.get("link"),
                (data.get("ip_address") or "").partition(",")[0] or None,
                data.get("user_agent"),
                bool(data.get("machine")),
                bool(data.get("prefetched")),
                None,
            )
        )
    return found


AWKWARD = st.fixed_dictionaries(
    {
        "null_when_empty": st.booleans(),
        "empty_page_every": st.sampled_from([0, 1]),
        "last_next": st.sampled_from(["empty", "null", "absent"]),
        "trailing_page": st.booleans(),
        "drafts_wording": st.sampled_from(["instead", "both"]),
        "order": st.sampled_from(["newest", "newest", "oldest", "shuffled"]),
        "activity_disorder": st.sampled_from([0, 600, 3600]),
        "activities_end": st.sampled_from(["next", "same_cursor", "new_cursor"]),
        "activity_types": st.sampled_from(["all", "documented"]),
        "parent_ids": st.sampled_from(["mixed", "int", "string"]),
    }
)


@settings(max_examples=60)
@given(
    stretch=stretches(),
    names=st.sampled_from(["all", "all", REPEATED, OPENS_AND_CLICKS, GROUPS["push"], GROUPS["whatsapp"]]),
    every=st.sampled_from([True, True, True, False]),
    lookback=st.sampled_from([DAY, 30 * DAY]),
    awkward=AWKWARD,
    data=st.data(),
)
def test_each_occurrence_is_sent_once(
    world: Sandbox,
    stretch: tuple[History, list[Interval]],
    names: str | tuple[str, ...],
    every: bool,
    lookback: int,
    awkward: dict[str, Any],
    data: st.DataObject,
) -> None:
    """Segment keeps each occurrence once, whole, for any cut and order. A repeated run adds nothing."""
    history, intervals = stretch
    world.settings = Settings(**awkward)
    world.history = history
    world.reset()
    for interval in data.draw(st.permutations(intervals)):
        run_full(world, interval, names, lookback=lookback, every=every)
    expected = to_send(held(history, intervals, names, lookback=lookback, every=every))
    expected += Counter(of_deleted(history, intervals, names) if every else ())
    assert_same(kept(world.segment.kept), expected)
    assert world.segment.dropped == []
    # The older wording lists what was dropped before it was sent among the drafts too; the ids are the same.
    if awkward["drafts_wording"] == "instead":
        assert world.segment.duplicates == []
    count = len(world.segment.kept)
    for interval in data.draw(st.lists(st.sampled_from(intervals), max_size=1)):
        run_full(world, interval, names, lookback=lookback, every=every)
    assert len(world.segment.kept) == count


def assert_same(found: Counter[Told], expected: Counter[Told]) -> None:
    """Assert that both are equal, and show only the differences, because pytest would show two long lists."""
    assert list((found - expected).elements()) == []
    assert list((expected - found).elements()) == []


def test_repeating_metrics_are_documented() -> None:
    assert {(one.channel, one.metric) for one in CATALOG.values() if one.has_activities} == DOCUMENTED


def test_large_history_in_real_pages(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    support.small_pages(monkeypatch, 1000, 100)
    sandbox.history = History.generate(seed=3, deliveries=8000, start=NOVEMBER - 9 * DAY, end=NOVEMBER + 2 * DAY)
    result = run_full(sandbox, DAY_ONE)
    truth = held(sandbox.history, [DAY_ONE])
    expected = to_send(truth)
    assert_same(kept(sandbox.segment.kept), expected)
    assert {name: count for name, count in result.events.items() if count} == Counter(
        one.collection for one in expected.elements()
    )
    assert result.skipped["unidentified"] == len(truth) - expected.total() > 0
    told = [one for one in truth if (one.channel, one.metric) in DOCUMENTED]
    assert result.tally.read["activities"] == len(told)
    # Of all that an activity can have, there is something among these.
    assert {bool(one.link) for one in told} == {bool(one.ip) for one in told} == {True, False}
    assert {one.machine for one in told} == {one.prefetched for one in told} == {True, False}
    assert len({one.channel for one in told}) == 5


# Fields of an activity


def test_the_whole_event_of_a_click(sandbox: Sandbox) -> None:
    data = {
        "delivery_id": "d1",
        "clicked": NOVEMBER + 7,
        "href": "https://example.com/?q=1",
        "link_id": 12,
        "ip_address": "2001:db8::1, 203.0.113.9",
        "user_agent": "Mozilla/5.0",
        "machine": True,
        "prefetched": False,
        "proxied": False,
    }
    clicked = activity(1, NOVEMBER + 7, type="clicked_email", data=data)
    sandbox.history = History(
        deliveries=[row(1, campaign_id=9, action_id=42)], activities=[clicked], names={("campaign", 9): "Welcome"}
    )
    run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    (event,) = sandbox.segment.kept
    assert event["event"] == "Email Link Clicked"
    assert event["userId"] == "1"
    assert event["originalTimestamp"] == "2026-11-01T00:00:07Z"
    assert event["properties"] == {
        "delivery_id": "d1",
        "recipient": "ana@example.com",
        "subject": "Subject 1",
        "campaign_id": 9,
        "action_id": 42,
        "customer_id": "1",
        "email_id": "d1",
        "email_subject": "Subject 1",
        "campaign_name": "Welcome",
        "href": "https://example.com/?q=1",
        "link_url": "https://example.com/?q=1",
        "link_id": 12,
        "machine": True,
    }
    assert {key: event["context"][key] for key in ("ip", "userAgent", "traits")} == {
        "ip": "2001:db8::1",
        "userAgent": "Mozilla/5.0",
        "traits": {"email": "ana@example.com"},
    }


def test_activity_message_id_is_fixed() -> None:
    """The literal is a promise: another rule would send everything again that is within Segment's memory."""
    delivery = Delivery(id="RPILAgUBcRhIBqSfeiIwdIYJKxTY", type="email", created=1, metrics={})
    opened = Activity(id="01E4C4CT6YDC7Y5M7FE1GWWPQJ", timestamp=1_613_063_089)
    event = Mapper("source-a").event(
        Occurrence(delivery, CATALOG["Email Opened"], NOVEMBER, engagement_in({}), opened.id)
    )
    assert event.message_id == "cio-e866b8fc2acb2cef676acb982109f883"
    assert (
        event.message_id
        != Mapper("source-b")
        .event(Occurrence(delivery, CATALOG["Email Opened"], NOVEMBER, engagement_in({}), opened.id))
        .message_id
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"link": "https://l.example"}, {"href": "https://l.example", "link_url": "https://l.example"}),
        ({"href": "", "link": "https://l.example"}, {"href": "https://l.example", "link_url": "https://l.example"}),
        ({"href": "https://h.example", "link": "x"}, {"href": "https://h.example", "link_url": "https://h.example"}),
        ({"href": None}, {}),
        ({"link_id": "a7"}, {"link_id": "a7"}),
        ({"prefetched": True, "proxied": True}, {"prefetched": True, "proxied": True}),
        ({"prefetched": False, "machine": None, "proxied": "yes"}, {}),
        (None, {}),
    ],
)
def test_data_becomes_properties(data: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    delivery = Delivery(id="d1", type="email", created=1, metrics={}, customer_id="1")
    event = Mapper("ns").event(
        Occurrence(delivery, CATALOG["Email Link Clicked"], NOVEMBER, engagement_in(data or {}), "a")
    )
    properties = _plain(event.properties)
    shown = ("href", "link_url", "link_id", "machine", "prefetched", "proxied")
    assert {key: properties[key] for key in shown if key in properties} == expected


@pytest.mark.parametrize(
    ("ip_address", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8::1,203.0.113.9", "2001:db8::1"),
        (" 2001:db8::1 , 203.0.113.9", "2001:db8::1"),
        ("", None),
        (None, None),
        (7, "7"),
    ],
)
def test_first_ip_address_is_sent(ip_address: Any, expected: str | None) -> None:
    delivery = Delivery(id="d1", type="email", created=1, metrics={}, customer_id="1")
    one = Activity(id="a", timestamp=NOVEMBER, data={"ip_address": ip_address})
    context = _plain(
        Mapper("ns")
        .event(Occurrence(delivery, CATALOG["Email Opened"], NOVEMBER, engagement_in(one.data or {}), one.id))
        .context
    )
    assert context.get("ip") == expected


def test_events_share_no_engagement() -> None:
    """Common parts of events are made once, so an engagement could pass from one event to the next."""
    delivery = Delivery(id="d1", type="email", created=1, metrics={}, customer_id="1")
    mapper = Mapper("ns")
    full = {"href": "https://h.example", "ip_address": "203.0.113.9", "user_agent": "x", "machine": True}
    for data in (full, {}):
        mapper.event(Occurrence(delivery, CATALOG["Email Opened"], NOVEMBER, engagement_in(data or {}), "a"))
    event = mapper.event(Occurrence(delivery, CATALOG["Email Delivered"], NOVEMBER))
    assert set(_plain(event.properties)) == {"delivery_id", "customer_id", "email_id"}
    assert set(_plain(event.context)) == {"integration", "library"}


# The join


def test_old_delivery_is_found_by_id(sandbox: Sandbox) -> None:
    long_ago = NOVEMBER - 100 * DAY
    old, new = row(1, long_ago, subject="Old"), row(2, subject="New")
    sandbox.history = History(
        deliveries=[old, new], activities=[activity(2, NOVEMBER + 9, "d2"), activity(1, NOVEMBER + 8, "d1")]
    )
    run_full(sandbox, DAY_ONE, lookback=DAY)
    assert {event["properties"]["subject"] for event in sandbox.segment.kept if event["event"] == "Email Opened"} == {
        "Old",
        "New",
    }
    assert [asked.path for asked in sandbox.customerio.requests if asked.path.startswith("/v1/messages/")] == [
        "/v1/messages/d1"
    ]


def test_deleted_delivery(sandbox: Sandbox) -> None:
    known = {"email": "ana@example.com", "cio_id": "d9"}
    sandbox.history = History(
        activities=[
            activity(3, NOVEMBER + 9, "gone=", customer_identifiers=None),
            activity(2, NOVEMBER + 8, "gone=", customer_identifiers=known, data={"user_agent": "Mozilla/5.0"}),
            activity(1, NOVEMBER + 7, "gone=", customer_identifiers=known, customer_id="42"),
        ]
    )
    result = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    first, second = sorted(sandbox.segment.kept, key=lambda event: event["originalTimestamp"])
    assert (first.get("userId"), first.get("anonymousId")) == ("42", None)
    assert (second.get("userId"), second.get("anonymousId")) == (None, "ana@example.com")
    assert second["properties"] == {"delivery_id": "gone=", "email_id": "gone=", "cio_id": "d9"}
    assert second["context"]["userAgent"] == "Mozilla/5.0"
    assert first["messageId"] != second["messageId"]
    assert result.skipped == {"unidentified": 1}
    assert result.tally.read["deliveries"] == 0
    asked = [one for one in sandbox.customerio.requests if one.path.startswith("/v1/messages/")]
    assert [one.status for one in asked] == [404]  # once for all three


def test_hidden_identity_stays_hidden(sandbox: Sandbox) -> None:
    """Deleted and suppressed people are sent as their delivery shows them."""
    known = {"id": "42", "email": "ana@example.com", "cio_id": "d9"}
    anonymous = row(
        1, customer_id=None, recipient=None, customer_identifiers={"id": None, "email": None, "cio_id": "d9"}
    )
    sandbox.history = History(
        deliveries=[anonymous], activities=[activity(1, NOVEMBER + 7, customer_identifiers=known, customer_id="42")]
    )
    result = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    assert result.skipped == {"unidentified": 1}
    assert sandbox.segment.received_count == 0
    run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS, on_unidentified="cio_id")
    assert [event["anonymousId"] for event in sandbox.segment.kept] == ["d9"]


def test_activity_without_delivery(sandbox: Sandbox) -> None:
    sandbox.history = History(
        deliveries=[row(1)],
        activities=[
            activity(5, DAY_ONE.end, None),  # the next interval's
            activity(4, NOVEMBER + 9, None, data=None),
            activity(3, NOVEMBER + 8, "", data={"delivery_id": ""}),
            activity(2, NOVEMBER + 7, None, data={"delivery_id": "d1"}),
            activity(1, NOVEMBER - 1, None),
        ],
    )
    result = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    assert result.skipped == {"activity_without_delivery": 2}
    assert result.tally.read["activities"] == 1
    assert [event["properties"]["delivery_id"] for event in sandbox.segment.kept] == ["d1"]


def test_machine_events_can_be_dropped(sandbox: Sandbox) -> None:
    sandbox.history = History.generate(seed=8, deliveries=900, start=NOVEMBER - 2 * DAY, end=NOVEMBER + DAY)
    result = run_pipeline(sandbox, DAY_ONE, names=REPEATED, mode="every_human")
    truth = held(sandbox.history, [DAY_ONE], REPEATED)
    people = [one for one in truth if not (one.machine or one.prefetched)]
    assert_same(kept(sandbox.segment.kept), to_send(people))
    assert result.skipped["machine"] == len(truth) - len(people) > 0
    assert {one.metric for one in truth if one.machine or one.prefetched} == {"opened", "clicked"}


def test_repeated_activity_is_sent_once(sandbox: Sandbox) -> None:
    """The list repeats an activity, because rows shift while they are read."""
    twice = activity(1, NOVEMBER + 7)
    sandbox.history = History(deliveries=[row(1)], activities=[twice] * 40)
    result = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    assert result.tally.read["activities"] == result.events["Email Opened"] == 1
    assert len(sandbox.segment.kept) + len(sandbox.segment.duplicates) == 1


def test_reading_stops_at_tolerance(sandbox: Sandbox) -> None:
    """The history before the interval is not read, but the newer one is: 100 a page and no filter by time."""
    times = range(DAY_ONE.end + 10 * DAY, DAY_ONE.start - 20 * DAY, -3600)
    sandbox.history = History(
        deliveries=[row(1)], activities=[activity(number, time) for number, time in enumerate(times)]
    )
    result = run_full(sandbox, DAY_ONE, ["Email Opened"])
    assert result.events["Email Opened"] == 24
    back_to = DAY_ONE.start - reading.TOLERANCE
    asked = [one for one in sandbox.customerio.requests if one.path == "/v1/activities"]
    assert len(asked) == math.ceil(sum(time >= back_to for time in times) / 15) + 1


@pytest.mark.parametrize("disorder", [600, 3600])
def test_disordered_activities(sandbox: Sandbox, disorder: int) -> None:
    sandbox.settings = Settings(activity_disorder=disorder)
    sandbox.history = History.generate(
        seed=11, deliveries=1500, start=NOVEMBER - DAY // 4, end=NOVEMBER + DAY // 4, channels=("email",)
    )
    hour = Interval(NOVEMBER, NOVEMBER + 3600)
    run_full(sandbox, hour, OPENS_AND_CLICKS)
    assert_same(kept(sandbox.segment.kept), to_send(held(sandbox.history, [hour], OPENS_AND_CLICKS)))


def test_missing_scope_fails_the_run(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(scopes=("messages",))
    with pytest.raises(TryAgainLaterError, match="403.*may not read /v1/activities"):
        run_full(sandbox, DAY_ONE)
    assert sandbox.segment.requests == []


# The first one, and the others


def opened(number: int, time: int, *more: int, **fields: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a delivery whose first open was then, and all of its opens as activities."""
    times = [time, *more]
    acts = [activity(number * 100 + index, at, f"d{number}") for index, at in enumerate(times)]
    return row(number, metrics={"sent": NOVEMBER, "opened": time}, **fields), acts


def ids(sandbox: Sandbox) -> dict[int, str]:
    """Return the messageId by second of the interval."""
    return {
        int(datetime.fromisoformat(event["originalTimestamp"]).timestamp()) - NOVEMBER: event["messageId"]
        for event in sandbox.segment.kept
    }


def test_first_open_keeps_its_id(sandbox: Sandbox) -> None:
    delivery, acts = opened(1, NOVEMBER + 50, NOVEMBER + 70, NOVEMBER + 90)
    sandbox.history = History(deliveries=[delivery], activities=acts[::-1])
    run_pipeline(sandbox, DAY_ONE, names=OPENS_AND_CLICKS)
    first = ids(sandbox)
    assert list(first) == [50]
    sandbox.reset()
    run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    every = ids(sandbox)
    assert set(every) == {50, 70, 90}
    assert every[50] == first[50]
    assert len(set(every.values())) == 3


def test_smallest_id_is_the_first_open(sandbox: Sandbox) -> None:
    delivery, acts = opened(1, NOVEMBER + 50, NOVEMBER + 50, NOVEMBER + 50)
    expected = Mapper("test").message_id("d1", "opened")
    for order in (acts, acts[::-1]):
        sandbox.history = History(deliveries=[delivery], activities=order)
        sandbox.reset()
        run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
        found = {event["messageId"] for event in sandbox.segment.kept}
        assert expected in found
        assert found == {
            expected,
            *(Mapper("test").message_id("d1", "opened", one["id"]) for one in acts[1:]),
        }


def test_open_without_activity_is_sent(sandbox: Sandbox) -> None:
    """Some opens have no activity, because the order and completeness of activities are not guaranteed."""
    delivery, acts = opened(1, NOVEMBER + 50, NOVEMBER + 70)
    sandbox.history = History(deliveries=[delivery], activities=acts[1:])
    result = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    assert set(ids(sandbox)) == {50, 70}
    assert ids(sandbox)[50] == Mapper("test").message_id("d1", "opened")
    assert result.tally.read["opens_and_clicks_without_activity"] == 1


def test_open_after_machines_keeps_its_id(sandbox: Sandbox) -> None:
    delivery, acts = opened(1, NOVEMBER + 50, NOVEMBER + 70)
    acts[0]["data"] |= {"prefetched": True}
    sandbox.history = History(deliveries=[delivery], activities=acts[::-1])
    run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    every = ids(sandbox)
    sandbox.reset()
    result = run_pipeline(sandbox, DAY_ONE, names=OPENS_AND_CLICKS, mode="every_human")
    assert ids(sandbox) == {70: every[70]}
    assert result.skipped == {"machine": 1}


@settings(max_examples=10)
@given(stretch=stretches(), data=st.data())
def test_mode_change_keeps_message_ids(
    world: Sandbox, stretch: tuple[History, list[Interval]], data: st.DataObject
) -> None:
    history, intervals = stretch
    world.settings = Settings()
    world.history = history
    world.reset()
    for interval in intervals:
        for mode in data.draw(st.permutations(["first", "every", "every_human"])):
            run_pipeline(world, interval, names=REPEATED, mode=mode)
    truth = held(history, intervals, REPEATED)
    known = {(one.delivery_id, one.collection, one.time) for one in truth}
    # Where there are no activities, "every_human" sends the first by a person, and the other modes the first of all.
    people = [
        one
        for one in held_in_mode("every_human", history, intervals, REPEATED)
        if (one.delivery_id, one.collection, one.time) not in known
    ]
    assert all((one.channel, one.metric) not in DOCUMENTED for one in people)
    expected = to_send([*truth, *people]) + Counter(of_deleted(history, intervals, REPEATED))
    assert len(world.segment.kept) == expected.total()
    ids_of_firsts = {
        Mapper("test").message_id(one.delivery_id, f"{prefix}{one.metric}")
        for prefix, rows in (("", [one for one in truth if one.first]), ("human_", people))
        for one in rows
        if one.user_id or one.anonymous_id
    }
    assert ids_of_firsts <= {event["messageId"] for event in world.segment.kept}


# Requests


def test_only_old_deliveries_by_id(sandbox: Sandbox) -> None:
    old, new = row(1, NOVEMBER - 8 * DAY), row(2, NOVEMBER - 3 * DAY)
    sandbox.history = History(
        deliveries=[old, new], activities=[activity(2, NOVEMBER + 9, "d2"), activity(1, NOVEMBER + 8, "d1")]
    )
    run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS, lookback=6 * DAY)
    by_id = [one.path for one in sandbox.customerio.requests if one.path.startswith("/v1/messages/")]
    assert by_id == ["/v1/messages/d1"]


def test_many_deliveries_by_id(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activities, "_IDS_AT_ONCE", 2)
    sandbox.history = History(
        deliveries=[row(number, NOVEMBER - 8 * DAY) for number in range(1, 6)],
        activities=[activity(number, NOVEMBER + number, f"d{number}") for number in range(5, 0, -1)],
    )
    run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS, lookback=6 * DAY)
    assert sorted(event["properties"]["delivery_id"] for event in sandbox.segment.kept) == [
        "d1",
        "d2",
        "d3",
        "d4",
        "d5",
    ]


def test_collections_without_activities(sandbox: Sandbox) -> None:
    names = ["Email Sent", "WhatsApp Opened", "WhatsApp Link Clicked", "Slack Link Clicked"]
    sandbox.history = History.generate(seed=4, deliveries=900, start=NOVEMBER - DAY, end=NOVEMBER + DAY)
    result = run_full(sandbox, DAY_ONE, names)
    assert_same(kept(sandbox.segment.kept), to_send(held(sandbox.history, [DAY_ONE], names)))
    assert not result.tally.read["activities"]
    assert not any(one.path == "/v1/activities" for one in sandbox.customerio.requests)


def test_more_ids_than_sqlite_takes(sandbox: Sandbox) -> None:
    with PendingActivities() as pending:
        pending._rows.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
        found = [(f"d{n}", Activity(id=f"a{n}", timestamp=NOVEMBER)) for n in range(2500)]
        assert pending.add(CATALOG["Email Opened"], found) == 2500
        assert len(pending.take([f"d{n}" for n in range(2400)])) == 2400
        assert sorted(pending.delivery_ids(1000)) == sorted(f"d{n}" for n in range(2400, 2500))


# The end of the list


def test_late_row_behind_an_older_page(sandbox: Sandbox) -> None:
    """The late row is within the tolerance of an hour."""
    older = [activity(number, NOVEMBER - 600 - number) for number in range(40)]
    sandbox.history = History(deliveries=[row(1)], activities=[*older, activity(99, NOVEMBER + 5)])
    run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    assert list(ids(sandbox)) == [5]


def test_empty_page_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gappy(CustomerIOClient):
        def activity_page(self, query: Any) -> Page[Activity]:
            at = int(query.get("start", 0))
            rows = [Activity(id="a", timestamp=NOVEMBER + 5)] if at == 3 else []
            return Page(rows, (), str(at + 1) if at < 3 else None)

    with Gappy("key") as client, reading.Reader(client) as reader:
        found = [row for _, page in reader.activities(["opened_email"], NOVEMBER) for row in page.rows]
    assert [row.id for row in found] == ["a"]


# Odd rows


def test_malformed_activities(sandbox: Sandbox) -> None:
    delivery, acts = opened(1, NOVEMBER + 50, NOVEMBER + 60, NOVEMBER + 61, NOVEMBER + 70, DAY_ONE.end + 9)
    sandbox.history = History(deliveries=[delivery], activities=acts[::-1])
    kinds = ("activity.data:list", "activity.timestamp:text", "activity.data:text")
    sandbox.settings = Settings(odd_rows={acts[n]["id"]: kind for n, kind in zip((1, 2, 4), kinds, strict=True)})
    result = run_full(sandbox, DAY_ONE, ["Email Opened"])
    assert set(ids(sandbox)) == {50, 70}
    assert result.refused == {"malformed": 2}  # the last is the next interval's


def test_fields_left_out_are_counted(sandbox: Sandbox) -> None:
    """One delivery is read with its window, one by its id."""
    old, new = row(1, NOVEMBER - 100 * DAY), row(2)
    acts = [activity(2, NOVEMBER + 9, "d2"), activity(1, NOVEMBER + 8, "d1")]
    sandbox.history = History(deliveries=[old, new], activities=acts)
    sandbox.settings = Settings(odd_rows=dict.fromkeys(("d1", "d2"), "delivery.subject:number"))
    result = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS, lookback=DAY)
    assert [event["properties"].get("subject") for event in sandbox.segment.kept] == [None, None]
    assert result.tally.read["field_left_out"] == 2


@pytest.mark.parametrize("time", [0, NOVEMBER * 1000])
def test_activity_with_impossible_time(sandbox: Sandbox, time: int) -> None:
    delivery, acts = opened(1, NOVEMBER + 50, NOVEMBER + 60)
    acts[1] |= {"timestamp": time}
    sandbox.history = History(deliveries=[delivery], activities=acts[::-1])
    result = run_full(sandbox, DAY_ONE, ["Email Opened"])
    assert list(ids(sandbox)) == [50]
    assert result.skipped == {"not_a_time": 1}


# A killed run


def test_killed_run_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with PendingActivities() as pending:
        pending.add(CATALOG["Email Opened"], [("d", Activity(id=str(n), timestamp=1)) for n in range(50_000)])
        assert list(tmp_path.iterdir()) == []


def test_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    found = [("d", Activity(id=str(n), timestamp=1)) for n in range(5000)]
    with PendingActivities() as pending:
        pending._rows.execute("PRAGMA max_page_count = 20")
        with pytest.raises(TryAgainLaterError, match=f"temporary file in {tmp_path} .*full.*set TMPDIR"):
            pending.add(CATALOG["Email Opened"], found)


def test_repeated_delivery_is_joined_again() -> None:
    """Without a new join, the first open would have no activity, and a machine's would count as a person's."""
    with PendingActivities() as pending:
        pending.add(CATALOG["Email Opened"], [("d1", Activity(id="a", timestamp=NOVEMBER))])
        first = pending.take(["d1"])
        assert pending.take(["d1"]) == first != {}
        assert pending.delivery_ids(9) == []


@pytest.mark.parametrize("mode", ["every", "every_human"])
def test_delivery_in_both_lists(sandbox: Sandbox, mode: str) -> None:
    sandbox.settings = Settings(drafts_wording="both")
    delivery, acts = opened(1, NOVEMBER + 50, NOVEMBER + 70)
    acts[0]["data"] |= {"machine": True}
    sandbox.history = History(deliveries=[delivery], activities=acts[::-1])
    result = run_pipeline(sandbox, DAY_ONE, names=[*OPENS_AND_CLICKS, "Email Drafted"], mode=mode)
    assert set(ids(sandbox)) == ({50, 70} if mode == "every" else {70})
    assert not result.tally.read["opens_and_clicks_without_activity"]

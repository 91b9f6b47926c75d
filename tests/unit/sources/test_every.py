"""Every open and click of all channels: sent once by the interval that contains it, joined to its delivery."""

from __future__ import annotations

import itertools
import math
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_cio import line
from airflow_provider_cio.clients.customerio import CustomerIOClient
from airflow_provider_cio.clients.transport import ClosedError
from airflow_provider_cio.events.catalog import CATALOG, GROUPS
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.interval import Interval
from airflow_provider_cio.line import Callbacks, Line
from airflow_provider_cio.records import Activity, Delivery
from airflow_provider_cio.sources import reader as reading
from airflow_provider_cio.sources import windows as extract
from airflow_provider_cio.sources.activities import REPEATING, Waiting
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.sandbox.delivery import identity
from tests.unit.full import DOCUMENTED, Told, held, kept, run_full, to_send
from tests.unit.support import DAY, NOVEMBER, QUICK, clients

STRETCH = Interval(NOVEMBER, NOVEMBER + 3 * DAY)
DAY_ONE = Interval(NOVEMBER, NOVEMBER + DAY)
REPEATED = tuple(one.name for one in CATALOG.values() if one.metric in ("opened", "clicked"))
OPENS_AND_CLICKS = ("Email Opened", "Email Link Clicked")


@pytest.fixture(scope="module", autouse=True)
def small_pages() -> Iterator[None]:
    """A small history has many pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract, "PAGE_SIZE", 20)
        patch.setattr(reading, "ACTIVITY_PAGE_SIZE", 15)
        yield


@pytest.fixture(scope="module")
def world() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """One of its own for each test: what a failed run has still under way must not be counted by the next."""
    with Sandbox() as sandbox:
        yield sandbox


def row(number: int, created: int = NOVEMBER, **fields: Any) -> dict[str, Any]:
    """A delivery that was sent."""
    shared = {"type": "email", "created": created, "customer_id": "1", "metrics": {"sent": created}}
    return {"id": f"d{number}", "subject": f"Subject {number}", "recipient": "ana@example.com"} | shared | fields


def activity(number: int, time: int, delivery_id: str | None = "d1", **fields: Any) -> dict[str, Any]:
    """An open of an e-mail."""
    shared = {"type": "opened_email", "timestamp": time, "data": {"opened": time}}
    return {"id": f"01HF{number:022d}", "delivery_id": delivery_id} | shared | fields


# Exactly once


@st.composite
def stretches(draw: st.DrawFn) -> tuple[History, list[Interval]]:
    """A history of all channels, and its days cut anywhere into adjacent intervals, some bounds on occurrences."""
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
    """The same workspace after some of its deliveries were deleted: their activities are still listed."""
    activities = sorted(whole.activities.rows(), key=lambda row: -row["timestamp"])
    left = [one for number, one in enumerate(whole.deliveries) if number % one_in]
    history = History(deliveries=[_plain(one.row()) for one in left], activities=activities, names=whole.names)
    history.parents |= whole.parents
    return history


def _plain(row: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(row))
    return plain


def of_deleted(history: History, intervals: list[Interval], names: str | tuple[str, ...]) -> list[Told]:
    """Opens and clicks of deliveries that are gone: what their activity alone tells."""
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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    stretch=stretches(),
    names=st.sampled_from(["all", "all", REPEATED, OPENS_AND_CLICKS, GROUPS["push"], GROUPS["whatsapp"]]),
    every=st.sampled_from([True, True, True, False]),
    lookback=st.sampled_from([DAY, 30 * DAY]),
    awkward=AWKWARD,
    data=st.data(),
)
def test_adjacent_intervals_send_each_occurrence_exactly_once(
    world: Sandbox,
    stretch: tuple[History, list[Interval]],
    names: str | tuple[str, ...],
    every: bool,
    lookback: int,
    awkward: dict[str, Any],
    data: st.DataObject,
) -> None:
    """Any cut, any order, some runs repeated: Segment keeps each occurrence once, whole, and a repeat adds nothing."""
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
    """Named apart, or pytest shows two long lists."""
    assert list((found - expected).elements()) == []
    assert list((expected - found).elements()) == []


def test_every_one_is_told_of_those_that_the_api_documents_activities_of() -> None:
    assert REPEATING == DOCUMENTED


def test_a_large_history_in_the_real_page_sizes(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "PAGE_SIZE", 1000)
    monkeypatch.setattr(reading, "ACTIVITY_PAGE_SIZE", 100)
    sandbox.history = History.generate(seed=3, deliveries=4000, start=NOVEMBER - 9 * DAY, end=NOVEMBER + 2 * DAY)
    report = run_full(sandbox, DAY_ONE)
    truth = held(sandbox.history, [DAY_ONE])
    expected = to_send(truth)
    assert_same(kept(sandbox.segment.kept), expected)
    assert {name: count for name, count in report.events.items() if count} == Counter(
        one.collection for one in expected.elements()
    )
    assert report.skipped["unidentified"] == len(truth) - expected.total() > 0
    told = [one for one in truth if (one.channel, one.metric) in DOCUMENTED]
    assert report.tally.read["activities"] == len(told)
    # Of all that an activity can have, there is something among these.
    assert {bool(one.link) for one in told} == {bool(one.ip) for one in told} == {True, False}
    assert {one.machine for one in told} == {one.prefetched for one in told} == {True, False}
    assert len({one.channel for one in told}) == 5


# What an activity says


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
        "campaign_id": "9",
        "action_id": "42",
        "customer_id": "1",
        "email_id": "d1",
        "email_subject": "Subject 1",
        "campaign_name": "Welcome",
        "href": "https://example.com/?q=1",
        "link_url": "https://example.com/?q=1",
        "link_id": "12",
        "machine": True,
    }
    assert {key: event["context"][key] for key in ("ip", "userAgent", "traits")} == {
        "ip": "2001:db8::1",
        "userAgent": "Mozilla/5.0",
        "traits": {"email": "ana@example.com"},
    }


def test_the_rule_for_the_message_ids_of_activities_never_changes() -> None:
    """Another rule would send everything anew that is within Segment's memory: this literal is a promise."""
    delivery = Delivery(id="RPILAgUBcRhIBqSfeiIwdIYJKxTY", type="email", created=1, metrics={})
    opened = Activity(id="01E4C4CT6YDC7Y5M7FE1GWWPQJ", timestamp=1_613_063_089)
    event = Mapper("source-a").event_of_activity(delivery, CATALOG["Email Opened"], opened)
    assert event.message_id == "cio-94cbe710f4db49a0e2b5cb3fadb50d02"
    assert (
        event.message_id != Mapper("source-b").event_of_activity(delivery, CATALOG["Email Opened"], opened).message_id
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
def test_what_data_says_becomes_properties(data: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    delivery = Delivery(id="d1", type="email", created=1, metrics={}, customer_id="1")
    event = Mapper("ns").event_of_activity(
        delivery, CATALOG["Email Link Clicked"], Activity(id="a", timestamp=NOVEMBER, data=data)
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
def test_of_a_list_of_ip_addresses_the_first_is_told(ip_address: Any, expected: str | None) -> None:
    delivery = Delivery(id="d1", type="email", created=1, metrics={}, customer_id="1")
    one = Activity(id="a", timestamp=NOVEMBER, data={"ip_address": ip_address})
    context = _plain(Mapper("ns").event_of_activity(delivery, CATALOG["Email Opened"], one).context)
    assert context.get("ip") == expected


def test_what_happened_to_one_delivery_does_not_show_in_another_event_of_it() -> None:
    """What they have in common is made once."""
    delivery = Delivery(id="d1", type="email", created=1, metrics={}, customer_id="1")
    mapper = Mapper("ns")
    full = {"href": "https://h.example", "ip_address": "203.0.113.9", "user_agent": "x", "machine": True}
    for data in (full, {}):
        mapper.event_of_activity(delivery, CATALOG["Email Opened"], Activity(id="a", timestamp=NOVEMBER, data=data))
    event = mapper.event(delivery, CATALOG["Email Delivered"], NOVEMBER)
    assert set(_plain(event.properties)) == {"delivery_id", "customer_id", "email_id"}
    assert set(_plain(event.context)) == {"integration", "library"}


# The join


def test_a_delivery_from_before_the_look_back_is_found_by_its_id(sandbox: Sandbox) -> None:
    long_ago = NOVEMBER - 100 * DAY
    old, new = row(1, long_ago, subject="Old"), row(2, subject="New")
    sandbox.history = History(
        deliveries=[old, new], activities=[activity(2, NOVEMBER + 9, "d2"), activity(1, NOVEMBER + 8, "d1")]
    )
    report = run_full(sandbox, DAY_ONE, lookback=DAY)
    assert {event["properties"]["subject"] for event in sandbox.segment.kept if event["event"] == "Email Opened"} == {
        "Old",
        "New",
    }
    assert report.ways["ids"] == 1
    assert [asked.path for asked in sandbox.customerio.requests if asked.path.startswith("/v1/messages/")] == [
        "/v1/messages/d1"
    ]


def test_what_is_left_of_a_deleted_delivery_is_what_its_activities_say(sandbox: Sandbox) -> None:
    known = {"email": "ana@example.com", "cio_id": "d9"}
    sandbox.history = History(
        activities=[
            activity(3, NOVEMBER + 9, "gone=", customer_identifiers=None),
            activity(2, NOVEMBER + 8, "gone=", customer_identifiers=known, data={"user_agent": "Mozilla/5.0"}),
            activity(1, NOVEMBER + 7, "gone=", customer_identifiers=known, customer_id="42"),
        ]
    )
    report = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    first, second = sorted(sandbox.segment.kept, key=lambda event: event["originalTimestamp"])
    assert (first.get("userId"), first.get("anonymousId")) == ("42", None)
    assert (second.get("userId"), second.get("anonymousId")) == (None, "ana@example.com")
    assert second["properties"] == {"delivery_id": "gone=", "email_id": "gone="}
    assert second["context"]["userAgent"] == "Mozilla/5.0"
    assert first["messageId"] != second["messageId"]
    assert report.skipped == {"unidentified": 1}
    assert report.tally.read["deliveries"] == 0
    asked = [one for one in sandbox.customerio.requests if one.path.startswith("/v1/messages/")]
    assert [one.status for one in asked] == [404]  # once for all three


def test_an_identity_that_customerio_no_longer_shows_is_not_taken_from_an_older_activity(sandbox: Sandbox) -> None:
    """Deleted and suppressed people are sent as their delivery shows them."""
    known = {"id": "42", "email": "ana@example.com", "cio_id": "d9"}
    anonymous = row(
        1, customer_id=None, recipient=None, customer_identifiers={"id": None, "email": None, "cio_id": "d9"}
    )
    sandbox.history = History(
        deliveries=[anonymous], activities=[activity(1, NOVEMBER + 7, customer_identifiers=known, customer_id="42")]
    )
    report = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    assert report.skipped == {"unidentified": 1}
    assert sandbox.segment.received_count == 0
    run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS, cio_id=True)
    assert [event["anonymousId"] for event in sandbox.segment.kept] == ["d9"]


def test_an_activity_that_names_its_delivery_nowhere_is_counted(sandbox: Sandbox) -> None:
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
    report = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    assert report.skipped == {"activity_without_delivery": 2}
    assert report.tally.read["activities"] == 1
    assert [event["properties"]["delivery_id"] for event in sandbox.segment.kept] == ["d1"]


def test_machine_opens_and_clicks_can_be_dropped_and_are_counted(sandbox: Sandbox) -> None:
    sandbox.history = History.generate(seed=8, deliveries=900, start=NOVEMBER - 2 * DAY, end=NOVEMBER + DAY)
    report = run_full(sandbox, DAY_ONE, REPEATED, keep_machines=False)
    truth = held(sandbox.history, [DAY_ONE], REPEATED)
    people = [one for one in truth if not (one.machine or one.prefetched)]
    assert_same(kept(sandbox.segment.kept), to_send(people))
    assert report.skipped["machine"] == len(truth) - len(people) > 0
    assert {one.metric for one in truth if one.machine or one.prefetched} == {"opened", "clicked"}


def test_an_activity_that_is_listed_twice_is_sent_once(sandbox: Sandbox) -> None:
    """Rows shift while they are read."""
    twice = activity(1, NOVEMBER + 7)
    sandbox.history = History(deliveries=[row(1)], activities=[twice] * 40)
    report = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    assert report.tally.read["activities"] == report.events["Email Opened"] == 1
    assert len(sandbox.segment.kept) + len(sandbox.segment.duplicates) == 1


def test_activities_are_read_no_further_back_than_the_tolerance(sandbox: Sandbox) -> None:
    """100 a page and no filter by time: the history before the interval is not read, the one after it is."""
    times = range(DAY_ONE.end + 10 * DAY, DAY_ONE.start - 20 * DAY, -3600)
    sandbox.history = History(
        deliveries=[row(1)], activities=[activity(number, time) for number, time in enumerate(times)]
    )
    report = run_full(sandbox, DAY_ONE, ["Email Opened"])
    assert report.events["Email Opened"] == 24
    back_to = DAY_ONE.start - reading.TOLERANCE
    assert report.ways["activities"] == math.ceil(sum(time >= back_to for time in times) / 15) + 1


@pytest.mark.parametrize("disorder", [600, 3600])
def test_activities_out_of_order_are_found(sandbox: Sandbox, disorder: int) -> None:
    sandbox.settings = Settings(activity_disorder=disorder)
    sandbox.history = History.generate(
        seed=11, deliveries=1500, start=NOVEMBER - DAY // 4, end=NOVEMBER + DAY // 4, channels=("email",)
    )
    hour = Interval(NOVEMBER, NOVEMBER + 3600)
    run_full(sandbox, hour, OPENS_AND_CLICKS)
    assert_same(kept(sandbox.segment.kept), to_send(held(sandbox.history, [hour], OPENS_AND_CLICKS)))


def test_a_key_that_may_not_read_activities_fails_the_run_and_says_so(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(scopes=("messages",))
    with pytest.raises(ConfigurationError, match="403.*may not read /v1/activities: check its scope"):
        run_full(sandbox, DAY_ONE)
    assert sandbox.segment.requests == []


# Which way


def opened(number: int, time: int, created: int) -> tuple[dict[str, Any], dict[str, Any]]:
    return row(number, created, metrics={"sent": created, "opened": time}), activity(number, time, f"d{number}")


def workspace(deliveries: int, of_them_opened: int, span: int = 29 * DAY) -> History:
    """Deliveries evenly spread, every so many of them opened on the first day of November."""
    rows = [row(number, NOVEMBER - span * number // deliveries) for number in range(deliveries)]
    step = deliveries // of_them_opened
    opens = [activity(number, NOVEMBER + 60 + number, f"d{number}") for number in range(0, deliveries, step)]
    return History(deliveries=rows, activities=opens[::-1])


def ways(sandbox: Sandbox) -> Counter[str]:
    """What the sandbox was asked, by the words of the result."""
    found: Counter[str] = Counter(activities=0, windows=0, ids=0)
    for asked in sandbox.customerio.requests:
        way = {"/v1/activities": "activities", "/v1/messages": "windows"}.get(asked.path, "ids")
        found[way] += 1
    return found


def test_few_opens_over_many_deliveries_are_joined_by_id(sandbox: Sandbox) -> None:
    sandbox.history = workspace(3000, 6)  # 150 pages or 6 requests
    report = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    assert len(sandbox.segment.kept) == 6
    assert report.ways == ways(sandbox)
    assert 5 <= report.ways["ids"] <= 6
    assert report.ways["windows"] <= 3


def test_many_opens_over_few_pages_are_joined_by_window(sandbox: Sandbox) -> None:
    sandbox.history = workspace(600, 600)  # 30 pages or 600 requests
    report = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    assert len(sandbox.segment.kept) == 600
    assert report.ways == ways(sandbox)
    assert report.ways["ids"] == 0
    assert report.ways["windows"] < 70


@pytest.mark.parametrize("count", [10, 30, 60, 100, 150, 300])
def test_neither_way_costs_much_more_than_the_cheaper_one(sandbox: Sandbox, count: int) -> None:
    sandbox.history = workspace(3000, count)  # 150 pages
    report = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    assert len(sandbox.segment.kept) == count
    assert report.ways["windows"] + report.ways["ids"] <= 1.6 * min(150, count)


@pytest.mark.parametrize("count", [10, 60, 300])
def test_a_workspace_that_is_younger_than_the_look_back_costs_no_more_than_all_its_windows(
    sandbox: Sandbox, count: int
) -> None:
    """Empty windows are read soon, and make the others look short."""
    sandbox.history = workspace(3000, count, 9 * DAY)
    report = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    assert len(sandbox.segment.kept) == count
    assert report.ways["windows"] + report.ways["ids"] <= 1.2 * 150


def test_if_windows_are_read_anyway_only_older_deliveries_are_asked_for_by_id(sandbox: Sandbox) -> None:
    sandbox.history = workspace(400, 20)
    report = run_full(sandbox, DAY_ONE, [*OPENS_AND_CLICKS, "Email Sent"], lookback=6 * DAY)
    assert report.events["Email Opened"] == 20
    assert report.ways == ways(sandbox)
    assert report.ways["ids"] == len([number for number in range(0, 400, 20) if 29 * number / 400 > 6])


def test_what_another_channel_needs_does_not_choose_the_dearer_way(sandbox: Sandbox) -> None:
    sandbox.history = workspace(3000, 3)
    report = run_full(sandbox, DAY_ONE, ["Email Opened", "Push Sent"])
    assert report.events["Email Opened"] == 3
    assert report.ways["windows"] + report.ways["ids"] < 20


def test_without_an_open_no_delivery_is_asked_for(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=[row(number) for number in range(50)])
    report = run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS).as_dict()
    assert report["read"] == {
        "requests": 2,
        "deliveries": 0,
        "activities": 0,
        "requests_by_way": {"activities": 2, "windows": 0, "ids": 0},
    }


def test_collections_without_activities_need_no_activities(sandbox: Sandbox) -> None:
    names = ["Email Sent", "WhatsApp Opened", "WhatsApp Link Clicked", "Slack Link Clicked"]
    sandbox.history = History.generate(seed=4, deliveries=900, start=NOVEMBER - DAY, end=NOVEMBER + DAY)
    report = run_full(sandbox, DAY_ONE, names).as_dict()
    assert_same(kept(sandbox.segment.kept), to_send(held(sandbox.history, [DAY_ONE], names)))
    assert "requests_by_way" not in report["read"]
    assert ways(sandbox)["activities"] == 0


@pytest.mark.parametrize("names", ["all", REPEATED, OPENS_AND_CLICKS])
def test_the_ways_add_up_to_all_requests(sandbox: Sandbox, names: Any) -> None:
    sandbox.history = History.generate(seed=4, deliveries=900, start=NOVEMBER - DAY, end=NOVEMBER + DAY)
    read = run_full(sandbox, DAY_ONE, names).as_dict()["read"]
    assert sum(read["requests_by_way"].values()) == read["requests"] == len(sandbox.customerio.requests)


def test_the_ways_add_up_also_if_windows_are_given_up(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests are in flight when the last delivery is found; then the service gets quicker than its limit."""
    monkeypatch.setattr(line, "PROGRESS_EVERY", 0.0)
    sandbox.settings = Settings(latency=0.1)
    sandbox.history = History(
        *zip(*(opened(number, NOVEMBER + 900 - number, NOVEMBER - number * 300) for number in range(200)), strict=True)
    )
    source, destination = clients(sandbox)
    source = CustomerIOClient(sandbox.settings.app_key, base_url=sandbox.url, requests_per_second=100, retries=QUICK)

    def at_once(report: Any) -> None:
        sandbox.settings = Settings()

    with source, destination:
        read = (
            Line(
                source,
                destination,
                Mapper("test"),
                interval=DAY_ONE,
                lookback=90 * DAY,
                collections=[CATALOG["Email Opened"]],
                every=True,
                callbacks=Callbacks(progress=at_once),
            )
            .run()
            .as_dict()["read"]
        )
    assert sum(read["requests_by_way"].values()) == read["requests"]


def test_progress_is_told_while_activities_are_read(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "PROGRESS_EVERY", 0.0)
    told: list[int] = []
    sandbox.history = History(
        deliveries=[row(1)], activities=[activity(number, NOVEMBER + 900 - number) for number in range(300)]
    )
    run_full(
        sandbox,
        DAY_ONE,
        ["Email Opened"],
        callbacks=Callbacks(progress=lambda report: told.append(report.work["requests"])),
    )
    assert min(told) < 5


# What waits lies on disk


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_waits_lies_in_a_file_without_a_name_and_is_gone_afterwards() -> None:
    """A name would outlive a task that is killed."""

    def files() -> list[str]:
        links = [os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
        return [target for link in links if os.path.lexists(link) and "etilqs" in (target := os.readlink(link))]

    opened = CATALOG["Email Opened"]
    with Waiting() as waiting:
        for number in range(30):
            rows = [Activity(id=f"{number}-{n}", timestamp=NOVEMBER, data={"link": "x" * 200}) for n in range(1000)]
            assert waiting.add(opened, [(f"delivery {row.id}", row) for row in rows]) == 1000
        assert waiting.deliveries([opened]) == 30_000
        assert [name.endswith("(deleted)") for name in files()] == [True] * len(files()) != []
        assert len(waiting.take(["delivery 7-7"])["delivery 7-7"]) == 1
        assert waiting.take(["delivery 7-7"]) == {}
    assert files() == []


def test_no_file_is_made_if_only_first_occurrences_are_sent(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", None)
    sandbox.history = workspace(30, 30)
    run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS, every=False)


@pytest.mark.parametrize("at", [0, 7, 12, 20, 33])
@pytest.mark.parametrize("side", ["customerio", "segment"])
def test_an_error_leaves_no_file_behind(sandbox: Sandbox, folder: Path, side: Any, at: int) -> None:
    """In each of the three parts of the run."""
    sandbox.history = workspace(900, 100)
    sandbox.faults.add(Fault(side=side, kind="401", at=at if side == "customerio" else 0, times=1000))
    with pytest.raises(ConfigurationError):
        run_full(sandbox, DAY_ONE, OPENS_AND_CLICKS)
    assert list(folder.iterdir()) == []


def kill_from_a_signal_handler(source: CustomerIOClient) -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


def kill_from_another_thread(source: CustomerIOClient) -> None:
    source.close()


@pytest.mark.parametrize("way", ["activities", "windows", "ids"])
@pytest.mark.parametrize("kill", [kill_from_a_signal_handler, kill_from_another_thread])
def test_a_kill_leaves_no_file_behind(
    sandbox: Sandbox, folder: Path, kill: Callable[[CustomerIOClient], None], way: str
) -> None:
    def stop(*_: object) -> None:
        raise SystemExit("killed")

    def when_there() -> None:
        give_up_at = time.monotonic() + 5
        while not ways(sandbox)[way] and time.monotonic() < give_up_at:
            time.sleep(0.005)
        kill(source)

    sandbox.settings = Settings(latency=0.03)
    sandbox.history = workspace(2700, 40) if way == "ids" else workspace(900, 300)
    source, destination = clients(sandbox)
    previous = signal.signal(signal.SIGUSR1, stop)
    killer = threading.Thread(target=when_there)
    killer.start()
    try:
        with source, destination, pytest.raises((SystemExit, ClosedError)):
            Line(
                source,
                destination,
                Mapper("test"),
                interval=DAY_ONE,
                lookback=30 * DAY,
                collections=[CATALOG["Email Opened"]],
                every=True,
            ).run()
    finally:
        killer.join()
        signal.signal(signal.SIGUSR1, previous)
    assert ways(sandbox)[way]
    assert list(folder.iterdir()) == []


def test_what_waits_is_given_out_once_and_comes_back_as_it_was() -> None:
    full = Activity(
        id="a",
        timestamp=NOVEMBER,
        delivery_id="d1",
        customer_id=7,
        data={"href": "https://example.com/ü", "machine": True, "n": None},
    )
    opens, clicks = CATALOG["Email Opened"], CATALOG["Email Link Clicked"]
    with Waiting() as waiting:
        assert waiting.deliveries([opens, clicks]) == 0
        assert waiting.delivery_ids(5) == []
        assert waiting.add(clicks, [("d1", full), ("d1", Activity(id="b", timestamp=NOVEMBER))]) == 2
        assert waiting.add(clicks, [("d1", full)]) == 0
        assert waiting.add(opens, [("d'2", Activity(id="c", timestamp=NOVEMBER))]) == 1
        assert [waiting.deliveries(those) for those in ([opens, clicks], [opens], [])] == [2, 1, 0]
        assert sorted(waiting.delivery_ids(5)) == ["d'2", "d1"]
        assert len(waiting.delivery_ids(1)) == 1
        assert waiting.take([]) == {}
        found = waiting.take(["d1", "nobody"])
        assert sorted((one.name, each.id) for one, each in found["d1"]) == [
            ("Email Link Clicked", "a"),
            ("Email Link Clicked", "b"),
        ]
        assert full in [each for _, each in found["d1"]]
        assert waiting.take(["d1"]) == {}
        assert waiting.delivery_ids(5) == ["d'2"]

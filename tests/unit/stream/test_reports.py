from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.events.catalog import CATALOG, resolve_collections
from airflow_provider_cio.events.event import Event, encode, rule_broken
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.events.occurrence import Identifiers, Malformed, Message, Occurrence, engagement_in
from airflow_provider_cio.events.privacy import hashed as sha
from airflow_provider_cio.stream.reports import Ignored, Report, Wanted, read_report
from tests.unit.stream.support import ADDRESS, report

EVERYTHING = tuple(CATALOG.values())
#: Collections of messages.
ALL = tuple(one for one in EVERYTHING if not one.is_of_person)
#: Keys of `data` beside those that all have, as the reference has them: by channel and metric.
LINK = {"href": "https://example.com/a", "link_id": 7}
DEVICES = [{"device_id": "token-1", "device_platform": "ios"}, {"device_id": "token-2", "device_platform": "android"}]
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "email": {
        "drafted": {},
        "attempted": {"recipient": None, "subject": None, "failure_message": "421 try later"},
        "sent": {"content": "<p>Hi</p>", "headers": {"X-A": ["b"]}},
        "delivered": {},
        "opened": {"proxied": False, "prefetched": True, "synthetic": True},
        "clicked": {**LINK, "machine": False},
        "converted": {},
        "unsubscribed": {},
        "spammed": {},
        "bounced": {"failure_message": "550 5.1.1 no such user"},
        "dropped": {"failure_message": "suppressed"},
        "deferred": {},
        "failed": {"recipient": None, "failure_message": "bad template"},
        "undeliverable": {"failure_message": "none"},
    },
    "push": {
        metric: {"recipient": None, "subject": None, "recipients": DEVICES}
        for metric in "sent delivered opened converted bounced dropped".split()
    }
    | {
        "drafted": {"recipient": None, "subject": None},
        "attempted": {"recipient": None, "failure_message": "x"},
        "clicked": {"recipient": None, "subject": None, "recipients": DEVICES, **LINK},
        "failed": {"recipient": None, "failure_message": "x"},
        "undeliverable": {"recipient": None, "failure_message": "x"},
    },
    "in_app": {
        "drafted": {},
        "attempted": {"failure_message": "x"},
        "sent": {"recipient": "42"},
        "opened": {"recipient": None},
        "clicked": {**LINK, "recipient": "42", "tracked_response": "yes please"},
        "converted": {},
        "failed": {"failure_message": "x"},
        "undeliverable": {"failure_message": "x"},
    },
    "slack": {
        "drafted": {},
        "attempted": {"failure_message": "x"},
        "sent": {"recipient": "#general"},
        "clicked": {"recipient": "#general", **LINK},
        "converted": {},
        "failed": {"failure_message": "x"},
        "undeliverable": {"failure_message": "x"},
    },
    "webhook": {
        "drafted": {},
        "attempted": {"failure_message": "x"},
        "sent": {"recipient": "https://hooks.example.com/secret", "content": '{"a":1}'},
        "clicked": {"recipient": "https://hooks.example.com/secret", **LINK},
        "converted": {},
        "failed": {"failure_message": "x"},
        "undeliverable": {"failure_message": "x"},
    },
}
SHAPES["sms"] = {
    metric: {"recipient": "+4915112345678"} for metric in "drafted sent delivered converted bounced dropped".split()
} | {
    "attempted": {"recipient": None, "failure_message": "x"},
    "clicked": {"recipient": "+4915112345678", **LINK},
    "failed": {"failure_message": "x"},
    "undeliverable": {"failure_message": "x"},
    "replied": {"inbound_event_id": "01E", "to": "+49301234567", "recipient": "+4915112345678"},
}
SHAPES["whatsapp"] = {**SHAPES["sms"], "opened": {"recipient": "+4915112345678"}}
CASES = [(channel, metric) for channel, metrics in SHAPES.items() for metric in metrics]


def read(one: Any) -> Report:
    found = read_report(one if isinstance(one, bytes) else json.dumps(one).encode(), set())
    assert isinstance(found, Report), found
    return found


def occurrence(one: Any, wanted: Wanted | None = None) -> Occurrence:
    found = (wanted or Wanted(ALL)).occurrence(read(one), set())
    assert isinstance(found, Occurrence), found
    return found


def properties(one: Any, wanted: Wanted | None = None, mapper: Mapper | None = None) -> dict[str, Any]:
    event = (mapper or Mapper("ns")).event(occurrence(one, wanted))
    encoded = encode(event)
    assert rule_broken(event, encoded) is None
    found: dict[str, Any] = json.loads(encoded)["properties"]
    return found


@pytest.mark.parametrize(("channel", "metric"), CASES)
def test_each_report_becomes_its_event(channel: str, metric: str) -> None:
    found = occurrence(report(metric, channel, **SHAPES[channel][metric]))
    assert found.collection.metric == metric
    assert found.collection.channel == {"sms": "twilio"}.get(channel, channel) == found.message.type
    assert found.time == 1613063089
    assert found.collection in ALL


def test_every_collection_has_a_report() -> None:
    reported = {({"sms": "twilio"}.get(channel, channel), metric) for channel, metric in CASES}
    assert {(one.channel, one.metric) for one in ALL} == reported


IDS = (
    "campaign_id action_id journey_id parent_action_id trigger_event_id broadcast_id trigger_id newsletter_id "
    "content_id transactional_message_id customer_id"
).split()


def test_each_id_is_under_its_own_name() -> None:
    given = {name: f"value of {name}" for name in IDS}
    found = properties(report("bounced", **given, failure_message="550", subject="S", recipient="r@x.y"))
    assert found == given | {
        "cio_id": "d9c106000001",
        "delivery_id": "RPILAgUBcRhIBqSfeiIwdIYJKxTY",
        "email_id": "RPILAgUBcRhIBqSfeiIwdIYJKxTY",
        "recipient": "r@x.y",
        "subject": "S",
        "email_subject": "S",
        "failure_message": "550",
    }


def test_details_become_properties() -> None:
    opened = properties(report("opened", proxied=True, prefetched=True, synthetic=True))
    assert {name: opened[name] for name in ("proxied", "prefetched", "synthetic")} == dict.fromkeys(
        ("proxied", "prefetched", "synthetic"), True
    )
    assert not {"proxied", "prefetched", "synthetic"} & set(
        properties(report("opened", proxied=False, prefetched=False, synthetic=False))
    )
    clicked = properties(report("clicked", href="https://a.b/c", link_id=0, machine=True))
    assert (clicked["href"], clicked["link_url"], clicked["link_id"]) == ("https://a.b/c", "https://a.b/c", 0)
    assert clicked["machine"] is True
    assert properties(report("clicked", "in_app", tracked_response="yes"))["tracked_response"] == "yes"


GOOD = {"device_id": "token-1", "device_platform": "ios"}
FAILED = {"device_id": "token-2", "device_platform": "android", "failure_message": "550 5.1.1 no such device"}


def push(metric: str, *devices: dict[str, Any], **data: Any) -> dict[str, Any]:
    return report(metric, "push", recipient=None, subject=None, recipients=list(devices), **data)


def test_a_push_has_its_devices() -> None:
    found = properties(push("sent", GOOD | {"failure_message": ""}, FAILED))
    assert (found["recipient"], found["recipients"]) == ("token-1,token-2", [GOOD, FAILED])
    assert "recipients" not in properties(push("sent"))


def test_a_push_failed_if_it_failed_for_all_its_devices() -> None:
    assert "failure_message" not in properties(push("sent", GOOD, FAILED))
    assert "failure_message" not in properties(push("bounced", FAILED, GOOD | {"failure_message": None}))
    both = properties(push("bounced", FAILED, GOOD | {"failure_message": "gone"}))
    assert both["failure_message"] == FAILED["failure_message"]
    assert properties(push("failed", failure_message="bad template"))["failure_message"] == "bad template"


def test_devices_are_personal_data() -> None:
    hashed = properties(push("sent", GOOD, FAILED), mapper=Mapper("ns", pii="hash"))
    first, second = (sha(one["device_id"]) for one in (GOOD, FAILED))
    assert hashed["recipient"] == f"{first},{second}"
    assert hashed["recipients"] == [
        {"device_id": first, "device_platform": "ios"},
        {"device_id": second, "device_platform": "android", "failure_message": "550 5.1.1"},
    ]
    dropped = properties(push("sent", GOOD, FAILED), mapper=Mapper("ns", pii="drop"))
    assert "recipient" not in dropped
    assert dropped["recipients"] == [
        {"device_platform": "ios"},
        {"device_platform": "android", "failure_message": "550 5.1.1"},
    ]


def test_each_answer_is_an_event_of_its_own() -> None:
    def answer(inbound: Any) -> dict[str, Any]:
        return report("replied", "sms", inbound_event_id=inbound, to="+49301234567", recipient="+4915112345678")

    found = properties(answer("01A"))
    assert (found["inbound_event_id"], found["to"]) == ("01A", "+49301234567")
    ids = {message_id(answer(inbound), Wanted(ALL)) for inbound in ("01A", "01B", 7, None)}
    assert len(ids) == 4
    assert message_id(answer("01A"), Wanted(ALL)) in ids


def test_the_cio_id_is_dropped_with_drop() -> None:
    for pii, expected in (("keep", "d9c106000001"), ("hash", "d9c106000001"), ("drop", None)):
        assert properties(report(), mapper=Mapper("ns", pii=pii)).get("cio_id") == expected


# People


def of_person(metric: str = "subscribed", object_type: str = "customer", **data: Any) -> dict[str, Any]:
    known = {
        "identifiers": {"id": "42", "email": ADDRESS, "cio_id": "d9"},
        "customer_id": "42",
        "email_address": ADDRESS,
    }
    one = {"event_id": "01E", "object_type": object_type, "metric": metric, "timestamp": 1613063089}
    return one | {"data": {name: value for name, value in (known | data).items() if value is not None}}


PREFERENCES = "cio_subscription_preferences_changed"


@pytest.mark.parametrize(
    ("one", "name"),
    [
        (of_person("subscribed"), "Subscribed"),
        (of_person("subscribed", "email"), "Subscribed"),
        (of_person("subscribed", "email", email_address=None), "Subscribed"),
        (of_person("unsubscribed"), "Unsubscribed"),
        (of_person("unsubscribed", email_address=None), "Unsubscribed"),
        (of_person("unsubscribed", delivery_id="d"), "Unsubscribed"),
        (of_person("unsubscribed", "email"), "Unsubscribed"),
        (of_person("unsubscribed", "email", email_address=None), "Unsubscribed"),
        (of_person("unsubscribed", "sms", delivery_id="d"), "Unsubscribed"),
        (of_person("unsubscribed", "email", delivery_id="d"), "Email Unsubscribed"),
        (of_person(PREFERENCES, "email", delivery_id="d"), "Subscription Preferences Changed"),
        (of_person("subscription_preferences_changed"), "Subscription Preferences Changed"),
        (of_person(PREFERENCES, ""), "Subscription Preferences Changed"),
    ],
)
def test_metric_and_object_type_say_whether_it_is_of_a_person(one: dict[str, Any], name: str) -> None:
    assert occurrence(one, Wanted(EVERYTHING)).collection.name == name
    of_people = name != "Email Unsubscribed"
    only_messages = Wanted(ALL).occurrence(read(one), set())
    assert (only_messages == Ignored("not_asked_for")) is of_people


def test_an_address_makes_no_report_one_of_a_person() -> None:
    for one in (report("opened", email_address=ADDRESS), report("unsubscribed", email_address=ADDRESS)):
        assert occurrence(one).collection.channel == "email"
    found = Wanted(ALL).occurrence(read(report("opened", email_address=ADDRESS, delivery_id=None)), set())
    assert isinstance(found, Malformed)


def test_the_whole_event_of_a_person() -> None:
    one = of_person(
        PREFERENCES, "email", delivery_id="d1", campaign_id=4, journey_id="01J", content='{"topics":{"topic_1":true}}'
    )
    event = Mapper("ns").event(occurrence(one, Wanted(EVERYTHING)))
    encoded = encode(event)
    assert rule_broken(event, encoded) is None
    sent = json.loads(encoded)
    assert (sent["event"], sent["userId"]) == ("Subscription Preferences Changed", "42")
    assert sent["context"]["traits"] == {"email": ADDRESS}
    assert sent["properties"] == {
        "delivery_id": "d1",
        "campaign_id": 4,
        "journey_id": "01J",
        "customer_id": "42",
        "cio_id": "d9",
        "topics": {"topic_1": True},
    }


@pytest.mark.parametrize(
    ("data", "ids"),
    [
        ({}, ("42", None)),
        ({"identifiers": {"email": "other@example.com"}, "customer_id": ""}, (None, "other@example.com")),
        ({"identifiers": {"id": None, "email": None}, "customer_id": ""}, (None, ADDRESS)),
        ({"identifiers": None, "customer_id": ""}, (None, ADDRESS)),
        ({"identifiers": None, "customer_id": "", "email_address": None}, (None, None)),
        ({"identifiers": {"email": 7}, "customer_id": [1], "email_address": {}}, (None, None)),
    ],
)
def test_the_person_of_a_report(data: dict[str, Any], ids: tuple[str | None, str | None]) -> None:
    event = Mapper("ns").event(occurrence(of_person(**data), Wanted(EVERYTHING)))
    assert (event.user_id, event.anonymous_id) == ids


def test_reports_of_people_are_told_apart_by_event_id() -> None:
    wanted = Wanted(EVERYTHING)
    ids = {
        message_id(of_person(metric) | {"event_id": one}, wanted)
        for metric in ("subscribed", "unsubscribed")
        for one in ("A", "B", 7)
    }
    assert len(ids) == 6
    for missing in (None, "", [1]):
        found = wanted.occurrence(read(of_person() | {"event_id": missing}), set())
        assert isinstance(found, Malformed)
        assert "event_id" in found.problem


@pytest.mark.parametrize("content", ["not JSON", '{"topics": 7}', '{"topics": {"topic_1": "yes"}}', "[]"])
def test_topics_of_another_kind_are_left_out(content: str) -> None:
    left_out: set[str] = set()
    found = Wanted(EVERYTHING).occurrence(read(of_person(PREFERENCES, content=content)), left_out)
    assert isinstance(found, Occurrence)
    assert left_out == {"topics"}


def test_only_wanted_collections() -> None:
    wanted = Wanted(resolve_collections(["Email Opened"]))
    assert isinstance(wanted.occurrence(read(report("opened")), set()), Occurrence)
    assert wanted.occurrence(read(report("clicked")), set()) == Ignored("not_asked_for")
    assert wanted.occurrence(read(report("opened", "push")), set()) == Ignored("not_asked_for")
    assert wanted.occurrence(read(of_person()), set()) == Ignored("not_asked_for")


@pytest.mark.parametrize(
    ("one", "named"),
    [
        (report("teleported"), "email teleported"),
        (report("opened", "live_notification"), "live_notification opened"),
        (of_person("moved"), "customer moved"),
        (report(ADDRESS), ""),
        (report("x" * 50), ""),
        (report("tele\nported"), ""),
    ],
)
def test_what_no_collection_has_is_named(one: dict[str, Any], named: str) -> None:
    assert Wanted(EVERYTHING).occurrence(read(one), set()) == Ignored("unknown_metric", named)


@pytest.mark.parametrize("timestamp", [0, -1, 12, 1613063089000, 10**18])
def test_impossible_timestamp(timestamp: int) -> None:
    found = Wanted(ALL).occurrence(read(report() | {"timestamp": timestamp}), set())
    assert isinstance(found, Malformed)
    assert "timestamp" in found.problem


def test_report_without_a_delivery() -> None:
    for missing in (None, ""):
        found = Wanted(ALL).occurrence(read(report(delivery_id=missing)), set())
        assert isinstance(found, Malformed)
        assert "delivery_id" in found.problem


SECRET = "do-not-show-me"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b"{",
        b'"text"',
        b"\xff\xfe",
        b"NaN",
        b'{"metric": "opened"}',
        b"[" * 100_000,
        json.dumps(report() | {"timestamp": SECRET}).encode(),
        json.dumps(report() | {"data": [SECRET]}).encode(),
        json.dumps(report() | {"timestamp": 1613063089.5}).encode(),
        json.dumps(report() | {"metric": [SECRET]}).encode(),
    ],
)
def test_malformed_body_is_kept(body: bytes) -> None:
    found = read_report(body, set())
    assert isinstance(found, Malformed)
    assert found.raw == body
    assert found.problem
    assert SECRET not in found.problem


def test_report_without_a_type() -> None:
    one = report()
    del one["object_type"]
    found = Wanted(ALL).occurrence(read(one), set())
    assert isinstance(found, Malformed)
    assert "object_type" in found.problem


def test_half_an_emoji_is_mended() -> None:
    assert read(json.dumps(report(subject="cut \ud83d")).encode()).data.subject == "cut ?"


@pytest.mark.parametrize(
    ("odd", "left_out"),
    [
        ({"subject": 7}, {"subject"}),
        ({"recipient": ["a", "b"]}, {"recipient"}),
        ({"recipients": ["token"]}, {"recipients"}),
        ({"recipients": "token"}, {"recipients"}),
        ({"recipients": [{"device_id": 7}]}, {"device_id"}),
        ({"failure_message": {"code": 550}}, {"failure_message"}),
        ({"trigger_event_id": {"id": 1}}, {"trigger_event_id"}),
        ({"campaign_id": [9], "action_id": 9.5}, {"campaign_id", "action_id"}),
        ({"identifiers": {"id": "42", "email": 7}}, {"email"}),
        ({"identifiers": "42"}, {"identifiers"}),
        ({"customer_id": True}, {"customer_id"}),
        ({"href": 7.5, "link_id": [1]}, {"href", "link_id"}),
        (
            {"machine": "yes", "prefetched": 1, "synthetic": [], "proxied": {}},
            {"machine", "prefetched", "synthetic", "proxied"},
        ),
        ({"tracked_response": {"a": 1}, "content": 9}, {"tracked_response", "content"}),
        ({"subject": 7, "href": "\ud83d"}, {"subject"}),
    ],
)
def test_wrong_detail_is_left_out(odd: dict[str, Any], left_out: set[str]) -> None:
    found: set[str] = set()
    body = json.dumps(report("clicked", **odd)).encode()
    one = read_report(body, found)
    assert isinstance(one, Report)
    assert isinstance(Wanted(ALL, message_content=True).occurrence(one, found), Occurrence)
    assert found == left_out
    told = properties(body, Wanted(ALL, message_content=True))
    assert not left_out & told.keys()
    plain = properties(report("clicked"))
    assert {name: told.get(name) for name in plain.keys() - odd.keys()} == {
        name: value for name, value in plain.items() if name not in odd
    } | ({"email_subject": None} if "subject" in odd else {}) | ({"cio_id": None} if "identifiers" in odd else {})


def test_what_is_missing_is_called_missing() -> None:
    found = read_report(b'{"metric": "opened", "event_id": [1]}', set())
    assert isinstance(found, Malformed)
    assert found.problem == "Object missing required field `timestamp`"


@pytest.mark.parametrize("timestamp", [1613063089.0, "1613063089"])
def test_a_time_that_is_a_whole_float_or_digits(timestamp: Any) -> None:
    assert occurrence(report() | {"timestamp": timestamp}).time == 1613063089


def test_whole_floats_are_numbers() -> None:
    left_out: set[str] = set()
    one = read_report(json.dumps(report(campaign_id=9.0, link_id=3.0)).encode(), left_out)
    found = properties(json.dumps(report("clicked", campaign_id=9.0, link_id=3.0)).encode())
    assert isinstance(one, Report)
    assert left_out == set()
    assert (found["campaign_id"], found["link_id"]) == (9, 3)


def test_a_byte_order_mark_is_no_part_of_the_report() -> None:
    assert read(b"\xef\xbb\xbf" + json.dumps(report()).encode()) == read(report())


def test_content_is_optional() -> None:
    asked, by_default = Wanted(ALL, message_content=True), Wanted(ALL)
    assert properties(report("sent", content="<p>Hi</p>"), asked)["content"] == "<p>Hi</p>"
    assert "content" not in properties(report("sent", content="<p>Hi</p>"), by_default)
    assert "content" not in properties(report("delivered", content="<p>Hi</p>"), asked)
    hashing = Mapper("ns", pii="drop")
    assert properties(report("sent", content=f"Dear {ADDRESS}"), asked, hashing)["content"] == "Dear "


def message_id(one: Any, wanted: Wanted) -> str:
    return Mapper("ns").event(occurrence(one, wanted)).message_id


def test_event_ids_at_full_resolution() -> None:
    first_only, full = Wanted(ALL), Wanted(ALL, full_resolution=True)
    for metric in ("opened", "clicked"):
        one, other = report(metric, event_id="01A"), report(metric, event_id="01B")
        assert message_id(one, first_only) == message_id(other, first_only)
        assert len({message_id(one, full), message_id(other, full), message_id(one, first_only)}) == 3
        assert message_id(one, full) == message_id(one, full)
    one, other = report("delivered", event_id="01A"), report("delivered", event_id="01B")
    assert message_id(one, full) == message_id(other, full) == message_id(one, first_only)


# The same event by both roads

ID = st.one_of(st.none(), st.just(""), st.integers(0, 10**6), st.text(min_size=1, max_size=8))
#: Where one road has null, the other may have "", as reports have for what they must have.
NOTHING = st.sampled_from([None, ""])
PERSON = st.one_of(
    st.none(),
    st.builds(
        Identifiers,
        id=st.one_of(st.none(), st.just(""), st.just("42"), st.integers(1, 99)),
        email=st.one_of(st.none(), st.just(""), st.just(ADDRESS)),
        cio_id=st.one_of(st.none(), st.just("d9c1")),
    ),
)
PULLED = st.builds(
    Delivery,
    id=st.text(min_size=1, max_size=12),
    type=st.sampled_from(sorted({one.channel for one in ALL})),
    created=st.just(1_613_000_000),
    metrics=st.just({}),
    customer_identifiers=PERSON,
    customer_id=st.one_of(NOTHING, st.just("d9c1"), st.just("0200000001")),
    recipient=st.one_of(NOTHING, st.just(ADDRESS), st.just("+4915112345678"), st.just(f"{ADDRESS},b@x.y")),
    subject=st.one_of(NOTHING, st.text(min_size=1, max_size=9)),
    failure_message=st.one_of(NOTHING, st.just("550 5.1.1 who?")),
    **dict.fromkeys(
        "campaign_id action_id parent_action_id newsletter_id content_id broadcast_id transactional_message_id".split(),
        ID,
    ),
)


_NOT_REPORTED = ("id", "type", "created", "metrics", "customer_identifiers")


@given(PULLED, st.data(), st.sampled_from(["keep", "hash", "drop"]), st.booleans())
def test_the_same_event_by_both_roads(delivery: Delivery, data: st.DataObject, pii: str, cio_id: bool) -> None:
    """A delivery read from Customer.io and a report of it make the same event; the report may have more fields."""
    collection = data.draw(st.sampled_from([one for one in ALL if one.channel == delivery.type]))
    mapper = Mapper("ns", pii=pii, cio_id_as_last_resort=cio_id)
    pulled = mapper.event(Occurrence(delivery, collection, 1_613_063_089))
    fields = {name: getattr(delivery, name) for name in delivery.__struct_fields__}
    known = delivery.customer_identifiers
    told = {
        name: value if value or value == 0 else data.draw(NOTHING)
        for name, value in fields.items()
        if name not in _NOT_REPORTED
    }
    told |= {"delivery_id": delivery.id, "journey_id": "j", "href": "https://a.b", "prefetched": True}
    told["identifiers"] = known and {name: getattr(known, name) for name in known.__struct_fields__}
    if delivery.type == "push":
        told["recipients"] = [{"device_id": one} for one in (told.pop("recipient") or "").split(",")]
    pushed = mapper.event(
        occurrence(
            {
                "event_id": "01E",
                "object_type": collection.report_name.removesuffix(f"_{collection.metric}"),
                "metric": collection.metric,
                "timestamp": 1_613_063_089,
                "data": told,
            }
        )
    )
    for name in ("event", "message_id", "timestamp", "user_id", "anonymous_id", "context", "integrations"):
        assert getattr(pushed, name) == getattr(pulled, name), name
    more, fewer = json.loads(encode(pushed))["properties"], json.loads(encode(pulled))["properties"]
    assert more.items() >= fewer.items()
    assert set(more) - set(fewer) - {"recipients"} == {"journey_id", "href", "link_url", "prefetched"}
    assert ("recipients" in more) == (delivery.type == "push" and bool(delivery.recipient))


def test_pushed_and_pulled_open_match() -> None:
    one = report("opened", prefetched=True)
    pushed = Mapper("ns").event(occurrence(one))
    message, engagement = occurrence(one).message, engagement_in({"prefetched": True})
    pulled = Mapper("ns").event(Occurrence(message, CATALOG["Email Opened"], 1613063089, engagement))
    assert encode(pushed) == encode(pulled)


@pytest.mark.parametrize("metric", ["attempted", "deferred"])
def test_person_without_a_recipient(metric: str) -> None:
    """These reports have no recipient. People known by it alone are unidentified here, and never somebody else."""
    collection = CATALOG[f"Email {metric.capitalize()}"]

    def both(**person: Any) -> tuple[Event, Event]:
        one = report(metric, recipient=None, subject=None, customer_id=None, identifiers=person)
        row = Message(one["data"]["delivery_id"], "email", Identifiers(**person), recipient="other@example.com")
        mapper = Mapper("ns")
        return mapper.event(occurrence(one)), mapper.event(Occurrence(row, collection, one["timestamp"]))

    for person in ({"id": "42", "email": ADDRESS}, {"email": ADDRESS}, {"id": "42"}):
        pushed, pulled = both(**person)
        assert pushed.message_id == pulled.message_id
        assert (pushed.user_id, pushed.anonymous_id) == (pulled.user_id, pulled.anonymous_id) != (None, None)
    pushed, pulled = both(cio_id="d9")
    assert (pushed.user_id, pushed.anonymous_id) == (None, None)
    assert pulled.anonymous_id == "other@example.com"

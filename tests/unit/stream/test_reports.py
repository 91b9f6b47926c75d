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
from airflow_provider_cio.stream.reports import Ignored, Report, Wanted, read_report
from tests.unit.stream.support import ADDRESS, report

ALL = tuple(CATALOG.values())
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
def test_every_documented_report_is_its_collections_event(channel: str, metric: str) -> None:
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
        "delivery_id": "RPILAgUBcRhIBqSfeiIwdIYJKxTY",
        "email_id": "RPILAgUBcRhIBqSfeiIwdIYJKxTY",
        "recipient": "r@x.y",
        "subject": "S",
        "email_subject": "S",
        "failure_message": "550",
    }


def test_what_only_reports_tell_becomes_properties() -> None:
    opened = properties(report("opened", proxied=True, prefetched=True, synthetic=True))
    assert {name: opened[name] for name in ("proxied", "prefetched", "synthetic")} == dict.fromkeys(
        ("proxied", "prefetched", "synthetic"), True
    )
    assert not {"proxied", "prefetched", "synthetic"} & set(
        properties(report("opened", proxied=False, prefetched=False, synthetic=False))
    )
    clicked = properties(report("clicked", href="https://a.b/c", link_id=0, machine=True))
    assert (clicked["href"], clicked["link_url"], clicked["link_id"]) == ("https://a.b/c", "https://a.b/c", "0")
    assert clicked["machine"] is True
    assert properties(report("clicked", "in_app", tracked_response="yes"))["tracked_response"] == "yes"


def test_the_devices_of_a_push_are_its_recipient_and_tell_of_its_failure() -> None:
    devices = [{"device_id": "t1", "failure_message": None}, {"device_id": "t2", "failure_message": "gone"}, {}]
    found = properties(report("bounced", "push", recipient=None, subject=None, recipients=devices))
    assert (found["recipient"], found["failure_message"]) == ("t1,t2", "gone")


@pytest.mark.parametrize(
    "one",
    [
        {"object_type": "customer", "metric": "subscribed", "data": {"email_address": ADDRESS}},
        {"object_type": "customer", "metric": "unsubscribed", "data": {"email_address": ADDRESS}},
        {"object_type": "email", "metric": "unsubscribed", "data": {"email_address": ADDRESS, "customer_id": "4"}},
        {"object_type": "email", "metric": "subscribed", "data": {"email_address": ADDRESS}},
        {
            "object_type_type": "email",
            "metric": "cio_subscription_preferences_changed",
            "data": {"delivery_id": "d", "campaign_id": 4, "content": '{"topics":{"topic_1":true}}'},
        },
    ],
)
def test_customer_events_are_told_apart_by_shape(one: dict[str, Any]) -> None:
    assert Wanted(ALL).occurrence(read({"event_id": "01E", "timestamp": 1613063089} | one)) == Ignored("customer_event")


def test_an_email_that_somebody_unsubscribed_from_is_no_customer_event() -> None:
    assert occurrence(report("unsubscribed", email_address=ADDRESS)).collection.name == "Email Unsubscribed"


def test_only_what_is_asked_for_is_taken() -> None:
    wanted = Wanted(resolve_collections(["Email Opened"]))
    assert isinstance(wanted.occurrence(read(report("opened")), set()), Occurrence)
    assert wanted.occurrence(read(report("clicked")), set()) == Ignored("not_asked_for")
    assert wanted.occurrence(read(report("opened", "push")), set()) == Ignored("not_asked_for")
    assert wanted.occurrence(read(report("teleported")), set()) == Ignored("unknown_metric")
    assert wanted.occurrence(read(report("opened", "live_notification")), set()) == Ignored("unknown_metric")


@pytest.mark.parametrize("timestamp", [0, -1, 12, 1613063089000, 10**18])
def test_a_time_that_can_be_none(timestamp: int) -> None:
    found = Wanted(ALL).occurrence(read(report() | {"timestamp": timestamp}), set())
    assert isinstance(found, Malformed)
    assert "timestamp" in found.problem


def test_a_report_without_a_delivery_is_malformed() -> None:
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
        json.dumps(report(recipient=[SECRET])).encode(),
        json.dumps(report(campaign_id={SECRET: SECRET})).encode(),
        json.dumps(report(identifiers=SECRET)).encode(),
    ],
)
def test_a_body_of_another_shape_is_kept_as_it_came(body: bytes) -> None:
    found = read_report(body, set())
    assert isinstance(found, Malformed)
    assert found.raw == body
    assert found.problem
    assert SECRET not in found.problem


def test_a_report_without_a_type_is_malformed() -> None:
    one = report()
    del one["object_type"]
    found = Wanted(ALL).occurrence(read(one), set())
    assert isinstance(found, Malformed)
    assert "object_type" in found.problem


def test_half_an_emoji_is_mended() -> None:
    assert read(json.dumps(report(subject="cut \ud83d")).encode()).data.subject == "cut ?"


def test_what_only_describes_spoils_no_report() -> None:
    odd: dict[str, Any] = {
        "href": 7.5,
        "link_id": [1],
        "machine": "yes",
        "synthetic": 1,
        "tracked_response": {"a": 1},
        "content": 9,
    }
    found = properties(report("clicked", **odd), Wanted(ALL, message_content=True))
    assert not set(odd) & set(found)


def test_content_is_a_property_of_sent_events_that_ask_for_it() -> None:
    asked, by_default = Wanted(ALL, message_content=True), Wanted(ALL)
    assert properties(report("sent", content="<p>Hi</p>"), asked)["content"] == "<p>Hi</p>"
    assert "content" not in properties(report("sent", content="<p>Hi</p>"), by_default)
    assert "content" not in properties(report("delivered", content="<p>Hi</p>"), asked)
    hashing = Mapper("ns", pii="drop")
    assert properties(report("sent", content=f"Dear {ADDRESS}"), asked, hashing)["content"] == "Dear "


def message_id(one: Any, wanted: Wanted) -> str:
    return Mapper("ns").event(occurrence(one, wanted)).message_id


def test_with_full_resolution_opens_and_clicks_are_told_apart_by_event_id() -> None:
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
    """What Customer.io shows of a delivery, and what it reports of it, are one event; the report may tell more."""
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
    assert set(more) - set(fewer) == {"journey_id", "href", "link_url", "prefetched"}


def test_an_open_read_from_activities_and_one_that_is_reported_are_one_event() -> None:
    one = report("opened", prefetched=True)
    pushed = Mapper("ns").event(occurrence(one))
    message, engagement = occurrence(one).message, engagement_in({"prefetched": True})
    pulled = Mapper("ns").event(Occurrence(message, CATALOG["Email Opened"], 1613063089, engagement))
    assert encode(pushed) == encode(pulled)


@pytest.mark.parametrize("metric", ["attempted", "deferred"])
def test_without_a_recipient_a_person_is_known_by_the_identifiers(metric: str) -> None:
    """These reports do not tell it. Whom the App API knows by it alone is unidentified here, and never another."""
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

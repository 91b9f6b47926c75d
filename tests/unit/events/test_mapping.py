from __future__ import annotations

import json
import string
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cio import __version__
from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.events.event import encode, rule_broken
from airflow_provider_cio.events.mapping import Mapper, email_of
from airflow_provider_cio.events.occurrence import Occurrence, engagement_in

CLICKED = CATALOG["Email Link Clicked"]
ADDRESS = st.from_regex(r"[a-z0-9.+-]{1,12}@[a-z0-9-]{1,12}\.(com|example)", fullmatch=True)
ID = st.one_of(st.none(), st.just(""), st.text(min_size=1, max_size=12), st.integers(0, 10**9))


def delivery(**fields: Any) -> Delivery:
    return msgspec.convert({"id": "RPIL=", "type": "email", "created": 1613063000, "metrics": {}} | fields, Delivery)


def identity(one: Delivery) -> tuple[str | None, str | None]:
    event = Mapper("ns").event(Occurrence(one, CLICKED, 1613063089))
    return event.user_id, event.anonymous_id


def as_sent(one: Delivery, mapper: Mapper | None = None, time: int = 1613063089) -> dict[str, Any]:
    event = (mapper or Mapper("ns")).event(Occurrence(one, CLICKED, time))
    encoded = encode(event)
    assert rule_broken(event, encoded) is None
    found: dict[str, Any] = json.loads(encoded)
    return found


def test_the_whole_event() -> None:
    one = delivery(
        customer_identifiers={"id": "42", "email": "test@example.com", "cio_id": "d9c1"},
        customer_id="0200000001",
        recipient="test@example.com",
        subject="Grüße 😀",
        campaign_id=9,
        action_id="42",
        parent_action_id=1,
        newsletter_id=None,
        trigger_event_id="01E4",
        failure_message=None,
    )
    sender = {"name": "airflow-provider-cio", "version": __version__}
    assert as_sent(one) == {
        "type": "track",
        "event": "Email Link Clicked",
        "messageId": Mapper("ns").message_id("RPIL=", "clicked"),
        "timestamp": "2021-02-11T17:04:49Z",
        "userId": "42",
        "properties": {
            "delivery_id": "RPIL=",
            "recipient": "test@example.com",
            "subject": "Grüße 😀",
            "campaign_id": 9,
            "action_id": 42,
            "parent_action_id": 1,
            "trigger_event_id": "01E4",
            "customer_id": "0200000001",
            "cio_id": "d9c1",
            "email_id": "RPIL=",
            "email_subject": "Grüße 😀",
        },
        "context": {"integration": sender, "library": sender, "traits": {"email": "test@example.com"}},
        "integrations": {
            "Customer.io": False,
            "Actions Customerio": False,
            "Customer.io Actions": False,
            "Customer.io (Actions)": False,
        },
    }


def test_loop_guard_can_be_off() -> None:
    one = delivery(customer_id="42")
    assert "integrations" not in as_sent(one, Mapper("ns", send_to_customerio_destinations=True))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"customer_identifiers": {"id": "42", "email": "a@b.c"}, "customer_id": "7"}, ("42", None)),
        ({"customer_identifiers": {"id": 42}}, ("42", None)),
        ({"customer_identifiers": {"id": "", "email": "a@b.c"}, "customer_id": "7"}, ("7", None)),
        (
            {"customer_identifiers": {"id": None, "email": "a@b.c", "cio_id": "d9"}, "customer_id": "d9"},
            (None, "a@b.c"),
        ),
        ({"customer_identifiers": {"email": "a@b.c", "cio_id": "d9"}, "customer_id": "cio_d9"}, (None, "a@b.c")),
        ({"customer_identifiers": {"email": "a@b.c", "cio_id": "cio_d9"}, "customer_id": "cio_d9"}, (None, "a@b.c")),
        ({"customer_identifiers": {"email": "a@b.c", "cio_id": "cio_d9"}, "customer_id": "d9"}, (None, "a@b.c")),
        ({"customer_identifiers": {"email": "a@b.c", "cio_id": 77}, "customer_id": 77}, (None, "a@b.c")),
        ({"customer_identifiers": {"email": "a@b.c", "cio_id": "d9"}, "customer_id": "cio_d8"}, ("cio_d8", None)),
        ({"customer_identifiers": {"email": "a@b.c", "cio_id": None}, "customer_id": "cio_"}, ("cio_", None)),
        ({"customer_identifiers": {"id": "d9", "email": "a@b.c", "cio_id": "d9"}, "customer_id": "d9"}, ("d9", None)),
        ({"type": "push", "recipient": "x@y.z"}, (None, None)),
        ({"type": "in_app", "customer_identifiers": {"email": "a@b.c"}, "recipient": "x@y.z"}, (None, "a@b.c")),
        ({"customer_identifiers": {"email": "", "cio_id": "d9"}, "recipient": "x@y.z"}, (None, "x@y.z")),
        ({"customer_identifiers": None, "customer_id": 7}, ("7", None)),
        ({"customer_identifiers": None, "customer_id": None, "recipient": " x@y.z "}, (None, "x@y.z")),
        ({"recipient": "x@y.z,u@v.w"}, (None, None)),
        ({"recipient": "x@y.z u@v.w"}, (None, None)),
        ({"recipient": "{{customer.email}}@y.z"}, (None, None)),
        ({"recipient": "+4915112345678"}, (None, None)),
        ({"recipient": ""}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_identity(fields: dict[str, Any], expected: tuple[str | None, str | None]) -> None:
    assert identity(delivery(**fields)) == expected


def test_unidentified_event_breaks_rule() -> None:
    event = Mapper("ns").event(Occurrence(delivery(), CLICKED, 1613063089))
    assert rule_broken(event, encode(event)) == "unidentified"


def test_traits_prefer_persons_address() -> None:
    one = delivery(customer_identifiers={"id": "1", "email": "person@x.y"}, recipient="elsewhere@x.y")
    assert as_sent(one)["context"]["traits"] == {"email": "person@x.y"}
    assert email_of(delivery(recipient="a@b.c")) == "a@b.c"
    assert "traits" not in as_sent(delivery(customer_id="1", recipient="a@b.c,d@e.f"))["context"]


@given(
    known=st.one_of(
        st.none(), st.fixed_dictionaries({"id": ID, "email": st.one_of(ADDRESS, st.just(""), st.none()), "cio_id": ID})
    ),
    customer_id=ID,
    recipient=st.one_of(st.none(), ADDRESS, st.lists(ADDRESS, min_size=2).map(",".join), st.text(max_size=20)),
    subject=st.one_of(st.none(), st.text()),
    parent=ID,
)
def test_whatever_comes_an_event_has_one_identity_and_no_empty_ids(
    known: Any, customer_id: Any, recipient: Any, subject: Any, parent: Any
) -> None:
    one = delivery(
        customer_identifiers=known,
        customer_id=customer_id,
        recipient=recipient,
        subject=subject,
        campaign_id=parent,
        newsletter_id=parent,
    )
    user_id, anonymous_id = identity(one)
    assert user_id is None or anonymous_id is None
    assert "" not in (user_id, anonymous_id)
    if user_id or anonymous_id:
        sent = as_sent(one)
        assert sent.get("userId") == user_id
        assert sent.get("anonymousId") == anonymous_id
        assert all(value == 0 or value for value in sent["properties"].values())
        assert ("campaign_id" in sent["properties"]) == (parent not in (None, ""))
        ids = (sent["properties"].get(name) for name in ("customer_id", "cio_id", "delivery_id"))
        assert all(one is None or isinstance(one, str) for one in ids)


PARENTS = (
    "campaign_id action_id parent_action_id newsletter_id content_id broadcast_id trigger_id transactional_message_id"
).split()


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (9, 9),
        (0, 0),
        ("9", 9),
        ("0", 0),
        ("123456789012345678", 123456789012345678),
        ("1234567890123456789", "1234567890123456789"),
        ("nine", "nine"),
        ("9.5", "9.5"),
        ("-9", "-9"),
        ("\u0669", "\u0669"),
        ("\u00b2", "\u00b2"),
    ],
)
def test_ids_of_parents_are_numbers_where_they_can_be(given: Any, sent: Any) -> None:
    one = delivery(**dict.fromkeys(PARENTS, given), customer_id="7")
    properties = as_sent(one)["properties"]
    assert {name: properties[name] for name in PARENTS} == dict.fromkeys(PARENTS, sent)
    assert engagement_in({"link_id": given}).link_id == sent


def test_all_other_ids_are_text() -> None:
    names = ("journey_id", "trigger_event_id", "customer_id")
    assert {as_sent(delivery(**dict.fromkeys(names, 7)))["properties"][name] for name in names} == {"7"}
    numbers = delivery(customer_identifiers={"id": 5, "cio_id": 7})
    assert as_sent(numbers)["properties"] == {"delivery_id": "RPIL=", "email_id": "RPIL=", "cio_id": "7"}


@given(st.text(), st.text(min_size=1), st.sampled_from(sorted(c.metric for c in CATALOG.values())))
def test_message_id_is_stable_and_short(namespace: str, delivery_id: str, metric: str) -> None:
    first, again = (Mapper(namespace).message_id(delivery_id, metric) for _ in range(2))
    assert first == again
    assert first.startswith("cio-")
    assert len(first) == 36
    assert set(first[4:]) <= set(string.hexdigits.lower())


def test_message_ids_are_distinct() -> None:
    metrics = {collection.metric for collection in CATALOG.values()}
    ids = {
        Mapper(namespace).message_id(one, metric)
        for namespace in ("", "a", "b")
        for one in ("x", "y", "x=", "opened")
        for metric in metrics
    }
    assert len(ids) == 3 * 4 * len(metrics)


def test_each_id_is_under_its_own_name() -> None:
    names = (
        "campaign_id action_id journey_id parent_action_id newsletter_id content_id broadcast_id trigger_id "
        "transactional_message_id trigger_event_id customer_id"
    ).split()
    given = {name: f"value of {name}" for name in names}
    sent = as_sent(delivery(**given, recipient="r@x.y", subject="s", failure_message="f"))["properties"]
    assert {name: sent[name] for name in names} == given
    assert (sent["recipient"], sent["subject"], sent["failure_message"]) == ("r@x.y", "s", "f")


def test_message_id_rule_is_fixed() -> None:
    """The literal is a promise: another rule would send everything again that is within Segment's memory."""
    assert Mapper("source-a").message_id("RPILAgUBcRhIBqSfeiIwdIYJKxTY", "opened") == (
        "cio-47a280e4e61b45e134cb074c0b5584a5"
    )

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.clients.customerio import CustomerIOClient, Page
from airflow_provider_cio.clients.transport import Retries
from airflow_provider_cio.exceptions import (
    ConfigurationError,
    CustomerIOToSegmentError,
    TryAgainLaterError,
    UnexpectedDataError,
)
from airflow_provider_cio.records import Delivery
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.sandbox.settings import APP_KEY
from tests.unit.clients import Loopback, Say

NAME = "Customer.io (connection 'its_id')"
QUICK = Retries(attempts=3, total=10, first=0.01, longest=0.02)
ONCE = Retries(attempts=1, total=2)
EMAILS: dict[str, str | int] = {"type": "email", "limit": 1000}


def row(**fields: Any) -> dict[str, Any]:
    return {"id": "RPIL=", "type": "email", "created": 1_700_000_000, "metrics": {"sent": 1_700_000_001}} | fields


def client_of(url: str, key: str = APP_KEY, retries: Retries = QUICK, **options: Any) -> CustomerIOClient:
    return CustomerIOClient(key, base_url=url, requests_per_second=100_000, name=NAME, retries=retries, **options)


def page(url: str, query: dict[str, str | int] | None = None, **options: Any) -> Page[Delivery]:
    with client_of(url, **options) as client:
        return client.page({**EMAILS, **(query or {})})


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with Loopback() as running:
        yield running


@pytest.fixture(scope="module")
def running_sandbox() -> Iterator[Sandbox]:
    with Sandbox(History(deliveries=[row(id="a"), row(id="b", created=1_700_000_005)])) as running:
        yield running


@pytest.fixture
def sandbox(running_sandbox: Sandbox) -> Sandbox:
    running_sandbox.reset()
    running_sandbox.settings = Settings(now=1_700_001_000)
    return running_sandbox


def test_a_page(sandbox: Sandbox) -> None:
    first = page(sandbox.url, {"limit": 1})
    assert [one.id for one in first.rows] == ["b"]
    assert first.next
    rest = page(sandbox.url, {"limit": 1, "start": first.next})  # it has `+`, `/` and `=`
    assert [one.id for one in rest.rows] == ["a"]
    assert not rest.next


@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize("last", ["empty", "null", "absent"])
def test_an_empty_page(sandbox: Sandbox, null: bool, last: Any) -> None:
    sandbox.settings = Settings(now=1_700_001_000, null_when_empty=null, last_next=last)
    empty = page(sandbox.url, {"type": "push"})
    assert not empty.rows
    assert not empty.next


def test_what_nobody_documented_is_no_hindrance(server: Loopback) -> None:
    odd = row(customer_id=7, campaign_id="9", metrics={"human_opened": {"count": 1}}, new_field=[{}], subject="😀")
    server.say(Say(body=json.dumps({"messages": [odd], "more": 1})))
    [one] = page(server.url).rows
    assert (one.customer_id, one.campaign_id, one.metrics, one.subject) == (
        7,
        "9",
        {"human_opened": {"count": 1}},
        "😀",
    )


# --- refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "key", "words"),
    [
        ({}, "another-key", ["answered 401: unauthorized", "App API key", "region 'us'", "in 'eu'?"]),
        ({"key_region": "eu"}, APP_KEY, ["answered 401: unauthorized", "region 'us'", "in 'eu'?"]),
        ({"scopes": ("campaigns",)}, APP_KEY, ["answered 403: this key does not have access to messages", "scope"]),
    ],
)
def test_a_key_that_may_not_is_a_matter_of_the_connection(
    sandbox: Sandbox, changed: dict[str, Any], key: str, words: list[str]
) -> None:
    sandbox.settings = Settings(**changed)
    with pytest.raises(ConfigurationError) as caught:
        page(sandbox.url, key=key)
    assert str(caught.value).startswith(f"{NAME} answered")
    for word in words:
        assert word in str(caught.value)
    assert key not in str(caught.value)
    assert len(sandbox.customerio.requests) == 1


def test_the_other_region_is_the_one_that_was_not_asked(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigurationError, match="region 'eu', is the account in 'us'"):
        page(sandbox.url, key="another-key", region="eu")


def test_another_place_is_a_matter_of_the_connection(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigurationError, match=f"404.* Check host: {sandbox.url}/elsewhere has no App API"):
        page(sandbox.url + "/elsewhere")


def test_a_query_that_is_refused_is_told_in_the_services_words(sandbox: Sandbox) -> None:
    with pytest.raises(UnexpectedDataError, match=r"answered 400: malformed cursor \(at /start\)"):
        page(sandbox.url, {"start": "a+/="})


# --- unreadable -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["truncated_json", "truncated", "html200", "html", "reset", "429", "503"])
def test_a_passing_fault_is_retried_and_counted(sandbox: Sandbox, kind: Any) -> None:
    sandbox.faults.add(Fault(side="customerio", kind=kind, times=2))
    with client_of(sandbox.url) as client:
        assert len(client.page(dict(EMAILS)).rows) == 2
        assert client.requests_made == 3


@pytest.mark.parametrize(
    ("kind", "named"),
    [("truncated_json", "bytes of application/json that are not whole JSON"), ("html200", "bytes of text/html")],
)
def test_a_lasting_one_is_named(sandbox: Sandbox, kind: Any, named: str) -> None:
    sandbox.faults.add(Fault(side="customerio", kind=kind, times=99))
    with pytest.raises(TryAgainLaterError, match=f"can't be read: .*{named}.* after 3 attempts"):
        page(sandbox.url)


@given(st.data())
@settings(max_examples=60)
def test_an_answer_cut_anywhere_is_never_taken_for_a_page(server: Loopback, data: st.DataObject) -> None:
    body = json.dumps({"messages": [row(subject="caf\xe9 😀"), row()], "next": "abc"}, ensure_ascii=False).encode()
    server.say(Say(body=body[: data.draw(st.integers(0, len(body) - 1))]))
    with pytest.raises(TryAgainLaterError, match="not whole JSON"):
        page(server.url, retries=ONCE)


@given(st.binary(max_size=60) | st.text().map(str.encode) | st.recursive(st.none(), st.lists).map(json.dumps))
@settings(max_examples=40)
def test_whatever_comes_the_error_is_one_of_ours(server: Loopback, body: bytes) -> None:
    server.say(Say(body=body))
    with pytest.raises(CustomerIOToSegmentError):
        page(server.url, retries=ONCE)


# --- misshapen --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"created": "soon"}, r"Expected `int`, got `str` - at `\$.messages\[1\].created`"),
        ({"created": None}, r"Expected `int`, got `null` - at `\$.messages\[1\].created`"),
        ({"metrics": None}, r"`\$.messages\[1\].metrics`"),
        ({"metrics": [1]}, r"`\$.messages\[1\].metrics`"),
        ({"recipient": {"email": "jane.doe@example.com"}}, r"`\$.messages\[1\].recipient`"),
        ({"customer_identifiers": "jane.doe@example.com"}, r"`\$.messages\[1\].customer_identifiers`"),
        ({"customer_identifiers": {"email": 5}}, r"`\$.messages\[1\].customer_identifiers.email`"),
    ],
)
def test_a_misshapen_delivery_is_named_with_its_field_and_without_values(
    server: Loopback, fields: dict[str, Any], problem: str
) -> None:
    server.say(Say(body=json.dumps({"messages": [row(), row(id="bad1", **fields)]})))
    with pytest.raises(UnexpectedDataError, match=f"delivery 'bad1' .*{problem}") as caught:
        page(server.url)
    assert str(caught.value).startswith(NAME)
    assert "example" not in str(caught.value)
    assert "soon" not in str(caught.value)
    assert len(server.heard) == 1


@pytest.mark.parametrize("missing", ["id", "type", "created", "metrics"])
def test_a_missing_field_is_named(server: Loopback, missing: str) -> None:
    bad = row(id="bad1")
    del bad[missing]
    server.say(Say(body=json.dumps({"messages": [bad]})))
    which = "a delivery" if missing == "id" else "delivery 'bad1'"
    with pytest.raises(UnexpectedDataError, match=f"{which} .*missing required field `{missing}`"):
        page(server.url)


@pytest.mark.parametrize("bad_id", ["", 5, None, ["jane.doe@example.com"], {"email": "jane.doe@example.com"}])
def test_an_id_that_is_none_is_not_shown_whatever_it_holds(server: Loopback, bad_id: Any) -> None:
    server.say(Say(body=json.dumps({"messages": [row(id=bad_id)]})))
    with pytest.raises(UnexpectedDataError, match=r"`\$.messages\[0\].id`") as caught:
        page(server.url)
    assert "jane.doe" not in str(caught.value)


@pytest.mark.parametrize("body", ["{}", "[]", '"page"', "5", "null", '{"messages": {}}', '{"messages": [5]}'])
def test_another_answer_altogether(server: Loopback, body: str) -> None:
    server.say(Say(body=body))
    with pytest.raises(UnexpectedDataError, match="does not have the documented shape"):
        page(server.url)


# --- half of a surrogate pair -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("escaped", "read"),
    [
        (r"cut \ud83d", "cut ?"),
        (r"\ude00 cut", "? cut"),
        (r"\ude00\ud83d", "??"),
        (r"whole \ud83d\ude00", "whole 😀"),
        (r"both \ud83d \ud83d\ude00", "both ? 😀"),
    ],
)
def test_a_subject_cut_within_an_emoji_costs_that_emoji_only(server: Loopback, escaped: str, read: str) -> None:
    others = json.dumps([row(id="é", subject="ü😀", metrics={"opened": 1_700_000_002})], ensure_ascii=False)[1:-1]
    server.say(Say(body=f'{{"messages": [{others}, {json.dumps(row())[:-1]}, "subject": "{escaped}"}}], "next": "n"}}'))
    found = page(server.url)
    assert [one.subject for one in found.rows] == ["ü😀", read]
    assert [one.id for one in found.rows] == ["é", "RPIL="]
    assert found.next == "n"
    assert len(server.heard) == 1


HALF = '{"id": "half", "type": "email", "created": 1, "metrics": {}, "subject": "\\ud83d"}'


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_misshapen_delivery_beside_such_a_subject_is_named(server: Loopback, order: str) -> None:
    bad = json.dumps(row(id="bad1", created="soon"))
    both = f"{HALF}, {bad}" if order == "before" else f"{bad}, {HALF}"
    server.say(Say(body=f'{{"messages": [{both}]}}'))
    with pytest.raises(UnexpectedDataError, match=r"delivery 'bad1' .*\.created"):
        page(server.url)


def test_a_misshapen_delivery_in_an_answer_that_is_cut_is_one_of_our_errors(server: Loopback) -> None:
    server.say(Say(body=json.dumps({"messages": [row(created="soon"), row()]})[:-20]))
    with pytest.raises((UnexpectedDataError, TryAgainLaterError)):
        page(server.url)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "[" * 2000 + "]" * 2000])
def test_what_only_some_parsers_take_is_one_of_our_errors(server: Loopback, value: str) -> None:
    body = json.dumps({"messages": [row(metrics={"odd": "HERE"})]}).replace('"HERE"', value)
    server.say(Say(body=body))
    with contextlib.suppress(CustomerIOToSegmentError):
        page(server.url, retries=ONCE)

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.customerio import client as customerio
from airflow_provider_cio.customerio.client import REGIONS, CustomerIOClient, Page
from airflow_provider_cio.customerio.names import NAME_LISTS, names_warning
from airflow_provider_cio.customerio.rows import DESCRIBING, Activity, Delivery
from airflow_provider_cio.events.occurrence import Malformed
from airflow_provider_cio.exceptions import (
    ConfigurationError,
    CustomerIOToSegmentError,
    TryAgainLaterError,
    UnexpectedDataError,
)
from airflow_provider_cio.http.transport import Retries
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.sandbox.settings import APP_KEY
from tests.unit.http import Heard, Loopback, Say

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


@pytest.mark.parametrize(
    ("given_next", "read"), [("abc", "abc"), (17, "17"), ("17", "17"), ("", None), (None, None), (0, None)]
)
@pytest.mark.parametrize("odd", [[], [None]], ids=["a tidy page", "a page with an odd row"])
def test_a_cursor(server: Loopback, given_next: Any, read: str | None, odd: list[Any]) -> None:
    server.say(Say(body=json.dumps({"messages": odd, "activities": odd, "next": given_next})))
    with client_of(server.url) as client:
        assert client.page(EMAILS).next == read
        assert client.activity_page({}).next == read


def test_a_page_of_activities(server: Loopback) -> None:
    one = {"id": "01A", "type": "opened_email", "timestamp": 5, "delivery_id": "RPIL=", "data": {"opened": 5}}
    server.say(Say(body=json.dumps({"activities": [one], "next": ""})))
    with client_of(server.url) as client:
        found = client.activity_page({"type": "opened_email", "limit": 100})
    assert found == Page([Activity("01A", 5, "RPIL=", data={"opened": 5}, type="opened_email")], (), None)
    assert server.heard[0].target == "/v1/activities?type=opened_email&limit=100"


def test_undocumented_fields(server: Loopback) -> None:
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
        ({}, "another-key", ["answered 401: unauthorized", "App API key", "region 'us'", "Set region to 'eu'"]),
        ({"key_region": "eu"}, APP_KEY, ["answered 401: unauthorized", "region 'us'", "Set region to 'eu'"]),
    ],
)
def test_wrong_key(sandbox: Sandbox, changed: dict[str, Any], key: str, words: list[str]) -> None:
    sandbox.settings = Settings(**changed)
    with pytest.raises(ConfigurationError) as caught:
        page(sandbox.url, key=key)
    assert str(caught.value).startswith(f"{NAME} answered")
    for word in words:
        assert word in str(caught.value)
    assert key not in str(caught.value)
    assert len(sandbox.customerio.requests) == 1


def test_error_suggests_other_region(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigurationError, match="as region 'eu'.* Set region to 'us' in the connection, and leave"):
        page(sandbox.url, key="another-key", region="eu")


@pytest.mark.parametrize("region", ["us", "eu"])
def test_a_redirect_to_the_other_region_names_it(server: Loopback, region: str) -> None:
    other = {"us": "eu", "eu": "us"}[region]
    server.say(Say(301, "", {"Location": f"{REGIONS[other]}/v1/messages?type=email"}))
    with pytest.raises(ConfigurationError) as caught:
        page(server.url, region=region)
    assert str(caught.value).startswith(f"{NAME} redirects to {REGIONS[other]}, because")
    assert f"Set region to '{other}' in the connection" in str(caught.value)


@pytest.mark.parametrize("location", ["https://example.com/", REGIONS["us"], ""])
def test_any_other_redirect_is_about_the_host(server: Loopback, location: str) -> None:
    server.say(Say(301, "", {"Location": location}))
    with pytest.raises(ConfigurationError, match="put the final address into host"):
        page(server.url)


def test_wrong_host(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigurationError, match=f"404.* Check host: {sandbox.url}/elsewhere has no App API"):
        page(sandbox.url + "/elsewhere")


def test_missing_scope_is_retried_elsewhere(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(scopes=("campaigns",))
    with pytest.raises(TryAgainLaterError, match="answered 403: this key does not have access to messages") as caught:
        page(sandbox.url)
    for word in ("scope", "IP allow-list", "address of this worker", "another worker"):
        assert word in str(caught.value)
    assert len(sandbox.customerio.requests) == 1


@pytest.mark.parametrize("ask", ["page", "activity_page"])
def test_expired_cursor_is_left_to_a_retry(server: Loopback, ask: str) -> None:
    server.say(Say(400, '{"errors": [{"detail": "malformed cursor", "source": {"pointer": "/start"}}]}'))
    with (
        client_of(server.url) as client,
        pytest.raises(TryAgainLaterError, match=r"malformed cursor \(at /start\)\. The cursor is no longer valid"),
    ):
        getattr(client, ask)(EMAILS | {"start": "abc"})
    assert len(server.heard) == 1


@pytest.mark.parametrize(("status", "query"), [(400, {}), (422, {}), (422, {"start": "abc"})])
def test_other_refusals_quote_service(server: Loopback, status: int, query: dict[str, str | int]) -> None:
    server.say(Say(status, '{"errors": [{"detail": "limit is wrong"}]}'))
    with pytest.raises(UnexpectedDataError, match=f"answered {status}: limit is wrong"):
        page(server.url, query)
    assert len(server.heard) == 1


# --- unreadable -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["truncated_json", "truncated", "html200", "html", "reset", "429", "503"])
def test_passing_fault_is_retried(sandbox: Sandbox, kind: Any) -> None:
    sandbox.faults.add(Fault(side="customerio", kind=kind, times=2))
    with client_of(sandbox.url) as client:
        assert len(client.page(dict(EMAILS)).rows) == 2
        assert client.requests_made == 3


@pytest.mark.parametrize(
    ("kind", "named"),
    [("truncated_json", "bytes of application/json that are not whole JSON"), ("html200", "bytes of text/html")],
)
def test_lasting_fault_is_named(sandbox: Sandbox, kind: Any, named: str) -> None:
    sandbox.faults.add(Fault(side="customerio", kind=kind, times=99))
    with pytest.raises(TryAgainLaterError, match=f"can't be read: .*{named}.* after 3 attempts"):
        page(sandbox.url)


@given(st.data())
@settings(max_examples=60)
def test_truncated_answer_is_no_page(server: Loopback, data: st.DataObject) -> None:
    body = json.dumps({"messages": [row(subject="caf\xe9 😀"), row()], "next": "abc"}, ensure_ascii=False).encode()
    server.say(Say(body=body[: data.draw(st.integers(0, len(body) - 1))]))
    with pytest.raises(TryAgainLaterError, match="not whole JSON"):
        page(server.url, retries=ONCE)


@given(st.binary(max_size=60) | st.text().map(str.encode) | st.recursive(st.none(), st.lists).map(json.dumps))
@settings(max_examples=40)
def test_any_body_gives_our_error(server: Loopback, body: bytes) -> None:
    server.say(Say(body=body))
    with pytest.raises(CustomerIOToSegmentError):
        page(server.url, retries=ONCE)


# --- malformed --------------------------------------------------------------------------------------------------


def is_id(value: Any) -> bool:
    return value is None or type(value) in (str, int)


def is_text(value: Any) -> bool:
    return value is None or type(value) is str


def is_person(value: Any) -> bool:
    return value is None or (
        type(value) is dict and is_id(value.get("id")) and is_text(value.get("email")) and is_id(value.get("cio_id"))
    )


#: The documented shape of each field (reference/customerio.md 1.4 and 2.2); a missing one is like null.
DELIVERY: dict[str, Callable[[Any], bool]] = {
    "id": lambda value: type(value) is str and value != "",
    "type": lambda value: type(value) is str,
    "created": lambda value: type(value) is int,
    "metrics": lambda value: type(value) is dict,
    "customer_identifiers": is_person,
    "recipient": is_text,
    "subject": is_text,
    "failure_message": is_text,
    **dict.fromkeys(
        "customer_id campaign_id action_id parent_action_id newsletter_id content_id broadcast_id "
        "transactional_message_id trigger_event_id".split(),
        is_id,
    ),
}
ACTIVITY: dict[str, Callable[[Any], bool]] = {
    "id": DELIVERY["id"],
    "timestamp": DELIVERY["created"],
    "delivery_id": is_text,
    "delivery_type": is_text,
    "customer_id": is_id,
    "customer_identifiers": is_person,
    "data": lambda value: value is None or type(value) is dict,
}
GONE = object()
VALUES = st.sampled_from(
    [GONE, None, True, 5, -1, 5.5, "", "text", "cut \ud83d", [], [1], {}, {"email": 5}, {"id": []}, {"email": "a@b.c"}]
)


def rows_of(shape: dict[str, Any], **tidy: Any) -> st.SearchStrategy[Any]:
    """Draw tidy rows, rows with a field or two changed, and values that are no rows."""
    spoilt = st.dictionaries(st.sampled_from(sorted(shape)), VALUES, max_size=2).map(
        lambda changed: {name: value for name, value in (tidy | changed).items() if value is not GONE}
    )
    return st.just(tidy) | spoilt | st.sampled_from([None, 5, "text", [], True, {}])


def assert_split(page: Any, rows: list[Any], shape: dict[str, Callable[[Any], bool]], created: str) -> None:
    """Assert that documented rows are read as they are, but for odd optional fields, and all others are malformed.

    Each kind is in the order of the page.
    """

    def documented(row: Any) -> bool:
        return isinstance(row, dict) and all(name in DESCRIBING or fits(row.get(name)) for name, fits in shape.items())

    def read(value: Any) -> Any:
        return value.replace("\ud83d", "?") if isinstance(value, str) else value

    fine = [row for row in rows if documented(row)]
    odd = [row for row in rows if not documented(row)]
    assert len(page.rows) == len(fine)
    for found, row in zip(page.rows, fine, strict=True):
        left_out = sorted(name for name, fits in shape.items() if not fits(row.get(name)))
        assert list(getattr(found, "left_out", ())) == left_out
        for name in shape:
            value = getattr(found, name)
            if name in left_out:
                assert value is None
                continue
            person = name == "customer_identifiers" and value is not None
            told = {key: row[name].get(key) for key in ("id", "email", "cio_id")} if person else read(row.get(name))
            assert (msgspec.to_builtins(value) if person else value) == told
    assert len(page.malformed) == len(odd)
    for found, row in zip(page.malformed, odd, strict=True):
        fields = row if isinstance(row, dict) else {}
        assert json.loads(found.raw) == json.loads(json.dumps(row).replace("\\ud83d", "?"))
        assert found.id == (read(fields.get("id")) or None if isinstance(fields.get("id"), str) else None)
        assert found.created == (fields.get(created) if type(fields.get(created)) is int else None)
        assert found.problem
        assert "a@b.c" not in found.problem
        assert "text" not in found.problem


@given(st.lists(rows_of(DELIVERY, **row()), max_size=6))
@settings(max_examples=200)
def test_malformed_deliveries(server: Loopback, rows: list[Any]) -> None:
    server.say(Say(body=json.dumps({"messages": rows, "next": "n"})))
    found = page(server.url)
    assert found.next == "n"
    assert_split(found, rows, DELIVERY, "created")


@given(st.lists(rows_of(ACTIVITY, id="01A", timestamp=1_700_000_000, type="opened_email", data={}), max_size=6))
@settings(max_examples=150)
def test_malformed_activities(server: Loopback, rows: list[Any]) -> None:
    server.say(Say(body=json.dumps({"activities": rows, "next": "n"})))
    with client_of(server.url) as client:
        found = client.activity_page({})
    assert found.next == "n"
    assert_split(found, rows, ACTIVITY, "timestamp")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"created": "soon"}, "Expected `int`, got `str` - at `$.created`"),
        ({"created": None}, "Expected `int`, got `null` - at `$.created`"),
        ({"metrics": None}, "Expected `object`, got `null` - at `$.metrics`"),
        (
            {"customer_id": {"email": "jane.doe@example.com"}},
            "Expected `int | str | null`, got `object` - at `$.customer_id`",
        ),
        ({"type": None, "recipient": 7}, "Expected `str`, got `null` - at `$.type`"),
        (
            {"customer_identifiers": {"email": 5}},
            "Expected `str | null`, got `int` - at `$.customer_identifiers.email`",
        ),
    ],
)
def test_problem_names_field_not_value(server: Loopback, fields: dict[str, Any], problem: str) -> None:
    bad = json.dumps(row(id="bad1", **fields), indent=1)
    server.say(Say(body=f'{{"messages": [{json.dumps(row())}, {bad} , {json.dumps(row())}]}}'))
    found = page(server.url)
    [odd] = found.malformed
    assert len(found.rows) == 2
    assert (odd.problem, odd.id, odd.raw) == (problem, "bad1", bad.encode())


@pytest.mark.parametrize("missing", ["id", "type", "created", "metrics"])
def test_a_missing_field_is_named(server: Loopback, missing: str) -> None:
    bad = row(id="bad1")
    del bad[missing]
    server.say(Say(body=json.dumps({"messages": [bad]})))
    [odd] = page(server.url).malformed
    assert odd.problem == f"Object missing required field `{missing}`"
    assert odd.id == (None if missing == "id" else "bad1")
    assert odd.created == (None if missing == "created" else 1_700_000_000)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "1" * 5000])
def test_invalid_number_spoils_one_row(server: Loopback, value: str) -> None:
    """Some of the numbers are JSON and some are not; if the page can be read, only that row is malformed."""
    body = json.dumps({"messages": [row(id="a"), row(id="b", metrics={"odd": "HERE"}), row(id="c")]})
    server.say(Say(body=body.replace('"HERE"', value)))
    with contextlib.suppress(TryAgainLaterError):  # no JSON
        found = page(server.url, retries=ONCE)
        assert {one.id for one in found.rows} >= {"a", "c"}
        assert len(found.rows) + len(found.malformed) == 3


@pytest.mark.parametrize(
    "body", ["{}", "[]", '"page"', "5", "null", '{"messages": {}}', '{"messages": 5}', '{"messages": [], "next": []}']
)
def test_malformed_answer(server: Loopback, body: str) -> None:
    server.say(Say(body=body))
    with pytest.raises(UnexpectedDataError, match="answer to /v1/messages does not have the documented shape"):
        page(server.url)
    with client_of(server.url) as client, pytest.raises(UnexpectedDataError, match="/v1/activities"):
        client.activity_page({})


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
def test_half_an_emoji_in_a_subject(server: Loopback, escaped: str, read: str) -> None:
    others = json.dumps([row(id="é", subject="ü😀", metrics={"opened": 1_700_000_002})], ensure_ascii=False)[1:-1]
    server.say(Say(body=f'{{"messages": [{others}, {json.dumps(row())[:-1]}, "subject": "{escaped}"}}], "next": "n"}}'))
    found = page(server.url)
    assert [one.subject for one in found.rows] == ["ü😀", read]
    assert [one.id for one in found.rows] == ["é", "RPIL="]
    assert found.next == "n"
    assert len(server.heard) == 1


HALF = '{"id": "half", "type": "email", "created": 1, "metrics": {}, "subject": "\\ud83d"}'


@pytest.mark.parametrize("order", ["before", "after"])
def test_malformed_delivery_and_half_emoji(server: Loopback, order: str) -> None:
    bad = json.dumps(row(id="bad1", created="soon"))
    both = f"{HALF}, {bad}" if order == "before" else f"{bad}, {HALF}"
    server.say(Say(body=f'{{"messages": [{both}]}}'))
    found = page(server.url)
    assert [(one.id, one.subject) for one in found.rows] == [("half", "?")]
    assert [one.id for one in found.malformed] == ["bad1"]


@given(st.text(st.sampled_from([*'\\"/bu d8e09', "\ud83d", "\ude00", "😀", "ü", "\n"]), max_size=12))
@settings(max_examples=200)
def test_only_half_emojis_change(server: Loopback, subject: str) -> None:
    """Python reads JSON's escapes, and writes every half as one."""
    server.say(Say(body=json.dumps({"messages": [row(subject="\ud83d"), row(subject=subject)]})))
    whole = json.loads(json.dumps(subject))  # a pair of halves is one character
    found = page(server.url).rows[1].subject
    assert found == whole.encode("utf-8", "replace").decode()


def test_invalid_utf_8_is_replaced(server: Loopback) -> None:
    body = json.dumps({"messages": [row(subject="ü HERE"), row()]}, ensure_ascii=False).encode()
    server.say(Say(body=body.replace(b"HERE", b"\xff")))
    assert [one.subject for one in page(server.url).rows] == ["ü \ufffd", None]


def test_malformed_delivery_in_cut_answer(server: Loopback) -> None:
    server.say(Say(body=json.dumps({"messages": [row(created="soon"), row()]})[:-20]))
    with pytest.raises(TryAgainLaterError):
        page(server.url, retries=ONCE)


@pytest.mark.parametrize("value", ["[" * 2000 + "]" * 2000, '{"a":' * 2000 + "1" + "}" * 2000])
def test_deep_nesting_gives_our_error(server: Loopback, value: str) -> None:
    body = json.dumps({"messages": [row(metrics={"odd": "HERE"})]}).replace('"HERE"', value)
    server.say(Say(body=body))
    with contextlib.suppress(CustomerIOToSegmentError):
        page(server.url, retries=ONCE)


# --- one delivery -----------------------------------------------------------------------------------------------


def delivery(url: str, delivery_id: str = "RPIL=") -> Delivery | Malformed | None:
    with client_of(url) as client:
        return client.delivery(delivery_id)


def test_a_delivery_by_its_id(server: Loopback) -> None:
    server.say(Say(body=json.dumps({"message": row(id="a/b=", subject="cut \ud83d")})))
    found = delivery(server.url, "a/b=")
    assert isinstance(found, Delivery)
    assert (found.id, found.subject, found.created) == ("a/b=", "cut ?", 1_700_000_000)
    assert server.heard[0].target == "/v1/messages/a%2Fb%3D"


def test_delivery_that_is_gone(sandbox: Sandbox) -> None:
    assert delivery(sandbox.url, "nowhere") is None


@pytest.mark.parametrize("odd", [row(created="soon"), None, [], 5, "text"])
def test_malformed_delivery_by_its_id(server: Loopback, odd: Any) -> None:
    server.say(Say(body=json.dumps({"message": odd})))
    found = delivery(server.url)
    assert isinstance(found, Malformed)
    assert json.loads(found.raw) == odd
    assert found.id == ("RPIL=" if isinstance(odd, dict) else None)


@pytest.mark.parametrize("body", ["{}", "[]", "5", '{"messages": []}'])
def test_malformed_delivery_answer(server: Loopback, body: str) -> None:
    server.say(Say(body=body))
    with pytest.raises(UnexpectedDataError, match="documented shape"):
        delivery(server.url)


def test_forbidden_delivery_by_its_id(server: Loopback) -> None:
    server.say(Say(403))
    with pytest.raises(TryAgainLaterError, match="may not read /v1/messages"):
        delivery(server.url)


# --- lists of names ---------------------------------------------------------------------------------------------


def names(url: str, **options: Any) -> dict[str, str]:
    with client_of(url, **options) as client:
        return client.names(*NAME_LISTS["newsletter_id"])


def listed(*items: Any, following: Any = "") -> Say:
    return Say(body=json.dumps({"newsletters": items, "next": following}))


def test_names_come_from_all_pages(server: Loopback) -> None:
    server.say(
        listed({"id": 1, "name": "One"}, {"id": "2", "name": "Two"}, following="abc"),
        listed({"id": 3, "name": "cut \ud83d"}, following=17),
        listed({"id": 4, "name": ""}, {"id": 5}, {"id": 6, "name": None}),
    )
    assert names(server.url) == {"1": "One", "2": "Two", "3": "cut ?"}
    assert [heard.target for heard in server.heard] == [
        "/v1/newsletters?limit=100",
        "/v1/newsletters?limit=100&start=abc",
        "/v1/newsletters?limit=100&start=17",
    ]


@pytest.mark.parametrize("items", [[], None])
def test_a_list_without_names(server: Loopback, items: Any) -> None:
    server.say(Say(body=json.dumps({"newsletters": items})))
    assert names(server.url) == {}


def test_malformed_item_loses_its_name(server: Loopback) -> None:
    odd: list[Any] = [
        None,
        5,
        [],
        {},
        {"id": None, "name": "a"},
        {"id": True, "name": "b"},
        {"id": 7, "name": 5},
        {"name": "c"},
    ]
    server.say(listed(*odd, {"id": 1, "name": "One"}))
    assert names(server.url) == {"1": "One"}


@pytest.mark.parametrize(
    "body", ["{}", "[]", "5", '{"newsletters": {}}', '{"newsletters": "a"}', '{"newsletters": [5, {}, {"id": null}]}']
)
def test_malformed_list_of_names(server: Loopback, body: str) -> None:
    server.say(Say(body=body))
    with pytest.raises(UnexpectedDataError, match="answer to /v1/newsletters does not have the documented shape"):
        names(server.url)


@pytest.mark.parametrize("status", [403, 404])
def test_forbidden_list_of_names(server: Loopback, status: int) -> None:
    server.say(Say(status))
    with pytest.raises(ConfigurationError, match=f"answered {status}.*may not read /v1/newsletters.*scope") as caught:
        names(server.url)
    said = names_warning({"newsletter_id": caught.value})
    assert f"may not read /v1/newsletters (answer {status}). Give it these scopes." in said
    assert len(server.heard) == 1


def test_unreachable_list_is_retried(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    assert customerio._PATIENCE_FOR_NAMES == 60
    monkeypatch.setattr(customerio, "_PATIENCE_FOR_NAMES", 0.3)
    server.say(Say(503))
    with pytest.raises(TryAgainLaterError):
        names(server.url, retries=Retries(first=0.05, longest=0.05))
    assert 1 < len(server.heard) < 20


def test_names_do_not_fill_the_memory(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page has a new name of 1 KiB, and names a further page."""
    monkeypatch.setattr(customerio, "_LARGEST_ANSWER", 20 * 1024)

    def page(heard: Heard) -> Say:
        number = int(parse_qs(urlsplit(heard.target).query).get("start", ["0"])[0]) + 1
        return Say(body=json.dumps({"newsletters": [{"id": number, "name": "x" * 1024}], "next": str(number)}))

    server.say(page)
    with pytest.raises(UnexpectedDataError, match="the names in /v1/newsletters take more than 20480 bytes"):
        names(server.url)
    assert len(server.heard) == 20


def test_repeated_cursor_ends_names(server: Loopback) -> None:
    server.say(listed({"id": 1, "name": "One"}, following="abc"), listed({"id": 2, "name": "Two"}, following="abc"))
    assert names(server.url) == {"1": "One", "2": "Two"}
    assert len(server.heard) == 2


def test_endless_list_of_names_ends(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(customerio, "_MAX_PAGES_OF_NAMES", 5)
    server.say(lambda heard: listed({"id": len(server.heard), "name": "One"}, following=f"{len(server.heard)}"))
    with pytest.raises(UnexpectedDataError, match="/v1/newsletters names a next page after 5 pages"):
        names(server.url)


def test_access_check_is_one_request(server: Loopback) -> None:
    for answer, error in [
        (Say(), None),
        (Say(403), ConfigurationError),
        (Say(503), TryAgainLaterError),
        (Say(429, headers={"Retry-After": "0.1"}), TryAgainLaterError),
    ]:
        server.say(answer)
        with client_of(server.url) as client, pytest.raises(error) if error else contextlib.nullcontext():
            client.check_access("/v1/campaigns")
        assert [heard.target for heard in server.heard] == ["/v1/campaigns"]


# --- what a client tells of itself ------------------------------------------------------------------------------


def test_requests_are_counted(server: Loopback) -> None:
    server.say(Say(429), Say(503), Say(body='{"messages": []}'))
    with client_of(server.url) as client:
        client.page(EMAILS)
        assert (client.requests_made, client.retried, client.rate_limited) == (3, 2, 1)
        assert client.waiting() is None
        assert client.wanted_in_flight() >= 1
        assert client.name == NAME


def test_rate_holds_in_any_second(server: Loopback) -> None:
    for _ in range(3):  # a machine that is busy may hold back one request, and bring it closer to the next
        server.say(Say(body='{"messages": []}'))
        client = CustomerIOClient(APP_KEY, base_url=server.url, requests_per_second=10)
        with client, ThreadPoolExecutor(6) as pool:
            for _ in range(25):
                pool.submit(client.page, EMAILS)
            assert client._transport._limiter.rate == pytest.approx(9.71, abs=0.01)
        times = [heard.at for heard in server.heard]
        assert len(times) == 25
        shortest = min(later - first for first, later in zip(times, times[10:], strict=False))
        if shortest >= 1:
            break
    assert shortest >= 1

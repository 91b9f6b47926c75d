"""The sandbox's activities, names and channels: reference/customerio.md 2, 4, 6.3 and 8, asked with bare requests."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import pytest
import requests

from tests.sandbox import Fault, History, Sandbox, Settings
from tests.sandbox.catalog import ANALOGUES, CHANNELS, COLLECTIONS

DAY = 86_400
START = 1_793_491_200  # 2026-11-01T00:00:00Z
END = START + 5 * DAY
KEY = Settings().app_key
DISORDER = Settings().activity_disorder
ENDPOINTS = {
    "campaigns": "campaigns",
    "newsletters": "newsletters",
    "broadcasts": "broadcasts",
    "transactional": "messages",
}
PARENTS = {
    "campaign": "campaign_id",
    "newsletter": "newsletter_id",
    "broadcast": "broadcast_id",
    "transactional": "transactional_message_id",
}

Row = dict[str, Any]


@pytest.fixture(scope="module")
def history() -> History:
    return History.generate(seed=7, deliveries=1700, start=START, end=END, nasty=0.3)


@pytest.fixture
def sandbox(world: Sandbox, history: History) -> Sandbox:
    world.reset()
    world.settings = Settings(now=END + 10 * DAY)
    world.history = history
    return world


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {KEY}"
        yield session


@pytest.fixture
def ask(sandbox: Sandbox, session: requests.Session) -> Any:
    def ask(path: str = "/v1/activities", **params: Any) -> requests.Response:
        return session.get(sandbox.url + path, params=params, timeout=10)

    return ask


@pytest.fixture
def pages(ask: Any) -> Any:
    def pages(path: str = "/v1/activities", key: str = "activities", **params: Any) -> list[list[Row]]:
        found, start = [], ""
        while True:
            page = ask(path, **params, **({"start": start} if start else {})).json()
            found.append(page[key] or [])
            start = page.get("next")
            if not start:
                return found

    return pages


@pytest.fixture
def listed(pages: Any) -> Any:
    """Return all activities in the order of the list."""
    return lambda **params: [row for page in pages(limit=100, **params) for row in page]


def deliveries_of(history: History) -> dict[str, Row]:
    rows = [json.loads(data) for data in history.rows.data]
    return {row["id"]: row for row in rows}


def row(id: str = "a", **more: Any) -> Row:
    return {"id": id, "created": START, "type": "email", "metrics": {"sent": START}, **more}


# -------------------------------------------------------------------------------------- activities


def test_pages_hold_each_row_once(history: History, ask: Any, pages: Any) -> None:
    found = pages(limit=100)
    assert {len(page) for page in found[:-1]} == {100}
    ids = [one["id"] for page in found for one in page]
    assert len(ids) == len(set(ids)) == len(history.activities)
    assert all(re.fullmatch("[0-9A-HJKMNP-TV-Z]{26}", id) for id in ids)
    first = ask().json()
    assert [one["id"] for one in first["activities"]] == ids[:10], "10 unless asked"
    assert first["next"].isdecimal()
    assert [one["id"] for page in pages(limit=77, type="opened_email") for one in page] == [
        one["id"] for page in found for one in page if one["type"] == "opened_email"
    ]


def test_invalid_values_are_refused(ask: Any) -> None:
    assert len(ask(limit=100).json()["activities"]) == 100
    cursor = ask().json()["next"]
    for wrong in (
        {"limit": 101},
        {"limit": 0},
        {"start": "abc"},
        {"start": str(int(cursor) + 1)},
        {"type": "opened_sms"},
        {"type": "opened"},
        {"id_type": "name"},
        {"id_type": "phone"},
        {"deleted": "perhaps"},
    ):
        answer = ask(**wrong)
        assert answer.status_code == 400, wrong
        (problem,) = answer.json()["errors"]
        assert problem["status"] == "400"
        assert problem["source"] == {"pointer": f"/{next(iter(wrong))}"}
    assert ask(limit=1, type="opened_whatsapp").status_code == 200


def test_disorder_is_bounded(sandbox: Sandbox, listed: Any) -> None:
    times = [one["timestamp"] for one in listed()]
    late = sum(earlier < later for earlier, later in pairwise(times))
    assert 0.005 < late / len(times) < 0.1
    oldest, worst = times[0], 0
    for time in times:
        worst = max(worst, time - oldest)
        oldest = min(oldest, time)
    assert DISORDER / 4 < worst <= DISORDER
    sandbox.settings.activity_disorder = 0
    orderly = [one["timestamp"] for one in listed()]
    assert orderly == sorted(times, reverse=True)


def test_thirty_days_are_guaranteed(sandbox: Sandbox, listed: Any) -> None:
    everything = listed(type="delivered_email")
    sandbox.settings.activities_days = 12
    bound = END + 10 * DAY - 12 * DAY
    some = listed(type="delivered_email")
    assert [one for one in everything if one["timestamp"] >= bound] == [
        one for one in some if one["timestamp"] >= bound
    ]
    assert len(some) < len(everything)
    assert all(one["timestamp"] >= bound - 2 * DISORDER for one in some)


def test_last_page_may_be_empty(sandbox: Sandbox, ask: Any, pages: Any) -> None:
    pages_of_type = pages(limit=100, type="clicked_push")
    sandbox.settings.activities_end = "same_cursor"
    start = ""
    for page in pages_of_type:
        answer = ask(limit=100, type="clicked_push", **({"start": start} if start else {})).json()
        assert answer["activities"] == page
        start = answer["next"]
        assert start
    again = ask(limit=100, type="clicked_push", start=start).json()
    assert again == {"activities": [], "next": start}
    sandbox.settings.activities_end = "new_cursor"
    once = ask(limit=100, type="clicked_push", start=start).json()
    twice = ask(limit=100, type="clicked_push", start=once["next"]).json()
    assert once["activities"] == twice["activities"] == []
    assert len({start, once["next"], twice["next"]}) == 3


def test_first_engagement_has_metric_time(history: History, listed: Any) -> None:
    deliveries = deliveries_of(history)
    of: dict[tuple[str, str], list[int]] = {}
    for one in listed():
        if "delivery_id" not in one:
            assert one["type"] in {"event", "page", "attribute_change"}
            continue
        delivery = deliveries[one["delivery_id"]]
        metric = one["type"].removesuffix(f"_{delivery['type']}")
        assert one["data"]["delivery_id"] == one["delivery_id"]
        assert one["data"][metric] == one["timestamp"]
        of.setdefault((one["delivery_id"], metric), []).append(one["timestamp"])
    expected = {
        (id, metric): time
        for id, delivery in deliveries.items()
        for metric, time in delivery["metrics"].items()
        if metric != "created" and not metric.startswith(("human_", "prefetch_", "link:"))
    }
    assert {key: min(times) for key, times in of.items()} == expected
    assert {metric for (_, metric), times in of.items() if len(times) > 1} == {"opened", "clicked"}
    assert max(max(times) - min(times) for times in of.values()) > 14 * DAY


def test_people_in_activities(history: History, listed: Any) -> None:
    deliveries = deliveries_of(history)
    forms: Counter[str] = Counter()
    for one in listed():
        if "delivery_id" not in one:
            continue
        delivery = deliveries[one["delivery_id"]]
        shown, known = one["customer_identifiers"], delivery["customer_identifiers"]
        assert one["customer_id"] == delivery["customer_id"]
        if known is None:
            assert shown is None
            forms["none"] += 1
        elif not known["id"] and not known["email"]:
            assert shown == {"cio_id": known["cio_id"]}
            forms["only cio_id"] += 1
        elif "id" not in shown:
            assert shown == {"email": known["email"], "cio_id": known["cio_id"]}
            forms["without id"] += 1
        else:
            assert shown == known
            forms["all"] += 1
    assert min(forms[form] for form in ("none", "only cio_id", "without id", "all")) > 10


def test_details_of_opens_and_clicks(listed: Any) -> None:
    opens, clicks = listed(type="opened_email"), listed(type="clicked_email")
    addresses = {len((one["data"].get("ip_address") or "").split(", ")) for one in opens}
    assert addresses == {1, 2}
    assert any("ip_address" not in one["data"] for one in opens)
    assert any(one["data"].get("prefetched") for one in opens)
    assert any("prefetched" not in one["data"] for one in opens)
    assert not any("href" in one["data"] or "link" in one["data"] for one in opens)
    assert {len({"href", "link"} & one["data"].keys()) for one in clicks} == {1}
    assert all(any(key in one["data"] for one in clicks) for key in ("href", "link"))
    assert {one["data"].get("machine") for one in clicks} == {True, None}
    keys = {key for one in [*opens, *clicks] for key in one["data"]}
    assert keys >= {"user_agent", "email_client", "proxied", "template_id"}
    assert {one["delivery_type"] for one in opens} == {"email"}
    assert all("href" in one["data"] or "link" in one["data"] for one in listed(type="clicked_webhook"))


def test_filters_by_name_and_person(history: History, ask: Any, listed: Any) -> None:
    events = listed(type="event", name="Order Placed")
    assert events
    assert {(one["type"], one["name"]) for one in events} == {("event", "Order Placed")}
    assert len(events) < len(listed(type="event"))
    person = next(one for one in listed(type="opened_email") if (one["customer_identifiers"] or {}).get("email"))
    known = person["customer_identifiers"]
    opened = {"type": "opened_email"}
    by_email = listed(customer_id=known["email"], id_type="email", **opened)
    assert person in by_email
    assert by_email == [
        one for one in listed(**opened) if (one["customer_identifiers"] or {}).get("email") == known["email"]
    ]
    assert person in listed(customer_id=f"cio_{known['cio_id']}", id_type="cio_id", deleted="true", **opened)
    assert listed(customer_id=known["cio_id"], id_type="cio_id", **opened) == []


def test_undocumented_types(sandbox: Sandbox, ask: Any) -> None:
    sandbox.settings.activity_types = "documented"
    for type in ("opened_email", "clicked_in_app", "undeliverable_webhook", "bounced_twilio"):
        assert ask(type=type).status_code == 200
    for type in ("opened_whatsapp", "clicked_slack", "replied_twilio", "converted_push"):
        assert ask(type=type).status_code == 400


def test_activities_are_made_on_demand() -> None:
    lean, kept = (History.generate(seed=3, deliveries=300, start=START, end=END, lean=lean) for lean in (True, False))
    lean.truth()
    assert lean._activities is None
    assert sorted(one["id"] for one in lean.activities.rows()) == sorted(one["id"] for one in kept.activities.rows())
    assert lean.truth(every=True) == kept.truth(every=True)


def test_rows_written_by_hand(sandbox: Sandbox, listed: Any) -> None:
    sandbox.history = History([row("a", metrics={"sent": START, "opened": START + 5, "human_opened": 3}), row("b")])
    assert Counter(one["type"] for one in listed()) == {"opened_email": 3, "sent_email": 2}
    assert [one.metric for one in sandbox.history.truth(every=True)] == ["sent", "sent", "opened", "opened", "opened"]
    given = [
        {"id": "1", "type": "clicked_email", "timestamp": START + 1, "delivery_id": "a", "data": {"link": "L"}},
        {"id": "2", "type": "opened_email", "timestamp": START + 7, "delivery_id": "gone", "data": None},
        {"id": "3", "type": "opened_email", "timestamp": START + 9, "delivery_id": "a", "data": {"ip_address": "6, 4"}},
    ]
    sandbox.history = History([row("a", metrics={"opened": START + 5})], activities=given)
    assert listed() == given
    told = [(one.activity_id, one.time, one.link, one.ip) for one in sandbox.history.truth(every=True)]
    assert told == [("1", START + 1, "L", None), ("3", START + 9, None, "6")]
    assert [one.time for one in sandbox.history.truth()] == [START + 5]


# ------------------------------------------------------------------------------------------- truth


def brute_force(deliveries: dict[str, Row], activities: list[Row]) -> list[tuple[Any, ...]]:
    """Compute the truth once more, from the rows that the two endpoints showed."""
    found = []
    for delivery in deliveries.values():
        for metric, time in delivery["metrics"].items():
            if metric not in {"opened", "clicked"}:
                found.append((delivery, metric, time, (None, None, None, None, False, False)))
    for one in activities:
        if one["type"].startswith(("opened_", "clicked_")):
            data = one["data"]
            delivery = deliveries[one["delivery_id"]]
            ip = data.get("ip_address", "").split(",")[0] or None
            link = data.get("href") or data.get("link")
            automatic = (bool(data.get("prefetched")), bool(data.get("machine")))
            more = (one["id"], link, ip, data.get("user_agent"), *automatic)
            found.append((delivery, one["type"].split("_")[0], one["timestamp"], more))
    return sorted(
        (
            COLLECTIONS[delivery["type"], metric],
            delivery["id"],
            time,
            *who(delivery),
            *parent(delivery),
            *map(str, more),
        )
        for delivery, metric, time, more in found
        if (delivery["type"], metric) in COLLECTIONS
    )


def who(delivery: Row) -> tuple[str, str]:
    known = delivery["customer_identifiers"] or {}
    user = known.get("id") or delivery["customer_id"]
    if user and user != known.get("cio_id"):
        return str(user), ""
    recipient = delivery["recipient"] or ""
    single = delivery["type"] == "email" and recipient.count("@") == 1 and "," not in recipient
    return "", known.get("email") or (recipient if single else "")


def parent(delivery: Row) -> tuple[str, int]:
    ((kind, id),) = [(kind, delivery[field]) for kind, field in PARENTS.items() if delivery[field] is not None]
    return kind, id


def test_truth_of_every_engagement(history: History, listed: Any) -> None:
    truth = history.truth(drafts=True, every=True)
    assert sorted(
        (
            one.collection,
            one.delivery_id,
            one.time,
            one.user_id or "",
            one.anonymous_id or "",
            one.parent_kind or "",
            one.parent_id or 0,
            *map(str, (one.activity_id, one.link, one.ip, one.user_agent, one.prefetched, one.machine)),
        )
        for one in truth
    ) == brute_force(deliveries_of(history), listed())
    firsts = history.truth(drafts=True)
    assert len(truth) > len(firsts)
    assert {(one.delivery_id, one.metric) for one in truth} == {(one.delivery_id, one.metric) for one in firsts}
    some = history.truth(START + DAY, START + 2 * DAY, {"clicked"}, {"email"}, every=True)
    assert some == [
        one
        for one in history.truth(every=True)
        if (one.metric, one.channel) == ("clicked", "email") and START + DAY <= one.time < START + 2 * DAY
    ]
    assert some


def test_control_route_tells_the_truth(history: History, ask: Any) -> None:
    def told(**params: Any) -> list[Row]:
        events: list[Row] = ask("/_sandbox/truth", channels="email", metrics="clicked", **params).json()["events"]
        return events

    every = history.truth(metrics={"clicked"}, channels={"email"}, every=True)
    assert [one["activity_id"] for one in told(every=1)] == [one.activity_id for one in every]
    assert len(told()) == len(told(full=1)) < len(every)
    assert "campaign_name" not in told()[0]
    assert {one["campaign_name"] for one in told(full=1)} == {one.campaign_name for one in every}
    assert {one["activity_id"] for one in told(full=1)} == {None}


# ---------------------------------------------------------------------------------------- channels


def test_webhook_metrics_have_collections() -> None:
    reported = {
        "email": "drafted attempted sent delivered opened clicked converted bounced dropped deferred spammed failed"
        " unsubscribed undeliverable",
        "push": "drafted attempted sent delivered opened clicked converted bounced dropped failed undeliverable",
        "in_app": "drafted attempted sent opened clicked converted failed undeliverable",
        "twilio": "drafted attempted sent delivered clicked converted bounced dropped failed undeliverable replied",
        "whatsapp": "drafted attempted sent delivered opened clicked converted bounced dropped failed undeliverable"
        " replied",
        "slack": "drafted attempted sent clicked converted failed undeliverable",
        "webhook": "drafted attempted sent clicked converted failed undeliverable",
    }
    assert COLLECTIONS.keys() == {(channel, metric) for channel, all in reported.items() for metric in all.split()}
    assert len(set(COLLECTIONS.values())) == len(COLLECTIONS)
    names = {
        ("email", "dropped"): "Email Suppressed",
        ("push", "clicked"): "Push Link Clicked",
        ("in_app", "clicked"): "In-App Clicked",
        ("twilio", "replied"): "SMS Replied",
        ("twilio", "dropped"): "SMS Suppressed",
        ("whatsapp", "clicked"): "WhatsApp Link Clicked",
        ("whatsapp", "dropped"): "WhatsApp Suppressed",
        ("in_app", "undeliverable"): "In-App Undeliverable",
        ("slack", "converted"): "Slack Converted",
    }
    assert {pair: COLLECTIONS[pair] for pair in names} == names
    assert len(ANALOGUES) == 21
    assert ("email", "deferred") not in ANALOGUES


def test_all_collections_are_generated() -> None:
    for channel in CHANNELS:
        history = History.generate(deliveries=2500, channels=(channel,), burst=0.0, lean=True)
        found = {one.collection for one in history.truth(drafts=True)}
        assert found == {name for (of, _), name in COLLECTIONS.items() if of == channel}


def test_only_emails_have_addresses(history: History) -> None:
    recipients: dict[str, set[str]] = {channel: set() for channel in CHANNELS}
    deliveries, tempting = deliveries_of(history), 0
    for one in history.truth():
        recipients[one.channel].add(one.recipient or "")
        if one.channel != "email" and not one.user_id:
            known = deliveries[one.delivery_id]["customer_identifiers"] or {}
            assert one.anonymous_id == (known.get("email") or None)
            tempting += one.anonymous_id is None and "@" in (one.recipient or "")
    assert tempting > 5
    assert all(re.fullmatch(r"\+49\d+", one) for one in recipients["twilio"] | recipients["whatsapp"])
    assert all(re.fullmatch(r"[0-9a-f]{64}|[\w-]+:APA91b\w+", one) for one in recipients["push"])
    assert recipients["slack"] >= {"#general", "#team@example.com", "@ana"}
    assert recipients["webhook"] >= {"https://hooks.example.com/cio", "https://cio:s3cret@hooks.example.com"}
    assert {"@" in one for one in recipients["in_app"]} == {True, False}


# ------------------------------------------------------------------------------------------- names


def test_names_and_their_gaps(history: History, ask: Any, pages: Any) -> None:
    names: dict[tuple[str, str], str] = {}
    for (endpoint, key), kind in zip(ENDPOINTS.items(), PARENTS, strict=True):
        answer = ask(f"/v1/{endpoint}").json()
        assert answer.keys() == ({key, "next"} if kind == "newsletter" else {key})
        items = [item for page in pages(f"/v1/{endpoint}", key) for item in page]
        assert {type(item["id"]) for item in items} == {int, str}
        assert any(not item["name"].isascii() for item in items)
        names |= {(kind, str(item["id"])): item["name"] for item in items}
    missing: Counter[tuple[str, int | None]] = Counter()
    for one in history.truth():
        assert one.parent_kind is not None
        expected = names.get((one.parent_kind, str(one.parent_id)))
        assert one.campaign_name == expected
        missing[one.parent_kind, one.parent_id] += expected is None
    assert sum(count > 0 for count in missing.values()) == 4, "one of each kind was deleted"
    assert {kind for (kind, _), count in missing.items() if count} == set(PARENTS)
    assert names["campaign", "1"] != names["newsletter", "1"], "ids of several kinds meet"


def test_newsletters_come_in_pages(ask: Any, pages: Any) -> None:
    found = pages("/v1/newsletters", "newsletters", limit=20)
    assert [len(page) for page in found] == [20, 20, 20, 2]
    ids = [int(item["id"]) for page in found for item in page]
    assert len(set(ids)) == 62
    cursor = ask("/v1/newsletters").json()["next"]
    assert cursor.endswith("=")
    assert ask("/v1/newsletters", start="7").status_code == 400
    assert ask("/v1/newsletters", limit=101).status_code == 400
    assert int(ask("/v1/newsletters", sort="desc", limit=1).json()["newsletters"][0]["id"]) == 502
    sent = {int(item["id"]): item["sent_at"] for page in found for item in page}
    assert START <= sent[500] < END


def test_forms_of_ids_and_empty_lists(sandbox: Sandbox, ask: Any) -> None:
    def first_id(form: Any) -> Any:
        sandbox.settings.parent_ids = form
        return ask("/v1/campaigns").json()["campaigns"][0]["id"]

    assert (first_id("int"), first_id("string")) == (1, "1")
    sandbox.history = History([row(campaign_id=9, action_id=4)], names={("campaign", 9): "Neun"})
    sandbox.settings.parent_ids = "int"
    (campaign,) = ask("/v1/campaigns").json()["campaigns"]
    assert (campaign["id"], campaign["name"], campaign["actions"]) == (9, "Neun", [{"id": 4, "type": "email"}])
    assert [one.campaign_name for one in sandbox.history.truth()] == ["Neun"]
    assert ask("/v1/transactional").json() == {"messages": []}
    assert ask("/v1/newsletters").json() == {"newsletters": [], "next": ""}
    sandbox.settings.null_when_empty = True
    assert ask("/v1/broadcasts").json() == {"broadcasts": None}
    sandbox.history = History([row(campaign_id=9)], names={("campaign", 9): None})
    assert ask("/v1/campaigns").json() == {"campaigns": None}
    assert [one.campaign_name for one in sandbox.history.truth()] == [None]


# ------------------------------------------------------------------- what all endpoints have in common


@pytest.mark.parametrize("path", ["messages", "messages/x", "activities", *ENDPOINTS])
def test_keys_and_limits_of_endpoints(sandbox: Sandbox, ask: Any, path: str) -> None:
    url = f"/v1/{path}"
    usual = 404 if "/" in path else 200
    assert requests.get(sandbox.url + url, timeout=10).status_code == 401
    scope = path.partition("/")[0]
    sandbox.settings.scopes = tuple({"messages", "activities", *ENDPOINTS} - {scope})
    answer = ask(url)
    assert answer.status_code == 403
    assert answer.json() == {"errors": [{"detail": f"this key does not have access to {scope}", "status": "403"}]}
    sandbox.settings.scopes = (scope,)
    assert ask(url).status_code == usual
    sandbox.faults.add(Fault(side="customerio", kinds=("500", "429"), times=2, retry_after=3))
    assert ask(url).status_code == 500
    assert ask(url).headers["Retry-After"] == "3"
    sandbox.settings.requests_per_second = 1
    statuses = [ask(one).status_code for one in (url, url, "/v1/" + scope)]
    assert statuses == [usual, 429, 429], "one bucket for all"
    asked = sandbox.customerio.requests
    assert [one.path for one in asked] == [url] * 7 + ["/v1/" + scope]
    assert [one.fault for one in asked[3:5]] == ["500", "429"]


def test_repeated_cursor_and_latency(sandbox: Sandbox, ask: Any) -> None:
    cursor = ask(limit=5).json()["next"]
    sandbox.faults.add(Fault(side="customerio", kind="repeat_cursor"))
    sandbox.settings.latency = 0.05
    assert ask(limit=5, start=cursor).json()["next"] == cursor
    assert sandbox.customerio.requests[-1].seconds > 0.04


def test_deliveries_by_their_ids(history: History, ask: Any, listed: Any) -> None:
    for one in listed(type="opened_in_app")[:5]:
        delivery = ask(f"/v1/messages/{quote(one['delivery_id'], safe='')}").json()["message"]
        assert (delivery["id"], delivery["type"]) == (one["delivery_id"], "in_app")
    assert ask("/v1/messages/unknown").json() == {"errors": [{"detail": "not found", "status": "404"}]}
    assert ask("/v1/campaigns/11").status_code == 404

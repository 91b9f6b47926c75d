"""Check that the sandbox's odd rows fit their names, and that their expected events are right."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec
import pytest
import requests

from tests.sandbox import History, Sandbox, Settings
from tests.sandbox.catalog import COLLECTIONS
from tests.sandbox.delivery import Truth
from tests.sandbox.odd import ODDITIES
from tests.unit.test_sandbox import DAY, END, KEY, START, chain, row, rows_of

Row = dict[str, Any]
DELIVERY_KINDS = [name for name in ODDITIES if name.startswith("delivery")]
ACTIVITY_KINDS = [name for name in ODDITIES if name.startswith("activity")]


@pytest.fixture(scope="module")
def history() -> History:
    return History.generate(seed=3, deliveries=600, start=START, end=END, drafts=0)


@pytest.fixture
def sandbox(world: Sandbox, history: History) -> Sandbox:
    world.reset()
    world.settings = Settings(now=END + 40 * DAY)
    world.history = history
    return world


def listed(sandbox: Sandbox, **params: Any) -> list[Any]:
    return [row for page in chain(sandbox, limit=1000, **params) for row in page["messages"]]


def activities(sandbox: Sandbox, **params: Any) -> list[Any]:
    return [row for page in chain(sandbox, path="/v1/activities", limit=100, **params) for row in page["activities"]]


# ------------------------------------------------------------------------------------- which and when


def test_rows_are_good_by_default(sandbox: Sandbox, history: History) -> None:
    assert listed(sandbox) == rows_of(history)
    assert sandbox.odd_deliveries() == sandbox.odd_activities() == {}
    assert sandbox.expected() == (history.truth(), [], [])


def test_share_of_deliveries_is_stable(sandbox: Sandbox, history: History) -> None:
    good = rows_of(history)
    sandbox.settings.odd_deliveries = 0.2
    odd = sandbox.odd_deliveries()
    assert len(odd) / len(good) == pytest.approx(0.2, abs=0.05)
    assert len({one.kind.name for one in odd.values()}) > 60
    shown = listed(sandbox)
    for before, after in zip(good, shown, strict=True):
        kind = odd.get(before["id"])
        assert (after != before) == (kind is not None)
        if kind is not None:
            assert json.loads(kind.kind.make(before)) == after
    part = [(before, after) for before, after in zip(good, shown, strict=True) if before["created"] >= START + 3 * DAY]
    assert listed(sandbox, start_ts=START + 3 * DAY) == [after for _, after in part]
    some = next(id for id in odd if not id.endswith("="))
    headers = {"Authorization": f"Bearer {KEY}"}
    alone = requests.get(f"{sandbox.url}/v1/messages/{some}", headers=headers, timeout=5).json()["message"]
    assert alone == shown[[one["id"] for one in good].index(some)]


def test_a_share_of_the_activities(sandbox: Sandbox, history: History) -> None:
    good = activities(sandbox)
    sandbox.settings.odd_activities = 0.1
    shown = activities(sandbox)
    odd = sandbox.odd_activities()
    assert len(odd) / len(good) == pytest.approx(0.1, abs=0.03)
    assert {one["id"] for one, after in zip(good, shown, strict=True) if one != after} == odd.keys()
    assert listed(sandbox) == rows_of(history), "deliveries are another matter"
    assert len({one.kind.name for one in odd.values()}) > 40


def test_kinds_and_rows_can_be_named(sandbox: Sandbox) -> None:
    sandbox.history = History(
        [row("a", subject="s", metrics={"opened": START + 5}), row("b", subject="s"), row("c", subject="s")],
    )
    sandbox.settings.odd_rows = {"b": "delivery.subject:number", "unheard of": "delivery:null"}
    assert [one["subject"] for one in listed(sandbox)] == ["s", 7, "s"]
    sandbox.settings.odd_deliveries, sandbox.settings.odd_kinds = 1.0, ("delivery:list",)
    assert [one if one == [] else one["subject"] for one in listed(sandbox)] == [[], 7, []]
    (activity,) = activities(sandbox, type="opened_email")
    sandbox.settings.odd_rows = {activity["id"]: "activity.data:list"}
    assert activities(sandbox, type="opened_email") == [activity | {"data": ["x"]}]
    assert sandbox.odd_activities().keys() == {activity["id"]}


def test_unknown_kinds_are_refused(sandbox: Sandbox) -> None:
    for wrong in ({"odd_kinds": ("delivery.nothing",)}, {"odd_rows": {"a": "nothing"}}):
        with pytest.raises(ValueError, match="no kind of oddity"):
            Settings(**wrong)
        url = sandbox.url + "/_sandbox/settings"
        assert requests.post(url, data=msgspec.json.encode(wrong), timeout=5).status_code == 400
    with pytest.raises(ValueError, match="can be made of"):
        History([row("a")]).odd_deliveries(0, None, {"a": "delivery.subject:null"})


def test_late_rows_may_be_malformed(sandbox: Sandbox) -> None:
    sandbox.history = History([row("a", metrics={"sent": START, "opened": START + 500}, subject="s")])
    sandbox.settings = Settings(now=START + 10, visible_after=0, odd_rows={"a": "delivery.subject:number"})
    assert listed(sandbox) == [row("a", subject=7)]


# --------------------------------------------------------------- each kind is what it is called, and true


def read(one: Any) -> set[tuple[Any, ...]]:
    """Read as much as possible from the row of an e-mail, by reference/customerio.md 1.4, 1.5 and 8."""
    if not isinstance(one, dict) or not isinstance(one.get("id"), str) or not isinstance(one.get("metrics"), dict):
        return set()
    known = one.get("customer_identifiers")
    known = known if isinstance(known, dict) else {}

    def text(value: object) -> str | None:
        return (str(value) or None) if isinstance(value, str | int) and not isinstance(value, bool) else None

    cio_id = text(known.get("cio_id"))
    user = text(known.get("id"))
    if user is None and (cio_id is None or text(one.get("customer_id")) != cio_id):
        user = text(one.get("customer_id"))
    recipient = text(one.get("recipient"))
    single = recipient if recipient and recipient.count("@") == 1 and "," not in recipient else None
    anonymous = None if user else (email if isinstance(email := known.get("email"), str) and email else single)
    return {
        (one["id"], metric, value, user, anonymous, text(one.get("subject")), recipient)
        for metric, value in one["metrics"].items()
        if type(value) is int and 10**9 < value < 10**11
    }


def told(truth: list[Truth]) -> set[tuple[Any, ...]]:
    return {
        (
            one.delivery_id,
            one.metric,
            one.time,
            one.user_id,
            one.anonymous_id,
            one.subject or None,
            one.recipient or None,
        )
        for one in truth
    }


def with_collection(found: set[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    return {one for one in found if ("email", one[1]) in COLLECTIONS}


@pytest.fixture(scope="module")
def emails() -> History:
    return History.generate(seed=4, deliveries=200, start=START, end=END, drafts=0, channels=("email",))


@pytest.fixture(scope="module")
def good_activities(world: Sandbox, emails: History) -> dict[str, list[Any]]:
    """Return activities by their types, from a list without odd ones."""
    world.reset()
    world.settings, world.history = Settings(now=END + 40 * DAY), emails
    return {type: activities(world, type=type) for type in ("opened_email", "clicked_email")}


@pytest.mark.parametrize("name", DELIVERY_KINDS)
def test_truth_of_each_delivery_kind(sandbox: Sandbox, emails: History, name: str) -> None:
    sandbox.history = emails
    sandbox.settings.odd_deliveries, sandbox.settings.odd_kinds = 1.0, (name,)
    kind, odd = ODDITIES[name], sandbox.odd_deliveries()
    assert len(odd) > 5, "no row of this kind can be made of most histories"
    good = rows_of(emails)
    shown = dict(zip([one["id"] for one in good], listed(sandbox), strict=True))
    for before in good:
        assert (json.dumps(shown[before["id"]]) != json.dumps(before)) == (before["id"] in odd)
    must, may, never = sandbox.expected()
    assert len(must) + len(may) + len(never) == len(emails.truth())
    assert {one.delivery_id for one in [*may, *never]} == (
        set() if kind.harmless else odd.keys() & {one.delivery_id for one in emails.truth()}
    )
    # What is expected of good and harmless rows is what they say.
    sure = {one.delivery_id for one in must}
    assert told(must) == with_collection({entry for id in sure for entry in read(shown[id])})
    # What is allowed of the legible ones can be read from them, but for what a lenient reader leaves out.
    who_what_when = {entry[:5] for one in may for entry in read(shown[one.delivery_id])}
    assert {entry[:5] for entry in told(may)} <= who_what_when
    # Of the others who, what or when is lost.
    found = {entry[:5] for one in never for entry in read(shown[one.delivery_id])}
    assert not {entry[:5] for entry in told(never)} & found


@pytest.mark.parametrize("name", ACTIVITY_KINDS)
def test_truth_of_each_activity_kind(
    sandbox: Sandbox, emails: History, good_activities: dict[str, list[Any]], name: str
) -> None:
    sandbox.history = emails
    kind, good = ODDITIES[name], good_activities
    sandbox.settings.odd_activities, sandbox.settings.odd_kinds = 1.0, (name,)
    odd = sandbox.odd_activities()
    shown = {type: activities(sandbox, type=type) for type in good}
    before = [one for rows in good.values() for one in rows]
    after = [one for rows in shown.values() for one in rows]
    changed = {one["id"] for one, seen in zip(before, after, strict=True) if one != seen}
    assert changed == odd.keys() & {one["id"] for one in before}
    assert len(changed) > 3 or name.startswith(("activity.data.machine", "activity.data.link", "activity.data.href"))
    must, may, never = sandbox.expected(metrics={"opened", "clicked"}, every=True)
    assert {one.activity_id for one in [*may, *never]} == (set() if kind.harmless else changed)
    readable = {
        (one["delivery_id"] if isinstance(one.get("delivery_id"), str) else one["data"]["delivery_id"], one["id"])
        for one in after
        if isinstance(one, dict)
        and isinstance(one.get("id"), str)
        and type(one.get("timestamp")) is int
        and (isinstance(one.get("delivery_id"), str) or isinstance((one.get("data") or {}).get("delivery_id"), str))
        and one["timestamp"] < 10**11
        and one["timestamp"] > 10**9
    }
    assert {(one.delivery_id, one.activity_id) for one in [*must, *may]} <= readable
    assert not {(one.delivery_id, one.activity_id) for one in never} & readable
    links = {one.activity_id: one.link for one in must}
    for one in after:
        if isinstance(one, dict) and str(one.get("id")) in links:
            assert links[one["id"]] == (one["data"].get("href") or one["data"].get("link"))


def test_every_field_has_a_kind(history: History) -> None:
    fields = rows_of(history)[0].keys()
    spoilt: Counter[str] = Counter()
    for name in DELIVERY_KINDS:
        spoilt[name.removeprefix("delivery.").partition(":")[0].partition(".")[0]] += 1
    assert spoilt.keys() >= fields
    assert all(spoilt[field] >= 5 for field in fields)
    nested = {f"customer_identifiers.{key}" for key in ("id", "email", "cio_id")}
    assert all(f"delivery.{field}:{name}" in ODDITIES for field in nested for name in ("null", "missing", "list"))
    whole = {"null", "number", "text", "list", "empty"}
    assert all(f"{of}:{name}" in ODDITIES for of in ("delivery", "activity") for name in whole)
    assert sum(one.harmless for one in ODDITIES.values()) > 30


def test_malformed_rows_are_valid_json(sandbox: Sandbox) -> None:
    """Every kind is JSON for a strict parser too."""
    sandbox.settings.odd_deliveries = 1.0
    assert len(listed(sandbox)) == 600
    good = [*rows_of(sandbox.history), *sandbox.history.activities.rows()]
    for kind in ODDITIES.values():
        data = kind.make(next(one for one in good if kind.applies(one)))
        json.loads(data)
        msgspec.json.decode(data)

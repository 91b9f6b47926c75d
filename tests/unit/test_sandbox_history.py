"""Check the options of the sandbox's histories: other clocks, tried drafts, rare identities, twins of first opens."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from tests.sandbox import History, Sandbox, Settings
from tests.sandbox.delivery import Truth, base_of, identity
from tests.sandbox.engagements import link_id
from tests.sandbox.reports import reports
from tests.unit.test_sandbox import DAY, END, START, chain, ids, row, rows_of

Row = dict[str, Any]


def generate(**options: Any) -> History:
    return History.generate(**{"seed": 7, "deliveries": 3000, "start": START, "end": END} | options)


# ------------------------------------------------------------------------------------ another clock


def test_late_creation() -> None:
    usual, late = generate(), generate(created_late=0.3, created_late_by=20)
    before = {one["id"]: one for one in rows_of(usual)}
    rows = rows_of(late)
    lags = [one["created"] - before[one["id"]]["created"] for one in rows]
    assert sum(lag > 0 for lag in lags) / len(lags) == pytest.approx(0.3, abs=0.03)
    assert (min(lags), max(lags)) == (0, 20)
    assert all(earlier["created"] >= later["created"] for earlier, later in pairwise(rows)), "the list is in order"
    for one in rows:
        metrics = dict(one["metrics"])
        assert metrics.pop("created") == one["created"]
        assert metrics == {k: v for k, v in before[one["id"]]["metrics"].items() if k != "created"}
    after = Counter(key for one in rows for key, time in one["metrics"].items() if 10**9 < time < one["created"])
    assert min(after["drafted"], after["sent"], after["delivered"]) > 50
    assert [_without_created(one) for one in late.truth()] == [_without_created(one) for one in usual.truth()], (
        "the truth is what happened when"
    )


def _without_created(one: Truth) -> Any:
    return (one.collection, one.delivery_id, one.time, one.user_id, one.anonymous_id, one.parent_id)


def test_late_creation_crosses_bounds() -> None:
    rows = rows_of(generate(created_late=0.5, created_late_by=5))
    across = {
        span: sum(one["metrics"]["drafted"] // span < one["created"] // span for one in rows) for span in (3600, DAY)
    }
    assert across[3600] > 20
    assert across[DAY] > 3
    for one in rows:
        drafted = one["metrics"]["drafted"]
        if one["created"] > drafted and 0 < -drafted % 3600 <= 5:
            assert drafted // 3600 < one["created"] // 3600, "where a bound is near, it is passed"
    lean = generate(created_late=0.5, lean=True)
    assert lean.rows.data == generate(created_late=0.5).rows.data


# --------------------------------------------------------------------------------------------- drafts


def test_tried_drafts_are_still_drafts() -> None:
    for lean in (False, True):
        history = generate(drafts=0.2, tried_drafts=0.5, lean=lean)
        with Sandbox(history, Settings(now=END + 30 * DAY)) as sandbox:
            drafts = [one for page in chain(sandbox, limit=1000, drafts="true") for one in page["messages"]]
            sent = [one for page in chain(sandbox, limit=1000) for one in page["messages"]]
        assert not any("sent" in one["metrics"] for one in drafts)
        kinds = Counter(frozenset(one["metrics"]) - {"created", "drafted"} for one in drafts)
        assert kinds.keys() == {frozenset(), *map(frozenset, ({"attempted"}, {"failed"}, {"attempted", "failed"}))}
        assert kinds[frozenset()] / len(drafts) == pytest.approx(0.5, abs=0.07)
        assert any("sent" not in one["metrics"] for one in sent), "and what was not sent need not be a draft"
        assert {one.delivery_id for one in history.truth()} == {one["id"] for one in sent}
        assert {one.delivery_id for one in history.truth(drafts=True)} == {one["id"] for one in [*sent, *drafts]}
    assert generate(drafts=0.2).rows.data != generate(drafts=0.2, tried_drafts=0.5).rows.data
    assert [one.times for one in generate().deliveries if not one.draft] == [
        one.times for one in generate(tried_drafts=1.0).deliveries if not one.draft
    ]


def test_drafts_may_be_sent_later() -> None:
    options: Row = {"drafts": 0.2, "tried_drafts": 0.1}
    usual, sent = generate(**options), generate(**options, drafts_sent=0.5)
    drafts = {one.id: one for one in usual.deliveries if one.draft}
    assert [one.id for one in sent.deliveries if one.draft] == list(drafts)
    assert [one.row() for one in usual.deliveries if not one.draft] == [
        one.row() for one in sent.deliveries if not one.draft
    ], "nothing else is changed"
    changed = [one for one in sent.deliveries if one.draft and one.times != drafts[one.id].times]
    assert len(changed) / len(drafts) == pytest.approx(0.45, abs=0.05)
    for one in changed:
        before = drafts[one.id]
        assert before.times == {"created": one.created, "drafted": one.created}
        assert one.times.items() > before.times.items(), "it keeps what it had"
        assert one.created <= one.times["sent"] == min(set(one.times.values()) - {one.created}, default=one.created)
        assert max(one.times.values()) <= one.created + 28 * DAY
        assert one.channel != "email" or "@" in str(one.recipient)
        assert identity(json.loads(msgspec.json.encode(one.row()))) == (one.user_id, one.anonymous_id)
    told = {(one.delivery_id, one.metric) for one in sent.truth()}
    assert told >= {(one.id, metric) for one in changed for metric in ("drafted", "sent")}
    assert not {id for id, _ in told} & (drafts.keys() - {one.id for one in changed})
    assert generate(**options, drafts_sent=0.5, lean=True).truth(drafts=True) == sent.truth(drafts=True)


def test_opens_may_come_months_later() -> None:
    history = generate(channels=("email",), longest_lag=180 * DAY, late_opens=0.5)
    ages = [one.times["opened"] - one.created for one in history.deliveries if "opened" in one.times]
    assert max(ages) < 180 * DAY
    share = sum(age >= 90 * DAY for age in ages) / len(ages)
    assert share == pytest.approx(0.25, abs=0.05), "half of half"


def test_hand_written_drafts() -> None:
    rows = [
        row("tried", metrics={"drafted": START, "attempted": START + 1}),
        row("waiting", metrics={"created": START, "drafted": START}),
    ]
    with Sandbox(History(rows)) as sandbox:
        assert (ids(sandbox), ids(sandbox, drafts="true")) == (["tried"], ["waiting"])
        sandbox.history = History(rows, drafts={"tried"})
        assert (ids(sandbox), ids(sandbox, drafts="true")) == (["waiting"], ["tried"])
        assert {one.delivery_id for one in sandbox.history.truth()} == {"waiting"}


# ------------------------------------------------------------------------------------------ identities


def test_rare_identities() -> None:
    history = generate(rare_identities=1.0, channels=("email",), drafts=0)
    ways: Counter[str] = Counter()
    for delivery in history.deliveries:
        shown = json.loads(msgspec.json.encode(delivery.row()))
        person, customer_id, known = delivery.person, shown["customer_id"], shown["customer_identifiers"]
        assert person is not None
        if person.id:
            assert (delivery.user_id, delivery.anonymous_id) == (person.id, None)
        else:
            assert delivery.user_id is None
            assert delivery.anonymous_id == (person.email or (person.address if delivery.anonymous_id else None))
        # The rule of the reference, read from the row alone, finds this very person.
        assert identity(shown) == (delivery.user_id, delivery.anonymous_id), shown
        if known is None:
            ways["no identifiers"] += 1
            continue
        own = "with id" if known.get("id") else "without id"
        ways[f"plain cio_id, {own}"] += customer_id == known.get("cio_id")
        ways[f"prefixed cio_id, {own}"] += customer_id == f"cio_{known.get('cio_id')}"
        ways["another customer_id"] += customer_id == "0200000001"
        ways["another number"] += customer_id == 200_000_001
        ways["id is not there"] += "id" not in known
        ways["id is null"] += known.get("id", 0) is None
        ways["id is empty"] += known.get("id") == ""
        ways["customer_id is empty"] += customer_id == ""
        ways["customer_id is null"] += customer_id is None
        ways["id is a number"] += isinstance(known.get("id"), int)
        ways["customer_id is a number"] += isinstance(customer_id, int)
        ways["only an id"] += known.keys() == {"id"}
    assert len(ways) == 15
    assert min(ways.values()) > 20, ways


def test_rare_identities_change_only_ids() -> None:
    usual, rare = rows_of(generate()), rows_of(generate(rare_identities=0.5))
    who = ("customer_id", "customer_identifiers")
    assert [{k: v for k, v in one.items() if k not in who} for one in usual] == [
        {k: v for k, v in one.items() if k not in who} for one in rare
    ]
    assert 0.3 < sum(one != other for one, other in zip(usual, rare, strict=True)) / len(usual) < 0.55
    lean, kept = (generate(rare_identities=0.5, lean=lean) for lean in (True, False))
    assert lean.truth() == kept.truth(), "what is read back from the rows is what was known of the people"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"customer_id": "0200000001", "customer_identifiers": {"id": "42"}}, ("42", None)),
        ({"customer_id": "d9", "customer_identifiers": {"cio_id": "d9", "email": "a@b.c"}}, (None, "a@b.c")),
        ({"customer_id": "cio_d9", "customer_identifiers": {"cio_id": "d9", "email": "a@b.c"}}, (None, "a@b.c")),
        ({"customer_id": "cio_d9", "customer_identifiers": {"cio_id": "e1"}}, ("cio_d9", None)),
        ({"customer_id": "cio_", "customer_identifiers": {"cio_id": ""}}, ("cio_", None)),
        ({"customer_id": 7, "customer_identifiers": {"id": "", "email": ""}}, ("7", None)),
        ({"customer_id": None, "customer_identifiers": {"id": 7}}, ("7", None)),
        ({"customer_id": "7", "customer_identifiers": None}, ("7", None)),
        ({"customer_id": "", "customer_identifiers": {"email": ""}, "recipient": "a@b.c"}, (None, "a@b.c")),
        ({"recipient": "a@b.c, d@e.f"}, (None, None)),
        ({"recipient": "a@b.c", "type": "push"}, (None, None)),
        ({"customer_id": True, "customer_identifiers": ["x"], "recipient": 7}, (None, None)),
    ],
)
def test_identity_of_a_row(fields: Row, expected: tuple[str | None, str | None]) -> None:
    assert identity(fields) == expected


# ------------------------------------------------------------------------------------- first ones


def firsts(history: History) -> dict[tuple[str, str], Truth]:
    truth = [one for one in history.truth(every=True, drafts=True) if one.metric in {"opened", "clicked"}]
    found = {(one.delivery_id, one.metric): one for one in truth if one.first}
    assert len(found) == sum(one.first for one in truth), "one of each delivery and metric"
    return found


@pytest.mark.parametrize("same_second", [0.0, 0.5, 1.0])
def test_first_open_has_metric_time(same_second: float) -> None:
    history = generate(same_second=same_second)
    found = firsts(history)
    told = {(one.delivery_id, one.metric): one.time for one in history.truth(drafts=True)}
    assert {key: one.time for key, one in found.items()} == {
        key: time for key, time in told.items() if key[1] in {"opened", "clicked"}
    }
    beside: dict[tuple[str, str], list[Truth]] = {}
    for one in history.truth(every=True, drafts=True):
        if one.metric in {"opened", "clicked"} and one.time == told[one.delivery_id, one.metric]:
            beside.setdefault((one.delivery_id, one.metric), []).append(one)
    metrics = {row["id"]: row["metrics"] for row in rows_of(history)}
    for key, those in beside.items():
        by_person = metrics[key[0]].get(f"human_{key[1]}") == those[0].time
        candidates = [one for one in those if not by_person or not (one.prefetched or one.machine)]
        assert found[key].activity_id == min(str(one.activity_id) for one in candidates)
    twins = [those for those in beside.values() if len(those) > 1]
    if same_second == 1:
        uncounted = {one.id for one in history.deliveries if not one.counts}
        assert all(len(those) > 1 for key, those in beside.items() if key[0] in uncounted)
    if same_second:
        assert len(twins) / len(beside) > 0.25 * same_second
        assert {len(those) for those in twins} == {2, 3}
        mixed = [those for those in twins if len({one.prefetched or one.machine for one in those}) == 2]
        automatic = [min(those, key=lambda one: str(one.activity_id)) for those in mixed]
        assert len({one.prefetched or one.machine for one in automatic}) == 2, "first by a machine, and by a person"
    assert all(one.first for one in history.truth()), "where only first ones are told, all are"
    assert any(one.prefetched for one in found.values())


def test_twins_agree_with_activities() -> None:
    history = generate(same_second=1.0, deliveries=800)
    with Sandbox(history, Settings(now=END + 200 * DAY)) as sandbox:
        pages = chain(sandbox, path="/v1/activities", limit=100, type="opened_email")
    shown = [(one["id"], one["timestamp"]) for page in pages for one in page["activities"]]
    truth = history.truth(metrics={"opened"}, channels={"email"}, every=True, drafts=True)
    assert sorted(shown) == sorted((str(one.activity_id), one.time) for one in truth)
    opens = Counter(one.delivery_id for one in truth)
    for one in history.deliveries:
        counted = sum(one.counts.get(f"{by}_opened", 0) for by in ("human", "prefetch"))
        assert not counted or one.channel != "email" or opens[one.id] == counted


@pytest.mark.parametrize("lean", [False, True])
def test_metrics_of_first_engagements(lean: bool) -> None:
    history = generate(lean=lean)
    every: dict[str, list[Truth]] = {}
    for one in history.truth(every=True, drafts=True):
        if one.metric in {"opened", "clicked"}:
            every.setdefault(one.delivery_id, []).append(one)
    numbers: dict[str, int] = {}
    kinds: Counter[str] = Counter()
    late_people = 0
    for shown in rows_of(history):
        metrics = shown["metrics"]
        beside = {key: time for key, time in metrics.items() if base_of(key) != key}
        kinds.update(key.partition(":")[0] for key in beside)
        expected: dict[str, int] = {}
        for one in every.get(shown["id"], []) if beside else []:
            by_person = not (one.machine or one.prefetched)
            keys = [f"human_{one.metric}" if by_person else f"prefetch_{one.metric}"]
            if one.link is not None:
                number = numbers.setdefault(one.link, link_id(one.link))
                keys += [f"link:{number}", f"human_link:{number}"] if by_person else [f"link:{number}"]
            for key in keys:
                expected[key] = min(one.time, expected.get(key, one.time))
        assert beside == expected
        links = [time for key, time in beside.items() if key.startswith("link:")]
        assert not links or min(links) == metrics["clicked"]
        assert shown["deduplicate_id"] == f"{shown['id']}:{max(metrics.values())}"
        late_people += "prefetch_opened" in beside and beside.get("human_opened", 0) > metrics["opened"]
    assert set(kinds) == {"human_opened", "prefetch_opened", "human_clicked", "prefetch_clicked", "link", "human_link"}
    assert min(kinds.values()) > 10
    assert len(set(numbers.values())) == len(numbers) > 3
    assert late_people > 10, "a person opens what was fetched before"


def test_further_metrics() -> None:
    generated = generate()
    full, truth = rows_of(generated), generated.truth()
    bare = [one | {"metrics": {k: t for k, t in one["metrics"].items() if base_of(k) == k}} for one in full]
    assert History(full).truth() == truth
    assert History(bare).truth() == [replace(one, prefetched=False, machine=False, link_id=None) for one in truth]
    assert any(one.prefetched for one in truth)
    types = [{one["type"] for one in History(rows).activities.rows()} for rows in (bare, full)]
    assert types[0] == types[1]
    assert len(reports(History(bare))) == len(reports(History(full)))


def test_first_of_given_activities() -> None:
    given = [
        {"id": id, "type": "opened_email", "timestamp": time, "delivery_id": "a", "data": {"prefetched": id == "B"}}
        for id, time in (("C", START + 5), ("B", START + 5), ("A", START + 9))
    ]
    history = History([row("a", metrics={"opened": START + 5})], activities=given)
    told = [(one.activity_id, one.first, one.prefetched) for one in history.truth(every=True)]
    assert told == [("B", True, True), ("C", False, False), ("A", False, False)]
    history = History([row("a", metrics={"opened": START + 4})], activities=given)
    assert [one.first for one in history.truth(every=True)] == [False] * 3, "the first one is not listed"

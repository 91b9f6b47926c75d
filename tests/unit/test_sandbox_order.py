"""Check the troubles of the sandbox's lists: their order, rows that come in meanwhile, late rows, cursors."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import quote

import pytest

from tests.sandbox import History, Sandbox, Settings
from tests.sandbox.delivery import base_of
from tests.sandbox.rows import Filter, Ordering
from tests.unit.test_sandbox import DAY, END, START, ask, chain, ids, row, rows_of

Row = dict[str, Any]


@pytest.fixture(scope="module")
def history() -> History:
    return History.generate(seed=7, deliveries=3000, start=START, end=END, drafts=0)


@pytest.fixture
def sandbox(world: Sandbox, history: History) -> Sandbox:
    world.reset()
    world.settings = Settings(now=END + 40 * DAY)
    world.history = history
    return world


def listed(sandbox: Sandbox, key: str = "messages", path: str = "/v1/messages", **params: Any) -> list[Row]:
    params = {"limit": 100} | params
    return [row for page in chain(sandbox, path=path, **params) for row in page[key] or []]


def seconds_out_of_order(rows: list[Row]) -> list[int]:
    """Return, for each row out of order, how much older than it some row ahead of it is."""
    found, oldest = [], rows[0]["created"]
    for one in rows:
        if one["created"] > oldest:
            found.append(one["created"] - oldest)
        oldest = min(oldest, one["created"])
    return found


# ------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("order", ["newest", "oldest", "shuffled", "nearly"])
def test_every_order_is_complete(sandbox: Sandbox, history: History, order: Any) -> None:
    sandbox.settings.order = order
    sandbox.settings.displaced, sandbox.settings.displaced_by = 0.2, 7200
    whole = listed(sandbox)
    assert sorted(one["id"] for one in whole) == sorted(one["id"] for one in rows_of(history))
    assert listed(sandbox, limit=333) == whole
    for start, end in ((START + DAY, START + 2 * DAY), (START + 100, START + DAY + 5)):
        part = listed(sandbox, start_ts=start, end_ts=end)
        assert part == [one for one in whole if start <= one["created"] <= end]
        assert len(part) > 100
    emails = listed(sandbox, type="email", start_ts=START + DAY)
    assert emails == [one for one in whole if one["type"] == "email" and one["created"] >= START + DAY]


def test_orders(sandbox: Sandbox) -> None:
    newest = listed(sandbox)
    assert seconds_out_of_order(newest) == []
    sandbox.settings.order = "oldest"
    assert listed(sandbox) == newest[::-1]
    sandbox.settings.order = "shuffled"
    shuffled = [one["created"] for one in listed(sandbox)]
    assert 0.4 < sum(earlier < later for earlier, later in pairwise(shuffled)) / len(shuffled) < 0.6


@pytest.mark.parametrize(("share", "seconds"), [(0.003, 600), (0.1, 60), (1.0, 2)])
def test_nearly_newest_first(sandbox: Sandbox, history: History, share: float, seconds: int) -> None:
    newest = listed(sandbox)
    sandbox.settings.order = "nearly"
    sandbox.settings.displaced, sandbox.settings.displaced_by = share, seconds
    nearly = listed(sandbox)
    assert nearly != newest
    late = seconds_out_of_order(nearly)
    assert 0 < max(late) <= 2 * seconds
    moved = history.rows.displaced(sandbox.settings.ordering)
    assert len(moved) / len(newest) == pytest.approx(share, rel=0.5)
    assert {amount > 0 for amount in moved.values()} == {True, False}
    assert all(1 <= abs(amount) <= seconds for amount in moved.values())
    # Without those that were moved the order is the usual one.
    stayed = {one["id"] for at, one in enumerate(rows_of(history)) if at not in moved}
    assert [one for one in nearly if one["id"] in stayed] == [one for one in newest if one["id"] in stayed]


def test_rows_cross_pages(sandbox: Sandbox) -> None:
    """A row of a later page is newer than the last one of an earlier page."""
    sandbox.settings.order = "nearly"
    sandbox.settings.displaced, sandbox.settings.displaced_by = 0.02, 3 * 3600
    pages = [page["messages"] for page in chain(sandbox, limit=50)]
    crossed = [
        later["created"] > earlier["created"]
        for page, following in pairwise(pages)
        for earlier in page[-1:]
        for later in following
    ]
    assert sum(crossed) >= 5


@pytest.mark.parametrize("order", ["nearly", "shuffled", "oldest"])
def test_order_is_computed_once(order: Any) -> None:
    rows = History().rows
    for number in range(100_000):
        rows.add(
            b"%d" % number,
            created=END - number // 10,
            type="email",
            metrics={},
            draft=False,
            campaign_id=None,
            newsletter_id=None,
            action_id=None,
        )
    ordering = Ordering(order, 0.01, 60)
    first = rows.listing(Filter(type="email"), START, END, ordering)
    begun = time.process_time()
    for _ in range(500):
        assert rows.listing(Filter(type="email"), START, END, ordering)[7] == first[7]
    assert time.process_time() - begun < 0.5, "a millisecond for each page is more than enough"


# ------------------------------------------------------------- rows that come in while a list is read


def test_pages_repeat_rows(sandbox: Sandbox) -> None:
    everything = [one["id"] for one in listed(sandbox)]
    sandbox.settings.repeated_rows = 3
    pages = [[one["id"] for one in page["messages"]] for page in chain(sandbox, limit=100)]
    assert all(later[:3] == earlier[-3:] for earlier, later in pairwise(pages))
    assert list(dict.fromkeys(id for page in pages for id in page)) == everything
    sandbox.settings.repeated_rows = 50
    sandbox.history = History([row(str(number)) for number in range(6)])
    few = [[one["id"] for one in page["messages"]] for page in chain(sandbox, limit=3)]
    assert few == [["0", "1", "2"], ["1", "2", "3"], ["2", "3", "4"], ["3", "4", "5"]], "every chain ends"


def test_activity_pages_repeat_rows(sandbox: Sandbox) -> None:
    everything = [one["id"] for one in listed(sandbox, "activities", "/v1/activities", type="opened_email")]
    sandbox.settings.repeated_rows = 2
    pages = chain(sandbox, path="/v1/activities", limit=100, type="opened_email")
    found = [[one["id"] for one in page["activities"]] for page in pages]
    assert len(found) > 2
    assert all(later[:2] == earlier[-2:] for earlier, later in pairwise(found))
    assert list(dict.fromkeys(id for page in found for id in page)) == everything


@pytest.mark.parametrize("order", ["newest", "oldest", "nearly"])
def test_deliveries_come_in_over_time(sandbox: Sandbox, order: Any) -> None:
    sandbox.history = History([row(str(number), START + number) for number in range(100)])
    sandbox.settings = Settings(visible_from_creation=True, now=START + 49, order=order, displaced=0.5)
    bounds = {"start_ts": START, "end_ts": START + 200}
    assert sorted(map(int, ids(sandbox, limit=100, **bounds))) == list(range(50))
    assert ask(sandbox, "/v1/messages/49").status_code == 200
    assert ask(sandbox, "/v1/messages/50").status_code == 404
    sandbox.settings.now = START + 200
    assert len(ids(sandbox, limit=100, **bounds)) == 100
    sandbox.settings.now, sandbox.settings.visible_from_creation = START, False
    assert len(ids(sandbox, limit=100, **bounds)) == 100


@pytest.mark.parametrize(("cursors", "expected"), [("stable", [4, 3, 2, 1, 0]), ("offset", [6, 5, 4, 3, 2])])
def test_new_rows_move_offset_cursors(sandbox: Sandbox, cursors: Any, expected: list[int]) -> None:
    sandbox.history = History([row(str(number), START + number) for number in range(20)])
    sandbox.settings = Settings(visible_from_creation=True, now=START + 9, cursors=cursors)
    bounds: Row = {"start_ts": START, "end_ts": START + 200, "limit": 5}
    first = ask(sandbox, **bounds).json()
    assert [int(one["id"]) for one in first["messages"]] == [9, 8, 7, 6, 5]
    sandbox.settings.now = START + 11
    second = ask(sandbox, start=first["next"], **bounds).json()
    assert [int(one["id"]) for one in second["messages"]] == expected


# -------------------------------------------------------------------------------- drafts that are sent


def leaving(count: int) -> History:
    """Return drafts, newest first, of which each is sent a minute after the one before it in the list."""
    return History(
        [
            row(
                str(number),
                START + 100 - number,
                metrics={
                    "created": START + 100 - number,
                    "drafted": START + 100 - number,
                    "sent": START + 1000 + 60 * number,
                    "opened": START + 1010 + 60 * number,
                },
            )
            for number in range(count)
        ],
        drafts=set(map(str, range(count))),
    )


@pytest.mark.parametrize("order", ["newest", "oldest", "shuffled", "nearly"])
def test_sent_draft_leaves_its_list(sandbox: Sandbox, order: Any) -> None:
    sandbox.history = leaving(10)
    for sent in (0, 3, 10):
        sandbox.settings = Settings(now=START + 1000 + 60 * sent - 1, order=order)
        assert sorted(ids(sandbox, drafts="true"), key=int) == [str(number) for number in range(sent, 10)]
        assert sorted(ids(sandbox), key=int) == [str(number) for number in range(sent)]
    sandbox.settings.now = START + 1060
    assert "1" in ids(sandbox), "it is sent at this very second"


def test_sent_drafts_move_rows_up(sandbox: Sandbox) -> None:
    sandbox.history = leaving(10)
    sandbox.settings = Settings(now=START + 999)
    first = ask(sandbox, drafts="true", limit=4).json()
    sandbox.settings.now = START + 1060
    second = ask(sandbox, drafts="true", limit=4, start=first["next"]).json()
    assert [one["id"] for page in (first, second) for one in page["messages"]] == list("01236789"), "4 and 5 are missed"
    sandbox.settings.now = START + 1000 + 60 * 8
    again = ask(sandbox, drafts="true", limit=4, start=first["next"]).json()
    assert [one["id"] for one in again["messages"]] == ["9"], "the list is shorter than the cursor, and restarts"


def test_draft_hides_later_metrics(sandbox: Sandbox) -> None:
    sandbox.history = leaving(2)
    truth = [(one.delivery_id, one.metric, one.time - START) for one in sandbox.history.truth()]
    assert truth == [
        ("1", "drafted", 99),
        ("0", "drafted", 100),
        ("0", "sent", 1000),
        ("0", "opened", 1010),
        ("1", "sent", 1060),
        ("1", "opened", 1070),
    ]
    for late in (None, 0):
        sandbox.settings = Settings(now=START + 1005, visible_after=late)
        (draft,) = ask(sandbox, drafts="true").json()["messages"]
        assert draft == ask(sandbox, "/v1/messages/1").json()["message"]
        assert draft["metrics"].keys() == {"created", "drafted"}
        (sent,) = ask(sandbox).json()["messages"]
        assert sent["metrics"].keys() == {"created", "drafted", "sent"} | (set() if late == 0 else {"opened"})
        assert ids(sandbox, drafts="true", metric="sent") == []
        assert ids(sandbox, metric="sent") == ["0"]
    assert sandbox.history.truth() == leaving(2).truth()


def test_drafts_shrink_while_read(sandbox: Sandbox) -> None:
    """The clock goes on, as with growing lists."""
    sandbox.history = leaving(100)
    sandbox.settings = Settings(now=START + 990, now_per_request=60)
    found = [int(one["id"]) for page in chain(sandbox, drafts="true", limit=30) for one in page["messages"]]
    assert found == [number for number in range(1, 100) if number not in {31, 62, 93}], "one at the end of each page"


# ------------------------------------------------------------------------- metrics that are shown late


def test_metrics_are_shown_late(sandbox: Sandbox, history: History) -> None:
    late = 1800
    moment = START + 2 * DAY + 5000
    sandbox.settings = Settings(now=moment, visible_after=late)
    true = {one["id"]: one for one in rows_of(history)}
    shown = listed(sandbox)
    assert {one["id"] for one in shown} == {id for id, one in true.items() if one["created"] <= moment}, (
        "those with no metric yet are no drafts"
    )
    waiting = 0
    for one in shown:
        whole = true[one["id"]]
        assert one["metrics"]["created"] == one["created"] == whole["created"]
        assert one["metrics"].items() <= whole["metrics"].items()
        for metric, value in whole["metrics"].items():
            if metric == "created":
                continue
            if value <= moment - late:
                assert metric in one["metrics"]
            elif value > moment:
                assert metric not in one["metrics"]
            else:
                waiting += metric not in one["metrics"]
        assert {base_of(key) for key in one["metrics"]} <= one["metrics"].keys()
        assert one["deduplicate_id"] == f"{one['id']}:{max(one['metrics'].values())}"
    assert waiting > 5
    assert any(one["metrics"].keys() == {"created"} for one in shown)


def test_lateness_is_consistent(sandbox: Sandbox) -> None:
    moment = START + 2 * DAY + 5000
    sandbox.settings = Settings(now=moment, visible_after=3600)
    messages = {one["id"]: one for one in listed(sandbox)}
    everything = listed(sandbox, "activities", "/v1/activities")
    activities = [one for one in everything if "delivery_id" in one]
    assert all(one["timestamp"] <= moment for one in everything)
    first = {
        (one["delivery_id"], one["type"].removesuffix("_" + messages[one["delivery_id"]]["type"]), one["timestamp"])
        for one in activities
    }
    told = {
        (id, metric, value)
        for id, one in messages.items()
        for metric, value in one["metrics"].items()
        if base_of(metric) == metric != "created"
    }
    assert told <= first
    beside = {
        (id, base_of(key), time)
        for id, one in messages.items()
        for key, time in one["metrics"].items()
        if base_of(key) != key
    }
    assert beside <= first
    assert beside - told, "some of later opens and clicks"
    assert {(id, metric) for id, metric, _ in first} == {(id, metric) for id, metric, _ in told}
    some = [id for id, one in messages.items() if one["created"] > moment - 4000]
    for id in some[:20]:
        assert ask(sandbox, f"/v1/messages/{quote(id)}").json() == {"message": messages[id]}


def test_shown_metrics_never_disappear(sandbox: Sandbox) -> None:
    one = row("a", START, metrics={"created": START, "sent": START + 1, "opened": START + 50})
    sandbox.history = History([one])
    sandbox.settings = Settings(visible_after=100)
    before: set[str] = set()
    seen: dict[str, int] = {}
    for moment in range(START, START + 152):
        sandbox.settings.now = moment
        now = ask(sandbox, "/v1/messages/a").json()["message"]["metrics"].keys()
        assert before <= now
        for metric in now - before:
            seen[metric] = moment
        before = set(now)
    assert seen["created"] == START
    assert START + 1 < seen["sent"] <= START + 101
    assert START + 50 < seen["opened"] <= START + 150


def test_failure_message_is_late_too(sandbox: Sandbox) -> None:
    metrics = {"created": START, "sent": START, "bounced": START + 50}
    sandbox.history = History([row("a", START, metrics=metrics, failure_message="mailbox full")])
    for moment, message in ((START + 49, None), (START + 50, "mailbox full")):
        sandbox.settings = Settings(visible_after=0, now=moment)
        assert ask(sandbox, "/v1/messages/a").json()["message"]["failure_message"] == message


def test_metric_filter(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(now=START + 2 * DAY, visible_after=7200, cursors="offset")
    both: tuple[Literal["offset", "stable"], ...] = ("offset", "stable")
    for cursors in both:
        sandbox.settings.cursors = cursors
        everything = listed(sandbox)
        opened = [one for one in everything if "opened" in one["metrics"]]
        assert listed(sandbox, metric="opened", limit=20) == opened
        assert len(opened) > 40


def test_activities_come_in_over_time(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(visible_after=0, now=START + DAY, cursors="offset", activity_disorder=0)
    asked: dict[str, Any] = {"path": "/v1/activities", "type": "opened_email", "limit": 20}
    first = ask(sandbox, **asked).json()
    again = ask(sandbox, **asked, start=first["next"]).json()["activities"]
    sandbox.settings.now = START + DAY + 3600
    moved = ask(sandbox, **asked, start=first["next"]).json()["activities"]
    assert moved != again
    assert any(one in first["activities"] for one in moved)
    sandbox.settings.cursors = "stable"
    stable = ask(sandbox, **asked).json()
    sandbox.settings.now = START + DAY + 7200
    following = ask(sandbox, **asked, start=stable["next"]).json()["activities"]
    assert not any(one in stable["activities"] for one in following)
    assert len(following) == 20

"""The arithmetic of the picture, in Chromium, on made-up runs."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

from tests.unit.flow.support import DAY, FIRST, ORIGIN, PREFIX, MadeUp, Server, moment, result

HOUR = timedelta(hours=1)

READ = """async (values) => {
  const {readResult} = await import("./flow.js");
  return Object.fromEntries(Object.entries(values).map(([id, value]) => [id, readResult(value)]));
}"""

PICTURE = """async ([runs, instances, results, known]) => {
  const flow = await import("./flow.js");
  const jobs = flow.jobsOf(runs, instances, new Map(Object.entries(results)));
  const due = known.dag && flow.dueOf(known.dag, runs, jobs, known.now);
  const pieces = flow.piecesOf(jobs, {...known, due});
  const plain = ({start, end, state, job}) => [flow.label({start, end}), state, job?.runId ?? null];
  const names = flow.collectionsOf(pieces);
  const rows = Object.fromEntries(names.map((name) => [name, flow.rowOf(pieces, ({events}) => events[name] ?? 0)]));
  return {
    pieces: pieces.map(plain),
    spans: pieces.map(({start, end}) => [start, end]),
    sentences: flow.sentencesOf(pieces, jobs.filter((job) => !job.span)).map(({head, items}) =>
      [head, ...items.map(({text, job}) => [text, job?.runId ?? null])]),
    sums: Object.fromEntries(Object.entries(rows).map(([name, {sum}]) => [name, sum])),
    most: Object.fromEntries(Object.entries(rows).map(([name, {most}]) => [name, most])),
    refused: flow.rowOf(pieces, ({refused}) => flow.total(refused)).sum,
    ages: flow.agesOf(pieces),
    lines: pieces.map(flow.lineOf),
  };
}"""


@pytest.fixture(scope="module")
def flow(browser: Browser) -> Page:
    """Open a page beside the modules. They keep nothing, so all tests can share it."""
    page = browser.new_page()
    Server(page)
    page.goto(f"{ORIGIN}{PREFIX}/cio-flow/icon.svg")
    return page


def pictured(flow: Page, made: MadeUp, *, unread: Collection[str] = (), **known: Any) -> Any:
    """Return the page's picture of these runs. All results are read, except the named ones."""
    ids = {one["id"] for one in made.instances if one["state"] in ("success", "failed")} - set(unread)
    values = {one: made.results.get(one) for one in ids}
    results = flow.evaluate(READ, values)
    return flow.evaluate(PICTURE, [made.runs, made.instances, results, known])


def test_all_is_there(flow: Page) -> None:
    made = MadeUp()
    made.days(3)
    found = pictured(flow, made)
    assert found["pieces"] == [[f"2026-11-0{i}", "done", f"scheduled__2026-11-0{i}T00:00:00Z"] for i in (1, 2, 3)]
    assert found["sentences"] == [["All 3 intervals are done"]]
    assert found["sums"] == {"Email Delivered": 300, "Email Opened": 120}


def test_gap_failure_and_wait(flow: Page) -> None:
    made = MadeUp()
    made.days(2)
    failed = made.add(FIRST + 5 * DAY, "failed", length=2 * DAY)
    waits = made.add(FIRST + 7 * DAY, "up_for_reschedule")
    assert pictured(flow, made)["sentences"] == [
        ["2 of 7 intervals are done"],
        ["3 never ran", ["2026-11-03 to 2026-11-05 (3 intervals)", None]],
        ["1 failed", ["2026-11-06 to 2026-11-07", failed]],
        ["1 not done yet", ["2026-11-08", waits]],
    ]


def test_the_next_run_shows_a_gap_at_the_end(flow: Page) -> None:
    made = MadeUp()
    made.days(2)
    at = FIRST.timestamp() * 1000
    next_one = {"start": at + 4 * 86_400_000, "end": at + 5 * 86_400_000}
    assert pictured(flow, made, next=next_one)["pieces"][-1] == ["2026-11-03 to 2026-11-04", "missing", None]
    made.results = {key: result(FIRST - DAY) for key in made.results}  # its own interval, not the planned one
    assert pictured(flow, made, next=next_one)["pieces"] == [["2026-10-31", "done", "scheduled__2026-11-02T00:00:00Z"]]


def due(first: datetime, now: datetime, length: timedelta = DAY) -> dict[str, Any]:
    """Return what the page knows of a DAG whose next interval, that no run was made for, is this one."""
    end = first + length
    dag = {"next_dagrun_data_interval_start": moment(first), "next_dagrun_data_interval_end": moment(end)}
    return {"dag": dag | {"next_dagrun_run_after": moment(end)}, "now": now.timestamp() * 1000}


def test_no_run_was_made(flow: Page) -> None:
    """The scheduler was off: all intervals that have ended since then are missing, and the one of today is not."""
    made = MadeUp()
    made.days(2)
    found = pictured(flow, made, **due(FIRST + 2 * DAY, FIRST + 5 * DAY + 6 * HOUR))
    assert found["sentences"] == [
        ["2 of 5 intervals are done"],
        ["3 never ran", ["2026-11-03 to 2026-11-05 (3 intervals)", None]],
    ]
    assert pictured(flow, made, **due(FIRST + 2 * DAY, FIRST + 2 * DAY + 6 * HOUR))["pieces"][2:] == []
    nothing = pictured(flow, MadeUp(), **due(FIRST, FIRST + 7 * HOUR, HOUR))
    assert nothing["sentences"][1] == ["7 never ran", ["2026-11-01 00:00 to 07:00 (7 intervals)", None]]


@pytest.mark.parametrize(("minutes", "state"), [(59, "waiting"), (61, "missing")])
def test_a_run_is_made_soon(flow: Page, minutes: int, state: str) -> None:
    """After the last run, as with `max_active_runs`, or after the interval's end."""
    made = MadeUp()
    made.days(2)
    end = FIRST + 3 * DAY
    known = due(FIRST + 2 * DAY, end + timedelta(minutes=minutes))
    assert pictured(flow, made, **known)["pieces"][2:] == [["2026-11-03", state, None]]
    made.runs[1]["end_date"] = moment(end + 9 * HOUR)
    known = due(FIRST + 2 * DAY, end + 9 * HOUR + timedelta(minutes=minutes))
    assert pictured(flow, made, **known)["pieces"][2:] == [["2026-11-03", state, None]]


def test_a_run_waits_for_another(flow: Page) -> None:
    made = MadeUp()
    made.days(1)
    made.add(FIRST + DAY, "running")
    found = pictured(flow, made, **due(FIRST + 2 * DAY, FIRST + 9 * DAY))
    assert found["sentences"][1] == [
        "8 not done yet",
        ["2026-11-02", made.runs[1]["dag_run_id"]],
        ["2026-11-03 to 2026-11-09 (7 intervals)", None],
    ]


def test_an_irregular_schedule_tells_one_interval_only(flow: Page) -> None:
    """As from Monday to Friday: how long the interval after the next is, is not known."""
    made = MadeUp()
    made.add(FIRST - DAY)
    made.add(FIRST, length=3 * DAY)
    made.add(FIRST + 3 * DAY)
    found = pictured(flow, made, **due(FIRST + 4 * DAY, FIRST + 9 * DAY))
    assert found["pieces"][3:] == [["2026-11-05", "missing", None]]


def test_a_run_by_hand_came_before(flow: Page) -> None:
    """What is due, and was done by a backfill, is not missing."""
    made = MadeUp()
    made.days(4)
    found = pictured(flow, made, **due(FIRST + 2 * DAY, FIRST + 4 * DAY + 6 * HOUR))
    assert found["sentences"] == [["All 4 intervals are done"]]


def test_a_repair_by_hand_counts(flow: Page) -> None:
    """Three hours failed, and one run over the whole day was started by hand, so that the day was sent once."""
    made = MadeUp()
    for hour in range(24):
        made.add(FIRST + hour * HOUR, "failed" if hour in (3, 4, 5) else "success", length=HOUR)
    repair = made.add(FIRST, name="manual", began=FIRST + 2 * DAY, has_interval=False)
    found = pictured(flow, made)
    assert found["pieces"] == [["2026-11-01", "done", repair]]
    assert found["sums"]["Email Delivered"] == 100


def test_a_part_counts_in_part(flow: Page) -> None:
    """Six hours are newer than the run over the day: three quarters of the day remain of it."""
    made = MadeUp()
    made.add(FIRST, name="manual")
    for hour in range(6):
        made.add(FIRST + hour * HOUR, length=HOUR, began=FIRST + 3 * DAY)
    found = pictured(flow, made)
    assert [piece[0] for piece in found["pieces"]][-2:] == [
        "2026-11-01 05:00 to 06:00",
        "2026-11-01 06:00 to 2026-11-02 00:00",
    ]
    assert found["sums"]["Email Delivered"] == 6 * 100 + 75


def test_ages_count_in_part(flow: Page) -> None:
    made = MadeUp()
    made.add(FIRST, name="manual", kept=result(FIRST, ages={"Email Opened": {"1h": 40}}))
    for hour in range(6):
        start = FIRST + hour * HOUR
        ages = {"Email Opened": {"1d": 5}}
        made.add(start, length=HOUR, began=FIRST + 3 * DAY, kept=result(start, HOUR, ages=ages))
    [opened] = pictured(flow, made)["ages"]
    assert (opened["sum"], opened["found"]["1h"]) == (6 * 5 + 30, 0.5)


def test_a_failed_repair_harms_nothing(flow: Page) -> None:
    made = MadeUp()
    made.days(1)
    made.add(FIRST, "failed", name="manual", began=FIRST + 9 * DAY)
    assert pictured(flow, made)["sentences"] == [["The only interval is done"]]


def test_a_preview_is_not_sent(flow: Page) -> None:
    made = MadeUp()
    made.days(1)
    preview = made.add(FIRST + DAY, kept=result(FIRST + DAY, preview=True, refused={"no_user_id": 3}))
    found = pictured(flow, made)
    assert found["sentences"][1] == ["1 never ran", ["2026-11-02 (only a preview)", preview]]
    assert (found["sums"]["Email Delivered"], found["refused"]) == (100, 0)
    assert "never ran (only a preview); would send 140 events: Email Delivered 100" in found["lines"][1]


def test_refused_events(flow: Page) -> None:
    """A run that fails for refused events leaves its counts; one with dead letters succeeds."""
    made = MadeUp()
    failed = made.add(FIRST, "failed", kept=result(FIRST, refused={"event_too_large": 2}))
    letters = {"path": "/somewhere", "events": {"malformed": 1}}
    kept = made.add(FIRST + DAY, kept=result(FIRST + DAY, dead_letters=letters))
    found = pictured(flow, made)
    assert found["sentences"] == [
        ["All 2 intervals are done"],
        [
            "2 with refused events",
            ["2026-11-01 (event_too_large 2)", failed],
            ["2026-11-02 (malformed 1)", kept],
        ],
    ]
    assert found["refused"] == 3
    assert "refused: malformed 1; skipped: other_channel 7" in found["lines"][1]


def test_unread_is_not_zero(flow: Page) -> None:
    made = MadeUp()
    made.days(2)
    found = pictured(flow, made, unread={made.instances[1]["id"]})
    assert found["sentences"] == [["All 2 intervals are done; the counts of 1 are not read yet"]]
    assert found["lines"][1] == "2026-11-02: done; counts not read yet"
    assert found["sums"]["Email Delivered"] == 100


@pytest.mark.parametrize("reference", ["s3://bucket/xcom/1", {"path": "s3://bucket"}, 7, ["a"]])
def test_own_xcom_backend(flow: Page, reference: Any) -> None:
    made = MadeUp()
    made.add(FIRST, kept=reference)
    assert pictured(flow, made)["sentences"] == [["The only interval is done; 1 without counts"]]


def test_mapped_instances_add_up(flow: Page) -> None:
    made = MadeUp()
    run = made.add(FIRST, map_indexes=range(3))
    made.instances[1]["state"] = "failed"
    del made.results[made.instances[1]["id"]]
    found = pictured(flow, made)
    assert found["pieces"] == [["2026-11-01", "failed", run]]
    assert found["sums"]["Email Delivered"] == 200


def test_mapped_over_days(flow: Page) -> None:
    made = MadeUp()
    made.add(FIRST, map_indexes=range(2), has_interval=False)
    made.results[made.instances[1]["id"]] = result(FIRST + DAY)
    assert [piece[0] for piece in pictured(flow, made)["pieces"]] == ["2026-11-01", "2026-11-02"]


def test_a_run_without_an_interval(flow: Page) -> None:
    """Some timetables give their runs no interval; the result tells it, unless the run failed."""
    made = MadeUp()
    made.add(FIRST, has_interval=False)
    lost = made.add(FIRST + DAY, "failed", has_interval=False)
    found = pictured(flow, made)
    assert found["pieces"][0][:2] == ["2026-11-01", "done"]
    assert found["sentences"][1:] == [["1 failed", [f"run {lost}", lost]]]
    assert pictured(flow, made, unread=[made.instances[0]["id"]])["sentences"] == [["1 failed", [f"run {lost}", lost]]]
    made.results.clear()
    assert pictured(flow, made)["sentences"][1][0] == "1 whose interval is unknown, because Airflow shows no result"


def test_a_run_that_waits_for_its_turn(flow: Page) -> None:
    made = MadeUp()
    made.days(1)
    queued = made.add(FIRST + DAY, "queued")
    made.instances.pop()
    old = made.add(FIRST + 2 * DAY)  # of a version of the DAG without our task
    made.instances.pop()
    found = pictured(flow, made)
    assert found["pieces"][1:] == [["2026-11-02", "waiting", queued]]
    assert old not in str(found)


def test_any_schedule(flow: Page) -> None:
    """Days of New York, when clocks change, and then hours: time outside every interval is missing."""
    made = MadeUp()
    edges = [(1, 4), (2, 5), (3, 5), (4, 5)]  # the first day has 25 hours
    times = [FIRST.replace(day=day, hour=hour) for day, hour in edges]
    for start, end in pairwise(times):
        made.add(start, length=end - start)
    for hour in (0, 1, 2, 4):
        made.add(times[-1] + hour * HOUR, length=HOUR)
    found = pictured(flow, made)
    assert found["sentences"][1] == ["1 never ran", ["2026-11-04 08:00 to 09:00", None]]
    assert found["most"]["Email Delivered"] == 100  # in an hour, which is the usual length here


BEST_FIRST = ["success", None, "failed"]
HOURS = st.tuples(st.integers(0, 20), st.integers(1, 8), st.sampled_from(BEST_FIRST))


def best(jobs: list[tuple[int, int, str | None]], hour: int) -> str:
    """Return the best state of each hour, `missing` if there is none."""
    there = [BEST_FIRST.index(state) for start, length, state in jobs if start <= hour < start + length]
    return ["done", "waiting", "failed"][min(there)] if there else "missing"


def test_each_hour_has_its_best_job(flow: Page) -> None:
    """Pieces of overlapping runs follow each other without a hole."""

    @given(jobs=st.lists(HOURS, min_size=1, max_size=9))
    @settings(max_examples=60)
    def check(jobs: list[tuple[int, int, str | None]]) -> None:
        made = MadeUp()
        for i, (start, length, state) in enumerate(jobs):
            made.add(FIRST + start * HOUR, state, length=length * HOUR, name=f"run {i}")
        found = pictured(flow, made)
        first, last = min(start for start, _, _ in jobs), max(start + length for start, length, _ in jobs)
        hours = [
            state
            for (_, state, _), (start, end) in zip(found["pieces"], found["spans"], strict=True)
            for _ in range(round((end - start) / 3_600_000))
        ]
        assert hours == [best(jobs, hour) for hour in range(first, last)]
        assert all(end == start for (_, end), (start, _) in pairwise(found["spans"]))

    check()


def test_ages(flow: Page) -> None:
    made = MadeUp()
    ages = {"1h": 60, "1d": 30, "30d": 8, "older": 2, "unknown": 5}
    made.add(FIRST, kept=result(FIRST, ages={"Email Opened": ages, "Email Bounced": {}}))
    made.add(FIRST + DAY, kept=result(FIRST + DAY, ages={"Email Opened": ages}))
    made.add(FIRST + 2 * DAY)
    [opened] = pictured(flow, made)["ages"]
    assert (opened["name"], opened["sum"]) == ("Email Opened", 200)
    found = {age: round(part, 3) for age, part in opened["found"].items()}
    assert found == {"1h": 0.6, "1d": 0.9, "2d": 0.9, "7d": 0.9, "30d": 0.98, "90d": 0.98, "180d": 0.98, "older": 1}


def test_a_span_is_named_by_its_days(flow: Page) -> None:
    made = MadeUp()
    made.add(FIRST, length=7 * DAY)
    made.add(FIRST + 7 * DAY, length=HOUR)
    assert [piece[0] for piece in pictured(flow, made)["pieces"]] == [
        "2026-11-01 to 2026-11-07",
        "2026-11-08 00:00 to 01:00",
    ]
    assert moment(FIRST) == "2026-11-01T00:00:00Z"

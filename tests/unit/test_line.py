"""The line against the sandbox: what must always hold (design.md 1 to 4)."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_cio import line
from airflow_provider_cio.interval import Interval
from airflow_provider_cio.line import Callbacks
from airflow_provider_cio.records import Misshapen
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.unit.support import DAY, EVERY_NAME, NOVEMBER, assert_kept_is_truth, run_line, truth_of


@pytest.fixture(scope="module")
def world() -> Iterator[Sandbox]:
    with Sandbox(History()) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(world: Sandbox) -> Sandbox:
    world.settings = Settings()
    world.history = History.generate(seed=5, deliveries=5000, start=NOVEMBER - 9 * DAY, end=NOVEMBER + 2 * DAY)
    world.reset()
    return world


STRETCH = Interval(NOVEMBER, NOVEMBER + 3 * DAY)


@st.composite
def stretches(draw: st.DrawFn) -> tuple[History, list[Interval]]:
    """A history, and its days cut anywhere into adjacent intervals, some bounds on occurrences themselves."""
    history = History.generate(
        seed=draw(st.integers(0, 10**6)),
        deliveries=draw(st.integers(0, 120)),
        start=NOVEMBER - 4 * DAY,
        end=NOVEMBER + 3 * DAY,
        burst=draw(st.sampled_from([0.0, 0.5, 1.0])),
        on_bounds=draw(st.sampled_from([0.0, 0.5])),
        drafts=draw(st.sampled_from([0.0, 0.2])),
        longest_lag=draw(st.sampled_from([3600, 2 * DAY, 28 * DAY])),
    )
    times = [row["time"] for row in truth_of(history, STRETCH, EVERY_NAME)]
    anywhere = st.integers(STRETCH.start + 1, STRETCH.end - 1)
    inside = [time for time in times if STRETCH.start < time < STRETCH.end]
    cut = st.one_of(anywhere, st.sampled_from(inside)) if inside else anywhere
    bounds = [STRETCH.start, *sorted(draw(st.sets(cut, max_size=6))), STRETCH.end]
    return history, [Interval(*pair) for pair in itertools.pairwise(bounds)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    stretch=stretches(),
    names=st.sampled_from([EVERY_NAME, ("Email Opened", "Email Link Clicked"), ("Email Drafted", "Email Sent")]),
    awkward=st.fixed_dictionaries(
        {
            "null_when_empty": st.booleans(),
            "empty_page_every": st.sampled_from([0, 1]),
            "last_next": st.sampled_from(["empty", "null", "absent"]),
            "trailing_page": st.booleans(),
            "drafts_wording": st.sampled_from(["instead", "both"]),
        }
    ),
    data=st.data(),
)
def test_adjacent_intervals_send_each_occurrence_exactly_once(
    world: Sandbox,
    stretch: tuple[History, list[Interval]],
    names: tuple[str, ...],
    awkward: dict[str, Any],
    data: st.DataObject,
) -> None:
    """Any cut, any order, some runs repeated: Segment keeps each occurrence once, and a repeat adds nothing."""
    history, intervals = stretch
    world.settings = Settings(**awkward)
    world.history = history
    world.reset()
    order = data.draw(st.permutations(intervals))
    for interval in order:
        run_line(world, interval, names=names)
    # The older wording lists what was dropped before it was sent among the drafts too; the ids are the same.
    both = awkward["drafts_wording"] == "both" and "Email Drafted" in names
    assert_kept_is_truth(world, STRETCH, names, duplicates=None if both else 0)
    kept = len(world.segment.kept)
    for interval in data.draw(st.lists(st.sampled_from(intervals), max_size=2)):
        run_line(world, interval, names=names)
    assert len(world.segment.kept) == kept


def test_a_look_back_that_is_too_short_misses_only_what_lies_further_back(sandbox: Sandbox) -> None:
    interval = Interval(NOVEMBER, NOVEMBER + DAY)
    report = run_line(sandbox, interval, lookback=2 * DAY)
    near = [row for row in truth_of(sandbox.history, interval) if row["created"] >= interval.start - 2 * DAY]
    far = len(truth_of(sandbox.history, interval)) - len(near)
    assert far > 0
    assert report.events.total() + report.skipped["unidentified"] == len(near)


def test_the_report_counts_what_was_done(sandbox: Sandbox) -> None:
    interval = Interval(NOVEMBER, NOVEMBER + DAY)
    report = run_line(sandbox, interval).as_dict()
    truth = truth_of(sandbox.history, interval)
    named = [row for row in truth if row["user_id"] or row["anonymous_id"]]
    assert report["interval"] == {"start": "2026-11-01T00:00:00Z", "end": "2026-11-02T00:00:00Z"}
    assert report["read"]["requests"] == len(sandbox.customerio.requests)
    assert {name: count for name, count in report["events"].items() if count} == Counter(
        row["collection"] for row in named
    )
    assert list(report["events"]) == [
        "Email Delivered",
        "Email Opened",
        "Email Link Clicked",
        "Email Unsubscribed",
        "Email Bounced",
        "Email Marked as Spam",
    ]
    assert report["sent"]["events"] == len(named)
    assert report["sent"]["batches"] == len(sandbox.segment.requests)
    assert report["skipped"].pop("unidentified") == len(truth) - len(named) > 0
    assert all(reason.startswith("unknown_metric email.") for reason in report["skipped"])


def test_an_event_too_large_for_segment_is_counted_and_the_others_are_sent(sandbox: Sandbox) -> None:
    def row(name: str, subject: str) -> dict[str, Any]:
        opened = {"opened": NOVEMBER + 5}
        return {
            "id": name,
            "type": "email",
            "created": NOVEMBER,
            "metrics": opened,
            "customer_id": "1",
            "subject": subject,
        }

    sandbox.history = History(deliveries=[row("big", "x" * 20_000), row("small", "x" * 10_000)])
    report = run_line(sandbox, Interval(NOVEMBER, NOVEMBER + 60))
    assert dict(report.refused) == {"event_too_large": 1}
    assert report.refusals() == "event_too_large: 1 (first deliveries: big)."
    assert [event["properties"]["delivery_id"] for event in sandbox.segment.kept] == ["small"]
    assert report.events["Email Opened"] == 1


def test_a_row_of_another_shape_is_refused_alone_by_the_interval_it_was_created_in(sandbox: Sandbox) -> None:
    odd = {"id": "odd=", "type": "email", "created": NOVEMBER, "metrics": {"opened": NOVEMBER + 5}, "subject": 7}
    odd["customer_id"] = "1"
    sandbox.history = History(deliveries=[odd, odd | {"id": "fine", "subject": "s"}])
    rows: list[Misshapen] = []
    callbacks = Callbacks(refused_row=rows.append)
    report = run_line(sandbox, Interval(NOVEMBER, NOVEMBER + 60), callbacks=callbacks)
    assert [event["properties"]["delivery_id"] for event in sandbox.segment.kept] == ["fine"]
    assert dict(report.refused) == {"misshapen": 1}
    assert re.search(r"misshapen: 1 \(first deliveries: odd=\).*got `int`.*subject", report.refusals())
    assert [(row.id, b'"subject":7' in row.raw) for row in rows] == [("odd=", True)]
    later = run_line(sandbox, Interval(NOVEMBER + 60, NOVEMBER + 120))
    assert dict(later.refused) == {}
    assert later.skipped["misshapen"] == 1


def test_whoever_waits_says_so(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line in the log comes while nothing else does: here, while Segment does not answer."""
    monkeypatch.setattr(line, "PROGRESS_EVERY", 0.05)
    sandbox.faults.add(Fault(side="segment", kind="timeout", at=0, seconds=1.0))
    calls: list[float] = []
    run_line(sandbox, Interval(NOVEMBER, NOVEMBER + DAY), callbacks=Callbacks(lambda: calls.append(time.monotonic())))
    assert len(calls) >= 10
    assert max(later - earlier for earlier, later in pairwise(calls)) < 0.5

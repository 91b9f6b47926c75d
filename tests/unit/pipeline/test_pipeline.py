"""Run the pipeline against the sandbox: invariants (design.md 1 to 4)."""

from __future__ import annotations

import gc
import itertools
import json
import re
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Self

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.events.event import MAX_EVENT_BYTES
from airflow_provider_cio.events.interval import Interval, Window
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.events.occurrence import Malformed, Occurrence, Piece
from airflow_provider_cio.pipeline import pipeline as line
from airflow_provider_cio.pipeline import ticker
from airflow_provider_cio.pipeline.checkpoint import Checkpoint
from airflow_provider_cio.pipeline.pipeline import Callbacks, Pipeline
from airflow_provider_cio.pipeline.preview import PreviewSink
from airflow_provider_cio.pipeline.result import Result, Tally
from airflow_provider_cio.segment.client import SegmentClient
from airflow_provider_cio.segment.sink import SegmentSink
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.unit.support import DAY, EVERY_NAME, NOVEMBER, assert_kept_is_truth, run_pipeline, truth_of

HISTORY = History.generate(seed=5, deliveries=5000, start=NOVEMBER - 9 * DAY, end=NOVEMBER + 2 * DAY)


STRETCH = Interval(NOVEMBER, NOVEMBER + 3 * DAY)


@st.composite
def stretches(draw: st.DrawFn) -> tuple[History, list[Interval]]:
    """Draw a history, and adjacent intervals cut anywhere, with some bounds on occurrences."""
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


@settings(max_examples=60)
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
def test_each_occurrence_is_sent_once(
    world: Sandbox,
    stretch: tuple[History, list[Interval]],
    names: tuple[str, ...],
    awkward: dict[str, Any],
    data: st.DataObject,
) -> None:
    """Segment keeps each occurrence once, for any cut and order, with some runs repeated. A repeat adds nothing."""
    history, intervals = stretch
    world.settings = Settings(**awkward)
    world.history = history
    world.reset()
    order = data.draw(st.permutations(intervals))
    for interval in order:
        run_pipeline(world, interval, names=names)
    # The older wording lists what was dropped before it was sent among the drafts too; the ids are the same.
    both = awkward["drafts_wording"] == "both" and "Email Drafted" in names
    assert_kept_is_truth(world, STRETCH, names, duplicates=None if both else 0)
    kept = len(world.segment.kept)
    for interval in data.draw(st.lists(st.sampled_from(intervals), max_size=2)):
        run_pipeline(world, interval, names=names)
    assert len(world.segment.kept) == kept


def test_short_look_back(sandbox: Sandbox) -> None:
    """The look-back decides by age, so a run over two days sends the same as eight runs of six hours each."""
    start, end = NOVEMBER, NOVEMBER + 2 * DAY
    found = []
    for length in (2 * DAY, DAY // 4):
        sandbox.reset()
        intervals = [Interval(at, at + length) for at in range(start, end, length)]
        results = [run_pipeline(sandbox, one, lookback=2 * DAY) for one in intervals]
        found.append({event["messageId"] for event in sandbox.segment.kept})
        assert sum(result.events.total() for result in results) == len(found[-1])
        assert sandbox.segment.duplicates == []
    assert found[0] == found[1]
    truth = [row for row in truth_of(sandbox.history, Interval(start, end)) if row["user_id"] or row["anonymous_id"]]
    near = [row for row in truth if row["time"] - row["created"] < 2 * DAY]
    assert len(truth) > len(near) == len(found[0])
    # The bound of the interval that it used to be would tell more of the one run than of the eight.
    assert len([row for row in truth if row["created"] >= start - 2 * DAY]) > len(near)


def test_the_report_counts_what_was_done(sandbox: Sandbox) -> None:
    interval = Interval(NOVEMBER, NOVEMBER + DAY)
    result = run_pipeline(sandbox, interval).as_dict()
    truth = truth_of(sandbox.history, interval)
    named = [row for row in truth if row["user_id"] or row["anonymous_id"]]
    assert result["interval"] == {"start": "2026-11-01T00:00:00Z", "end": "2026-11-02T00:00:00Z"}
    assert result["read"]["requests"] == len(sandbox.customerio.requests)
    assert {name: count for name, count in result["events"].items() if count} == Counter(
        row["collection"] for row in named
    )
    assert list(result["events"]) == [
        "Email Delivered",
        "Email Opened",
        "Email Link Clicked",
        "Email Unsubscribed",
        "Email Bounced",
        "Email Marked as Spam",
    ]
    assert result["sent"]["events"] == len(named)
    assert result["sent"]["batches"] == len(sandbox.segment.requests)
    assert result["skipped"].pop("unidentified") == len(truth) - len(named) > 0
    assert all(reason.startswith("unknown_metric email.") for reason in result["skipped"])


def test_oversized_event_is_counted(sandbox: Sandbox) -> None:
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
    result = run_pipeline(sandbox, Interval(NOVEMBER, NOVEMBER + 60))
    assert dict(result.refused) == {"event_too_large": 1}
    assert result.refusals() == "event_too_large: 1 (first ids: big)."
    assert [event["properties"]["delivery_id"] for event in sandbox.segment.kept] == ["small"]
    assert result.events["Email Opened"] == 1


def test_malformed_row_is_refused_alone(sandbox: Sandbox) -> None:
    odd = {
        "id": "odd=",
        "type": "email",
        "created": NOVEMBER,
        "metrics": {"opened": NOVEMBER + 5},
        "customer_identifiers": 7,
    }
    odd["customer_id"] = "1"
    sandbox.history = History(deliveries=[odd, odd | {"id": "fine", "customer_identifiers": None}])
    rows: list[Malformed] = []
    callbacks = Callbacks(refused_row=rows.append)
    result = run_pipeline(sandbox, Interval(NOVEMBER, NOVEMBER + 60), callbacks=callbacks)
    assert [event["properties"]["delivery_id"] for event in sandbox.segment.kept] == ["fine"]
    assert dict(result.refused) == {"malformed": 1}
    assert re.search(r"malformed: 1 \(first ids: odd=\).*got `int`.*customer_identifiers", result.refusals())
    assert [(row.id, b'"customer_identifiers":7' in row.raw) for row in rows] == [("odd=", True)]
    later = run_pipeline(sandbox, Interval(NOVEMBER + 60, NOVEMBER + 120))
    assert dict(later.refused) == {}
    assert later.skipped["malformed"] == 1


def test_malformed_row_without_an_id(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=[simple("fine")])
    sandbox.settings = Settings(odd_rows={"fine": "delivery.id:missing"})
    result = run_pipeline(sandbox, MINUTE)
    assert result.refused_ids == {"malformed": ["without an id"]}
    assert result.tally.read["deliveries"] == 1
    assert result.events.total() == 0


# People who can't be named


MINUTE = Interval(NOVEMBER, NOVEMBER + 60)


def simple(name: str, **changes: Any) -> dict[str, Any]:
    opened = {"id": name, "type": "email", "created": NOVEMBER, "metrics": {"opened": NOVEMBER + 5}}
    return opened | {"customer_id": "1", "subject": "s"} | changes


def nobody(name: str, cio_id: str | None) -> dict[str, Any]:
    return simple(name, customer_id=cio_id, customer_identifiers={"id": None, "email": None, "cio_id": cio_id})


@pytest.mark.parametrize(
    ("on_unidentified", "sent", "skipped", "refused"),
    [
        ("skip", {"named"}, 2, 0),
        ("cio_id", {"named", "cio_id"}, 1, 0),
        ("dead_letter", {"named"}, 0, 2),
    ],
)
def test_unidentified_people(
    sandbox: Sandbox, on_unidentified: str, sent: set[str], skipped: int, refused: int
) -> None:
    sandbox.history = History(deliveries=[simple("named"), nobody("cio_id", "c1"), nobody("nobody", None)])
    given: list[tuple[str, bytes]] = []
    callbacks = Callbacks(refused_event=lambda reason, event: given.append((reason, event)))
    result = run_pipeline(sandbox, MINUTE, callbacks=callbacks, on_unidentified=on_unidentified)
    assert {event["properties"]["delivery_id"] for event in sandbox.segment.kept} == sent
    assert result.events == Counter({"Email Opened": len(sent)})
    assert result.work["events"] == len(sent)
    assert result.skipped == Counter(unidentified=skipped)
    assert result.refused == Counter(unidentified=refused)
    told = [json.loads(event) for _, event in given]
    assert [reason for reason, _ in given] == ["unidentified"] * refused
    assert {event["properties"]["delivery_id"] for event in told} == set(result.refused_ids.get("unidentified", []))
    assert not any("userId" in event or "anonymousId" in event for event in told)
    if "cio_id" in sent:
        (event,) = (one for one in sandbox.segment.kept if one["properties"]["delivery_id"] == "cio_id")
        assert (event["anonymousId"], event.get("userId")) == ("c1", None)


def test_refusals_by_reason(sandbox: Sandbox) -> None:
    rows = [simple(f"odd{n}", customer_identifiers=7) for n in range(7)]
    rows += [simple("big", subject="x" * 40_000), simple("bad", subject="POISON"), nobody("nobody", None)]
    sandbox.history = History(deliveries=[*rows, *(simple(f"fine{n}") for n in range(20))])
    sandbox.settings = Settings(refuse_containing="POISON")
    given: list[str] = []
    read: list[Malformed] = []
    callbacks = Callbacks(refused_event=lambda reason, event: given.append(reason), refused_row=read.append)
    result = run_pipeline(sandbox, MINUTE, callbacks=callbacks, on_unidentified="dead_letter")
    assert dict(result.refused) == {"malformed": 7, "unidentified": 1, "event_too_large": 1, "refused_400": 1}
    assert sorted(given) == ["event_too_large", "refused_400", "unidentified"]
    assert len(read) == 7
    assert len(result.refused_ids["malformed"]) == 5
    assert "refused_400: 1 (first ids: bad)" in result.refusals()
    assert result.events == Counter({"Email Opened": 20})
    assert result.work["events"] == len(sandbox.segment.kept) == 20
    assert result.tally.read["deliveries"] == len(rows) + 20


def test_report_counts_retries(sandbox: Sandbox) -> None:
    assert not {"retried", "rate_limited"} & set(run_pipeline(sandbox, MINUTE).as_dict()["read"])
    sandbox.reset()
    sandbox.faults.add(Fault(side="customerio", kinds=("503", "429"), at=0, times=4))
    read = run_pipeline(sandbox, MINUTE).as_dict()["read"]
    assert (read["retried"], read["rate_limited"]) == (4, 2)
    assert read["requests"] == len(sandbox.customerio.requests)


# Whoever waits says so


@pytest.mark.parametrize("fault", [{"kind": "timeout", "seconds": 1.0}, {"kind": "503", "retry_after": 1.0}])
@pytest.mark.parametrize("side", ["customerio", "segment"])
def test_waiting_is_reported(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, side: Any, fault: dict[str, Any]
) -> None:
    """A line about the wait is logged when nothing else is: here, while a service does not answer."""
    monkeypatch.setattr(ticker, "PROGRESS_EVERY", 0.05)
    results: list[Result] = []
    sandbox.faults.add(Fault(side=side, at=0, **fault))
    calls: list[float] = []
    requests: list[int] = []

    def call(waits: str) -> None:
        assert threading.current_thread() is not main
        calls.append(time.monotonic())
        requests.append(results[0].work["requests"])

    main = threading.current_thread()
    run_pipeline(sandbox, Interval(NOVEMBER, NOVEMBER + DAY), callbacks=Callbacks(call), results=results)
    assert len(calls) >= 10
    assert max(later - earlier for earlier, later in pairwise(calls)) < 0.5
    assert requests[5] >= 1  # the counts are those of now
    time.sleep(0.15)
    assert len(calls) == len(requests)
    assert calls[-1] <= time.monotonic() - 0.15  # none comes after the end


def test_call_under_way_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise "So far" could be logged after "Done", and older counts could replace the last ones."""
    begun, ended = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        time.sleep(0.2)
        ended.set()

    monkeypatch.setattr(ticker, "PROGRESS_EVERY", 0.01)
    with ticker.ticking(slow):
        assert begun.wait(5)
    assert ended.is_set()


# Memory


class Pieces:
    """Source that makes each piece when it is drawn, and notes the memory in use at two of them."""

    def __init__(self, *, with_odd_ones: bool) -> None:
        self.held: list[int] = []
        self._with_odd_ones = with_odd_ones

    def pieces(self, done: Checkpoint) -> Iterator[Piece]:
        for part in range(120):
            if part in (19, 119):
                gc.collect()
                self.held.append(tracemalloc.get_traced_memory()[0])
            window = Window("email", NOVEMBER + part, NOVEMBER + part + 1)
            yield Piece(
                [opened(f"{part}.{number}") for number in range(50)],
                read=Counter(deliveries=50),
                window=window,
                last=True,
            )
            if self._with_odd_ones:
                large = opened(f"large {part}", subject="x" * MAX_EVENT_BYTES)
                odd = Malformed(b"x" * 10_000, f"odd {part}", f"odd {part}", NOVEMBER + part)
                yield Piece([large, opened(f"nobody {part}", customer_id=None)], [odd])

    def counts(self) -> dict[str, int]:
        return {}

    def waiting(self) -> str | None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def opened(name: str, **fields: Any) -> Occurrence:
    row = simple(name, subject=f"The subject of {name}") | fields
    return Occurrence(msgspec.convert(row, Delivery), CATALOG["Email Opened"], NOVEMBER + 5)


@pytest.mark.parametrize("with_odd_ones", [False, True])
def test_memory_does_not_grow(monkeypatch: pytest.MonkeyPatch, with_odd_ones: bool) -> None:
    """Neither events, nor refused ones, nor windows, which a checkpoint joins, stay. Here the sink keeps nothing."""
    monkeypatch.setattr(line, "CHECKPOINT_EVERY", 0.0)
    source = Pieces(with_odd_ones=with_odd_ones)
    told: Counter[str] = Counter()
    callbacks = Callbacks(
        refused_event=lambda reason, event: told.update([reason]),
        refused_row=lambda row: told.update(["malformed"]),
        save=lambda state: told.update(["saved"]),
    )
    result = Result(MINUTE, Tally(events=Counter({"Email Opened": 0})))
    sink = PreviewSink(SegmentSink(SegmentClient("key")), lambda event: None)
    run = Pipeline(source, Mapper("test"), sink, result, skip_unidentified=False, callbacks=callbacks)
    tracemalloc.start()
    run.run()
    tracemalloc.stop()
    assert result.events == {"Email Opened": 6000}
    # A refused event ends the saving.
    reasons = dict.fromkeys(["event_too_large", "unidentified", "malformed"], 120)
    assert told == (reasons | {"saved": 1} if with_odd_ones else {"saved": 120})
    early, late = source.held
    assert late - early < 20_000

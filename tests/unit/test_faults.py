"""Fault matrix: each fault of the sandbox, on each side, anywhere in the run, alone and mixed.

Faults that pass must leave Segment with the truth, and repeat no event but those of a request whose answer was
spoiled. Other faults must end the run at once, and say why.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.customerio import client as client_module
from airflow_provider_cio.customerio import reader as reading
from airflow_provider_cio.customerio.names import NAME_LISTS
from airflow_provider_cio.customerio.paging import MAX_IDLE_PAGES, OPEN
from airflow_provider_cio.events.catalog import DEFAULT_COLLECTIONS
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.exceptions import (
    ConfigurationError,
    CustomerIOToSegmentError,
    EventsRefusedError,
    TryAgainLaterError,
    UnexpectedDataError,
)
from airflow_provider_cio.http.transport import Retries
from airflow_provider_cio.pipeline import pipeline as line
from airflow_provider_cio.pipeline.checkpoint import Checkpoint, State
from airflow_provider_cio.pipeline.pipeline import Callbacks
from airflow_provider_cio.segment import batches as sending
from tests.sandbox import Fault, History, Sandbox, Settings
from tests.sandbox.faults import Kind, Side
from tests.sandbox.settings import Asked
from tests.unit.full import held, kept, of_mode, to_send
from tests.unit.support import DAY, NOVEMBER, assert_kept_is_truth, run_pipeline, small_pages, truth_of
from tests.unit.test_exactly_once import MODES, SETTLING, is_told, key, keys

INTERVAL = Interval(NOVEMBER, NOVEMBER + 3 * DAY)
#: Fifty examples, each with several runs, take minutes on a machine that others keep busy.
pytestmark = pytest.mark.timeout(600)
HISTORY = History.generate(seed=3, deliveries=700, start=NOVEMBER - 4 * DAY, end=NOVEMBER + 3 * DAY)
TRUTH = truth_of(HISTORY, INTERVAL)
EVENTS = sum(bool(row["user_id"] or row["anonymous_id"]) for row in TRUTH)
#: Requests that may be under way at once: pages, and lists of names beside them.
_BESIDE = reading.MAX_REQUESTS + len(NAME_LISTS)
#: The same as rows with the time that was sent: where the sandbox's clock isn't the real one, Segment moves the other.
SENT = to_send(held(HISTORY, [INTERVAL], DEFAULT_COLLECTIONS, every=False))
BATCH = 60  # events
BATCHES = ceil(EVENTS / BATCH)

HOUR = 3600
TIMEOUT = 0.4  # seconds, of the clients; shorter than the sandbox holds an answer
PASSING: dict[str, dict[str, Any]] = {
    "429": {"kind": "429"},
    "429 for seconds": {"kind": "429", "retry_after": 0.1},
    "429 until a date": {"kind": "429", "retry_after": "date", "seconds": -0.4},
    "500": {"kind": "500"},
    "502": {"kind": "502"},
    "503": {"kind": "503"},
    "503 for seconds": {"kind": "503", "retry_after": 0.1},
    "html": {"kind": "html"},
    "html200": {"kind": "html200"},
    "reset": {"kind": "reset"},
    "reset_after": {"kind": "reset_after"},
    "timeout": {"kind": "timeout", "seconds": 2.0},
    "truncated": {"kind": "truncated"},
    "truncated_json": {"kind": "truncated_json"},
    "200 in plain text": {"kind": "200", "body": "down for maintenance"},
    "200 in UTF-16": {"kind": "200", "body": "<html>Welcome</html>", "encoding": "utf-16"},
    "200 after a mark": {"kind": "200", "body": "<html>Welcome</html>", "encoding": "utf-8-sig"},
    "slow_head": {"kind": "slow_head", "seconds": 0.1},
    "slow_body": {"kind": "slow_body", "seconds": 0.1},
    "endless": {"kind": "endless"},
    "gzip_bomb": {"kind": "gzip_bomb"},
}
UNTIMELY = {"timeout", "slow_head", "slow_body"}
#: For mixes of many: not those that cost much time or traffic, and no 200 of something else.
KINDS: tuple[Kind, ...] = tuple(
    dict.fromkeys(
        fault["kind"]
        for fault in PASSING.values()
        if fault["kind"] not in {"200", "slow_head", "slow_body", "endless", "gzip_bomb"}
    )
)
#: The request itself was processed.
SPOILING = {
    "reset_after",
    "timeout",
    "truncated",
    "truncated_json",
    "slow_head",
    "slow_body",
    "endless",
    "gzip_bomb",
}


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Make pages and batches small, so that a small history has many of them."""
    with pytest.MonkeyPatch.context() as patch:
        small_pages(patch, 40)
        patch.setattr(sending, "MAX_BATCH_EVENTS", BATCH)
        yield


@pytest.fixture
def one_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send one request at a time to Customer.io, so that the n-th one is the n-th page."""
    monkeypatch.setattr(reading, "MAX_REQUESTS", 1)


@pytest.fixture(scope="module")
def pages(world: Sandbox) -> int:
    """Return the number of requests to Customer.io that a run without faults makes, one at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MAX_REQUESTS", 1)
        world.reset()
        world.history = HISTORY
        run_pipeline(world, INTERVAL)
    assert len(world.segment.requests) == BATCHES >= 4
    assert len(world.customerio.requests) >= 8
    return len(world.customerio.requests)


def struck(requests: list[Asked]) -> list[str]:
    return [asked.fault for asked in requests if asked.fault]


# Faults that pass


@pytest.mark.usefixtures("one_chain")
@pytest.mark.parametrize("side", ["customerio", "segment"])
@pytest.mark.parametrize("name", PASSING)
def test_passing_fault_costs_a_request(sandbox: Sandbox, pages: int, name: str, side: Side) -> None:
    """The fault strikes the first request, one in the middle and the last; each of them is made once more."""
    fault = PASSING[name]
    kind = fault["kind"]
    count = pages if side == "customerio" else BATCHES
    places = [0, count // 2 + 1, count + 1]  # a repeat moves those after it by one
    sandbox.faults.add(*(Fault(side=side, at=at, **fault) for at in places))
    run_pipeline(sandbox, INTERVAL, timeout=TIMEOUT if kind in UNTIMELY else 60)
    asked = sandbox.customerio.requests if side == "customerio" else sandbox.segment.requests
    assert [at for at, one in enumerate(asked) if one.fault] == places
    assert struck(sandbox.customerio.requests + sandbox.segment.requests) == [kind] * 3
    processed_twice = side == "segment" and kind in SPOILING
    assert_kept_is_truth(sandbox, INTERVAL, duplicates=None if processed_twice else 0)
    assert len(sandbox.segment.duplicates) <= 3 * BATCH
    assert len(sandbox.customerio.requests) == pages + 3 * (side == "customerio")
    assert len(sandbox.segment.requests) == BATCHES + 3 * (side == "segment")


@settings(max_examples=50)
@given(
    seeds=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    probability=st.sampled_from([0.03, 0.1, 0.3]),
    kinds=st.tuples(*[st.sets(st.sampled_from(KINDS), min_size=1).map(sorted) for _ in range(2)]),
    pauses=st.sampled_from([None, 0.02]),
    in_flight=st.sampled_from([1, 3, 12]),
)
def test_random_faults_lose_nothing(
    world: Sandbox,
    seeds: tuple[int, int],
    probability: float,
    kinds: tuple[list[Kind], list[Kind]],
    pauses: float | None,
    in_flight: int,
) -> None:
    world.settings = Settings()
    world.reset()
    sides: tuple[Side, Side] = ("customerio", "segment")
    for side, seed, some in zip(sides, seeds, kinds, strict=True):
        rare = probability / 5 if "timeout" in some else probability  # it costs its time
        world.faults.add(
            Fault(side=side, kinds=tuple(some), probability=rare, seed=seed, retry_after=pauses, seconds=2.0)
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MAX_REQUESTS", in_flight)
        retries = Retries(attempts=60, total=60.0, first=0.001, longest=0.01)
        result = run_pipeline(world, INTERVAL, retries=retries, timeout=TIMEOUT)
    spoiled = sum(asked.fault in SPOILING for asked in world.segment.requests)
    assert_kept_is_truth(world, INTERVAL, duplicates=None)
    assert len(world.segment.duplicates) <= spoiled * BATCH
    assert result.work["events"] == EVENTS
    assert result.skipped["unidentified"] == len(TRUTH) - EVENTS
    assert not result.refused
    assert result.work["requests"] == len(world.customerio.requests)


@pytest.mark.parametrize("side", ["customerio", "segment"])
def test_lasting_fault_is_left_to_a_retry(sandbox: Sandbox, side: Side) -> None:
    sandbox.faults.add(Fault(side=side, kind="503", at=1, times=10_000))
    with pytest.raises(TryAgainLaterError, match=r"answered 503: .*Gave up after 3 attempts"):
        run_pipeline(sandbox, INTERVAL, retries=Retries(attempts=3, total=5.0, first=0.001, longest=0.01))


def test_a_429_holds_all_readers_back(sandbox: Sandbox) -> None:
    """After one reader was told to wait, no reader asks within that time, except with requests already under way."""
    sandbox.settings = Settings(latency=0.01)
    sandbox.faults.add(Fault(side="customerio", kind="429", at=10, retry_after=0.6))
    run_pipeline(sandbox, INTERVAL)
    assert_kept_is_truth(sandbox, INTERVAL)
    asked = sandbox.customerio.requests
    told = next(one.time + one.seconds for one in asked if one.fault)
    assert [one for one in asked if told + 0.25 < one.time < told + 0.55] == []
    assert [one for one in asked if told + 0.55 <= one.time]


# Faults that do not pass


Errors = type[CustomerIOToSegmentError] | tuple[type[CustomerIOToSegmentError], ...]
FATAL: dict[str, tuple[Side, Kind, Errors, str]] = {
    "Customer.io 401": ("customerio", "401", ConfigurationError, r"answered 401: unauthorized.*App API key.*region"),
    "Customer.io 403": ("customerio", "403", TryAgainLaterError, r"answered 403: forbidden.*scope"),
    "Customer.io 400": ("customerio", "400", (UnexpectedDataError, TryAgainLaterError), r"answered 400: bad request"),
    "Customer.io 413": ("customerio", "413", UnexpectedDataError, r"answered 413: request entity too large"),
    "repeated cursor": ("customerio", "repeat_cursor", TryAgainLaterError, r"same next page twice"),
    "Segment 401": ("segment", "401", ConfigurationError, r"answered 401: Unauthorized.*write key.*region"),
    "Segment 403": ("segment", "403", ConfigurationError, r"answered 403: Forbidden.*write key"),
}


@pytest.mark.usefixtures("one_chain")
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("name", FATAL)
def test_fatal_fault_ends_the_run(sandbox: Sandbox, name: str, at: int) -> None:
    side, kind, error, message = FATAL[name]
    sandbox.faults.add(Fault(side=side, kind=kind, at=at, times=10_000))
    with pytest.raises(error, match=message) as caught:
        run_pipeline(sandbox, INTERVAL)
    assert sandbox.settings.app_key not in str(caught.value)
    assert sandbox.settings.write_key not in str(caught.value)
    if kind == "repeat_cursor":  # it shows once the same page was named twice; first pages of other windows come before
        assert len(sandbox.customerio.requests) <= max(at, 1) + 2 * OPEN
    elif side == "customerio":  # and what was asked beside it
        assert at + 1 <= len(sandbox.customerio.requests) <= at + _BESIDE
    else:  # what was in flight, and the one that was waiting
        assert len(sandbox.segment.requests) <= at + sending.MAX_BATCHES + 1
    kept = {event["messageId"] for event in sandbox.segment.kept}
    assert len(kept) == len(sandbox.segment.kept) < EVENTS


@pytest.mark.parametrize("at", [0, 2])
def test_empty_pages_without_an_end_end_the_run(sandbox: Sandbox, at: int) -> None:
    """Each empty page names a next page that no page has named before."""
    sandbox.faults.add(Fault(side="customerio", kind="empty_page", path="/v1/messages", at=at, times=10_000))
    with pytest.raises(TryAgainLaterError, match="sent no new row in 50 pages: the list would never end. A retry"):
        run_pipeline(sandbox, INTERVAL)
    most = (MAX_IDLE_PAGES + 1) * reading.MAX_REQUESTS  # of all windows that are open at once
    assert MAX_IDLE_PAGES < len(sandbox.customerio.requests) <= at + most + len(NAME_LISTS)


def test_empty_pages_of_activities_are_the_end_of_their_list(sandbox: Sandbox) -> None:
    """First opens and clicks, and the first ones by a person, are in the list of deliveries, too."""
    sandbox.faults.add(Fault(side="customerio", kind="empty_page", path="/v1/activities", times=10_000))
    result = run_pipeline(sandbox, INTERVAL, mode="every")
    assert result.work["cut_short"] == 2
    asked = [one for one in sandbox.customerio.requests if one.path == "/v1/activities"]
    assert len(asked) == 2 * reading.MAX_EMPTY_ACTIVITY_PAGES
    truth = [sandbox.history.truth(*INTERVAL, channels={"email"}, human=human) for human in (False, True)]
    listed = keys([one for rows in truth for one in rows if one.collection in DEFAULT_COLLECTIONS])
    assert set(map(key, kept(sandbox.segment.kept))) == set(listed)


def test_empty_pages_of_names_end(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_MAX_PAGES_OF_NAMES", 30)
    for path, _ in NAME_LISTS.values():
        sandbox.faults.add(Fault(side="customerio", kind="empty_page", path=path, times=10_000))
    run_pipeline(sandbox, INTERVAL)
    asked = Counter(one.path for one in sandbox.customerio.requests if one.path != "/v1/messages")
    assert asked == dict.fromkeys((path for path, _ in NAME_LISTS.values()), 30)
    assert len(sandbox.segment.kept) == EVENTS
    assert not any("campaign_name" in event["properties"] for event in sandbox.segment.kept)


@pytest.mark.parametrize("side", ["customerio", "segment"])
def test_fatal_fault_in_parallel(sandbox: Sandbox, side: Side) -> None:
    sandbox.settings = Settings(latency=0.005, segment_latency=0.005)
    sandbox.faults.add(Fault(side=side, kind="401", at=3, times=10_000))
    with pytest.raises(ConfigurationError, match="answered 401"):
        run_pipeline(sandbox, INTERVAL)
    asked = sandbox.customerio.requests if side == "customerio" else sandbox.segment.requests
    assert len(asked) <= 3 + (_BESIDE if side == "customerio" else sending.MAX_BATCHES + 1)


def test_unusable_write_key(sandbox: Sandbox) -> None:
    """Segment answers an unusable write key with 400, as it answers malformed events."""
    sandbox.settings = Settings(write_key="short")
    with pytest.raises(ConfigurationError, match=r"answered 400: An invalid write key.*password"):
        run_pipeline(sandbox, INTERVAL)
    assert len(sandbox.segment.requests) <= sending.MAX_BATCHES + 1


# Events that Segment refuses


def row(number: int, subject: str) -> dict[str, Any]:
    return {
        "id": f"d{number:04d}",
        "type": "email",
        "created": NOVEMBER + 10_000 - number,  # newest first, so it is sent in the order of its number
        "metrics": {"opened": NOVEMBER + 20_000},
        "customer_id": "1",
        "subject": subject,
    }


def poisoned(count: int, bad: Callable[[int], bool]) -> tuple[History, set[str]]:
    """Return the ids of the deliveries whose events Segment takes, and of those whose events it refuses."""
    names = {f"d{number:04d}" for number in range(count) if bad(number)}
    return History(deliveries=[row(n, "POISON" if bad(n) else "fine") for n in range(count)]), names


@pytest.mark.parametrize("status", [400, 413])
@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(lambda n: n == 0, id="the first"),
        pytest.param(lambda n: n == 299, id="the last"),
        pytest.param(lambda n: n in {7, 8, 100, 155, 156, 157}, id="some"),
        pytest.param(lambda n: n % 60 == 0, id="the first of each batch"),
        pytest.param(lambda n: n < 30, id="many in a row from the first on"),
        pytest.param(lambda n: 60 <= n < 120, id="a whole batch"),
    ],
)
def test_bad_events_are_refused_alone(sandbox: Sandbox, status: Any, bad: Callable[[int], bool]) -> None:
    sandbox.history, names = poisoned(300, bad)
    sandbox.settings = Settings(refuse_containing="POISON", refuse_with=status)
    given: list[tuple[str, bytes]] = []
    result = run_pipeline(
        sandbox,
        Interval(NOVEMBER, NOVEMBER + DAY),
        callbacks=Callbacks(refused_event=lambda reason, event: given.append((reason, event))),
    )
    kept = {event["properties"]["delivery_id"] for event in sandbox.segment.kept}
    assert kept == {f"d{number:04d}" for number in range(300)} - names
    assert sandbox.segment.duplicates == []
    assert dict(result.refused) == {f"refused_{status}": len(names)}
    assert set(result.refused_ids[f"refused_{status}"]) <= names
    assert f"answered {status}" in result.refusals()
    assert result.events["Email Opened"] == result.work["events"] == 300 - len(names)
    assert [reason for reason, _ in given] == [f"refused_{status}"] * len(names)
    assert all(b"POISON" in event for _, event in given)
    assert len(given) == len({event for _, event in given})


@pytest.mark.parametrize("status", [400, 413])
def test_total_refusal_ends_the_run(sandbox: Sandbox, status: Any) -> None:
    sandbox.settings = Settings(refuse_containing='"type":"track"', refuse_with=status)
    with pytest.raises(EventsRefusedError, match=f"answered {status}: "):
        run_pipeline(sandbox, INTERVAL)
    assert sandbox.segment.kept == []
    # For each batch in flight 32 samples and an empty batch; halving would take some more than all events.
    assert len(sandbox.segment.requests) <= 34 * sending.MAX_BATCHES < EVENTS


def test_passing_400_refuses_no_event(sandbox: Sandbox) -> None:
    # Once only: a batch is refused first, and what follows it may be an event alone, whose 400 is final.
    sandbox.faults.add(Fault(side="segment", kind="400", at=1, times=1))
    result = run_pipeline(sandbox, INTERVAL)
    assert_kept_is_truth(sandbox, INTERVAL)
    assert not result.refused


# Limits, cursors, certificates


@pytest.mark.parametrize(
    ("limiter", "retry_after"), [("bucket", None), ("fixed_second", "seconds"), ("sliding_second", "date")]
)
def test_shared_limit_costs_no_event(sandbox: Sandbox, limiter: Any, retry_after: Any) -> None:
    sandbox.settings = Settings(
        requests_per_second=20, limiter=limiter, arrival_jitter=0.02, other_client=8, retry_after=retry_after
    )
    result = run_pipeline(sandbox, INTERVAL, per_second=20, retries=Retries(total=60, first=0.1, longest=1.0))
    assert_kept_is_truth(sandbox, INTERVAL)
    assert result.as_dict()["read"].get("rate_limited", 0) == sandbox.customerio.rate_limited


@pytest.mark.parametrize("limiter", ["bucket", "fixed_second", "sliding_second"])
def test_limit_is_hardly_met_alone(sandbox: Sandbox, limiter: Any) -> None:
    sandbox.settings = Settings(requests_per_second=10, limiter=limiter, arrival_jitter=0.02, latency=0.05)
    run_pipeline(sandbox, INTERVAL, per_second=10)
    assert_kept_is_truth(sandbox, INTERVAL)
    assert sandbox.customerio.rate_limited <= 1


@pytest.mark.usefixtures("one_chain")
def test_bound_cursors_with_a_lifetime(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cursor waits for a few requests to other windows, and not for most of the run."""
    small_pages(monkeypatch, 5)
    lifetime = 36
    sandbox.settings = Settings(cursors_bound=True, cursor_lifetime=lifetime, now=INTERVAL.end, now_per_request=1)
    run_pipeline(sandbox, INTERVAL)
    assert kept(sandbox.segment.kept) == SENT
    assert {one.status for one in sandbox.customerio.requests} == {200}
    assert len(sandbox.customerio.requests) > 2 * lifetime


@pytest.mark.parametrize("at", [2, 5])
def test_retry_after_an_old_cursor(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    small_pages(monkeypatch, 10)
    monkeypatch.setattr(line, "CHECKPOINT_EVERY", 0.0)
    monkeypatch.setattr(reading, "MAX_REQUESTS", 1)
    whole = run_pipeline(sandbox, INTERVAL)
    sandbox.reset()
    states: list[State] = []

    def grow_old(state: State) -> None:
        states.append(state)
        if len(states) == at:
            sandbox.settings.now = INTERVAL.end + 2 * HOUR

    sandbox.settings = Settings(cursor_lifetime=HOUR, now=INTERVAL.end)
    with pytest.raises(TryAgainLaterError, match="answered 400"):
        run_pipeline(sandbox, INTERVAL, checkpoint=Checkpoint("f"), callbacks=Callbacks(save=grow_old))
    result = run_pipeline(sandbox, INTERVAL, checkpoint=Checkpoint("f", states[-1]))
    assert kept(sandbox.segment.kept) == SENT
    assert result.resumed
    assert (result.events, result.skipped, result.tally.read) == (whole.events, whole.skipped, whole.tally.read)


SERVICES: dict[str, Any] = {
    "limiter": st.sampled_from(["bucket", "fixed_second", "sliding_second"]),
    "requests_per_second": st.sampled_from([0, 60]),
    "other_client": st.sampled_from([0.0, 20.0]),
    "retry_after": st.sampled_from([None, "seconds", "date"]),
    "arrival_jitter": st.sampled_from([0.0, 0.02]),
    "cursors_bound": st.booleans(),
    "cursors": st.sampled_from(["stable", "offset"]),
    "repeated_rows": st.sampled_from([0, 3]),
    "order": st.sampled_from(["newest", "nearly", "oldest", "shuffled"]),
    "odd_deliveries": st.sampled_from([0.0, 0.02, 0.2]),
    "odd_activities": st.sampled_from([0.0, 0.02, 0.2]),
    "empty_page_every": st.sampled_from([0, 1]),
    "visible_after": st.sampled_from([None, 0, SETTLING]),
    "visible_from_creation": st.booleans(),
    "cursor_lifetime": st.sampled_from([None, HOUR]),
    "now": st.just(INTERVAL.end + SETTLING),
}
#: With deliveries that another clock stamped as created after the interval in which they were delivered.
LATE = History(
    [
        *map(json.loads, HISTORY.rows.data),
        *(
            {
                "id": f"late{number}",
                "type": "email",
                "created": INTERVAL.end + number,
                "metrics": {"created": INTERVAL.end + number, "sent": INTERVAL.end - 9, "delivered": INTERVAL.end - 1},
                "customer_id": "1",
            }
            for number in (0, 30, 59)
        ),
    ]
)


@settings(max_examples=25)
@given(
    history=st.sampled_from([HISTORY, LATE]),
    mode=st.sampled_from(MODES),
    services=st.fixed_dictionaries(SERVICES),
    seed=st.integers(0, 10**6),
    probability=st.sampled_from([0.0, 0.1]),
    asleep_after=st.sampled_from([1, 2]),
)
def test_difficult_services(
    world: Sandbox,
    history: History,
    mode: str,
    services: dict[str, Any],
    seed: int,
    probability: float,
    asleep_after: int,
) -> None:
    """Compare with a run of the same rows without trouble. Cursors that expire cost a retry, as in Airflow."""
    world.settings = Settings(
        odd_deliveries=services["odd_deliveries"], odd_activities=services["odd_activities"], now=services["now"]
    )
    world.history = history
    calm = run_pipeline(world, INTERVAL, mode=mode)
    world.settings = Settings(**services)
    world.reset()
    kinds = tuple(kind for kind in KINDS if kind != "timeout")
    if probability:
        world.faults.add(
            Fault(side="customerio", kinds=kinds, probability=probability, seed=seed, retry_after=0.02),
            Fault(side="segment", kinds=kinds, probability=probability, seed=seed, retry_after=0.02),
        )
    states: list[State] = []

    def sleep(state: State) -> None:
        states.append(state)
        if len(states) == asleep_after:
            world.settings.now = services["now"] + 2 * HOUR

    retries = Retries(attempts=60, total=60.0, first=0.05, longest=0.5)
    options: dict[str, Any] = {"mode": mode, "retries": retries, "per_second": 60, "callbacks": Callbacks(save=sleep)}
    resumed = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line, "CHECKPOINT_EVERY", 0.0)
        try:
            result = run_pipeline(world, INTERVAL, checkpoint=Checkpoint("f"), **options)
        except TryAgainLaterError:
            assert services["cursor_lifetime"]
            resumed = True
            result = run_pipeline(world, INTERVAL, checkpoint=Checkpoint("f", states[-1]), **options)
    every, human = mode.startswith("every"), mode.endswith("human")
    expected = world.expected(*INTERVAL, channels={"email"}, every=every, human=human)
    must, may, never = ([one for one in rows if one.collection in DEFAULT_COLLECTIONS] for rows in expected)
    found = Counter(map(key, kept(world.segment.kept).elements()))
    assert keys(of_mode([one for one in must if not every or is_told(one)], mode)) - found == Counter()
    # Activities may tell of a malformed delivery, and the list of a first one by a person whose activity is malformed.
    listed = world.history.truth(*INTERVAL, channels={"email"}, human=True) if every else []
    assert found - (keys([*must, *may, *(never if every else [])]) | keys(listed)) == Counter()
    assert world.segment.dropped == []
    assert result.events == calm.events
    assert found.total() == result.events.total()
    assert set(result.refused) <= {"malformed"}
    if not resumed:
        assert result.work["events"] == result.events.total()
        spoiled = sum(asked.fault in SPOILING for asked in world.segment.requests)
        assert len(world.segment.duplicates) <= spoiled * BATCH
        assert result.refused.keys() == calm.refused.keys()
    for one in (result, calm):
        del one.skipped["malformed"]  # an odd row that comes twice is counted twice
        if every:
            del one.skipped["not_a_time"]  # so is an activity whose time is none
    assert result.skipped == calm.skipped


def test_faults_over_https(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: tuple[Kind, ...] = ("429", "503", "html", "reset", "reset_after", "truncated", "truncated_json")
    with Sandbox(sandbox.history, tls=True) as secure:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(secure.ca_file))
        for side in ("customerio", "segment"):
            secure.faults.add(Fault(side=side, kinds=kinds, at=1, times=len(kinds)))
        result = run_pipeline(secure, INTERVAL, retries=Retries(attempts=20, total=30.0, first=0.005, longest=0.05))
        assert_kept_is_truth(secure, INTERVAL, duplicates=None)
        assert len(secure.segment.duplicates) <= BATCH * 3
        assert result.work["events"] == EVENTS
        assert result.work["retried"] == len(struck(secure.customerio.requests)) == len(kinds)


def test_https(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(sandbox.history, tls=True) as secure:
        assert secure.url.startswith("https://")
        with pytest.raises(ConfigurationError, match="certificate"):
            run_pipeline(secure, INTERVAL)
        assert secure.customerio.requests == secure.segment.requests == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(secure.ca_file))
        run_pipeline(secure, INTERVAL)
        assert_kept_is_truth(secure, INTERVAL)

"""Push a history in any order, with repeats, faults and restarts, then pull it once: Segment keeps each event once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from random import Random
from typing import Any, NamedTuple

import pytest
import requests
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from airflow_provider_cio.events.catalog import GROUPS
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.stream import intake
from tests.e2e.compare import differences
from tests.ports import free_port
from tests.sandbox import Fault, History, Sandbox
from tests.sandbox.reports import EVENTS, Report, Subscription, reports
from tests.sandbox.webhooks import Call, Calling, Sender
from tests.unit.stream.support import KEY, Process, Running, connect, encoded, report, signed
from tests.unit.support import DAY, NOVEMBER, assert_kept_is_truth, run_pipeline, truth_of

STRETCH = Interval(NOVEMBER, NOVEMBER + 2 * DAY)
#: Reports of the two that are left out have neither recipient nor subject: docs/stream.md.
NAMES = [name for name in GROUPS["email"] if name not in ("Email Attempted", "Email Deferred")]
NAMESPACE = "test"  # the one that `run_pipeline` pulls with
STREAMS = {"main": {"collections": NAMES}}
SUBSCRIPTION = Subscription(events=[event for event in EVENTS if event.startswith("email_")])


@pytest.fixture(scope="module")
def world() -> Iterator[Sandbox]:
    with Sandbox() as sandbox, pytest.MonkeyPatch.context() as patch:
        connect(patch, sandbox, app_api=True, message_id_namespace=NAMESPACE)
        patch.setattr(intake, "PAUSE", 0.02)
        patch.setattr(intake, "BATCH_BUDGET", 1.0)
        yield sandbox


def reports_of(history: History) -> list[Report]:
    """Return Customer.io's reports of the stretch."""
    return [one for one in reports(history, SUBSCRIPTION) if STRETCH.start <= one.time < STRETCH.end]


def histories(most: int) -> st.SearchStrategy[History]:
    return st.builds(
        History.generate,
        seed=st.integers(0, 10**6),
        deliveries=st.integers(0, most),
        start=st.just(NOVEMBER - 2 * DAY),
        end=st.just(STRETCH.end),
        longest_lag=st.sampled_from([3600, 2 * DAY]),
        rare_identities=st.sampled_from([0.0, 0.3]),
    )


FAULTS = st.lists(
    st.builds(
        Fault,
        side=st.just("segment"),
        kind=st.sampled_from(["429", "500", "503", "reset", "reset_after", "truncated", "html200", "timeout"]),
        probability=st.sampled_from([0.05, 0.3]),
        seed=st.integers(0, 99),
        times=st.integers(1, 8),
        seconds=st.just(0.8),
    ),
    max_size=3,
)
#: With less patience than the fault `timeout` takes, some are gone before the answer. An hour is a third of a second. A
#: busy machine takes half a minute to start the app, which is days at that speed: nobody gives up within it.
CALLING = st.builds(
    Calling,
    signing_key=st.just(KEY),
    in_flight=st.sampled_from([1, 4, 16]),
    timeout=st.sampled_from([0.6, 10.0]),
    duplicates=st.sampled_from([0.0, 0.3]),
    speed=st.just(10_000.0),
    give_up_after=st.just(60.0 * DAY),
)
LOST = st.sampled_from([0.0, 0.2])


def push_then_pull(
    world: Sandbox,
    url: str,
    calling: Calling,
    lost: float,
    random: Random,
    disturb: Callable[[Future[list[Call]], int], object],
) -> None:
    """Push the history's reports in any order, disturb the app meanwhile, pull, and compare.

    :param lost: share of the reports that never come.
    :param disturb: gets the push that is under way, and how many reports it has.
    """
    found = [one for one in reports_of(world.history) if random.random() >= lost]
    random.shuffle(found)
    sender = Sender(f"{url}/main", calling)
    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(sender.push, found)
        disturb(pushing, len(found))
        calls = pushing.result(200)
    assert {call.status for call in calls} <= {204, 503, None}
    assert {call.report.event_id for call in calls if call.accepted} == {one.event_id for one in found}
    reported = {(one.delivery_id, one.metric) for one in found}
    truth = truth_of(world.history, STRETCH, NAMES)
    pushed = [row for row in truth if (row["delivery_id"], row["metric"]) in reported]
    assert differences(pushed, world.segment.kept) == []
    world.faults.clear()
    run_pipeline(world, STRETCH, names=NAMES, namespace=NAMESPACE)
    assert_kept_is_truth(world, STRETCH, NAMES, duplicates=None)


@settings(max_examples=20)
@given(
    history=histories(120),
    faults=FAULTS,
    calling=CALLING,
    lost=LOST,
    restarts=st.integers(0, 2),
    random=st.randoms(use_true_random=False),
)
def test_each_occurrence_is_kept_once(
    world: Sandbox,
    history: History,
    faults: list[Fault],
    calling: Calling,
    lost: float,
    restarts: int,
    random: Random,
) -> None:
    world.reset()
    world.history = history
    world.faults.add(*faults)
    port = free_port()
    with ExitStack() as stack:
        app = stack.enter_context(Running(STREAMS, port))

        def restart(*_: object) -> None:
            for _time in range(restarts):
                time.sleep(0.05)
                stack.close()
                stack.enter_context(Running(STREAMS, port))

        push_then_pull(world, app.url, calling, lost, random, restart)


class Kill(NamedTuple):
    """Kill of the app's process.

    :param share: of the reports that Segment has before it.
    :param seconds: from when Segment takes the next batch, and keeps its answer back.
    """

    share: float
    seconds: float


@pytest.fixture(scope="module")
def process(world: Sandbox) -> Iterator[Process]:
    """Return one process for all tests that kill it, because it takes seconds to start."""
    with Process(STREAMS) as app:
        yield app


@pytest.mark.timeout(400)
@settings(max_examples=4, phases=[Phase.reuse, Phase.generate])  # each example starts processes: no shrinking
@given(
    history=histories(100),
    faults=FAULTS,
    calling=CALLING,
    lost=LOST,
    kills=st.lists(st.builds(Kill, st.floats(0, 1), st.sampled_from([0.0, 0.003, 0.05])), min_size=1, max_size=2),
    random=st.randoms(use_true_random=False),
)
def test_killed_app_keeps_events_once(
    world: Sandbox,
    process: Process,
    history: History,
    faults: list[Fault],
    calling: Calling,
    lost: float,
    kills: list[Kill],
    random: Random,
) -> None:
    world.reset()
    world.history = history
    world.faults.add(*faults)

    def kill(pushing: Future[list[Call]], number: int) -> None:
        for one in sorted(kills):
            wait_until(lambda: world.segment.received_count >= one.share * number, pushing)  # noqa: B023
            hold_the_next_answer(world, pushing)
            time.sleep(one.seconds)
            process.kill()
            process.start()

    push_then_pull(world, process.url, calling, lost, random, kill)


def test_pulling_adds_nothing(world: Sandbox) -> None:
    """The pull adds no event, opens and clicks included. `duplicates` has the events that it sent again."""
    world.reset()
    world.history = History.generate(seed=5, deliveries=300, start=NOVEMBER, end=STRETCH.end)
    with Running(STREAMS) as app:
        for one in reports_of(world.history):
            assert app.post(one.body).status_code == 204
    pushed = {event["messageId"]: event for event in world.segment.kept}
    assert {"Email Opened", "Email Link Clicked", "Email Sent"} <= {event["event"] for event in pushed.values()}
    run_pipeline(world, STRETCH, names=NAMES, namespace=NAMESPACE)
    assert len(world.segment.kept) == len(pushed)
    pulled = {event["messageId"]: event for event in world.segment.duplicates}
    assert set(pulled) == set(pushed)
    for message_id, event in pulled.items():
        for field in ("event", "originalTimestamp", "userId", "anonymousId", "context", "integrations"):
            assert event.get(field) == pushed[message_id].get(field)
        event["properties"].pop("failure_message", None)  # of a delivery; only reports of a failure have it
        assert pushed[message_id]["properties"].items() >= event["properties"].items()
    assert any("campaign_name" in event["properties"] for event in pulled.values())


def test_kill_before_the_answer(world: Sandbox, process: Process) -> None:
    """Segment has the event, and Customer.io has no answer: the report comes again, under the same id."""
    world.reset()
    body = encoded(report())

    def post(timeout: float) -> int:
        return requests.post(f"{process.url}/main", data=body, headers=signed(body), timeout=timeout).status_code

    world.faults.add(Fault(side="segment", kind="timeout", seconds=30))
    with ThreadPoolExecutor(1) as pool:
        posting = pool.submit(post, 60)
        wait_until(lambda: world.segment.kept_count > 0, posting)
        process.kill()
        assert isinstance(posting.exception(10), requests.ConnectionError)
        process.start()
        assert post(60) == 204
    assert (len(world.segment.kept), len(world.segment.duplicates)) == (1, 1)


def hold_the_next_answer(world: Sandbox, pushing: Future[Any]) -> None:
    """Let Segment take the next batch, and keep its answer back for longer than the app waits."""
    before = len(world.segment.requests)
    world.faults.add(Fault(side="segment", kind="timeout", seconds=30))
    wait_until(lambda: any(asked.fault == "timeout" for asked in world.segment.requests[before:]), pushing)


def wait_until(true: Callable[[], bool], pushing: Future[Any]) -> None:
    """Wait until the condition is true, or all is pushed."""
    ends = time.monotonic() + 60
    while not (true() or pushing.done()):
        assert time.monotonic() < ends
        time.sleep(0.001)

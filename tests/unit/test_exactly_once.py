"""Every occurrence is sent once and under one id, in all four modes, with any trouble of the services."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.events.occurrence import Malformed
from airflow_provider_cio.http.transport import Retries
from airflow_provider_cio.pipeline.pipeline import Callbacks
from airflow_provider_cio.pipeline.result import Result
from tests.sandbox import History, Sandbox, Settings
from tests.sandbox.delivery import Truth
from tests.sandbox.odd import ODDITIES, Odd
from tests.unit import support
from tests.unit.full import DOCUMENTED, Told, held, held_in_mode, kept, of_mode, to_send
from tests.unit.support import DAY, NOVEMBER, run_pipeline

STRETCH = Interval(NOVEMBER, NOVEMBER + 3 * DAY)
MODES = ("first", "first_human", "every", "every_human")
#: Seconds from an interval's end to its run: the default of the operators, in which all that happened becomes visible.
SETTLING = 1800
#: Many attempts: a rate limit that is met again and again is no reason to give up.
PATIENT = Retries(attempts=100, total=10.0, first=0.005, longest=0.02)
#: A limit that these short runs meet: 400 requests in a second, but counted in seconds that are a twentieth of one.
#: Fifty examples, each with several runs, take minutes on a machine that others keep busy.
pytestmark = pytest.mark.timeout(600)
LIMIT: dict[str, Any] = {"requests_per_second": 20, "limit_second": 0.05}


@pytest.fixture(scope="module", autouse=True)
def small_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        support.small_pages(patch, 12, 15)
        yield


HISTORIES = st.builds(
    History.generate,
    seed=st.integers(0, 10**6),
    deliveries=st.integers(0, 250),
    start=st.just(NOVEMBER - 4 * DAY),
    end=st.just(STRETCH.end),
    burst=st.sampled_from([0.0, 0.5, 1.0]),
    on_bounds=st.sampled_from([0.0, 0.5]),
    drafts=st.sampled_from([0.0, 0.2]),
    longest_lag=st.sampled_from([3600, 28 * DAY]),
    created_late=st.sampled_from([0.0, 0.3, 0.3]),
    created_late_by=st.sampled_from([5, 60]),
    tried_drafts=st.sampled_from([0.0, 0.5]),
    rare_identities=st.sampled_from([0.0, 0.3]),
    same_second=st.sampled_from([0.0, 0.7]),
)
SERVICES = {
    "order": st.sampled_from(["newest", "nearly", "oldest", "shuffled"]),
    "displaced": st.sampled_from([0.01, 0.3, 1.0]),
    "displaced_by": st.sampled_from([1, 60, 7200]),
    "repeated_rows": st.sampled_from([0, 0, 3]),
    "cursors": st.sampled_from(["stable", "offset"]),
    "cursors_bound": st.booleans(),
    "cursor_lifetime": st.sampled_from([None, 6 * 3600]),  # none of an earlier run holds, unless that was just before
    "visible_after": st.sampled_from([None, 0, SETTLING]),
    # More seconds cost thousands of requests: where drafts are dense, their windows are cut down to single seconds.
    "loose_bounds": st.sampled_from([0, 0, 0, 15]),
    "visible_from_creation": st.booleans(),
    "now_per_request": st.sampled_from([0, 20]),
    "requests_per_second": st.sampled_from([0, 0, 0, LIMIT["requests_per_second"]]),
    "limit_second": st.just(LIMIT["limit_second"]),
    "limiter": st.sampled_from(["bucket", "fixed_second", "sliding_second"]),
    "other_client": st.sampled_from([0, 5]),
    "retry_after": st.sampled_from([None, "seconds"]),  # a date costs a second each time
    "arrival_jitter": st.sampled_from([0, 0, 0.002]),
    "null_when_empty": st.booleans(),
    "empty_page_every": st.sampled_from([0, 1]),
    "last_next": st.sampled_from(["empty", "null", "absent"]),
    "trailing_page": st.booleans(),
    "drafts_wording": st.sampled_from(["instead", "both"]),
    "activity_disorder": st.sampled_from([0, 600, 3600]),
    "activities_end": st.sampled_from(["next", "same_cursor", "new_cursor"]),
    "parent_ids": st.sampled_from(["mixed", "int", "string"]),
}


def cuts(draw: st.DataObject, history: History) -> list[Interval]:
    """Draw adjacent intervals, some of whose bounds lie between a delivery's first metric and its late creation."""
    anywhere = st.integers(STRETCH.start + 1, STRETCH.end - 1)
    hours = st.integers(1, 71).map(lambda hour: STRETCH.start + hour * 3600)
    moments = [anywhere, hours]
    if between := bounds_before_creation(history):
        moments.append(st.sampled_from(between))
    inner = draw.draw(st.sets(st.one_of(moments), max_size=3))
    return [Interval(*pair) for pair in itertools.pairwise([STRETCH.start, *sorted(inner), STRETCH.end])]


def bounds_before_creation(history: History) -> list[int]:
    """Return the first and the last bound that parts a delivery's first metric from its late creation."""
    found: set[int] = set()
    for one in history.deliveries:
        first = min(one.times.values())
        if first < one.created:
            found.update((first + 1, one.created))
    return sorted(at for at in found if STRETCH.start < at < STRETCH.end)


def run_in_time(world: Sandbox, interval: Interval, mode: str) -> Result:
    """Run at the time at which Airflow begins the run: later rows are hidden from it."""
    world.settings.now = interval.end + SETTLING
    return run_pipeline(world, interval, names="all", mode=mode, retries=PATIENT)


def message_ids(rows: Iterable[Truth]) -> set[str]:
    """Return the ids by the rule of identity; the sandbox decides which open or click is the first."""
    mapper = Mapper("test")
    return {
        mapper.message_id(
            one.delivery_id,
            f"human_{one.metric}" if one.first_human else one.metric,
            None if one.first or one.first_human else one.activity_id,
        )
        for one in rows
        if one.user_id or one.anonymous_id
    }


@settings(max_examples=50)
@given(history=HISTORIES, services=st.fixed_dictionaries(SERVICES), data=st.data())
def test_each_occurrence_is_sent_once(
    world: Sandbox, history: History, services: dict[str, Any], data: st.DataObject
) -> None:
    """Any cuts, any order, each interval in any mode; everything becomes visible within the settling time."""
    world.settings = Settings(**services)
    world.history = history
    world.reset()
    expected: list[Truth] = []
    for interval in data.draw(st.permutations(cuts(data, history))):
        mode = data.draw(st.sampled_from(MODES))
        result = run_in_time(world, interval, mode)
        assert not result.refused
        expected += held_in_mode(mode, history, [interval])
    found, wanted = kept(world.segment.kept), to_send(expected)
    assert list((found - wanted).elements()) == []
    assert list((wanted - found).elements()) == []
    assert {event["messageId"] for event in world.segment.kept} == message_ids(expected)
    assert world.segment.dropped == []


@settings(max_examples=12)
@given(history=HISTORIES, data=st.data())
def test_every_mode_uses_one_id(world: Sandbox, history: History, data: st.DataObject) -> None:
    """Events that one mode sent and the next one repeats have the same id, so Segment drops them."""
    world.settings = Settings(visible_after=SETTLING)
    world.history = history
    world.reset()
    intervals = cuts(data, history)
    for interval in intervals:
        for mode in data.draw(st.permutations(MODES)):
            run_in_time(world, interval, mode)
    everything = held(history, intervals)
    people = held(history, intervals, every=False, human=True)
    everything += [one for one in people if one.first_human and (one.channel, one.metric) not in DOCUMENTED]
    assert {event["messageId"] for event in world.segment.kept} == message_ids(everything)
    assert len(world.segment.kept) == to_send(everything).total()


@pytest.mark.parametrize("late", [1, 31, 60])
@pytest.mark.parametrize("mode", MODES)
def test_late_creation_loses_nothing(world: Sandbox, mode: str, late: int) -> None:
    """The interval of the metric sends it, though the delivery was created in the next one."""
    sent = STRETCH.start + DAY - 1
    opened = sent + late + 5
    metrics = {"created": sent + late, "sent": sent, "delivered": sent + 2, "opened": opened, "human_opened": opened}
    row = {"id": "a", "type": "email", "created": sent + late, "metrics": metrics, "customer_id": "1"}
    world.settings = Settings(visible_from_creation=True, visible_after=SETTLING)
    world.history = History([row])
    world.reset()
    found = []
    for interval in (Interval(STRETCH.start, sent + 1), Interval(sent + 1, STRETCH.end)):
        before = len(world.segment.kept)
        run_in_time(world, interval, mode)
        found.append(sorted(event["event"] for event in world.segment.kept[before:]))
    assert found == [["Email Sent"], ["Email Delivered", "Email Opened"]]
    assert world.segment.duplicates == []


@pytest.mark.parametrize(
    ("limiter", "retry_after"), [("bucket", None), ("fixed_second", "seconds"), ("sliding_second", None)]
)
def test_rate_limit_costs_no_event(world: Sandbox, limiter: Any, retry_after: Any) -> None:
    """The limits are drawn by the property above, too. Here they are known to refuse a request."""
    few = LIMIT | {"requests_per_second": 4}  # which a busy machine meets, too
    world.settings = Settings(limiter=limiter, retry_after=retry_after, other_client=1, arrival_jitter=0.005, **few)
    world.history = History.generate(seed=4, deliveries=400, start=STRETCH.start, end=STRETCH.end)
    world.reset()
    result = run_in_time(world, STRETCH, "every")
    assert result.as_dict()["read"]["rate_limited"] == world.customerio.rate_limited > 0
    assert kept(world.segment.kept) == to_send(held(world.history, [STRETCH]))
    assert world.segment.duplicates == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ["newest", "shuffled"])
def test_growing_lists_cost_no_event(world: Sandbox, order: Any, mode: str) -> None:
    """There is no settling time, because lists and activities go on for a minute after the interval's end."""
    interval = Interval(STRETCH.start, STRETCH.start + DAY)
    # Few come in, so that the pages which they move have rows from before the interval's end.
    dense = [interval.end - 120 + number // 3 for number in range(360)]
    moments = [*dense, *range(interval.end, interval.end + 60, 2)]
    rows = [
        {
            "id": f"d{number:03d}",
            "type": "email",
            "created": at,
            "metrics": {"created": at, "sent": at, "opened": at + 5 * (number % 2)},
            "customer_id": "1",
        }
        for number, at in enumerate(moments)
    ]
    world.history = History(rows)
    world.settings = Settings(
        now=interval.end,
        now_per_request=0.5,
        visible_from_creation=True,
        visible_after=0,
        cursors="offset",
        order=order,
    )
    world.reset()
    result = run_pipeline(world, interval, names="all", mode=mode)
    assert result.tally.read["deliveries"] > len(dense) + 5  # some came in
    wanted = to_send(held_in_mode(mode, world.history, [interval]))
    assert kept(world.segment.kept) == wanted
    assert world.segment.duplicates == []


@pytest.mark.parametrize("mode", MODES)
def test_rows_outside_the_bounds_are_counted_and_not_passed_on(world: Sandbox, mode: str) -> None:
    """Each window's list has rows of its neighbours, too, odd ones among them."""
    # So few that no window is asked for in parts.
    history = History.generate(seed=3, deliveries=120, start=STRETCH.start, end=STRETCH.end, burst=0)
    interval = Interval(STRETCH.start + DAY, STRETCH.start + 2 * DAY)
    results = []
    for loose_bounds in (0, 3600):
        world.settings = Settings(loose_bounds=loose_bounds, odd_deliveries=0.1, odd_kinds=("delivery.metrics:number",))
        world.history = history
        world.reset()
        result = run_pipeline(world, interval, names="email", lookback=3600, mode=mode)
        results.append((result.events, result.skipped, result.refused, kept(world.segment.kept)))
        assert bool(result.tally.read["out_of_bounds"]) == bool(loose_bounds)
        assert world.segment.duplicates == []
    assert results[0] == results[1]


Key = tuple[str, str, int]


def key(one: Truth | Told) -> Key:
    return one.collection, one.delivery_id, one.time


def keys(rows: Iterable[Truth]) -> Counter[Key]:
    return Counter(key(one) for one in rows if one.user_id or one.anonymous_id)


@settings(max_examples=25)
@given(history=HISTORIES, share=st.sampled_from([0.02, 0.3]), mode=st.sampled_from(MODES), data=st.data())
def test_malformed_rows(world: Sandbox, history: History, share: float, mode: str, data: st.DataObject) -> None:
    """Every readable event is sent, each odd row is refused by one interval, and nothing untrue is sent."""
    world.settings = Settings(odd_deliveries=share, odd_activities=share, now=STRETCH.end + 40 * DAY)
    world.history = history
    world.reset()
    results = [run_pipeline(world, one, names="all", mode=mode) for one in cuts(data, history)]
    assert set(itertools.chain(*(result.refused for result in results))) <= {"malformed"}
    every, human = mode.startswith("every"), mode.endswith("human")
    expected = world.expected(*STRETCH, drafts=True, every=every, human=human)
    everything = keys(itertools.chain(*expected))
    found = Counter(map(key, kept(world.segment.kept).elements()))
    must = keys(of_mode([one for one in expected.must if not every or is_told(one)], mode))
    assert list((must - found).elements()) == []
    assert list((found - everything).elements()) == []


def is_told(one: Truth) -> bool:
    """Return False for an open or click without documented activities, which is sent once, as its delivery has it."""
    return one.metric not in ("opened", "clicked") or (one.channel, one.metric) in DOCUMENTED


@pytest.fixture
def many() -> History:
    """Make enough deliveries for every kind of odd row."""
    return History.generate(seed=5, deliveries=2500, start=STRETCH.start, end=STRETCH.end, drafts=0, burst=0.2)


DAYS = [Interval(STRETCH.start + number * DAY, STRETCH.start + (number + 1) * DAY) for number in range(3)]


def run_days(world: Sandbox, mode: str) -> list[tuple[Result, list[Malformed]]]:
    """Return the result of each day, and the rows that it refused."""
    found = []
    for day in DAYS:
        rows: list[Malformed] = []
        result = run_pipeline(world, day, names="all", mode=mode, callbacks=Callbacks(refused_row=rows.append))
        assert result.refused == ({"malformed": len(rows)} if rows else {})
        found.append((result, rows))
    return found


def test_malformed_delivery_on_its_day(world: Sandbox, many: History) -> None:
    world.settings = Settings(odd_deliveries=0.5, now=STRETCH.end + 40 * DAY)
    world.history = many
    world.reset()
    days = run_days(world, "first")
    good = {row["id"]: row for row in (json.loads(data) for data in many.rows.data)}
    odd = world.odd_deliveries()
    rows = [(good[id]["created"], id, one.kind.make(dict(good[id])), one) for id, one in odd.items()]
    assert len({one.kind.name for one in odd.values()}) > 0.9 * sum(name[:8] == "delivery" for name in ODDITIES)
    raws = {row.raw for _, refused in days for row in refused}
    assert not any(one.kind.harmless for _, _, raw, one in rows if raw in raws)
    lost = {one.kind.name for at, _, raw, one in rows if not one.legible and raw not in raws}
    assert lost <= {"delivery.customer_identifiers.cio_id:number"}  # any id may be a number
    unreadable = {one.kind.name for created, _, raw, one in rows if raw in raws}
    for day, (result, refused) in zip(DAYS, days, strict=True):
        of_kind = [(at, raw) for at, _, raw, one in rows if one.kind.name in unreadable]
        own = {raw for at, raw in of_kind if day.start <= at < day.end}
        # A row that does not say when it was created may be of the minute after the day, which is read too.
        near = {raw for at, raw in of_kind if day.end <= at < day.end + 60}
        assert own <= {row.raw for row in refused} <= own | near
        assert {row.raw for row in refused if row.created is not None} <= own
        # A window that has to be asked anew brings its odd rows once more.
        earlier = sum(at < day.start for at, _ in of_kind)
        assert result.skipped["malformed"] >= earlier
        assert bool(earlier) == (day != DAYS[0])
        assert bool(result.skipped["malformed"]) == bool(earlier or near)
    # All that is neither refused nor outside the bounds that were asked for is sent, and nothing else.
    outside = [id for _, id, _, one in rows if one.kind.name == "delivery.created:huge"]
    assert sum(result.tally.read["out_of_bounds"] for result, _ in days) >= len(outside) > 0
    gone = {id for _, id, _, one in rows if one.kind.name in unreadable}.union(outside)
    expected = world.expected(*STRETCH)
    wanted = keys([*expected.must, *(one for one in expected.may if one.delivery_id not in gone)])
    assert Counter(map(key, kept(world.segment.kept).elements())) == wanted


def test_malformed_activity_on_its_day(world: Sandbox, many: History) -> None:
    world.settings = Settings(odd_activities=0.5, activity_disorder=0, now=STRETCH.end + 40 * DAY)
    world.history = many
    world.reset()
    days = run_days(world, "every")
    odd = world.odd_activities()
    asked = {f"{metric}_{channel}" for channel, metric in DOCUMENTED}
    rows = [
        (row["timestamp"], one.kind.make(dict(row)), one)
        for row in many.activities.rows()
        if row["type"] in asked and (one := odd.get(row["id"]))
    ]
    raws = Counter(row.raw for _, refused in days for row in refused)
    assert not any(raws[raw] for _, raw, one in rows if one.kind.harmless)
    for day, (_, refused) in zip(DAYS, days, strict=True):
        timed = Counter(row.raw for row in refused if row.created is not None)
        assert timed == Counter(raw for at, raw, one in rows if raw in timed and day.start <= at < day.end)
    inside = [(raw, one) for at, raw, one in rows if STRETCH.start + 3600 <= at < STRETCH.end - 3600]
    lost = Counter(raw for raw, one in inside if _unreadable(one)) - raws
    assert not lost
    assert sum(_unreadable(one) for _, one in inside) > 50
    assert all(result.skipped["not_a_time"] for result, _ in days)
    expected = world.expected(*STRETCH, every=True)
    found = Counter(map(key, kept(world.segment.kept).elements()))
    assert list((keys([one for one in expected.must if is_told(one)]) - found).elements()) == []


def _unreadable(one: Odd) -> bool:
    """Return whether the row must be refused, and is not skipped for having no delivery or no possible time."""
    return not one.legible and not one.kind.name.startswith(("activity.delivery_id", "activity.timestamp:huge"))

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cio.customerio.windows import plan
from airflow_provider_cio.events.catalog import resolve_collections
from airflow_provider_cio.events.interval import (
    Ages,
    Interval,
    check_bounds,
    interval_between,
    iso,
    resolve_interval,
    whole_seconds,
)
from airflow_provider_cio.exceptions import ConfigurationError

PAST = st.datetimes(min_value=datetime(2001, 9, 10), max_value=datetime(2026, 1, 1), timezones=st.timezones()).filter(
    lambda moment: moment.astimezone(UTC) == moment
)  # no time that a clock change skips


def run(first: object, last: object) -> dict[str, object]:
    return {"data_interval_start": first, "data_interval_end": last}


@given(st.lists(PAST, min_size=3, max_size=6, unique_by=lambda moment: moment.timestamp()), st.integers())
def test_intervals_share_no_second(moments: list[datetime], offset: int) -> None:
    bounds = sorted(moments, key=lambda moment: moment.timestamp())
    intervals = [resolve_interval(None, None, run(*pair)) for pair in itertools.pairwise(bounds)]
    whole = resolve_interval(bounds[0], bounds[-1], {})
    assert intervals[0].start == whole.start
    assert intervals[-1].end == whole.end
    for left, right in itertools.pairwise(intervals):
        assert left.end == right.start


@given(PAST, st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=200)))
def test_seconds_follow_their_moments(first: datetime, length: timedelta) -> None:
    first = first.astimezone(UTC)
    interval = resolve_interval(first, first + length, {})
    for second in (interval.start - 1, interval.start, interval.end - 1, interval.end):
        moment = datetime.fromtimestamp(second, UTC)
        assert (interval.start <= second < interval.end) == (first <= moment < first + length)


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-01T00:00:00Z",
        "2026-11-01T01:00:00+01:00",
        "2026-11-01 00:00:00+00:00",
        "2026-11-01",
        " 20261101T000000Z ",
        datetime(2026, 11, 1),
        datetime(2026, 11, 1, 2, tzinfo=timezone(timedelta(hours=2))),
        date(2026, 11, 1),
        pendulum.datetime(2026, 11, 1),
    ],
)
def test_bounds_have_many_forms(value: object) -> None:
    assert resolve_interval(value, "2026-11-02", {}) == Interval(1793491200, 1793577600)


def test_parameters_precede_the_run() -> None:
    context = run(pendulum.datetime(2026, 1, 1), pendulum.datetime(2026, 1, 2))
    assert resolve_interval("2026-11-01", "2026-11-02", context).start == 1793491200


@pytest.mark.parametrize("context", [{}, run(None, None), {"data_interval_start": pendulum.datetime(2026, 1, 1)}])
def test_missing_interval_gets_advice(context: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="CronDataIntervalTimetable.*interval_start and interval_end"):
        resolve_interval(None, None, context)


def test_empty_interval_gets_advice() -> None:
    moment = pendulum.datetime(2026, 11, 1)
    with pytest.raises(ConfigurationError, match="zero length.*CronDataIntervalTimetable"):
        resolve_interval(None, None, run(moment, moment))


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (("2026-11-01", None), "interval_start is set without interval_end"),
        ((None, "2026-11-01"), "interval_end is set without interval_start"),
        (("yesterday", "2026-11-01"), "interval_start must be ISO 8601"),
        (("2026-11-01", 5), None),
        (("2026-11-02", "2026-11-01"), "before it starts"),
        (("2026-11-02", "2026-11-02"), "zero length"),
        (("{{ ds }}", "soon"), "interval_end must be ISO 8601"),
    ],
)
def test_bounds_are_checked_at_parse(bounds: tuple[object, object], message: str | None) -> None:
    if message is None:  # not text, not a time: perhaps a reference to another task's result, known at the run
        check_bounds(*bounds)
        with pytest.raises(ConfigurationError, match="interval_end must be a datetime or ISO 8601 text, got a number"):
            resolve_interval(*bounds, {})
        return
    with pytest.raises(ConfigurationError, match=message):
        check_bounds(*bounds)


FARTHEST_ZONES = [timezone(timedelta(hours=hours)) for hours in (-23, 0, 23)]


@pytest.mark.parametrize("zone", FARTHEST_ZONES, ids=str)
@pytest.mark.parametrize("year", [1, 1969, 2000, 3000, 9999])
def test_a_year_outside_the_range_is_named(year: int, zone: timezone) -> None:
    for odd in (datetime(year, 1, 1, tzinfo=zone), datetime(year, 12, 31, 23, 59, 59, 999_999, tzinfo=zone)):
        for value in (odd, odd.isoformat(), odd.date(), pendulum.instance(odd)):
            bounds: tuple[object, object] = (value, "2026-11-01") if year < 2026 else ("2026-11-01", value)
            name = "interval_start" if year < 2026 else "interval_end"
            wanted = f"^{name} must be in the years 2001 to 2999, got the year {year}$"
            with pytest.raises(ConfigurationError, match=wanted):
                check_bounds(*bounds)
            with pytest.raises(ConfigurationError, match=wanted):
                resolve_interval(*bounds, {})
            with pytest.raises(ConfigurationError, match="^data_interval_start must be in the years"):
                resolve_interval(None, None, run(odd, datetime(2026, 11, 1)))
            with pytest.raises(ConfigurationError, match="^start must be in the years"):
                interval_between(value, "2026-11-01")


@pytest.mark.parametrize("zone", FARTHEST_ZONES, ids=str)
def test_the_whole_range_can_be_planned_and_shown(zone: timezone) -> None:
    first, last = datetime(2001, 1, 1, tzinfo=zone), datetime(2999, 12, 31, 23, 59, 59, 999_999, tzinfo=zone)
    interval = resolve_interval(first, last, {})
    windows = plan(interval, Ages(whole_seconds(timedelta.max)), resolve_collections("all"))
    assert str(interval).startswith("[200")
    assert min(window.start for window in windows) == 0
    assert iso(max(window.end for window in windows)).startswith(("2999", "3000"))


@given(
    start=st.integers(-20, 20),
    length=st.integers(1, 20),
    created=st.integers(-60, 30),
    older_than=st.integers(0, 40),
    span=st.integers(1, 40),
)
def test_part_of_an_interval(start: int, length: int, created: int, older_than: int, span: int) -> None:
    """Without `older_than` ages may be negative."""
    interval, lookback = Interval(start, start + length), older_than + span
    first, end = Ages(lookback, older_than).part_of(interval, created)
    least = older_than or -(10**9)
    assert list(range(first, end)) == [time for time in range(*interval) if least <= time - created < lookback]


def test_templates_pass_at_parse() -> None:
    check_bounds(None, None)
    check_bounds("{{ data_interval_start }}", "{{ data_interval_end }}")


def test_empty_template_is_named() -> None:
    with pytest.raises(ConfigurationError, match="interval_start must be ISO 8601"):
        resolve_interval("", "2026-11-01", {})


def test_repeated_hour_is_an_interval() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    first = datetime(2025, 10, 26, 2, 30, tzinfo=berlin)
    last = datetime(2025, 10, 26, 2, 15, tzinfo=berlin, fold=1)
    interval = resolve_interval(first, last, {})
    assert interval.end - interval.start == 45 * 60


def test_seconds_are_rounded_up() -> None:
    assert whole_seconds(timedelta(seconds=1, microseconds=1)) == 2
    assert whole_seconds(pendulum.duration(days=1, microseconds=1)) == 86_401

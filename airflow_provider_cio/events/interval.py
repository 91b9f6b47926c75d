"""The data interval of a run, and windows of creation times: whole Unix seconds, half-open ``[start, end)``. Pure."""

from __future__ import annotations

from calendar import timegm
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from math import ceil
from typing import Any, NamedTuple, TypeGuard

import pendulum

from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.values import kind_of, shown

_WHAT_TO_DO = (
    "Give the DAG a timetable with data intervals, schedule=CronDataIntervalTimetable('@daily', timezone='UTC') "
    "(a plain '@daily' gives zero-length ones), or set interval_start and interval_end"
)


#: Unix seconds, in the year 2001. A smaller number in `metrics` is a count.
EARLIEST_TIME = 1_000_000_000
#: Unix seconds, in the year 5138. Milliseconds are more.
LATEST_TIME = 100_000_000_000


class Interval(NamedTuple):
    """``[start, end)`` in Unix seconds: `start` belongs to it, `end` to the next one."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"[{iso(self.start)}, {iso(self.end)})"


class Window(NamedTuple):
    """Deliveries of one channel created in ``[start, end)``, Unix seconds; drafts are a list of their own."""

    channel: str
    start: int
    end: int
    drafts: bool = False


def is_time(value: object) -> TypeGuard[int]:
    """Whether a value can be Unix seconds: an integer that is neither a count nor milliseconds."""
    return type(value) is int and EARLIEST_TIME <= value < LATEST_TIME


def iso(seconds: int) -> str:
    """ISO 8601 in UTC, ``2026-11-01T00:00:00Z``."""
    return pendulum.from_timestamp(seconds).to_iso8601_string()


def whole_seconds(span: timedelta) -> int:
    """Seconds, rounded up."""
    return ceil(span.total_seconds())


def check_bounds(interval_start: object, interval_end: object) -> None:
    """Find at DAG parse what can be known then: half an interval, a value that is no time, end before start.

    Templates, and references to other tasks' results, are left for the run.

    :raises ConfigurationError: naming the parameter.
    """
    if (interval_start is None) != (interval_end is None):
        given, missing = ("interval_start", "interval_end")[:: 1 if interval_end is None else -1]
        raise ConfigurationError(f"{given} is set without {missing}: set both, or neither for the run's data interval")
    known = [
        _moment(value, name)
        for value, name in ((interval_start, "interval_start"), (interval_end, "interval_end"))
        if isinstance(value, date) or (isinstance(value, str) and "{" not in value)
    ]
    if len(known) == 2:
        _between(*known)


def resolve_interval(interval_start: object, interval_end: object, context: Mapping[str, Any]) -> Interval:
    """The two parameters if set, else the data interval of the run (whose keys can be absent from `context`).

    Occurrences have whole-second times, so a bound within a second is rounded up, both bounds alike:
    adjacent intervals stay adjacent.

    :raises ConfigurationError: if it is missing, malformed or zero-length.
    """
    if interval_start is None and interval_end is None:
        first, last = context.get("data_interval_start"), context.get("data_interval_end")
        if first is None or last is None:
            raise ConfigurationError(f"This run has no data interval. {_WHAT_TO_DO}.")
        interval = _between(_moment(first, "data_interval_start"), _moment(last, "data_interval_end"))
    else:
        interval = _between(_moment(interval_start, "interval_start"), _moment(interval_end, "interval_end"))
    return interval


def interval_between(start: object, end: object) -> Interval:
    """``[start, end)`` of two datetimes or ISO 8601 texts, in UTC unless they say otherwise.

    :raises ConfigurationError: naming which of them is wrong.
    """
    return _between(_moment(start, "start"), _moment(end, "end"))


def _between(first: datetime, last: datetime) -> Interval:
    if last < first:
        raise ConfigurationError(f"The interval ends ({last}) before it starts ({first}): swap the two.")
    if last == first:
        raise ConfigurationError(f"The interval [{first}, {last}) has zero length. {_WHAT_TO_DO}.")
    return Interval(_rounded_up(first), _rounded_up(last))


def _rounded_up(moment: datetime) -> int:
    return timegm(moment.utctimetuple()) + (moment.microsecond > 0)


def _moment(value: object, name: str) -> datetime:
    """A time zone that is not given is UTC, as Airflow has it; a date is its midnight."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ConfigurationError(
                f"{name} must be ISO 8601, such as '2026-11-01T00:00:00Z', got {shown(value)}"
            ) from None
    if not isinstance(value, date):
        raise ConfigurationError(f"{name} must be a datetime or ISO 8601 text, got {kind_of(value)}")
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)

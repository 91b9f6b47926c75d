"""Data intervals of runs and windows of creation times, half-open ``[start, end)`` in whole Unix seconds. Pure."""

from __future__ import annotations

from calendar import timegm
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from math import ceil
from typing import Any, NamedTuple, TypeGuard

import pendulum

from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.values import kind_of, shown

_FIX = (
    "Give the DAG a timetable with data intervals, schedule=CronDataIntervalTimetable('@daily', timezone='UTC') "
    "(a plain '@daily' gives intervals of zero length), or set interval_start and interval_end."
)
#: Years of an interval's bounds. An earlier one precedes Customer.io and the smallest time that counts as one; a later
#: one is a mistake for sure, and so far ahead that times near it can be converted between zones without overflow.
_YEARS = range(2001, 3000)
#: Smallest Unix seconds (year 2001) that count as a time. `metrics` also holds counts, which are smaller.
EARLIEST_TIME = 1_000_000_000
#: Unix seconds (year 5138) from which a number is no time, because it is probably milliseconds.
LATEST_TIME = 100_000_000_000
#: Days for which Customer.io lists a delivery: about six months. It narrows longer requests, silently.
LISTED_DAYS = 180


class Interval(NamedTuple):
    """Data interval ``[start, end)`` in Unix seconds."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"[{iso(self.start)}, {iso(self.end)})"


class Ages(NamedTuple):
    """Range ``[older_than, lookback)`` of the ages that count, in seconds.

    An age is the time from a message's creation to what happened to it. An `older_than` of 0 is no bound: Customer.io
    may stamp a creation up to a minute after the first metric, so the least ages are negative.
    """

    lookback: int
    older_than: int = 0

    def part_of(self, interval: Interval, created: int) -> tuple[int, int]:
        """Return start and end of the part of an interval in which what happens to a message counts.

        The part is half-open, and empty if its end is not after its start.

        :param created: creation of the message, in Unix seconds.
        """
        start, end = interval
        lookback, older_than = self
        if older_than and created + older_than > start:
            start = created + older_than
        if created + lookback < end:
            end = created + lookback
        return start, end


class Window(NamedTuple):
    """Range ``[start, end)`` of creation times in one list of deliveries. Drafts are a separate list.

    Start and end are Unix seconds.
    """

    channel: str
    start: int
    end: int
    drafts: bool = False


def is_time(value: object) -> TypeGuard[int]:
    """Return whether the value can be Unix seconds: an integer that is neither a count nor milliseconds."""
    return type(value) is int and EARLIEST_TIME <= value < LATEST_TIME


def whole(value: Any) -> Any:
    """Return a whole float as an integer, because JSON knows one kind of number only, and any other value as it is."""
    return int(value) if type(value) is float and value.is_integer() else value


def iso(seconds: int) -> str:
    """Return a time as ISO 8601 in UTC, ``2026-11-01T00:00:00Z``."""
    return pendulum.from_timestamp(seconds).to_iso8601_string()


def whole_seconds(span: timedelta) -> int:
    """Return the seconds of a timedelta, rounded up."""
    return ceil(span.total_seconds())


def age_warning(first: int, now: float, advice: str) -> str | None:
    """Return a warning if deliveries are asked for that Customer.io may not list any more, else None.

    :param first: the earliest creation that is asked for.
    :param advice: end of the sentence.
    """
    if first >= now - LISTED_DAYS * 86_400:
        return None
    return (
        f"This reads deliveries created from {iso(first)} on. Customer.io may show less of those that are more than "
        f"{LISTED_DAYS} days old, without a word: {advice}."
    )


def check_bounds(interval_start: object, interval_end: object) -> None:
    """Check both parameters when a DAG file is parsed. Templates and other tasks' results are not checked.

    :raises ConfigurationError: one of the two is missing, no time, out of range, or in the wrong order.
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
    """Return the interval of the two parameters if they are set, else the data interval of the run.

    Both bounds are rounded up to whole seconds, as occurrences have them, so that adjacent intervals stay adjacent.

    :raises ConfigurationError: the interval is missing, malformed, out of range or of zero length.
    """
    if interval_start is not None or interval_end is not None:
        return _between(_moment(interval_start, "interval_start"), _moment(interval_end, "interval_end"))
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    if start is None or end is None:
        raise ConfigurationError(
            "This run has no data interval, because it was triggered without a logical date, or by an asset. Trigger "
            f"it with a logical date, or set interval_start and interval_end. "
            f"If scheduled runs fail in this way, too: {_FIX[0].lower()}{_FIX[1:]}"
        )
    return _between(_moment(start, "data_interval_start"), _moment(end, "data_interval_end"))


def interval_between(start: object, end: object) -> Interval:
    """Return ``[start, end)`` of two datetimes or ISO 8601 texts. A missing time zone is UTC.

    :raises ConfigurationError: one of them is no time or out of range, or the interval is empty.
    """
    return _between(_moment(start, "start"), _moment(end, "end"))


def _between(first: datetime, last: datetime) -> Interval:
    if last < first:
        raise ConfigurationError(f"The interval ends ({last}) before it starts ({first}): swap the two.")
    if last == first:
        raise ConfigurationError(f"The interval [{first}, {last}) has zero length. {_FIX}")
    return Interval(_rounded_up(first), _rounded_up(last))


def _rounded_up(moment: datetime) -> int:
    return timegm(moment.utctimetuple()) + (moment.microsecond > 0)


def _moment(value: object, name: str) -> datetime:
    """Return a datetime in UTC. A missing time zone is UTC, as in Airflow; a date is its midnight."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ConfigurationError(
                f"{name} must be ISO 8601, such as '2026-11-01T00:00:00Z', got {shown(value)}"
            ) from None
    if not isinstance(value, date):
        raise ConfigurationError(f"{name} must be a datetime or ISO 8601 text, got {kind_of(value)}")
    if value.year not in _YEARS:
        raise ConfigurationError(f"{name} must be in the years {_YEARS[0]} to {_YEARS[-1]}, got the year {value.year}")
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)

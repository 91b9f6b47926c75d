"""Estimate what rhythms of runs cost, and when they see what happened. No network.

`python -m airflow_provider_cio.costs --deliveries-a-month 10000000`, or with a file of results of runs, one a line, as
their tasks leave them in XCom.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import NamedTuple

from airflow_provider_cio.values import kind_of

HOUR, DAY = 3600, 86_400
#: A month has 30 days here.
MONTH = 30 * DAY
#: The provider's defaults, repeated because their modules import more than this one may. A test compares them.
PAGE_SIZE, REQUESTS_PER_SECOND, SETTLING_TIME, CREATED_LATE = 1000, 8, 30 * 60, 60
#: Requests of a run for names: of campaigns, newsletters, broadcasts and transactional messages.
NAME_LISTS = 4
#: Requests for each page of deliveries, because windows of five to ten pages end with one that is not full. And
#: requests besides, for what is left at both ends. Found by reading histories of 10 to 350 pages in the sandbox: evenly
#: spread, but for some deliveries on the full hour.
REQUESTS_A_PAGE, ENDS = 1.1, 2

#: Seconds. Customer.io records no opens after about six months, and a look-back can't be longer.
LONGEST = 180 * DAY
#: Seconds, not included, up to which an age belongs to each key of a result's `ages`.
AGES = {"1h": HOUR, "1d": DAY, "2d": 2 * DAY, "7d": 7 * DAY, "30d": 30 * DAY, "90d": 90 * DAY, "180d": LONGEST}
#: Keys of events of no age that a look-back can reach, which are left out.
BEYOND = {"older", "unknown"}
#: Assumed percentages of opens by age, for want of results. Within an hour 21.5, within a day 73: GetResponse, 5.5
#: billion mails, 2020. After 7 days 3.8, after 30 days 1.2: Inntopia, a dozen campaigns of hotels, 2014.
ASSUMED = {"Email Opened": {"1h": 21.5, "1d": 51.5, "7d": 23.2, "30d": 2.6, "180d": 1.2}}
#: Times for which the output says how much is seen within them.
WITHIN = {"2 hours": 2 * HOUR, "2 days": 2 * DAY, "8 days": 8 * DAY}


class ResultError(ValueError):
    """A line is not as a run leaves its result."""


class Rhythm(NamedTuple):
    """Runs of one DAG. All fields are seconds. A run counts what happened at an age in ``[older_than, lookback)``."""

    every: int
    older_than: int
    lookback: int

    def requests(self, deliveries_a_month: float) -> int:
        """Return the requests of one run, which reads ``[start - lookback, end - older_than)``."""
        span = self.lookback + self.every + (-self.older_than if self.older_than else CREATED_LATE)
        pages = deliveries_a_month * span / MONTH / PAGE_SIZE
        return ceil(pages * REQUESTS_A_PAGE) + ENDS + NAME_LISTS


#: Compared plans: one DAG, or several that share the ages.
PLANS = {
    "one hourly DAG, look-back of 30 days": {"": Rhythm(HOUR, 0, 30 * DAY)},
    "one daily DAG, look-back of 30 days": {"": Rhythm(DAY, 0, 30 * DAY)},
    "three rhythms": {
        "hourly: up to a day old": Rhythm(HOUR, 0, DAY),
        "daily: 1 to 7 days old": Rhythm(DAY, DAY, 7 * DAY),
        "weekly: 7 to 180 days old": Rhythm(7 * DAY, 7 * DAY, 180 * DAY),
    },
}


class Seen(NamedTuple):
    """Shares of what happens: those seen within each time of `WITHIN`, and the one never seen, None if unknown."""

    within: tuple[float, ...]
    never: float | None


def seen(rhythms: Iterable[Rhythm], ages: Mapping[str, float], known_to: int = LONGEST) -> Seen:
    """Return which shares these rhythms see, and when at the latest, but for the time that a run takes.

    :param ages: events by the keys of `AGES`, at least one.
    :param known_to: the greatest age, in seconds, that `ages` can tell of.
    """
    rhythms, total = list(rhythms), sum(ages.values())

    def share(older_than: int, lookback: int) -> float:
        return sum(count for key, count in ages.items() if older_than < AGES[key] <= lookback) / total

    within = tuple(
        sum(share(one.older_than, one.lookback) for one in rhythms if one.every + SETTLING_TIME < most)
        for most in WITHIN.values()
    )
    lookback = max(one.lookback for one in rhythms)
    return Seen(within, share(lookback, LONGEST) if lookback < known_to or lookback == LONGEST else None)


class Run(NamedTuple):
    """Relevant counts of a result: the length of its interval, the deliveries read, events by collection and age."""

    seconds: float
    deliveries: int
    ages: dict[str, dict[str, int]]


def read_results(lines: Iterable[str]) -> Iterator[Run]:
    """Read results, one a line. Empty lines are left out.

    :raises ResultError: a line is no result of a run. The message names the line, what is wrong, and the fix.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                result = json.loads(line)
            except (ValueError, RecursionError):
                raise ResultError(f"line {number} is no JSON: write each result on one line, as jq -c does") from None
            try:
                yield _run(result)
            except ResultError as error:
                raise ResultError(f"line {number}: {error}") from None


def _run(result: object) -> Run:
    whole = _object(result, "the line")
    interval, read = _object(whole.get("interval"), "interval"), _object(whole.get("read"), "read")
    seconds = (_time(interval, "end") - _time(interval, "start")).total_seconds()
    if seconds <= 0:
        raise ResultError("interval.end must be later than interval.start")
    if "ages" not in whole:
        raise ResultError("it has no ages, so the run was one of an older version of the provider: leave the line out")
    ages: dict[str, dict[str, int]] = {}
    for collection, counts in _object(whole["ages"], "ages").items():
        name = f"ages of {collection[:60]}"
        found = {key: _count(count, f"{name}, {key[:20]}") for key, count in _object(counts, name).items()}
        if unknown := found.keys() - AGES - BEYOND:
            raise ResultError(f"{name}: there is no age {min(unknown)[:20]!r}, but {', '.join(AGES)}")
        ages[collection] = {key: count for key, count in found.items() if key in AGES}
    return Run(seconds, _count(read.get("deliveries"), "read.deliveries"), ages)


def _object(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ResultError(f"{name} must be an object, got {kind_of(value)}: give the XCom return_value of a run, whole")
    return value


def _count(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value < 10**15:
        raise ResultError(f"{name} must be a number from 0, got {kind_of(value)}: give the result as the run left it")
    return value


def _time(interval: Mapping[str, object], name: str) -> datetime:
    value = interval.get(name)
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        raise ResultError(
            f"interval.{name} must be a time such as '2026-11-01T00:00:00Z', got {kind_of(value)}"
        ) from None


def costs_table(deliveries_a_month: float) -> str:
    """Return the requests and minutes of each plan of `PLANS`, and of each of its rhythms."""
    rows = [
        [
            f"{deliveries_a_month:,.0f} deliveries a month",
            "a run",
            "a day",
            "a month",
            f"of {REQUESTS_PER_SECOND} a second",
        ]
    ]

    def cell(requests: float) -> str:
        minutes = requests / REQUESTS_PER_SECOND / 60
        span = (
            f"{minutes:.1f} min"
            if minutes < 10
            else f"{minutes:.0f} min"
            if minutes < 120
            else f"{minutes / 60:,.1f} h"
        )
        return f"{requests:,.0f} ({span})"

    for plan, rhythms in PLANS.items():
        runs = {name: rhythm.requests(deliveries_a_month) for name, rhythm in rhythms.items()}
        daily = {name: requests * DAY / rhythms[name].every for name, requests in runs.items()}
        day = sum(daily.values())
        load = day / REQUESTS_PER_SECOND / DAY
        a_run = cell(sum(runs.values())) if len(runs) == 1 else ""
        rows.append([plan, a_run, cell(day), cell(day * 30), f"{load:.1%}" + (", too much" if load > 1 else "")])
        if len(runs) > 1:
            rows += [[f"- {name}", cell(runs[name]), cell(daily[name]), cell(daily[name] * 30), ""] for name in runs]
    return _table(rows)


def seen_table(ages: Mapping[str, Mapping[str, float]], known_to: int = LONGEST) -> str:
    """Return which shares of each collection the plans see, and when."""
    rows = [["seen within", *WITHIN, "never"]]
    for collection, counts in ages.items():
        for plan, rhythms in PLANS.items():
            found = seen(rhythms.values(), counts, known_to)
            never = "unknown" if found.never is None else f"{found.never:.1%}"
            rows.append([f"{collection}, {plan}", *(f"{share:.1%}" for share in found.within), never])
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the estimate."""
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_cio.costs", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, help="file of results; from it come ages and deliveries")
    parser.add_argument("--deliveries-a-month", nargs="+", type=_positive, metavar="N", help="instead of those read")
    parser.add_argument(
        "--lookback", type=_positive, default=30, metavar="DAYS", help="of the results' runs (default: 30)"
    )
    options = parser.parse_args(arguments)
    if options.results is None and not options.deliveries_a_month:
        parser.error("give a file of results, or --deliveries-a-month 1000000")
    runs: list[Run] = []
    try:
        if options.results is not None:
            runs = list(read_results(options.results.read_text("utf-8-sig").splitlines()))
    except (OSError, UnicodeError, ResultError) as error:
        parser.error(f"{options.results}: {error}")
    if options.results is not None and not runs:
        parser.error(f"{options.results} has no result: write the XCom return_value of each run on a line")

    known_to = min(options.lookback * DAY, LONGEST)
    span = sum(run.seconds + known_to + CREATED_LATE for run in runs)
    volumes = options.deliveries_a_month or [MONTH * sum(run.deliveries for run in runs) / span]
    print("\n\n".join(map(costs_table, volumes)), end="\n\n")
    ages: dict[str, Counter[str]] = {}
    for run in runs:
        for collection, counts in run.ages.items():
            ages.setdefault(collection, Counter()).update(counts)
    known = {collection: counts for collection, counts in ages.items() if any(counts.values())}
    if not runs:
        print(
            f"Assumed ages, from studies of other senders' mails. Yours differ: give results.\n\n{seen_table(ASSUMED)}"
        )
    elif not known:
        print("These results have no events, so they tell nothing of ages.")
    else:
        print(f"The ages of these results, which look back {known_to // DAY} days: shares of what they found.")
        least = dict(zip(AGES, (0, *AGES.values()), strict=False))
        if any(count and least[key] >= known_to for counts in known.values() for key, count in counts.items()):
            print("Some are older, as it is with opens_and_clicks='every'. If not so, give the runs' own --lookback.")
        print(f"\n{seen_table(known, known_to)}")


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 16 and int(text)):
        raise argparse.ArgumentTypeError("must be a whole number from 1, such as 30 or 10000000")
    return int(text)


if __name__ == "__main__":
    main(sys.argv[1:])

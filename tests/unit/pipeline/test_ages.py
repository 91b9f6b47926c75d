"""Check the counts of events by age, in the result, in a checkpoint and in the log."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.events.interval import Ages, Interval
from airflow_provider_cio.events.occurrence import Message, Occurrence
from airflow_provider_cio.operators.options import MAX_LOOKBACK
from airflow_provider_cio.pipeline.ages import AgeCounts
from airflow_provider_cio.pipeline.result import Tally
from tests.sandbox import History, Sandbox
from tests.unit.support import DAY, NOVEMBER, run_pipeline

HOUR = 3600
#: First and last age of each key.
KEYS = {
    "1h": (-60, HOUR - 1),
    "1d": (HOUR, DAY - 1),
    "2d": (DAY, 2 * DAY - 1),
    "7d": (2 * DAY, 7 * DAY - 1),
    "30d": (7 * DAY, 30 * DAY - 1),
    "90d": (30 * DAY, 90 * DAY - 1),
    "180d": (90 * DAY, 180 * DAY - 1),
    "older": (180 * DAY, 400 * DAY),
}


def at_age(age: int | None, name: str = "Email Opened") -> Occurrence:
    message = Message("d", "email")
    if age is not None:
        message = Delivery(id="d", type="email", created=NOVEMBER, metrics={})
    return Occurrence(message, CATALOG[name], NOVEMBER + (age or 0))


MONTH = Ages(30 * DAY)


def counted(ages: list[int | None], wanted: Ages = MONTH, name: str = "Email Opened") -> AgeCounts:
    tally = Tally()
    tally.count([at_age(age, name) for age in ages], wanted)
    return tally.ages


@pytest.mark.parametrize("key", KEYS)
def test_bounds_of_the_keys(key: str) -> None:
    assert counted(list(KEYS[key])).by_collection() == {"Email Opened": {key: 2}}


def test_age_of_a_deleted_message_is_unknown() -> None:
    assert counted([None, 5]).by_collection() == {"Email Opened": {"1h": 1, "unknown": 1}}


@given(
    pages=st.lists(
        st.lists(st.tuples(st.sampled_from(["Email Opened", "Push Sent"]), st.none() | st.integers(-60, 400 * DAY)))
    )
)
def test_sums_of_pages_and_tries(pages: list[list[tuple[str, int | None]]]) -> None:
    ages = AgeCounts()
    for page in pages:
        tally = Tally()
        tally.count([at_age(age, name) for name, age in page], MONTH)
        ages.add(tally.ages)
        ages = AgeCounts.from_dict(json.loads(json.dumps(ages.as_dict())))
    everything = [one for page in pages for one in page]
    found = ages.by_collection()
    assert {name: sum(counts.values()) for name, counts in found.items()} == Counter(name for name, _ in everything)
    late = sum(age is not None and 27 * DAY <= age < 30 * DAY for _, age in everything)
    assert sum(number for key, number in ages.as_dict().items() if key.endswith("last tenth")) == late


@pytest.mark.parametrize(
    ("ages", "wanted", "line"),
    [
        ([0] * 98 + [27 * DAY, 30 * DAY - 1], MONTH, "2 % of Email Opened were 27 days to 30 days old"),
        ([0] * 99 + [27 * DAY], MONTH, None),  # 1 % is no more than 1 %
        ([0] * 98 + [27 * DAY - 1, 30 * DAY], MONTH, None),
        ([DAY - 1], Ages(DAY), "100 % of Email Opened were 21.6 hours to 1 day old"),
        ([29 * DAY], Ages(30 * DAY, older_than=28 * DAY), "100 % of Email Opened were 28 days to 30 days old"),
        ([179 * DAY], Ages(180 * DAY), None),  # no look-back is longer
        ([178 * DAY], Ages(179 * DAY), "100 % of Email Opened were 161.1 days to 179 days old"),
        ([], Ages(DAY), None),
    ],
)
def test_last_tenth_is_worth_a_line(ages: list[int | None], wanted: Ages, line: str | None) -> None:
    expected = f"{line}: a longer lookback, or a DAG with older_than, may find more" if line else None
    assert counted(ages, wanted).late(wanted, ()) == expected


def test_longest_lookback_is_that_of_the_operator() -> None:
    longest = int(MAX_LOOKBACK.total_seconds())
    assert [bool(counted([one - 1], Ages(one)).late(Ages(one), ())) for one in (longest - 1, longest)] == [True, False]


def test_collections_that_are_late() -> None:
    day = Ages(DAY)
    ages = counted([DAY - 1], day)
    ages.add(counted([0, DAY - 1], day, "Push Opened"))
    line = ages.late(day, {"Email Opened"})
    assert line is not None
    assert line.startswith("50 % of Push Opened were 21.6 hours to 1 day old: ")
    assert ages.late(day, {"Email Opened", "Push Opened"}) is None


# In a run


@pytest.mark.parametrize(("mode", "says"), [("first", True), ("every", False)])
def test_ages_of_a_run(sandbox: Sandbox, mode: str, says: bool) -> None:
    """Unidentified people have no events to count. An activity counts whatever the look-back."""

    def row(number: int, age: int, **more: Any) -> dict[str, Any]:
        opened = NOVEMBER + number
        return {"id": f"d{number}", "type": "email", "created": opened - age, "metrics": {"opened": opened}} | more

    known = {"customer_id": "1"}
    sandbox.history = History([row(1, 5, **known), row(2, 9 * DAY + HOUR, **known), row(3, 5), row(4, -60, **known)])
    result = run_pipeline(
        sandbox, Interval(NOVEMBER, NOVEMBER + DAY), names=["Email Opened"], mode=mode, lookback=10 * DAY
    )
    told = result.as_dict()
    assert told["ages"] == {"Email Opened": {"1h": 2, "30d": 1}}
    assert told["events"] == {"Email Opened": 3}
    assert bool(result.tally.ages.late(result.counted, result.of_any_age)) == says

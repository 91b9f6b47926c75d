"""Check the assumptions that a preview tests, against a sandbox that meets the assumptions, and one that does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_cio.customerio.assumptions import Found, check_assumptions
from airflow_provider_cio.events.catalog import resolve_collections
from airflow_provider_cio.events.interval import Interval
from tests.sandbox import History, Sandbox, Settings
from tests.unit.support import DAY, NOVEMBER, clients

INTERVAL = Interval(NOVEMBER, NOVEMBER + DAY)
HISTORY = History.generate(seed=8, deliveries=600, start=NOVEMBER - DAY, end=INTERVAL.end)
KEYS = {
    "newest_first": {"rows", "out_of_order"},
    "within_bounds": {"rows", "outside"},
    "limit": {"asked", "rows"},
    "next_at_end": {"rows", "next"},
    "people_with_id": {"rows", "without_id"},
    "metrics": {"keys", "unknown"},
    "first_activity": {"readable", "compared", "equal"},
    "link_of_click": {"readable", "href", "link", "neither"},
}


def found(sandbox: Sandbox, names: Any = ("Email Opened",)) -> Found:
    client, _ = clients(sandbox)
    with client:
        return check_assumptions(client, INTERVAL, 30 * DAY, resolve_collections(names))


def row(number: int, **fields: Any) -> dict[str, Any]:
    first = NOVEMBER + number
    return {
        "id": f"d{number}",
        "type": "email",
        "created": first,
        "metrics": {"sent": first},
        "customer_id": "1",
    } | fields


def test_all_is_as_assumed(sandbox: Sandbox) -> None:
    told = found(sandbox)
    assert {name: one["as_assumed"] for name, one in told.items()} == dict.fromkeys(KEYS, True)
    assert {name: one.keys() - {"as_assumed"} for name, one in told.items()} == KEYS
    assert told["newest_first"]["rows"] == told["within_bounds"]["rows"] > 200
    assert told["first_activity"]["compared"] > 5
    assert {"opened", "human_*", "link:*"} <= set(told["metrics"]["keys"])
    assert len(sandbox.customerio.requests) <= 10
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize("end", ["empty", "null", "absent"])
def test_end_of_a_list(sandbox: Sandbox, end: Any) -> None:
    sandbox.settings = Settings(last_next=end)
    assert found(sandbox)["next_at_end"] == {"as_assumed": True, "rows": 2, "next": end}


@pytest.mark.parametrize(
    ("settings", "name", "number"),
    [
        ({"order": "shuffled"}, "newest_first", "out_of_order"),
        ({"loose_bounds": DAY}, "within_bounds", "outside"),
    ],
)
def test_other_habits_are_seen(sandbox: Sandbox, settings: dict[str, Any], name: str, number: str) -> None:
    sandbox.settings = Settings(**settings)
    sandbox.history = History.generate(seed=8, deliveries=600, start=NOVEMBER - DAY, end=INTERVAL.end + 2 * DAY)
    told = found(sandbox)[name]
    assert (told["as_assumed"], told[number] > 0) == (False, True)


def test_other_rows_are_seen(sandbox: Sandbox) -> None:
    at = NOVEMBER + 9
    activities = [
        {"id": "a", "type": "opened_email", "timestamp": at + 5, "delivery_id": "d9", "delivery_type": "email"},
        {"id": "b", "type": "opened_email", "timestamp": at - 5, "delivery_id": "d8", "delivery_type": "email"},
        {
            "id": "c",
            "type": "clicked_email",
            "timestamp": at,
            "delivery_id": "d9",
            "delivery_type": "email",
            "data": {},
        },
    ]
    sandbox.history = History(
        deliveries=[
            row(9, metrics={"opened": at, "ana@example.com": at}),
            row(8, customer_id=None),
            row(7, customer_id=""),
        ],
        activities=activities,
    )
    told = found(sandbox)
    assert told["people_with_id"] == {"as_assumed": False, "rows": 3, "without_id": 2}
    assert told["metrics"] == {"as_assumed": False, "keys": ["opened", "sent"], "unknown": 1}
    assert told["first_activity"] == {"as_assumed": False, "readable": True, "compared": 1, "equal": 0}
    assert told["link_of_click"] == {"as_assumed": False, "readable": True, "href": 0, "link": 0, "neither": 1}
    assert "ana" not in json.dumps(told)


def test_nothing_to_compare(sandbox: Sandbox) -> None:
    sandbox.history = History(deliveries=[])
    told = found(sandbox)
    assert {name for name, one in told.items() if one["as_assumed"] is not None} == {"next_at_end"}


def test_activities_may_be_unreadable(sandbox: Sandbox) -> None:
    sandbox.settings = Settings(scopes=("messages",))
    told = found(sandbox)
    for name in ("first_activity", "link_of_click"):
        assert (told[name]["as_assumed"], told[name]["readable"]) == (None, False)
    assert told["newest_first"]["as_assumed"] is True


def test_channels_without_activities_are_no_failure(sandbox: Sandbox) -> None:
    """None is asked for, so nothing is known, and nothing is blamed on the key."""
    told = found(sandbox, ["Slack Sent"])
    for name in ("first_activity", "link_of_click"):
        assert (told[name]["as_assumed"], told[name]["readable"]) == (None, True)
    assert not any(one.path == "/v1/activities" for one in sandbox.customerio.requests)

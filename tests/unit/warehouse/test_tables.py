"""The columns of the tables, and the rows that events become."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cio.events.catalog import snakecase
from airflow_provider_cio.events.event import encode
from airflow_provider_cio.warehouse.tables import (
    SENDER_VALUES,
    SPOOLED,
    Kind,
    columns_of,
    csv_lines,
    csv_values,
    number_of,
    unstorable,
    values_of,
)
from tests.unit.warehouse.events import event

# As a real Segment warehouse has them (reference: BloomBooks' dump of one in PostgreSQL), and a Customer.io source's.
BASE = ["id", "received_at", "sent_at", "uuid_ts", "timestamp", "event", "original_timestamp", "event_text"]
BASE += ["user_id", "anonymous_id"]
CONTEXT = ["integration_name", "integration_version", "library_name", "library_version", "traits_email", "ip"]
CONTEXT += ["user_agent"]
#: SQL's words that need quotes in every statement of a reader's, on one database or another.
RESERVED = set("all and as by case column create desc end from group in like limit link not null on or order".split())
RESERVED |= set("select table tag then to union user using when where with open close".split())
#: Ids that are numbers in the tables.
NUMBERS = {column.name for column in columns_of("email_opened") if column.kind is Kind.NUMBER}


def flattened(call: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the keys as Segment's warehouses have them."""
    found: dict[str, Any] = {}
    for key, value in call.items():
        name = f"{prefix}{snakecase(key)}"
        found |= flattened(value, f"{name}_") if isinstance(value, dict) else {name: value}
    return found


def test_tracks_columns() -> None:
    names = [column.name for column in columns_of("tracks")]
    assert sorted(names) == sorted(BASE + [f"context_{name}" for name in CONTEXT])


def test_event_table_columns() -> None:
    names = [column.name for column in columns_of("email_opened")]
    assert set(names) > {column.name for column in columns_of("tracks")}
    assert set(names) > set("delivery_id recipient subject campaign_id action_id href link_id customer_id".split())
    assert len(set(names)) == len(names)
    assert {column.name for column in columns_of("email_opened") if column.kind.value == "boolean"} == {
        "machine",
        "prefetched",
        "proxied",
    }
    assert (
        set(
            "campaign_id action_id parent_action_id newsletter_id content_id broadcast_id transactional_message_id "
            "link_id".split()
        )
        == NUMBERS
    )


def test_column_names_are_plain() -> None:
    names = {column.name for column in columns_of("email_opened")}
    assert not names & RESERVED
    assert all(name[0].isalpha() and len(name) <= 63 for name in names)


TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"]))


@given(
    data=st.none()
    | st.fixed_dictionaries({}, optional={"ip": TEXT, "user_agent": TEXT, "href": TEXT, "machine": st.booleans()}),
    fields=st.fixed_dictionaries({}, optional={"subject": TEXT, "recipient": TEXT, "campaign_id": st.integers()}),
)
def test_row_holds_the_whole_event(data: dict[str, Any] | None, fields: dict[str, Any]) -> None:
    made = event(7, data=data, **fields)
    call = json.loads(encode(made))
    expected = flattened(call["properties"]) | flattened(call["context"], "context_")
    expected |= {"id": call["messageId"], "event_text": call["event"], "user_id": call.get("userId")}
    expected |= {"anonymous_id": call.get("anonymousId"), "original_timestamp": made.timestamp}
    expected |= {name: number_of(expected[name]) for name in NUMBERS & expected.keys()}
    row = {column.name: value for column, value in zip(SPOOLED, values_of(made), strict=True) if value is not None}
    assert row | SENDER_VALUES == {name: value for name, value in expected.items() if value is not None}


TEXT_OR_BOOLEAN = st.text(st.characters(exclude_categories=["Cs"])) | st.booleans()


@given(st.lists(st.lists(TEXT_OR_BOOLEAN, min_size=1), min_size=1))
def test_lines_are_csv(rows: list[list[str | bool]]) -> None:
    lines = csv_lines([tuple(values) for values in rows]).decode()
    read = list(csv.reader(io.StringIO(lines, newline=""), strict=True))
    assert read == [[value if isinstance(value, str) else str(value).lower() for value in values] for values in rows]


def test_empty_text_is_not_null() -> None:
    plain, escaped = ("", None, "null", True, False), ("", None, 'say "a"', True, False)
    assert csv_lines([plain, escaped]) == b'"",null,"null",true,false\n"",null,"say ""a""",true,false\n'


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *(
            (13, 13),
            ("13", 13),
            ("-7", -7),
            (0, 0),
            ("007", 7),
            (10**18 - 1, 10**18 - 1),
            (-(10**18) + 1, -(10**18) + 1),
        ),
        *((10**18, None), (2**70, None), ("13a", None), ("1.5", None), ("1e3", None), (" 1", None), ("1\n", None)),
        *(("", None), ("\u0661", None), (True, None), (1.0, None), (None, None)),
    ],
)
def test_a_number_is_an_integer_or_text_that_is_one(value: object, number: int | None) -> None:
    assert number_of(value) == number


def test_an_id_that_is_no_number_is_null_and_counted() -> None:
    counted: Counter[str] = Counter()
    row = values_of(event(campaign_id="spring", action_id="12", newsletter_id=None), counted)
    found = {column.name: value for column, value in zip(SPOOLED, row, strict=True)}
    assert (found["campaign_id"], found["action_id"], found["newsletter_id"]) == (None, 12, None)
    assert counted == {"campaign_id": 1}


def test_lines_with_numbers_are_read_again() -> None:
    rows: list[tuple[Any, ...]] = [("1", 1, -2, True, None, 'a "b"'), ("1", 1, -2, False, None, "ab")]
    assert [tuple(row) for row in csv_values(io.BytesIO(csv_lines(rows)))] == rows


def test_unstorable_text_is_named() -> None:
    assert unstorable(values_of(event(subject="fine"))) is None
    assert unstorable(values_of(event(subject="not\0fine"))) == "subject"

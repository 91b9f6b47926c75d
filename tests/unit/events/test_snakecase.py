from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_cio.events.catalog import CATALOG, snakecase

#: The cases of go-snakecase's own test (snake_test.go at 6f94919300736c3044cfb8ab4a958058c272ff22).
CASES = json.loads((Path(__file__).parent / "go_snakecase.json").read_text())


@pytest.mark.parametrize(("name", "expected"), CASES)
def test_matches_segments_own(name: str, expected: str) -> None:
    assert snakecase(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("In-App Message Opened", "in_app_message_opened"),
        ("WhatsApp Sent", "whats_app_sent"),
        ("SMS Link Clicked", "sms_link_clicked"),
        ("userId", "user_id"),
        ("linkURL", "link_url"),
        ("IDs", "ids"),
        ("Émail", "mail"),
        ("日本", ""),
    ],
)
def test_names_of_our_events_and_keys(name: str, expected: str) -> None:
    assert snakecase(name) == expected


def test_each_collection_has_its_table() -> None:
    tables = [collection.table for collection in CATALOG.values()]
    assert len({*tables, "tracks"}) == len(tables) + 1
    assert all(table and not table[0].isdigit() and len(table) <= 63 for table in tables)


def go(name: str) -> str:
    """Port of snake.go, byte by byte."""
    s, out, idx = name.encode(), bytearray(), 0
    has_lower = has_underscore = lower_since = False

    def lower(c: int) -> bool:
        return ord("a") <= c <= ord("z")

    def upper(c: int) -> bool:
        return ord("A") <= c <= ord("Z")

    def digit(c: int) -> bool:
        return ord("0") <= c <= ord("9")

    def word() -> None:
        nonlocal idx
        while idx < len(s) and (upper(s[idx]) or digit(s[idx])):
            out.append(s[idx] + 32 if upper(s[idx]) else s[idx])
            idx += 1
        while idx < len(s) and (lower(s[idx]) or digit(s[idx])):
            out.append(s[idx])
            idx += 1

    while idx < len(s):
        if lower(s[idx]):
            has_lower = True
            lower_since = lower_since or has_underscore
        elif digit(s[idx]):
            pass
        elif s[idx] == ord("_") and 0 < idx < len(s) - 1 and (lower(s[idx + 1]) or digit(s[idx + 1])):
            has_underscore, lower_since = True, False
        else:
            break
        idx += 1
    out += s[:idx]
    if idx == len(s):
        return name
    if upper(s[idx]) and (not has_lower or (has_underscore and not lower_since)):
        word()
    while idx < len(s):
        if not (lower(s[idx]) or upper(s[idx]) or digit(s[idx])):
            idx += 1
            continue
        if out:
            out.append(ord("_"))
        word()
    return out.decode()


@settings(max_examples=2000)
@given(st.text(alphabet="aZ9_ é") | st.text(max_size=12))
@example("a_5B")
@example("a1_B_2c")
def test_matches_segments_own_for_any_name(name: str) -> None:
    assert snakecase(name) == go(name)

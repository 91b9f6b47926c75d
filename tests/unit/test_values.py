from __future__ import annotations

import math
from datetime import timedelta

import pytest

from airflow_provider_cio.values import flag_in, kind_of, number_in, shown, span_in_words


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "nothing"),
        (" \n", "empty text"),
        ("None", "the text 'None'"),
        ("soon", "a string"),
        (True, "true or false"),
        (7, "a number"),
        (0.5, "a number"),
        ([7], "a list"),
        ((), "an empty list"),
        ({}, "an object"),
        (timedelta(1), "a value of type timedelta"),
    ],
)
def test_kind_of(value: object, kind: str) -> None:
    assert kind_of(value) == kind


def test_only_short_text_is_shown() -> None:
    assert shown(" mars ") == "'mars'"
    assert shown("two\nlines") == r"'two\nlines'"
    assert [shown("x" * 17), shown(" "), shown(["eu"])] == ["a string", "empty text", "a list"]


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ((True, 1, "true", " Yes\n", "ON", "1"), True),
        ((False, 0, "false", "no", "Off", "0"), False),
        ((None, "", " ", "maybe", 2, [], [True], {}), None),
    ],
)
def test_flag_in(values: tuple[object, ...], flag: bool | None) -> None:
    assert [flag_in(value) for value in values] == [flag] * len(values)


@pytest.mark.parametrize(
    ("value", "number"),
    [(7, 7), (" 0.5 ", 0.5), ("-1e3", -1000), (10**400, math.inf), ("inf", math.inf), (True, None), ("7 s", None)],
)
def test_number_in(value: object, number: float | None) -> None:
    assert number_in(value) == number


@pytest.mark.parametrize("value", [None, "", [7], {"seconds": 7}, timedelta(7)])
def test_no_number(value: object) -> None:
    assert number_in(value) is None


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(days=1), "1 day"),
        (timedelta(days=180), "180 days"),
        (timedelta(days=6.3), "6.3 days"),
        (timedelta(hours=1), "1 hour"),
        (timedelta(hours=21.6), "21.6 hours"),
        (timedelta(minutes=5), "5 minutes"),
        (timedelta(seconds=1), "1 second"),
        (timedelta(0), "0 seconds"),
    ],
)
def test_span_in_words(span: timedelta, words: str) -> None:
    assert span_in_words(span) == words

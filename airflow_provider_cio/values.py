"""Read and describe values that come as text or as JSON: parameters, options of streams, fields of connections."""

from __future__ import annotations

import re
from datetime import timedelta

#: Texts that Airflow shows in place of a secret: asterisks in forms, API, command line and logs; a note if masking
#: fails; a placeholder in the forms of Airflow 2, which a connection that was moved from there may hold.
_MASK = re.compile(r"\*{3,}|<redaction-failed>|RATHER_LONG_SENSITIVE_FIELD_PLACEHOLDER")
#: Problem of a field with such a text, for errors.
HOLDS_A_MASK = "holds a mask such as '***', which Airflow shows in place of the value. Enter the value again"
#: Units of a span, the largest first.
_UNITS = {
    "day": timedelta(days=1),
    "hour": timedelta(hours=1),
    "minute": timedelta(minutes=1),
    "second": timedelta(seconds=1),
}
#: Characters. A key is longer, so a key in the wrong field is never shown.
_LONGEST_SHOWN = 16


def kind_of(value: object) -> str:
    """Name the kind of a value for an error that must not show the value itself: ``a string``, ``a list``."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        word = value.strip()
        return "the text 'None'" if word == "None" else "a string" if word else "empty text"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    return "an object" if isinstance(value, dict) else f"a value of type {type(value).__name__}"


def shown(value: object) -> str:
    """Return a short string in quotes, and the kind of any other value. Only for settings that hold no secret."""
    word = value.strip() if isinstance(value, str) else ""
    return repr(word) if 0 < len(word) <= _LONGEST_SHOWN else kind_of(value)


def span_in_words(span: timedelta) -> str:
    """Return a span in the largest unit of which it has at least one: ``1 day``, ``12 hours``, ``6.3 days``."""
    unit = next((unit for unit, one in _UNITS.items() if span >= one), "second")
    number = f"{round(span / _UNITS[unit], 2):g}"
    return f"{number} {unit if number == '1' else f'{unit}s'}"


def number_of(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 event``, ``2,000 events``."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def is_mask(value: object) -> bool:
    """Return whether the value is a text that Airflow shows in place of a secret."""
    return isinstance(value, str) and _MASK.fullmatch(value.strip()) is not None


def flag_in(value: object) -> bool | None:
    """Read true or false, also as a word or as 1 or 0; None for any other value."""
    word = value.strip().lower() if isinstance(value, str) else value
    if word in (True, "true", "yes", "on", "1"):
        return True
    if word in (False, "false", "no", "off", "0"):
        return False
    return None


def number_in(value: object) -> float | None:
    """Read a number, also as text; None for any other value. It may be infinite or NaN, so check its range."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:  # an integer of more than 308 digits
        return float("inf")

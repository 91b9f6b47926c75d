"""Read the parameters of operators, and with the same readers the options of streams.

A parameter is a template field, so each value may come as text. Every DAG file imports this module, so that it must not
import msgspec.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from airflow_provider_cio.events.catalog import DEFAULT_COLLECTIONS, Collection, resolve_collections
from airflow_provider_cio.events.interval import LISTED_DAYS, check_bounds, whole_seconds
from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.values import flag_in, kind_of, number_in, shown, span_in_words

#: A run with a longer look-back would read deliveries that Customer.io does not list.
MAX_LOOKBACK = timedelta(days=LISTED_DAYS)
#: Modes that read activities -> the mode for intervals that those don't reach.
FROM_ACTIVITIES = {"every": "first", "every_human": "first_human"}
#: Far more than any delay of Customer.io's. A longer time is probably in the wrong unit.
MAX_SETTLING_TIME = timedelta(days=7)
#: Characters of the name of a schema. PostgreSQL silently truncates longer names.
_LONGEST_SCHEMA = 63

#: Function of a parameter's name and value that returns the value as the package uses it.
ValueReader = Callable[[str, object], Any]


class Options(NamedTuple):
    """Parameters of an operator, after reading. Those that an operator lacks have their defaults."""

    collections: tuple[Collection, ...] = resolve_collections(DEFAULT_COLLECTIONS)
    opens_and_clicks: str = "first"
    lookback: timedelta = timedelta(days=30)
    older_than: timedelta = timedelta(0)
    settling_time: timedelta = timedelta(minutes=30)
    pii: str = "keep"
    on_unidentified: str = "skip"
    dead_letter_path: str | None = None
    preview: bool = False
    customerio_conn_id: str = "customerio_default"
    segment_conn_id: str = "segment_default"
    send_to_customerio_destinations: bool = False
    warehouse_conn_id: str = "warehouse_default"
    schema: str = "customerio"
    message_id_namespace: str = "customerio"

    @property
    def decisive(self) -> tuple[object, ...]:
        """Options that decide which events are sent, for the fingerprint of a checkpoint."""
        return (
            self.lookback,
            self.older_than,
            sorted(one.name for one in self.collections),
            self.send_to_customerio_destinations,
            self.on_unidentified,
            self.pii,
        )


def read_options(operator: Any) -> Options:
    """Read the parameters of an operator.

    :raises ConfigurationError: a value is wrong. The message names the parameter, the kind of its value, and the fix.
    """
    options = Options(**{name: read(name, getattr(operator, name)) for name, read in _readers_for(operator)})
    _check_together(options._asdict())
    return options


def check_parameters(operator: Any) -> None:
    """Check the parameters when the DAG is parsed, except those that a template or another task sets in the run.

    :raises ConfigurationError: as `read_options` does.
    """
    known = {
        name: read(name, value)
        for name, read in _readers_for(operator)
        if not _is_rendered_later(value := getattr(operator, name))
    }
    check_bounds(operator.interval_start, operator.interval_end)
    _check_together(known)


def _check_together(known: Mapping[str, Any]) -> None:
    """Check parameters that limit each other, as far as they are known.

    :raises ConfigurationError: the message names both, and the fix.
    """
    if known.keys() >= {"on_unidentified", "dead_letter_path"}:
        check_dead_letters(known["on_unidentified"], known["dead_letter_path"])
    if not known.get("older_than"):
        return
    if "lookback" in known:
        _check_ages(known["older_than"], known["lookback"])
    if known.keys() >= {"opens_and_clicks", "collections"}:
        _check_every(known["opens_and_clicks"], known["collections"])


def _check_ages(older_than: timedelta, lookback: timedelta) -> None:
    if whole_seconds(older_than) >= whole_seconds(lookback):
        raise ConfigurationError(
            f"older_than ({span_in_words(older_than)}) must be less than lookback ({span_in_words(lookback)}), because "
            "a run with both sends what happened to a message between these two ages"
        )


def _check_every(opens_and_clicks: str, collections: Sequence[Collection]) -> None:
    """Check that a run with `older_than` does not read activities, because no request selects those by age."""
    names = [one.name for one in collections if one.has_activities]
    if opens_and_clicks in FROM_ACTIVITIES and names:
        raise ConfigurationError(
            f"With opens_and_clicks={opens_and_clicks!r}, a run without older_than sends opens and clicks however old "
            f"their message is. Leave them to that run: remove older_than, or remove these from collections: "
            f"{', '.join(names)}"
        )


def check_dead_letters(on_unidentified: str, dead_letter_path: str | None) -> None:
    """Check that there is a folder for dead letters if `on_unidentified` makes them.

    :raises ConfigurationError: there is none.
    """
    if on_unidentified == "dead_letter" and dead_letter_path is None:
        raise ConfigurationError("on_unidentified='dead_letter' needs dead_letter_path: set it to an absolute folder")


def _readers_for(operator: Any) -> list[tuple[str, ValueReader]]:
    return [(name, read) for name, read in READERS.items() if name in operator.template_fields]


def _is_rendered_later(value: object) -> bool:
    """Return True if a value is a template or the result of another task, or contains one."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, list | tuple | set):
        return any(map(_is_rendered_later, value))
    return callable(getattr(value, "resolve", None))


def read_flag(name: str, value: object) -> bool:
    """Read true or false, also from text."""
    flag = flag_in(value)
    if flag is None:
        raise ConfigurationError(f"{name} must be true or false, got {kind_of(value)}")
    return flag


def one_of(*known: str) -> ValueReader:
    """Return a reader that accepts only these words."""

    def read(name: str, value: object) -> str:
        word = value.strip() if isinstance(value, str) else None
        if word not in known:
            raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, known))}, got {shown(value)}")
        return str(word)

    return read


def _text(must: str, fix: str) -> ValueReader:
    """Return a reader of text, stripped. Neither blank text nor ``None``, to which a None renders, is accepted."""

    def read(name: str, value: object) -> str:
        if not isinstance(value, str) or value.strip() in ("", "None"):
            raise ConfigurationError(f"{name} must be {must}, got {kind_of(value)}: {fix}")
        return value.strip()

    return read


def collections_reader(*, in_stream: bool) -> ValueReader:
    """Return a reader of names and groups; only a stream may have the collections about people."""

    def read(name: str, value: object) -> tuple[Collection, ...]:
        if isinstance(value, str):
            value = value.strip()
            if value.startswith(("[", "(")):
                value = _list_in(name, value)
        return resolve_collections(value, in_stream=in_stream)  # type: ignore[arg-type]

    return read


def _list_in(name: str, text: str) -> object:
    """Read a list from JSON, or from the Python that a template renders a list to."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise ConfigurationError(f"{name} is not a valid list: write it as JSON, such as '[\"Email Opened\"]'")


def _span(unit: str, most: timedelta) -> ValueReader:
    """Return a reader of a timedelta, or of a number of days or minutes."""
    one = timedelta(**{unit: 1})

    def read(name: str, value: object) -> timedelta:
        number = value.total_seconds() / one.total_seconds() if isinstance(value, timedelta) else number_in(value)
        if number is None:
            raise ConfigurationError(
                f"{name} must be a timedelta or a number of {unit}, got {kind_of(value)}: "
                f"write for example timedelta({unit}=30)"
            )
        if not 0 <= number <= most / one:
            raise ConfigurationError(f"{name} must be 0 to {most.days} days, got {number:g} {unit}")
        return value if isinstance(value, timedelta) else timedelta(**{unit: number})

    return read


_read_days = _span("days", MAX_LOOKBACK)


def _read_lookback(name: str, value: object) -> timedelta:
    lookback: timedelta = _read_days(name, value)
    if not lookback:
        raise ConfigurationError(f"{name} must be more than 0 days, because only what happens within it is sent")
    return lookback


def _read_older_than(name: str, value: object) -> timedelta:
    return timedelta(0) if value is None else _read_days(name, value)


_read_folder = _text("an absolute folder, local or remote", "set one, or leave it out")


def _read_path(name: str, value: object) -> str | None:
    return None if value is None else _read_folder(name, value)


def _read_schema(name: str, value: object) -> str:
    word = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(f"[a-z][a-z0-9_]{{,{_LONGEST_SCHEMA - 1}}}", word, re.ASCII):
        raise ConfigurationError(
            f"{name} must be a lower-case letter, then lower-case letters, digits or underscores, at most "
            f"{_LONGEST_SCHEMA} in all, such as 'customerio', got {shown(value)}"
        )
    return word


_read_conn_id = _text("the id of a connection", "leave it out for the default one")

READERS: dict[str, ValueReader] = {
    "collections": collections_reader(in_stream=False),
    "opens_and_clicks": one_of("first", "first_human", "every", "every_human"),
    "lookback": _read_lookback,
    "older_than": _read_older_than,
    "settling_time": _span("minutes", MAX_SETTLING_TIME),
    "pii": one_of("keep", "hash", "drop"),
    "on_unidentified": one_of("skip", "cio_id", "dead_letter", "fail"),
    "dead_letter_path": _read_path,
    "preview": read_flag,
    "customerio_conn_id": _read_conn_id,
    "segment_conn_id": _read_conn_id,
    "send_to_customerio_destinations": read_flag,
    "warehouse_conn_id": _read_conn_id,
    "schema": _read_schema,
    "message_id_namespace": _text("text", "leave it out, or give what the Segment connection has"),
}

"""The operators' parameters, read: each is a template field, and may come as text from a template."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from airflow_provider_cio.events.catalog import Collection, resolve_collections
from airflow_provider_cio.events.interval import check_bounds
from airflow_provider_cio.exceptions import ConfigurationError

MAX_LOOKBACK = timedelta(days=180)
MAX_SETTLING_TIME = timedelta(days=7)
#: Characters; PostgreSQL cuts longer names, without a word.
_LONGEST_SCHEMA = 63

OPENS_AND_CLICKS = ("first", "every", "every_human")
PII = ("keep", "hash", "drop")
ON_UNIDENTIFIED = ("skip", "cio_id", "dead_letter", "fail")


class Options(NamedTuple):
    """What the parameters stand for. Those that an operator does not have keep their defaults."""

    collections: tuple[Collection, ...]
    opens_and_clicks: str
    lookback: timedelta
    settling_time: timedelta
    pii: str
    on_unidentified: str
    dead_letter_path: str | None
    preview: bool
    customerio_conn_id: str
    segment_conn_id: str = ""
    send_to_customerio_destinations: bool = False
    warehouse_conn_id: str = ""
    schema: str = ""
    message_id_namespace: str = ""

    @property
    def decisive(self) -> tuple[object, ...]:
        """The options that decide which events are sent, for the fingerprint of a checkpoint."""
        return (
            self.lookback,
            sorted(one.name for one in self.collections),
            self.send_to_customerio_destinations,
            self.on_unidentified,
            self.pii,
        )


def read_options(operator: Any) -> Options:
    """:raises ConfigurationError: naming the parameter, the kind of its value, and the fix."""
    options = Options(**{name: read(getattr(operator, name)) for name, read in _readers_for(operator)})
    _check_together(options.on_unidentified, options.dead_letter_path)
    return options


def check_what_is_known(operator: Any) -> None:
    """Find at DAG parse what can be known then. What a template or another task gives is left for the run.

    :raises ConfigurationError: as `read_options` does.
    """
    known = {
        name: read(value)
        for name, read in _readers_for(operator)
        if not _is_rendered_later(value := getattr(operator, name))
    }
    check_bounds(operator.interval_start, operator.interval_end)
    if known.keys() >= {"on_unidentified", "dead_letter_path"}:
        _check_together(known["on_unidentified"], known["dead_letter_path"])


def _readers_for(operator: Any) -> list[tuple[str, Callable[[object], Any]]]:
    return [(name, read) for name, read in _READERS.items() if name in operator.template_fields]


def _is_rendered_later(value: object) -> bool:
    """A template, the result of another task, or something with one of them in it."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, list | tuple | set):
        return any(map(_is_rendered_later, value))
    return callable(getattr(value, "resolve", None))


def _read_flag(name: str, value: object) -> bool:
    word = value.strip().lower() if isinstance(value, str) else value
    if word is True or word in ("true", "yes", "on", "1"):
        return True
    if word is False or word in ("false", "no", "off", "0"):
        return False
    raise ConfigurationError(f"{name} must be True or False, got {_kind(value)}")


def _text(value: object, must: str, fix: str) -> str:
    """Text with something in it, stripped."""
    if not isinstance(value, str) or value.strip() in ("", "None"):
        got = "a template that rendered to nothing" if isinstance(value, str) else _kind(value)
        raise ConfigurationError(f"{must}, got {got}: {fix}")
    return value.strip()


def _read_conn_id(name: str, value: object) -> str:
    return _text(value, f"{name} must be the id of a connection", "leave it out for the default one")


def _check_together(on_unidentified: str, dead_letter_path: str | None) -> None:
    if on_unidentified == "dead_letter" and dead_letter_path is None:
        raise ConfigurationError("on_unidentified='dead_letter' needs dead_letter_path: say where they should go")


def _read_collections(value: object) -> tuple[Collection, ...]:
    if isinstance(value, str) and value.strip().startswith(("[", "(")):
        value = _list_in(value.strip())
    if value is None or isinstance(value, dict):
        raise ConfigurationError(
            f"collections must be a list of names, got {_kind(value)}: "
            "write for example collections=['Email Opened'], or collections='email'"
        )
    return resolve_collections(value.strip() if isinstance(value, str) else value)  # type: ignore[arg-type]


def _list_in(text: str) -> object:
    """A list as JSON, or as a template shows one of Python's."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise ConfigurationError(
        "collections must be a list of names, got text that begins as a list and is none: "
        "write it as JSON, such as '[\"Email Opened\"]'"
    )


def _choice(name: str, known: tuple[str, ...]) -> Callable[[object], str]:
    def read(value: object) -> str:
        word = value.strip() if isinstance(value, str) else value
        if word not in known:
            got = repr(word) if isinstance(word, str) else _kind(value)
            raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, known))}, got {got}")
        return str(word)

    return read


def _span(name: str, unit: str, most: timedelta) -> Callable[[object], timedelta]:
    """A timedelta; or a number, or text that is one, of days or minutes."""

    def read(value: object) -> timedelta:
        span = value
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            try:
                span = timedelta(**{unit: float(value)})
            except (ValueError, OverflowError):
                span = None
        if not isinstance(span, timedelta):
            raise ConfigurationError(
                f"{name} must be a timedelta or a number of {unit}, got {_kind(value)}: "
                f"write for example timedelta({unit}=30)"
            )
        if not timedelta(0) <= span <= most:
            raise ConfigurationError(f"{name} must be 0 to {most.days} days, got {span}")
        return span

    return read


def _read_path(value: object) -> str | None:
    if value is None:
        return None
    return _text(
        value,
        "dead_letter_path must be an absolute folder, local or remote",
        "leave it out to have the task fail instead",
    )


def _read_schema(value: object) -> str:
    word = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(f"[a-z][a-z0-9_]{{,{_LONGEST_SCHEMA - 1}}}", word, re.ASCII):
        raise ConfigurationError(
            f"schema must be a lower-case letter, then lower-case letters, digits or underscores, at most "
            f"{_LONGEST_SCHEMA} in all, such as 'customerio', got {_kind(value)}"
        )
    return word


def _read_namespace(value: object) -> str:
    return _text(value, "message_id_namespace must be text", "leave it out, or give what the Segment connection has")


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return "text of another form" if value.strip() else "empty text"
    return type(value).__name__


_READERS: dict[str, Callable[[object], Any]] = {
    "collections": _read_collections,
    "opens_and_clicks": _choice("opens_and_clicks", OPENS_AND_CLICKS),
    "lookback": _span("lookback", "days", MAX_LOOKBACK),
    "settling_time": _span("settling_time", "minutes", MAX_SETTLING_TIME),
    "pii": _choice("pii", PII),
    "on_unidentified": _choice("on_unidentified", ON_UNIDENTIFIED),
    "dead_letter_path": _read_path,
    "preview": partial(_read_flag, "preview"),
    "customerio_conn_id": partial(_read_conn_id, "customerio_conn_id"),
    "segment_conn_id": partial(_read_conn_id, "segment_conn_id"),
    "send_to_customerio_destinations": partial(_read_flag, "send_to_customerio_destinations"),
    "warehouse_conn_id": partial(_read_conn_id, "warehouse_conn_id"),
    "schema": _read_schema,
    "message_id_namespace": _read_namespace,
}

"""The tables: their columns, as Segment makes them, and the row that an event becomes. Pure.

There is one table for each collection, and `tracks` over all of them, without the events' properties. All columns
that an event can fill are there from the start: Segment adds each when its first value comes, and a query that names
it earlier fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import Enum
from typing import IO, NamedTuple

import msgspec

from airflow_provider_cio.events.catalog import snakecase
from airflow_provider_cio.events.event import Event
from airflow_provider_cio.events.mapping import SENDER, Context, Properties


class Kind(Enum):
    """What a column holds. Each database has its own types for them."""

    ID = "id"
    TEXT = "text"
    BOOLEAN = "boolean"
    TIME = "time"


class Column(NamedTuple):
    name: str
    kind: Kind


TRACKS = "tracks"

#: The columns that say what made the event. They hold the same in each row.
MADE_BY = {f"context_{part}_{key}": text for part in ("integration", "library") for key, text in SENDER.items()}

#: What the load itself says of a row: its table, what made it, and when it came. They are not in the spool.
OF_THE_LOAD = (
    Column("received_at", Kind.TIME),
    Column("sent_at", Kind.TIME),
    Column("uuid_ts", Kind.TIME),
    Column("timestamp", Kind.TIME),
    Column("event", Kind.TEXT),
    *(Column(name, Kind.TEXT) for name in MADE_BY),
)
_OF_EVERY_EVENT = (
    Column("id", Kind.ID),
    Column("original_timestamp", Kind.TIME),
    Column("event_text", Kind.TEXT),
    Column("user_id", Kind.TEXT),
    Column("anonymous_id", Kind.TEXT),
    *(Column(f"context_{name}", Kind.TEXT) for name in ("traits_email", "ip", "user_agent")),
)
_PROPERTIES = tuple(
    Column(snakecase(field.encode_name), Kind.BOOLEAN if field.type == (bool | None) else Kind.TEXT)
    for field in msgspec.structs.fields(Properties)
)

#: What a row of the spool holds, in this order.
SPOOLED = _OF_EVERY_EVENT + _PROPERTIES

_QUOTE = '"'
#: A cell of `csv_lines`, before what ends it.
_CELL = re.compile(r'("[^"]*(?:""[^"]*)*"|true|false|null)[,\n]')
_WORDS = {"true": True, "false": False, "null": None}
_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_astuple = msgspec.structs.astuple

Value = str | bool | datetime | None


def columns_of(table: str) -> tuple[Column, ...]:
    """The id first, then the others."""
    spooled = _OF_EVERY_EVENT if table == TRACKS else SPOOLED
    return (*spooled[:1], *OF_THE_LOAD, *spooled[1:])


def values_of(event: Event) -> tuple[Value, ...]:
    """What `SPOOLED` names; None is NULL."""
    context: Context = event.context  # type: ignore[assignment]
    return (
        event.message_id,
        event.timestamp,
        event.event,
        event.user_id,
        event.anonymous_id,
        context.traits.email if context.traits else None,
        context.ip or None,
        context.user_agent or None,
        *_astuple(event.properties),
    )


def csv_lines(rows: Sequence[tuple[Value, ...]]) -> bytes:
    """A line of CSV for each. All text is quoted; `null` without quotes is NULL.

    It is what JSON has between the brackets of a list, unless JSON escapes a character: CSV has other escapes.
    """
    lines = [line[1:-1] for line in _encode_lines(rows).splitlines()]
    for number, line in enumerate(lines):
        if b"\\" in line:
            lines[number] = ",".join(map(_cell, rows[number])).encode()
    return b"\n".join(lines) + b"\n"


def _cell(value: Value) -> str:
    if isinstance(value, str):
        return f'"{value.replace(_QUOTE, _QUOTE * 2)}"'
    return _encode(value).decode()


def csv_values(file: IO[bytes]) -> Iterator[list[str | bool | None]]:
    """What `csv_lines` has written, row by row; times are text."""
    record = ""
    for line in file:  # of which a text may have several
        record += line.decode()
        if record.count(_QUOTE) % 2 == 0:
            yield [
                cell[1:-1].replace(_QUOTE * 2, _QUOTE) if cell[0] == _QUOTE else _WORDS[cell]
                for cell in _CELL.findall(record)
            ]
            record = ""


def unstorable(values: tuple[Value, ...]) -> str | None:
    """The column whose value no database takes, or None: text with a NUL character in it."""
    for column, value in zip(SPOOLED, values, strict=True):
        if isinstance(value, str) and "\0" in value:
            return column.name
    return None

"""Columns of the tables, named as Segment names them, and the row of an event. Pure.

Each collection has a table; the table `tracks` has all events, without their properties. A new table has every column
that an event can fill. Segment adds a column with its first value, so a query that names it earlier fails there.
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
    """Kinds of values. Each database maps them to its own column types."""

    ID = "id"
    TEXT = "text"
    BOOLEAN = "boolean"
    TIME = "time"


class Column(NamedTuple):
    """A column of a table."""

    name: str
    kind: Kind


#: Name of the table with all events.
TRACKS = "tracks"

#: Columns that name this provider as the sender of the event -> their value, the same in each row.
SENDER_VALUES = {f"context_{part}_{key}": text for part in ("integration", "library") for key, text in SENDER.items()}

#: Columns that the load fills, so the spool does not have them.
LOAD_COLUMNS = (
    Column("received_at", Kind.TIME),
    Column("sent_at", Kind.TIME),
    Column("uuid_ts", Kind.TIME),
    Column("timestamp", Kind.TIME),
    Column("event", Kind.TEXT),
    *(Column(name, Kind.TEXT) for name in SENDER_VALUES),
)
#: Columns of each table, `tracks` included, that the spool has.
_COMMON_COLUMNS = (
    Column("id", Kind.ID),
    Column("original_timestamp", Kind.TIME),
    Column("event_text", Kind.TEXT),
    Column("user_id", Kind.TEXT),
    Column("anonymous_id", Kind.TEXT),
    *(Column(f"context_{name}", Kind.TEXT) for name in ("traits_email", "ip", "user_agent")),
)
#: Columns of an event's table that `tracks` lacks.
_PROPERTY_COLUMNS = tuple(
    Column(snakecase(field.encode_name), Kind.BOOLEAN if field.type == (bool | None) else Kind.TEXT)
    for field in msgspec.structs.fields(Properties)
)

#: Columns of a row in the spool, in its order.
SPOOLED = _COMMON_COLUMNS + _PROPERTY_COLUMNS

_QUOTE = '"'
#: A cell that `csv_lines` wrote, and the comma or line break after it.
_CELL = re.compile(r'("[^"]*(?:""[^"]*)*"|true|false|null)[,\n]')
#: Cells without quotes -> their values.
_UNQUOTED = {"true": True, "false": False, "null": None}
_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_astuple = msgspec.structs.astuple

#: Value of a cell; None is NULL.
Value = str | bool | datetime | None


def columns_of(table: str) -> tuple[Column, ...]:
    """Return the columns of a table, with `id` first."""
    spooled = _COMMON_COLUMNS if table == TRACKS else SPOOLED
    return (*spooled[:1], *LOAD_COLUMNS, *spooled[1:])


def values_of(event: Event) -> tuple[Value, ...]:
    """Return the row of an event, in the order of `SPOOLED`."""
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
    """Encode rows as CSV. All text is quoted; `null` without quotes is NULL.

    A JSON array without its brackets is valid CSV, unless a value needs an escape: JSON writes a backslash, CSV doubles
    the quotation mark. A row with a backslash is therefore written cell by cell.
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
    """Yield the rows that `csv_lines` wrote. Times stay text."""
    record = ""
    for line in file:  # a text may contain line breaks, so a row may have several lines
        record += line.decode()
        if record.count(_QUOTE) % 2 == 0:
            yield [
                cell[1:-1].replace(_QUOTE * 2, _QUOTE) if cell[0] == _QUOTE else _UNQUOTED[cell]
                for cell in _CELL.findall(record)
            ]
            record = ""


def unstorable(values: tuple[Value, ...]) -> str | None:
    """Return the first column whose text has a NUL character, which no database stores; None if there is none."""
    for column, value in zip(SPOOLED, values, strict=True):
        if isinstance(value, str) and "\0" in value:
            return column.name
    return None

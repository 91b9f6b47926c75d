"""Columns of the tables, named as Segment names them, and the row of an event. Pure.

Each collection has a table; the table `tracks` has all events, without their properties. A new table has every column
that a load can fill. Segment adds a column with its first value, so a query that names it earlier fails there.
"""

from __future__ import annotations

import re
from collections import Counter
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
    NUMBER = "number"
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

#: Columns with the time of the load. All other times are the event's, because people use each of them as such.
LOAD_TIMES = ("uuid_ts", "loaded_at")

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
#: Properties that are numbers in Customer.io's JSON: ids of what a message belongs to, and of its link.
_NUMBERS = frozenset(
    {
        "campaign_id",
        "action_id",
        "parent_action_id",
        "newsletter_id",
        "content_id",
        "broadcast_id",
        "trigger_id",
        "transactional_message_id",
        "link_id",
    }
)
#: Properties that only reporting webhooks tell, so a load has no column for them.
_ONLY_OF_STREAMS = frozenset(
    {
        *("journey_id", "trigger_id", "content", "tracked_response", "synthetic"),
        *("inbound_event_id", "to", "recipients", "topics"),
    }
)
#: Columns of text that Segment made a number if the first value that it saw was one.
OFTEN_NUMBERS = frozenset({"user_id", "customer_id", "trigger_event_id"})


def _kind_of(field: msgspec.structs.FieldInfo) -> Kind:
    if field.name in _NUMBERS:
        return Kind.NUMBER
    return Kind.BOOLEAN if field.type == (bool | None) else Kind.TEXT


_fields = msgspec.structs.fields(Properties)
#: Places of a property that have a column.
_PLACES = [place for place, field in enumerate(_fields) if field.name not in _ONLY_OF_STREAMS]
#: Columns of an event's table that `tracks` lacks.
_PROPERTY_COLUMNS = tuple(Column(snakecase(_fields[place].encode_name), _kind_of(_fields[place])) for place in _PLACES)

#: Columns of a row in the spool, in its order.
SPOOLED = _COMMON_COLUMNS + _PROPERTY_COLUMNS
#: Places in `SPOOLED` of the numbers.
_NUMBER_PLACES = [place for place, column in enumerate(SPOOLED) if column.kind is Kind.NUMBER]

#: Text that is a number, as a regular expression of Python and of each database: 18 digits fit into 64 bits.
NUMBER = "^-?[0-9]{1,18}$"
_MATCHES_NUMBER = re.compile("-?[0-9]{1,18}").fullmatch

_QUOTE = '"'
#: A cell that `csv_lines` wrote, and the comma or line break after it.
_CELL = re.compile(r'("[^"]*(?:""[^"]*)*"|true|false|null|-?[0-9]+)[,\n]')
#: Cells without quotes, but for numbers -> their values.
_UNQUOTED = {"true": True, "false": False, "null": None}
_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_astuple = msgspec.structs.astuple

#: Value of a cell; None is NULL.
Value = str | int | bool | datetime | None


def columns_of(table: str) -> tuple[Column, ...]:
    """Return the columns of a table, with `id` first."""
    spooled = _COMMON_COLUMNS if table == TRACKS else SPOOLED
    return (*spooled[:1], *LOAD_COLUMNS, *spooled[1:])


def number_of(value: object) -> int | None:
    """Return an integer, or text that is one, as a number; None for any other value."""
    text = str(value) if isinstance(value, str | int) else ""
    return int(text) if _MATCHES_NUMBER(text) else None


def values_of(event: Event, no_numbers: Counter[str] | None = None) -> tuple[Value, ...]:
    """Return the row of an event, in the order of `SPOOLED`.

    :param no_numbers: counts, by column, the values that are NULL in the row because they are no numbers.
    """
    context: Context = event.context  # type: ignore[assignment]
    properties = _astuple(event.properties)
    values: list[Value] = [
        event.message_id,
        event.timestamp,
        event.event,
        event.user_id,
        event.anonymous_id,
        context.traits.email if context.traits else None,
        context.ip or None,
        context.user_agent or None,
        *[properties[place] for place in _PLACES],
    ]
    for place in _NUMBER_PLACES:
        if (value := values[place]) is not None:
            values[place] = number_of(value)
            if values[place] is None and no_numbers is not None:
                no_numbers[SPOOLED[place].name] += 1
    return tuple(values)


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


def csv_values(file: IO[bytes]) -> Iterator[list[str | int | bool | None]]:
    """Yield the rows that `csv_lines` wrote. Times stay text."""
    record = ""
    for line in file:  # a text may contain line breaks, so a row may have several lines
        record += line.decode()
        if record.count(_QUOTE) % 2 == 0:
            yield [_value(cell) for cell in _CELL.findall(record)]
            record = ""


def _value(cell: str) -> str | int | bool | None:
    if cell[0] == _QUOTE:
        return cell[1:-1].replace(_QUOTE * 2, _QUOTE)
    return _UNQUOTED[cell] if cell in _UNQUOTED else int(cell)


def unstorable(values: tuple[Value, ...]) -> str | None:
    """Return the first column whose text has a NUL character, which no database stores; None if there is none."""
    for column, value in zip(SPOOLED, values, strict=True):
        if isinstance(value, str) and "\0" in value:
            return column.name
    return None

"""The tables: their columns, as Segment makes them, and the row that an event becomes. Pure.

There is one table for each collection, and `tracks` over all of them, without the events' properties. All columns
that an event can fill are there from the start: Segment adds each when its first value comes, and a query that names
it earlier fails.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import msgspec

from airflow_provider_cio.events.event import Event
from airflow_provider_cio.events.mapping import SENDER, Context, Properties
from airflow_provider_cio.events.snakecase import snakecase


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

#: What the load itself says of a row: its table, and when it came. They are not in the spool.
OF_THE_LOAD = (
    Column("received_at", Kind.TIME),
    Column("sent_at", Kind.TIME),
    Column("uuid_ts", Kind.TIME),
    Column("timestamp", Kind.TIME),
    Column("event", Kind.TEXT),
)
_OF_EVERY_EVENT = (
    Column("id", Kind.ID),
    Column("original_timestamp", Kind.TIME),
    Column("event_text", Kind.TEXT),
    Column("user_id", Kind.TEXT),
    Column("anonymous_id", Kind.TEXT),
    *(
        Column(f"context_{name}", Kind.TEXT)
        for name in (
            "integration_name",
            "integration_version",
            "library_name",
            "library_version",
            "traits_email",
            "ip",
            "user_agent",
        )
    ),
)
_PROPERTIES = tuple(
    Column(snakecase(field.encode_name), Kind.BOOLEAN if field.type == (bool | None) else Kind.TEXT)
    for field in msgspec.structs.fields(Properties)
)

#: What a row of the spool holds, in this order.
SPOOLED = _OF_EVERY_EVENT + _PROPERTIES

_QUOTE = '"'
_CONSTANT = tuple(SENDER[key] for _ in ("integration", "library") for key in ("name", "version"))


def columns_of(table: str) -> tuple[Column, ...]:
    """The id first, then the others."""
    spooled = _OF_EVERY_EVENT if table == TRACKS else SPOOLED
    return (*spooled[:1], *OF_THE_LOAD, *spooled[1:])


def values_of(event: Event) -> tuple[str | bool | None, ...]:
    """What `SPOOLED` names; None is NULL."""
    context: Context = event.context  # type: ignore[assignment]
    return (
        event.message_id,
        event.timestamp.isoformat(),
        event.event,
        event.user_id,
        event.anonymous_id,
        *_CONSTANT,
        context.traits.email if context.traits else None,
        context.ip or None,
        context.user_agent or None,
        *msgspec.structs.astuple(event.properties),
    )


def csv_line(values: tuple[str | bool | None, ...]) -> bytes:
    """One line of CSV: text is quoted, so that empty text is not NULL."""
    return (",".join(["" if value is None else _cell(value) for value in values]) + "\n").encode()


def _cell(value: str | bool) -> str:
    if value is True:
        return "true"
    if value is False:
        return "false"
    return f'"{value}"' if '"' not in value else f'"{value.replace(_QUOTE, _QUOTE * 2)}"'


def unstorable(values: tuple[str | bool | None, ...]) -> str | None:
    """The column whose value no database takes, or None: text with a NUL character in it."""
    for column, value in zip(SPOOLED, values, strict=True):
        if isinstance(value, str) and "\0" in value:
            return column.name
    return None

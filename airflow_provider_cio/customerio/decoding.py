"""Customer.io's JSON to typed rows: a whole page at once, or, where one row is odd, row by row. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from airflow_provider_cio.events.occurrence import Malformed

T = TypeVar("T")

#: What msgspec raises for what it can't decode. Its ValidationError (JSON of another shape) is a DecodeError, and that
#: is a ValueError only since 0.21.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
#: A whole surrogate pair, half of one (the group), or any other escape.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Page(NamedTuple, Generic[T]):
    """A page of deliveries or activities.

    :param malformed: the rows of another shape than documented; they are not among `rows`.
    :param next: `start` of the following page; None on the last one.
    """

    rows: Sequence[T]
    malformed: Sequence[Malformed]
    next: str | None


class PageDecoder(Generic[T]):
    """Decodes answers with a list of rows.

    :param key: where the answer has the list; null is an empty one.
    :param created: the field of a row that has its time.
    """

    def __init__(self, key: str, row: type[T], *, created: str) -> None:
        self._decode_page = _page_decoder(key, row)
        self._decode_raw_page = _page_decoder(key, msgspec.Raw)
        self._decode_row = msgspec.json.Decoder(row).decode
        self._created = created

    def page(self, body: bytes) -> Page[T]:
        """:raises msgspec.ValidationError: the answer is no object, or has no list under its key.
        :raises UNDECODABLE: it is not JSON.
        """
        try:
            page = self._decode_page(body)
            return Page(page.rows or (), (), _cursor(page.next))
        except UNDECODABLE:
            page = self._decode_raw_page(mended(body))
        rows: list[T] = []
        malformed: list[Malformed] = []
        for raw in page.rows or ():
            row = self.row(bytes(raw))
            if isinstance(row, Malformed):
                malformed.append(row)
            else:
                rows.append(row)
        return Page(rows, malformed, _cursor(page.next))

    def row(self, raw: bytes) -> T | Malformed:
        """One row, from JSON without broken characters."""
        try:
            return self._decode_row(raw)
        except UNDECODABLE as error:
            return Malformed(raw, str(error), _field(raw, "id", str) or None, _field(raw, self._created, int))


def mended(body: bytes) -> bytes:
    """The same JSON, with ``?`` for half of a surrogate pair, and the replacement character for what is not UTF-8.

    A subject that was cut within an emoji ends in such a half. It is valid JSON, but msgspec refuses it.
    """
    text = body.decode("utf-8", "replace").encode()
    return _ESCAPE.sub(lambda escape: b"?" if escape[1] else escape[0], text)


def _page_decoder(key: str, row: type) -> Any:
    rows = ("rows", list[row] | None, msgspec.field(name=key))  # type: ignore[valid-type]
    return msgspec.json.Decoder(msgspec.defstruct("Page", [rows, ("next", str | int | None, None)])).decode


def _cursor(following: str | int | None) -> str | None:
    return str(following) if following else None


def _field(raw: bytes, name: str, kind: type[T]) -> T | None:
    """What the row has under that name, if it is of that kind."""
    try:
        return msgspec.json.decode(_decode_fields(raw)[name], type=kind)
    except (KeyError, *UNDECODABLE):
        return None

"""Decode pages of Customer.io's JSON into typed rows: a page at once, or row by row if one is malformed. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from airflow_provider_cio.events.occurrence import Malformed

T = TypeVar("T")

#: Errors of msgspec for invalid JSON, and for JSON of another shape (`ValidationError` is a `DecodeError`).
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
#: A surrogate pair, half of one (the group), or any other escape.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Page(NamedTuple, Generic[T]):
    """A page of deliveries or activities.

    :param rows: all rows except malformed ones.
    :param next: `start` of the next page; None on the last one.
    """

    rows: Sequence[T]
    malformed: Sequence[Malformed]
    next: str | None


class PageDecoder(Generic[T]):
    """Decoder of answers with a list of rows.

    :param key: key of the list, which may be null.
    :param created: field of a row with its time.
    """

    def __init__(self, key: str, row: type[T], *, created: str) -> None:
        self._decode_page = _page_decoder(key, row)
        self._decode_raw_page = _page_decoder(key, msgspec.Raw)
        self._decode_row = msgspec.json.Decoder(row).decode
        self._created = created

    def page(self, body: bytes) -> Page[T]:
        """Decode an answer.

        :raises msgspec.ValidationError: it is no object, or has no list under the key.
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
        """Decode one row, from `mended` JSON."""
        try:
            return self._decode_row(raw)
        except UNDECODABLE as error:
            return Malformed(raw, str(error), _field(raw, "id", str) or None, _field(raw, self._created, int))


def mended(body: bytes) -> bytes:
    """Return JSON that msgspec decodes: ``?`` replaces halves of surrogate pairs, U+FFFD replaces invalid UTF-8.

    A subject that was cut within an emoji ends in such a half, which is valid JSON, but an error for msgspec.
    """
    text = body.decode("utf-8", "replace").encode()
    return _ESCAPE.sub(lambda escape: b"?" if escape[1] else escape[0], text)


def _page_decoder(key: str, row: type) -> Any:
    rows = ("rows", list[row] | None, msgspec.field(name=key))  # type: ignore[valid-type]
    return msgspec.json.Decoder(msgspec.defstruct("Page", [rows, ("next", str | int | None, None)])).decode


def _cursor(following: str | int | None) -> str | None:
    return str(following) if following else None


def _field(raw: bytes, name: str, kind: type[T]) -> T | None:
    """Return a field of a raw row; None if it is missing or of another type."""
    try:
        return msgspec.json.decode(_decode_fields(raw)[name], type=kind)
    except (KeyError, *UNDECODABLE):
        return None

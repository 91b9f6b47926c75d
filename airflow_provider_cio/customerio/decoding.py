"""Decode pages of Customer.io's JSON into typed rows: a page at once, or row by row if one is malformed. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from airflow_provider_cio.events.interval import whole
from airflow_provider_cio.events.occurrence import Malformed

T = TypeVar("T")
Row = TypeVar("Row", bound=msgspec.Struct)

#: Errors of msgspec for invalid JSON, and for JSON of another shape (`ValidationError` is a `DecodeError`).
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
#: Key under which a row gets the names of the fields that were left out of it. No row of Customer.io's has it.
LEFT_OUT = "names of the fields that were left out"
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


class PageDecoder(Generic[Row]):
    """Decoder of answers with a list of rows.

    :param key: key of the list, which may be null.
    :param created: field of a row with its time.
    :param describing: fields that a row can do without. If one has another type than documented, it is left out.
    """

    def __init__(self, key: str, row: type[Row], *, created: str, describing: Collection[str] = ()) -> None:
        self._row_type = row
        self._decode_page = _page_decoder(key, row)
        self._decode_raw_page = _page_decoder(key, msgspec.Raw)
        self._decode_row = msgspec.json.Decoder(row).decode
        self._created = created
        self._describing = describing

    def page(self, body: bytes) -> Page[Row]:
        """Decode an answer.

        :raises msgspec.ValidationError: it is no object, or has no list under the key.
        :raises UNDECODABLE: it is not JSON.
        """
        try:
            page = self._decode_page(body)
            return Page(page.rows or (), (), _cursor(page.next))
        except UNDECODABLE:
            page = self._decode_raw_page(mended(body))
        rows: list[Row] = []
        malformed: list[Malformed] = []
        for raw in page.rows or ():
            row = self.row(bytes(raw))
            if isinstance(row, Malformed):
                malformed.append(row)
            else:
                rows.append(row)
        return Page(rows, malformed, _cursor(page.next))

    def row(self, raw: bytes) -> Row | Malformed:
        """Decode one row, from `mended` JSON. Under `LEFT_OUT` it gets the names of the fields that are left out."""
        left_out: set[str] = set()
        try:
            return self._decode_row(raw)
        except UNDECODABLE:
            pass
        try:
            fields = fitting(msgspec.json.decode(raw, type=dict), self._row_type, left_out, describing=self._describing)
            return msgspec.convert(fields | {LEFT_OUT: sorted(left_out)}, self._row_type)
        except UNDECODABLE as error:
            return Malformed(raw, str(error), _field(raw, "id", str) or None, _field(raw, self._created, int))


def fitting(
    given: Mapping[str, Any],
    kind: type[msgspec.Struct],
    left_out: set[str],
    *,
    describing: Collection[str],
    nested: Mapping[str, type[msgspec.Struct]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the fields of a class, without those that only describe and have another type than documented.

    Whole floats become integers.

    :param left_out: gets the names of the fields that are left out.
    :param describing: names of the fields that may be left out.
    :param nested: by name, the classes of fields that are objects, or lists of objects.
    """
    found = {}
    for field in msgspec.structs.fields(kind):
        name = field.name
        if name not in given:
            continue
        value = given[name]
        deeper = nested.get(name)
        if deeper and isinstance(value, dict):
            value = fitting(value, deeper, left_out, describing=describing, nested=nested)
        elif deeper and isinstance(value, list):
            if not all(isinstance(one, dict) for one in value):
                left_out.add(name)
            objects = (one for one in value if isinstance(one, dict))
            value = [fitting(one, deeper, left_out, describing=describing, nested=nested) for one in objects]
        else:
            value = whole(value)
        try:
            msgspec.convert(value, field.type)
        except msgspec.ValidationError:
            if name in describing:
                left_out.add(name)
                continue
        found[name] = value
    return found


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

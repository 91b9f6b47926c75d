"""The values of query parameters, and the cursors among them."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from typing import NamedTuple

NEEDS_ENCODING = re.compile(rb"(?:^|&)start=[^&]*[+/=]")


class BadRequest(Exception):
    """Error for a value that the API refuses with 400; the second argument names the parameter."""


class Cursor(NamedTuple):
    """The cursor of deliveries and newsletters: base64 of a position in the list (reference/customerio.md, part 0).

    An empty page names its own place once more. It spells it otherwise, since a client may stop at a cursor that it has
    met before.
    """

    position: int
    again: bool = False
    #: "v20:"; that of newsletters has none.
    head: str = "v20:"

    def encode(self) -> str:
        return b64encode(f"{self.head}{'0' * self.again}{self.position}".encode()).decode()

    @classmethod
    def decode(cls, text: str, head: str = "v20:") -> Cursor:
        try:
            data = b64decode(text, validate=True)
        except (BadBase64, ValueError):
            data = b""
        found = re.fullmatch(head.encode() + b"(0?)([0-9]{1,18})", data)
        if found is None:
            raise BadRequest("malformed cursor", "start")
        return cls(int(found[2]), bool(found[1]), head)


class Number(NamedTuple):
    """The cursor of activities: a numeric string (reference/customerio.md 2.4)."""

    position: int
    page: int

    def encode(self) -> str:
        return str((self.position << 20 | self.page) * 97 + 11)

    @classmethod
    def decode(cls, text: str) -> Number:
        number, rest = divmod(int(text) - 11, 97) if re.fullmatch("[0-9]{1,24}", text) else (0, 1)
        if rest:
            raise BadRequest("malformed cursor", "start")
        return cls(number >> 20, number & 0xFFFFF)


class GivenCursors:
    """Cursors that were given out, with their list and the time."""

    def __init__(self) -> None:
        self._at: dict[str, dict[str, float]] = {}

    def note(self, cursor: str, asked: str, now: float) -> None:
        self._at.setdefault(cursor, {})[asked] = now

    def check(self, cursor: str, asked: str, bound: bool, lifetime: float | None, now: float) -> None:
        """Refuse a cursor that is too old, or was not given for what is asked now.

        Many lists give the same cursor; its age is that of the one that is asked, if it gave it.

        :param bound: refuse one that only other lists gave.
        :param lifetime: seconds; None is for ever.
        :raises BadRequest: for those, and for one that was never given.
        """
        given = self._at.get(cursor, {})
        times = [given[asked]] if asked in given else [] if bound else list(given.values())
        if not times or (lifetime is not None and now - max(times) > lifetime):
            raise BadRequest("bad cursor", "start")


def limit_of(value: str | None, default: int, most: int) -> int:
    limit = integer(value, "limit")
    if limit is None:
        return default
    if not 1 <= limit <= most:
        raise BadRequest(f"limit must be between 1 and {most}", "limit")
    return limit


def integer(value: str | None, name: str) -> int | None:
    if value is None or value == "":
        return None
    if not re.fullmatch(r"-?[0-9]{1,18}", value):
        raise BadRequest(f"{name} must be an integer", name)
    return int(value)


def choice(value: str | None, name: str, allowed: tuple[str, ...]) -> str | None:
    if value is None or value == "":
        return None
    if value not in allowed:
        raise BadRequest(f"{name} must be one of {', '.join(allowed)}", name)
    return value

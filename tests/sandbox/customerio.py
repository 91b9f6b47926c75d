"""Customer.io's App API over a history, as reference/customerio.md describes it."""

from __future__ import annotations

import re
import struct
import zlib
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from time import time
from typing import NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.sandbox.answers import http_date, json_response, seconds
from tests.sandbox.catalog import METRIC_FILTERS, TYPES
from tests.sandbox.rows import Filter
from tests.sandbox.settings import Asked, Bucket, Shared

# "At most 6 months" (reference/customerio.md 1.2) is not said in days: here the shortest half year there is.
SIX_MONTHS = 181 * 86_400
DEFAULT_LIMIT, MAX_LIMIT = 50, 1000

# The bytes before the cursor's own make every cursor contain `+` and `/`; its length makes it end in `=`.
_CURSOR_HEAD = b"\xfb\xff\xbf"
_CURSOR = struct.Struct(">QIxI")
_NEEDS_ENCODING = re.compile(rb"(?:^|&)start=[^&]*[+/=]")


class BadRequest(Exception):
    """A value that the API refuses with 400; the second argument names the parameter."""


class Cursor(NamedTuple):
    position: int
    page: int

    def encode(self) -> str:
        checksum = zlib.crc32(struct.pack(">QI", *self))
        return b64encode(_CURSOR_HEAD + _CURSOR.pack(self.position, self.page, checksum)).decode()

    @classmethod
    def decode(cls, text: str) -> Cursor:
        try:
            data = b64decode(text, validate=True)
            position, page, checksum = _CURSOR.unpack(data[len(_CURSOR_HEAD) :])
        except (BadBase64, struct.error, ValueError):
            raise BadRequest("malformed cursor", "start") from None
        if not data.startswith(_CURSOR_HEAD) or checksum != zlib.crc32(struct.pack(">QI", position, page)):
            raise BadRequest("malformed cursor", "start")
        return cls(position, page)


class CustomerIO:
    """The App API. `requests` holds what was asked, whatever was answered."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.reset()

    def reset(self) -> None:
        self.requests: list[Asked] = []
        self.rate_limited = 0
        self._bucket = Bucket()

    def routes(self) -> list[Route]:
        return [
            Route("/v1/messages", self.messages, methods=["GET"]),
            Route("/v1/messages/{id}", self.message, methods=["GET"]),
        ]

    async def messages(self, request: Request) -> Response:
        """List deliveries (reference/customerio.md 1.1 to 1.6)."""
        refused = self._refuse(request, "messages")
        if refused is not None:
            return refused
        if _NEEDS_ENCODING.search(request.scope["query_string"]):
            # Un-encoded query values "silently gave 200 with an empty list" (reference/customerio.md 7).
            return self._page([], None)
        try:
            return self._list(request)
        except BadRequest as bad:
            return error(400, bad.args[0], pointer=bad.args[1])

    async def message(self, request: Request) -> Response:
        """One delivery; drafts too, for they have an id."""
        refused = self._refuse(request, "messages")
        if refused is not None:
            return refused
        row = self._shared.history.find(request.path_params["id"])
        if row is None:
            return error(404, "not found")
        return json_response(b'{"message":' + row + b"}")

    def _list(self, request: Request) -> Response:
        settings, params = self._shared.settings, request.query_params
        limit = _integer(params.get("limit"), "limit")
        if limit is None:
            limit = DEFAULT_LIMIT
        elif not 1 <= limit <= MAX_LIMIT:
            raise BadRequest(f"limit must be between 1 and {MAX_LIMIT}", "limit")
        start = params.get("start")
        cursor = Cursor.decode(start) if start else Cursor(0, 0)
        start_ts, end_ts = time_bounds(
            _integer(params.get("start_ts"), "start_ts"),
            _integer(params.get("end_ts"), "end_ts"),
            int(settings.clock()),
        )
        drafts = _choice(params.get("drafts"), "drafts", ("true", "false", "1", "0")) in {"true", "1"}
        wanted = Filter(
            type=_choice(params.get("type"), "type", TYPES),
            metric=_choice(params.get("metric"), "metric", METRIC_FILTERS),
            drafts="sent" if not drafts else "both" if settings.drafts_wording == "both" else "drafts",
            campaign_id=_integer(params.get("campaign_id"), "campaign_id"),
            newsletter_id=_integer(params.get("newsletter_id"), "newsletter_id"),
            action_id=_integer(params.get("action_id"), "action_id"),
        )
        rows, following = self._shared.history.rows.page(wanted, start_ts, end_ts, cursor.position, limit)
        every = settings.empty_page_every
        if every and rows and (cursor.page + 1) % (every + 1) == 0:
            return self._page([], Cursor(cursor.position, cursor.page + 1))
        if following is None and settings.trailing_page and len(rows) == limit:
            following = len(self._shared.history)
        return self._page(rows, None if following is None else Cursor(following, cursor.page + 1))

    def _page(self, rows: list[bytes], following: Cursor | None) -> Response:
        settings = self._shared.settings
        if following is not None:
            tail = b',"next":"' + following.encode().encode() + b'"}'
        else:
            tail = {"empty": b',"next":""}', "null": b',"next":null}', "absent": b"}"}[settings.last_next]
        if not rows and settings.null_when_empty:
            return json_response(b'{"messages":null' + tail)
        return json_response(b"".join((b'{"messages":[', b",".join(rows), b"]", tail)))

    def _refuse(self, request: Request, scope: str) -> Response | None:
        """401, 403 or 429, in that order; the bucket is the workspace's, so a wrong key leaves it alone."""
        settings = self._shared.settings
        key = request.headers.get("authorization", "")
        if key != f"Bearer {settings.app_key}" or settings.region != settings.key_region:
            return error(401, "unauthorized")
        if settings.scopes is not None and scope not in settings.scopes:
            return error(403, f"this key does not have access to {scope}")
        if not settings.requests_per_second:
            return None
        wait = self._bucket.take(1, settings.requests_per_second)
        if not wait:
            return None
        self.rate_limited += 1
        headers = {}
        if settings.retry_after == "seconds":
            headers["Retry-After"] = seconds(wait)
        elif settings.retry_after == "date":
            headers["Retry-After"] = http_date(time() + wait)
        return error(429, f"rate limited to {settings.requests_per_second:g} requests per 1s", headers=headers)


def time_bounds(start_ts: int | None, end_ts: int | None, now: int) -> tuple[int, int]:
    """The creation times that a request really spans, both inclusive (reference/customerio.md 1.2).

    An end alone, a start alone (then the end is now) and no bounds at all (likewise) mean the six months
    before the end; anything wider is cut to that without a word.
    """
    end = now if end_ts is None else end_ts
    earliest = end - SIX_MONTHS
    return (earliest if start_ts is None else max(start_ts, earliest)), end


def error(status: int, detail: str, *, pointer: str | None = None, headers: dict[str, str] | None = None) -> Response:
    """The dominant error envelope (reference/customerio.md 7); validation adds `source.pointer`."""
    problem: dict[str, object] = {"detail": detail, "status": str(status)}
    if pointer is not None:
        problem["source"] = {"pointer": f"/{pointer}"}
    return json_response(msgspec.json.encode({"errors": [problem]}), status, headers)


def _integer(value: str | None, name: str) -> int | None:
    if value is None or value == "":
        return None
    if not re.fullmatch(r"-?[0-9]{1,18}", value):
        raise BadRequest(f"{name} must be an integer", name)
    return int(value)


def _choice(value: str | None, name: str, allowed: tuple[str, ...]) -> str | None:
    if value is None or value == "":
        return None
    if value not in allowed:
        raise BadRequest(f"{name} must be one of {', '.join(allowed)}", name)
    return value

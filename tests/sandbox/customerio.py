"""Customer.io's App API over a history, as reference/customerio.md describes it."""

from __future__ import annotations

from random import Random
from time import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.sandbox.activities import Wanted
from tests.sandbox.answers import http_date, json_response, seconds
from tests.sandbox.catalog import ACTIVITY_TYPES, DOCUMENTED_ACTIVITY_TYPES, METRIC_FILTERS, TYPES
from tests.sandbox.params import NEEDS_ENCODING, BadRequest, Cursor, Number, choice, integer, limit_of
from tests.sandbox.parents import Kind
from tests.sandbox.rows import Filter
from tests.sandbox.settings import Asked, Bucket, Shared

# "At most 6 months" (reference/customerio.md 1.2) is not said in days: here the shortest half year there is.
SIX_MONTHS = 181 * 86_400
DEFAULT_LIMIT, MAX_LIMIT = 50, 1000
DEFAULT_ACTIVITIES, MAX_ACTIVITIES = 10, 100
DEFAULT_NEWSLETTERS, MAX_NEWSLETTERS = 50, 100  # the reference names no numbers

# What an endpoint lists, and the key it lists it under (reference/customerio.md 4).
_LISTS: dict[str, tuple[Kind, str]] = {
    "campaigns": ("campaign", "campaigns"),
    "newsletters": ("newsletter", "newsletters"),
    "broadcasts": ("broadcast", "broadcasts"),
    "transactional": ("transactional", "messages"),
}


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
            Route("/v1/activities", self.activities, methods=["GET"]),
            *(Route(f"/v1/{name}", self.names, methods=["GET"]) for name in _LISTS),
        ]

    async def messages(self, request: Request) -> Response:
        """List deliveries (reference/customerio.md 1.1 to 1.6)."""
        refused = self._refuse(request, "messages")
        if refused is not None:
            return refused
        if NEEDS_ENCODING.search(request.scope["query_string"]):
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

    async def activities(self, request: Request) -> Response:
        """List activities (reference/customerio.md 2)."""
        refused = self._refuse(request, "activities")
        if refused is not None:
            return refused
        try:
            return self._activities(request)
        except BadRequest as bad:
            return error(400, bad.args[0], pointer=bad.args[1])

    async def names(self, request: Request) -> Response:
        """List campaigns, newsletters, broadcasts or transactional messages (reference/customerio.md 4)."""
        name = request.url.path.rpartition("/")[2]
        refused = self._refuse(request, name)
        if refused is not None:
            return refused
        kind, key = _LISTS[name]
        items = [
            msgspec.json.encode(item) for item in self._shared.history.listed(kind, self._shared.settings.parent_ids)
        ]
        if kind != "newsletter":
            return json_response(_listed(key, items, self._shared.settings.null_when_empty) + b"}")
        if NEEDS_ENCODING.search(request.scope["query_string"]):
            return self._page([], None, key)
        try:
            return self._newsletters(request, items)
        except BadRequest as bad:
            return error(400, bad.args[0], pointer=bad.args[1])

    def _activities(self, request: Request) -> Response:
        settings, params = self._shared.settings, request.query_params
        limit = limit_of(params.get("limit"), DEFAULT_ACTIVITIES, MAX_ACTIVITIES)
        start = params.get("start")
        cursor = Number.decode(start) if start else Number(0, 0)
        types = ACTIVITY_TYPES if settings.activity_types == "all" else DOCUMENTED_ACTIVITY_TYPES
        type = params.get("type") or None
        if type is not None and type not in types:
            raise BadRequest("type is not one of the known types", "type")
        choice(params.get("deleted"), "deleted", ("true", "false", "1", "0"))  # the same rows (2.4)
        id_type = choice(params.get("id_type"), "id_type", ("id", "email", "phone", "cio_id")) or "id"
        if id_type == "phone":
            raise BadRequest("this workspace does not identify people by phone", "id_type")
        person = params.get("customer_id")
        days = settings.activities_days
        rows, following = self._shared.history.activities.page(
            Wanted(type, params.get("name") or None, (id_type, person) if person else None),
            cursor.position,
            limit,
            disorder=settings.activity_disorder,
            oldest=None if days is None else int(settings.clock() - days * 86_400),
        )
        position, page = following, cursor.page + 1
        if following is None and settings.activities_end != "next":
            position = cursor.position + len(rows)
            page = cursor.page if not rows and settings.activities_end == "same_cursor" else cursor.page + 1
        return self._page(rows, None if position is None else Number(position, page), "activities")

    def _newsletters(self, request: Request, items: list[bytes]) -> Response:
        params = request.query_params
        limit = limit_of(params.get("limit"), DEFAULT_NEWSLETTERS, MAX_NEWSLETTERS)
        start = params.get("start")
        cursor = Cursor.decode(start) if start else Cursor(0, 0)
        if choice(params.get("sort"), "sort", ("asc", "desc")) == "desc":
            items.reverse()
        stop = cursor.position + limit
        following = Cursor(stop, cursor.page + 1) if stop < len(items) else None
        return self._page(items[cursor.position : stop], following, "newsletters")

    def _list(self, request: Request) -> Response:
        settings, params = self._shared.settings, request.query_params
        limit = limit_of(params.get("limit"), DEFAULT_LIMIT, MAX_LIMIT)
        start = params.get("start")
        cursor = Cursor.decode(start) if start else Cursor(0, 0)
        start_ts, end_ts = time_bounds(
            integer(params.get("start_ts"), "start_ts"),
            integer(params.get("end_ts"), "end_ts"),
            int(settings.clock()),
        )
        drafts = choice(params.get("drafts"), "drafts", ("true", "false", "1", "0")) in {"true", "1"}
        wanted = Filter(
            type=choice(params.get("type"), "type", TYPES),
            metric=choice(params.get("metric"), "metric", METRIC_FILTERS),
            drafts="sent" if not drafts else "both" if settings.drafts_wording == "both" else "drafts",
            campaign_id=integer(params.get("campaign_id"), "campaign_id"),
            newsletter_id=integer(params.get("newsletter_id"), "newsletter_id"),
            action_id=integer(params.get("action_id"), "action_id"),
        )
        if settings.order == "newest":
            rows, following = self._shared.history.rows.page(wanted, start_ts, end_ts, cursor.position, limit)
        else:
            rows, following = self._reordered(wanted, start_ts, end_ts, cursor.position, limit)
        every = settings.empty_page_every
        if every and rows and (cursor.page + 1) % (every + 1) == 0:
            return self._page([], Cursor(cursor.position, cursor.page + 1))
        if following is None and settings.trailing_page and len(rows) == limit:
            following = len(self._shared.history)
        return self._page(rows, None if following is None else Cursor(following, cursor.page + 1))

    def _reordered(
        self, wanted: Filter, start_ts: int, end_ts: int, position: int, limit: int
    ) -> tuple[list[bytes], int | None]:
        """A page of the whole list in another order, always the same one for the same bounds."""
        rows, _ = self._shared.history.rows.page(wanted, start_ts, end_ts, 0, len(self._shared.history))
        if self._shared.settings.order == "oldest":
            rows.reverse()
        else:
            Random(f"{start_ts} {end_ts}").shuffle(rows)
        following = position + limit
        return rows[position:following], following if following < len(rows) else None

    def _page(self, rows: list[bytes], following: Cursor | Number | None, key: str = "messages") -> Response:
        settings = self._shared.settings
        if following is not None:
            tail = b',"next":"' + following.encode().encode() + b'"}'
        else:
            tail = {"empty": b',"next":""}', "null": b',"next":null}', "absent": b"}"}[settings.last_next]
        return json_response(_listed(key, rows, settings.null_when_empty) + tail)

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


def _listed(key: str, rows: list[bytes], null_when_empty: bool) -> bytes:
    """The head of an answer: the rows under their key."""
    if not rows and null_when_empty:
        return b'{"%b":null' % key.encode()
    return b"".join((b'{"', key.encode(), b'":[', b",".join(rows), b"]"))

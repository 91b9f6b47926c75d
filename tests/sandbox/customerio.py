"""Customer.io's App API over a history, as reference/customerio.md describes it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from random import Random
from time import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.sandbox.activities import Wanted
from tests.sandbox.answers import http_date, json_response, seconds
from tests.sandbox.catalog import ACTIVITY_TYPES, DOCUMENTED_ACTIVITY_TYPES, METRIC_FILTERS, TYPES
from tests.sandbox.late import as_draft, shown
from tests.sandbox.limiters import Workspace
from tests.sandbox.odd import Odd
from tests.sandbox.paging import Hidden, back, cut
from tests.sandbox.params import (
    NEEDS_ENCODING,
    BadRequest,
    Cursor,
    GivenCursors,
    Number,
    choice,
    integer,
    limit_of,
)
from tests.sandbox.parents import Kind
from tests.sandbox.rows import Filter
from tests.sandbox.settings import Asked, Shared
from tests.sandbox.subscriptions import Subscriptions

# "At most 6 months" (reference/customerio.md 1.2) is not said in days: here the shortest half year there is.
SIX_MONTHS = 181 * 86_400
DEFAULT_LIMIT, MAX_LIMIT = 50, 1000
DEFAULT_ACTIVITIES, MAX_ACTIVITIES = 10, 100
DEFAULT_NEWSLETTERS = 50  # the reference names no number, nor the maximum: see `Settings.most_newsletters`

# Kind of the items of an endpoint, and the key of its list (reference/customerio.md 4).
_LISTS: dict[str, tuple[Kind, str]] = {
    "campaigns": ("campaign", "campaigns"),
    "newsletters": ("newsletter", "newsletters"),
    "broadcasts": ("broadcast", "broadcasts"),
    "transactional": ("transactional", "messages"),
}


class CustomerIO:
    """The App API. `requests` has every request, whatever its answer."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.webhooks = Subscriptions(lambda: shared.settings, self._refuse, error)
        self.reset()

    def reset(self) -> None:
        self.requests: list[Asked] = []
        self.rate_limited = 0
        self._limit = Workspace()
        self._given = GivenCursors()
        self._ways = Random("ways")
        self.webhooks.by_id.clear()

    def way(self) -> float:
        """Draw the seconds that the next request is under way before it arrives."""
        return self._ways.random() * self._shared.settings.arrival_jitter

    def routes(self) -> list[Route]:
        return [
            Route("/v1/messages", self.messages, methods=["GET"]),
            Route("/v1/messages/{id}", self.message, methods=["GET"]),
            Route("/v1/activities", self.activities, methods=["GET"]),
            *(Route(f"/v1/{name}", self.names, methods=["GET"]) for name in _LISTS),
            *self.webhooks.routes(),
        ]

    async def messages(self, request: Request) -> Response:
        """List deliveries (reference/customerio.md 1.1 to 1.6)."""
        refused = self._refuse(request, "messages")
        if refused is not None:
            return refused
        if NEEDS_ENCODING.search(request.scope["query_string"]):
            # Un-encoded query values "silently gave 200 with an empty list" (reference/customerio.md 7).
            return self._page(request, [], None)
        try:
            return self._list(request)
        except BadRequest as bad:
            return error(400, bad.args[0], pointer=bad.args[1])

    async def message(self, request: Request) -> Response:
        """One delivery; drafts too, for they have an id."""
        refused = self._refuse(request, "messages")
        if refused is not None:
            return refused
        history, settings = self._shared.history, self._shared.settings
        position = history.position(request.path_params["id"])
        if position is None or (settings.visible_from_creation and history.rows.created(position) > settings.clock()):
            return error(404, "not found")
        (row,) = self._shown([position])
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
            return self._page(request, [], None, key)
        try:
            return self._newsletters(request, items)
        except BadRequest as bad:
            return error(400, bad.args[0], pointer=bad.args[1])

    def _activities(self, request: Request) -> Response:
        settings, params = self._shared.settings, request.query_params
        limit = limit_of(params.get("limit"), DEFAULT_ACTIVITIES, MAX_ACTIVITIES)
        start = params.get("start")
        cursor = Number.decode(start) if start else Number(0, 0)
        self._check_cursor(request)
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
        activities = self._shared.history.activities
        listed = activities.listing(
            Wanted(type, params.get("name") or None, (id_type, person) if person else None),
            disorder=settings.activity_disorder,
            oldest=None if days is None else int(settings.clock() - days * 86_400),
        )
        hidden: Hidden | None = None
        if settings.visible_after is not None:
            now, most = settings.clock(), settings.visible_after
            hidden = lambda entry: activities.shown_from(entry, most) > now  # noqa: E731
        listed, hidden = self._as_counted(listed, hidden)
        place = back(cursor.position, settings.repeated_rows, limit) if start else 0
        entries, following = cut(listed, place, limit, hidden)
        odd = self._odd_activities()
        rows = [
            odd[entry].kind.make(activities.decoded(entry)) if entry in odd else activities.encoded(entry)
            for entry in entries
        ]
        position, page = following, cursor.page + 1
        if following is None and settings.activities_end != "next":
            position = cursor.position + len(rows)
            page = cursor.page if not rows and settings.activities_end == "same_cursor" else cursor.page + 1
        return self._page(request, rows, None if position is None else Number(position, page), "activities")

    def _newsletters(self, request: Request, items: list[bytes]) -> Response:
        params = request.query_params
        limit = limit_of(params.get("limit"), DEFAULT_NEWSLETTERS, self._shared.settings.most_newsletters)
        start = params.get("start")
        place = Cursor.decode(start, head="").position if start else 0
        self._check_cursor(request)
        if choice(params.get("sort"), "sort", ("asc", "desc")) == "desc":
            items.reverse()
        stop = place + limit
        following = Cursor(stop, head="") if stop < len(items) else None
        return self._page(request, items[place:stop], following, "newsletters")

    def _list(self, request: Request) -> Response:
        settings, params = self._shared.settings, request.query_params
        limit = limit_of(params.get("limit"), DEFAULT_LIMIT, MAX_LIMIT)
        start = params.get("start")
        cursor = Cursor.decode(start) if start else Cursor(0)
        self._check_cursor(request)
        start_ts, end_ts = time_bounds(
            integer(params.get("start_ts"), "start_ts"),
            integer(params.get("end_ts"), "end_ts"),
            int(settings.clock()),
        )
        start_ts, end_ts = start_ts - settings.loose_bounds, end_ts + settings.loose_bounds
        drafts = choice(params.get("drafts"), "drafts", ("true", "false", "1", "0")) in {"true", "1"}
        wanted = Filter(
            type=choice(params.get("type"), "type", TYPES),
            metric=choice(params.get("metric"), "metric", METRIC_FILTERS),
            drafts="sent" if not drafts else "both" if settings.drafts_wording == "both" else "drafts",
            campaign_id=integer(params.get("campaign_id"), "campaign_id"),
            newsletter_id=integer(params.get("newsletter_id"), "newsletter_id"),
            action_id=integer(params.get("action_id"), "action_id"),
        )
        history = self._shared.history
        listed = history.rows.listing(wanted, start_ts, end_ts, settings.ordering)
        listed, hidden = self._as_counted(listed, self._hidden(wanted, end_ts))
        by_row = settings.order == "newest" and settings.cursors == "stable"  # whatever bounds are asked
        place = bisect_left(listed, cursor.position) if by_row else cursor.position
        end = len(listed) + settings.trailing_page
        if place >= end and settings.cursors == "offset":
            place = 0  # "beyond the end the list restarts at page 1" (reference/customerio.md, part 0)
        place = back(place, settings.repeated_rows, limit) if start else 0
        chosen, following = cut(listed, place, limit, hidden)
        every, page = settings.empty_page_every, cursor.position // limit
        if every and chosen and page and page % every == 0 and not cursor.again:
            return self._page(request, [], Cursor(cursor.position, again=True))
        if following is None and settings.trailing_page and len(chosen) == limit:
            following = len(listed)
        if following is not None and by_row:
            following = listed[following] if following < len(listed) else len(history)
        return self._page(request, self._shown(chosen), None if following is None else Cursor(following))

    def _hidden(self, wanted: Filter, end_ts: int) -> Hidden | None:
        """Return a function that tells which of the requested rows are not there yet, or None."""
        settings, rows = self._shared.settings, self._shared.history.rows
        now, metric, leaving = settings.clock(), wanted.metric, rows.leaving
        checks: list[Hidden] = []
        if settings.visible_from_creation and end_ts > now:
            checks.append(lambda at: rows.created(at) > now)
        if leaving and wanted.drafts != "both":
            has_left = wanted.drafts == "drafts"
            checks.append(lambda at: at in leaving and (leaving[at] <= now) == has_left)
        if metric not in {None, "created"} and (leaving or settings.visible_after is not None):
            checks.append(lambda at: (row := self._unfinished(at, now)) is not None and metric not in row["metrics"])
        return (lambda at: any(check(at) for check in checks)) if checks else None

    def _as_counted(self, listed: Sequence[int], hidden: Hidden | None) -> tuple[Sequence[int], Hidden | None]:
        """Return the rows in which the places of a list are counted: with all later ones, or only those there now."""
        if hidden is None or self._shared.settings.cursors == "stable":
            return listed, hidden
        return [at for at in listed if not hidden(at)], None

    def _shown(self, positions: Iterable[int]) -> list[bytes]:
        """Return the rows of deliveries as they are shown now."""
        rows, odd, now = self._shared.history.rows, self._odd_deliveries(), self._shared.settings.clock()
        found = []
        for at in positions:
            data, row = rows.data[at], self._unfinished(at, now)
            if at in odd:
                data = odd[at].kind.make(msgspec.json.decode(data) if row is None else row)
            elif row is not None:
                data = msgspec.json.encode(row)
            found.append(data)
        return found

    def _unfinished(self, at: int, now: float) -> dict[str, Any] | None:
        """Return the row of a delivery as it is now, if it may still change: metrics come late, drafts are sent."""
        most, rows = self._shared.settings.visible_after, self._shared.history.rows
        sent = rows.leaving.get(at, 0)
        late = most is not None and rows.latest[at] + most > now
        if not late and sent <= now:
            return None
        row: dict[str, Any] = msgspec.json.decode(rows.data[at])
        if sent > now:
            row = as_draft(row, sent)
        return shown(row, now, most) if late and most is not None else row

    def _odd_deliveries(self) -> dict[int, Odd]:
        settings = self._shared.settings
        if not settings.odd_deliveries and not settings.odd_rows:
            return {}
        return self._shared.history.odd_deliveries(settings.odd_deliveries, settings.odd_kinds, settings.odd_rows)

    def _odd_activities(self) -> dict[int, Odd]:
        settings = self._shared.settings
        if not settings.odd_activities and not settings.odd_rows:
            return {}
        return self._shared.history.odd_activities(settings.odd_activities, settings.odd_kinds, settings.odd_rows)

    def _check_cursor(self, request: Request) -> None:
        settings, cursor = self._shared.settings, request.query_params.get("start")
        lifetime, bound = settings.cursor_lifetime, settings.cursors_bound
        if cursor and (lifetime is not None or bound):
            self._given.check(cursor, _asked_with(request), bound, lifetime, settings.clock())

    def _page(
        self, request: Request, rows: list[bytes], following: Cursor | Number | None, key: str = "messages"
    ) -> Response:
        settings = self._shared.settings
        if following is not None:
            cursor = following.encode()
            self._given.note(cursor, _asked_with(request), settings.clock())
            tail = b',"next":"' + cursor.encode() + b'"}'
        else:
            tail = {"empty": b',"next":""}', "null": b',"next":null}', "absent": b"}"}[settings.last_next]
        return json_response(_listed(key, rows, settings.null_when_empty) + tail)

    def _refuse(self, request: Request, scope: str) -> Response | None:
        """401, 403 or 429, in that order; the limit is the workspace's, so a wrong key leaves it alone."""
        settings = self._shared.settings
        key = request.headers.get("authorization", "")
        if key != f"Bearer {settings.app_key}" or settings.region != settings.key_region:
            return error(401, "unauthorized")
        if settings.scopes is not None and scope not in settings.scopes:
            return error(403, f"this key does not have access to {scope}")
        if not settings.requests_per_second:
            return None
        second = settings.limit_second
        now = time() / second
        wait = second * self._limit.take(settings.requests_per_second, settings.limiter, settings.other_client, now)
        if not wait:
            return None
        self.rate_limited += 1
        headers = {}
        if settings.retry_after == "seconds":
            headers["Retry-After"] = seconds(wait, whole=second >= 1)
        elif settings.retry_after == "date":
            headers["Retry-After"] = http_date(time() + wait)
        return error(429, f"rate limited to {settings.requests_per_second:g} requests per 1s", headers=headers)


def _asked_with(request: Request) -> str:
    """Return everything that makes a list another one."""
    params = request.query_params.multi_items()
    return f"{request.url.path} {sorted((name, value) for name, value in params if name not in {'start', 'limit'})}"


def time_bounds(start_ts: int | None, end_ts: int | None, now: int) -> tuple[int, int]:
    """Return the creation times that a request really spans, both inclusive (reference/customerio.md 1.2).

    An end alone, a start alone (then the end is now) and no bounds at all (likewise) mean the six months
    before the end; anything wider is cut to that without a word.
    """
    end = now if end_ts is None else end_ts
    earliest = end - SIX_MONTHS
    return (earliest if start_ts is None else max(start_ts, earliest)), end


def error(status: int, detail: str, *, pointer: str | None = None, headers: dict[str, str] | None = None) -> Response:
    """Return an error in the usual envelope (reference/customerio.md 7); validation adds `source.pointer`."""
    problem: dict[str, object] = {"detail": detail, "status": str(status)}
    if pointer is not None:
        problem["source"] = {"pointer": f"/{pointer}"}
    return json_response(msgspec.json.encode({"errors": [problem]}), status, headers)


def _listed(key: str, rows: list[bytes], null_when_empty: bool) -> bytes:
    """Return the head of an answer: the rows under their key."""
    if not rows and null_when_empty:
        return b'{"%b":null' % key.encode()
    return b"".join((b'{"', key.encode(), b'":[', b",".join(rows), b"]"))

"""The App API's reporting webhooks: list, create, get, update, delete (reference/stream.md B.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.sandbox.answers import json_response
from tests.sandbox.params import BadRequest
from tests.sandbox.reports import EVENTS, Subscription
from tests.sandbox.settings import Settings

PATH = "/v1/reporting_webhooks"
_REQUIRED = ("name", "endpoint", "events")
_SWITCHES = ("disabled", "full_resolution", "with_content")

#: Answers with an error, or None if the request is in order.
Refuse = Callable[[Request, str], Response | None]
Error = Callable[..., Response]


class Subscriptions:
    """The webhooks of a workspace, by id. No answer has a signing key.

    :param refuse: what holds for every request: the key, its scopes, the limit.
    """

    def __init__(self, settings: Callable[[], Settings], refuse: Refuse, error: Error) -> None:
        self._settings, self._refuse, self._error = settings, refuse, error
        self.by_id: dict[int, Subscription] = {}
        self._last_id = 0

    def routes(self) -> list[Route]:
        return [
            Route(PATH, self.all, methods=["GET", "POST"]),
            Route(f"{PATH}/{{id:int}}", self.one, methods=["GET", "PUT", "DELETE"]),
        ]

    async def all(self, request: Request) -> Response:
        refused = self._refuse(request, "reporting_webhooks")
        if refused is not None:
            return refused
        if request.method == "GET":
            found = list(self.by_id.values())
            listed = None if not found and self._settings().null_when_empty else found
            return json_response(msgspec.json.encode({"reporting_webhooks": listed}))
        try:
            fields = _read(await request.body(), required=True)
        except BadRequest as bad:
            return self._error(400, bad.args[0], pointer=bad.args[1])
        self._last_id += 1
        return self._keep(Subscription(**{"id": self._last_id} | fields))

    async def one(self, request: Request) -> Response:
        refused = self._refuse(request, "reporting_webhooks")
        if refused is not None:
            return refused
        known = self.by_id.get(request.path_params["id"])
        if known is None:
            return self._error(404, "not found")
        if request.method == "GET":
            return json_response(msgspec.json.encode(known))
        if request.method == "DELETE":
            del self.by_id[known.id]
            return Response(b"", 200)
        whole = self._settings().webhook_put == "whole"
        try:
            fields = _read(await request.body(), required=whole)
        except BadRequest as bad:
            return self._error(400, bad.args[0], pointer=bad.args[1])
        return self._keep(Subscription(id=known.id, **fields) if whole else msgspec.structs.replace(known, **fields))

    def _keep(self, subscription: Subscription) -> Response:
        self.by_id[subscription.id] = subscription
        return json_response(msgspec.json.encode(subscription))


def _read(body: bytes, *, required: bool) -> dict[str, Any]:
    """Return the fields that may be written, and ignore other fields of the body."""
    try:
        given = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        raise BadRequest("malformed request", "") from None
    for name in _REQUIRED:
        if required and name not in given:
            raise BadRequest(f"{name} is required", name)
    for name in _SWITCHES:
        if not isinstance(given.get(name, False), bool):
            raise BadRequest(f"{name} must be a boolean", name)
    if not isinstance(given.get("name", "x"), str) or not given.get("name", "x"):
        raise BadRequest("name must be a string", "name")
    endpoint = given.get("endpoint", "https://example.com")
    if not isinstance(endpoint, str) or urlsplit(endpoint).scheme not in ("http", "https"):
        raise BadRequest("endpoint must be a URL", "endpoint")
    events = given.get("events", ["email_sent"])
    if not isinstance(events, list) or not events or not set(events) <= set(EVENTS):
        raise BadRequest("events must be a list of known events", "events")
    return {name: given[name] for name in (*_REQUIRED, *_SWITCHES) if name in given}

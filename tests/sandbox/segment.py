"""Segment's Tracking API: the edge that authenticates, measures and answers; a Receiver takes the events."""

from __future__ import annotations

import zlib
from base64 import b64decode
from binascii import Error as BadBase64

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.sandbox.answers import json_response, seconds, text
from tests.sandbox.receiver import KINDS, MAX_BODY, MAX_EVENT, Envelope, Receiver
from tests.sandbox.settings import Shared

SUCCESS = b'{\n  "success": true\n}'  # 21 bytes, as seen in logs of the real one (reference/segment.md 1.5)
INVALID_KEY = "An invalid write key was provided"
SHORT_KEY = 8
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_envelope = msgspec.json.Decoder(Envelope)
_raw = msgspec.json.Decoder(msgspec.Raw)


class Segment(Receiver):
    """The Tracking API. It answers 200 to everything but bad JSON, sizes and unusable keys."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        super().__init__()

    def routes(self) -> list[Route]:
        return [
            Route("/v1/batch", self.batch, methods=["POST"]),
            *(Route(f"/v1/{kind}", self.single, methods=["POST"]) for kind in KINDS),
        ]

    async def batch(self, request: Request) -> Response:
        """Handle POST /v1/batch."""
        body = await _body(request)
        if body is None or len(body) > MAX_BODY:
            return text("Bad Request", 400)
        settings = self._shared.settings
        if settings.refuse_containing and settings.refuse_containing.encode() in body:
            return text(
                "Bad Request" if settings.refuse_with == 400 else "Request Entity Too Large", settings.refuse_with
            )
        try:
            body.decode()  # the decoder passes over what it does not need
            envelope = _envelope.decode(body)
        except msgspec.ValidationError:
            return self._odd_batch(request, body)
        except NOT_JSON:
            return text("Bad Request", 400)
        return self._take(request, envelope.batch, envelope, None)

    async def single(self, request: Request) -> Response:
        """Handle POST /v1/track and its siblings."""
        body = await _body(request)
        if body is None or len(body) > MAX_EVENT:
            return text("Bad Request", 400)
        try:
            body.decode()
            envelope = msgspec.json.decode(body, type=Envelope)
            event = _raw.decode(body)
        except NOT_JSON:
            return text("Bad Request", 400)
        envelope.context = envelope.integrations = None  # they are the event's own already
        return self._take(request, [event], envelope, request.url.path.rpartition("/")[2])

    def _odd_batch(self, request: Request, body: bytes) -> Response:
        """Handle JSON of another shape: not an object is refused, an object without a list has no events."""
        try:
            odd = msgspec.json.decode(body)
        except NOT_JSON:
            return text("Bad Request", 400)
        if not isinstance(odd, dict):
            return text("Bad Request", 400)
        envelope = Envelope(write_key=odd.get("writeKey"), sent_at=odd.get("sentAt"))
        return self._take(request, [], envelope, None)

    def _take(self, request: Request, events: list[msgspec.Raw], envelope: Envelope, kind: str | None) -> Response:
        settings = self._shared.settings
        write_key = _write_key(request, envelope)
        if len(write_key) <= SHORT_KEY:
            return text(INVALID_KEY, 400)
        if settings.events_per_second:
            wait = self.bucket.take(len(events), settings.events_per_second)
            if wait:
                self.rate_limited += 1
                pause = seconds(wait)
                headers = {"Retry-After": pause, "X-RateLimit-Reset": pause}
                return Response("Too Many Requests", 429, headers, "text/plain")
        try:
            self.receive(events, envelope, write_key, settings, kind)
        except NOT_JSON:
            return text("Bad Request", 400)
        return text("OK", 200) if settings.success_body == "rudderstack" else json_response(SUCCESS)


async def _body(request: Request) -> bytes | None:
    """Return the body, unzipped if need be; None if it can't be unzipped, or is not announced as JSON."""
    body = await request.body()
    if not request.headers.get("content-type", "").startswith("application/json"):
        return None  # "mandatory" (reference/segment.md 1.3); what becomes of it without is not documented
    if request.headers.get("content-encoding", "").lower() != "gzip":
        return body
    unzip = zlib.decompressobj(wbits=31)
    try:
        # The size limits are taken to hold for what comes out (reference/segment.md 1.3).
        out = unzip.decompress(body, MAX_BODY + 1)
    except zlib.error:
        return None
    return out if unzip.eof or len(out) > MAX_BODY else None


def _write_key(request: Request, envelope: Envelope) -> str:
    """Return the write key: the user name of Basic auth (the colon may be missing), else from the body."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            return b64decode(value.strip(), validate=True).decode().partition(":")[0]
        except (BadBase64, UnicodeDecodeError):
            return ""
    return envelope.write_key if isinstance(envelope.write_key, str) else ""

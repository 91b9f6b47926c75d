"""Small parts of answers that several rooms of the sandbox need."""

from __future__ import annotations

import math
from email.utils import formatdate

from starlette.responses import Response

JSON = "application/json"


def http_date(time: float) -> str:
    """Format an HTTP date (RFC 9110), rounded up to whole seconds."""
    return formatdate(math.ceil(time), usegmt=True)


def seconds(wait: float, *, whole: bool = True) -> str:
    """Format the seconds of Retry-After, rounded up: whole ones, at least one, or milliseconds."""
    return str(max(1, math.ceil(wait))) if whole else f"{math.ceil(wait * 1000) / 1000:.3f}"


def json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, JSON)


def text(body: str, status: int) -> Response:
    return Response(body, status, media_type="text/plain")

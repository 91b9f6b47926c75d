"""ASGI application that serves the files of the page. Airflow mounts it at ``/cio-flow``.

Airflow does not check who calls a mounted app. Nothing here needs it: the files are the same for everybody, and all
data comes from Airflow's own API.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from airflow_provider_cio.mounts import path_below_mount

_STATIC = Path(__file__).parent / "static"
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}
#: The page may load from its own server only, and only Airflow may show it in a frame.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),  # ask again; the answer is 304 as long as the version is the same
)


class File(NamedTuple):
    """A file of the page."""

    body: bytes
    content_type: bytes
    etag: bytes


@cache
def _files() -> dict[str, File]:
    """Return all files by name, read once. The name of the page itself is empty."""
    files = {}
    for path in _STATIC.iterdir():
        if path.suffix not in _TYPES:  # one that an editor or the system left there
            continue
        body = path.read_bytes()
        etag = b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode()
        files["" if path.name == "index.html" else path.name] = File(body, _TYPES[path.suffix], etag)
    return files


async def app(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """Answer GET and HEAD for the files, and 404 for all else."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
    if scope["type"] != "http":
        return
    status, headers, body = _answer(scope["method"], path_below_mount(scope), dict(scope["headers"]))
    await send({"type": "http.response.start", "status": status, "headers": [*_HEADERS, *headers]})
    await send({"type": "http.response.body", "body": body})


def _answer(method: str, path: str, asked: dict[bytes, bytes]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    file = _files().get(path.removeprefix("/"))
    if file is None or method not in ("GET", "HEAD"):
        return 404, [(b"content-type", b"text/plain")], b"" if method == "HEAD" else b"not found\n"
    if file.etag in asked.get(b"if-none-match", b""):
        return 304, [(b"etag", file.etag)], b""
    length = str(len(file.body)).encode()
    headers = [(b"content-type", file.content_type), (b"content-length", length), (b"etag", file.etag)]
    return 200, headers, b"" if method == "HEAD" else file.body

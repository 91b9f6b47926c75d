"""Customer.io's reporting webhooks over HTTP: `app` is an ASGI application, for any server or mounted in another app.

``POST /<name>`` takes a report of a stream, ``GET /<name>/health`` says how the stream is, with 200 or 503. The status
decides what Customer.io does next, so these and no others answer a report:

====  ==================================================================================================
204   the event is at Segment, or the report is knowingly ignored, or kept aside: Customer.io moves on
401   the signature is missing or wrong: it comes again after an hour
404   there is no such stream
405   another method than POST
413   more than any report has
503   anything that may pass: it comes again soon, and for seven days
====  ==================================================================================================
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.stream.counts import LOG_EVERY
from airflow_provider_cio.stream.intake import Unavailable, text_for_log
from airflow_provider_cio.stream.kept import NotFoundYet
from airflow_provider_cio.stream.settings import Streams, option_text, read_streams
from airflow_provider_cio.stream.stream import Stream

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Seconds from a request to its answer; Customer.io waits for four.
ANSWER_WITHIN = 3.0
#: Seconds of them for the whole body to come in. Garbage collection may stop a process as large as Airflow's API server
#: for most of a second.
BODY_WITHIN = 1.5
#: Bytes of a body: without, and with the content of a message.
MAX_BODY = 2**20
MAX_BODY_WITH_CONTENT = 4 * 2**20


class Response(NamedTuple):
    """:param close: the rest of the request has not been read, so the connection can't be used again."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    close: bool = False
    content_type: bytes = b"text/plain"


TAKEN = Response(204)
UNSIGNED = Response(401, b"unauthorized\n", close=True)
NOT_FOUND = Response(404, b"not found\n", close=True)
WRONG_METHOD = Response(405, b"method not allowed\n", ((b"allow", b"POST"),), close=True)
WRONG_METHOD_FOR_HEALTH = WRONG_METHOD._replace(headers=((b"allow", b"GET"),))
TOO_LARGE = Response(413, b"too large\n", close=True)
UNAVAILABLE = Response(503, b"unavailable\n")
UNREAD = UNAVAILABLE._replace(close=True)


class StreamApp:
    """Reads which streams there are at the first request, so that importing it costs and starts nothing."""

    def __init__(self, read_option: Callable[[], str] = option_text) -> None:
        self._read_option = read_option
        self._executor: ThreadPoolExecutor | None = None
        self._loading: asyncio.Task[Mapping[str, Stream | ConfigurationError]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                answer = await self._answer(scope, receive)
            except asyncio.CancelledError:  # the server ends; without an answer it would say 500
                await _respond(send, scope, UNREAD)
                raise
            await _respond(send, scope, answer)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            with suppress(Exception):
                await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        stream: Stream | None = None
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                streams = await self._streams()
                name, _, rest = _path(scope).strip("/").partition("/")
                if name not in streams or rest not in ("", "health"):
                    return NOT_FOUND
                found = streams[name]
                if isinstance(found, ConfigurationError):
                    _log_problem(name, str(found))
                    return UNREAD
                stream = found
                if rest:
                    return await _health(stream) if scope["method"] == "GET" else WRONG_METHOD_FOR_HEALTH
                return await _post(stream, scope, receive) if scope["method"] == "POST" else WRONG_METHOD
        except TimeoutError:
            return _unavailable(stream, "late")
        except Unavailable as error:
            return _unavailable(stream, error.reason, error.problem, error.pause)
        except NotFoundYet:
            return _unavailable(stream, "connections")
        except ConfigurationError as error:
            return _unavailable(stream, "configuration", str(error))
        except Exception as error:  # nothing but the answers above may leave, or Customer.io waits for an hour
            return _unavailable(stream, "error", f"unexpected {text_for_log(error)}")

    async def _streams(self) -> Mapping[str, Stream | ConfigurationError]:
        """Read once, good or wrong; again only after a failure that may pass.

        :raises ConfigurationError: the option is malformed.
        """
        loading = self._loading
        if loading is None or (loading.done() and (loading.cancelled() or _may_pass(loading.exception()))):
            loading = self._loading = asyncio.create_task(self._load())
        return await asyncio.shield(loading)

    async def _load(self) -> Mapping[str, Stream | ConfigurationError]:
        executor = self._executor = self._executor or ThreadPoolExecutor(4, thread_name_prefix="stream-look-up")

        def read() -> Streams:
            text = self._read_option()
            return read_streams(text) if text else {}

        options = await asyncio.get_running_loop().run_in_executor(executor, read)
        return {
            name: one if isinstance(one, ConfigurationError) else Stream(name, one, executor)
            for name, one in options.items()
        }

    async def _live(self, receive: Receive, send: Send) -> None:
        """The server's own start and end; a mounted app never hears of them."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                with suppress(Exception):
                    async with asyncio.timeout(30):
                        for name, stream in (await self._streams()).items():
                            if isinstance(stream, Stream):
                                await stream.warm_up()
                            else:
                                _log_problem(name, str(stream))
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await send({"type": "lifespan.shutdown.complete"})
                return


def _may_pass(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, ConfigurationError)


app = StreamApp()


async def _post(stream: Stream, scope: Scope, receive: Receive) -> Response:
    most = MAX_BODY_WITH_CONTENT if stream.options.message_content else MAX_BODY
    timestamp, signature, length = _headers(scope)
    if length > most:
        return TOO_LARGE
    if timestamp is None or signature is None:
        stream.counts.add("unsigned")
        return UNSIGNED
    body = await _body(receive, most)
    if body is None:
        return TOO_LARGE
    if not await stream.is_authentic(timestamp, body, signature):
        stream.counts.add("unsigned")
        stream.counts.problem(
            "unsigned",
            "the signature of a request is wrong. If Customer.io sent it, check webhook_signing_secret of connection "
            f"{stream.options.customerio_conn_id!r}",
        )
        return UNSIGNED
    stream.counts.add(await stream.take(body))
    return TAKEN


async def _health(stream: Stream) -> Response:
    try:
        await stream.connections()
        configured = True
    except (Unavailable, NotFoundYet):
        configured = False
    body = json.dumps({"configured": configured, "segment_reached": stream.segment_reached()}).encode()
    headers = ((b"cache-control", b"no-store"),)
    return Response(200 if configured else 503, body + b"\n", headers, content_type=b"application/json")


def _headers(scope: Scope) -> tuple[bytes | None, bytes | None, int]:
    """Timestamp and signature if each is there exactly once, and the length that was announced."""
    timestamps, signatures, length = [], [], 0
    for name, value in scope["headers"]:
        lower = name.lower()
        if lower == b"x-cio-timestamp":
            timestamps.append(value)
        elif lower == b"x-cio-signature":
            signatures.append(value)
        elif lower == b"content-length" and value.isdigit():
            length = int(value[:20])
    one = len(timestamps) == len(signatures) == 1
    return (timestamps[0], signatures[0], length) if one else (None, None, length)


async def _body(receive: Receive, most: int) -> bytes | None:
    """The whole body, or None if it is longer than that.

    :raises Unavailable: it does not come, or its sender has gone.
    """
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_WITHIN):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Unavailable("gone")
                part = message.get("body", b"")
                size += len(part)
                if size > most:
                    return None
                parts.append(part)
                if not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
    except TimeoutError:
        raise Unavailable("slow_body") from None


def _unavailable(stream: Stream | None, reason: str, problem: str = "", pause: float = 0.0) -> Response:
    if stream is not None:
        stream.counts.waits(f"unavailable.{reason}", problem, pause)
    elif problem:
        _log_problem("", problem)
    return UNREAD if stream is None or reason in ("slow_body", "gone") else UNAVAILABLE


_problem_logged_at: dict[str, float] = {}


def _log_problem(name: str, problem: str) -> None:
    """At most once a minute for each stream."""
    now = asyncio.get_running_loop().time()
    if now - _problem_logged_at.get(name, -LOG_EVERY) >= LOG_EVERY:
        _problem_logged_at[name] = now
        log.warning("%s", problem)


def _path(scope: Scope) -> str:
    """Below where the app is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


async def _respond(send: Send, scope: Scope, answer: Response) -> None:
    """A client that has gone is no error."""
    headers = list(answer.headers)
    if answer.body:
        headers += [(b"content-type", answer.content_type), (b"content-length", str(len(answer.body)).encode())]
    if answer.close and scope.get("http_version", "1.1") < "2":  # later ones have no such header
        headers.append((b"connection", b"close"))
    with suppress(Exception):
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

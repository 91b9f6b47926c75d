"""ASGI application for Customer.io's reporting webhooks. `app` runs on any server, or mounted in another application.

``POST /<name>`` accepts a report for a stream. ``GET /<name>/health`` answers 200 if the stream can verify reports,
else 503. The status decides whether Customer.io sends a report again, so a report gets only one of these:

====  ===================================================================================================
204   Segment has the event, or the report was ignored, refused or set aside: Customer.io does not repeat it
401   the signature is missing or wrong: Customer.io repeats the report after an hour
404   no stream has this name
405   the method is not POST
413   the body is larger than any report
503   any failure that may pass: Customer.io repeats the report soon, for seven days
====  ===================================================================================================
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
from airflow_provider_cio.mounts import path_below_mount
from airflow_provider_cio.stream.cached import NotFoundYet
from airflow_provider_cio.stream.counts import LOG_EVERY
from airflow_provider_cio.stream.intake import Unavailable, text_for_log
from airflow_provider_cio.stream.settings import Streams, log_names, option_text, read_streams
from airflow_provider_cio.stream.stream import Stream
from airflow_provider_cio.stream.unverified import Body, Unverified

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]

#: Seconds from a request to its answer. Customer.io waits for four.
ANSWER_WITHIN = 3.0
#: Seconds of these for the whole body. Garbage collection may stop a process as large as Airflow's API server for most
#: of a second.
BODY_WITHIN = 1.5
#: Bytes of a body without the content of a message, so that a stranger can't fill the memory.
MAX_BODY = 2**20
#: Bytes of a body with the content of a message, for the same reason.
MAX_BODY_WITH_CONTENT = 4 * 2**20


class Response(NamedTuple):
    """Answer to one request.

    :param close: close the connection, because the rest of the request was not read.
    """

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
    """ASGI application that serves all configured streams.

    It reads the options at the first request, so that an import costs and starts nothing.
    """

    def __init__(self, read_option: Callable[[], str] = option_text) -> None:
        self._read_option = read_option
        self._executor: ThreadPoolExecutor | None = None
        self._loading: asyncio.Task[Mapping[str, Stream | ConfigurationError]] | None = None
        self._unverified = Unverified()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                answer = await self._answer(scope, receive)
            except asyncio.CancelledError:  # the server stops, and would answer 500 itself
                await _respond(send, scope, UNREAD)
                raise
            await _respond(send, scope, answer)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            with suppress(Exception):
                await send({"type": "websocket.close", "code": 1000})

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        stream: Stream | None = None
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                streams = await self._streams()
                name, _, rest = path_below_mount(scope).strip("/").partition("/")
                if name not in streams or rest not in ("", "health"):
                    return NOT_FOUND
                found = streams[name]
                if isinstance(found, ConfigurationError):
                    _log_problem(name, str(found))
                    return UNREAD
                stream = found
                if rest:
                    return await _health(stream) if scope["method"] == "GET" else WRONG_METHOD_FOR_HEALTH
                return await self._post(stream, scope, receive) if scope["method"] == "POST" else WRONG_METHOD
        except TimeoutError:
            return _unavailable(stream, "late")
        except Unavailable as error:
            return _unavailable(stream, error.reason, error.problem, error.pause)
        except NotFoundYet:
            return _unavailable(stream, "connections")
        except ConfigurationError as error:
            return _unavailable(stream, "configuration", str(error))
        except Exception as error:  # after any other status Customer.io would wait for an hour
            return _unavailable(stream, "error", f"unexpected {text_for_log(error)}")

    async def _post(self, stream: Stream, scope: Scope, receive: Receive) -> Response:
        max_size = MAX_BODY_WITH_CONTENT if stream.options.message_content else MAX_BODY
        timestamp, signature, length = _headers(scope)
        if length > max_size:
            return TOO_LARGE
        if timestamp is None or signature is None:
            stream.counts.add("unsigned")
            return UNSIGNED
        async with self._unverified.body() as unverified:
            if not await self._read(unverified, receive, max_size):
                return TOO_LARGE
            data = unverified.data  # not copied yet, because only these bytes are counted
            is_authentic = await stream.is_authentic(timestamp, data, signature)
        if not is_authentic:
            stream.counts.add("unsigned")
            stream.counts.problem(
                "unsigned",
                "the signature of a request is wrong. If Customer.io sent it, check webhook_signing_secret of "
                f"connection {stream.options.customerio_conn_id!r}",
            )
            return UNSIGNED
        stream.counts.add(await stream.take(bytes(data)))
        return TAKEN

    async def _read(self, body: Body, receive: Receive, max_size: int) -> bool:
        """Read the whole body; return False if it has more bytes than `max_size`.

        :raises Unavailable: the body takes too long, there is no room for it, or the client has disconnected.
        """
        try:
            async with asyncio.timeout(BODY_WITHIN):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Unavailable("gone")
                    if len(body.data) + len(message.get("body", b"")) > max_size:
                        return False
                    self._unverified.extend(body, message.get("body", b""))
                    if not message.get("more_body", False):
                        return True
                    del message  # else the part stays in memory until the next one comes
        except TimeoutError:
            raise Unavailable("slow_body") from None

    async def _streams(self) -> Mapping[str, Stream | ConfigurationError]:
        """Return the streams by name. Read them once, and again only after a failure that may pass.

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

        streams = await asyncio.get_running_loop().run_in_executor(executor, read)
        return {
            name: options if isinstance(options, ConfigurationError) else Stream(name, options, executor)
            for name, options in streams.items()
        }

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Handle the start and the end of the server. A mounted application gets neither of these messages."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    async with asyncio.timeout(30):
                        streams = await self._streams()
                        log_names(streams)
                        for stream in streams.values():
                            if isinstance(stream, Stream):
                                await stream.warm_up()
                except Exception as error:  # the first request tries again
                    _log_problem("", f"No stream runs yet: {text_for_log(error)}")
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await send({"type": "lifespan.shutdown.complete"})
                return


def _may_pass(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, ConfigurationError)


app = StreamApp()


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
    """Return timestamp, signature and announced length. The first two are None unless each is there exactly once."""
    timestamps, signatures, length = [], [], 0
    for name, value in scope["headers"]:
        lower = name.lower()
        if lower == b"x-cio-timestamp":
            timestamps.append(value)
        elif lower == b"x-cio-signature":
            signatures.append(value)
        elif lower == b"content-length" and value.isdigit():
            length = int(value[:20])
    if len(timestamps) == len(signatures) == 1:
        return timestamps[0], signatures[0], length
    return None, None, length


def _unavailable(stream: Stream | None, reason: str, problem: str = "", pause: float = 0.0) -> Response:
    if stream is not None:
        stream.counts.waits(f"unavailable.{reason}", problem, pause)
    elif problem:
        _log_problem("", problem)
    return UNREAD if stream is None or reason in ("slow_body", "gone", "crowded") else UNAVAILABLE


_problem_logged_at: dict[str, float] = {}


def _log_problem(name: str, problem: str) -> None:
    """Log a problem, at most once a minute for each stream."""
    now = asyncio.get_running_loop().time()
    if now - _problem_logged_at.get(name, -LOG_EVERY) >= LOG_EVERY:
        _problem_logged_at[name] = now
        log.warning("%s", problem)


async def _respond(send: Send, scope: Scope, answer: Response) -> None:
    """Send an answer. A client that has disconnected is no error."""
    headers = list(answer.headers)
    if answer.body:
        headers += [(b"content-type", answer.content_type), (b"content-length", str(len(answer.body)).encode())]
    if answer.close and scope.get("http_version", "1.1") < "2":  # HTTP/2 has no such header
        headers.append((b"connection", b"close"))
    with suppress(Exception):
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

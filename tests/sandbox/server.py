"""Both services and the control routes on one loopback port, in a daemon thread."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, time
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.sandbox.answers import json_response, text
from tests.sandbox.customerio import CustomerIO, error
from tests.sandbox.faults import PROCESSED, Fault, Faults, Side, play
from tests.sandbox.history import History
from tests.sandbox.odd import Expected, Odd, sort_truth
from tests.sandbox.segment import Segment
from tests.sandbox.settings import Asked, Settings, Shared
from tests.sandbox.subscriptions import PATH as WEBHOOKS
from tests.sandbox.tls import LOOPBACK, Certificates, make_certificates

_CONTROL = "/_sandbox/"
# The truth without what only names and every single open and click need; that comes with `full=1` or `every=1`.
_ALWAYS_TOLD = (
    "collection",
    "channel",
    "metric",
    "delivery_id",
    "time",
    "user_id",
    "anonymous_id",
    "subject",
    "recipient",
    "created",
)


class Sandbox:
    """A running sandbox: a context manager, or `start()` and `stop()`.

    Everything in it may be looked at and changed while it runs, from the thread that started it.

    :param tls: speak https, with a certificate of an authority of its own: `ca_file`, which nobody trusts unless told.
    :param certificate_for: host names and addresses that this certificate is for.
    :param certificate_days: how long it holds; with a negative number it is over.
    """

    def __init__(
        self,
        history: History | None = None,
        settings: Settings | None = None,
        *,
        port: int = 0,
        tls: bool = False,
        certificate_for: Sequence[str] = LOOPBACK,
        certificate_days: int = 2,
    ) -> None:
        self._shared = Shared(history if history is not None else History(), settings or Settings())
        self.customerio = CustomerIO(self._shared)
        self.segment = Segment(self._shared)
        self.faults = Faults()
        self._port = port
        self._tls, self._certificate_for, self._certificate_days = tls, certificate_for, certificate_days
        self._folder: TemporaryDirectory[str] | None = None
        #: The certificate of the authority, in PEM; with `tls`, while it runs.
        self.ca_file: Path | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self.url = ""

    @property
    def history(self) -> History:
        return self._shared.history

    @history.setter
    def history(self, history: History) -> None:
        self._shared.history = history

    @property
    def settings(self) -> Settings:
        return self._shared.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._shared.settings = settings

    def odd_deliveries(self) -> dict[str, Odd]:
        """Return the deliveries that are shown as odd rows now, by id."""
        settings, history = self.settings, self.history
        found = history.odd_deliveries(settings.odd_deliveries, settings.odd_kinds, settings.odd_rows)
        return {msgspec.json.decode(history.rows.data[at])["id"]: odd for at, odd in found.items()}

    def odd_activities(self) -> dict[str, Odd]:
        """Return the activities that are shown as odd rows now, by id."""
        settings, history = self.settings, self.history
        found = history.odd_activities(settings.odd_activities, settings.odd_kinds, settings.odd_rows)
        return {history.activities.decoded(entry)["id"]: odd for entry, odd in found.items()}

    def expected(
        self,
        start: int | None = None,
        end: int | None = None,
        metrics: Collection[str] | None = None,
        channels: Collection[str] | None = None,
        *,
        drafts: bool = False,
        every: bool = False,
        human: bool = False,
    ) -> Expected:
        """Return `History.truth`, sorted by what odd rows make of it."""
        truth = self.history.truth(start, end, metrics, channels, drafts=drafts, every=every, human=human)
        return sort_truth(truth, self.odd_deliveries(), self.odd_activities() if every else {})

    def reset(self) -> None:
        """Forget requests, arrived events, counts and faults; keep history and settings."""
        self.customerio.reset()
        self.segment.reset()
        self.faults.clear()

    def start(self) -> Sandbox:
        certificates = self._make_certificates() if self._tls else None
        listener = socket.create_server(("127.0.0.1", self._port))
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
        self._server = _Server(self, certificates)
        self._thread = threading.Thread(target=self._server.serve_until_stopped, args=(listener,), daemon=True)
        self._thread.start()
        if not self._server.listening.wait(10):
            raise RuntimeError("the sandbox did not start")
        return self

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.stop()
            self._thread.join(10)
        self._server = self._thread = None
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = self.ca_file = None

    def _make_certificates(self) -> Certificates:
        self._folder = TemporaryDirectory(prefix="sandbox-tls-")
        made = make_certificates(Path(self._folder.name), self._certificate_for, self._certificate_days)
        self.ca_file = made.ca_file
        return made

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _App:
    """The ASGI application: it sorts requests by side, notes them, and plays faults."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        not_found = {404: _not_found, 405: _not_found}
        self._control = Starlette(routes=_Control(sandbox).routes())
        self._customerio = Starlette(routes=sandbox.customerio.routes(), exception_handlers=not_found)
        self._segment = Starlette(routes=sandbox.segment.routes())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(_CONTROL):
            await self._control(scope, receive, send)
            return
        sandbox = self._sandbox
        to_segment = scope["method"] == "POST" and not scope["path"].startswith(WEBHOOKS)
        side: Side = "segment" if to_segment else "customerio"
        if side == "customerio" and sandbox.settings.arrival_jitter:
            await asyncio.sleep(sandbox.customerio.way())
        requests = sandbox.segment.requests if side == "segment" else sandbox.customerio.requests
        asked = Asked(scope["method"], scope["path"], dict(parse_qsl(scope["query_string"].decode("latin-1"))), time())
        picked = sandbox.faults.pick(side, len(requests), asked.path)
        requests.append(asked)
        if side == "customerio" and sandbox.settings.now is not None:
            sandbox.settings.now += sandbox.settings.now_per_request
        begun = monotonic()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                asked.status = message["status"]
            await send(message)
            asked.seconds = monotonic() - begun

        app: ASGIApp = self._late_answers if side == "customerio" else self._segment
        if side == "segment" and sandbox.settings.segment_latency:
            await asyncio.sleep(sandbox.settings.segment_latency)
        if picked is None:
            await app(scope, receive, noting)
            return
        kind, fault = picked
        asked.fault = kind
        if side == "customerio" and kind not in PROCESSED:
            await self._wait()
        await play(kind, fault, app, scope, receive, noting)

    async def _late_answers(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wrap the App API: a request counts when it arrives, and is answered after the latency."""

        async def later(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._wait()
            await send(message)

        await self._customerio(scope, receive, later)

    async def _wait(self) -> None:
        if self._sandbox.settings.latency:
            await asyncio.sleep(self._sandbox.settings.latency)


class _Control:
    """Routes by which another process looks at the sandbox and changes it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def routes(self) -> list[Route]:
        return [
            Route("/_sandbox/truth", self.truth, methods=["GET"]),
            Route("/_sandbox/segment", self.segment, methods=["GET"]),
            Route("/_sandbox/customerio", self.customerio, methods=["GET"]),
            Route("/_sandbox/faults", self.faults, methods=["POST"]),
            Route("/_sandbox/reset", self.reset, methods=["POST"]),
            Route("/_sandbox/settings", self.settings, methods=["GET", "POST"]),
        ]

    async def truth(self, request: Request) -> Response:
        params = request.query_params
        events = self._sandbox.history.truth(
            int(params["start"]) if params.get("start") else None,
            int(params["end"]) if params.get("end") else None,
            params["metrics"].split(",") if params.get("metrics") else None,
            params["channels"].split(",") if params.get("channels") else None,
            drafts=params.get("drafts") in {"1", "true"},
            every=params.get("every") in {"1", "true"},
        )
        told = [asdict(truth) for truth in events]
        if not {params.get("every"), params.get("full")} & {"1", "true"}:
            told = [{name: row[name] for name in _ALWAYS_TOLD} for row in told]
        return _json({"events": told})

    async def segment(self, request: Request) -> Response:
        return _json(self._sandbox.segment.report(events=request.query_params.get("events") in {"1", "true"}))

    async def customerio(self, request: Request) -> Response:
        asked = self._sandbox.customerio
        return _json(
            {
                "requests": len(asked.requests),
                "rate_limited": asked.rate_limited,
                "faults": sum(one.fault is not None for one in asked.requests),
                "deliveries": len(self._sandbox.history),
            }
        )

    async def faults(self, request: Request) -> Response:
        try:
            faults = msgspec.json.decode(await request.body(), type=list[Fault])
        except msgspec.DecodeError as wrong:
            return text(str(wrong), 400)
        self._sandbox.faults.add(*faults)
        return _json({"added": len(faults)})

    async def reset(self, request: Request) -> Response:
        self._sandbox.reset()
        return _json({})

    async def settings(self, request: Request) -> Response:
        """Change the settings that the body names; answer with all of them."""
        body = await request.body()
        if body:
            try:
                changes = msgspec.json.decode(body, type=dict[str, Any])
                whole = {**msgspec.to_builtins(self._sandbox.settings), **changes}
                self._sandbox.settings = msgspec.convert(whole, Settings)
            except msgspec.DecodeError as wrong:
                return text(str(wrong), 400)
        return _json(msgspec.to_builtins(self._sandbox.settings))


class _Server(uvicorn.Server):
    """A uvicorn without its waits: it stops at once and cuts open connections."""

    def __init__(self, sandbox: Sandbox, certificates: Certificates | None) -> None:
        config = uvicorn.Config(
            _App(sandbox),
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=60,
            ssl_certfile=certificates and certificates.certificate_file,
            ssl_keyfile=certificates and certificates.key_file,
        )
        super().__init__(config)
        self.listening = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()

    def serve_until_stopped(self, listener: socket.socket) -> None:
        with listener, asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner:
            runner.run(self.serve(sockets=[listener]))

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.listening.set()
        while not self._stopping.is_set():
            await self.on_tick(0)  # renews the Date header
            try:
                await asyncio.wait_for(self._stopping.wait(), 1)
            except TimeoutError:
                continue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            transport: Any = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self.server_state.connections:
            await asyncio.sleep(0)
        for server in self.servers:
            await server.wait_closed()


async def _not_found(request: Request, exception: Exception) -> Response:
    return error(404, "not found")


def _json(value: object) -> Response:
    return json_response(msgspec.json.encode(value))

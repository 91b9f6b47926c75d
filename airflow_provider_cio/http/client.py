"""Base class of the clients: counts of requests, the current wait, closing."""

from __future__ import annotations

from typing import Self

from airflow_provider_cio.http.transport import Transport


class Client:
    """Client of one service. It owns the transport and closes it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def requests_made(self) -> int:
        """Number of requests sent so far, including repeated ones."""
        return self._transport.attempts

    @property
    def retried(self) -> int:
        """Number of requests that repeated another one."""
        return self._transport.retried

    @property
    def rate_limited(self) -> int:
        """Number of requests that were answered with 429."""
        return self._transport.rate_limited

    @property
    def name(self) -> str:
        """Name of the service in error texts."""
        return self._transport.name

    def waiting(self) -> str | None:
        """Return one sentence about the wait before a repeated request or for a slow answer, or None."""
        return self._transport.waiting()

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

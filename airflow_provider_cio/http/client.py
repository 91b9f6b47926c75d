"""What the clients of both services have in common: counts, the present wait, the way to close."""

from __future__ import annotations

from typing import Self

from airflow_provider_cio.http.transport import Transport


class Client:
    """A client of one service, over `transport`, which it closes."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def requests_made(self) -> int:
        """How many so far, repeated ones included."""
        return self._transport.attempts

    @property
    def retried(self) -> int:
        """How many of the requests repeated another."""
        return self._transport.retried

    @property
    def rate_limited(self) -> int:
        """How many were answered 429."""
        return self._transport.rate_limited

    @property
    def name(self) -> str:
        """How errors call the service."""
        return self._transport.name

    def waiting(self) -> str | None:
        """What it waits for before it repeats a request, in one sentence; None if it does not."""
        return self._transport.waiting()

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

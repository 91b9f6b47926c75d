"""What a sink of events looks like from outside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, Self

from airflow_provider_cio.events.event import Event


class Refused(NamedTuple):
    """An event that could not be delivered, encoded. `said`: what the other side said of it, if it did."""

    reason: str
    event: bytes
    said: str = ""


class Sink(Protocol):
    """Where events go. It is entered before the first event; left by an exception, it ends what is in flight."""

    @property
    def acknowledged(self) -> int:
        """Pieces whose events are all delivered or refused: the first so many that were taken."""

    def take(self, events: Iterable[Event]) -> None:
        """All events of the next piece, waiting while too much is in flight."""

    def flush(self) -> None:
        """Let all that was taken be acknowledged before long."""

    def wait(self) -> None:
        """Wait until more of what is in flight is acknowledged."""

    def refused(self) -> Sequence[Refused]:
        """What was refused since the last call."""

    def counts(self) -> dict[str, int]:
        """What was delivered so far: ``events``, and what the sink counts besides."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...

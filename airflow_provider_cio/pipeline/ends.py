"""Protocols of the two ends of a pipeline: a source of occurrences and a sink of events.

Both are context managers that own their client: they open it on entry and close it on exit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, Self

from airflow_provider_cio.events.event import Event, Refused
from airflow_provider_cio.events.occurrence import Piece
from airflow_provider_cio.pipeline.checkpoint import Checkpoint


class Source(Protocol):
    """Source of occurrences. An occurrence is in two pieces only if two answers contained it."""

    def pieces(self, done: Checkpoint) -> Iterator[Piece]:
        """Yield the occurrences of the interval in any order, except those of windows that are done."""

    def counts(self) -> Mapping[str, int]:
        """Return counts of the work so far: at least ``requests``, ``retried`` and ``rate_limited``."""

    def waiting(self) -> str | None:
        """Return one sentence about the current wait, or None."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...


class Sink(Protocol):
    """Sink of events. An exit by an exception cancels the events in flight."""

    @property
    def acknowledged(self) -> int:
        """Number of pieces, counted from the first, whose events are all delivered or refused."""

    def rule_broken(self, event: Event, encoded: bytes) -> str | None:
        """Return the name of the rule that makes an event undeliverable, or None."""

    def check(self) -> None:
        """Check the connection as far as possible without a delivery."""

    def take(self, events: Iterable[Event]) -> None:
        """Accept all events of the next piece. Block while too many are in flight."""

    def flush(self) -> None:
        """Begin to deliver all accepted events, without waiting for a full batch."""

    def wait(self) -> None:
        """Wait until more pieces are acknowledged."""

    def refused(self) -> Sequence[Refused]:
        """Return the events that were refused since the last call."""

    def counts(self) -> Mapping[str, int]:
        """Return counts of the deliveries so far: at least ``events``."""

    def waiting(self) -> str | None:
        """Return one sentence about the current wait, or None."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...

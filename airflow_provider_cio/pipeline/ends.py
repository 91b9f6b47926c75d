"""The two ends of a pipeline: a source of occurrences and a sink of events, which mirror each other.

Both are context managers. Each owns its client: it opens it when it is entered, and closes it when it is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, Self

from airflow_provider_cio.events.event import Event, Refused
from airflow_provider_cio.events.occurrence import Piece
from airflow_provider_cio.pipeline.checkpoint import Checkpoint


class Source(Protocol):
    """A source of occurrences. Each occurrence is in one piece, unless an answer brought it twice."""

    def pieces(self, done: Checkpoint) -> Iterator[Piece]:
        """Yield all of the interval but for the windows that are done, in any order."""

    def counts(self) -> Mapping[str, int]:
        """Return the work so far: ``requests``, ``retried``, ``rate_limited``, and what the source counts besides."""

    def waiting(self) -> str | None:
        """Return in one sentence what the source waits for; None if it does not wait."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...


class Sink(Protocol):
    """A sink of events. If it is left by an exception, it ends what is in flight."""

    @property
    def acknowledged(self) -> int:
        """Number of pieces, counted from the first, whose events are all delivered or refused."""

    def rule_broken(self, event: Event, encoded: bytes) -> str | None:
        """Return the name of the rule that makes an event undeliverable, or None."""

    def check(self) -> None:
        """Find a wrong connection, as far as that is possible without delivering anything."""

    def take(self, events: Iterable[Event]) -> None:
        """Take all events of the next piece, waiting while too much is in flight."""

    def flush(self) -> None:
        """Let all that was taken be acknowledged before long."""

    def wait(self) -> None:
        """Wait until more of what is in flight is acknowledged."""

    def refused(self) -> Sequence[Refused]:
        """Return the events that were refused since the last call."""

    def counts(self) -> Mapping[str, int]:
        """Return what was delivered so far: ``events``, and what the sink counts besides."""

    def waiting(self) -> str | None:
        """Return in one sentence what the sink waits for; None if it does not wait."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...

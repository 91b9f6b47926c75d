"""The two ends of a pipeline: a source of occurrences and a sink of events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

from airflow_provider_cio.customerio.rows import Malformed
from airflow_provider_cio.customerio.windows import Window
from airflow_provider_cio.events.event import Event
from airflow_provider_cio.events.mapping import Occurrence
from airflow_provider_cio.pipeline.checkpoint import Checkpoint


@dataclass
class Piece:
    """What one answer of Customer.io's brought.

    :param malformed: rows that would belong to this interval, and can't be read.
    :param read: counts by kind, e.g. ``deliveries``.
    :param skipped: counts by reason of what no event is made of.
    :param part: the same for all pieces of one window; None for a piece of none.
    :param finished: the window that has been read whole with this piece.
    """

    occurrences: Sequence[Occurrence] = ()
    malformed: Sequence[Malformed] = ()
    read: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    part: int | None = None
    finished: Window | None = None


class Source(Protocol):
    """Where occurrences come from. Each is in one piece, unless an answer brought it twice."""

    def pieces(self, done: Checkpoint) -> Iterator[Piece]:
        """All of the interval, but for what is done. Which piece comes when is open."""


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

"""What a source of occurrences looks like from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from airflow_provider_cio.events.mapping import Occurrence
from airflow_provider_cio.records import Misshapen
from airflow_provider_cio.sources.checkpoint import Checkpoint
from airflow_provider_cio.sources.windows import Window


@dataclass
class Piece:
    """What one answer of Customer.io's brought.

    :param misshapen: rows that would belong to this interval, and can't be read.
    :param read: counts by kind, e.g. ``deliveries``.
    :param skipped: counts by reason of what no event is made of.
    :param part: the same for all pieces of one window; None for a piece of none.
    :param finished: the window that has been read whole with this piece.
    """

    occurrences: Sequence[Occurrence] = ()
    misshapen: Sequence[Misshapen] = ()
    read: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    part: int | None = None
    finished: Window | None = None


class Source(Protocol):
    """Where occurrences come from. Each is in one piece, unless an answer brought it twice."""

    def pieces(self, done: Checkpoint) -> Iterator[Piece]:
        """All of the interval, but for what is done. Which piece comes when is open."""

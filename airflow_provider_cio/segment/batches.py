"""Batches of encoded events: packed, sent several at once, and halved until the events at fault are alone."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

from airflow_provider_cio.events.event import Refused
from airflow_provider_cio.exceptions import EventsRefusedError
from airflow_provider_cio.segment.client import SegmentClient

#: In flight; each is up to half a megabyte.
MAX_BATCHES = 4
# A batch, uncompressed: 500 KB and 2,500 events, by Segment's word. Its own clients stop at this size too, since it is
# unclear whether its KB has 1,000 or 1,024 bytes.
MAX_BATCH_BYTES = 475_000
MAX_BATCH_EVENTS = 2_500
#: Single events that are refused before any was taken in all of the run: then it is not about the events.
_SAMPLES = 32


class Packer:
    """Groups encoded events so that no request reaches 475,000 bytes or exceeds 2,500 events. Order is kept.

    :param envelope: bytes of a request around its events.
    """

    def __init__(self, envelope: int) -> None:
        self._envelope = envelope
        self._batch: list[bytes] = []
        self._size = envelope

    def add(self, event: bytes) -> list[bytes]:
        """Returns the batch that the event found no more room in, or an empty list."""
        size = len(event) + 1  # with its comma
        full = self._size + size >= MAX_BATCH_BYTES or len(self._batch) == MAX_BATCH_EVENTS
        batch = self.flush() if full else []
        self._batch.append(event)
        self._size += size
        return batch

    def flush(self) -> list[bytes]:
        """Returns what has gathered, if anything, and starts anew."""
        batch, self._batch, self._size = self._batch, [], self._envelope
        return batch

    def __bool__(self) -> bool:
        return bool(self._batch)


@dataclass
class Outcome:
    """What became of a batch. `size` is the bytes of request bodies before compression."""

    events: int = 0
    batches: int = 0
    size: int = 0
    refused: list[Refused] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.events += other.events
        self.batches += other.batches
        self.size += other.size
        self.refused += other.refused


class Sender:
    """Sends batches in threads of its own.

    Outcomes come back in the order in which the batches were given, so after n of them the first n are settled.
    """

    def __init__(self, client: SegmentClient) -> None:
        self._client = client
        self._pool = ThreadPoolExecutor(MAX_BATCHES, thread_name_prefix="segment")
        self._running: deque[Future[Outcome]] = deque()
        self._taken = False
        self._refused_singles = 0

    @property
    def in_flight(self) -> int:
        return len(self._running)

    def send(self, batch: list[bytes]) -> list[Outcome]:
        """Give a batch of encoded events, waiting while too many are in flight; returns what has come back."""
        self._running.append(self._pool.submit(self._deliver, batch))
        return self.settled(at_most=MAX_BATCHES)

    def settled(self, at_most: int) -> list[Outcome]:
        """Outcomes that have come back, waiting until `at_most` batches are still in flight.

        :raises ConfigurationError, TryAgainLaterError, EventsRefusedError: from the request that failed.
        """
        outcomes = []
        while self._running and (len(self._running) > at_most or self._running[0].done()):
            outcomes.append(self._running.popleft().result())
        return outcomes

    def close(self, *, wait: bool) -> None:
        self._pool.shutdown(wait=wait, cancel_futures=True)

    def _deliver(self, batch: list[bytes]) -> Outcome:
        """A refused batch is halved until the events at fault are alone, so that all others are sent.

        :raises EventsRefusedError: if Segment takes nothing at all.
        """
        outcome = Outcome()
        parts = deque([batch])
        while parts:
            part = parts.popleft()
            if self._sent(part, outcome):
                continue
            if not self._taken:
                part = self._without_samples(part, outcome)
            middle = len(part) // 2
            parts += (half for half in (part[:middle], part[middle:]) if half)
        self._give_up_if_nothing_is_taken(outcome)
        return outcome

    def _without_samples(self, batch: list[bytes], outcome: Outcome) -> list[bytes]:
        """Is it about the events? Send some alone, from all over the batch, until one is taken; returns the others."""
        count = min(_SAMPLES, len(batch))
        tried = set()
        for sample in range(count):
            index = sample * (len(batch) - 1) // max(1, count - 1)
            tried.add(index)
            self._sent([batch[index]], outcome)
            if self._taken:
                break
        self._give_up_if_nothing_is_taken(outcome)
        return [event for index, event in enumerate(batch) if index not in tried]

    def _give_up_if_nothing_is_taken(self, outcome: Outcome) -> None:
        """Not within a batch's samples: several batches in flight that all begin badly are refused often, too."""
        if self._refused_singles >= _SAMPLES and not self._taken and outcome.refused:
            last = outcome.refused[-1]
            raise EventsRefusedError(last.said, last.reason)

    def _sent(self, part: list[bytes], outcome: Outcome) -> bool:
        """False if it was refused and has to be halved; a single refused event is done with."""
        try:
            size = self._client.send(part)
        except EventsRefusedError as error:
            if len(part) > 1:
                return False
            self._refused_singles += 1
            outcome.refused.append(Refused(error.reason, part[0], str(error)))
        else:
            self._taken = True
            outcome.add(Outcome(len(part), 1, size))
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(wait=not kind)

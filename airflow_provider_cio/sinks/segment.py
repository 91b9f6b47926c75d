"""Send batches with several requests in flight, and find the events that Segment does not take."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self

from airflow_provider_cio.clients.segment import SegmentClient
from airflow_provider_cio.exceptions import EventsRefusedError

MAX_IN_FLIGHT = 4  # batches; each is up to half a megabyte
# A batch, uncompressed: 500 KB and 2,500 events, by Segment's word. Its own clients stop at this size too, since it is
# unclear whether its KB has 1,000 or 1,024 bytes.
MAX_BATCH_BYTES = 475_000
MAX_BATCH_EVENTS = 2_500
_SAMPLES = 32  # single events that are refused, and none taken in all of the run: it is not about the events


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
    refused: list[tuple[bytes, EventsRefusedError]] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.events += other.events
        self.batches += other.batches
        self.size += other.size
        self.refused += other.refused


class Sender:
    """Sends with `client`, which it closes if it is left by an exception: that ends the requests in flight.

    Outcomes come back in the order in which the batches were given, so after n of them the first n are settled.
    """

    def __init__(self, client: SegmentClient) -> None:
        self._client = client
        self._pool = ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix="segment")
        self._running: deque[Future[Outcome]] = deque()
        self._taken = False
        self._refused_singles = 0

    def send(self, batch: list[bytes]) -> list[Outcome]:
        """Give a batch of encoded events, waiting while too many are in flight; returns what has come back."""
        self._running.append(self._pool.submit(self._deliver, batch))
        return self.settled(at_most=MAX_IN_FLIGHT)

    def settled(self, at_most: int) -> list[Outcome]:
        """Outcomes that have come back, waiting until `at_most` batches are still in flight.

        :raises ConfigurationError, TryAgainLaterError, EventsRefusedError: from the request that failed.
        """
        outcomes = []
        while self._running and (len(self._running) > at_most or self._running[0].done()):
            outcomes.append(self._running.popleft().result())
        return outcomes

    def _deliver(self, batch: list[bytes]) -> Outcome:
        """A refused batch is halved until the events at fault are alone, so that all others are sent.

        :raises EventsRefusedError: if Segment takes nothing at all.
        """
        outcome = Outcome()
        parts = deque([batch])
        while parts:
            part = parts.popleft()
            try:
                size = self._client.send(part)
            except EventsRefusedError as error:
                if len(part) == 1:
                    self._count_refusal(error)
                    outcome.refused.append((part[0], error))
                    continue
                if not self._taken:
                    part = self._without_samples(part, outcome)
                middle = len(part) // 2
                parts += (half for half in (part[:middle], part[middle:]) if half)
            else:
                self._taken = True
                outcome.add(Outcome(len(part), 1, size))
        return outcome

    def _without_samples(self, batch: list[bytes], outcome: Outcome) -> list[bytes]:
        """Is it about the events? Send some alone, from all over the batch, until one is taken; returns the others."""
        step = max(1, len(batch) // _SAMPLES)
        for index in range(0, len(batch), step):
            try:
                size = self._client.send([batch[index]])
            except EventsRefusedError as error:
                self._count_refusal(error)
                outcome.refused.append((batch[index], error))
            else:
                self._taken = True
                outcome.add(Outcome(1, 1, size))
            if self._taken:
                break
        last = index
        return [event for number, event in enumerate(batch) if number > last or number % step]

    def _count_refusal(self, error: EventsRefusedError) -> None:
        self._refused_singles += 1
        if self._refused_singles >= _SAMPLES and not self._taken:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self._client.close()
        self._pool.shutdown(cancel_futures=True)

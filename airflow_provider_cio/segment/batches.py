"""Batches of encoded events: pack them, send them, and find the events at fault in one that is refused."""

from __future__ import annotations

import math
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from airflow_provider_cio.events.event import Refused
from airflow_provider_cio.exceptions import EventsRefusedError
from airflow_provider_cio.segment.client import SegmentClient

#: In flight at once; each is up to half a megabyte.
MAX_BATCHES = 4
# A batch, uncompressed: 500 KB and 2,500 events, by Segment's word. Its own clients stop at this size too, since it is
# unclear whether its KB has 1,000 or 1,024 bytes.
MAX_BATCH_BYTES = 475_000
MAX_BATCH_EVENTS = 2_500
#: If this many single events are refused and none was ever taken, Segment refuses the source, not the events.
_SAMPLES = 32
#: Seconds for which an answer proves that the service does not refuse everything.
_PROOF = 60.0
#: RudderStack refuses an empty batch by name ("Empty batch payload"), so it has understood the request.
_EMPTY_BATCH = re.compile(r"empty[ _]batch", re.IGNORECASE)


class Packer:
    """Groups encoded events so that no request reaches 475,000 bytes or exceeds 2,500 events. Order is kept.

    :param envelope: bytes of a request around its events.
    """

    def __init__(self, envelope: int) -> None:
        self._envelope = envelope
        self._batch: list[bytes] = []
        self._size = envelope

    def add(self, event: bytes) -> list[bytes]:
        """Add an event. If it does not fit, return the full batch and start a new one; else return an empty list."""
        size = len(event) + 1  # with its comma
        full = self._size + size >= MAX_BATCH_BYTES or len(self._batch) == MAX_BATCH_EVENTS
        batch = self.flush() if full else []
        self._batch.append(event)
        self._size += size
        return batch

    def flush(self) -> list[bytes]:
        """Return the events that have gathered, if any, and start a new batch."""
        batch, self._batch, self._size = self._batch, [], self._envelope
        return batch

    def __bool__(self) -> bool:
        return bool(self._batch)


class Settled(NamedTuple):
    """Events that one request has settled: all of them are delivered, or the only one is refused.

    :param size: bytes of the request's body before compression, if it was taken.
    """

    events: list[bytes]
    size: int = 0
    refused: Refused | None = None


class Sender:
    """Delivers batches, and tells events at fault from a service that refuses everything. Safe to share by threads."""

    def __init__(self, client: SegmentClient) -> None:
        self._client = client
        # When the service last took events, and when it last understood an empty batch; by the monotonic clock.
        self._took_at = self._understood_at = -math.inf

    @property
    def has_taken(self) -> bool:
        """Whether the service has ever taken an event from this sender."""
        return self._took_at > -math.inf

    def deliver(self, batch: list[bytes]) -> Iterator[Settled]:
        """Deliver a batch, and yield its events as they are settled.

        A refused batch is halved until the events at fault are alone, so that all others are delivered. If nothing was
        taken within the last minute, the service has to show first that it does not refuse everything.

        :raises EventsRefusedError: it does, so no event of the batch is at fault.
        :raises ConfigurationError, TryAgainLaterError: from the request that failed.
        """
        parts = deque([batch])
        while parts:
            part = parts.popleft()
            sent = self._send(part)
            if sent.refused is None:
                yield sent
                continue
            settled = {0: sent} if len(part) == 1 else {}
            if not _is_recent(self._took_at):
                settled = settled or self._samples(part)
                self._raise_if_all_is_refused(sent.refused)
            yield from settled.values()
            rest = [event for index, event in enumerate(part) if index not in settled]
            middle = len(rest) // 2
            parts += (half for half in (rest[:middle], rest[middle:]) if half)

    def _send(self, part: list[bytes]) -> Settled:
        """Send one request. If several events are refused, they are not settled by it."""
        try:
            size = self._client.send(part)
        except EventsRefusedError as error:
            return Settled(part, refused=Refused(error.reason, part[0], str(error)))
        self._took_at = time.monotonic()
        return Settled(part, size)

    def _samples(self, part: list[bytes]) -> dict[int, Settled]:
        """Send single events from all over the part, until one is taken. Return the answers by index."""
        found: dict[int, Settled] = {}
        last = min(_SAMPLES, len(part)) - 1
        for sample in range(last + 1):
            index = sample * (len(part) - 1) // last
            found[index] = self._send([part[index]])
            if _is_recent(self._took_at):
                break
        return found

    def _raise_if_all_is_refused(self, refused: Refused) -> None:
        """Send an empty batch, if nothing was taken of late: the service makes no event of it."""
        if _is_recent(self._took_at) or _is_recent(self._understood_at):
            return
        try:
            self._client.send([])
        except EventsRefusedError as error:
            if not _EMPTY_BATCH.search(str(error)):
                said = f"{refused.said} Nor was an empty batch: check host and path of the connection."
                raise EventsRefusedError(said, refused.reason) from None
        self._understood_at = time.monotonic()


def _is_recent(moment: float) -> bool:
    return time.monotonic() - moment < _PROOF


@dataclass
class Outcome:
    """What became of a batch. `size` is the bytes of request bodies before compression."""

    events: int = 0
    batches: int = 0
    size: int = 0
    refused: list[Refused] = field(default_factory=list)

    def add(self, settled: Settled) -> None:
        if settled.refused:
            self.refused.append(settled.refused)
        else:
            self.events += len(settled.events)
            self.batches += 1
            self.size += settled.size

    def counts(self) -> dict[str, int]:
        """Return what was delivered: events, batches and bytes."""
        return {"events": self.events, "batches": self.batches, "bytes": self.size}


class InFlight:
    """Delivers the batches of one run, several at once, each in a thread.

    Outcomes come back in the order in which the batches were given, so after n of them the first n are settled.
    """

    def __init__(self, client: SegmentClient) -> None:
        self._sender = Sender(client)
        self._pool = ThreadPoolExecutor(MAX_BATCHES, thread_name_prefix="segment")
        self._running: deque[Future[Outcome]] = deque()
        self._refused = 0  # single events
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._running)

    def send(self, batch: list[bytes]) -> list[Outcome]:
        """Give a batch of encoded events, waiting while too many are in flight. Return what has come back."""
        self._running.append(self._pool.submit(self._deliver, batch))
        return self.settled(at_most=MAX_BATCHES)

    def settled(self, at_most: int) -> list[Outcome]:
        """Return the outcomes that have come back, waiting until no more than `at_most` batches are in flight.

        :raises ConfigurationError, TryAgainLaterError, EventsRefusedError: from the batch that failed.
        """
        outcomes = []
        while self._running and (len(self._running) > at_most or self._running[0].done()):
            outcomes.append(self._running.popleft().result())
        return outcomes

    def close(self, *, wait: bool) -> None:
        self._pool.shutdown(wait=wait, cancel_futures=True)

    def _deliver(self, batch: list[bytes]) -> Outcome:
        """:raises EventsRefusedError: many events were refused, and none was ever taken."""
        outcome = Outcome()
        for settled in self._sender.deliver(batch):
            outcome.add(settled)
            if settled.refused:
                with self._lock:
                    self._refused += 1
                if self._refused >= _SAMPLES and not self._sender.has_taken:
                    raise EventsRefusedError(settled.refused.said, settled.refused.reason)
        return outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(wait=not kind)

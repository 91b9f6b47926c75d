"""Pack encoded events into batches, send these, and isolate the events at fault in a refused one."""

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

#: Batches in flight at once. Each holds up to half a megabyte of memory.
MAX_BATCHES = 4
#: Bytes of an uncompressed batch. Segment allows 500 KB. Its own clients stop at this size too, because it is unclear
#: whether a KB has 1,000 or 1,024 bytes.
MAX_BATCH_BYTES = 475_000
#: Events of a batch, Segment's documented limit.
MAX_BATCH_EVENTS = 2_500
#: If this many single events are refused and none was ever accepted, Segment rejects the source, not the events.
_SAMPLES = 32
#: Seconds for which an accepted request proves that the service does not refuse everything.
_PROOF = 60.0
#: RudderStack refuses an empty batch by name ("Empty batch payload"), so it has read the request.
_EMPTY_BATCH = re.compile(r"empty[ _]batch", re.IGNORECASE)


class Packer:
    """Packer of encoded events, in order. No request reaches 475,000 bytes or exceeds 2,500 events.

    :param envelope: bytes of a request around its events.
    """

    def __init__(self, envelope: int) -> None:
        self._envelope = envelope
        self._batch: list[bytes] = []
        self._size = envelope

    def add(self, event: bytes) -> list[bytes] | None:
        """Add an event. If it does not fit, start a new batch with it, and return the full one."""
        size = len(event) + 1  # with its comma
        fits = self._size + size < MAX_BATCH_BYTES and len(self._batch) < MAX_BATCH_EVENTS
        full = None if fits else self.flush()
        self._batch.append(event)
        self._size += size
        return full

    def flush(self) -> list[bytes]:
        """Return the events that have gathered, if any, and start a new batch."""
        batch, self._batch, self._size = self._batch, [], self._envelope
        return batch

    def __bool__(self) -> bool:
        return bool(self._batch)


class Settled(NamedTuple):
    """Events that one request has settled: either all are delivered, or a single event is refused.

    :param size: bytes of the request's body before compression; 0 if it was refused.
    """

    events: list[bytes]
    size: int = 0
    refused: Refused | None = None


class Sender:
    """Sender of batches, which tells bad events from a service that refuses everything. Threads can share it."""

    def __init__(self, client: SegmentClient) -> None:
        self._client = client
        # Last times, by the monotonic clock, at which the service accepted events, and understood an empty batch.
        self._accepted_at = self._understood_at = -math.inf

    @property
    def has_delivered(self) -> bool:
        """True if the service has ever accepted an event from this sender."""
        return self._accepted_at > -math.inf

    def deliver(self, batch: list[bytes]) -> Iterator[Settled]:
        """Deliver a batch, and yield its events as they are settled.

        A refused batch is halved until the events at fault are alone, so that all others are delivered. If nothing was
        accepted within the last minute, the service has to prove first that it does not refuse everything.

        :raises EventsRefusedError: the service refuses everything, so no event is at fault.
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
            if not _is_recent(self._accepted_at):
                settled = settled or self._samples(part)
                self._raise_if_all_is_refused(sent.refused)
            yield from settled.values()
            rest = [event for index, event in enumerate(part) if index not in settled]
            middle = len(rest) // 2
            parts += (half for half in (rest[:middle], rest[middle:]) if half)

    def _send(self, part: list[bytes]) -> Settled:
        """Send one request. Its refusal does not settle several events, because only some may be at fault."""
        try:
            size = self._client.send(part)
        except EventsRefusedError as error:
            return Settled(part, refused=Refused(error.reason, part[0], str(error)))
        self._accepted_at = time.monotonic()
        return Settled(part, size)

    def _samples(self, part: list[bytes]) -> dict[int, Settled]:
        """Send single events from all over the part, until one is accepted. Return the answers by index."""
        found: dict[int, Settled] = {}
        last = min(_SAMPLES, len(part)) - 1
        for sample in range(last + 1):
            index = sample * (len(part) - 1) // last
            found[index] = self._send([part[index]])
            if _is_recent(self._accepted_at):
                break
        return found

    def _raise_if_all_is_refused(self, refused: Refused) -> None:
        """Send an empty batch, which makes no event, unless there is a recent proof.

        :raises EventsRefusedError: the service refuses the empty batch too.
        """
        if _is_recent(self._accepted_at) or _is_recent(self._understood_at):
            return
        try:
            self._client.send([])
        except EventsRefusedError as error:
            if not _EMPTY_BATCH.search(str(error)):
                text = f"{refused.explanation} Nor was an empty batch: check host and path of the connection."
                raise EventsRefusedError(text, refused.reason) from None
        self._understood_at = time.monotonic()


def _is_recent(moment: float) -> bool:
    return time.monotonic() - moment < _PROOF


@dataclass
class Outcome:
    """Counts and refused events of one batch. `size` is the bytes of request bodies before compression."""

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
        """Return the counts of the delivery: events, batches and bytes."""
        return {"events": self.events, "batches": self.batches, "bytes": self.size}


class InFlight:
    """Batches of one run in flight, each in a thread.

    Outcomes come back in the order of the batches, so after n outcomes the first n batches are settled.
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
        """Start a batch of encoded events. Wait while too many are in flight, and return the outcomes so far."""
        self._running.append(self._pool.submit(self._deliver, batch))
        return self.settled(at_most=MAX_BATCHES)

    def settled(self, at_most: int) -> list[Outcome]:
        """Wait until no more than `at_most` batches are in flight, and return the outcomes so far.

        :raises ConfigurationError, TryAgainLaterError, EventsRefusedError: from the batch that failed.
        """
        outcomes = []
        while self._running and (len(self._running) > at_most or self._running[0].done()):
            outcomes.append(self._running.popleft().result())
        return outcomes

    def close(self, *, wait: bool) -> None:
        self._pool.shutdown(wait=wait, cancel_futures=True)

    def _deliver(self, batch: list[bytes]) -> Outcome:
        """Deliver one batch in a thread.

        :raises EventsRefusedError: `_SAMPLES` events were refused and none was ever accepted.
        """
        outcome = Outcome()
        for settled in self._sender.deliver(batch):
            outcome.add(settled)
            if settled.refused:
                with self._lock:
                    self._refused += 1
                if self._refused >= _SAMPLES and not self._sender.has_delivered:
                    raise EventsRefusedError(settled.refused.explanation, settled.refused.reason)
        return outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(wait=not kind)

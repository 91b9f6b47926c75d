"""Sink of a run that sends its events to Segment: it checks and packs them, and has several batches in flight."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Self

from airflow_provider_cio.events.event import Event, Refused, encode, rule_broken
from airflow_provider_cio.segment.batches import MAX_BATCHES, InFlight, Outcome, Packer
from airflow_provider_cio.segment.client import SegmentClient


class SegmentSink:
    """Sink that sends events with `client`, and closes it on exit."""

    def __init__(self, client: SegmentClient) -> None:
        self._client = client
        self._packer = Packer(client.envelope)
        self._in_flight = InFlight(client)
        self._ledger = Ledger()
        self._sent = Counter(Outcome().counts())
        self._refused: list[Refused] = []

    @property
    def acknowledged(self) -> int:
        """Number of pieces, counted from the first, whose events are all delivered or refused."""
        return self._ledger.acknowledged

    def rule_broken(self, event: Event, encoded: bytes) -> str | None:
        """Return the name of the rule that makes an event undeliverable, or None."""
        return rule_broken(event, encoded)

    def check(self) -> None:
        """Do nothing, because Segment does not tell whether it knows a write key."""

    def take(self, events: Iterable[Event]) -> None:
        """Accept all events of the next piece. Block while too many batches are in flight."""
        add = self._packer.add
        for event in events:
            encoded = encode(event)
            reason = rule_broken(event, encoded)
            if reason:
                self._refused.append(Refused(reason, encoded))
            elif batch := add(encoded):
                self._send(batch)
        self._ledger.piece_taken(pending=bool(self._packer))
        self._settle(self._in_flight.settled(at_most=MAX_BATCHES))

    def flush(self) -> None:
        """Send the events that wait for a full batch."""
        if batch := self._packer.flush():
            self._send(batch)

    def wait(self) -> None:
        """Wait until one batch less is in flight."""
        self._settle(self._in_flight.settled(at_most=max(0, len(self._in_flight) - 1)))

    def refused(self) -> Sequence[Refused]:
        """Return the events that were refused since the last call."""
        refused, self._refused = self._refused, []
        return refused

    def counts(self) -> dict[str, int]:
        """Return the counts of the deliveries so far: events, batches and bytes."""
        return dict(self._sent)

    def waiting(self) -> str | None:
        """Return one sentence about the client's current wait, or None."""
        return self._client.waiting()

    def _send(self, batch: list[bytes]) -> None:
        self._ledger.batch_sent()
        self._settle(self._in_flight.send(batch))

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._refused += outcome.refused
            self._sent.update(outcome.counts())
            self._ledger.batch_settled()

    def __enter__(self) -> Self:
        self._client.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self._client.close()  # ends the requests in flight
        self._in_flight.close(wait=not kind)
        self._client.close()


class Ledger:
    """Record of the acknowledged pieces, whose events are all in settled batches.

    Batches are settled in the order in which they were sent, and events are packed in the order of their pieces.
    """

    def __init__(self) -> None:
        self.acknowledged = 0
        self._sent = self._settled = 0
        self._needs: deque[int] = deque()  # settled batches that each unacknowledged piece needs

    def piece_taken(self, *, pending: bool) -> None:
        """Count a piece. If events of it or of an earlier piece are in no batch yet, it is `pending`."""
        self._needs.append(self._sent + pending)
        self._acknowledge()

    def batch_sent(self) -> None:
        self._sent += 1

    def batch_settled(self) -> None:
        self._settled += 1
        self._acknowledge()

    def _acknowledge(self) -> None:
        while self._needs and self._needs[0] <= self._settled:
            self._needs.popleft()
            self.acknowledged += 1

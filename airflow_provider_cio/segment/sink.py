"""Send events to Segment in batches, several in flight, and find those that it does not take."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Self

from airflow_provider_cio.events.event import Event, Refused, encode, rule_broken
from airflow_provider_cio.segment.batches import MAX_BATCHES, Outcome, Packer, Sender
from airflow_provider_cio.segment.client import SegmentClient


class SegmentSink:
    """Sends with `client`, which it closes if it is left by an exception."""

    def __init__(self, client: SegmentClient) -> None:
        self._client = client
        self._packer = Packer(client.envelope)
        self._sender = Sender(client)
        self._ledger = Ledger()
        self._sent = Outcome()
        self._refused: list[Refused] = []

    @property
    def acknowledged(self) -> int:
        return self._ledger.acknowledged

    def rule_broken(self, event: Event, encoded: bytes) -> str | None:
        return rule_broken(event, encoded)

    def check(self) -> None:
        pass

    def waiting(self) -> str | None:
        return self._client.waiting()

    def take(self, events: Iterable[Event]) -> None:
        add = self._packer.add
        for event in events:
            encoded = encode(event)
            reason = rule_broken(event, encoded)
            if reason:
                self._refused.append(Refused(reason, encoded))
            elif batch := add(encoded):
                self._send(batch)
        self._ledger.piece_taken(pending=bool(self._packer))
        self._settle(self._sender.settled(at_most=MAX_BATCHES))

    def flush(self) -> None:
        if batch := self._packer.flush():
            self._send(batch)

    def wait(self) -> None:
        self._settle(self._sender.settled(at_most=max(0, self._sender.in_flight - 1)))

    def refused(self) -> Sequence[Refused]:
        refused, self._refused = self._refused, []
        return refused

    def counts(self) -> dict[str, int]:
        return {"events": self._sent.events, "batches": self._sent.batches, "bytes": self._sent.size}

    def _send(self, batch: list[bytes]) -> None:
        self._ledger.batch_sent()
        self._settle(self._sender.send(batch))

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self._refused += outcome.refused
            outcome.refused = []
            self._sent.add(outcome)
            self._ledger.batch_settled()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self._client.close()
        self._sender.close(wait=not kind)
        self._client.close()


class Ledger:
    """Which pieces are acknowledged: all of their events are in batches that are settled.

    Batches are settled in the order in which they were sent, and events are packed in the order of their pieces.
    """

    def __init__(self) -> None:
        self.acknowledged = 0
        self._sent = self._settled = 0
        self._needs: deque[int] = deque()  # for each piece not acknowledged: that many settled batches

    def piece_taken(self, *, pending: bool) -> None:
        """:param pending: events of it, or of an earlier piece, are in no batch yet."""
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

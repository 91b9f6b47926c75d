"""The line, end to end: read pages, find occurrences, map them, send batches, count."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from airflow_provider_cio.catalog import Collection
from airflow_provider_cio.checkpoint import Checkpoint, State
from airflow_provider_cio.clients.customerio import CustomerIOClient, Delivery
from airflow_provider_cio.clients.segment import Packer, SegmentClient, breach, encode
from airflow_provider_cio.extract import Window, occurrences, plan
from airflow_provider_cio.interval import Interval, iso
from airflow_provider_cio.mapping import Mapper
from airflow_provider_cio.reading import Reader
from airflow_provider_cio.sending import MAX_IN_FLIGHT, Outcome, Sender

PROGRESS_EVERY = 10.0  # seconds
CHECKPOINT_EVERY = 5.0  # seconds; each is a round trip to Airflow's API
_NAMED_IDS = 5  # delivery ids that an error names for each reason


@dataclass
class Report:
    """What one run did. `refused` holds, for each reason, how many events were not sent and the first of their ids."""

    interval: Interval
    events: Counter[str]
    requests: int = 0
    deliveries: int = 0
    sent: Outcome = field(default_factory=Outcome)
    skipped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    refused_ids: dict[str, list[str]] = field(default_factory=dict)
    words: str = ""

    def refusals(self) -> str:
        """E.g. ``event_too_large: 2 (first deliveries: a, b).``, and what Segment said if it did."""
        counted = "; ".join(
            f"{reason}: {count} (first deliveries: {', '.join(self.refused_ids[reason])})"
            for reason, count in self.refused.items()
        )
        return f"{counted}. {self.words}".strip()

    def as_dict(self) -> dict[str, Any]:
        """Plain and small, for XCom."""
        return {
            "interval": {"start": iso(self.interval.start), "end": iso(self.interval.end)},
            "read": {"requests": self.requests, "deliveries": self.deliveries},
            "events": dict(self.events),
            "sent": {"events": self.sent.events, "batches": self.sent.batches, "bytes": self.sent.size},
            "skipped": dict(self.skipped),
        }


@dataclass(frozen=True)
class Callbacks:
    """What a run tells while it works.

    :param progress: called about every ten seconds.
    :param refused: gets each event that can't be sent, encoded, and the reason.
    :param save: stores the state of the checkpoint, about every five seconds if it has changed.
    """

    progress: Callable[[Report], None] = lambda report: None
    refused: Callable[[str, bytes], None] = lambda reason, event: None
    save: Callable[[State], None] | None = None


class Line:
    """One run over one interval: every occurrence in it is sent once.

    An event that Segment can't take is counted in the report's `refused`; all others are sent.

    :param lookback: seconds before the interval in which a delivery may have been created.
    :param skip_unidentified: count events of people who can't be named as skipped, rather than as refused.
    :param checkpoint: what an earlier try has done, and where this one notes what it has.
    """

    def __init__(
        self,
        source: CustomerIOClient,
        destination: SegmentClient,
        mapper: Mapper,
        *,
        interval: Interval,
        lookback: int,
        collections: Sequence[Collection],
        skip_unidentified: bool = True,
        checkpoint: Checkpoint | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        self.report = Report(interval, Counter({collection.name: 0 for collection in collections}))
        self._source = source
        self._destination = destination
        self._mapper = mapper
        self._interval = interval
        self._lookback = lookback
        self._collections = collections
        self._skip_unidentified = skip_unidentified
        self._checkpoint = Checkpoint("") if checkpoint is None else checkpoint
        self._callbacks = callbacks or Callbacks()
        self._packer = Packer(destination.envelope)
        self._given = self._settled = 0  # batches
        self._progress_due = time.monotonic() + PROGRESS_EVERY
        self._checkpoint_due = time.monotonic() + CHECKPOINT_EVERY
        self._save_after: int | None = None  # a checkpoint is due once that many batches are settled
        self._finished: deque[tuple[int, Window]] = deque()  # after how many batches a window is acknowledged whole

    def run(self) -> Report:
        """Read, map and send at the same time, with a few pages and batches under way at once."""
        windows = self._checkpoint.rest(plan(self._interval, self._lookback, self._collections))
        with Reader(self._source) as reader, Sender(self._destination) as sender:
            for deliveries, finished in reader.pieces(windows):
                self._map(deliveries, sender)
                if finished:
                    self._finished.append((self._given + bool(self._packer), finished))
                self._settle(sender.settled(at_most=MAX_IN_FLIGHT))
                self._tell(sender)
            self._give(self._packer.flush(), sender)
            for left in reversed(range(MAX_IN_FLIGHT)):
                self._settle(sender.settled(at_most=left))
                self._tell(sender)
        return self.report

    def _tell(self, sender: Sender) -> None:
        now = time.monotonic()
        if now >= self._progress_due:
            self._progress_due = now + PROGRESS_EVERY
            self._callbacks.progress(self.report)
        if self._callbacks.save and now >= self._checkpoint_due and self._save_after is None:
            self._checkpoint_due = now + CHECKPOINT_EVERY
            self._give(self._packer.flush(), sender)  # a batch that fills slowly must not hold it up
            self._save_after = self._given
        if self._save_after is not None and self._settled >= self._save_after:
            self._save_after = None
            self._save()

    def _map(self, deliveries: Sequence[Delivery], sender: Sender) -> None:
        report = self.report
        report.deliveries += len(deliveries)
        report.requests = self._source.requests_made
        for delivery, collection, at in occurrences(deliveries, self._collections, self._interval, report.skipped):
            event = self._mapper.event(delivery, collection, at)
            encoded = encode(event)
            reason = breach(event, encoded)
            if reason is None:
                report.events[collection.name] += 1
                if batch := self._packer.add(encoded):
                    self._give(batch, sender)
            elif reason == "unidentified" and self._skip_unidentified:
                report.skipped[reason] += 1
            else:
                self._refuse(reason, encoded)

    def _give(self, batch: list[bytes], sender: Sender) -> None:
        if batch:
            self._given += 1
            self._settle(sender.send(batch))

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            for event, error in outcome.refused:
                self.report.words = self.report.words or str(error)
                self.report.events[self._refuse(error.reason, event)] -= 1
            outcome.refused.clear()
            self.report.sent.add(outcome)
            self._settled += 1

    def _refuse(self, reason: str, event: bytes) -> str:
        """Returns the collection's name."""
        plain = msgspec.json.decode(event)
        self.report.refused[reason] += 1
        ids = self.report.refused_ids.setdefault(reason, [])
        if len(ids) < _NAMED_IDS:
            ids.append(plain["properties"]["delivery_id"])
        self._callbacks.refused(reason, event)
        return str(plain["event"])

    def _save(self) -> None:
        """Note the windows whose events are all acknowledged.

        Not from the first refusal on: a later try must meet the refused event again, or nobody would hear of it.
        """
        done = []
        while self._finished and self._finished[0][0] <= self._settled:
            done.append(self._finished.popleft()[1])
        if done and self._callbacks.save and not self.report.refused:
            self._checkpoint.add(done)
            self._callbacks.save(self._checkpoint.state())

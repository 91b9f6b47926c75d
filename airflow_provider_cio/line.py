"""The line, end to end: read pages, find occurrences, map them, send batches, count."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from airflow_provider_cio.checkpoint import Checkpoint, State
from airflow_provider_cio.clients.customerio import CustomerIOClient
from airflow_provider_cio.clients.segment import SegmentClient
from airflow_provider_cio.events.catalog import Collection
from airflow_provider_cio.events.event import Event, breach, encode
from airflow_provider_cio.events.mapping import Mapper, is_machine
from airflow_provider_cio.interval import Interval, iso
from airflow_provider_cio.records import Activity, Delivery
from airflow_provider_cio.sinks.segment import MAX_IN_FLIGHT, Outcome, Packer, Sender
from airflow_provider_cio.sources.activities import (
    REPEATING,
    Waiting,
    activity_type,
    delivery_of,
    inside,
    stand_in,
)
from airflow_provider_cio.sources.deliveries import occurrences
from airflow_provider_cio.sources.reader import Reader
from airflow_provider_cio.sources.windows import Window, plan

PROGRESS_EVERY = 10.0  # seconds
CHECKPOINT_EVERY = 5.0  # seconds; each is a round trip to Airflow's API
_IDS_AT_ONCE = 200  # deliveries asked for by id before the next are looked up
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
    resumed: bool = False
    activities: int = 0
    ways: Counter[str] = field(default_factory=Counter)

    def refusals(self) -> str:
        """E.g. ``event_too_large: 2 (first deliveries: a, b).``, and what Segment said if it did."""
        counted = "; ".join(
            f"{reason}: {count} (first deliveries: {', '.join(self.refused_ids[reason])})"
            for reason, count in self.refused.items()
        )
        return f"{counted}. {self.words}".strip()

    def as_dict(self) -> dict[str, Any]:
        """Plain and small, for XCom."""
        result: dict[str, Any] = {
            "interval": {"start": iso(self.interval.start), "end": iso(self.interval.end)},
            "read": {"requests": self.requests, "deliveries": self.deliveries},
            "events": dict(self.events),
            "sent": {"events": self.sent.events, "batches": self.sent.batches, "bytes": self.sent.size},
            "skipped": dict(self.skipped),
        }
        if self.ways:
            result["read"] |= {"activities": self.activities, "requests_by_way": dict(self.ways)}
        return result


@dataclass(frozen=True)
class Callbacks:
    """What a run tells while it works.

    :param progress: called about every ten seconds.
    :param refused: gets each event that can't be sent, encoded, and the reason.
    :param sample: gets the first event of each collection, encoded.
    :param save: stores the state of the checkpoint, about every five seconds if it has changed.
    """

    progress: Callable[[Report], None] = lambda report: None
    refused: Callable[[str, bytes], None] = lambda reason, event: None
    sample: Callable[[bytes], None] = lambda event: None
    save: Callable[[State], None] | None = None


class Line:
    """One run over one interval: every occurrence in it is sent once.

    An event that Segment can't take is counted in the report's `refused`; all others are sent.

    :param lookback: seconds before the interval in which a delivery may have been created.
    :param skip_unidentified: count events of people who can't be named as skipped, rather than as refused.
    :param every: send every open and click, from activities, rather than the one that the delivery shows. Which
        activities wait for which window is not stored, so there is no checkpoint then.
    :param keep_machines: send opens and clicks that no person made, too; only activities tell them apart.
    :param preview: send nothing.
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
        every: bool = False,
        keep_machines: bool = True,
        preview: bool = False,
        checkpoint: Checkpoint | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        self.report = Report(interval, Counter({collection.name: 0 for collection in collections}))
        self._source = source
        self._destination = destination
        self._mapper = mapper
        self._interval = interval
        self._lookback = lookback
        self._repeating = [one for one in collections if every and (one.channel, one.metric) in REPEATING]
        self._collections = [one for one in collections if one not in self._repeating]
        self._keep_machines = keep_machines
        self._preview = preview
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
        with Reader(self._source) as reader, Sender(self._destination) as sender:
            if self._repeating:
                with Waiting() as waiting:
                    self._run_every(reader, sender, waiting)
            else:
                windows = self._checkpoint.rest(plan(self._interval, self._lookback, self._collections))
                for deliveries, finished in reader.pieces(windows):
                    self._map(deliveries, sender)
                    if finished and self._callbacks.save:
                        self._finished.append((self._given + bool(self._packer), finished))
                    self._tell(sender)
            self._give(self._packer.flush(), sender)
            for left in reversed(range(MAX_IN_FLIGHT)):
                self._settle(sender.settled(at_most=left))
                self._tell(sender)
        self.report.requests = self._source.requests_made
        return self.report

    def _run_every(self, reader: Reader, sender: Sender, waiting: Waiting) -> None:
        """Activities first, then their deliveries, met in windows or asked for by id, as is cheaper."""
        self._count_way("activities", lambda: self._gather(reader, sender, waiting))
        self._count_way("windows", lambda: self._join_by_window(reader, sender, waiting))
        self._count_way("ids", lambda: self._join_by_id(reader, sender, waiting))

    def _count_way(self, way: str, work: Callable[[], None]) -> None:
        before = self._source.requests_made
        work()
        self.report.ways[way] = self._source.requests_made - before

    def _gather(self, reader: Reader, sender: Sender, waiting: Waiting) -> None:
        by_type = {activity_type(collection): collection for collection in self._repeating}
        for kind, found in reader.activities(list(by_type), self._interval.start):
            pairs = []
            for activity in inside(found, *self._interval):
                delivery_id = delivery_of(activity)
                if delivery_id is None:
                    self.report.skipped["activity_without_delivery"] += 1
                elif not self._keep_machines and is_machine(activity):
                    self.report.skipped["machine"] += 1
                else:
                    pairs.append((delivery_id, activity))
            self.report.activities += waiting.add(by_type[kind], pairs)
            self.report.requests = self._source.requests_made
            self._tell(sender)

    def _join_by_window(self, reader: Reader, sender: Sender, waiting: Waiting) -> None:
        """Channels that other collections need are read anyway; another one as long as that is the cheaper way."""
        channels = dict.fromkeys(collection.channel for collection in [*self._collections, *self._repeating])
        for channel in channels:
            others = [one for one in self._collections if one.channel == channel]
            joined = [one for one in self._repeating if one.channel == channel]
            missing = waiting.deliveries(joined)
            if not others and not missing:
                continue
            windows = plan(self._interval, self._lookback, others or joined)
            span = sum(window.end - window.start for window in windows)
            read = 0
            for pages, (deliveries, finished) in enumerate(reader.pieces(windows), 1):
                self._map(deliveries, sender)
                found = waiting.take([delivery.id for delivery in deliveries])
                for delivery in deliveries:
                    self._map_activities(delivery, found.get(delivery.id, ()), sender)
                self._tell(sender)
                missing -= len(found)
                size = finished.end - finished.start if finished else 0
                read += size if deliveries else 0
                span -= 0 if deliveries else size  # nothing was sent then, which tells nothing of other times
                left = (span - read) / read * pages if read else math.inf
                # What was read of a burst makes the rest look long: a tenth of the other way's cost is spent first.
                if not others and (missing == 0 or (pages * 10 >= missing and left > missing)):
                    reader.abandon()
                    break

    def _join_by_id(self, reader: Reader, sender: Sender, waiting: Waiting) -> None:
        while ids := waiting.delivery_ids(_IDS_AT_ONCE):
            found = waiting.take(ids)
            for delivery_id, delivery in reader.deliveries(ids):
                for collection, activity in found[delivery_id]:
                    one = delivery or stand_in(delivery_id, collection, activity)
                    self._map_activities(one, [(collection, activity)], sender)
                self.report.deliveries += delivery is not None
                self._tell(sender)

    def _map_activities(
        self, delivery: Delivery, activities: Sequence[tuple[Collection, Activity]], sender: Sender
    ) -> None:
        for collection, activity in activities:
            self._add(collection, self._mapper.event_of_activity(delivery, collection, activity), sender)

    def _tell(self, sender: Sender) -> None:
        self._settle(sender.settled(at_most=MAX_IN_FLIGHT))
        now = time.monotonic()
        if now >= self._progress_due:
            self._progress_due = now + PROGRESS_EVERY
            self._callbacks.progress(self.report)
        wanted = self._callbacks.save and not self._repeating and not self.report.refused
        if wanted and now >= self._checkpoint_due and self._save_after is None:
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
            self._add(collection, self._mapper.event(delivery, collection, at), sender)

    def _add(self, collection: Collection, event: Event, sender: Sender) -> None:
        encoded = encode(event)
        reason = breach(event, encoded)
        if reason is None:
            if not self.report.events[collection.name]:
                self._callbacks.sample(encoded)
            self.report.events[collection.name] += 1
            if batch := self._packer.add(encoded):
                self._give(batch, sender)
        elif reason == "unidentified" and self._skip_unidentified:
            self.report.skipped[reason] += 1
        else:
            self._refuse(reason, encoded)

    def _give(self, batch: list[bytes], sender: Sender) -> None:
        if batch and not self._preview:
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

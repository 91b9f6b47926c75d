"""The line: a source of occurrences, the mapper, a sink of events; what is acknowledged; the report."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from airflow_provider_cio.customerio.client import CustomerIOClient
from airflow_provider_cio.customerio.reader import Reader
from airflow_provider_cio.events.event import Event, encode
from airflow_provider_cio.events.interval import Window
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.events.occurrence import Malformed, Piece
from airflow_provider_cio.pipeline.checkpoint import Checkpoint, State, Tally
from airflow_provider_cio.pipeline.ends import Sink, Source
from airflow_provider_cio.pipeline.result import Report

#: Seconds between two lines in the log.
PROGRESS_EVERY = 10.0
#: Seconds between two checkpoints; each is a round trip to Airflow's API.
CHECKPOINT_EVERY = 5.0


@dataclass(frozen=True)
class Callbacks:
    """What a run tells while it works.

    :param progress: called every ten seconds, from a thread of its own.
    :param refused_event: gets each event that can't be delivered: the reason, and the event, encoded.
    :param refused_row: gets each row of Customer.io's that can't be read, and would be this interval's.
    :param save: stores the state of the checkpoint, about every five seconds if it has changed.
    """

    progress: Callable[[], None] = lambda: None
    refused_event: Callable[[str, bytes], None] = lambda reason, event: None
    refused_row: Callable[[Malformed], None] = lambda row: None
    save: Callable[[State], None] | None = None


class Line:
    """One run over one interval: every occurrence in it becomes one event, and is delivered.

    What can't be delivered is counted in `report.refused`; all else is.

    :param reader: the source's, for what it counts.
    :param skip_unidentified: count events of people who can't be named as skipped, rather than as refused.
    :param checkpoint: what earlier tries have done, and where this one notes what it has.
    """

    def __init__(
        self,
        reader: Reader,
        source: Source,
        mapper: Mapper,
        sink: Sink,
        report: Report,
        *,
        skip_unidentified: bool = True,
        checkpoint: Checkpoint | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        self.report = report
        self._reader = reader
        self._source = source
        self._mapper = mapper
        self._sink = sink
        self._skip_unidentified = skip_unidentified
        self._checkpoint = Checkpoint() if checkpoint is None else checkpoint
        self._callbacks = callbacks or Callbacks()
        self._taken = 0  # pieces that the sink has been given
        self._parts: dict[int, Tally] = {}  # of windows that are not finished
        self._finished: deque[tuple[int, Window, Tally]] = deque()  # windows, and which of the pieces ended them
        self._checkpoint_due = time.monotonic() + CHECKPOINT_EVERY
        self._unsaved = self._flushed = False
        self._earlier = Counter(self._checkpoint.work)
        self._earlier["events"] = self._checkpoint.tally.events.total()
        report.resumed = bool(self._checkpoint)
        report.tally.add(self._checkpoint.tally)

    def run(self) -> Report:
        """Read, map and deliver at the same time, with a few requests under way at both ends."""
        with every(PROGRESS_EVERY, self._progress), self._reader, self._sink:
            for piece in self._source.pieces(self._checkpoint):
                self._pass_on(piece)
                self._collect_refused()
                self._save_if_due()
            self._sink.flush()
            while self._sink.acknowledged < self._taken:
                self._sink.wait()
                self._collect_refused()
                self._save_if_due()
            self._collect_refused()
        self._count_work()
        return self.report

    def _pass_on(self, piece: Piece) -> None:
        for row in piece.malformed:
            self.report.refuse("malformed", row.id, row.problem)
            self._callbacks.refused_row(row)
        tally = Tally(piece.read, Counter(), piece.skipped)
        self._sink.take(self._events(piece, tally))
        self._taken += 1
        self.report.tally.add(tally)
        if piece.part is not None:
            self._parts.setdefault(piece.part, Tally()).add(tally)
            if piece.finished:
                self._finished.append((self._taken, piece.finished, self._parts.pop(piece.part)))

    def _events(self, piece: Piece, tally: Tally) -> Iterator[Event]:
        make, skip = self._mapper.event, self._skip_unidentified
        unidentified: list[str] = []
        for occurrence in piece.occurrences:
            event = make(occurrence)
            if event.user_id or event.anonymous_id:
                yield event
                continue
            unidentified.append(event.event)
            if not skip:
                self.report.refuse("unidentified", occurrence.delivery.id)
                self._callbacks.refused_event("unidentified", encode(event))
        tally.events.update(one.collection.name for one in piece.occurrences)
        tally.events.subtract(unidentified)
        if unidentified and skip:
            tally.skipped["unidentified"] += len(unidentified)

    def _collect_refused(self) -> None:
        for refused in self._sink.refused():
            event: dict[str, Any] = msgspec.json.decode(refused.event)
            self.report.tally.events[event["event"]] -= 1
            self.report.refuse(refused.reason, event["properties"]["delivery_id"], refused.said)
            self._callbacks.refused_event(refused.reason, refused.event)

    def _save_if_due(self) -> None:
        """Note the windows that are acknowledged whole.

        Not from the first refusal on: a later try must meet what was refused again, or nobody would hear of it.
        """
        if self._callbacks.save is None or self.report.refused:
            self._finished.clear()
            return
        while self._finished and self._finished[0][0] <= self._sink.acknowledged:
            _, window, tally = self._finished.popleft()
            self._checkpoint.add(window, tally)
            self._unsaved = True
        if time.monotonic() < self._checkpoint_due:
            return
        if self._unsaved:
            self._unsaved = self._flushed = False
            self._checkpoint_due = time.monotonic() + CHECKPOINT_EVERY
            self._count_work()
            self._callbacks.save(self._checkpoint.state(self.report.work))
        elif self._finished and not self._flushed:
            self._flushed = True
            self._sink.flush()  # a batch that fills slowly must not hold the checkpoint up

    def _progress(self) -> None:
        self._count_work()
        self._callbacks.progress()

    def _count_work(self) -> None:
        client: CustomerIOClient = self._reader.client
        now = Counter(self._sink.counts())
        now.update(requests=client.requests_made, retried=client.retried, rate_limited=client.rate_limited)
        now.update(out_of_order=self._reader.out_of_order, cut_short=self._reader.cut_short)
        self.report.work = now + self._earlier


@contextmanager
def every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Call from a thread of its own: it goes on while the others wait, for whatever they wait.

    A call that is under way at the end is waited for, so that none comes after it.
    """
    ended = threading.Event()

    def calls() -> None:
        while not ended.wait(seconds):
            call()

    thread = threading.Thread(target=calls, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

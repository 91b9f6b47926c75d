"""Pipeline of a run: a source of occurrences, the mapper, a sink of events, and one result."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from airflow_provider_cio.events.event import Event, encode
from airflow_provider_cio.events.interval import Window
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.events.occurrence import Malformed, Occurrence, Piece
from airflow_provider_cio.pipeline.checkpoint import Checkpoint, State
from airflow_provider_cio.pipeline.ends import Sink, Source
from airflow_provider_cio.pipeline.result import Result, Tally
from airflow_provider_cio.pipeline.ticker import ticking

#: Seconds between two checkpoints, because each is a round trip to Airflow's API.
CHECKPOINT_EVERY = 5.0


@dataclass(frozen=True)
class Callbacks:
    """Functions that a run calls while it works.

    :param progress: called every ten seconds in its own thread, with a sentence about the current waits, or empty text.
    :param refused_event: called with the reason and the encoded event for each event that can't be delivered.
    :param refused_row: called with each malformed row that belongs to this interval.
    :param save: called with the state of the checkpoint, about every five seconds if it has changed.
    """

    progress: Callable[[str], None] = lambda waits: None
    refused_event: Callable[[str, bytes], None] = lambda reason, event: None
    refused_row: Callable[[Malformed], None] = lambda row: None
    save: Callable[[State], None] | None = None


class Pipeline:
    """Run over one interval, which delivers one event for each occurrence, or counts it as skipped or refused.

    :param result: filled while the pipeline runs.
    :param skip_unidentified: count events without an id of a person as skipped, not as refused.
    :param checkpoint: the windows that earlier tries have delivered; this one adds its own.
    """

    def __init__(
        self,
        source: Source,
        mapper: Mapper,
        sink: Sink,
        result: Result,
        *,
        skip_unidentified: bool = True,
        checkpoint: Checkpoint | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        self.result = result
        self._source = source
        self._mapper = mapper
        self._sink = sink
        self._skip_unidentified = skip_unidentified
        self._checkpoint = Checkpoint() if checkpoint is None else checkpoint
        self._callbacks = callbacks or Callbacks()
        self._connected = False
        self._pieces = 0  # that the sink has accepted
        self._unfinished: dict[Window, Tally] = {}
        self._finished: deque[tuple[int, Window, Tally]] = deque()  # number of a window's last piece, and the window
        self._checkpoint_due = time.monotonic() + CHECKPOINT_EVERY
        self._unsaved = self._flushed = False
        self._earlier = Counter(self._checkpoint.work)
        self._earlier["events"] = self._checkpoint.tally.events.total()
        result.resumed = bool(self._checkpoint)
        result.tally.add(self._checkpoint.tally)

    def run(self) -> Result:
        """Read, map and deliver at the same time, with a few requests in flight at both ends."""
        with ticking(self._progress), self._source, self._sink:
            self._connected = True
            for piece in self._source.pieces(self._checkpoint):
                self._deliver(piece)
                self._settle()
            self._sink.flush()
            self._settle()
            while self._sink.acknowledged < self._pieces:
                self._sink.wait()
                self._settle()
        self._count_work()
        return self.result

    def _deliver(self, piece: Piece) -> None:
        for row in piece.malformed:
            self.result.refuse("malformed", row.id, row.problem)
            self._callbacks.refused_row(row)
        tally = Tally(piece.read, Counter(), piece.skipped, piece.unknown)
        self._sink.take(self._events(piece, tally))
        self._pieces += 1
        self.result.tally.add(tally)
        if piece.window is not None:
            self._unfinished.setdefault(piece.window, Tally()).add(tally)
            if piece.last:
                self._finished.append((self._pieces, piece.window, self._unfinished.pop(piece.window)))

    def _events(self, piece: Piece, tally: Tally) -> Iterator[Event]:
        skip = self._skip_unidentified
        identified: list[Occurrence] = []
        for occurrence, event in zip(piece.occurrences, self._mapper.events(piece.occurrences), strict=True):
            if event.user_id or event.anonymous_id:
                identified.append(occurrence)
                yield event
            elif skip:
                tally.skipped["unidentified"] += 1
            else:
                self.result.refuse("unidentified", occurrence.message.id)
                self._callbacks.refused_event("unidentified", encode(event))
        tally.count(identified, self.result.counted)

    def _settle(self) -> None:
        """Count the events that the sink has refused, and save the windows that it has acknowledged."""
        for refused in self._sink.refused():
            event: dict[str, Any] = msgspec.json.decode(refused.event)
            self.result.tally.events[event["event"]] -= 1
            self.result.refuse(refused.reason, event["properties"]["delivery_id"], refused.explanation)
            self._callbacks.refused_event(refused.reason, refused.event)
        self._save_if_due()

    def _save_if_due(self) -> None:
        """Add completely acknowledged windows to the checkpoint, and save it if it is due.

        Stop saving after the first refusal, so that a retry meets the refused event again and reports it.
        """
        if self._callbacks.save is None or self.result.refused:
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
            self._callbacks.save(self._checkpoint.state(self.result.work))
        elif self._finished and not self._flushed:
            self._flushed = True
            self._sink.flush()  # a slowly filling batch must not delay the checkpoint

    def _progress(self) -> None:
        self._count_work()
        waits = [wait for wait in (self._source.waiting(), self._sink.waiting()) if wait]
        if not waits and not self._connected:
            waits = ["Connecting: the other side has not answered yet"]
        self._callbacks.progress("; ".join(waits))

    def _count_work(self) -> None:
        self.result.work = Counter(self._sink.counts()) + Counter(self._source.counts()) + self._earlier

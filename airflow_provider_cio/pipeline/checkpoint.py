"""Checkpoint of a run: the windows that earlier tries have delivered, and their counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from airflow_provider_cio.events.interval import Window
from airflow_provider_cio.pipeline.result import Tally

#: Version of the state's form. A state of another version is ignored.
VERSION = 2

State = dict[str, Any]


def fingerprint(*configuration: object) -> str:
    """Return a hash of every setting that decides which events are sent, from where and to where."""
    return hashlib.sha256(repr(configuration).encode()).hexdigest()[:32]


class Checkpoint:
    """Checkpoint of one interval and one configuration.

    :param fingerprint: hash of both.
    :param state: state that an earlier try saved. It is ignored if its fingerprint or version differs.
    """

    def __init__(self, fingerprint: str = "", state: object = None) -> None:
        self._fingerprint = fingerprint
        self._done: list[Window] = []
        #: Counts of the windows that are done.
        self.tally = Tally()
        #: Work of all tries so far: requests, batches, bytes.
        self.work: Counter[str] = Counter()
        if isinstance(state, dict) and (state.get("version"), state.get("fingerprint")) == (VERSION, fingerprint):
            self._done = [Window(*window) for window in state["done"]]
            self.tally = Tally.from_dict(state["tally"])
            self.work = Counter(state["work"])

    def __bool__(self) -> bool:
        return bool(self._done)

    def add(self, window: Window, tally: Tally) -> None:
        """Mark a window as done. Adjacent windows are merged, so that the state stays small."""
        merged: list[Window] = []
        for done in sorted([*self._done, window], key=lambda done: (done.channel, done.drafts, done.start)):
            last = merged[-1] if merged else None
            if last and (last.channel, last.drafts) == (done.channel, done.drafts) and done.start <= last.end:
                merged[-1] = last._replace(end=max(last.end, done.end))
            else:
                merged.append(done)
        self._done = merged
        self.tally.add(tally)

    def rest(self, windows: Iterable[Window]) -> list[Window]:
        """Return the parts of these windows that are not done."""
        return [piece for window in windows for piece in self._without_done(window)]

    def covers(self, window: Window, created: int) -> bool:
        """Return whether a delivery in the list of `window`, created at `created`, is in a window that is done."""
        return any(
            done.start <= created < done.end and (done.channel, done.drafts) == (window.channel, window.drafts)
            for done in self._done
        )

    def state(self, work: Mapping[str, int]) -> State:
        """Return the state to save, as plain JSON types.

        :param work: counts of all tries so far.
        """
        return {
            "version": VERSION,
            "fingerprint": self._fingerprint,
            "done": [list(window) for window in self._done],
            "tally": self.tally.as_dict(),
            "work": dict(work),
        }

    def _without_done(self, window: Window) -> Sequence[Window]:
        pieces = []
        for done in self._done:  # in order of start
            if (done.channel, done.drafts) == (window.channel, window.drafts) and done.start < window.end:
                if done.start > window.start:
                    pieces.append(window._replace(end=done.start))
                window = window._replace(start=max(window.start, min(done.end, window.end)))
        return [piece for piece in [*pieces, window] if piece.start < piece.end]

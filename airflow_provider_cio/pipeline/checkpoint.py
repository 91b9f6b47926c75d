"""Checkpoint of a run: the windows that earlier tries have delivered, and their counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from airflow_provider_cio.events.interval import LATEST_TIME, Window
from airflow_provider_cio.pipeline.result import Tally

#: Version of the state's form. A state of another version is ignored.
VERSION = 3

State = dict[str, Any]

_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
_Second = Annotated[int, msgspec.Meta(ge=0, lt=LATEST_TIME)]


class _Saved(msgspec.Struct):
    """Form of a saved state, to check each of its members."""

    version: int
    fingerprint: str
    done: list[tuple[str, _Second, _Second, bool]]
    tally: dict[str, dict[str, _Count]]
    work: dict[str, _Count]


def fingerprint(*configuration: object) -> str:
    """Return a hash of every setting that decides which events are sent, from where and to where."""
    return hashlib.sha256(repr(configuration).encode()).hexdigest()[:32]


class Checkpoint:
    """Checkpoint of one interval and one configuration.

    :param fingerprint: hash of both.
    :param state: state that an earlier try saved. It is ignored if its fingerprint or version differs, or if it is
        damaged.
    """

    def __init__(self, fingerprint: str = "", state: object = None) -> None:
        self._fingerprint = fingerprint
        self._done: list[Window] = []
        #: Counts of the windows that are done.
        self.tally = Tally()
        #: Work of all tries so far: requests, batches, bytes.
        self.work: Counter[str] = Counter()
        saved = _read(state)
        if saved and saved.fingerprint == fingerprint:
            self._done = _merged(Window(*window) for window in saved.done)
            self.tally = Tally.from_dict(saved.tally)
            self.work = Counter(saved.work)

    def __bool__(self) -> bool:
        return bool(self._done)

    def add(self, window: Window, tally: Tally) -> None:
        """Mark a window as done. Adjacent windows are merged, so that the state stays small."""
        self._done = _merged([*self._done, window])
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


def _read(state: object) -> _Saved | None:
    """Return a saved state; None if it is damaged or of another version."""
    try:
        saved = msgspec.convert(state, _Saved)
    except msgspec.ValidationError:
        return None
    fits = saved.version == VERSION and saved.tally.keys() == Tally().as_dict().keys()
    return saved if fits and all(start < end for _, start, end, _ in saved.done) else None


def _merged(windows: Iterable[Window]) -> list[Window]:
    """Return windows in order, adjacent and overlapping ones as one."""
    merged: list[Window] = []
    for window in sorted(windows, key=lambda one: (one.channel, one.drafts, one.start)):
        last = merged[-1] if merged else None
        if last and (last.channel, last.drafts) == (window.channel, window.drafts) and window.start <= last.end:
            merged[-1] = last._replace(end=max(last.end, window.end))
        else:
            merged.append(window)
    return merged

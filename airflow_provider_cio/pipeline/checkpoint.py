"""The checkpoint of a run: the windows whose events earlier tries have delivered, and their counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowRuntimeError

from airflow_provider_cio.events.interval import Window
from airflow_provider_cio.exceptions import TryAgainLaterError
from airflow_provider_cio.pipeline.result import Tally

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

#: Changes with the form of the state: one of another form is not used.
VERSION = 2

State = dict[str, Any]


def fingerprint(*configuration: object) -> str:
    """Hash every setting that decides which events are sent, from where and where to."""
    return hashlib.sha256(repr(configuration).encode()).hexdigest()[:32]


class Checkpoint:
    """The checkpoint of one interval and one configuration, which `fingerprint` stands for.

    :param state: the state that an earlier try saved; one of another fingerprint or form counts as none.
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
        """Add a window that is done. Windows that meet become one, so that the state stays small."""
        merged: list[Window] = []
        for one in sorted([*self._done, window], key=lambda one: (one.channel, one.drafts, one.start)):
            last = merged[-1] if merged else None
            if last and (last.channel, last.drafts) == (one.channel, one.drafts) and one.start <= last.end:
                merged[-1] = last._replace(end=max(last.end, one.end))
            else:
                merged.append(one)
        self._done = merged
        self.tally.add(tally)

    def rest(self, windows: Iterable[Window]) -> list[Window]:
        """Return the parts of these windows that are not done yet."""
        return [piece for window in windows for piece in self._without_done(window)]

    def covers(self, window: Window, created: int) -> bool:
        """Return whether a delivery of that window's list, created then, is in a window that is done."""
        return any(
            done.start <= created < done.end and (done.channel, done.drafts) == (window.channel, window.drafts)
            for done in self._done
        )

    def state(self, work: Mapping[str, int]) -> State:
        """Return the state to save, which is plain JSON.

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


#: Key in the task state store.
CHECKPOINT_KEY = "customerio_to_segment"


class CheckpointStore:
    """Checkpoints in Airflow's task state store, which Airflow has since 3.3.

    :param store: Airflow's store; None if there is none, and nothing is loaded or saved then.
    """

    def __init__(self, store: Any, log: Logger) -> None:
        self._store = store
        self._log = log

    def load(self, fingerprint: str) -> Checkpoint:
        """Load the checkpoint that earlier tries with this fingerprint have saved."""
        state = None
        if self._store:
            try:
                state = self._store.get(CHECKPOINT_KEY)
            except AirflowRuntimeError as error:
                self._log.warning("The checkpoint can't be read, so this try begins anew: %s", error)
        checkpoint = Checkpoint(fingerprint, state)
        if checkpoint:
            self._log.info("An earlier try has done part of this interval: this one does the rest. Counts are of both.")
        return checkpoint

    @property
    def save(self) -> Callable[[dict[str, Any]], None] | None:
        """Function that saves a state; None if nothing can be saved."""
        return self._save if self._store else None

    def forget(self) -> None:
        """Remove the checkpoint of a finished run; otherwise clearing the task would send nothing.

        :raises TryAgainLaterError: it can't be removed. A retry is short, because all is done.
        """
        if not self._store:
            return
        try:
            self._store.delete(CHECKPOINT_KEY)
        except AirflowRuntimeError as error:
            raise TryAgainLaterError(
                f"All events were delivered, but the checkpoint could not be removed: {error}. A retry removes it."
            ) from error

    def _save(self, state: dict[str, Any]) -> None:
        try:
            self._store.set(CHECKPOINT_KEY, state)
        except AirflowRuntimeError as error:  # Airflow's API is away: a retry would repeat more, no harm
            self._log.warning("The checkpoint could not be stored: %s", error)

"""What an earlier try of the same run has done: creation ranges whose events Segment has acknowledged. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from airflow_provider_cio.sources.windows import Window

State = dict[str, Any]  # {"fingerprint": text, "done": [[channel, drafts, start, end], ...]}, as it is stored


class Checkpoint:
    """Belongs to one interval and one configuration, which `fingerprint` stands for."""

    def __init__(self, fingerprint: str, state: object = None) -> None:
        self._fingerprint = fingerprint
        self._done: list[Window] = []
        if isinstance(state, dict) and state.get("fingerprint") == fingerprint:
            self._done = [Window(channel, start, end, drafts) for channel, drafts, start, end in state["done"]]

    def __bool__(self) -> bool:
        return bool(self._done)

    def add(self, windows: Iterable[Window]) -> None:
        """Windows that meet become one, so it stays as small as the work was orderly."""
        merged: list[Window] = []
        for window in sorted([*self._done, *windows], key=lambda window: (window.channel, window.drafts, window.start)):
            last = merged[-1] if merged else None
            if last and (last.channel, last.drafts) == (window.channel, window.drafts) and window.start <= last.end:
                merged[-1] = last._replace(end=max(last.end, window.end))
            else:
                merged.append(window)
        self._done = merged

    def rest(self, windows: Sequence[Window]) -> list[Window]:
        """What of these windows is not done yet."""
        return [piece for window in windows for piece in self._without_done(window)]

    def _without_done(self, window: Window) -> list[Window]:
        pieces = []
        for done in self._done:  # in order of start
            if (done.channel, done.drafts) == (window.channel, window.drafts) and done.start < window.end:
                if done.start > window.start:
                    pieces.append(window._replace(end=done.start))
                window = window._replace(start=max(window.start, min(done.end, window.end)))
        return [piece for piece in [*pieces, window] if piece.start < piece.end]

    def state(self) -> State:
        """Plain JSON."""
        done = [[window.channel, window.drafts, window.start, window.end] for window in self._done]
        return {"fingerprint": self._fingerprint, "done": done}

"""Deliver nothing: check each event, and show the first of each collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Self

from airflow_provider_cio.events.event import Event, Refused, encode, rule_broken


class PreviewSink:
    """Checks what it is given.

    :param sample: gets the first event of each collection that could be sent, encoded.
    :param rule: names the rule that an event breaks, if any.
    """

    def __init__(
        self, sample: Callable[[bytes], None], rule: Callable[[Event, bytes], str | None] = rule_broken
    ) -> None:
        self.acknowledged = 0
        self._sample = sample
        self._rule = rule
        self._shown: set[str] = set()
        self._refused: list[Refused] = []

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            encoded = encode(event)
            if reason := self._rule(event, encoded):
                self._refused.append(Refused(reason, encoded))
            elif event.event not in self._shown:
                self._shown.add(event.event)
                self._sample(encoded)
        self.acknowledged += 1

    def flush(self) -> None:
        pass

    def wait(self) -> None:
        pass

    def refused(self) -> Sequence[Refused]:
        refused, self._refused = self._refused, []
        return refused

    def counts(self) -> dict[str, int]:
        return {"events": 0, "batches": 0, "bytes": 0}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

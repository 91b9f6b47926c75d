"""Sink of a preview: it checks each event, shows the first one of each collection, and delivers none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import msgspec

from airflow_provider_cio.events.event import Event, Refused, encode
from airflow_provider_cio.events.privacy import masked
from airflow_provider_cio.http.errors import safe_text
from airflow_provider_cio.pipeline.ends import Sink

#: Keys of an event that a sample has.
_OF_A_SAMPLE = ("event", "timestamp", "userId", "anonymousId", "properties")


def sample_of(event: bytes) -> dict[str, Any]:
    """Return a short sample of an encoded event for the log, with personal data masked."""
    whole = masked(msgspec.json.decode(event))
    sample: dict[str, Any] = {key: whole[key] for key in _OF_A_SAMPLE if key in whole}
    if name := sample["properties"].get("campaign_name"):
        sample["properties"]["campaign_name"] = safe_text(name)
    return sample


class PreviewSink:
    """Sink that applies the checks of another one, and delivers nothing.

    :param sink: the sink that would deliver. It is never entered.
    :param sample: called with the first deliverable event of each collection, encoded.
    """

    def __init__(self, sink: Sink, sample: Callable[[bytes], None]) -> None:
        self.acknowledged = 0
        self._sink = sink
        self._sample = sample
        self._shown: set[str] = set()
        self._refused: list[Refused] = []

    def rule_broken(self, event: Event, encoded: bytes) -> str | None:
        return self._sink.rule_broken(event, encoded)

    def check(self) -> None:
        self._sink.check()

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            encoded = encode(event)
            if reason := self.rule_broken(event, encoded):
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
        return {}

    def waiting(self) -> str | None:
        return self._sink.waiting()

    def __enter__(self) -> Self:
        self.check()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        pass

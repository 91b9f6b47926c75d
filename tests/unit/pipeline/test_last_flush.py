"""Check a sink that delivers or refuses everything at its last flush."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import msgspec
import pytest

from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.events.event import Event, Refused, encode
from airflow_provider_cio.events.interval import Interval, Window
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.events.occurrence import Occurrence, Piece
from airflow_provider_cio.pipeline.checkpoint import Checkpoint
from airflow_provider_cio.pipeline.pipeline import Callbacks, Pipeline
from airflow_provider_cio.pipeline.result import Result, Tally

START = 1_793_491_200
MINUTE = Interval(START, START + 60)
WINDOWS = [Window("email", START + n, START + n + 1) for n in range(3)]


class Ends:
    """Both ends of a pipeline: a source of one open in each window, and a sink that delivers nothing before a flush."""

    def __init__(self, refuses: str = "") -> None:
        self.acknowledged = self._taken = 0
        self._refuses = refuses
        self._waiting: list[bytes] = []
        self._refused: list[Refused] = []

    def pieces(self, done: Checkpoint) -> Iterator[Piece]:
        for number, window in enumerate(WINDOWS):
            row: dict[str, Any] = {"id": f"d{number}", "type": "email", "created": window.start, "customer_id": "1"}
            row["metrics"] = {"opened": START + 5}
            opened = Occurrence(msgspec.convert(row, Delivery), CATALOG["Email Opened"], START + 5)
            yield Piece([opened], window=window, last=True)

    def take(self, events: Iterable[Event]) -> None:
        self._waiting += map(encode, events)
        self._taken += 1

    def flush(self) -> None:
        bad = [one for one in self._waiting if self._refuses and self._refuses.encode() in one]
        self._refused += [Refused("refused_400", one) for one in bad]
        self._waiting.clear()
        self.acknowledged = self._taken

    def wait(self) -> None:
        raise AssertionError("nothing is left to wait for")

    def refused(self) -> Sequence[Refused]:
        refused, self._refused = self._refused, []
        return refused

    def rule_broken(self, event: Event, encoded: bytes) -> str | None:
        return None

    def check(self) -> None:
        pass

    def counts(self) -> dict[str, int]:
        return {}

    def waiting(self) -> str | None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def run(ends: Ends, callbacks: Callbacks) -> Result:
    result = Result(MINUTE, Tally(events=Counter({"Email Opened": 0})))
    return Pipeline(ends, Mapper("test"), ends, result, callbacks=callbacks).run()


def test_what_the_last_flush_refuses_is_counted() -> None:
    given: list[str] = []
    result = run(Ends(refuses='"d1"'), Callbacks(refused_event=lambda reason, event: given.append(reason)))
    assert given == ["refused_400"]
    assert result.refused_ids == {"refused_400": ["d1"]}
    assert result.events == {"Email Opened": 2}


def test_what_the_last_flush_delivers_is_in_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint prevents that a failure while the task ends sends everything again."""

    class Late(Ends):
        def flush(self) -> None:
            super().flush()
            monkeypatch.setattr(run_pipeline, "_checkpoint_due", 0.0)

    states: list[dict[str, Any]] = []
    ends = Late()
    result = Result(MINUTE, Tally(events=Counter({"Email Opened": 0})))
    run_pipeline = Pipeline(ends, Mapper("test"), ends, result, callbacks=Callbacks(save=states.append))
    run_pipeline.run()
    assert states
    assert Checkpoint("", states[-1]).rest(WINDOWS) == []

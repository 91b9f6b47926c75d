"""Counts of a run's events by age: how long after the creation of its message each one happened. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self

from airflow_provider_cio.events.interval import Ages
from airflow_provider_cio.events.occurrence import Occurrence
from airflow_provider_cio.values import span_in_words

_HOUR, _DAY = 3600, 86_400
#: Key of the result -> seconds up to which, and not including, an event counts under it.
_UP_TO = {
    "1h": _HOUR,
    "1d": _DAY,
    "2d": 2 * _DAY,
    "7d": 7 * _DAY,
    "30d": 30 * _DAY,
    "90d": 90 * _DAY,
    "180d": 180 * _DAY,
}
#: Seconds. A look-back can't be longer.
_LONGEST = _UP_TO["180d"]
#: Key of older events: opens and clicks that are activities have any age.
_OLDER = "older"
#: Key of events whose message Customer.io does not show any more.
_UNKNOWN = "unknown"
#: Key of events in the last tenth of the look-back, which are under another key, too. The result does not show it.
_LAST_TENTH = "last tenth"
#: Share of a collection's events that the last tenth of the look-back must exceed to be worth a line in the log.
_WORTH_A_LINE = 0.01
#: Between collection and key in a checkpoint. No name of a collection contains it.
_BETWEEN = ": "


@dataclass
class AgeCounts:
    """Number of events by collection and key of their age."""

    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def count(self, name: str, occurrences: Sequence[Occurrence], wanted: Ages) -> None:
        """Count each of these occurrences of one collection under its age.

        :param wanted: ages that count in this run.
        """
        found = sorted([one.time - created for one in occurrences if (created := one.message.created) is not None])
        younger = 0
        for key, most in _UP_TO.items():
            up_to = bisect_left(found, most)
            self._counts[name, key] += up_to - younger
            younger = up_to
        self._counts[name, _OLDER] += len(found) - younger
        self._counts[name, _UNKNOWN] += len(occurrences) - len(found)
        late = bisect_left(found, wanted.lookback) - bisect_left(found, _last_tenth(wanted))
        self._counts[name, _LAST_TENTH] += late

    def add(self, other: AgeCounts) -> None:
        """Add the counts of other windows or tries."""
        self._counts.update(other._counts)

    def as_dict(self) -> dict[str, int]:
        """Return the counts that are not zero as plain JSON, for a checkpoint."""
        return {f"{name}{_BETWEEN}{key}": number for (name, key), number in self._counts.items() if number}

    @classmethod
    def from_dict(cls, counts: Mapping[str, int]) -> Self:
        """Read the dictionary that `as_dict` made."""
        ages = cls()
        for text, number in counts.items():
            name, _, key = text.partition(_BETWEEN)
            ages._counts[name, key] = number
        return ages

    def by_collection(self) -> dict[str, dict[str, int]]:
        """Return the counts that are not zero for the result, the least age first."""
        names = dict.fromkeys(name for name, _ in self._counts)
        found = {
            name: {key: number for key in (*_UP_TO, _OLDER, _UNKNOWN) if (number := self._counts[name, key])}
            for name in names
        }
        return {name: numbers for name, numbers in found.items() if numbers}

    def late(self, wanted: Ages, of_any_age: Container[str]) -> str | None:
        """Return a sentence about the collections of which a longer look-back may find more; None if there are none.

        :param wanted: ages that count in this run.
        :param of_any_age: collections that the look-back does not limit.
        """
        if wanted.lookback >= _LONGEST:
            return None
        shares = {
            name: self._counts[name, _LAST_TENTH] / sum(numbers.values())
            for name, numbers in self.by_collection().items()
            if name not in of_any_age
        }
        late = [f"{100 * share:.3g} % of {name}" for name, share in shares.items() if share > _WORTH_A_LINE]
        if not late:
            return None
        first, last = (span_in_words(timedelta(seconds=age)) for age in (_last_tenth(wanted), wanted.lookback))
        return (
            f"{', '.join(late)} were {first} to {last} old: a longer lookback, or a DAG with older_than, may find more"
        )


def _last_tenth(wanted: Ages) -> int:
    """Return the age at which the last tenth of the look-back begins, as far as the run sends it."""
    return max(wanted.older_than, wanted.lookback - wanted.lookback // 10)

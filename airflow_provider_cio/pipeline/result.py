"""Result of a run: its counts, for the log and for XCom. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from airflow_provider_cio.events.interval import Ages, Interval, iso
from airflow_provider_cio.events.occurrence import MOST_NAMED, Occurrence
from airflow_provider_cio.http.errors import safe_text
from airflow_provider_cio.pipeline.ages import AgeCounts

#: Delivery ids that an error names for each reason, so that it stays short.
_NAMED_IDS = 5
#: Counts of the source that the result shows under ``"read"`` unless they are zero.
_READING = ("retried", "rate_limited", "out_of_order", "cut_short")


@dataclass
class Tally:
    """Counts of rows read, by kind; of events, by collection and age; of rows and metrics skipped, by reason.

    :param unknown: names of up to five metrics that belong to no collection, for the log of this try only.
    """

    read: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    unknown: set[str] = field(default_factory=set)
    ages: AgeCounts = field(default_factory=AgeCounts)

    def count(self, occurrences: Iterable[Occurrence], wanted: Ages) -> None:
        """Count each of these occurrences as an event of its collection and age.

        :param wanted: ages that count in this run.
        """
        found: defaultdict[str, list[Occurrence]] = defaultdict(list)
        for one in occurrences:
            found[one.collection.name].append(one)
        for name, ones in found.items():
            self.events[name] += len(ones)
            self.ages.count(name, ones, wanted)

    def add(self, other: Tally) -> None:
        """Add the counts of another tally, and some of its names."""
        self.read.update(other.read)
        self.events.update(other.events)
        self.skipped.update(other.skipped)
        self.unknown = set(sorted(self.unknown | other.unknown)[:MOST_NAMED])
        self.ages.add(other.ages)

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Return the counts as plain JSON."""
        counts = {"read": dict(self.read), "events": dict(self.events), "skipped": dict(self.skipped)}
        return counts | {"ages": self.ages.as_dict()}

    @classmethod
    def from_dict(cls, counts: Mapping[str, Mapping[str, int]]) -> Self:
        """Read the dictionary that `as_dict` made."""
        read, events, skipped = (Counter(counts[key]) for key in ("read", "events", "skipped"))
        return cls(read, events, skipped, ages=AgeCounts.from_dict(counts["ages"]))

    @classmethod
    def of(cls, collections: Iterable[str]) -> Self:
        """Return a tally in which each collection has no event yet."""
        return cls(events=Counter(dict.fromkeys(collections, 0)))


class Wording(NamedTuple):
    """Words for the events of a run.

    :param done: past participle, and key of the result.
    :param counts: counts of the sink that the result shows under that key.
    :param counts_if_any: further counts, which the result shows if they are not zero.
    """

    done: str
    counts: tuple[str, ...]
    counts_if_any: tuple[str, ...] = ()


SENT = Wording("sent", ("events", "batches", "bytes"))
LOADED = Wording("loaded", ("events", "new"), ("null_ids",))


@dataclass
class Result:
    """Counts of a run, over all its tries.

    :param work: counts of both ends: ``requests``, ``retried``, ``rate_limited``; ``batches``, ``bytes``.
    :param refused: for each reason, the number of events or rows that could not be delivered.
    :param refused_ids: for each reason, the ids of the first deliveries or malformed rows.
    :param explanations: for each reason, the explanation of the first refusal that had one.
    :param fell_back_to: mode of opens and clicks, if activities do not reach back as far as the one asked for.
    :param counted: ages that count in this run.
    :param of_any_age: collections that they do not limit.
    :param found: what a preview has found out about the service.
    """

    interval: Interval
    tally: Tally
    work: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    refused_ids: dict[str, list[str]] = field(default_factory=dict)
    explanations: dict[str, str] = field(default_factory=dict)
    resumed: bool = False
    fell_back_to: str | None = None
    wording: Wording = SENT
    counted: Ages = field(default_factory=lambda: Ages(0))
    of_any_age: Container[str] = ()
    found: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def events(self) -> Counter[str]:
        """Events by collection, those under way included."""
        return self.tally.events

    @property
    def skipped(self) -> Counter[str]:
        """Rows and metrics that made no event, by reason."""
        return self.tally.skipped

    def refuse(self, reason: str, delivery_id: str | None, explanation: str = "") -> None:
        """Count one event or row that can't be delivered."""
        self.refused[reason] += 1
        ids = self.refused_ids.setdefault(reason, [])
        name = safe_text(delivery_id) if delivery_id else "without an id"
        if len(ids) < _NAMED_IDS and name not in ids:
            ids.append(name)
        if explanation:
            self.explanations.setdefault(reason, explanation)

    def refusals(self) -> str:
        """Return one sentence, such as ``event_too_large: 2 (first ids: a, b); malformed: 1 (first ids: c): ...``."""
        return "; ".join(map(self._refusal, self.refused)) + "."

    def _refusal(self, reason: str) -> str:
        counted = f"{reason}: {self.refused[reason]} (first ids: {', '.join(self.refused_ids[reason])})"
        explanation = self.explanations.get(reason, "").rstrip(".")
        return f"{counted}: {explanation}" if explanation else counted

    def as_dict(self) -> dict[str, Any]:
        """Return the result for XCom, as small, plain JSON."""
        read = {"requests": self.work["requests"], "deliveries": self.tally.read["deliveries"]}
        optional = Counter(self.tally.read)
        del optional["deliveries"]
        optional.update({key: self.work[key] for key in _READING if self.work[key]})
        result: dict[str, Any] = {
            "interval": {"start": iso(self.interval.start), "end": iso(self.interval.end)},
            "read": read | {key: count for key, count in optional.items() if count},
            "events": dict(self.tally.events),
            self.wording.done: {count: self.work[count] for count in self.wording.counts}
            | {count: self.work[count] for count in self.wording.counts_if_any if self.work[count]},
            "skipped": dict(self.tally.skipped),
            "ages": self.tally.ages.by_collection(),
        }
        if self.resumed:
            result["resumed"] = True
        if self.fell_back_to:
            result["opens_and_clicks"] = self.fell_back_to
        return result

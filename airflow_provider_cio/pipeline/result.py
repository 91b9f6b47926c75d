"""What a run did: its counts, for the log and for XCom. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from airflow_provider_cio.events.interval import Interval, iso
from airflow_provider_cio.pipeline.checkpoint import Tally

#: Delivery ids that an error names for each reason.
_NAMED_IDS = 5
#: Counts of the work that the result shows with those of reading, where they are not zero.
_OF_READING = ("retried", "rate_limited", "out_of_order", "cut_short")


class Delivered(NamedTuple):
    """How a run says what became of its events.

    :param word: past participle, and key of the result.
    :param counts: the sink's, as the result shows them.
    :param progress: of the log's lines, with these counts in braces.
    """

    word: str
    counts: tuple[str, ...]
    progress: str


SENT = Delivered("sent", ("events", "batches", "bytes"), "{events} events sent in {batches} batches")


@dataclass
class Report:
    """Counts of all tries of a run, as far as they are known.

    :param work: what was asked and sent: ``requests``, ``retried``, ``rate_limited``; ``batches``, ``bytes``.
    :param refused: for each reason, how many events or rows could not be delivered.
    :param refused_ids: for each reason, the first of their ids: of deliveries, or of odd activities.
    :param fell_back: first opens and clicks were read, as activities do not reach back that far.
    :param said: for each reason, what is wrong with the first one, if that is known.
    """

    interval: Interval
    tally: Tally
    work: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    refused_ids: dict[str, list[str]] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    resumed: bool = False
    fell_back: bool = False
    delivered: Delivered = SENT

    @property
    def events(self) -> Counter[str]:
        """By collection; those that are under way, too."""
        return self.tally.events

    @property
    def skipped(self) -> Counter[str]:
        """By reason."""
        return self.tally.skipped

    def refuse(self, reason: str, delivery_id: str | None, said: str = "") -> None:
        self.refused[reason] += 1
        ids = self.refused_ids.setdefault(reason, [])
        if len(ids) < _NAMED_IDS:
            ids.append(delivery_id or "without an id")
        if said:
            self.said.setdefault(reason, said)

    def refusals(self) -> str:
        """E.g. ``event_too_large: 2 (first ids: a, b); malformed: 1 (first ids: c): ...``: what is wrong with c."""
        return "; ".join(map(self._refusal, self.refused)) + "."

    def _refusal(self, reason: str) -> str:
        counted = f"{reason}: {self.refused[reason]} (first ids: {', '.join(self.refused_ids[reason])})"
        said = self.said.get(reason, "").rstrip(".")
        return f"{counted}: {said}" if said else counted

    def as_dict(self) -> dict[str, Any]:
        """Plain and small."""
        read = {"requests": self.work["requests"], "deliveries": self.tally.read["deliveries"]}
        optional = Counter(self.tally.read)
        del optional["deliveries"]
        optional.update({key: self.work[key] for key in _OF_READING if self.work[key]})
        result: dict[str, Any] = {
            "interval": {"start": iso(self.interval.start), "end": iso(self.interval.end)},
            "read": read | {key: count for key, count in optional.items() if count},
            "events": dict(self.tally.events),
            self.delivered.word: {count: self.work[count] for count in self.delivered.counts},
            "skipped": dict(self.tally.skipped),
        }
        if self.resumed:
            result["resumed"] = True
        if self.fell_back:
            result["opens_and_clicks"] = "first"
        return result

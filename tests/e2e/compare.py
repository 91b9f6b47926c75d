"""What Customer.io held against what Segment kept, event by event."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.e2e.world import TASK_ID, Run, World

# Spelled out here, not taken from the package: these six are what the operator promises by default.
COLLECTIONS = (
    "Email Delivered",
    "Email Opened",
    "Email Link Clicked",
    "Email Unsubscribed",
    "Email Bounced",
    "Email Marked as Spam",
)
TOLERANCE = 2.0  # seconds; Segment corrects each timestamp by the sender's clock, so a little is lost

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Count:
    """One collection on one day."""

    day: str
    collection: str
    held: int
    unidentified: int
    kept: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The counts, and every difference in words; none means both sides hold the same."""

    counts: Sequence[Count]
    differences: Sequence[str]
    segment: Row

    @property
    def kept(self) -> int:
        """How many events Segment kept."""
        return sum(count.kept for count in self.counts)

    def lines(self) -> list[str]:
        """A table for people."""
        form = "{:<12}{:<22}{:>17}{:>19}{:>15}"
        lines = [form.format("day", "collection", "Customer.io held", "of it unidentified", "Segment kept")]
        lines += [
            form.format(count.day, count.collection, f"{count.held:,}", f"{count.unidentified:,}", f"{count.kept:,}")
            for count in self.counts
        ]
        sums = [sum(column) for column in zip(*((c.held, c.unidentified, c.kept) for c in self.counts), strict=True)]
        lines.append(form.format("all", "", *(f"{total:,}" for total in sums)))
        lines.append(
            "Segment received {received:,} events in {requests:,} requests, kept {kept:,}, "
            "dropped {0:,}, and had {duplicates:,} already.".format(
                sum(self.segment["dropped"].values()), **self.segment
            )
        )
        return lines


def compare_world(world: World, runs: Sequence[Run], from_date: str, to_date: str) -> Comparison:
    """
    Ask both sides of the sandbox, and the tasks' XComs for what they say they skipped.

    :param to_date: the last day, inclusive, as in a backfill.
    """
    days = list(dates(from_date, to_date))
    truth = world.sandbox("truth", start=moment(days[0]), end=moment(days[-1]) + 86_400)["events"]
    segment = world.sandbox("segment", events=1)
    kept = segment.pop("events")
    wanted = [row for row in truth if row["collection"] in COLLECTIONS]
    found = []
    for run in runs:
        if run.state != "success":
            found.append(f"run of {run.day}: {run.state}")
            continue
        held = sum(unidentified(row) for row in wanted if day_of(row["time"]) == run.day)
        told = world.xcom(run, TASK_ID)["skipped"].get("unidentified", 0)
        if told != held:
            found.append(f"run of {run.day}: says it skipped {told} unidentified, Customer.io held {held}")
    for what in ("duplicates", "dropped"):
        if segment[what]:
            found.append(f"Segment: {what} {segment[what]}")
    found += differences(wanted, kept)
    return Comparison(counts=count(days, wanted, kept), differences=found, segment=segment)


def differences(truth: Iterable[Row], kept: Iterable[Row]) -> list[str]:
    """Every way in which the kept events are not the identified rows of the truth, each of them once."""
    wanted = {(row["collection"], row["delivery_id"]): row for row in truth}
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for event in kept:
        key = (event["event"], event["properties"]["delivery_id"])
        name = f"{key[0]} of delivery {key[1]}"
        seen[key] += 1
        row = wanted.get(key)
        if row is None or unidentified(row):
            found.append(f"{name}: kept, but nothing to send was held")
            continue
        if seen[key] == 2:
            found.append(f"{name}: kept more than once")
        if abs(seconds(event["timestamp"]) - row["time"]) > TOLERANCE:
            found.append(f"{name}: kept with time {event['timestamp']}, held {iso(row['time'])}")
        pairs = {
            "userId": (event.get("userId"), row["user_id"]),
            "anonymousId": (event.get("anonymousId"), row["anonymous_id"]),
            "subject": (event["properties"].get("subject"), row["subject"]),
            "recipient": (event["properties"].get("recipient"), row["recipient"]),
        }
        found.extend(f"{name}: kept with another {field}" for field, (a, b) in pairs.items() if (a or b) and a != b)
    found.extend(
        f"{collection} of delivery {delivery_id}: held, but not kept"
        for (collection, delivery_id), row in wanted.items()
        if not unidentified(row) and (collection, delivery_id) not in seen
    )
    return found


def count(days: Iterable[str], truth: Iterable[Row], kept: Iterable[Row]) -> list[Count]:
    """The numbers by day and collection, whatever the days of the events are worth."""
    held = Counter((day_of(row["time"]), row["collection"], unidentified(row)) for row in truth)
    got = Counter((day_of(seconds(event["timestamp"])), event["event"]) for event in kept)
    return [
        Count(
            day=day,
            collection=name,
            held=held[day, name, True] + held[day, name, False],
            unidentified=held[day, name, True],
            kept=got[day, name],
        )
        for day in days
        for name in COLLECTIONS
    ]


def unidentified(row: Row) -> bool:
    """Nobody can be named for this occurrence, so it can't be sent."""
    return not (row["user_id"] or row["anonymous_id"])


def dates(first: str, last: str) -> Iterable[str]:
    """All dates from the first to the last, both inclusive."""
    day = datetime.fromisoformat(first)
    while day <= datetime.fromisoformat(last):
        yield day.date().isoformat()
        day += timedelta(days=1)


def moment(day: str) -> int:
    """The Unix time at which this UTC date begins."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())


def seconds(timestamp: str) -> float:
    """The Unix time of an ISO 8601 timestamp."""
    return datetime.fromisoformat(timestamp).timestamp()


def iso(time: float) -> str:
    """The other way round."""
    return datetime.fromtimestamp(time, UTC).isoformat()


def day_of(time: float) -> str:
    """The UTC date of a Unix time."""
    return iso(time)[:10]

"""Compare Customer.io's deliveries with Segment's events."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.e2e.airflow import TASK_ID, Run
from tests.e2e.world import World

# Spelled out here, not taken from the package: these six are what the operator promises by default.
COLLECTIONS = (
    "Email Delivered",
    "Email Opened",
    "Email Link Clicked",
    "Email Unsubscribed",
    "Email Bounced",
    "Email Marked as Spam",
)
# Seconds. Segment adds to each timestamp how long its request was under way, and a busy machine takes its time.
UNDER_WAY = 30.0

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Count:
    """Counts of one collection on one day."""

    day: str
    collection: str
    held: int
    unidentified: int
    kept: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Counts and differences. No difference means that both sides hold the same."""

    counts: Sequence[Count]
    differences: Sequence[str]
    segment: Row

    @property
    def kept(self) -> int:
        """Number of events that Segment kept."""
        return sum(count.kept for count in self.counts)

    def lines(self) -> list[str]:
        """Format the counts as a table."""
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


def compare_world(
    world: World, runs: Sequence[Run], from_date: str, to_date: str, *, interrupted: Collection[str] = ()
) -> Comparison:
    """Read both sides of the sandbox and the skipped events from the tasks' XComs, and compare them.

    :param to_date: the last day, inclusive, as in a backfill.
    :param interrupted: days whose run had another try: Segment may have got their events again, and kept them once.
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
    days_held = {(row["collection"], row["delivery_id"]): day_of(row["time"]) for row in wanted}
    repeated = Counter(days_held.get(key_of(event)) for event in segment.pop("repeated"))
    found += [f"Segment: got {n} events of {day} again" for day, n in repeated.items() if day not in interrupted]
    if segment["dropped"]:
        found.append(f"Segment: dropped {segment['dropped']}")
    found += differences(wanted, kept)
    return Comparison(counts=count(days, wanted, kept), differences=found, segment=segment)


def differences(truth: Iterable[Row], kept: Iterable[Row]) -> list[str]:
    """Describe each difference between the kept events and the identified rows of the truth, one event for each."""
    wanted = {(row["collection"], row["delivery_id"]): row for row in truth}
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for event in kept:
        key = key_of(event)
        name = f"{key[0]} of delivery {key[1]}"
        seen[key] += 1
        row = wanted.get(key)
        if row is None or unidentified(row):
            found.append(f"{name}: kept, but nothing to send was held")
            continue
        if seen[key] == 2:
            found.append(f"{name}: kept more than once")
        told, corrected = told_time(event), seconds(event["timestamp"])
        if told != row["time"] or abs(corrected - told) > UNDER_WAY:
            found.append(f"{name}: told with time {iso(told)}, kept with {iso(corrected)}, held {iso(row['time'])}")
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
    """Count by day and collection; a day without events counts, too."""
    held = Counter((day_of(row["time"]), row["collection"], unidentified(row)) for row in truth)
    got = Counter((day_of(told_time(event)), event["event"]) for event in kept)
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


def key_of(event: Row) -> tuple[str, str]:
    """Return a key that tells an event from all others, if only the first open and click are sent."""
    return event["event"], event["properties"]["delivery_id"]


def told_time(event: Row) -> float:
    """Return the time that Segment was sent, before its own correction; a warehouse has no other."""
    return seconds(event.get("originalTimestamp", event["timestamp"]))


def unidentified(row: Row) -> bool:
    """Return whether the occurrence has no id of a person, so that it can't be sent."""
    return not (row["user_id"] or row["anonymous_id"])


def dates(first: str, last: str) -> Iterable[str]:
    """Return all dates from the first to the last, both inclusive."""
    day = datetime.fromisoformat(first)
    while day <= datetime.fromisoformat(last):
        yield day.date().isoformat()
        day += timedelta(days=1)


def moment(day: str) -> int:
    """Return the Unix time at which this UTC date begins."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())


def seconds(timestamp: str) -> float:
    """Return the Unix time of an ISO 8601 timestamp."""
    return datetime.fromisoformat(timestamp).timestamp()


def iso(time: float) -> str:
    """Return the ISO 8601 timestamp of a Unix time."""
    return datetime.fromtimestamp(time, UTC).isoformat()


def day_of(time: float) -> str:
    """Return the UTC date of a Unix time."""
    return iso(time)[:10]

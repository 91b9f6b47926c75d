"""Backfill three weeks of the example DAG with a gap, a failure and refused events, for the picture."""

from collections import defaultdict

from tests.e2e.airflow import Run
from tests.e2e.compare import COLLECTIONS, seconds
from tests.e2e.world import DAG_ID, World

FIRST, LAST = "2026-11-02", "2026-11-22"
FAILED, REFUSED = "2026-11-07", "2026-11-08"
SANDBOX = ("--seed", "8", "--deliveries", "12000", "--start", "2026-10-25", "--days", "29")


def fill(world: World, last: str = LAST) -> list[Run]:
    """Backfill from the first day to this one.

    No run is made for the gap. On one day the App API key is wrong, and Segment refuses an event of another one.
    """
    world.sandbox("settings", post={"refuse_containing": delivery_of(world, REFUSED)})
    key = world.connections["customerio_default"]["password"]
    runs = world.backfill(DAG_ID, FIRST, "2026-11-03")
    runs += world.backfill(DAG_ID, "2026-11-06", "2026-11-06")
    world.sandbox("settings", post={"app_key": "the key of another workspace"})
    runs += world.backfill(DAG_ID, FAILED, FAILED)
    world.sandbox("settings", post={"app_key": key})
    return runs + world.backfill(DAG_ID, REFUSED, last, timeout=900)


def delivery_of(world: World, day: str) -> str:
    """Return a delivery with an event on this day only."""
    start = int(seconds(f"{day}T00:00:00Z"))
    days: dict[str, set[bool]] = defaultdict(set)
    week = {"start": start - 86_400 * 20, "end": start + 86_400 * 20}
    for row in world.sandbox("truth", **week)["events"]:
        if row["user_id"] and row["collection"] in COLLECTIONS:
            days[row["delivery_id"]].add(start <= row["time"] < start + 86_400)
    return min(delivery for delivery, on_the_day in days.items() if on_the_day == {True})

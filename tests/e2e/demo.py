"""`make demo`: three days of the example DAGs in a real Airflow, to Segment and into a DuckDB file, then all sides
compared event by event, and two questions to the file answered."""

import tempfile
from pathlib import Path

from tests.e2e.airflow import Run
from tests.e2e.compare import Comparison, compare_world, dates
from tests.e2e.processes import command
from tests.e2e.tables import answer, compare_tables, put_orders
from tests.e2e.world import DAG_ID, World

WAREHOUSE_DAG_ID = "customerio_to_warehouse"

FIRST, LAST = "2026-11-05", "2026-11-07"
# It begins before the backfill, so that much of what happens in it happens to older deliveries.
SANDBOX = (
    *("--seed", "8", "--deliveries", "6000", "--start", "2026-10-30", "--days", "12"),
    *("--latency", "0.1", "--requests-per-second", "10", "--retry-after", "seconds"),
)


def say(line: str = "") -> None:
    """Print at once, also into a pipe."""
    print(line, flush=True)


def backfill(world: World) -> tuple[list[Run], Comparison]:
    """Backfill the demo's days, and compare the two sides."""
    runs = world.backfill(DAG_ID, FIRST, LAST)
    return runs, compare_world(world, runs, FIRST, LAST)


def show_failures(world: World, runs: list[Run]) -> None:
    """Print the logs of what failed."""
    for run in runs:
        if run.state != "success":
            say(world.logs(run))


def report(world: World, runs: list[Run], comparison: Comparison) -> int:
    """Print the result; return the exit code."""
    show_failures(world, runs)
    say()
    for line in comparison.lines():
        say(line)
    say()
    if comparison.differences:
        for line in comparison.differences[:20]:
            say(f"  {line}")
        say(f"THEY DIFFER in {len(comparison.differences):,} ways, the first of them above.")
        return 1
    say(
        f"THE SAME: Segment kept all {comparison.kept:,} events that Customer.io could name a person for, "
        "each once, with its own time and person. The rest was skipped and counted."
    )
    return 0


def load(world: World, file: Path) -> list[Run]:
    """Backfill the same days into the DuckDB file."""
    say()
    world.api("connections", post={"connection_id": "warehouse_default", "conn_type": "duckdb", "host": str(file)})
    return world.backfill(WAREHOUSE_DAG_ID, FIRST, LAST)


def report_tables(world: World, runs: list[Run], file: Path) -> int:
    """Print the rows of the file, and two answers; return the exit code."""
    show_failures(world, runs)
    if any(run.state != "success" for run in runs):
        return 1
    say()
    count, found = compare_tables(world, file, list(dates(FIRST, LAST)))
    if found:
        for line in found[:20]:
            say(f"  {line}")
        say(f"THE TABLES DIFFER in {len(found):,} ways, the first of them above.")
        return 1
    say(f"THE SAME: the DuckDB file holds these events too, {count:,} rows in six tables, and all of them in tracks.")
    for question, name in (
        ("How far did the deliveries of each campaign come?", "funnel by campaign"),
        (f"What was ordered within a day of a click? ({put_orders(file)} orders, made up)", "orders after a click"),
    ):
        say()
        say(question)
        say()
        for line in answer(file, name):
            say(f"    {line}")
    return 0


def main() -> int:
    """Run the whole demo."""
    say("Starting a sandbox of Customer.io and Segment, and a real Airflow ...")
    with tempfile.TemporaryDirectory(prefix="customerio-warehouse-") as folder:
        file = Path(folder) / "warehouse.duckdb"
        with World(sandbox_args=SANDBOX, say=say) as world:
            sent = report(world, *backfill(world))
            return report_tables(world, load(world, file), file) or sent


if __name__ == "__main__":
    command(main)

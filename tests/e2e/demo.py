"""`make demo`: three days of the example DAG in a real Airflow, then both sides compared event by event."""

from tests.e2e.compare import Comparison, compare_world
from tests.e2e.processes import command
from tests.e2e.world import DAG_ID, Run, World

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


def report(world: World, runs: list[Run], comparison: Comparison) -> int:
    """Print what came of it, with the logs of what failed; the exit code."""
    for run in runs:
        if run.state != "success":
            say(world.logs(run))
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


def main() -> int:
    """Everything, start to end."""
    say("Starting a sandbox of Customer.io and Segment, and a real Airflow ...")
    with World(sandbox_args=SANDBOX, say=say) as world:
        return report(world, *backfill(world))


if __name__ == "__main__":
    command(main)

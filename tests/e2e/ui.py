"""`make ui`: the demo's world with its history, left running to click around in."""

from tests.e2e.demo import SANDBOX, backfill, report, say
from tests.e2e.processes import command
from tests.e2e.world import DAG_ID, World

GUIDE = """
Airflow   {airflow}   no login needed
Sandbox   {sandbox}/_sandbox/segment   counts what Segment has received

What to look at:
  Dags > {dag}: three days are done. A click on a green square of the task opens its logs;
    Storage > XCom has the counts that it returned.
  Dags > customerio_preview > Trigger: choose days in its form, and look at the task's log. It sends nothing.
  Admin > Connections: the pulse icon tests a connection, the pencil opens its form. (Before Airflow 3.3.3, the test of
    one whose Port is empty says "Bad Request", a bug of Airflow's. Here both have one.)
  Dags > {dag} > Trigger > Backfill: try 2026-11-08 to 2026-11-09, which no run has read yet.
    (The scheduler makes no runs by itself here.)

Ctrl-C ends everything.
"""


def main() -> int:
    """Run until a signal comes."""
    say("Starting a sandbox of Customer.io and Segment, and a real Airflow ...")
    with World(sandbox_args=SANDBOX, stored_connections=True, say=say) as world:
        report(world, *backfill(world))
        say(GUIDE.format(airflow=world.airflow_url, sandbox=world.sandbox_url, dag=DAG_ID))
        try:
            world.wait(lambda: False, "end", timeout=float("inf"))
        except KeyboardInterrupt:
            say("Ending ...")
    return 0


if __name__ == "__main__":
    command(main)

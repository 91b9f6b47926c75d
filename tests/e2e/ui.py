"""`make ui`: run a real Airflow with three weeks of history, to click around in."""

from tests.e2e.demo import say
from tests.e2e.processes import command
from tests.e2e.three_weeks import FAILED, LAST, REFUSED, SANDBOX, fill
from tests.e2e.world import DAG_ID, World

GUIDE = """
Airflow   {airflow}   no login needed
Sandbox   {sandbox}/_sandbox/segment   counts what Segment has received

What to look at:
  {airflow}/cio-flow/?dag_id={dag}&days=30&until={last}
    shows three weeks: two days never ran, {failed} failed (the sandbox had another key), and Segment refused an event
    of {refused}. In Airflow's menu it is Browse > Customer.io events (from 3.1 on).
  Dags > {dag}: a click on a green square of the task opens its logs;
    Storage > XCom has the counts that it returned.
  Dags > customerio_preview > Trigger: choose days in its form, and look at the task's log. It sends nothing.
  Admin > Connections: the pulse icon tests a connection, the pencil opens its form. (Before Airflow 3.3.3, the test of
    one whose Port is empty says "Bad Request", a bug of Airflow's. Here both have one.)
  Dags > {dag} > Trigger > Backfill: try 2026-11-04 to 2026-11-05, which no run has read yet. Then load the page again.
    (The scheduler makes no runs by itself here.)

Ctrl-C ends everything.
"""

#: As Customer.io limits a workspace.
_SANDBOX = (*SANDBOX, "--latency", "0.1", "--requests-per-second", "10", "--retry-after", "seconds")


def main() -> int:
    """Run until a signal comes."""
    say("Starting a sandbox of Customer.io and Segment, and a real Airflow ...")
    with World(sandbox_args=_SANDBOX, stored_connections=True, say=say) as world:
        fill(world)
        places = {"airflow": world.airflow_url, "sandbox": world.sandbox_url}
        say(GUIDE.format(**places, dag=DAG_ID, last=LAST, failed=FAILED, refused=REFUSED))
        try:
            world.wait(lambda: False, "end", timeout=float("inf"))
        except KeyboardInterrupt:
            say("Ending ...")
    return 0


if __name__ == "__main__":
    command(main)

"""No process that a world has started outlives it, whatever group it has moved to."""

import subprocess
import sys
from pathlib import Path

from tests.e2e.keeper import members
from tests.e2e.processes import REPO

# Like Airflow's tasks: a grandchild in a process group of its own, deaf to SIGTERM.
PARENT = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setpgid(0, 0)
os.write(1, b"ready\\n")
time.sleep(60)
"""


def test_the_keeper_ends_whole_sessions(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "logs").mkdir(parents=True)
    keep = [sys.executable, "-m", "tests.e2e.keeper", str(home)]
    with (
        subprocess.Popen(keep, cwd=REPO, stdin=subprocess.PIPE) as keeper,
        subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, start_new_session=True) as parent,
    ):
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
        assert len(members({parent.pid})) == 2
        keeper.communicate(b"%d\n" % parent.pid, timeout=15)
    assert keeper.returncode == 0
    assert members({parent.pid}) == []
    assert not home.exists()

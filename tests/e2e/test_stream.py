"""Short runs of `make stream`: a sender, the app under uvicorn and a sandbox of Segment, each in its own process."""

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.e2e.processes import REPO

pytestmark = pytest.mark.e2e
COMMAND = [sys.executable, "-m", "tests.e2e.stream", "--deliveries", "3000", "--segment-latency", "0.02"]
SAME = "THE SAME: Segment kept every occurrence that was acknowledged and that names a person, each once."


def test_pushed_reports_are_kept_once() -> None:
    options = ("--per-second", "0", "--duplicates", "0.2")
    ran = subprocess.run([*COMMAND, *options], cwd=REPO, capture_output=True, text=True, timeout=110)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == SAME
    [pushed] = re.findall(r"^([\d,]+) reports,", ran.stdout, re.MULTILINE)
    [taken] = re.findall(r"^Answers: ([\d,]+) x 204\.$", ran.stdout, re.MULTILINE)
    assert number(taken) > number(pushed) > 3000
    [known] = re.findall(r"and knew ([\d,]+) of them", ran.stdout)
    assert number(known) > 300


def test_signal_ends_it_with_a_summary() -> None:
    process = subprocess.Popen([*COMMAND, "--per-second", "50"], cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.match(r" +2 s ", line):
            os.kill(process.pid, signal.SIGINT)
            break
    lines += process.stdout.read().splitlines()
    assert process.wait(30) == 0, "".join(lines)
    assert lines[-1] == SAME


def number(text: str) -> int:
    return int(text.replace(",", ""))

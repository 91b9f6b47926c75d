"""The tests' own PostgreSQL server ends with the process that started it, however that ends."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.postgres import programs

REPOSITORY = Path(__file__).parents[3]
OWNER = """
import os, sys, tempfile
from tests.postgres import postgres_server
tempfile.tempdir = sys.argv[1]
with postgres_server():
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder outside pytest's own, which the server's user may not enter."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o777)
        yield Path(path)


@pytest.mark.skipif(programs() is None, reason="PostgreSQL's server is not installed")
@pytest.mark.parametrize("killed", [False, True])
def test_stopped_server_leaves_nothing(folder: Path, killed: bool) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout
        assert owner.stdout.readline() == "up\n"
        (home,) = folder.iterdir()
        server = int((home / "data" / "postmaster.pid").read_text().splitlines()[0])
        if killed:
            owner.kill()
    deadline = time.monotonic() + 60
    while home.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not home.exists()
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(server).status() == psutil.STATUS_ZOMBIE  # ended, where nobody collects orphans

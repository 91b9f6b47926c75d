"""Run a PostgreSQL server of the tests' own, in a temporary folder. It needs Debian's `postgresql`, or the server's
programs on the PATH.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.ports import free_port

USER = "warehouse"
# Nothing here has to outlive a crash of the machine.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "listen_addresses": "127.0.0.1", "max_connections": "50"}


def programs() -> Path | None:
    """Return the folder of initdb and postgres, of the newest installed server."""
    on_path = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    found = [Path(on_path).parent] if on_path else [folder for folder in folders if (folder / "initdb").exists()]
    return found[-1] if found else None


@contextmanager
def postgres_server() -> Iterator[dict[str, Any]]:
    """Run a server; return its fields of an Airflow connection. The user is a superuser.

    :raises RuntimeError: none is installed.
    """
    folder = programs()
    if folder is None:
        raise RuntimeError("PostgreSQL's server is not installed (on Debian: apt-get install postgresql)")
    home = Path(tempfile.mkdtemp(prefix="customerio-postgres-"))
    owner = _owner()
    if owner:
        shutil.chown(home, owner)
    data = str(home / "data")
    control = [str(folder / "pg_ctl"), "-D", data, "-w", "-l", str(home / "log")]
    with _cleaner(owner, shlex.join([*control, "-m", "immediate", "stop"]), home):
        _run(owner, [str(folder / "initdb"), "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync"])
        port = free_port()
        options = " ".join(f"-c {name}={value}" for name, value in {**SETTINGS, "port": str(port)}.items())
        _run(owner, [*control, "-o", f"{options} -c unix_socket_directories={home}", "start"])
        yield {"conn_type": "postgres", "host": "127.0.0.1", "port": port, "login": USER, "schema": "postgres"}


@contextmanager
def _cleaner(owner: str | None, stop: str, home: Path) -> Iterator[None]:
    """Start a process that stops the server and removes its folder, even if this process is killed."""
    command = f"cat > /dev/null; {stop} > /dev/null 2>&1; rm -rf {shlex.quote(str(home))}"
    with subprocess.Popen(
        ["/bin/sh", "-c", command], stdin=subprocess.PIPE, user=owner, cwd="/", start_new_session=True
    ):
        yield


def _owner() -> str | None:
    """Return the user that runs the server, because root can't."""
    return "postgres" if os.geteuid() == 0 else None


def _run(owner: str | None, command: Sequence[str]) -> None:
    # Into a file and not a pipe, which the server would keep open.
    with tempfile.TemporaryFile() as output:
        ran = subprocess.run(
            command, user=owner, cwd="/", stdout=output, stderr=subprocess.STDOUT, timeout=60, check=False
        )
        output.seek(0)
        if ran.returncode:
            raise RuntimeError(f"{Path(command[0]).name} failed: {output.read().decode(errors='replace')}")

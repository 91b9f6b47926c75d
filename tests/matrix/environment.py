"""Make a virtual environment for each target, and keep it until one of its sources changes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement

from tests.matrix.targets import REPOSITORY, Target

ENVIRONMENTS = REPOSITORY / ".venv" / "matrix"


class StepError(Exception):
    """A step failed; the message is its output."""


class UnavailableError(Exception):
    """This machine's package index can't give that version of Airflow, or not as it was on that day."""


#: Seconds. A step may take some minutes on a busy machine.
PATIENCE = 1800


def run(*command: str | Path, cwd: Path = REPOSITORY, env: Mapping[str, str] | None = None) -> str:
    """Run a command, and return its output.

    :param env: added to this process's own, of which a user's settings of Airflow and Python are left out.
    :raises StepError: it ended with another exit code than 0, or not in time.
    """
    unwanted = ("AIRFLOW_", "PYTHON", "VIRTUAL_ENV")
    own = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    try:
        ran = subprocess.run(
            list(map(str, command)),
            cwd=cwd,
            env={**own, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StepError(f"{command[0]}: not done after {PATIENCE} s\n{error.stdout!r}") from None
    if ran.returncode:
        raise StepError(f"{' '.join(map(str, command))}: exit {ran.returncode}\n{ran.stdout}")
    return ran.stdout


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    [wheel] = folder.glob("*.whl")
    return wheel


class Environment:
    """Virtual environment of a target.

    :param target: what to install; the folder is named by it, and by a hash of all that it is made of.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._interpreter = _find_python(target.python) if target.python else sys.executable
        version = target.python or sys.version
        parts = [target.options, target.requires_airflow, target.tools, target.requirements, version]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
        self._folder = ENVIRONMENTS / f"{target.name}-{digest}"
        self.python = self._folder / "bin" / "python"

    def install(self, wheel: Path) -> str:
        """Install the wheel with its requirements; return notes about them.

        :raises UnavailableError: there is no such Python here, or not even Airflow by itself can be installed.
        """
        if self._interpreter is None:
            raise UnavailableError(f"This machine has no Python {self._target.python}.")
        stamp = self._folder / "complete"
        kept = stamp.exists()
        if not kept:
            for old in ENVIRONMENTS.glob(f"{self._target.name}-*"):
                shutil.rmtree(old)
            run(_uv(), "venv", "--python", self._interpreter, self._folder)
            airflow = self._target.requires_airflow
            try:
                self._uv(
                    "install", "--dry-run", "--exclude-newer", self._target.until, *(airflow or ["apache-airflow"])
                )
            except StepError as error:
                raise UnavailableError(
                    f"The package index has no such Airflow, or does not tell by date. {error}"
                ) from None
            # What the wheel requires is named here, since "lowest" is meant for what is named only.
            wanted = [*self._target.requirements, *airflow, *self._target.tools]
            self._uv("install", "--compile-bytecode", *self._target.options, *wanted)
        self._uv("install", "--reinstall", "--no-deps", wheel)
        self._uv("check")
        self._check_wheel(wheel)
        stamp.touch()
        return f"{self._versions()}{', environment kept' if kept else ''}"

    def _versions(self) -> str:
        found = {one["name"]: one["version"] for one in json.loads(self._uv("list", "--format", "json", "--quiet"))}
        names = [Requirement(one).name for one in self._target.requirements]
        shown = [f"{name.removeprefix('apache-')} {found[name]}" for name in names]
        return ", ".join([*([f"Python {self._target.python}"] if self._target.python else []), *shown])

    def _check_wheel(self, wheel: Path) -> None:
        """Check that the tests would use the installed wheel.

        :raises StepError: something else than the wheel would be tested.
        """
        code = "import airflow_provider_cio as ours; print(ours.__path__[0])"
        where = Path(run(self.python, "-c", code, cwd=self._folder).split()[-1])
        files = [name for name in ZipFile(wheel).namelist() if name.startswith("airflow_provider_cio/")]
        missing = [name for name in files if not (where.parent / name).is_file()]
        if not where.is_relative_to(self._folder) or missing:
            raise StepError(f"{where} is not what was installed, or lacks {missing}")

    def _uv(self, command: str, *arguments: str | Path) -> str:
        return run(_uv(), "pip", command, "--python", self.python, *arguments)


def _find_python(version: str) -> str | None:
    """Return a Python of this version, on the PATH or among those of pyenv, which is on no PATH unless asked for."""
    installed = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    for python in (shutil.which(f"python{version}"), *sorted(installed.glob(f"{version}.*/bin/python"))):
        if python is None:
            continue
        command = [python, "-c", "import sys; print(sys.version)"]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.stdout.startswith(f"{version}."):
            return str(python)
    return None


def _uv() -> Path:
    return Path(sys.executable).parent / "uv"

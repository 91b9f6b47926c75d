"""`python -m tests.dist`: build the files of a release into `dist/`, and check them.

Builds the source distribution and the wheel, compares their files with this checkout, has `twine` check their metadata,
builds both again from the source distribution, which must give the same bytes, and installs each with pip into an
environment of its own, where Airflow must list the provider.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from zipfile import ZipFile

from airflow_provider_cio import __version__
from tests.matrix.environment import StepError, run
from tests.matrix.targets import REPOSITORY

DIST = REPOSITORY / "dist"
NAME = f"airflow_provider_cio-{__version__}"
TWINE = "twine==7.0.0"
#: Files of the checkout that are for its hosting only.
NOT_IN_SDIST = ".ci/"
FACTS = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")


class Files(NamedTuple):
    """The two files of a release."""

    sdist: Path
    wheel: Path


def build(source: Path, folder: Path, epoch: str) -> Files:
    """Build both, the wheel from the source distribution. The versions of the tools are those of this environment."""
    command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source)
    run(*command, cwd=source, env={"SOURCE_DATE_EPOCH": epoch})
    files = Files(folder / f"{NAME}.tar.gz", folder / f"{NAME}-py3-none-any.whl")
    if {*folder.iterdir()} != {*files}:
        raise StepError(f"built {sorted(path.name for path in folder.iterdir())}")
    return files


def check_contents(files: Files) -> str:
    """Check that the source distribution has every file of the checkout, and the wheel the package and the examples."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    tracked = {name for name in listed if not name.startswith(NOT_IN_SDIST) and (REPOSITORY / name).exists()}
    with tarfile.open(files.sdist) as archive:
        _compare(files.sdist, {one.name.removeprefix(f"{NAME}/") for one in archive}, tracked | {"PKG-INFO"})
    package = {name for name in tracked if name.startswith("airflow_provider_cio/")}
    examples = {f"airflow_provider_cio/example_dags/{name[5:]}" for name in tracked if name.startswith("dags/")}
    facts = {f"{NAME}.dist-info/{name}" for name in FACTS}
    _compare(files.wheel, {*ZipFile(files.wheel).namelist()}, package | examples | facts)
    return f"{len(tracked) + 1} and {len(package | examples | facts)} files, {len(examples)} example DAGs"


def _compare(path: Path, found: set[str], wanted: set[str]) -> None:
    if found != wanted:
        raise StepError(f"{path.name} lacks {sorted(wanted - found)}, and should not have {sorted(found - wanted)}")


def check_metadata(files: Files) -> str:
    """Check that `twine check` finds nothing, not even a warning."""
    uv = Path(sys.executable).parent / "uv"
    said = run(uv, "tool", "run", "--quiet", "--from", TWINE, "twine", "check", "--strict", *files)
    return f"{TWINE}: {said.count('PASSED')} passed"


def check_bytes(files: Files, folder: Path, epoch: str) -> str:
    """Check that the source distribution itself builds the same files, byte by byte."""
    with tarfile.open(files.sdist) as archive:
        archive.extractall(folder, filter="data")
    again = build(folder / NAME, folder / "again", epoch)
    different = [one.name for one, other in zip(files, again, strict=True) if one.read_bytes() != other.read_bytes()]
    if different:
        raise StepError(f"a second build gave other bytes: {', '.join(different)}")
    return "the same bytes"


def check_install(file: Path, folder: Path) -> str:
    """Check that `pip install` gives an Airflow that lists the provider."""
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "venv", folder)
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", file, cwd=folder)
    said = run(python, "-m", "airflow", "providers", "list", cwd=folder, env={"AIRFLOW_HOME": str(folder / "home")})
    if not re.search(rf"^airflow-provider-cio\b.*\b{re.escape(__version__)}\b", said, re.MULTILINE):
        raise StepError(f"airflow providers list does not list it:\n{said}")
    code = "import airflow, airflow_provider_cio as ours; print(airflow.__version__, ours.__path__[0])"
    version, path = run(python, "-c", code, cwd=folder).split()[-2:]
    if not Path(path).is_relative_to(folder) or not (Path(path) / "example_dags").is_dir():
        raise StepError(f"{path} is not what was installed")
    return f"listed by Airflow {version}"


def step(name: str, do: Callable[[], str]) -> None:
    """Run a step, and print its time and its result."""
    began = time.monotonic()
    print(f"  {name:<16}", end="", flush=True)
    found = do()
    print(f"{time.monotonic() - began:4.0f} s  {found}", flush=True)


def main() -> int:
    """Run all steps, and return the exit code."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct").strip()
    print(f"{NAME}, SOURCE_DATE_EPOCH={epoch}", flush=True)
    try:
        with TemporaryDirectory(prefix="airflow-cio-dist-") as name:
            folder = Path(name)
            files = build(REPOSITORY, folder / "dist", epoch)
            step("contents", lambda: check_contents(files))
            step("metadata", lambda: check_metadata(files))
            step("second build", lambda: check_bytes(files, folder / "source", epoch))
            step("install sdist", lambda: check_install(files.sdist, folder / "from-sdist"))
            step("install wheel", lambda: check_install(files.wheel, folder / "from-wheel"))
            shutil.rmtree(DIST, ignore_errors=True)
            shutil.copytree(folder / "dist", DIST)
    except StepError as error:
        print(f"FAILED: {error}")
        return 1
    print(*(f"  dist/{path.name}" for path in sorted(DIST.iterdir())), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

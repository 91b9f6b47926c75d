"""`python -m tests.matrix [3.0 3.1 3.2 3.3 3.4 floors ...]`: test the wheel in each supported version of Airflow.

For each: install the wheel into an environment of its own, ask `airflow providers list`, run the tests of what meets
Airflow (forms of the connections, hooks, operators, DAGs, resume), `airflow dags test` the example DAG against the
sandbox, whose truth is compared with what Segment kept, event by event, and have its scheduler and its API server deal
with a run that is early. Two are worked on at a time, and each is told of when it is done.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from airflow_provider_cio import __version__
from airflow_provider_cio.events.interval import Interval
from tests.e2e.compare import COLLECTIONS, differences, moment
from tests.matrix.environment import Environment, StepError, UnavailableError, build_wheel, run
from tests.matrix.targets import REPOSITORY, TARGETS
from tests.sandbox import History, Sandbox, Settings
from tests.unit.support import connections, truth_of

DAG_ID = "customerio_to_segment"
# `dags test` with a date means the last interval before it.
DAY, DATE = "2026-11-05", "2026-11-06"
# Environments that are worked on at a time: each keeps one core busy, and in its scheduler's part a gigabyte of memory.
AT_ONCE = 2


class Bench:
    """One environment, and a folder with an Airflow and a copy of the tests, but without the package itself."""

    def __init__(self, python: Path, folder: Path) -> None:
        self._python = python
        self._folder = folder
        for name in ("tests", "dags", "docs"):
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "pyproject.toml", folder)

    def listed(self) -> str:
        """Check that Airflow lists the provider."""
        said = self._airflow("providers", "list")
        if not re.search(rf"^airflow-provider-cio\b.*\b{re.escape(__version__)}\b", said, re.MULTILINE):
            raise StepError(f"airflow providers list does not list it:\n{said}")
        return f"lists airflow-provider-cio {__version__}"

    def tested(self, tests: tuple[str, ...]) -> str:
        """Run the tests; return why some were skipped."""
        said = self._run("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *tests)
        reasons = dict.fromkeys(re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", said, re.MULTILINE))
        return "\n".join([said.splitlines()[-1], *(f"  skipped: {reason}" for reason in reasons)])

    def sent(self) -> str:
        """Check that the example DAG sends each event of a day once, as the sandbox holds them."""
        history = History.generate(seed=8, deliveries=3000, start=moment("2026-10-30"), end=moment("2026-11-08"))
        self._airflow("db", "migrate")
        self._airflow("dags", "reserialize")  # Airflow 3.0 knows neither DAG nor asset before
        with Sandbox(history, Settings()) as sandbox:
            said = self._airflow("dags", "test", DAG_ID, DATE, **connections(sandbox))
            truth = truth_of(history, Interval(moment(DAY), moment(DATE)), COLLECTIONS)
            segment = sandbox.segment
            found = [*differences(truth, segment.kept), *map(str, [*segment.dropped, *segment.duplicates])]
            if found or len(segment.kept) < 100:
                raise StepError("\n".join([f"{len(segment.kept)} events kept", *found[:20], said]))
            return f"{len(segment.kept)} events kept of {len(truth)} occurrences held, event by event the same"

    def _airflow(self, *arguments: str, **variables: str) -> str:
        return self._run("-m", "airflow", *arguments, **variables)

    def _run(self, *arguments: str, **variables: str) -> str:
        home = self._folder / "home"
        settings = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self._folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        }
        return run(self._python, *arguments, cwd=self._folder, env=settings | variables)


class Log:
    """Output about one target, printed at its end, because others are worked on at the same time."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, *lines: str) -> None:
        self._lines += lines

    def step(self, name: str, do: Callable[[], str]) -> bool:
        """Run a step, and note its time and its result; return False if it failed."""
        began = time.monotonic()
        try:
            found, passed = do(), True
        except StepError as error:
            found, passed = f"FAILED: {error}", False
        first, *others = found.splitlines()
        self.add(f"  {name:<14}{time.monotonic() - began:4.0f} s  {first}", *(" " * 24 + line for line in others))
        return passed

    def show(self) -> None:
        print("\n".join(self._lines), flush=True)


def check(name: str, wheel: Path, log: Log) -> bool | None:
    """Run all steps for one target; return False if one failed, None if the target was skipped."""
    target = TARGETS[name]
    environment = Environment(target)
    log.add(f"{name} (with what there was by {target.until})")
    try:
        if not log.step("install", lambda: environment.install(wheel)):
            return False
    except UnavailableError as error:
        log.add(f"  SKIPPED: {error}")
        return None
    with TemporaryDirectory(prefix="airflow-cio-matrix-") as folder:
        bench = Bench(environment.python, Path(folder))
        steps = {
            "providers list": bench.listed,
            "tests": lambda: bench.tested(target.tests),
        }
        if target.dags:
            steps["dags test"] = bench.sent
        if target.dags and target.e2e:
            steps["at work"] = lambda: bench.tested(target.e2e)
        failed = [name for name, do in steps.items() if not log.step(name, do)]
        return not failed


def checked(name: str, wheel: Path) -> bool | None:
    """Run `check`, and print its notes."""
    log = Log()
    try:
        return check(name, wheel, log)
    finally:
        log.show()


def main() -> int:
    """Run all targets, and return the number that failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TARGETS)} (default: all)")
    names = parser.parse_args().names or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"{', '.join(sorted(unknown))}: known are {', '.join(TARGETS)}")
    began = time.monotonic()
    with TemporaryDirectory(prefix="airflow-cio-wheel-") as folder:
        wheel = build_wheel(Path(folder))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            passed = dict(zip(names, pool.map(lambda name: checked(name, wheel), names), strict=True))
    failed = [name for name, one in passed.items() if one is False]
    skipped = [name for name, one in passed.items() if one is None]
    for word, those in (("failed", failed), ("skipped", skipped)):
        print(f"{len(those)} of {len(names)} {word}: {', '.join(those) or 'none'}")
    print(f"The matrix took {time.monotonic() - began:.0f} s.")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())

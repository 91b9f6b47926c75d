"""`python -m tests.matrix [3.0 3.1 3.2 3.3 floors bigquery snowflake]`: the wheel in each Airflow that it is for.

For each: install the wheel into an environment of its own, ask `airflow providers list`, run the tests of what meets
Airflow (forms of the connections, hooks, operators, DAGs, resume), `airflow dags test` the example DAG against the
sandbox, whose truth is compared with what Segment kept, event by event, and have its scheduler and its API server deal
with a run that is early.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from airflow_provider_cio import __version__
from airflow_provider_cio.events.interval import Interval
from tests.e2e.compare import COLLECTIONS, differences, moment
from tests.matrix.environment import Environment, StepError, UnavailableError, build_wheel, run
from tests.matrix.targets import EARLY_RUN, REPOSITORY, TARGETS
from tests.sandbox import History, Sandbox, Settings
from tests.unit.support import connections, truth_of

DAG_ID = "customerio_to_segment"
# `dags test` with a date means the last interval before it.
DAY, DATE = "2026-11-05", "2026-11-06"


class Bench:
    """One environment, and a folder with an Airflow and a copy of the tests, but without the package itself."""

    def __init__(self, python: Path, folder: Path) -> None:
        self._python = python
        self._folder = folder
        for name in ("tests", "dags", "docs"):
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "pyproject.toml", folder)

    def listed(self) -> str:
        """Airflow lists the provider."""
        said = self._airflow("providers", "list")
        if not re.search(rf"^airflow-provider-cio\b.*\b{re.escape(__version__)}\b", said, re.MULTILINE):
            raise StepError(f"airflow providers list does not list it:\n{said}")
        return f"lists airflow-provider-cio {__version__}"

    def tested(self, tests: tuple[str, ...]) -> str:
        """The tests pass; why some were skipped."""
        said = self._run("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *tests)
        reasons = dict.fromkeys(re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", said, re.MULTILINE))
        return "\n".join([said.splitlines()[-1], *(f"  skipped: {reason}" for reason in reasons)])

    def sent(self) -> str:
        """The example DAG sends each event of a day once, as the sandbox holds them."""
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


def step(name: str, do: Callable[[], str]) -> bool:
    """Do it, and say how long it took and what came of it; False if it failed."""
    began = time.monotonic()
    try:
        found, passed = do(), True
    except StepError as error:
        found, passed = f"FAILED: {error}", False
    first, *others = found.splitlines()
    print(f"  {name:<14}{time.monotonic() - began:4.0f} s  {first}", *others, sep="\n" + " " * 24, flush=True)
    return passed


def check(name: str, wheel: Path) -> bool | None:
    """Everything, for one target, whatever fails before it; False if something failed, None if it was skipped."""
    target = TARGETS[name]
    environment = Environment(target)
    print(f"{name} (with what there was by {target.until})", flush=True)
    try:
        if not step("install", lambda: environment.install(wheel)):
            return False
    except UnavailableError as error:
        print(f"  SKIPPED: the package index has no such Airflow, or does not tell by date. {error}", flush=True)
        return None
    with TemporaryDirectory(prefix="airflow-cio-matrix-") as folder:
        bench = Bench(environment.python, Path(folder))
        steps = {
            "providers list": bench.listed,
            "tests": lambda: bench.tested(target.tests),
        }
        if target.dags:
            steps |= {"dags test": bench.sent, "early run": lambda: bench.tested(EARLY_RUN)}
        failed = [name for name, do in steps.items() if not step(name, do)]
        return not failed


def main() -> int:
    """The exit code: how many failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TARGETS)} (default: all)")
    names = parser.parse_args().names or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"{', '.join(sorted(unknown))}: known are {', '.join(TARGETS)}")
    began = time.monotonic()
    with TemporaryDirectory(prefix="airflow-cio-wheel-") as folder:
        wheel = build_wheel(Path(folder))
        passed = {name: check(name, wheel) for name in names}
    failed = [name for name, one in passed.items() if one is False]
    skipped = [name for name, one in passed.items() if one is None]
    for word, those in (("failed", failed), ("skipped", skipped)):
        print(f"{len(those)} of {len(names)} {word}: {', '.join(those) or 'none'}")
    print(f"The matrix took {time.monotonic() - began:.0f} s.")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())

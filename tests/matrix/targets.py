"""Supported versions of Airflow, and the days whose releases are installed with them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]
_PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PROJECT, GROUPS = _PYPROJECT["project"], _PYPROJECT["dependency-groups"]

# From the group dev: what the tests below need, and neither linters nor what builds.
_TOOLS = (
    "apache-airflow-providers-openlineage",
    "hypothesis",
    "jsonschema",
    "psutil",
    "pytest",
    "pytest-rerunfailures",
    "pytest-timeout",
    "starlette",
    "statsd",
    "uvicorn",
    "wtforms",
)

# Released after some of the days below: what is needed on them all the same, each with the day by which it was there.
_YOUNGER = {
    "apache-airflow-providers-common-compat": "2026-01-18",
    "apache-airflow-providers-common-sql": "2025-11-15",
    "apache-airflow-providers-duckdb": "2026-10-06",
    "apache-airflow-providers-postgres": "2025-05-19",
    "sqlglot": "2026-03-30",
    "uvicorn": "2025-09-24",
}

# What meets Airflow: its connections and their forms, operators, DAGs, logs, metrics, assets, lineage, the store of a
# task's state, its object storage, its plugins. Pure code is the same everywhere: `make test` has its tests.
_RESUME = "tests/unit/pipeline/test_resume.py"
_TESTS = (
    "tests/unit/hooks/test_customerio.py",
    "tests/unit/hooks/test_segment.py",
    "tests/unit/hooks/test_form.py",
    "tests/unit/hooks/test_rows.py::test_defaults_and_text_times",
    "tests/unit/hooks/test_rows.py::test_waiting_is_logged",
    "tests/unit/operators",
    "tests/unit/pipeline/test_dead_letters.py",
    f"{_RESUME}::test_retry_uses_the_checkpoint",
    f"{_RESUME}::test_cleared_task_runs_in_full",
    f"{_RESUME}::test_unreadable_store_warns",
    f"{_RESUME}::test_undeletable_checkpoint",
    f"{_RESUME}::test_no_store_starts_over",
    f"{_RESUME}::test_failing_store_is_harmless",
    "tests/unit/test_dags.py",
    "tests/unit/test_imports.py::test_operator_import_is_cheap",
    "tests/unit/test_plugin.py::test_it_is_the_entry_point",
    "tests/unit/test_plugin.py::test_wrong_streams_are_mounted",
    "tests/unit/test_plugin.py::test_airflow_loads_it",
    "tests/unit/observability",
    "tests/unit/test_provider_info.py",
    "tests/unit/test_versions.py",
)

# A scheduler, a DAG processor and an API server at work.
_EARLY_RUN = "tests/e2e/test_settling.py"
_INTERRUPTIONS = "tests/e2e/test_interruptions.py"

# What meets the other dependencies: requests and urllib3, msgspec, pendulum.
_MORE_TESTS = (
    "tests/unit/http/test_bounds.py",
    "tests/unit/http/test_hostile_answers.py",
    "tests/unit/http/test_transport.py",
    "tests/unit/events/test_interval.py",
    "tests/unit/events/test_mapping.py",
    "tests/unit/customerio/test_client.py",
    "tests/unit/segment/test_client.py",
)


# What meets the providers and drivers of databases.
_LOADS = (
    "tests/unit/warehouse/test_load.py::test_existing_rows_stay",
    "tests/unit/warehouse/test_load.py::test_repeated_event_is_one_row",
    "tests/unit/warehouse/test_load.py::test_error_ends_the_load",
    "tests/unit/warehouse/test_existing.py::test_failed_server_check",
    "tests/unit/warehouse/test_bigquery.py::test_failed_connection_check",
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One environment.

    :param until: the day whose newest releases are installed, as if nothing had been released since.
    :param airflow: the version to install; none is the lowest that this project declares.
    :param prereleases: requirements for Airflow's own packages, in place of a version. Each names a pre-release,
        because uv installs one only if asked for.
    :param python: the version of Python; none is the one that runs this.
    :param lowest: install the lowest version that each requirement of this project allows, of Airflow and all else.
    :param extras: of this project, which are installed with it.
    :param groups: dependency groups of this project, which are installed with it.
    :param more_tools: from the group dev, for these tests only.
    :param tests: for pytest.
    :param dags: also run an example DAG, and the tests of `e2e`.
    :param e2e: for pytest, of the tests that start a scheduler.
    """

    name: str
    until: str
    airflow: str = ""
    prereleases: tuple[str, ...] = ()
    python: str = ""
    lowest: bool = False
    extras: tuple[str, ...] = ("duckdb", "postgres")
    groups: tuple[str, ...] = ()
    more_tools: tuple[str, ...] = ()
    tests: tuple[str, ...] = field(default=_TESTS)
    dags: bool = True
    e2e: tuple[str, ...] = (_EARLY_RUN,)

    @property
    def requires_airflow(self) -> list[str]:
        """Return the requirement for Airflow itself, if not the lowest version."""
        return [*self.prereleases, *([f"apache-airflow=={self.airflow}"] if self.airflow else [])]

    @property
    def requirements(self) -> list[str]:
        """Return the requirements of the wheel and its extras."""
        optional = PROJECT["optional-dependencies"]
        return [*PROJECT["dependencies"], *(line for extra in self.extras for line in optional[extra])]

    @property
    def tools(self) -> list[str]:
        """Return the requirements of the tests, as the groups have them."""
        wanted = {Requirement(line).name: line for line in GROUPS["dev"]}
        named = [wanted[name] for name in (*_TOOLS, *self.more_tools)]
        return [*named, *(line for group in self.groups for line in GROUPS[group])]

    @property
    def options(self) -> list[str]:
        """Return the options for `uv pip install`, without the requirements."""
        options = ["--exclude-newer", self.until]
        for name, day in _YOUNGER.items():
            options += ["--exclude-newer-package", f"{name}={max(day, self.until)}"]
        return [*options, *(["--resolution", "lowest-direct"] if self.lowest else [])]


# The last release of each minor version, and some days more for the releases that it was mended with.
TARGETS = {
    one.name: one
    for one in (
        Target(name="3.0", airflow="3.0.6", until="2025-09-05"),
        Target(name="3.1", airflow="3.1.8", until="2026-03-18"),
        Target(name="3.2", airflow="3.2.2", until="2026-06-05"),
        Target(name="3.3", airflow="3.3.2", until="2026-09-24"),
        # The newest release, or pre-release, that the package index has.
        Target(
            name="3.4",
            prereleases=(
                "apache-airflow>=3.4.0b1,<3.5",
                "apache-airflow-core>=3.4.0b1,<3.5",
                "apache-airflow-task-sdk>=1.4.0b1,<1.5",
            ),
            until="2026-11-20",
            e2e=(_EARLY_RUN, _INTERRUPTIONS),
        ),
        *(
            Target(
                name=f"python{python}",
                airflow="3.3.2",
                python=python,
                until="2026-09-24",
                tests=(*_TESTS, *_MORE_TESTS),
                e2e=(),
            )
            for python in ("3.12", "3.13")
        ),
        # Not Snowflake, because its tests need a DuckDB that is younger than the lowest: see below.
        Target(
            name="floors",
            until="2025-04-29",
            lowest=True,
            extras=("duckdb", "postgres", "redshift", "bigquery"),
            more_tools=("psycopg", "sqlglot"),
            tests=(*_TESTS, *_MORE_TESTS, *_LOADS),
        ),
        # Google's provider can't be installed beside the newest of all else, and brings a hundred packages.
        Target(
            name="bigquery",
            airflow="3.3.2",
            until="2026-09-24",
            extras=("duckdb", "postgres", "redshift", "bigquery"),
            more_tools=("pytest-xdist", "sqlglot"),
            tests=("--numprocesses=2", "-k", "bigquery", "tests/unit/warehouse"),
            dags=False,
        ),
        # fakesnow needs one version of sqlglot, and a DuckDB and a driver of Snowflake that it knows.
        Target(
            name="snowflake",
            airflow="3.3.2",
            until="2026-11-20",
            extras=("duckdb", "postgres", "redshift", "snowflake"),
            groups=("fakesnow",),
            more_tools=("pytest-xdist", "sqlglot"),
            tests=("--numprocesses=2", "-k", "snowflake", "tests/unit/warehouse"),
            dags=False,
        ),
        Target(
            name="floor-snowflake",
            airflow="3.3.2",
            until="2026-11-20",
            lowest=True,
            extras=("duckdb", "postgres", "snowflake"),
            groups=("fakesnow",),
            more_tools=("psycopg", "sqlglot"),
            tests=(
                *("-k", "tables_and_names or failed_load or connection_check or key"),
                "tests/unit/warehouse/test_snowflake.py",
            ),
            dags=False,
        ),
    )
}

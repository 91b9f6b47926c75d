from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import postgres_server, programs
from tests.unit.warehouse.places import Place, place

_NUMBERS = itertools.count()
DATABASES = ("postgres", "duckdb", "redshift", "bigquery", "snowflake")


@pytest.fixture(scope="session")
def postgres() -> Iterator[dict[str, Any]]:
    """Run a server; see `tests.postgres`."""
    if programs() is None:
        pytest.skip("PostgreSQL's server is not installed (on Debian: apt-get install postgresql)")
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def snowflake() -> Iterator[Any]:
    """Run the stand-in; see `tests.snowflake`."""
    for name in ("airflow.providers.snowflake", "fakesnow"):
        pytest.importorskip(name, reason="needs apache-airflow-providers-snowflake and fakesnow: see make matrix")
    from tests.snowflake import StandIn

    with StandIn() as stand_in:
        yield stand_in


def _made(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    if kind == "bigquery":
        pytest.importorskip("airflow.providers.google", reason="needs apache-airflow-providers-google: see make matrix")
    servers = {"postgres": "postgres", "redshift": "postgres", "snowflake": "snowflake"}
    server = request.getfixturevalue(servers[kind]) if kind in servers else {}
    with place(kind, server, folder, f"database{next(_NUMBERS)}") as made:
        yield made


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Make an empty database for each test."""
    yield from _made(request.param, request, tmp_path)


@pytest.fixture(params=DATABASES, scope="module")
def shared_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Make one database for all tests of a module: each takes a schema of its own."""
    yield from _made(request.param, request, tmp_path_factory.mktemp("shared"))


@pytest.fixture(params=["postgres", "redshift"])
def server_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Make a database that allows several open connections."""
    yield from _made(request.param, request, tmp_path)


@pytest.fixture
def redshift_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from _made("redshift", request, tmp_path)


@pytest.fixture
def bigquery_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from _made("bigquery", request, tmp_path)


@pytest.fixture
def snowflake_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from _made("snowflake", request, tmp_path)


@pytest.fixture
def postgres_database(postgres: dict[str, Any], tmp_path: Path) -> Iterator[Place]:
    with place("postgres", postgres, tmp_path, f"database{next(_NUMBERS)}") as made:
        yield made


@pytest.fixture
def duckdb_database(tmp_path: Path) -> Iterator[Place]:
    with place("duckdb", {}, tmp_path, f"database{next(_NUMBERS)}") as made:
        yield made

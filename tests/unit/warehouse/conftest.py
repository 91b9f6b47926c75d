from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import postgres_server, programs
from tests.unit.warehouse.places import Place, place

_NUMBERS = itertools.count()
DATABASES = ("postgres", "duckdb", "redshift", "bigquery")


@pytest.fixture(scope="session")
def postgres() -> Iterator[dict[str, Any]]:
    """A server; see `tests.postgres`."""
    if programs() is None:
        pytest.skip("PostgreSQL's server is not installed (on Debian: apt-get install postgresql)")
    with postgres_server() as server:
        yield server


def _made(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    if kind == "bigquery":
        pytest.importorskip("airflow.providers.google", reason="needs apache-airflow-providers-google: see make matrix")
    server = {} if kind in ("duckdb", "bigquery") else request.getfixturevalue("postgres")
    with place(kind, server, folder, f"database{next(_NUMBERS)}") as made:
        yield made


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty one for each test."""
    yield from _made(request.param, request, tmp_path)


@pytest.fixture(params=DATABASES, scope="module")
def shared_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One for all tests of a module: each takes a schema of its own."""
    yield from _made(request.param, request, tmp_path_factory.mktemp("shared"))


@pytest.fixture(params=["postgres", "redshift"])
def server_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """One that several connections can be open to."""
    yield from _made(request.param, request, tmp_path)


@pytest.fixture
def redshift_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from _made("redshift", request, tmp_path)


@pytest.fixture
def bigquery_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    yield from _made("bigquery", request, tmp_path)


@pytest.fixture
def postgres_database(postgres: dict[str, Any], tmp_path: Path) -> Iterator[Place]:
    with place("postgres", postgres, tmp_path, f"database{next(_NUMBERS)}") as made:
        yield made


@pytest.fixture
def duckdb_database(tmp_path: Path) -> Iterator[Place]:
    with place("duckdb", {}, tmp_path, f"database{next(_NUMBERS)}") as made:
        yield made

"""Set up an Airflow of the tests' own before anything imports airflow: no user's home, no database server."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

for name in [name for name in os.environ if name.startswith("AIRFLOW_")]:
    del os.environ[name]
_home = tempfile.mkdtemp(prefix="airflow-provider-cio-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ.update(
    AIRFLOW_HOME=_home,
    AIRFLOW__CORE__UNIT_TEST_MODE="True",
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(Path(__file__).parents[1] / "dags"),
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_home}/airflow.db",
)

# How long an example takes says more of the machine than of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


#: Files of a minute and more, which pytest-xdist's processes get first: at the end, one of them would work alone.
LONG = ("tests/e2e/", "tests/unit/warehouse/test_load.py", "tests/unit/warehouse/test_both_roads.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((at for at, path in enumerate(LONG) if item.nodeid.startswith(path)), len(LONG)))


@pytest.fixture(autouse=True)
def no_request_of_the_test_before() -> Iterator[None]:
    """Wait for the requests that a failed run has left behind, because the next test may share the sandbox."""
    yield
    until = time.monotonic() + 5
    while time.monotonic() < until and any(
        one.name.startswith(("customerio_", "segment_")) for one in threading.enumerate()
    ):
        time.sleep(0.01)

"""Let the modules that share an Airflow run one after the other, in the same one of pytest-xdist's processes."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.e2e.shared import SharedAirflow

#: Modules that get by with the same Airflow.
TOGETHER = (
    ("backfill", "browser", "flow", "rhythms", "settling", "stream_in_airflow", "warehouse"),
    ("outcome", "readme"),  # whose scheduler makes runs
)
FIRST_OF = {f"tests/e2e/test_{name}.py": f"tests/e2e/test_{names[0]}.py" for names in TOGETHER for name in names}


@pytest.fixture(scope="package")
def shared() -> Iterator[SharedAirflow]:
    with closing(SharedAirflow()) as one:
        yield one


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a process all tests of a file, as `--dist=loadfile` does, and those of the files that belong together."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    scheduling = LoadFileScheduling(config, log)
    file_of = scheduling._split_scope
    scheduling._split_scope = lambda nodeid: FIRST_OF.get(file_of(nodeid), file_of(nodeid))
    return scheduling

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.airflow_names import AIRFLOW


@pytest.fixture(autouse=True)
def tasks_log() -> Iterator[None]:
    """Print what a task logs also on Airflow 3.0, which leaves that to the process that runs the task."""
    if AIRFLOW >= (3, 1):
        yield
        return
    log = logging.getLogger("airflow.task")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    log.addHandler(handler)
    yield
    log.removeHandler(handler)

"""Fixtures of most tests: a sandbox that runs for a module, and is as new for each of its tests."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from tests.sandbox import History, Sandbox, Settings
from tests.unit.support import connect


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A running sandbox for all tests of a module, with the module's HISTORY if it has one."""
    with Sandbox(getattr(request.module, "HISTORY", None)) as running:
        yield running


@pytest.fixture
def sandbox(world: Sandbox, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox of the module, as new, with its HISTORY and SETTINGS. Airflow's default connections lead to it."""
    world.reset()
    world.settings = msgspec.structs.replace(getattr(request.module, "SETTINGS", Settings()))
    world.history = getattr(request.module, "HISTORY", None) or History()
    connect(monkeypatch, world)
    return world

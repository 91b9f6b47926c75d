"""Raise the stream's time limits, so that a busy machine does not reach them. Tests of a limit set it themselves."""

from __future__ import annotations

from collections.abc import Iterator

import airflow.settings  # noqa: F401  # it sets logging up, which must not happen in mid-test
import pytest

from airflow_provider_cio.stream import app, cached, intake, stream


@pytest.fixture(scope="package", autouse=True)
def _patient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "ANSWER_WITHIN", 60.0)
        patch.setattr(app, "BODY_WITHIN", 30.0)
        patch.setattr(intake, "BATCH_BUDGET", 40.0)
        patch.setattr(stream, "_TIMEOUT", 30.0)
        patch.setattr(cached, "RENEW_EVERY", 0.0)  # each wrong signature has the keys looked up, and so its own answer
        yield

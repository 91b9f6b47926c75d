"""Check the statements of `docs/versions.md` on this version of Airflow that no other test shows."""

from __future__ import annotations

import json

import pytest
from airflow.models.connection import Connection
from airflow.sdk.definitions.context import Context

from airflow_provider_cio.hooks.customerio import CustomerIOHook
from airflow_provider_cio.hooks.segment import SegmentHook
from tests.airflow_names import AIRFLOW

KEY = "key-0123456789abcdef"


def test_checkpoint_needs_3_3() -> None:
    assert ("task_state_store" in Context.__annotations__) == (AIRFLOW >= (3, 3))


def test_malformed_extra_since_3_2(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {"conn_type": "customerio", "password": KEY, "extra": "region=eu"}
    monkeypatch.setenv("AIRFLOW_CONN_CUSTOMERIO_DEFAULT", json.dumps(connection))
    said = "extra must be a JSON object" if AIRFLOW >= (3, 2) else "There is no connection"
    with pytest.raises(Exception, match=said):
        _ = CustomerIOHook().settings


def test_underscore_warning_before_3_2(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    connection = {"conn_type": "segment_source", "password": KEY}
    monkeypatch.setenv("AIRFLOW_CONN_SEGMENT_DEFAULT", json.dumps(connection))
    assert SegmentHook().settings.write_key == KEY
    warned = "RFC3986" in "".join([*capfd.readouterr(), caplog.text])
    assert warned == (AIRFLOW < (3, 2))


def test_underscore_warning_of_the_server_before_3_4(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The API server reads a connection of the database this way before a task gets it."""
    Connection(conn_id="segment_default", conn_type="segment_source", password=KEY).get_uri()
    warned = "RFC3986" in "".join([*capfd.readouterr(), caplog.text])
    assert warned == (AIRFLOW < (3, 4))

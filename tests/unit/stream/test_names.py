from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from airflow_provider_cio.stream import cached_names
from tests.sandbox import Fault, History, Sandbox
from tests.unit.stream.support import Running, connect, report

CAMPAIGNS = {
    "deliveries": [
        {"id": "a", "created": 1_793_491_200, "metrics": {}, "campaign_id": 9},
        {"id": "b", "created": 1_793_491_200, "metrics": {}, "newsletter_id": 4},
    ],
    "names": {("campaign", 9): "Welcome", ("newsletter", 4): "News of jane.doe@example.com"},
}


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(History(**CAMPAIGNS)) as one:  # type: ignore[arg-type]
        connect(monkeypatch, one, app_api=True)
        yield one


def sent_names(sandbox: Sandbox) -> list[str | None]:
    return [event["properties"].get("campaign_name") for event in sandbox.segment.kept]


def test_lists_of_names_are_read_once(sandbox: Sandbox) -> None:
    with Running({"main": {}}) as stream:
        for number in range(5):
            assert stream.post(report(delivery_id=f"d{number}")).status_code == 204
        assert stream.post(report(delivery_id="n", campaign_id=None, newsletter_id="4")).status_code == 204
        assert stream.post(report(delivery_id="x", campaign_id=None)).status_code == 204
    assert sent_names(sandbox) == ["Welcome"] * 5 + ["News of jane.doe@example.com", None]
    assert len(sandbox.customerio.requests) == 4


def test_names_are_masked(sandbox: Sandbox) -> None:
    with Running({"main": {"pii": "drop"}}) as stream:
        assert stream.post(report(campaign_id=None, newsletter_id=4)).status_code == 204
    assert sent_names(sandbox) == ["News of "]


def test_new_campaign_gets_its_name(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_names, "FRESH_FOR_A_NEW_ONE", 0.0)
    with Running({"main": {}}) as stream:
        assert stream.post(report(delivery_id="0")).status_code == 204
        rows = [{**row, "campaign_id": 10} for row in CAMPAIGNS["deliveries"]]  # type: ignore[dict-item]
        sandbox.history = History(rows, names={("campaign", 10): "Later"})
        ends = time.monotonic() + 10
        number = 1
        while sent_names(sandbox)[-1] != "Later" and time.monotonic() < ends:
            assert stream.post(report(delivery_id=str(number), campaign_id=10)).status_code == 204
            number += 1
    assert sent_names(sandbox)[:2] == ["Welcome", None]
    assert sent_names(sandbox)[-1] == "Later"


@pytest.mark.parametrize("kind", ["403", "500", "reset", "html200"])
def test_names_fail_no_report(
    sandbox: Sandbox, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.faults.add(Fault(side="customerio", kind=kind, times=100))  # type: ignore[arg-type]
    with Running({"main": {}}) as stream:
        assert stream.post(report()).status_code == 204
    assert sent_names(sandbox) == [None]
    assert caplog.text.count("No campaign_name for events with a campaign_id, newsletter_id, broadcast_id, ") == 1


def test_hanging_app_api_holds_no_thread(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """All streams share four threads that look up connections."""
    monkeypatch.setattr(cached_names, "_PATIENCE", 0.05)
    sandbox.settings.latency = 40
    with Running({f"s{number}": {} for number in range(8)}) as app:
        began = time.monotonic()
        for number in range(8):
            assert app.post(report(delivery_id=str(number)), f"s{number}").status_code == 204
            assert app.post(report(), f"s{number}", **{"x-cio-signature": "0" * 64}).status_code == 401
        assert app.post(report(), "other").status_code == 404
        assert time.monotonic() - began < 20, "nobody waited for the App API"
    assert sent_names(sandbox) == [None] * 8


def test_hanging_app_api_times_out(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cached_names, "_TIMEOUT", 0.2)
    monkeypatch.setattr(cached_names, "_PATIENCE", 0.05)
    sandbox.settings.latency = 40
    with Running({"main": {}}) as stream:
        assert stream.post(report()).status_code == 204
        ends = time.monotonic() + 20
        while "No campaign_name for events with a campaign_id" not in caplog.text:
            assert time.monotonic() < ends
            time.sleep(0.01)


def test_names_delay_no_report(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_names, "_PATIENCE", 0.05)
    sandbox.settings.latency = 20
    with Running({"main": {}}) as stream:
        began = time.monotonic()
        assert stream.post(report()).status_code == 204
        assert time.monotonic() - began < 4
    assert sent_names(sandbox) == [None]


def test_stream_without_an_app_api_key(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream without the key works, so the log has one line about it, and no warning."""
    monkeypatch.setattr(cached_names, "FRESH", 0.0)
    caplog.set_level("INFO", "airflow_provider_cio.stream")
    connect(monkeypatch, sandbox)
    with Running({"keyless": {}}) as stream:
        for number in range(3):
            assert stream.post(report(delivery_id=str(number)), "keyless").status_code == 204
    assert sent_names(sandbox) == [None] * 3
    lines = [record for record in caplog.records if "campaign_name" in record.getMessage()]
    # A thread of another test may still warn of its own stream.
    assert [one.levelname for one in lines if "'main'" not in one.getMessage()] == ["INFO"]
    assert sandbox.customerio.requests == []

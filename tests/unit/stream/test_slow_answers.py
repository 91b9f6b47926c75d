"""Segment's answers that come byte by byte hold no thread of a stream for good."""

from __future__ import annotations

import time

import pytest

from airflow_provider_cio.segment.batches import MAX_BATCHES
from airflow_provider_cio.stream import intake
from airflow_provider_cio.stream import stream as stream_module
from tests.sandbox import Fault, Sandbox
from tests.unit.stream.support import counted, report, running


def test_a_stream_goes_on_when_segment_is_well_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_TIMEOUT", 1.0)
    monkeypatch.setattr(intake, "BATCH_BUDGET", 0.2)
    monkeypatch.setattr(intake, "PAUSE", 0.05)
    with Sandbox() as sandbox, running(sandbox, monkeypatch) as stream:
        sandbox.faults.add(Fault(side="segment", kind="slow_body", seconds=0.9, times=100))
        began = time.monotonic()
        while not counted(stream)["unavailable.full"]:  # every thread is stuck
            assert stream.post(report(delivery_id=str(time.monotonic()))).status_code == 503
            assert time.monotonic() - began < 30
        assert len(sandbox.segment.requests) == MAX_BATCHES
        sandbox.faults.clear()
        # An answer has 21 bytes, so it would take 19 s, and a longer one any time.
        while stream.post(report()).status_code == 503:
            time.sleep(0.1)
            assert time.monotonic() - began < 14
        assert len(sandbox.segment.kept) > 0

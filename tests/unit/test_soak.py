"""Run the short form of `make soak`."""

from __future__ import annotations

from tests.soak.soak import soak


def test_short_soak() -> None:
    outcome = soak(30, sample_every=2)
    assert outcome.lost == []
    assert outcome.growing == []
    assert outcome.events > 1000
    assert outcome.faults > 10
    assert outcome.tries > outcome.intervals
    assert outcome.duplicates < outcome.events / 4

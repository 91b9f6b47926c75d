"""Run the short form of `make soak`."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.soak.soak import soak


def test_short_soak() -> None:
    # In a process of its own, because the memory of other tests would hide or make up growth.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as own:
        outcome = own.submit(soak, 30, sample_every=2).result()
    assert outcome.lost == []
    assert outcome.growing == []
    assert outcome.events > 1000
    assert outcome.faults > 10
    assert outcome.tries > outcome.intervals
    assert outcome.duplicates < outcome.events / 4

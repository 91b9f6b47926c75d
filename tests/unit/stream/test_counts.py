from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_provider_cio.stream import counts as module
from airflow_provider_cio.stream.counts import Counts
from tests.unit.statsd import listening, run


def test_counts_reach_airflows_metrics() -> None:
    code = """
from collections import Counter
from airflow_provider_cio.stream.counts import send_metrics
send_metrics("main", Counter({"sent": 12, "refused.malformed": 2, "unavailable.paused": 7, "rate_limited": 3}))
"""
    with listening() as listener:
        run(code, listener)
        received = listener.received()
    assert [line.partition(".")[2] for line in received] == [
        "customerio.stream.sent,stream=main:12|c",
        "customerio.stream.refused,stream=main,reason=malformed:2|c",
        "customerio.stream.unavailable,stream=main,reason=paused:7|c",
        "customerio.stream.rate_limited,stream=main:3|c",
    ]


def lines(counting: Callable[[Counts], object], caplog: pytest.LogCaptureFixture, wanted: int) -> list[tuple[int, str]]:
    """Return the lines that a stream's counts log within ten seconds at most, until there are enough lines."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            counting(Counts("main", pool))
            ends = time.monotonic() + 10
            while len(logged()) < wanted and time.monotonic() < ends:
                await asyncio.sleep(0.01)

    def logged() -> list[tuple[int, str]]:
        return [(one.levelno, one.getMessage()) for one in caplog.records if one.name == "airflow_provider_cio.stream"]

    asyncio.run(main())
    return logged()


def test_problems_make_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "FLUSH_EVERY", 0.01)

    def good(counts: Counts) -> None:
        for outcome in ("sent", "sent", "ignored.not_asked_for", "skipped.unidentified"):
            counts.add(outcome)

    def bad(counts: Counts) -> None:
        counts.add("unsigned")

    said = "Stream 'main', reports since the last line: "
    text = f"{said}sent 2, ignored.not_asked_for 1, skipped.unidentified 1"
    assert lines(good, caplog, 1) == [(logging.INFO, text)]
    caplog.clear()
    assert lines(bad, caplog, 1) == [(logging.WARNING, f"{said}unsigned 1")]


def test_problem_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    def problems(counts: Counts) -> None:
        for number in range(100):
            counts.problem("late", f"problem {number}")
        counts.problem("other", "another one")
        counts._problem_at["late"] -= module.LOG_EVERY
        counts.problem("late", "a minute later")

    texts = [text for _, text in lines(problems, caplog, 3)]
    assert texts == [f"Stream 'main': {text}" for text in ("problem 0", "another one", "a minute later")]


def test_waiting_is_logged_every_10_s(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert module.WAITS_EVERY == 10.0
    monkeypatch.setattr(module, "WAITS_EVERY", 0.3)

    def waits(counts: Counts) -> None:
        counts.waits("unavailable.not_reached", "Segment is away.", pause=25)
        for _ in range(5):
            counts.waits("unavailable.paused", pause=20)
        counts.waits("unavailable.late", "No answer in time.")
        asyncio.get_running_loop().call_later(1.5, counts.waits, "unavailable.full")

    said = [text for _, text in lines(waits, caplog, 3)]
    assert said[0].startswith("Stream 'main' waits: unavailable.not_reached 1; nothing is sent for another 25 s.")
    assert [re.sub(r"\d+ s\.", "N s.", text) for text in said] == [
        "Stream 'main' waits: unavailable.not_reached 1; nothing is sent for another N s. Segment is away.",
        "Stream 'main' waits: unavailable.paused 5, unavailable.late 1; nothing is sent for another N s. "
        "No answer in time.",
        "Stream 'main' waits: unavailable.full 1; nothing is sent for another N s.",
    ]
    first, second, _ = [record.created for record in caplog.records if record.name == "airflow_provider_cio.stream"]
    assert second - first >= 0.29

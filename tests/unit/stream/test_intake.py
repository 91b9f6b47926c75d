from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.events.event import Refused
from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.segment.batches import MAX_BATCH_BYTES, MAX_BATCH_EVENTS, MAX_BATCHES, Settled
from airflow_provider_cio.stream import intake as module
from airflow_provider_cio.stream.intake import Intake, Unavailable


class Far:
    """Receiver of batches: it takes one when it is let to, and may fail, or refuse items."""

    def __init__(
        self,
        *,
        open_: bool = True,
        fails: Callable[[list[bytes]], Exception | None] = lambda items: None,
        refuses: Callable[[bytes], bool] = lambda item: False,
    ):
        self.batches: list[list[bytes]] = []
        self.kept: Counter[bytes] = Counter()
        self.fails = fails
        self.refuses = refuses
        self.gate = threading.Event()
        if open_:
            self.gate.set()

    def send(self, items: list[bytes]) -> Iterator[Settled]:
        self.batches.append(items)
        assert self.gate.wait(10)
        if error := self.fails(items):
            raise error
        for item in items:
            if self.refuses(item):
                yield Settled([item], refused=Refused("refused_400", item))
        good = [item for item in items if not self.refuses(item)]
        self.kept.update(good)
        yield Settled(good)


async def outcome(put: Awaitable[Refused | None]) -> str:
    try:
        refused = await put
    except Unavailable as error:
        return error.reason
    return f"refused {refused.reason}" if refused else "taken"


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


def start(intake: Intake, items: list[bytes]) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(outcome(intake.put(item))) for item in items]


def test_single_items_go_at_once() -> None:
    async def main() -> None:
        far = Far()
        intake = Intake(far.send)
        assert intake.reached is None
        for item in (b"a", b"b", b"c"):
            assert await outcome(intake.put(item)) == "taken"
        assert far.batches == [[b"a"], [b"b"], [b"c"]]
        assert intake.reached is True

    asyncio.run(main())


def test_items_gather_beside_a_batch() -> None:
    async def main() -> None:
        far = Far(open_=False)
        intake = Intake(far.send)
        tasks = start(intake, [b"first"])
        await until(lambda: far.batches)
        rest = [b"%d" % number for number in range(200)]
        tasks += start(intake, rest)
        await until(lambda: len(far.batches) > 1)
        assert far.batches == [[b"first"], rest]
        far.gate.set()
        assert set(await asyncio.gather(*tasks)) == {"taken"}

    asyncio.run(main())


def test_items_gather_at_full_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER", 0.001)
    most = MAX_BATCHES

    async def main() -> None:
        far = Far(open_=False)
        intake = Intake(far.send)
        tasks = []
        for number in range(most):
            tasks += start(intake, [b"%d" % number])
            await until(lambda: len(far.batches) == number + 1)  # noqa: B023
        rest = [b"of the rest %d" % number for number in range(200)]
        for item in rest:
            tasks += start(intake, [item])
            await asyncio.sleep(0.0002)
        assert len(far.batches) == most
        far.gate.set()
        assert set(await asyncio.gather(*tasks)) == {"taken"}
        assert far.batches[most:] == [rest]

    asyncio.run(main())


def test_slow_batch_holds_partial_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the rate limit holds batches back, a partial one among many could wait too long."""
    monkeypatch.setattr(module, "GATHER", 0.001)
    monkeypatch.setattr(module, "BESIDE_WITHIN", 0.0)

    async def main() -> None:
        far = Far()
        intake = Intake(far.send)
        assert await outcome(intake.put(b"slow")) == "taken"
        far.gate.clear()
        tasks = start(intake, [b"first"])
        await until(lambda: len(far.batches) == 2)
        tasks += start(intake, [b"a", b"b"])
        await asyncio.sleep(0.02)
        assert len(far.batches) == 2
        far.gate.set()
        assert set(await asyncio.gather(*tasks)) == {"taken"}
        assert far.batches[2:] == [[b"a", b"b"]]

    asyncio.run(main())


@pytest.fixture
def gathers_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GATHER", 600.0)


@pytest.mark.usefixtures("gathers_for_ever")
def test_full_batch_does_not_wait() -> None:
    async def main() -> None:
        far = Far(open_=False)
        intake = Intake(far.send)
        tasks = start(intake, [b"first"])
        await until(lambda: far.batches)
        tasks += start(intake, [b"%d" % number for number in range(MAX_BATCH_EVENTS + 1)])
        await until(lambda: len(far.batches) == 2)
        assert len(far.batches[1]) == MAX_BATCH_EVENTS
        far.gate.set()
        assert set(await asyncio.gather(*tasks)) == {"taken"}
        assert [len(batch) for batch in far.batches] == [1, MAX_BATCH_EVENTS, 1]

    asyncio.run(main())


def test_batch_fits_into_a_request() -> None:
    async def main() -> None:
        far = Far(open_=False)
        intake = Intake(far.send)
        items = [bytes([number]) * 30_000 for number in range(70)]
        tasks = start(intake, items)
        await asyncio.sleep(0.05)
        far.gate.set()
        assert set(await asyncio.gather(*tasks)) == {"taken"}
        assert all(sum(map(len, batch)) + len(batch) <= MAX_BATCH_BYTES for batch in far.batches)
        assert far.kept == Counter(items)

    asyncio.run(main())


@pytest.mark.usefixtures("gathers_for_ever")
def test_full_queue_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_ITEMS", 10)

    async def main() -> None:
        far = Far(open_=False)
        intake = Intake(far.send)
        tasks = start(intake, [b"under way"])
        await until(lambda: far.batches)
        tasks += start(intake, [b"%d" % number for number in range(10)])
        await asyncio.sleep(0)
        assert await outcome(intake.put(b"one more")) == "full"
        assert await outcome(intake.put(b"x" * (module.MAX_WAITING_BYTES + 1))) == "full"
        far.gate.set()
        assert set(await asyncio.gather(*tasks)) == {"taken"}
        assert await outcome(intake.put(b"and again")) == "taken"
        assert await outcome(intake.put(b"x" * (module.MAX_WAITING_BYTES + 1))) == "taken", "nothing else waits"

    asyncio.run(main())


def test_each_caller_gets_its_outcome() -> None:
    """Two callers with the same item both get its outcome, though it is sent once."""

    async def main() -> None:
        far = Far(open_=False, refuses=lambda item: item.startswith(b"bad"))
        intake = Intake(far.send)
        items = [b"first", b"bad", b"good", b"bad", b"good", b"bad too"]
        tasks = start(intake, items)
        await asyncio.sleep(0.05)
        far.gate.set()
        assert await asyncio.gather(*tasks) == [
            "refused refused_400" if item.startswith(b"bad") else "taken" for item in items
        ]
        assert far.kept == Counter([b"first", b"good"])

    asyncio.run(main())


@pytest.mark.parametrize("ends", ["late", "not_reached"])
def test_settled_items_stay_settled(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BUDGET", 0.2 if ends == "late" else 10.0)
    gate = threading.Event()

    def send(items: list[bytes]) -> Iterator[Settled]:
        yield Settled([b"a"])
        yield Settled([b"b"], refused=Refused("refused_400", b"b"))
        if ends == "late":
            gate.wait(10)
        raise TryAgainLaterError("away")

    async def main() -> None:
        intake = Intake(send)
        assert await asyncio.gather(*start(intake, [b"a", b"b", b"c"])) == ["taken", "refused refused_400", ends]
        assert intake.reached is False
        gate.set()

    asyncio.run(main())


FAILURES = [TryAgainLaterError("away"), ConfigurationError("key"), OSError("secret"), RuntimeError("secret")]


@pytest.mark.parametrize("error", FAILURES)
def test_failures_begin_a_pause(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.2)

    async def main() -> None:
        far = Far(fails=lambda items: error)
        intake = Intake(far.send)
        outcomes = [await outcome(intake.put(b"%d" % number)) for number in range(6)]
        assert outcomes == ["not_reached"] * module.FAILURES_BEFORE_PAUSE + ["paused"] * 3
        assert len(far.batches) == module.FAILURES_BEFORE_PAUSE
        assert intake.reached is False
        await asyncio.sleep(0.25)
        assert await outcome(intake.put(b"probe")) == "not_reached"
        assert await outcome(intake.put(b"after the probe")) == "paused"
        far.fails = lambda items: None
        await asyncio.sleep(0.25)
        assert [await outcome(intake.put(b"x")) for _ in range(3)] == ["taken"] * 3

    asyncio.run(main())


def test_requested_pause_is_bounded() -> None:
    async def main() -> None:
        far = Far(fails=lambda items: TryAgainLaterError("too much", after=86_400))
        intake = Intake(far.send)
        assert await outcome(intake.put(b"a")) == "not_reached"
        assert await outcome(intake.put(b"b")) == "paused"
        assert intake._paused_until - time.monotonic() <= module.LONGEST_PAUSE

    asyncio.run(main())


@pytest.mark.usefixtures("gathers_for_ever")
def test_pause_returns_waiting_items() -> None:
    async def main() -> None:
        far = Far(open_=False, fails=lambda items: TryAgainLaterError("too much", after=5))
        intake = Intake(far.send)
        tasks = start(intake, [b"under way"])
        await until(lambda: far.batches)
        tasks += start(intake, [b"a", b"b"])
        await asyncio.sleep(0)
        far.gate.set()
        assert await asyncio.gather(*tasks) == ["not_reached"] * 3
        assert len(far.batches) == 1

    asyncio.run(main())


def test_late_batch_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BUDGET", 0.1)

    async def main() -> None:
        far = Far(open_=False)
        intake = Intake(far.send)
        assert await outcome(intake.put(b"slow")) == "late"
        tasks = start(intake, [b"next"])
        await until(lambda: len(far.batches) == 2)
        far.gate.set()
        assert await asyncio.gather(*tasks) == ["taken"]
        await until(lambda: far.kept == Counter([b"slow", b"next"]))  # the slow one comes again, under the same id

    asyncio.run(main())


def test_stuck_threads_take_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BUDGET", 0.02)
    monkeypatch.setattr(module, "FAILURES_BEFORE_PAUSE", 100)

    async def main() -> None:
        far = Far(open_=False)
        intake = Intake(far.send)
        for number in range(MAX_BATCHES):
            assert await outcome(intake.put(b"%d" % number)) == "late"
        assert await outcome(intake.put(b"one more")) == "full"
        far.gate.set()
        await until(lambda: far.kept.total() == MAX_BATCHES)
        await until(lambda: not intake._threads)
        assert await outcome(intake.put(b"again")) == "taken"

    asyncio.run(main())


@pytest.mark.usefixtures("gathers_for_ever")
def test_abandoned_item_is_not_sent() -> None:
    async def main() -> None:
        far = Far(open_=False)
        intake = Intake(far.send)
        tasks = start(intake, [b"under way"])
        await until(lambda: far.batches)
        gone, stays = start(intake, [b"gone", b"stays"])
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        far.gate.set()
        assert await asyncio.gather(*tasks, stays) == ["taken", "taken"]
        assert far.batches == [[b"under way"], [b"stays"]]

    asyncio.run(main())


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["taken", "away"]), max_size=60), st.data())
def test_acknowledged_items_are_kept(steps: list[Any], data: st.DataObject) -> None:
    """A caller that repeats its items until they are acknowledged ends with every possible item kept."""

    async def main() -> None:
        plan = iter(steps)

        def fails(items: list[bytes]) -> Exception | None:
            kind = next(plan, "taken")
            return TryAgainLaterError("away") if kind == "away" else None

        far = Far(fails=fails, refuses=lambda item: b"bad" in item)
        intake = Intake(far.send)

        async def sender(number: int) -> None:
            for step in range(4):
                item = b"%d-%d%s" % (number, step, b"bad" if (number + step) % 5 == 0 else b"")
                for _ in range(1000):
                    said = await outcome(intake.put(item))
                    if said in ("taken", "refused refused_400"):
                        break
                    intake._paused_until = 0.0  # the clock, in a moment
                assert (said == "taken") == (far.kept[item] > 0)
                assert (said == "taken") == (b"bad" not in item)

        await asyncio.gather(*(sender(number) for number in range(data.draw(st.integers(1, 8)))))

    asyncio.run(main())

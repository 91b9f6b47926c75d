from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_provider_cio.stream import cached as module
from airflow_provider_cio.stream.cached import Cached, NotFoundYet


class Backend:
    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def look_up(self, before: int | None) -> int:
        assert self.gate.wait(10)
        self.asked += 1
        if self.error:
            raise self.error
        assert before is None or before < self.asked
        return self.asked


def run(check: Callable[[Backend, Cached[int], list[BaseException]], object]) -> None:
    async def main() -> None:
        backend, failed = Backend(), list[BaseException]()
        with ThreadPoolExecutor(2) as pool:
            await check(backend, Cached(backend.look_up, pool, failed.append), failed)  # type: ignore[misc]

    asyncio.run(main())


def test_concurrent_gets_ask_once() -> None:
    async def check(backend: Backend, cached: Cached[int], failed: list[BaseException]) -> None:
        assert cached.value is None
        assert await asyncio.gather(*(cached.get() for _ in range(50))) == [1] * 50
        assert await cached.get() == cached.value == backend.asked == 1

    run(check)


def test_old_value_serves_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH", 0.0)

    async def check(backend: Backend, cached: Cached[int], failed: list[BaseException]) -> None:
        await cached.get()
        backend.gate.clear()
        began = time.monotonic()
        assert await cached.get() == 1
        assert time.monotonic() - began < 5, "it does not wait"
        backend.gate.set()
        async with asyncio.timeout(10):
            while cached.value == 1:
                await asyncio.sleep(0.001)
        assert cached.value == 2

    run(check)


def test_failure_keeps_the_value() -> None:
    async def check(backend: Backend, cached: Cached[int], failed: list[BaseException]) -> None:
        assert await cached.get() == 1
        backend.error = LookupError("not found")
        assert await cached.renewed() == 1
        assert [type(error) for error in failed] == [LookupError]
        backend.error = None
        assert await cached.renewed() == 3

    run(check)


def test_failure_without_a_value_pauses() -> None:
    async def check(backend: Backend, cached: Cached[int], failed: list[BaseException]) -> None:
        backend.error = LookupError("not found")
        for ask in (cached.get, cached.get):
            with pytest.raises(NotFoundYet):
                await ask()
        assert backend.asked == len(failed) == 1
        cached._begun_at -= module.PAUSE
        backend.error = None
        assert await cached.get() == 2

    run(check)


def test_look_ups_are_rate_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_EVERY", 60.0)

    async def check(backend: Backend, cached: Cached[int], failed: list[BaseException]) -> None:
        for _ in range(100):
            assert await cached.renewed() == 1
        assert backend.asked == 1
        cached._begun_at -= module.RENEW_EVERY
        asked_at = time.monotonic()
        assert cached.as_of < asked_at
        assert await asyncio.gather(*(cached.renewed() for _ in range(100))) == [2] * 100
        assert cached.as_of >= asked_at
        cached._begun_at -= module.RENEW_EVERY
        before, backend.error = cached.as_of, LookupError("not found")
        assert await cached.renewed() == 2
        assert cached.as_of == before, "a look-up that failed shows nothing new"

    run(check)


def test_cancelled_get_ends_no_look_up() -> None:
    async def check(backend: Backend, cached: Cached[int], failed: list[BaseException]) -> None:
        backend.gate.clear()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cached.get(), 0.02)
        backend.gate.set()
        assert await cached.get() == 1
        assert (backend.asked, failed) == (1, [])

    run(check)

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


def test_a_result_is_looked_up_once_for_all_who_ask() -> None:
    async def check(backend: Backend, cached: Cached[int], failed: list[BaseException]) -> None:
        assert cached.value is None
        assert await asyncio.gather(*(cached.get() for _ in range(50))) == [1] * 50
        assert await cached.get() == cached.value == backend.asked == 1

    run(check)


def test_an_old_one_is_used_while_the_new_one_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_last_good_one_stays_when_the_backend_fails() -> None:
    async def check(backend: Backend, cached: Cached[int], failed: list[BaseException]) -> None:
        assert await cached.get() == 1
        backend.error = LookupError("not found")
        assert await cached.renewed() == 1
        assert [type(error) for error in failed] == [LookupError]
        backend.error = None
        assert await cached.renewed() == 3

    run(check)


def test_without_a_good_one_it_says_so_and_is_not_asked_again_at_once() -> None:
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


def test_strangers_cannot_have_it_looked_up_for_each_of_their_requests(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_who_stops_waiting_ends_no_look_up() -> None:
    async def check(backend: Backend, cached: Cached[int], failed: list[BaseException]) -> None:
        backend.gate.clear()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cached.get(), 0.02)
        backend.gate.set()
        assert await cached.get() == 1
        assert (backend.asked, failed) == (1, [])

    run(check)

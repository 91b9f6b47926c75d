"""Bound on the memory of bodies whose signature is not verified yet: any stranger can send them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from airflow_provider_cio.stream.intake import Unavailable

#: Bytes of all such bodies together, over all streams of an application.
MOST = 64 * 2**20


class Body:
    """One body.

    :param ends: time limit that is over once the body is dropped.
    """

    def __init__(self, ends: asyncio.Timeout) -> None:
        self.ends = ends
        #: The bytes that have come so far.
        self.data = bytearray()


class Unverified:
    """All bodies that are not verified yet, for one event loop.

    A part that finds no room makes room: the largest body is dropped. Real reports are small, so they get through a
    flood of large bodies.
    """

    def __init__(self) -> None:
        self._bodies: set[Body] = set()
        #: Bytes of all bodies.
        self.size = 0

    @asynccontextmanager
    async def body(self) -> AsyncIterator[Body]:
        """Hold a new body until the end of the block.

        :raises Unavailable: the body was dropped.
        """
        try:
            async with asyncio.timeout(None) as ends:
                body = Body(ends)
                self._bodies.add(body)
                try:
                    yield body
                finally:
                    self._forget(body)
        except TimeoutError:
            if ends.expired():
                raise _crowded() from None
            raise

    def extend(self, body: Body, part: bytes) -> None:
        """Add a part to a body.

        :raises Unavailable: there is no room, and this body is the largest; or it was just dropped.
        """
        if body not in self._bodies:
            raise _crowded()
        while self.size + len(part) > MOST:
            largest = max(self._bodies, key=lambda one: len(one.data))
            if len(largest.data) <= len(body.data):
                raise _crowded()
            self._forget(largest)
            largest.ends.reschedule(0)  # wakes its request up, which then answers
        body.data += part
        self.size += len(part)

    def _forget(self, body: Body) -> None:
        if body in self._bodies:
            self._bodies.remove(body)
            self.size -= len(body.data)
            body.data = bytearray()


def _crowded() -> Unavailable:
    return Unavailable("crowded", f"unverified bodies fill {MOST // 2**20} MiB, so the largest ones are turned away")

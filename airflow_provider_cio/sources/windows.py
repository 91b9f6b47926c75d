"""Which windows to read for an interval. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from airflow_provider_cio.clients.customerio import PAGE_SIZE
from airflow_provider_cio.events.catalog import Collection
from airflow_provider_cio.interval import Interval

LONGEST_WINDOW = 90 * 86_400  # seconds; the API silently cuts at six months


class Window(NamedTuple):
    """Deliveries of one channel created in ``[start, end)``, Unix seconds, read with one chain of pages."""

    channel: str
    start: int
    end: int
    drafts: bool = False

    def query(self) -> dict[str, str | int]:
        """For `/v1/messages`, whose bounds are both inclusive."""
        query: dict[str, str | int] = {"type": self.channel, "start_ts": self.start, "end_ts": self.end - 1}
        return query | {"limit": PAGE_SIZE} | ({"drafts": "true"} if self.drafts else {})


def plan(interval: Interval, lookback: int, collections: Sequence[Collection]) -> list[Window]:
    """The windows that hold every delivery an occurrence in the interval can belong to.

    They cover ``[start - lookback, end)`` without gap or overlap, since a delivery is found by when it was
    created, not by when something happened to it.

    Drafts are listed apart from what was sent, so they are read too if their collection is wanted.

    :param lookback: seconds.
    """
    first = max(0, interval.start - lookback)
    count = -(-(interval.end - first) // LONGEST_WINDOW)
    bounds = [first + (interval.end - first) * i // count for i in range(count + 1)] if count else []
    channels = dict.fromkeys(collection.channel for collection in collections)
    with_drafts = {collection.channel for collection in collections if collection.metric == "drafted"}
    return [
        Window(channel, start, end, drafts)
        for channel in channels
        for drafts in ((True, False) if channel in with_drafts else (False,))
        for start, end in pairwise(bounds)
    ]

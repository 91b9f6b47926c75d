"""The windows of creation times that a run reads, and their queries. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Protocol

from airflow_provider_cio.customerio.client import PAGE_SIZE
from airflow_provider_cio.events.catalog import Collection
from airflow_provider_cio.events.interval import Ages, Interval, Window

#: Seconds. Customer.io silently cuts a request that spans more than six months.
LONGEST_WINDOW = 90 * 86_400
#: Seconds by which a delivery's `created` may be later than its first metric, because another clock may stamp it.
CREATED_LATE = 60


class Done(Protocol):
    """The windows whose events earlier tries of the run have delivered."""

    def __bool__(self) -> bool: ...

    def rest(self, windows: Iterable[Window]) -> list[Window]:
        """Return the parts of these windows that are not done."""

    def covers(self, window: Window, created: int) -> bool:
        """Return whether a delivery of that window's list, created then, is in a window that is done."""


def query_of(window: Window, page_size: int = PAGE_SIZE) -> dict[str, str | int]:
    """Return the query of a window's first page, for `/v1/messages`, whose bounds are both inclusive."""
    query: dict[str, str | int] = {"type": window.channel, "start_ts": window.start, "end_ts": window.end - 1}
    return query | {"limit": page_size} | ({"drafts": "true"} if window.drafts else {})


def plan(interval: Interval, ages: Ages, collections: Sequence[Collection]) -> list[Window]:
    """Return the windows that hold every delivery to which something that counts can have happened in the interval.

    They cover ``[start - lookback, end - older_than)`` without gap or overlap, because Customer.io finds a delivery by
    its creation. Without `older_than` they end at ``end + 60 s``, and one bound is the interval's start, so that a
    malformed row without a time is known to be this interval's own, or an earlier one's. Drafts are a list of their
    own, which is read only if their collection is wanted.
    """
    first = max(0, interval.start - ages.lookback)
    if ages.older_than:
        bounds = _even(first, interval.end - ages.older_than)
    else:
        bounds = [*_even(first, interval.start), *_even(interval.start, interval.end + CREATED_LATE)]
    channels = dict.fromkeys(collection.channel for collection in collections)
    with_drafts = {collection.channel for collection in collections if collection.metric == "drafted"}
    return [
        Window(channel, start, end, drafts)
        for channel in channels
        for drafts in ((True, False) if channel in with_drafts else (False,))
        for start, end in bounds
    ]


def created_between(interval: Interval, channel: str, *, drafts: bool = False) -> list[Window]:
    """Return windows that cover the interval without gap or overlap."""
    return [Window(channel, start, end, drafts) for start, end in _even(*interval)]


def _even(start: int, end: int) -> list[tuple[int, int]]:
    """Divide ``[start, end)`` into equal parts that the API does not cut."""
    count = -(-(end - start) // LONGEST_WINDOW)
    return list(pairwise(start + (end - start) * part // count for part in range(count + 1))) if count else []

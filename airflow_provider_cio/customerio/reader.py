"""Read Customer.io's lists with several requests in flight, as many as keep its rate limit busy.

The orchestration runs in one thread, the caller's; only the requests run in others. So there is no shared state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple, ParamSpec, Self, TypeVar

from airflow_provider_cio.customerio.client import ACTIVITY_PAGE_SIZE, PAGE_SIZE, CustomerIOClient, Page
from airflow_provider_cio.customerio.paging import MAX_IDLE_PAGES, Chain, Cursors, Paging, endless
from airflow_provider_cio.customerio.rows import Activity, Delivery
from airflow_provider_cio.events.interval import Window
from airflow_provider_cio.events.occurrence import Malformed

P = ParamSpec("P")
T = TypeVar("T")
Row = TypeVar("Row", Delivery, Malformed)

#: Requests in flight at once: enough for ten requests a second whose answers take more than a second.
MAX_REQUESTS = 12
#: Requests beyond those that use up the rate at the present latency, because the limiter allows short bursts.
_BEYOND_RATE = 1
#: Seconds by which activities may be out of order. Consumers observed it; nobody documents it.
TOLERANCE = 3600
#: Empty pages in a row after which a list of activities counts as ended: some lists end with a cursor to nowhere.
MAX_EMPTY_ACTIVITY_PAGES = 5
#: Most pages of one reader: eleven days of requests at ten a second, which is Customer.io's limit for a workspace.
MAX_PAGES = 10_000_000
#: Ids remembered of each list, so that a delivery that moves to a later page is passed on once.
_REMEMBERED = 20_000


class Read(NamedTuple):
    """A page of deliveries.

    :param window: the window that it is a page of; it is not cut any more.
    :param last: with this page the window has been read to its end.
    """

    deliveries: Sequence[Delivery]
    malformed: Sequence[Malformed]
    window: Window
    last: bool


class Reader:
    """Reads with `client`, which it owns: entering it enters the client, leaving it closes the client.

    Nothing waits for requests that are still in flight then: of a run that fails, or for names that no event needs.

    :param page_size: deliveries that one request asks for.
    :param activity_page_size: activities that one request asks for.
    """

    def __init__(
        self,
        client: CustomerIOClient,
        *,
        page_size: int = PAGE_SIZE,
        activity_page_size: int = ACTIVITY_PAGE_SIZE,
    ) -> None:
        self.client = client
        self._page_size = page_size
        self._activity_page_size = activity_page_size
        self._out_of_order = self._cut_short = self._pages = 0
        self._pool = ThreadPoolExecutor(MAX_REQUESTS, thread_name_prefix="customerio")

    def counts(self) -> dict[str, int]:
        """Return the work so far.

        ``out_of_order`` counts pages of deliveries that were not newest first, ``cut_short`` lists of activities that
        were taken to have ended, though each page named a further one.
        """
        return {
            "requests": self.client.requests_made,
            "retried": self.client.retried,
            "rate_limited": self.client.rate_limited,
            "out_of_order": self._out_of_order,
            "cut_short": self._cut_short,
        }

    def waiting(self) -> str | None:
        """Return one sentence about the client's current wait, or None."""
        return self.client.waiting()

    def submit(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a request beside the pages."""
        return self._pool.submit(call, *args, **kwargs)

    def deliveries(self, windows: Sequence[Window]) -> Iterator[Read]:
        """Yield the pages of all windows, in no order. A delivery that is met twice in a window is passed on once.

        Long windows are cut. The pages of a window are yielded as soon as it will not be cut any more.

        Windows of drafts come first, and end before any other begins: a draft that is sent meanwhile then
        shows up in the second list rather than in neither.

        :raises TryAgainLaterError: a list that would not end.
        """
        for drafts in (True, False):
            yield from self._all([window for window in windows if window.drafts is drafts])

    def _all(self, windows: Sequence[Window]) -> Iterator[Read]:
        paging = Paging(windows, self._page_size)
        running: dict[Future[Page[Delivery]], Chain] = {}
        begun: dict[Chain, _Pages] = {}
        ready: deque[Read] = deque()
        while True:
            slots = min(MAX_REQUESTS, self.client.wanted_in_flight() + _BEYOND_RATE)
            while len(running) < slots and (chain := paging.next()):
                running[self.submit(self.client.page, chain.query)] = chain
            if ready:
                yield ready.popleft()
            if not running and not ready:
                return
            # One at a time: finished pages must not pile up in memory.
            answered = next(iter(wait(running, 0 if ready else None, FIRST_COMPLETED).done), None)
            if answered:
                chain = running.pop(answered)
                pages = begun.pop(chain, None) or _Pages()
                page = answered.result()
                self._count_page()
                if self._take(paging, chain, pages, page):
                    ready.extend(pages.passed_on(chain))
                    if not chain.has_ended:
                        begun[chain] = pages

    def _take(self, paging: Paging, chain: Chain, pages: _Pages, page: Page[Delivery]) -> bool:
        """Return False if the page is thrown away, with those before it."""
        times = [delivery.created for delivery in page.rows]
        self._out_of_order += times != sorted(times, reverse=True)
        progress = pages.add(page, chain.window)
        return paging.take(chain, times, len(times) + len(page.malformed), page.next, progress=progress)

    def activities(self, types: Sequence[str], since: int) -> Iterator[tuple[str, Page[Activity]]]:
        """Yield types and pages of their activities, each type from its newest back to that time.

        There is no filter by time, and some rows are out of order: the reading goes on until a page is all older
        than it by more than the tolerance.

        :raises TryAgainLaterError: a list that would not end.
        """
        running: dict[Future[Page[Activity]], _ActivityChain] = {}
        for kind in types:
            chain = _ActivityChain(kind, self._activity_page_size)
            running[self.submit(self.client.activity_page, chain.query)] = chain
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                chain = running.pop(future)
                page = future.result()
                self._count_page()
                goes_on = chain.goes_on(page, since)
                self._cut_short += chain.cut_short
                if goes_on:
                    running[self.submit(self.client.activity_page, chain.query)] = chain
                yield chain.kind, page

    def _count_page(self) -> None:
        """Count a page. New rows inside the bounds look like a larger account, so that only their number can tell.

        :raises TryAgainLaterError: these are more than any account has.
        """
        self._pages += 1
        if self._pages > MAX_PAGES:
            raise endless(f"sent more than {MAX_PAGES:,} pages")

    def deliveries_by_id(self, ids: Sequence[str]) -> Iterator[tuple[str, Delivery | Malformed | None]]:
        """Yield each delivery with its id; None for one that Customer.io no longer has."""
        futures = [(delivery_id, self.submit(self.client.delivery, delivery_id)) for delivery_id in ids]
        for delivery_id, future in futures:
            yield delivery_id, future.result()

    def __enter__(self) -> Self:
        self.client.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Pages:
    """The pages of one window that are not passed on yet.

    A row moves to a later page, and is met twice, if another one arrives at the head of the list in between.
    """

    def __init__(self) -> None:
        self._held: list[Page[Delivery]] = []
        self._met = _Met()

    def add(self, page: Page[Delivery], window: Window) -> bool:
        """Hold the rows that were on no page before, and return whether one of them was created inside the window.

        A malformed row without an id always counts as one to pass on, but as a new one only once.
        """
        rows, malformed = page.rows, page.malformed
        ids = _identities(page)
        met = self._met.of(ids)
        if met or malformed or len(ids) < len(rows):
            rows, malformed = _each_once(rows, met), _each_once(malformed, met)
        self._held.append(page._replace(rows=rows, malformed=malformed))
        _, start, end, _ = window
        return any(start <= row.created < end for row in rows) or any(
            _identity(row) not in met and (row.created is None or start <= row.created < end) for row in malformed
        )

    def passed_on(self, chain: Chain) -> Iterator[Read]:
        """Yield the pages that are held.

        None is yielded while the window may still be cut: what is thrown away must not have been passed on.
        """
        while chain.is_final and self._held:
            page = self._held.pop(0)
            last = chain.has_ended and not self._held
            yield Read(page.rows, page.malformed, chain.window, last)


class _Met:
    """Identities of the last rows of a list."""

    def __init__(self) -> None:
        self._ids: set[int] = set()

    def of(self, ids: set[int]) -> set[int]:
        """Return those of these ids that were met before, and remember all of them."""
        met = ids & self._ids
        if len(self._ids) < _REMEMBERED:
            self._ids |= ids
        else:
            self._ids = ids
        return met


def _identities(page: Page[Delivery] | Page[Activity]) -> set[int]:
    """Return the identities of all rows: hashes of their ids, because an id may be as long as an answer."""
    return {hash(row.id) for row in page.rows}.union(map(_identity, page.malformed))


def _identity(row: Malformed) -> int:
    """Return a hash of the row's id; without an id, of the whole row."""
    return hash(row.id or row.raw)


def _each_once(rows: Sequence[Row], met: set[int]) -> list[Row]:
    """Return the rows that were not met before. Malformed ones without an id always count as new."""
    return list({row.id or at: row for at, row in enumerate(rows) if not row.id or hash(row.id) not in met}.values())


class _ActivityChain:
    """The pages of one type of activity, newest first."""

    def __init__(self, kind: str, page_size: int) -> None:
        self.kind = kind
        self.query: dict[str, str | int] = {"type": kind, "limit": page_size}
        self.cut_short = False
        self._followed = Cursors()
        self._met = _Met()
        self._empty = self._idle = 0

    def goes_on(self, page: Page[Activity], since: int) -> bool:
        """Set the next query, and return whether there is more to ask."""
        times = [row.timestamp for row in page.rows]
        times += [row.created for row in page.malformed if row.created is not None]
        ids = _identities(page)
        self._empty = 0 if ids else self._empty + 1
        self._idle = 0 if ids - self._met.of(ids) else self._idle + 1
        if page.next is None:
            return False
        if self._empty >= MAX_EMPTY_ACTIVITY_PAGES:
            self.cut_short = True
            return False
        if times and max(times) < since - TOLERANCE:
            return False
        if self._followed.has(page.next):
            if self._empty:
                return False
            raise endless(f"named the same next page of {self.kind} twice")
        if self._idle > MAX_IDLE_PAGES:
            raise endless(f"sent no new row of {self.kind} in {MAX_IDLE_PAGES} pages")
        self.query = self.query | {"start": page.next}
        return True

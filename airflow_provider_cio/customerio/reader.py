"""Read Customer.io's lists with several requests in flight, as many as keep its rate limit busy.

The orchestration runs in one thread, the caller's; only the requests run in others. So there is no shared state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple, Self, TypeVar

from airflow_provider_cio.customerio.client import ACTIVITY_PAGE_SIZE, CustomerIOClient, Page
from airflow_provider_cio.customerio.rows import Activity, Delivery
from airflow_provider_cio.customerio.schedule import Chain, Schedule
from airflow_provider_cio.events.interval import Window
from airflow_provider_cio.events.occurrence import Malformed
from airflow_provider_cio.exceptions import TryAgainLaterError

Row = TypeVar("Row", Delivery, Malformed)
T = TypeVar("T")

#: In flight. Enough for answers that take more than a second at ten requests a second.
MAX_REQUESTS = 12
#: Beyond the requests that use up the rate at the latency seen so far: the limiter allows short bursts.
_BEYOND_RATE = 1
#: Seconds by which activities may be out of order; observed, nowhere documented.
TOLERANCE = 3600
#: In a row, before a list of activities counts as ended: some lists end with a cursor that leads nowhere.
MAX_EMPTY_ACTIVITY_PAGES = 5
#: Ids that are remembered for each chain, to pass on once a delivery that moves to the next page while it is read.
_REMEMBERED = 20_000


class Read(NamedTuple):
    """A page of deliveries.

    :param window: the window that it is a page of.
    :param last: with this page the window has been read to its end.
    """

    deliveries: Sequence[Delivery]
    malformed: Sequence[Malformed]
    window: Window
    last: bool


class Reader:
    """Reads with `client`. If it is left by an exception it closes the client and waits for no request.

    :param out_of_order: pages of deliveries so far that were not newest first.
    :param cut_short: lists of activities that were taken to have ended, though each page named a further one.
    """

    def __init__(self, client: CustomerIOClient) -> None:
        self.client = client
        self.out_of_order = self.cut_short = 0
        self.pool = ThreadPoolExecutor(MAX_REQUESTS, thread_name_prefix="customerio")

    def deliveries(self, windows: Sequence[Window]) -> Iterator[Read]:
        """All windows, page by page, in no order. A delivery that is met twice in a window is passed on once.

        Windows of drafts come first, and end before any other begins: a draft that is sent meanwhile then
        shows up in the second list rather than in neither.

        :raises TryAgainLaterError: a list that would not end.
        """
        for drafts in (True, False):
            yield from self._all([window for window in windows if window.drafts is drafts])

    def _all(self, windows: Sequence[Window]) -> Iterator[Read]:
        schedule = Schedule(windows)
        passed_on = _PassedOn()
        running: dict[Future[Page[Delivery]], Chain] = {}
        read: Read | None = None
        while True:
            slots = min(MAX_REQUESTS, self.client.wanted_in_flight() + _BEYOND_RATE)
            while len(running) < slots and (chain := schedule.next()):
                running[self.pool.submit(self.client.page, chain.query)] = chain
            if read:
                yield read
            if not running:
                return
            # One at a time: so many pages are in memory as may be in flight, and not as many again that wait.
            answered = next(iter(wait(running, return_when=FIRST_COMPLETED).done))
            read = self._read(schedule, passed_on, running.pop(answered), answered.result())

    def _read(self, schedule: Schedule, passed_on: _PassedOn, chain: Chain, page: Page[Delivery]) -> Read | None:
        """What of the page is passed on; None if its window is asked anew."""
        times = [delivery.created for delivery in page.rows]
        self.out_of_order += times != sorted(times, reverse=True)
        if not schedule.take(chain, times, page.next, len(page.malformed)):
            passed_on.keep(chain)
            return None
        last = page.next is None
        rows, malformed = passed_on.new(chain, page, last=last)
        return Read(rows, malformed, chain.window, last)

    def activities(self, types: Sequence[str], since: int) -> Iterator[tuple[str, Page[Activity]]]:
        """Pages of activities of these types with theirs, each type from its newest back to that time.

        There is no filter by time, and some rows are out of order: the reading goes on until a page is all older
        than it by more than the tolerance.

        :raises TryAgainLaterError: a list that would not end.
        """
        running: dict[Future[Page[Activity]], _ActivityChain] = {}
        for kind in types:
            chain = _ActivityChain(kind)
            running[self.pool.submit(self.client.activity_page, chain.query)] = chain
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                chain = running.pop(future)
                page = future.result()
                goes_on = chain.goes_on(page, since)
                self.cut_short += chain.cut_short
                if goes_on:
                    running[self.pool.submit(self.client.activity_page, chain.query)] = chain
                yield chain.kind, page

    def deliveries_by_id(self, ids: Sequence[str]) -> Iterator[tuple[str, Delivery | Malformed | None]]:
        """Each by its id; None for one that Customer.io has no more."""
        futures = [(delivery_id, self.pool.submit(self.client.delivery, delivery_id)) for delivery_id in ids]
        for delivery_id, future in futures:
            yield delivery_id, future.result()

    def submit(self, call: Callable[..., T], *args: object) -> Future[T]:
        return self.pool.submit(call, *args)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self.client.close()
        self.pool.shutdown(wait=not kind, cancel_futures=True)


class _PassedOn:
    """Which deliveries have been passed on: those of a chain's latest pages, and those of windows asked anew.

    A row moves to the next page, and is met twice, if another one arrives at the head of the list in between.
    """

    def __init__(self) -> None:
        self._of_chain: dict[int, set[str]] = {}
        self._of_windows_asked_anew: set[str] = set()

    def new(self, chain: Chain, page: Page[Delivery], *, last: bool) -> tuple[Sequence[Delivery], Sequence[Malformed]]:
        """The page's rows that were not passed on before. An odd row without an id is always taken for a new one."""
        rows, malformed = page.rows, page.malformed
        ids = {row.id for row in rows}
        ids.update(row.id for row in malformed if row.id)
        known = self._of_chain.get(chain.part, set())
        met = ids & known | ids & self._of_windows_asked_anew
        self._of_windows_asked_anew -= ids
        if met or malformed or len(ids) < len(rows):
            rows, malformed = _each_once(rows, met), _each_once(malformed, met)
        if last:
            self._of_chain.pop(chain.part, None)
        else:
            self._of_chain[chain.part] = ids | known if len(known) < _REMEMBERED else ids
        return rows, malformed

    def keep(self, chain: Chain) -> None:
        """The chain's window is asked anew."""
        self._of_windows_asked_anew |= self._of_chain.pop(chain.part, set())


def _each_once(rows: Sequence[Row], met: set[str]) -> list[Row]:
    """Those that were not met before, by id."""
    return list({row.id or at: row for at, row in enumerate(rows) if row.id not in met}.values())


class _ActivityChain:
    """The pages of one type of activity, from its newest on."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.query: dict[str, str | int] = {"type": kind, "limit": ACTIVITY_PAGE_SIZE}
        self.cut_short = False
        self._cursors: set[str] = set()
        self._empty = 0

    def goes_on(self, page: Page[Activity], since: int) -> bool:
        """Set the next query, if there is more to ask. Other clients take one empty page for the end of the list."""
        times = [row.timestamp for row in page.rows]
        times += [row.created for row in page.malformed if row.created is not None]
        self._empty = 0 if page.rows or page.malformed else self._empty + 1
        if page.next is None:
            return False
        if self._empty >= MAX_EMPTY_ACTIVITY_PAGES:
            self.cut_short = True
            return False
        if times and max(times) < since - TOLERANCE:
            return False
        if page.next in self._cursors:
            if self._empty:
                return False
            raise TryAgainLaterError(
                f"Customer.io named the same next page of {self.kind} twice: the list would never end. "
                "A retry asks anew."
            )
        self._cursors.add(page.next)
        self.query = self.query | {"start": page.next}
        return True

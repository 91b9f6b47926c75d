"""Read windows with several chains of pages at once, as many as keep the API's rate limit busy.

A chain asks for one page after the other, so it alone gets no more than one page per round trip. As soon as a
page shows how dense a window is, the part of it that is still unread is cut, and each piece gets a chain of its own.

The orchestration runs in one thread, the caller's; only the requests run in others. So there is no shared state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from math import ceil
from typing import NamedTuple, Self

from airflow_provider_cio.clients.customerio import (
    ACTIVITY_PAGE_SIZE,
    CustomerIOClient,
    Page,
)
from airflow_provider_cio.exceptions import UnexpectedDataError
from airflow_provider_cio.records import Activity, Delivery, Misshapen
from airflow_provider_cio.sources.windows import Window

MAX_IN_FLIGHT = 12  # requests; enough for answers that take more than a second at ten requests a second
TOLERANCE = 3600  # seconds by which activities may be out of order; observed, nowhere documented
MAX_EMPTY_PAGES = 1000  # in a row, before a chain counts as stuck
MAX_EMPTY_ACTIVITY_PAGES = 5  # in a row, before a list of activities counts as ended

# How a window is cut, in pages. Found by simulating 20,000 to 300,000 deliveries, evenly spread and in bursts of
# several shapes, at 0.3 s a page.
_FAR = 100.0  # up to that many pages the density of the last one is believed, and the window cut into equal parts
_SPARE = 0.2  # parts are a whole number of pages less this, so that no page is asked for its first few deliveries
# Beyond, only the newer part is measured by that density, and an ever larger one the further off:
_FIRST_KEPT = 6.0  # as long as one page is all that was seen of the window
_GROWTH = 2.0  # how much more each further piece gets that is cut before its own first page was seen
_LATER_KEPT = 12.0
_WORTH_CUTTING = 1.0  # pages beyond the one in flight


class Piece(NamedTuple):
    """A page of deliveries, and the window that has been read whole with it, if any."""

    deliveries: Sequence[Delivery]
    finished: Window | None


class Reader:
    """Reads with `client`, which it closes if it is left by an exception: that ends the requests in flight."""

    def __init__(self, client: CustomerIOClient) -> None:
        self._client = client
        self._pool = ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix="customerio")
        self._running: dict[Future[Page[Delivery]], _Chain] = {}

    def pieces(self, windows: Sequence[Window]) -> Iterator[Piece]:
        """The deliveries of all windows, each once, in no order; and the windows themselves, in pieces, likewise.

        Windows of drafts come first, and end before any other begins: a draft that is sent meanwhile then
        shows up in the second list rather than in neither.
        """
        for drafts in (True, False):
            yield from self._all([window for window in windows if window.drafts is drafts])

    def abandon(self) -> None:
        """No more pieces are needed: drop the requests that have not begun, and wait for those that have."""
        for future in self._running:
            future.cancel()
        wait(self._running)
        self._running.clear()

    def _all(self, windows: Sequence[Window]) -> Iterator[Piece]:
        waiting = deque(windows)
        running = self._running
        chains: list[_Chain] = []
        while waiting or chains:
            wanted = min(MAX_IN_FLIGHT, self._client.wanted_in_flight())
            while waiting and len(chains) < wanted:
                chains.append(_Chain(waiting.popleft()))
            if not waiting:
                _share(chains, wanted)
            for chain in chains:
                if not chain.asked:
                    chain.asked = True
                    running[self._pool.submit(self._client.page, chain.query)] = chain
            pieces = []
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                chain = running.pop(future)
                pieces.append(Piece(chain.take(future.result(), self._client.name), chain.finished))
                if chain.ended:
                    chains.remove(chain)
            yield from pieces

    def activities(self, types: Sequence[str], since: int) -> Iterator[tuple[str, Sequence[Activity]]]:
        """Pages of activities of these types with theirs, each type from its newest back to that time.

        There is no filter by time, and some rows are out of order: the reading goes on until a page is all older
        than it by more than the tolerance.

        :raises UnexpectedDataError: a cursor that repeats.
        """
        running: dict[Future[Page[Activity]], _ActivityChain] = {}
        for kind in types:
            chain = _ActivityChain(kind)
            running[self._pool.submit(self._client.activity_page, chain.query)] = chain
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                chain = running.pop(future)
                page = future.result()
                if chain.goes_on(page, since, self._client.name):
                    running[self._pool.submit(self._client.activity_page, chain.query)] = chain
                yield chain.kind, page.rows

    def deliveries(self, ids: Sequence[str]) -> Iterator[tuple[str, Delivery | None]]:
        """Each by its id; None for one that Customer.io has no more."""
        futures = [(delivery_id, self._pool.submit(self._client.delivery, delivery_id)) for delivery_id in ids]
        for delivery_id, future in futures:
            found = future.result()
            yield delivery_id, None if isinstance(found, Misshapen) else found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self._client.close()
        self._pool.shutdown(cancel_futures=True)


class _Chain:
    """The pages of one window, from its newest delivery to its oldest.

    Newest first is how the API answers, but nowhere documented. Only as long as it holds may a chain be cut,
    or end before its last page; where it does not, the chain is read to its end. Either way it
    yields what was created at or after `start`, and whoever got the rest yields the rest.
    """

    def __init__(self, window: Window, pace: float = 0.0, generation: int = 0) -> None:
        self.query: dict[str, str | int] = window.query()
        self.start = window.start
        self.asked = False  # a request is under way
        self.ended = False
        self.finished: Window | None = None  # what the last page has completed
        self._unfinished = window.end  # all that was created from here on has been taken
        self._window = window
        self._last = window.end  # when the delivery was created that came last
        self._pace = pace  # seconds of creation time that a page spans; 0 is unknown
        self._generation = generation  # how many pieces were cut before it since a page was seen
        self._pages = 0  # with deliveries on them
        self._ordered = True
        self._cursors: set[str] = set()
        self._empty = 0

    def take(self, page: Page[Delivery], name: str) -> Sequence[Delivery]:
        """What of the page is this chain's own.

        :raises UnexpectedDataError: if the list would not end: a cursor that repeats, too many empty pages.
        """
        self.asked = False
        self._generation = 0
        found: Sequence[Delivery] = page.rows
        if found:
            times = [delivery.created for delivery in found]
            if times[0] > self._last or times != sorted(times, reverse=True):
                self._ordered = False
            self._last = times[-1]
            self._pages += 1
            self._pace = max(1.0, times[0] - times[-1]) if page.next else 0.0
        self._empty = 0 if found else self._empty + 1
        if not page.next or (self._ordered and self._last < self.start):
            self.ended = True
        elif page.next in self._cursors:
            raise UnexpectedDataError(f"{name} named the same next page twice: the list would never end.")
        elif self._empty > MAX_EMPTY_PAGES:
            raise UnexpectedDataError(f"{name} sent {MAX_EMPTY_PAGES} empty pages in a row, each naming a next one.")
        else:
            self._cursors.add(page.next)
            self.query = self.query | {"start": page.next}
        self._finish()
        if self.start > self._window.start:
            found = [delivery for delivery in found if delivery.created >= self.start]
        if self._window.drafts:  # an older wording of the API lists drafts beside what was sent
            found = [delivery for delivery in found if "sent" not in delivery.metrics]
        return found

    def _finish(self) -> None:
        """As long as the order holds, no more will come of what was created after the last delivery."""
        down_to = self.start if self.ended else max(self.start, self._last + 1) if self._ordered else self._unfinished
        finished = self._window._replace(start=down_to, end=self._unfinished)
        self.finished = finished if down_to < self._unfinished else None
        self._unfinished = min(down_to, self._unfinished)

    def left(self) -> float:
        """Pages to come after the one that is asked next, or 0 if nothing can be said, or given away."""
        if not self._pace or not self._ordered or (self.asked and not self._pages) or self._last - self.start < 2:
            return 0.0
        return (self._last - self.start) / self._pace - 1

    def cut(self, parts: int) -> _Chain:
        """Keep the newest of so many parts of what is left, and return a chain for the rest."""
        left = self.left()
        kept = left / parts
        if left > _FAR:
            kept = min(kept, _LATER_KEPT if self._pages > 1 else _FIRST_KEPT * _GROWTH**self._generation)
        if kept >= 1:
            kept = round(kept) - _SPARE
        middle = ceil(self._last - self._pace * (1 + kept))  # start < middle < last
        rest = self._window._replace(start=self.start, end=middle)
        self.start = middle
        return _Chain(rest, self._pace, self._generation + 1)


class _ActivityChain:
    """The pages of one type of activity, from its newest on."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.query: dict[str, str | int] = {"type": kind, "limit": ACTIVITY_PAGE_SIZE}
        self._cursors: set[str] = set()
        self._empty = 0

    def goes_on(self, page: Page[Activity], since: int, name: str) -> bool:
        """Set the next query, if there is more to ask. Other clients take one empty page for the end of the list."""
        found = page.rows
        self._empty = 0 if found else self._empty + 1
        if not page.next or self._empty >= MAX_EMPTY_ACTIVITY_PAGES:
            return False
        if found and max(activity.timestamp for activity in found) < since - TOLERANCE:
            return False
        if page.next in self._cursors:
            if not found:
                return False
            raise UnexpectedDataError(f"{name} named the same next page of {self.kind} twice: it would never end.")
        self._cursors.add(page.next)
        self.query = self.query | {"start": page.next}
        return True


def _share(chains: list[_Chain], wanted: int) -> None:
    """Cut the chains with the most left until there are as many as wanted."""
    while chains and len(chains) < wanted:
        longest = max(chains, key=_Chain.left)
        if longest.left() < _WORTH_CUTTING:
            return
        chains.append(longest.cut(wanted - len(chains) + 1))

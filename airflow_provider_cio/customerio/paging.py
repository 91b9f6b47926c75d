"""Decide which page of which window is asked next, and where windows are cut. Pure.

The first page of a window decides. If it shows that the window is much longer than wanted, the page is thrown away,
the newest part of the window is asked anew, and the rest waits for its turn. Every window has both its bounds from its
first request on and is read to its own end by its cursors: whatever the order of the list, nothing is missed. Order
tells only where to cut. Newest first is what the API shows, undocumented; a page in another order tells nothing, so its
window is not cut, and takes longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from airflow_provider_cio.customerio.client import PAGE_SIZE
from airflow_provider_cio.customerio.windows import query_of
from airflow_provider_cio.events.interval import Window
from airflow_provider_cio.exceptions import TryAgainLaterError

#: Pages in a row without a new row, each with a `next`, before a list counts as one that never ends.
MAX_IDLE_PAGES = 50
#: Next pages of a list that are remembered, so that one that is named twice is noticed.
_REMEMBERED = 20_000

# Pages. Found by simulating histories of 50,000 to 500,000 deliveries: evenly spread, bursts, newsletters. A wrong
# estimate costs requests, never rows.
#: Wanted length of a window. Each costs part of a page, since its last page is rarely full.
PART = 5
#: Wanted length while many pages are left, because there only the number of requests counts.
LONG, MANY = 10, 100
#: Wanted length of the last windows, or the run would end with one of them alone.
LAST = 3
#: A window is cut if its first page shows that it is longer than this. One that was wanted longer than `PART` may be
#: longer in proportion.
LONGEST = 8
#: A window can be cut until it has this many pages. Its pages are held until then.
HELD = 6
#: With this many windows open, continue an open one before beginning another.
OPEN = 6
#: First pages in flight at once: more would be wasted behind the end of a burst.
AHEAD = 3
#: Cut a begun window only while at most this many pages have been thrown away.
WASTE = 7
#: Share of the wanted pages that a part is cut to, so that a few rows more than estimated do not cost a request. A list
#: that can shrink has to fit into one page.
FILL, FILL_SHRINKING = 0.96, 0.9


class Chain:
    """The pages of one window, each asked after the answer to the one before.

    :param left: pages that it is expected to have.
    """

    def __init__(self, window: Window, left: float, page_size: int) -> None:
        self.window = window
        self.query = query_of(window, page_size)
        self.left = left
        self.pages = self.rows = 0
        #: The window will not be cut any more, so its pages may be passed on. One second can't be cut.
        self.is_final = window.end - window.start == 1
        #: The window has been read to its end.
        self.has_ended = False
        self._followed = Cursors()
        self._idle = 0

    def follow(self, cursor: str, *, progress: bool) -> None:
        """Go on with the next page.

        :raises TryAgainLaterError: the list would not end.
        """
        self._idle = 0 if progress else self._idle + 1
        if self._followed.has(cursor):
            raise endless("named the same next page twice")
        if self._idle > MAX_IDLE_PAGES:
            raise endless(f"sent no new row in {MAX_IDLE_PAGES} pages")
        self.query = self.query | {"start": cursor}


class Cursors:
    """The last cursors of a list, as hashes, because a cursor may be as long as an answer."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def has(self, cursor: str) -> bool:
        """Return whether the list has named this cursor before, and remember it."""
        known = hash(cursor) in self._hashes
        if len(self._hashes) >= _REMEMBERED:
            self._hashes.clear()
        self._hashes.add(hash(cursor))
        return known


def endless(trouble: str) -> TryAgainLaterError:
    """Return the error for a list that would not end."""
    return TryAgainLaterError(f"Customer.io {trouble}: the list would never end. A retry asks anew.")


class Density(NamedTuple):
    """Density of creations, estimated from one page.

    :param pace: seconds of creation time that a page like this spans.
    :param newest: creation time of the newest row, outliers left out.
    :param oldest: likewise.
    """

    pace: float
    newest: int
    oldest: int


class Paging:
    """Decides which page is asked next. A window is cut into those that its chains have.

    Drafts leave their list when they are sent. Then later rows move up across the end of a page, and would be lost
    between two pages without a word. One answer is consistent in itself, so a window of drafts is cut until it fits
    into one. No cursor is followed there but within one second, which can't be cut, and after a page that is not full:
    some lists name a further page though all was listed.
    """

    def __init__(self, windows: Sequence[Window], page_size: int = PAGE_SIZE) -> None:
        self._page_size = page_size
        self._rest = list(windows)  # not asked yet, the next one last
        self._idle: list[Chain] = []
        self._pace: dict[tuple[str, bool], float] = {}  # of each list, if it is known
        self._open = self._first_pages = 0  # chains, and those whose first answer is missing
        self._thrown_away = 0

    def next(self) -> Chain | None:
        """Return the chain whose page to ask now; None if all are in flight, or all is read."""
        may_begin = self._rest and self._first_pages < AHEAD
        if self._idle and (self._open >= OPEN or not may_begin):
            # A long one first, and at the end the longest, or the run would end with it alone; else the one that waits
            # longest: cursors expire.
            chain = max(self._idle, key=lambda chain: chain.left > LONGEST if self._rest else chain.left)
            self._idle.remove(chain)
            return chain
        return self._begin(self._rest.pop()) if may_begin else None

    def take(self, chain: Chain, times: Sequence[int], rows: int, cursor: str | None, *, progress: bool) -> bool:
        """Learn from the answer that a chain has got.

        :param times: creation times of its rows, as listed, as far as they are known.
        :param rows: number of its rows.
        :param progress: one of its rows is inside the window, and was on no page before.
        :returns: False if the window has been cut: this page and those before are thrown away, and asked anew.
        :raises TryAgainLaterError: the list would not end.
        """
        self._first_pages -= chain.pages == 0
        chain.pages += 1
        density = density_of(times, self._page_size)
        if not chain.is_final and self._is_too_long(chain, density, rows, cursor):
            self._cut(chain, density)
            return False
        chain.rows += rows
        if cursor is None:
            chain.is_final = chain.has_ended = True
            self._open -= 1
            self._learn(chain)
            return True
        chain.follow(cursor, progress=progress)
        if not chain.window.drafts and (chain.pages >= HELD or (rows and not density)):
            chain.is_final = True
        if density:
            self._refine(chain.window, density.pace)
        chain.left = max(1.0, _pages_before(density, chain.window) if density else chain.left - 1)
        self._idle.append(chain)
        return True

    def _begin(self, window: Window) -> Chain:
        pace = self._pace_of(window)
        pages = (window.end - window.start) / pace if pace else 1.0
        part = LONG if pages > MANY else PART if self._rest or pages > 3 * LAST else LAST
        if pace and pages > (FILL_SHRINKING if window.drafts else 1.3 * part) and window.end - window.start > 1:
            start = max(window.start + 1, window.end - _seconds(pace, window, part))
            self._rest.append(window._replace(end=start))
            window = window._replace(start=start)
            pages = (window.end - window.start) / pace
        self._open += 1
        self._first_pages += 1
        return Chain(window, pages, self._page_size)

    def _is_too_long(self, chain: Chain, density: Density | None, rows: int, cursor: str | None) -> bool:
        if chain.window.drafts:
            full = cursor is not None and rows >= self._page_size
            return full or bool(rows and chain.rows)
        if cursor is None or density is None:
            return False
        left = _pages_before(density, chain.window)
        if not chain.rows:
            return left + 1 > LONGEST * max(1, chain.left / PART)
        # A burst inside the window: it is read page by page if it is not cut. Before the window has as many pages as
        # were wanted, the burst may be shorter than a window.
        return chain.pages >= PART and left > LONGEST and self._thrown_away + chain.pages <= WASTE

    def _cut(self, chain: Chain, density: Density | None) -> None:
        """Put the newest part of a chain's window first, and the rest back; halve it if nothing tells where."""
        window = chain.window
        self._thrown_away += chain.pages
        if density:
            self._pace[window.channel, window.drafts] = density.pace
            start = density.newest + 1 - _seconds(density.pace, window)
        else:
            start = (window.start + window.end) // 2
        start = min(max(start, window.start + 1), window.end - 1)
        self._rest.append(window._replace(end=start))
        self._idle.append(Chain(window._replace(start=start), PART + chain.pages - 1, self._page_size))
        self._first_pages += 1

    def _learn(self, chain: Chain) -> None:
        """Learn from a window that was read to its end."""
        window, rows = chain.window, chain.rows
        of_list, span = (window.channel, window.drafts), window.end - window.start
        pace = self._pace_of(window)
        if pace and rows < 0.4 * min(PART, span / pace) * self._page_size:
            # The burst is over, say. If hardly anything was there, the rest is one window again.
            del self._pace[of_list]
            if rows >= self._page_size / 20:
                self._pace[of_list] = span * self._page_size / rows
        elif not pace and rows > self._page_size / 2:
            self._pace[of_list] = span * self._page_size / rows

    def _refine(self, window: Window, found: float) -> None:
        """Learn from a further page, unless it is of another density: it may be of a burst, or of the rest."""
        pace = self._pace_of(window)
        if pace and 0.67 < found / pace < 1.5:
            self._pace[window.channel, window.drafts] = 0.8 * pace + 0.2 * found

    def _pace_of(self, window: Window) -> float | None:
        return self._pace.get((window.channel, window.drafts))


def density_of(times: Sequence[int], page_size: int) -> Density | None:
    """Estimate the density of a window from one page; None if the page is short or not newest first."""
    count = len(times)
    if count < page_size / 2 or not is_newest_first(times):
        return None
    ordered = sorted(times)
    margin = count // 50
    newest, oldest = ordered[-1 - margin], ordered[margin]
    return Density(max(0.01, (newest - oldest) * count / (count - 2 * margin)), newest, oldest)


def is_newest_first(times: Sequence[int]) -> bool:
    """Return whether, but for a few rows, the first tenth is the newest and the last tenth the oldest."""
    tenth = max(1, len(times) // 10)
    ordered = sorted(times)
    first, last = sorted(times[:tenth])[tenth // 2], sorted(times[-tenth:])[tenth // 2]
    return first >= ordered[len(times) * 7 // 10] and last <= ordered[len(times) * 3 // 10]


def _pages_before(density: Density, window: Window) -> float:
    """Return the number of pages from the oldest row to the window's start."""
    return (density.oldest - window.start) / density.pace


def _seconds(pace: float, window: Window, part: int = PART) -> int:
    """Return the length of a part of about so many pages: whole seconds, at least one, and a well filled last page."""
    if window.drafts:
        return max(1, int(pace * FILL_SHRINKING))
    lengths = [max(1, int(pace * pages * FILL)) for pages in (part, part + 1, part + 2, part - 1)]
    return max(lengths, key=lambda seconds: round(seconds / pace / ceil(seconds / pace / FILL), 1))

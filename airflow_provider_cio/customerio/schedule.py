"""Which page to ask next, so that the API's rate limit is kept busy and few requests are wasted. Pure.

A window is read by a chain: its first page, then one `next` after the other, each after its answer. One chain alone
gets no more than a page per round trip, so long windows are cut, and several chains are read side by side.

Every chain has both its bounds from its first request on, and is read to its own end: whatever the order of the list,
nothing is missed. Order decides only what is cut where. Newest first is what the API shows, undocumented; then the
rows of a page tell how densely deliveries were created. A page that is not newest first tells nothing: its window is
not cut, and takes longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

from airflow_provider_cio.customerio.client import PAGE_SIZE
from airflow_provider_cio.customerio.windows import query_of
from airflow_provider_cio.events.interval import Window
from airflow_provider_cio.exceptions import TryAgainLaterError

#: Empty pages in a row, each with a `next`, before a chain counts as stuck.
MAX_EMPTY_PAGES = 1000

# All in pages, and found by simulating histories of 50,000 and 500,000 deliveries: evenly spread, in one burst, half in
# a burst. A wrong estimate costs requests, never rows.
#: The longest part of a region. Each costs about a third of a page, since its last page is rarely full; but a long one
#: may still be read when all else is.
LONGEST_PART = 7.0
#: The shortest part, and how many parts a region that is short is cut into.
SHORTEST_PART = 5.0
PARTS = 5.0
#: Parts end this much before a full page, so that a few rows more than estimated do not cost a request.
SPARE = 0.1
SPARE_PER_PAGE = 0.02
#: A window that looks this long on its first page is cut.
WORTH_CUTTING = 7.0
#: So is one that turns out to have that many pages more than expected.
WORTH_CUTTING_ANEW = 7.0
#: First pages of a region's parts in flight at once: more would be wasted behind the end of a burst.
EXPLORING = 4
#: Windows open at the same time: those that are begun and not read to their end are read again after an interruption.
MOST_OPEN = 10


class Chain:
    """The pages of one window.

    :param part: a number that stays the same if the window is cut, for the rows that were passed on before.
    """

    def __init__(self, window: Window, region: Region, expected: float, part: int) -> None:
        self.window = window
        self.region = region
        self.part = part
        self.expected = expected  # pages
        self.read = 0  # pages
        self.query: dict[str, str | int] = query_of(window)
        self.in_flight = False
        self._cursors: set[str] = set()
        self._empty = 0
        self._in_order = True
        self._oldest: int | None = None  # creation time in the latest page, but for a few rows
        self.oldest_passed_on: int | None = None  # creation time among all pages that counted

    def left(self) -> float:
        """Pages, as far as can be estimated."""
        return max(self.expected - self.read, 0.5)

    def newest_first(self, times: Sequence[int]) -> bool:
        """Has each page, this one included, been older than the one before, but for a few rows?

        A page of rows that were all created in one second does not tell by itself.
        """
        if times:
            ordered, tenth = sorted(times), len(times) // 10
            self._in_order &= self._oldest is None or ordered[-1 - tenth] <= self._oldest
            self._oldest = ordered[tenth]
        return self._in_order

    def pass_on(self, times: Sequence[int]) -> None:
        """The page counts: its rows are passed on."""
        oldest = [self.oldest_passed_on] if self.oldest_passed_on is not None else []
        self.oldest_passed_on = min([*times, *oldest], default=None)

    def follow(self, cursor: str, rows: int) -> None:
        """Go on with the next page.

        :raises TryAgainLaterError: the list would not end.
        """
        self._empty = 0 if rows else self._empty + 1
        if cursor in self._cursors or self._empty > MAX_EMPTY_PAGES:
            trouble = "named the same next page twice" if cursor in self._cursors else "sent empty pages without end"
            raise TryAgainLaterError(f"Customer.io {trouble}: the list would never end. A retry asks anew.")
        self._cursors.add(cursor)
        self.query = self.query | {"start": cursor}


class Region:
    """Creation times that nobody has asked for yet, from the oldest on.

    :param pace: seconds of creation time that a page spans; None if nothing is known.
    """

    def __init__(self, window: Window, pace: float | None = None) -> None:
        self.window = window
        self.pace = pace
        self.pages_seen = 1  # from which `pace` is the mean
        self.exploring = 0  # first pages in flight

    def left(self) -> float:
        """Pages, as far as can be estimated."""
        if self.window.start >= self.window.end:
            return 0.0
        return max(0.01, (self.window.end - self.window.start) / self.pace) if self.pace else 1.0

    def saw(self, pace: float) -> None:
        """Learn from the first page of a part."""
        if self.pace and 0.67 < pace / self.pace < 1.5:
            self.pace = (self.pace * self.pages_seen + pace) / (self.pages_seen + 1)
            self.pages_seen += 1
        else:
            self._begin_anew(pace)

    def saw_less(self, window: Window, rows: int) -> None:
        """A part ended long before it was expected to, with so many rows: the burst is over, say."""
        sparse = rows < PAGE_SIZE / 20
        self._begin_anew(None if sparse else (window.end - window.start) * PAGE_SIZE / rows)

    def _begin_anew(self, pace: float | None) -> None:
        self.pace, self.pages_seen = pace, 1


class Schedule:
    """All windows of a run, and what is left to ask of them."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self._regions = [Region(window) for window in windows]
        self._chains: list[Chain] = []
        self._parts = 0

    def next(self) -> Chain | None:
        """The chain whose next page to ask now; None if all of them are in flight, or all is read."""
        regions = [region for region in self._regions if region.left()]
        chain = self._unexplored(regions) or self._longest() or self._ahead(regions)
        if chain:
            chain.in_flight = True
        return chain

    def take(self, chain: Chain, times: Sequence[int], cursor: str | None, odd: int = 0) -> bool:
        """Learn from the page that a chain has got.

        :param times: creation times of its rows, as listed.
        :param odd: how many further rows it has.
        :returns: False if the chain's window has been cut and is asked anew; then this page does not count.
        """
        first = chain.read == 0
        rows = len(times) + odd
        chain.in_flight = False
        chain.read += 1
        if first:
            chain.region.exploring -= 1
        if cursor is None:
            self._chains.remove(chain)
            if first and chain.region.pace and rows < 0.4 * chain.expected * PAGE_SIZE:
                chain.region.saw_less(chain.window, rows)
            return True
        chain.follow(cursor, rows)
        found = _tells(times) if chain.newest_first(times) else None
        if found is None:
            chain.expected = max(chain.expected, chain.read + 1.0)
            chain.pass_on(times)
            return True
        pace, bound = found
        if first and chain.region.pace:
            chain.region.saw(pace)
        # What was passed on stays in one window if it is cut: that window's counts have it already.
        if chain.oldest_passed_on is not None:
            bound = min(bound, chain.oldest_passed_on)
        bound = min(bound, chain.window.end - 1)
        left = (bound - chain.window.start) / pace
        if first and chain.expected <= 1:  # nothing was known of it
            chain.expected = 1 + left
            cut = left + 1 > WORTH_CUTTING
        else:
            cut = left > WORTH_CUTTING_ANEW + 2 * chain.read and left > 2 * (chain.expected - chain.read) + 2
        if cut:
            self._cut(chain, bound, pace)
            return False
        chain.expected = max(chain.expected, chain.read + 0.6)
        chain.pass_on(times)
        return True

    def _unexplored(self, regions: Sequence[Region]) -> Chain | None:
        """A part of a region of which no first page is in flight: the sooner its length is known, the better."""
        idle = [region for region in regions if not region.exploring]
        return self._part_of(max(idle, key=Region.left)) if idle and len(self._chains) < MOST_OPEN else None

    def _longest(self) -> Chain | None:
        """The chain with the most left to read, so that all end at about the same time."""
        return max((chain for chain in self._chains if not chain.in_flight), key=Chain.left, default=None)

    def _ahead(self, regions: Sequence[Region]) -> Chain | None:
        """One more part of a region, rather than leave the rate limit idle."""
        known = [region for region in regions if region.pace and region.exploring < EXPLORING]
        return self._part_of(max(known, key=Region.left)) if known else None

    def _part_of(self, region: Region) -> Chain:
        """A chain for the newest part of a region."""
        left, window = region.left(), region.window
        pages = min(LONGEST_PART, max(SHORTEST_PART, left / PARTS))
        if not region.pace or left <= 1.25 * pages:
            start, pages = window.start, left
        else:
            pages = max(1, round(pages))
            spare = SPARE + SPARE_PER_PAGE * pages / sqrt(region.pages_seen)
            start = ceil(window.end - region.pace * (pages - spare))
            start = max(window.start + 1, min(start, window.end - 1))
        chain = self._chain(window._replace(start=start), region, pages)
        region.window = window._replace(end=start)
        region.exploring += 1
        return chain

    def _cut(self, chain: Chain, bound: int, pace: float) -> None:
        """Ask a chain's window anew: from `bound` on, where what was read is, as one window; the rest in parts."""
        self._chains.remove(chain)
        window = chain.window
        seen = Region(window._replace(start=bound, end=bound))
        seen.exploring = 1
        self._chain(window._replace(start=bound), seen, chain.read, chain.part)
        self._regions.append(Region(window._replace(end=bound), pace))

    def _chain(self, window: Window, region: Region, expected: float, part: int | None = None) -> Chain:
        self._parts += part is None
        chain = Chain(window, region, expected, self._parts if part is None else part)
        self._chains.append(chain)
        return chain


def is_newest_first(times: Sequence[int]) -> bool:
    """But for a few rows: the first tenth is the newest, the last tenth the oldest."""
    tenth = max(1, len(times) // 10)
    ordered = sorted(times)
    first, last = sorted(times[:tenth])[tenth // 2], sorted(times[-tenth:])[tenth // 2]
    return first >= ordered[len(times) * 7 // 10] and last <= ordered[len(times) * 3 // 10]


def _tells(times: Sequence[int]) -> tuple[float, int] | None:
    """What a page tells, but for a few rows: the seconds of creation time that a full page spans, and the oldest time.

    None if it tells nothing.
    """
    count = len(times)
    if count < PAGE_SIZE / 2 or not is_newest_first(times):
        return None
    ordered = sorted(times)
    margin = count // 50
    newest, oldest = ordered[-1 - margin], ordered[margin]
    return max(1.0, (newest - oldest) / (count - 2 * margin) * PAGE_SIZE), oldest

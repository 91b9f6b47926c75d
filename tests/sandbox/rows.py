"""The rows of a history: each encoded once, newest first, found by creation time and filter."""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tests.sandbox.catalog import METRIC_FILTERS, TYPES
from tests.sandbox.delivery import is_time
from tests.sandbox.dice import amount, strikes

Order = Literal["newest", "oldest", "shuffled", "nearly"]
Drafts = Literal["sent", "drafts", "both"]

_BIT = {metric: 1 << position for position, metric in enumerate(METRIC_FILTERS)}
_CODE = {name: code for code, name in enumerate(TYPES)}
_OTHER_TYPE = len(TYPES)
_SORTED = 32  # lists that are kept sorted; the next one takes the place of the oldest


class Filter(NamedTuple):
    """Filter of a request besides its time bounds."""

    type: str | None = None
    metric: str | None = None
    drafts: Drafts = "sent"
    campaign_id: int | None = None
    newsletter_id: int | None = None
    action_id: int | None = None


class Ordering(NamedTuple):
    """Order of a list by creation.

    "nearly" is newest first, but that a share of the rows stands where it would if it had been created up to so
    many seconds earlier or later. What a row is moved by, and its place in "shuffled", depend on the row alone, so
    that all lists agree.
    """

    kind: Order = "newest"
    displaced: float = 0.0
    displaced_by: int = 0


class Rows:
    """Encoded rows. Add them newest first; within one second the order of adding stays."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        # Negative, so that it ascends from the newest to the oldest and can be bisected.
        self._negative_created = array("q")
        self._types = bytearray()
        self._metrics = array("H")
        self._drafts = bytearray()
        self._campaigns = array("q")
        self._newsletters = array("q")
        self._actions = array("q")
        #: When the earliest delivery of each newsletter was created.
        self.newsletter_sent_at: dict[int, int] = {}
        #: When the last thing happened to each, 0 if nothing did.
        self.latest = array("q")
        #: When drafts are sent that are: then they leave the list of drafts, and stand in the other one.
        self.leaving: dict[int, int] = {}
        #: Number of opens and clicks of a delivery, where it is known. A row does not show it.
        self.counts: dict[int, Mapping[str, int]] = {}
        self._dice = array("I")
        self._views: dict[Filter, Sequence[int]] = {}
        self._sorted: dict[tuple[Filter, int, int, Ordering], Sequence[int]] = {}
        self._displaced: dict[Ordering, dict[int, int]] = {}
        self._positions: dict[str, int] = {}

    def add(
        self,
        data: bytes,
        *,
        created: int,
        type: str,
        metrics: Mapping[str, Any],
        draft: bool,
        campaign_id: int | None,
        newsletter_id: int | None,
        action_id: int | None,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        mask = 0
        for metric in metrics:
            mask |= _BIT.get(metric, 0)
        if draft and is_time(metrics.get("sent")):
            self.leaving[len(self.data)] = metrics["sent"]
        if counts:
            self.counts[len(self.data)] = counts
        self.data.append(data)
        self._negative_created.append(-created)
        self._types.append(_CODE.get(type, _OTHER_TYPE))
        self._metrics.append(mask)
        self._drafts.append(draft)
        self._campaigns.append(campaign_id or 0)
        self._newsletters.append(newsletter_id or 0)
        if newsletter_id is not None and not draft:
            self.newsletter_sent_at[newsletter_id] = created
        self._actions.append(action_id or 0)
        self.latest.append(max((time for time in metrics.values() if is_time(time)), default=0))

    def __len__(self) -> int:
        return len(self.data)

    def listing(
        self,
        wanted: Filter,
        start_ts: int,
        end_ts: int,
        ordering: Ordering = Ordering(),  # noqa: B008
    ) -> Sequence[int]:
        """Return the positions of the rows created in [start_ts, end_ts], both inclusive, in the order of the list.

        Drafts that are sent one day are listed with drafts and with others: see `leaving`.
        """
        view = self._view(wanted)
        first = bisect_left(view, bisect_left(self._negative_created, -end_ts))
        last = max(first, bisect_left(view, bisect_right(self._negative_created, -start_ts)))
        if ordering.kind == "newest":
            return view[first:last]
        if ordering.kind == "oldest":
            return view[first:last][::-1]
        key = (wanted, first, last, ordering)
        found = self._sorted.pop(key, None)
        if found is None:
            found = memoryview(array("q", self._sort(view[first:last], ordering)))
        self._sorted[key] = found  # as the youngest
        if len(self._sorted) > _SORTED:
            del self._sorted[next(iter(self._sorted))]
        return found

    def created(self, position: int) -> int:
        return -self._negative_created[position]

    def is_draft(self, position: int) -> bool:
        return bool(self._drafts[position])

    def displaced(self, ordering: Ordering) -> dict[int, int]:
        """Return the positions of the rows that are out of order, and by how many seconds."""
        moved = self._displaced.get(ordering)
        if moved is None:
            moved = self._displaced[ordering] = {
                at: amount(dice, ordering.displaced_by)
                for at, dice in enumerate(self.dice)
                if ordering.displaced_by and strikes(dice, ordering.displaced)
            }
        return moved

    @property
    def dice(self) -> Sequence[int]:
        """Return a number of 32 bits for each row, which depends on nothing but the row."""
        if len(self._dice) != len(self.data):
            self._dice = array("I", map(zlib.crc32, self.data))
        return self._dice

    def find(self, delivery_id: str, id_of: Callable[[bytes], str]) -> bytes | None:
        """Return the row of one delivery."""
        position = self.position(delivery_id, id_of)
        return None if position is None else self.data[position]

    def position(self, delivery_id: str, id_of: Callable[[bytes], str]) -> int | None:
        """Return the position of one delivery; the index is built at the first call."""
        if len(self._positions) != len(self.data):
            self._positions = {id_of(data): position for position, data in enumerate(self.data)}
        return self._positions.get(delivery_id)

    def _sort(self, positions: Sequence[int], ordering: Ordering) -> list[int]:
        if ordering.kind == "shuffled":
            dice = self.dice
            return sorted(positions, key=dice.__getitem__)
        moved, negative = self.displaced(ordering), self._negative_created
        return sorted(positions, key=lambda at: negative[at] - moved.get(at, 0))

    def _view(self, wanted: Filter) -> Sequence[int]:
        """Return the positions of the rows that a filter lets through, ascending."""
        view = self._views.get(wanted)
        if view is None:
            view = self._views[wanted] = self._select(wanted)
        return view

    def _select(self, wanted: Filter) -> Sequence[int]:
        view: Sequence[int] = range(len(self.data))
        if wanted.drafts != "both" and (wanted.drafts == "drafts" or any(self._drafts)):
            draft = wanted.drafts == "drafts"
            view = array("q", [at for at in view if self._drafts[at] == draft or at in self.leaving])
        if wanted.type is not None:
            code = _CODE.get(wanted.type, _OTHER_TYPE)
            view = array("q", [at for at in view if self._types[at] == code])
        if wanted.metric is not None:
            bit = _BIT.get(wanted.metric, 0)
            view = array("q", [at for at in view if self._metrics[at] & bit])
        for column, value in (
            (self._campaigns, wanted.campaign_id),
            (self._newsletters, wanted.newsletter_id),
            (self._actions, wanted.action_id),
        ):
            if value is not None:
                view = array("q", [at for at in view if column[at] == value])
        return memoryview(view) if isinstance(view, array) else view  # a part of either is no copy

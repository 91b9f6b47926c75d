"""The rows of a history: each encoded once, newest first, found by creation time and filter."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tests.sandbox.catalog import METRIC_FILTERS, TYPES

Drafts = Literal["sent", "drafts", "both"]

_BIT = {metric: 1 << position for position, metric in enumerate(METRIC_FILTERS)}
_CODE = {name: code for code, name in enumerate(TYPES)}
_OTHER_TYPE = len(TYPES)


class Filter(NamedTuple):
    """What a request asks for besides its time bounds."""

    type: str | None = None
    metric: str | None = None
    drafts: Drafts = "sent"
    campaign_id: int | None = None
    newsletter_id: int | None = None
    action_id: int | None = None


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
        self._views: dict[Filter, Sequence[int]] = {}
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
    ) -> None:
        mask = 0
        for metric in metrics:
            mask |= _BIT.get(metric, 0)
        self.data.append(data)
        self._negative_created.append(-created)
        self._types.append(_CODE.get(type, _OTHER_TYPE))
        self._metrics.append(mask)
        self._drafts.append(draft)
        self._campaigns.append(campaign_id or 0)
        self._newsletters.append(newsletter_id or 0)
        self._actions.append(action_id or 0)

    def __len__(self) -> int:
        return len(self.data)

    def page(
        self, wanted: Filter, start_ts: int, end_ts: int, position: int, limit: int
    ) -> tuple[list[bytes], int | None]:
        """Up to `limit` rows created in [start_ts, end_ts], both inclusive, from a position on.

        The second value is the position of the next page, None when nothing is left.
        """
        view = self._view(wanted)
        newest = bisect_left(self._negative_created, -end_ts)
        after = bisect_right(self._negative_created, -start_ts)
        first = bisect_left(view, max(newest, position))
        last = max(first, bisect_left(view, after))
        stop = min(first + limit, last)
        following = view[stop] if stop < last else None
        if isinstance(view, range):
            return self.data[first:stop], following
        data = self.data
        return [data[at] for at in view[first:stop]], following

    def first(self, wanted: Filter) -> int | None:
        """When the earliest of the rows that a filter lets through was created."""
        view = self._view(wanted)
        return -self._negative_created[view[-1]] if view else None

    def find(self, delivery_id: str, id_of: Any) -> bytes | None:
        """The row of one delivery; the index is built when it is first asked for."""
        if len(self._positions) != len(self.data):
            self._positions = {id_of(data): position for position, data in enumerate(self.data)}
        position = self._positions.get(delivery_id)
        return None if position is None else self.data[position]

    def _view(self, wanted: Filter) -> Sequence[int]:
        """The positions of the rows that a filter lets through, ascending."""
        view = self._views.get(wanted)
        if view is None:
            view = self._views[wanted] = self._select(wanted)
        return view

    def _select(self, wanted: Filter) -> Sequence[int]:
        view: Sequence[int] = range(len(self.data))
        if wanted.drafts != "both" and (wanted.drafts == "drafts" or any(self._drafts)):
            draft = wanted.drafts == "drafts"
            view = array("q", [at for at in view if self._drafts[at] == draft])
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
        return view

"""The seeded past of one Customer.io workspace: it keeps the truth and derives what the API shows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tests.sandbox.catalog import CHANNELS
from tests.sandbox.delivery import Delivery, Engagement, Truth, from_row, is_draft
from tests.sandbox.rows import Rows
from tests.sandbox.world import World

DAY = 86_400
DEFAULT_START = 1_793_491_200  # 2026-11-01T00:00:00Z
DEFAULT_END = DEFAULT_START + 5 * DAY

_encode = msgspec.json.Encoder(order="deterministic").encode


class _IdOnly(msgspec.Struct):
    id: str


_decode_id = msgspec.json.Decoder(_IdOnly).decode


class History:
    """Deliveries, newest first by creation; deliveries of one second keep the order they were given in.

    `History(deliveries=[...])` takes rows as GET /v1/messages would show them, `History.generate` makes
    them up. A lean history keeps the encoded rows only and reads the truth back from them when asked.
    """

    def __init__(self, deliveries: Iterable[Mapping[str, Any]] = ()) -> None:
        self.rows = Rows()
        self._deliveries: list[Delivery] | None = None
        for row in sorted(deliveries, key=lambda row: -row["created"]):
            metrics = row.get("metrics") or {}
            self.rows.add(
                msgspec.json.encode(row),
                created=row["created"],
                type=row.get("type", "email"),
                metrics=metrics,
                draft=is_draft(metrics),
                campaign_id=row.get("campaign_id"),
                newsletter_id=row.get("newsletter_id"),
                action_id=row.get("action_id"),
            )

    @classmethod
    def generate(
        cls,
        *,
        seed: int = 1,
        deliveries: int = 2000,
        start: int = DEFAULT_START,
        end: int = DEFAULT_END,
        burst: float = 0.3,
        channels: Sequence[str] = CHANNELS,
        campaigns: int = 6,
        newsletters: int = 3,
        broadcasts: int = 2,
        transactional: int = 3,
        people: int | None = None,
        drafts: float = 0.02,
        on_bounds: float = 0.08,
        longest_lag: int = 28 * DAY,
        lean: bool = False,
    ) -> History:
        """Make up a workspace whose deliveries were created in [start, end).

        :param burst: share of the deliveries that belong to newsletters, each sent within minutes.
        :param drafts: share of the deliveries that were never sent.
        :param on_bounds: share of the times that lie on a full hour or midnight UTC, or a second before.
        :param longest_lag: seconds from the creation of a delivery to the last thing that happens to it.
        :param lean: keep the encoded rows only, for histories of a million deliveries.
        """
        world = World(
            seed=seed,
            deliveries=deliveries,
            start=start,
            end=end,
            burst=burst,
            channels=tuple(channels),
            campaigns=campaigns,
            newsletters=newsletters,
            broadcasts=broadcasts,
            transactional=transactional,
            people=people,
            drafts=drafts,
            on_bounds=on_bounds,
            longest_lag=longest_lag,
            details=not lean,
        )
        history = cls()
        kept: list[Delivery] = []
        for delivery in world.deliveries():
            history.rows.add(
                _encode(delivery.row()),
                created=delivery.created,
                type=delivery.channel,
                metrics=delivery.times,
                draft=delivery.draft,
                campaign_id=delivery.campaign_id,
                newsletter_id=delivery.newsletter_id,
                action_id=delivery.action_id,
            )
            if not lean:
                kept.append(delivery)
        if not lean:
            history._deliveries = kept
        return history

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def deliveries(self) -> Iterator[Delivery]:
        """All deliveries, newest first: those that were kept, else those read back from the rows."""
        if self._deliveries is not None:
            yield from self._deliveries
        else:
            for data in self.rows.data:
                yield from_row(msgspec.json.decode(data))

    def truth(
        self,
        start: int | None = None,
        end: int | None = None,
        metrics: Collection[str] | None = None,
        channels: Collection[str] | None = None,
        *,
        drafts: bool = False,
    ) -> list[Truth]:
        """What happened in [start, end) and has a collection, by time; nothing named means all.

        :param drafts: also the deliveries that the API shows only when asked with `drafts=true`.
        """
        found = [
            truth
            for delivery in self.deliveries
            if (drafts or not delivery.draft) and (channels is None or delivery.channel in channels)
            for truth in delivery.truth()
            if (metrics is None or truth.metric in metrics)
            and (start is None or start <= truth.time)
            and (end is None or truth.time < end)
        ]
        found.sort(key=lambda truth: (truth.time, truth.delivery_id, truth.metric))
        return found

    def engagements(self) -> dict[str, list[Engagement]]:
        """Every open and click of each person, by `cio_id` and time. Empty for lean or given histories."""
        found: dict[str, list[Engagement]] = {}
        for delivery in self._deliveries or ():
            if delivery.person is not None and delivery.engagements:
                found.setdefault(delivery.person.cio_id, []).extend(delivery.engagements)
        for engagements in found.values():
            engagements.sort(key=lambda engagement: engagement.time)
        return found

    def find(self, delivery_id: str) -> bytes | None:
        """The encoded row of one delivery."""
        return self.rows.find(delivery_id, lambda data: _decode_id(data).id)

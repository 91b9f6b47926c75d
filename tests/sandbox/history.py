"""The seeded past of one Customer.io workspace: it keeps the truth and derives what the API shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from tests.sandbox.activities import Activities, engagements_of, other_activities
from tests.sandbox.catalog import CHANNELS
from tests.sandbox.delivery import Delivery, Engagement, Truth, from_row, looks_like_a_draft
from tests.sandbox.engagements import engagements, firsts
from tests.sandbox.odd import Odd, odd_rows
from tests.sandbox.parents import IdForm, Kind, Names, Parents, collect, listed, name_of, old_parents
from tests.sandbox.rows import Rows
from tests.sandbox.world import World

DAY = 86_400
DEFAULT_START = 1_793_491_200  # 2026-11-01T00:00:00Z
DEFAULT_END = DEFAULT_START + 5 * DAY

_encode = msgspec.json.Encoder(order="deterministic").encode


class _IdOnly(msgspec.Struct):
    id: str


_decode_id = msgspec.json.Decoder(_IdOnly).decode

#: "delivery" or "activity", share, kinds, given rows.
OddKey = tuple[Literal["delivery", "activity"], float, tuple[str, ...] | None, frozenset[tuple[str, str]]]


class History:
    """Deliveries, newest first by creation; deliveries of one second keep the order they were given in.

    `History(deliveries=[...])` takes rows as GET /v1/messages would show them, `History.generate` makes
    them up. A lean history keeps the encoded rows only and reads the truth back from them when asked.

    :param activities: rows as GET /v1/activities would show them, which it then shows in this order; without
        them, they follow from the deliveries: one for each metric, and as many opens and clicks as `human_*`
        and `prefetch_*` say, if those are counts.
    :param names: (kind, id of a parent) -> its name where it isn't the usual one, None if it was deleted.
    :param drafts: the ids of the deliveries that are drafts, which their rows do not tell; without them, those with
        no other metric than `created` and `drafted`. With `sent` it is a draft until then: it leaves the list of
        drafts at that time, by the sandbox's clock, and is in the other list from then on.
    """

    def __init__(
        self,
        deliveries: Iterable[Mapping[str, Any]] = (),
        activities: Sequence[Mapping[str, Any]] | None = None,
        names: Names | None = None,
        drafts: Collection[str] | None = None,
    ) -> None:
        self.rows = Rows()
        self.names: Names = names or {}
        self.parents: Parents = {}
        self._deliveries: list[Delivery] | None = None
        self._given = activities
        self._repeated, self._same_second = False, 0.0
        self._others: Callable[[], list[dict[str, Any]]] = list
        self._activities: Activities | None = None
        self._odd: dict[OddKey, dict[int, Odd]] = {}
        for row in sorted(deliveries, key=lambda row: -row["created"]):
            metrics = row.get("metrics") or {}
            draft = looks_like_a_draft(metrics) if drafts is None else row["id"] in drafts
            collect(self.parents, [from_row(row, draft=draft)])
            self.rows.add(
                msgspec.json.encode(row),
                created=row["created"],
                type=row.get("type", "email"),
                metrics=metrics,
                draft=draft,
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
        burst_seconds: int = 600,
        channels: Sequence[str] = CHANNELS,
        campaigns: int = 6,
        newsletters: int = 3,
        broadcasts: int = 2,
        transactional: int = 3,
        people: int | None = None,
        drafts: float = 0.02,
        on_bounds: float = 0.08,
        longest_lag: int = 28 * DAY,
        late_opens: float = 0.0,
        nasty: float = 0.0,
        created_late: float = 0.0,
        created_late_by: int = 5,
        tried_drafts: float = 0.0,
        drafts_sent: float = 0.0,
        rare_identities: float = 0.0,
        same_second: float = 0.0,
        lean: bool = False,
    ) -> History:
        """Make up a workspace whose deliveries were created in [start, end).

        :param burst: share of the deliveries that belong to newsletters, each sent at an even rate within
            `burst_seconds`.
        :param drafts: share of the deliveries that are drafts.
        :param on_bounds: share of the times that lie on a full hour or midnight UTC, or a second before.
        :param longest_lag: seconds from the creation of a delivery to the last thing that happens to it, but
            for repeated opens and clicks.
        :param late_opens: share of the opens that come at any time up to `longest_lag`, so that some come after months.
        :param nasty: share of the recipients of in-app messages, Slack and webhooks that look like an e-mail
            address or have one in them.
        :param created_late: share of the deliveries whose `created` is stamped by another clock, up to
            `created_late_by` seconds after the first thing that happened to them, and after others if they are quick.
            Where a full hour lies within those seconds, `created` is past it. At most so many seconds after `end`.
        :param tried_drafts: share of the drafts that were attempted or failed, but not sent.
        :param drafts_sent: share of the other drafts that are sent one day, within `longest_lag`; until then, by the
            sandbox's clock, they are in the list of drafts, and from then on in the other one.
        :param rare_identities: share of the deliveries that show their person in one of the rare ways of
            reference/customerio.md 8: see `people.show_rarely`.
        :param same_second: share of the opens and clicks that happened more than once (or could have, for all that
            the counts say) of which further ones fall into the very second of the first.
        :param lean: keep the encoded rows only, for histories of a million deliveries.
        """
        world = World(
            seed=seed,
            deliveries=deliveries,
            start=start,
            end=end,
            burst=burst,
            burst_seconds=burst_seconds,
            channels=tuple(channels),
            campaigns=campaigns,
            newsletters=newsletters,
            broadcasts=broadcasts,
            transactional=transactional,
            people=people,
            drafts=drafts,
            on_bounds=on_bounds,
            longest_lag=longest_lag,
            late_opens=late_opens,
            nasty=nasty,
            created_late=created_late,
            created_late_by=created_late_by,
            tried_drafts=tried_drafts,
            drafts_sent=drafts_sent,
            rare_identities=rare_identities,
        )
        history = cls()
        history.parents = old_parents()
        collect(history.parents, world.plans)
        history._repeated, history._same_second = True, same_second
        history._others = lambda: other_activities(seed, deliveries // 20, start, end)
        kept: list[Delivery] = []
        every = history._engagements()
        for delivery in world.deliveries():
            if delivery.counts:
                delivery.firsts = firsts(every(delivery))
            history.rows.add(
                _encode(delivery.row()),
                created=delivery.created,
                type=delivery.channel,
                metrics=delivery.metrics,
                draft=delivery.draft,
                campaign_id=delivery.campaign_id,
                newsletter_id=delivery.newsletter_id,
                action_id=delivery.action_id,
                counts=delivery.counts,
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
            for at, data in enumerate(self.rows.data):
                yield self._read_back(at, msgspec.json.decode(data))

    def truth(
        self,
        start: int | None = None,
        end: int | None = None,
        metrics: Collection[str] | None = None,
        channels: Collection[str] | None = None,
        *,
        drafts: bool = False,
        every: bool = False,
        human: bool = False,
    ) -> list[Truth]:
        """Return the occurrences in [start, end) that have a collection, by time; without names, of all collections.

        :param drafts: also the deliveries that the API never shows but when asked with `drafts=true`.
        :param every: each open and click, not the first of them only.
        :param human: the first one by a person, not the first of all.
        """
        every_one = self._engagements() if every else None
        found = [
            truth
            for delivery in self.deliveries
            if (drafts or not delivery.stays_draft) and (channels is None or delivery.channel in channels)
            for truth in delivery.truth(self._name_of(delivery), every_one and every_one(delivery), human=human)
            if (metrics is None or truth.metric in metrics)
            and (start is None or start <= truth.time)
            and (end is None or truth.time < end)
        ]
        found.sort(key=lambda truth: (truth.time, truth.delivery_id, truth.metric, truth.activity_id or ""))
        return found

    def engagements(self) -> dict[str, list[Engagement]]:
        """Return every open and click of each person, by `cio_id` and time. Empty for lean or given histories."""
        found: dict[str, list[Engagement]] = {}
        every = self._engagements()
        for delivery in self._deliveries or ():
            if delivery.person is not None and (those := every(delivery)):
                found.setdefault(delivery.person.cio_id, []).extend(those)
        for of_person in found.values():
            of_person.sort(key=lambda engagement: engagement.time)
        return found

    def with_engagements(self) -> Iterator[tuple[dict[str, Any], list[Engagement]]]:
        """Yield the row of each delivery, newest first, with all its opens and clicks."""
        every = self._engagements()
        for at, data in enumerate(self.rows.data):
            row = msgspec.json.decode(data)
            yield row, every(self._read_back(at, row))

    @property
    def activities(self) -> Activities:
        """Activities as GET /v1/activities lists them; made when first used."""
        if self._activities is None:
            others, given = (self._others(), False) if self._given is None else (self._given, True)
            self._activities = Activities(
                self.rows,
                repeated=self._repeated,
                same_second=self._same_second,
                others=others,
                as_given=given,
            )
        return self._activities

    def listed(self, kind: Kind, form: IdForm) -> list[dict[str, Any]]:
        """Return the parents of one kind, as their list shows them."""
        return listed(self.parents, kind, self.names, form, self.rows.newsletter_sent_at)

    def _engagements(self) -> Callable[[Delivery], list[Engagement]]:
        """Return a function that gives all opens and clicks of a delivery."""
        if self._given is not None:
            given = engagements_of(self._given)
            return lambda delivery: given.get(delivery.id, [])
        repeated, same_second = self._repeated, self._same_second
        return lambda one: engagements(
            one.id, one.channel, one.times | one.counts, repeated=repeated, same_second=same_second
        )

    def _read_back(self, at: int, row: Mapping[str, Any]) -> Delivery:
        delivery = from_row(row, draft=self.rows.is_draft(at))
        delivery.counts |= self.rows.counts.get(at, {})
        return delivery

    def _name_of(self, delivery: Delivery) -> str | None:
        parent = delivery.parent
        return None if parent is None else name_of(parent, self.names)

    def find(self, delivery_id: str) -> bytes | None:
        """Return the encoded row of one delivery."""
        position = self.position(delivery_id)
        return None if position is None else self.rows.data[position]

    def position(self, delivery_id: str) -> int | None:
        """Return the position of one delivery among the rows."""
        return self.rows.position(delivery_id, lambda data: _decode_id(data).id)

    def odd_deliveries(
        self, share: float, kinds: tuple[str, ...] | None = None, given: Mapping[str, str] | None = None
    ) -> dict[int, Odd]:
        """Return the deliveries shown as odd rows, by position; the parameters are those of `Settings`."""
        key: OddKey = ("delivery", share, kinds, frozenset((given or {}).items()))
        if key not in self._odd:
            named = {self.position(id): kind for id, kind in (given or {}).items()}
            at = {position: kind for position, kind in named.items() if position is not None}
            self._odd[key] = odd_rows("delivery", self.rows.dice if share else (), self._decoded, share, kinds, at)
        return self._odd[key]

    def odd_activities(
        self, share: float, kinds: tuple[str, ...] | None = None, given: Mapping[str, str] | None = None
    ) -> dict[int, Odd]:
        """Return the activities shown as odd rows, by their number in `activities`."""
        key: OddKey = ("activity", share, kinds, frozenset((given or {}).items()))
        if key not in self._odd:
            rows = self.activities
            at = {entry: (given or {})[id] for id, entry in rows.find(given or ()).items()}
            self._odd[key] = odd_rows("activity", rows.dice, rows.decoded, share, kinds, at)
        return self._odd[key]

    def _decoded(self, position: int) -> dict[str, Any]:
        row: dict[str, Any] = msgspec.json.decode(self.rows.data[position])
        return row

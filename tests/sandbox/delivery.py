"""One delivery as it really was, the row that the App API shows of it, and the occurrences that follow from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from tests.sandbox.catalog import COLLECTIONS
from tests.sandbox.parents import Kind, Parent, parent_of

# Below this a value in `metrics` is a count and not a time (reference/customerio.md 1.5).
FIRST_TIME = 10**9
# The metrics that can happen to a delivery again and again.
REPEATED = ("opened", "clicked")
# Since when Customer.io records by whom e-mails were opened and clicked (reference/customerio.md 1.5).
RECORDED_SINCE = {"opened": 1_742_428_800, "clicked": 1_745_107_200}
# Whoever opened or clicked, as the keys of `metrics` say it (reference/customerio.md 1.5).
_BY = ("human", "prefetch", "machine")
_ADDRESS = re.compile(r"[^@\s,;<>\"]+@[^@\s,;<>\"/:]+")


class Person(msgspec.Struct, frozen=True):
    """Someone in the workspace; "" and None both mean that it is missing."""

    cio_id: str
    id: str | None
    email: str | None
    address: str
    phone: str
    id_as_number: bool = False
    cio_id_as_customer_id: bool = False


class Identifiers(msgspec.Struct):
    """Identifiers of a person. An unset one is missing in the row."""

    id: str | int | msgspec.UnsetType | None
    email: str | msgspec.UnsetType | None
    cio_id: str | msgspec.UnsetType


class Engagement(msgspec.Struct, frozen=True):
    """One open or click. `metrics` shows the first of each only, activities show all of them."""

    delivery_id: str
    metric: str
    time: int
    activity_id: str
    link: str | None = None
    prefetched: bool = False
    machine: bool = False
    #: One address, or "v6, v4".
    ip_address: str | None = None
    user_agent: str | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """One occurrence that belongs in Segment. Times are Unix seconds; `channel` is Customer.io's `type`.

    With neither `user_id` nor `anonymous_id` the occurrence happened to someone unidentified. `campaign_name`
    is the name of the parent, of whatever kind; None if there is no parent, or if it was deleted. What stands
    below it is known of opens and clicks only: when every one of them is asked for, or the flags and the number of the
    link from the row of the delivery.
    """

    collection: str
    channel: str
    metric: str
    delivery_id: str
    time: int
    user_id: str | None
    anonymous_id: str | None
    subject: str | None
    recipient: str | None
    created: int
    parent_kind: Kind | None = None
    parent_id: int | None = None
    campaign_name: str | None = None
    activity_id: str | None = None
    link: str | None = None
    #: The first one where activities show a list.
    ip: str | None = None
    user_agent: str | None = None
    prefetched: bool = False
    machine: bool = False
    #: This is the one that the delivery's own metric tells of. Of opens and clicks that are told one by one, the one
    #: at the metric's time is; of several in that second, the one with the smallest activity id, among those by people
    #: if the row says that a person was the first.
    first: bool = True
    #: The first that a person made, as the row tells of it, where the first of all has another time.
    first_human: bool = False
    #: Number of the link, where only the row tells of the click.
    link_id: int | None = None


class Row(msgspec.Struct):
    """A delivery as GET /v1/messages shows it (reference/customerio.md 1.4)."""

    id: str
    deduplicate_id: str
    msg_template_id: int
    action_id: int | None
    parent_action_id: int | None
    broadcast_id: int | None
    campaign_id: int | None
    content_id: int | None
    newsletter_id: int | None
    transactional_message_id: int | None
    trigger_event_id: str | None
    customer_id: str | int | None
    customer_identifiers: Identifiers | None
    recipient: str | None
    subject: str | None
    type: str
    created: int
    metrics: dict[str, int]
    failure_message: str | None
    forgotten: bool


class Delivery(msgspec.Struct, kw_only=True):
    """One message to one person, and what happened to it when."""

    id: str
    channel: str
    created: int
    # Who: what an event about this delivery has to carry, known when the delivery was made.
    user_id: str | None
    anonymous_id: str | None
    recipient: str | None
    subject: str | None
    # The first time of each metric.
    times: dict[str, int]
    # How often people and machines opened and clicked, where that is known: `human_opened`, `prefetch_opened`, ...
    counts: dict[str, int] = {}
    # Times that `metrics` has besides, such as `human_opened` and `link:7`: see `engagements.firsts`.
    firsts: dict[str, int] = {}
    # The delivery is a draft, or was one until it was sent.
    draft: bool = False
    forgotten: bool = False
    failure_message: str | None = None
    person: Person | None = None
    customer_id: str | int | None = None
    identifiers: Identifiers | None = None
    template_id: int = 0
    campaign_id: int | None = None
    action_id: int | None = None
    parent_action_id: int | None = None
    newsletter_id: int | None = None
    content_id: int | None = None
    broadcast_id: int | None = None
    transactional_message_id: int | None = None
    trigger_event_id: str | None = None

    @property
    def metrics(self) -> dict[str, int]:
        return self.times | self.firsts if self.firsts else self.times

    @property
    def stays_draft(self) -> bool:
        return self.draft and "sent" not in self.times

    @property
    def parent(self) -> Parent | None:
        """Return the parent of the delivery: a campaign, a newsletter, a broadcast or a transactional message."""
        return parent_of(self)

    def row(self) -> Row:
        metrics = self.metrics
        return Row(
            self.id,
            f"{self.id}:{max(metrics.values(), default=self.created)}",
            self.template_id,
            self.action_id,
            self.parent_action_id,
            self.broadcast_id,
            self.campaign_id,
            self.content_id,
            self.newsletter_id,
            self.transactional_message_id,
            self.trigger_event_id,
            self.customer_id,
            self.identifiers,
            self.recipient,
            self.subject,
            self.channel,
            self.created,
            metrics,
            self.failure_message,
            self.forgotten,
        )

    def truth(
        self, campaign_name: str | None, engagements: list[Engagement] | None = None, *, human: bool = False
    ) -> Iterator[Truth]:
        """Return the occurrences that have a collection.

        :param engagements: all opens and clicks, to be told in place of the first of each.
        :param human: the first open and click by a person, as the row tells of them, in place of the first of all.
        """
        for metric, time in self.times.items():
            if metric not in REPEATED:
                yield from self._truth(metric, time, campaign_name)
            elif engagements is None:
                yield from self._first(metric, campaign_name, human)
        for metric in REPEATED if engagements else ():
            ones = [one for one in engagements or () if one.metric == metric]
            first, by_person = first_ones(ones, self.metrics)
            for one in ones:
                for row in self._truth(metric, one.time, campaign_name, one):
                    yield replace(row, first=one is first, first_human=one is by_person)

    def _first(self, metric: str, campaign_name: str | None, human: bool) -> Iterator[Truth]:
        """Return the first open or click (by a person), with the details that the row has of it."""
        time: int | None = self.times[metric]
        by_person = self.firsts.get(f"human_{metric}")
        machines = [self.firsts.get(f"{by}_{metric}") for by in ("prefetch", "machine")]
        if human and by_person is not None:
            time = by_person
        elif human and (any(machines) or (self.channel == "email" and self.created >= RECORDED_SINCE[metric])):
            time = None
        if time is None:
            return
        is_human, first = time == by_person, time == self.times[metric]
        links: dict[str, list[str]] = {}
        for key, at in self.firsts.items():
            if at == time:
                links.setdefault(key.partition(":")[0], []).append(key.partition(":")[2])
        those = (is_human and links.get("human_link")) or links.get("link") or []
        for row in self._truth(metric, time, campaign_name):
            yield replace(
                row,
                first=first,
                first_human=not first,
                prefetched=metric == "opened" and time in machines and not is_human,
                machine=metric == "clicked" and time in machines and not is_human,
                link_id=int(those[0]) if metric == "clicked" and len(those) == 1 else None,
            )

    def _truth(
        self, metric: str, time: int, campaign_name: str | None, one: Engagement | None = None
    ) -> Iterator[Truth]:
        collection = COLLECTIONS.get((self.channel, metric))
        if collection is None:
            return
        kind, parent_id = self.parent or (None, None)
        yield Truth(
            collection,
            self.channel,
            metric,
            self.id,
            time,
            self.user_id,
            self.anonymous_id,
            self.subject,
            self.recipient,
            self.created,
            kind,
            parent_id,
            campaign_name,
            None if one is None else one.activity_id,
            None if one is None else one.link,
            None if one is None or one.ip_address is None else one.ip_address.partition(",")[0].strip(),
            None if one is None else one.user_agent,
            one is not None and one.prefetched,
            one is not None and one.machine,
        )


def from_row(row: Mapping[str, Any], *, draft: bool) -> Delivery:
    """Read a hand-written row (or one of a lean history) back into a delivery."""
    metrics = row.get("metrics") or {}
    times = {key: value for key, value in metrics.items() if is_time(value)}
    firsts = {key: times.pop(key) for key in list(times) if base_of(key) != key}
    user_id, anonymous_id = identity(row)
    return Delivery(
        id=row["id"],
        channel=row.get("type", "email"),
        created=row["created"],
        user_id=user_id,
        anonymous_id=anonymous_id,
        recipient=row.get("recipient"),
        subject=row.get("subject"),
        times=times,
        counts={key: value for key, value in metrics.items() if is_count(value)},
        firsts=firsts,
        draft=draft,
        campaign_id=row.get("campaign_id"),
        newsletter_id=row.get("newsletter_id"),
        action_id=row.get("action_id"),
        broadcast_id=row.get("broadcast_id"),
        transactional_message_id=row.get("transactional_message_id"),
    )


def first_ones(ones: Iterable[Engagement], metrics: Mapping[str, Any]) -> tuple[Engagement | None, Engagement | None]:
    """Return the first of the opens (or clicks) of a delivery, and the first by a person if that has another time.

    If several have the same second, the smallest id is the first, but a person's comes before a machine's.
    """
    found: dict[str, Engagement] = {}
    for one in sorted(ones, key=lambda one: one.activity_id):
        by_person = not (one.machine or one.prefetched)
        is_human = metrics.get(f"human_{one.metric}") == one.time
        if metrics.get(one.metric) == one.time:
            known = found.setdefault("first", one)
            if is_human and by_person and (known.machine or known.prefetched):
                found["first"] = one
        elif is_human and by_person:
            found.setdefault("human", one)
    return found.get("first"), found.get("human")


def is_time(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= FIRST_TIME


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < FIRST_TIME


def base_of(key: str) -> str:
    """The metric that a key of `metrics` goes with: `opened` for `human_opened`, `clicked` for `link:7`."""
    if key.startswith(("link:", "human_link:")):
        return "clicked"
    by, _, metric = key.partition("_")
    return metric if by in _BY and metric in REPEATED else key


def looks_like_a_draft(metrics: Mapping[str, Any]) -> bool:
    """Return whether the row has no metric but `created` and `drafted`. It decides if a history names none."""
    return "drafted" in metrics and metrics.keys() <= {"created", "drafted"}


def identity(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return (userId, anonymousId) of a row, by reference/customerio.md 8. "" counts as missing, like any value that is
    no id.

    `customer_id` counts only without an id among the identifiers, and not if it is the `cio_id`, be it written plainly
    or as the API wants it, with `cio_` before it. Only an e-mail's recipient can be an address: elsewhere it is a
    phone number, a token, a channel or a URL.
    """
    known = row.get("customer_identifiers")
    if not isinstance(known, Mapping):
        known = {}
    cio_id = _text(known.get("cio_id"))
    user_id = _text(known.get("id"))
    if user_id is None:
        user_id = _text(row.get("customer_id"))
        if cio_id is not None and user_id in {cio_id, f"cio_{cio_id}"}:
            user_id = None
    if user_id is not None:
        return user_id, None
    email = known.get("email")
    if isinstance(email, str) and email:
        return None, email
    recipient = row.get("recipient")
    if row.get("type", "email") != "email" or not isinstance(recipient, str):
        return None, None
    return None, recipient.strip() if _ADDRESS.fullmatch(recipient.strip()) else None


def _text(value: object) -> str | None:
    """Return an id as text: it may be a string or a number."""
    return (str(value) or None) if isinstance(value, str | int) and not isinstance(value, bool) else None

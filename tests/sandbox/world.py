"""Make up the deliveries of a workspace: recipients, channels, and fates."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import accumulate
from random import Random

import msgspec

from tests.sandbox.delivery import Delivery, Person
from tests.sandbox.fate import Fates
from tests.sandbox.people import make_people, show, show_rarely

_WEIGHTS = {"email": 60, "push": 12, "twilio": 8, "in_app": 8, "whatsapp": 4, "slack": 3, "webhook": 5}
_ACTION_CHANNELS = (
    "email",
    "email",
    "push",
    "email",
    "twilio",
    "in_app",
    "email",
    "whatsapp",
    "webhook",
    "slack",
)
_SUBJECTS = (
    "Your order is on its way",
    "Grüße aus Köln 🎉",
    "今週のおすすめ",
    'He said "hello" & <goodbye>',
    "Ваш заказ № 7",
    "عرض خاص لك",
    "👩‍👩‍👧‍👦 Family plan",
    "Tab\there, back\\slash and / too",
    "नमस्ते, नई कीमतें",
    "x" * 300,
)
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_PLANS = 1024  # more plans than this do not fit into the sort key
_ELSEWHERE = {
    "slack": (("#general", "#продажи", "C024BE91L"), ("#team@example.com", "@ana", "ops@example.com")),
    "webhook": (
        ("https://hooks.example.com/cio", "https://hooks.example.com/in?id=1&k=ü"),
        (
            "https://cio:s3cret@hooks.example.com",
            "https://cio:s3cret@hooks.example.com/in?id=1",
            "https://hooks.example.com/in?to=ops@example.com",
        ),
    ),
}
_DRAFT_RECIPIENT = "{{customer.email}}"


class Plan(msgspec.Struct):
    """A message that can be sent: an action of a campaign, a newsletter, a broadcast, a transactional one."""

    channel: str
    subject: str | None
    template_id: int
    campaign_id: int | None = None
    action_id: int | None = None
    parent_action_id: int | None = None
    newsletter_id: int | None = None
    content_id: int | None = None
    broadcast_id: int | None = None
    transactional_message_id: int | None = None
    by_event: bool = False


class World:
    """A seeded workspace. The parameters are those of `History.generate`."""

    def __init__(
        self,
        *,
        seed: int,
        deliveries: int,
        start: int,
        end: int,
        burst: float,
        burst_seconds: int,
        channels: tuple[str, ...],
        campaigns: int,
        newsletters: int,
        broadcasts: int,
        transactional: int,
        people: int | None,
        drafts: float,
        on_bounds: float,
        longest_lag: int,
        late_opens: float,
        nasty: float,
        created_late: float,
        created_late_by: int,
        tried_drafts: float,
        drafts_sent: float,
        rare_identities: float,
    ) -> None:
        if end <= start:
            raise ValueError("a history needs some time to happen in")
        if not channels:
            raise ValueError("a history needs a channel")
        self.rng = Random(seed)
        self.count, self.start, self.end = deliveries, start, end
        self.channels = channels
        self.burst_seconds = min(burst_seconds, end - start)
        self.drafts, self.on_bounds = drafts, on_bounds
        self.people = make_people(self.rng, people or min(50_000, max(20, deliveries // 10)))
        self.trickles = self._trickles(campaigns, broadcasts, transactional)
        self.newsletters = self._newsletters(newsletters) if burst > 0 else []
        self.in_bursts = round(deliveries * burst) if self.newsletters else 0
        self.fates = Fates(self.rng, on_bounds=on_bounds, longest_lag=longest_lag, late_opens=late_opens)
        # Each of these has dice of its own, so that it changes nothing else of a seeded world.
        self.nasty, self.recipients = nasty, Random(f"{seed} recipients")
        self.created_late, self.created_late_by = created_late, created_late_by if created_late else 0
        self.clocks = Random(f"{seed} clocks")
        self.tried_drafts, self.tries = tried_drafts, Random(f"{seed} tries")
        self.drafts_sent, self.sendings = drafts_sent, Random(f"{seed} sendings")
        self.sending = Fates(self.sendings, on_bounds=on_bounds, longest_lag=longest_lag)
        self.rare_identities, self.rarities = rare_identities, Random(f"{seed} identities")

    @property
    def plans(self) -> list[Plan]:
        return [*self.trickles, *self.newsletters]

    def deliveries(self) -> Iterator[Delivery]:
        """All deliveries, newest first."""
        plans = self.plans
        moments = [*self._trickle_moments(), *self._burst_moments()]
        moments.sort(reverse=True)
        # (-created, number): with late clocks one that was made later may have been created earlier.
        waiting: list[tuple[int, int, Delivery]] = []
        for number, moment in enumerate(moments):
            created, plan = divmod(moment, _PLANS)
            while waiting and -waiting[0][0] >= created + self.created_late_by:
                yield heappop(waiting)[2]
            delivery = self._delivery(created, plans[plan])
            self._stamp(delivery)
            heappush(waiting, (-delivery.created, number, delivery))
        while waiting:
            yield heappop(waiting)[2]

    def _trickles(self, campaigns: int, broadcasts: int, transactional: int) -> list[Plan]:
        plans: list[Plan] = []
        for campaign in range(campaigns):
            for action in range(3):
                plan = self._plan(_ACTION_CHANNELS[(campaign * 3 + action) % len(_ACTION_CHANNELS)], len(plans))
                plan.campaign_id = 10 + campaign
                plan.action_id = 100 + campaign * 10 + action
                plan.parent_action_id = plan.action_id + 1000 if action == 2 else None
                plan.by_event = campaign % 2 == 0
                plans.append(plan)
        for broadcast in range(broadcasts):
            plan = self._plan("email" if broadcast % 2 == 0 else "push", len(plans))
            plan.broadcast_id, plan.action_id = 300 + broadcast, 3000 + broadcast
            plans.append(plan)
        for message in range(transactional):
            plan = self._plan(("email", "twilio", "push")[message % 3], len(plans))
            plan.transactional_message_id = 1 + message
            plans.append(plan)
        for channel in self.channels:
            if all(plan.channel != channel for plan in plans):
                plan = self._plan(channel, len(plans))
                plan.campaign_id, plan.action_id = 90, 900 + len(plans)
                plans.append(plan)
        return plans

    def _newsletters(self, count: int) -> list[Plan]:
        plans: list[Plan] = []
        for number in range(count):
            plan = self._plan("email", number + 1)
            plan.newsletter_id, plan.content_id = 500 + number, 5000 + number
            plans.append(plan)
        return plans

    def _plan(self, channel: str, number: int) -> Plan:
        if channel not in self.channels:
            channel = self.channels[number % len(self.channels)]
        subject = _SUBJECTS[number % len(_SUBJECTS)] if channel == "email" else None
        return Plan(channel, subject, 7000 + number)

    def _trickle_moments(self) -> list[int]:
        """Return creation times spread over the whole span, each with the number of its plan."""
        rng, length = self.rng, self.end - self.start
        counts = {channel: sum(p.channel == channel for p in self.trickles) for channel in self.channels}
        weights = [_WEIGHTS.get(plan.channel, 5) / counts[plan.channel] for plan in self.trickles]
        count = self.count - self.in_bursts
        chosen = rng.choices(range(len(self.trickles)), cum_weights=list(accumulate(weights)), k=count)
        random, on_bounds = rng.random, self.on_bounds
        moments = []
        for plan in chosen:
            created = self.start + int(random() * length)
            if random() < on_bounds:
                created = self._to_bound(created)
            moments.append(created * _PLANS + plan)
        return moments

    def _burst_moments(self) -> list[int]:
        """Return the creation times of newsletters: each goes out evenly within some minutes."""
        rng = self.rng
        moments: list[int] = []
        for number in range(len(self.newsletters)):
            share = self.in_bursts * (number + 1) // len(self.newsletters) - len(moments)
            begin = self.start + int(rng.random() * max(1, self.end - self.start - self.burst_seconds))
            if rng.random() < 0.5:
                begin = self._to_bound(begin)
            span = min(self.burst_seconds, self.end - begin)
            plan = len(self.trickles) + number
            moments.extend((begin + int(rng.random() * span)) * _PLANS + plan for _ in range(share))
        return moments

    def _to_bound(self, time: int) -> int:
        """Return the full hour or midnight UTC before a time, or the second before that, if within the span."""
        bound = time - time % (86_400 if self.rng.random() < 0.3 else 3600) - (self.rng.random() < 0.3)
        return bound if bound >= self.start else time

    def _delivery(self, created: int, plan: Plan) -> Delivery:
        rng = self.rng
        random = rng.random
        person = self.people[int(random() * len(self.people))]
        customer_id, identifiers, user_id, email = show(rng, person)
        if self.rarities.random() < self.rare_identities:
            customer_id, identifiers, user_id, email = show_rarely(self.rarities, person)
        draft = plan.newsletter_id is None and random() < self.drafts
        recipient, address = self._recipient(plan.channel, person, draft)
        subject = plan.subject
        if subject is not None and random() < 0.1:
            subject = f"{subject} ({person.phone[-4:]})"
        delivery = Delivery(
            id=self._id(),
            channel=plan.channel,
            created=created,
            user_id=user_id,
            anonymous_id=None if user_id else (email or address),
            recipient=recipient,
            subject=subject,
            times={"created": created, "drafted": created},
            draft=draft,
            person=person,
            customer_id=customer_id,
            identifiers=identifiers,
            template_id=plan.template_id,
            campaign_id=plan.campaign_id,
            action_id=plan.action_id,
            parent_action_id=plan.parent_action_id,
            newsletter_id=plan.newsletter_id,
            content_id=plan.content_id,
            broadcast_id=plan.broadcast_id,
            transactional_message_id=plan.transactional_message_id,
            trigger_event_id=f"01J{rng.getrandbits(60):015X}" if plan.by_event else None,
        )
        if draft:
            self._try(delivery)
            self._send(delivery)
            return delivery
        if random() < 0.01:
            delivery.forgotten, delivery.subject = True, None
        self.fates.befall(delivery)
        return delivery

    def _try(self, draft: Delivery) -> None:
        """Try to send some drafts, in vain."""
        if self.tries.random() >= self.tried_drafts:
            return
        attempted = draft.created + int(self.tries.random() * 300)
        if self.tries.random() < 0.6:
            draft.times["attempted"] = attempted
        if "attempted" not in draft.times or self.tries.random() < 0.5:
            draft.times["failed"] = attempted + int(self.tries.random() * 60)
            draft.failure_message = "the template can't be rendered"

    def _send(self, draft: Delivery) -> None:
        """Send some drafts later, unless they were tried in vain. Their recipient is known from the start."""
        if self.sendings.random() >= self.drafts_sent or draft.times.keys() & {"attempted", "failed"}:
            return
        if draft.channel == "email" and draft.person is not None:
            draft.recipient = draft.person.address
            if draft.user_id is None:
                draft.anonymous_id = draft.anonymous_id or draft.recipient
        self.sending.send(draft)

    def _stamp(self, delivery: Delivery) -> None:
        """Stamp some deliveries as created only after the first things happened to them."""
        most = self.created_late_by
        if not most or self.clocks.random() >= self.created_late:
            return
        late = 1 + int(self.clocks.random() * most)
        to_hour = -delivery.created % 3600 or 3600
        if to_hour <= most:
            late = max(late, to_hour)
        delivery.created += late
        delivery.times["created"] = delivery.created

    def _recipient(self, channel: str, person: Person, draft: bool) -> tuple[str | None, str | None]:
        """Return (recipient, the one e-mail address that an e-mail went to)."""
        if draft:
            return _DRAFT_RECIPIENT, None
        if channel == "email":
            chance = self.rng.random()
            if chance < 0.97:
                return person.address, person.address
            if chance < 0.99:
                comma = "," if chance < 0.98 else ", "
                return f"{person.address}{comma}copy.{person.address}", None
            return "", None
        if channel in {"twilio", "whatsapp"}:
            return person.phone, None
        if channel == "push":
            token = f"{self.rng.getrandbits(128):032x}"
            return (token * 2 if token < "8" else f"{token[:22]}:APA91b{token}"), None
        return self._elsewhere(channel, person), None

    def _elsewhere(self, channel: str, person: Person) -> str:
        """Return recipients of in-app messages, Slack messages and webhooks; the nasty ones are no addresses either."""
        nasty = self.recipients.random() < self.nasty
        if channel == "in_app":
            return person.address if nasty else person.cio_id
        return self.recipients.choice(_ELSEWHERE[channel][nasty])

    def _id(self) -> str:
        """Return an id that looks like base64; one in four ends in `=` (reference/customerio.md 1.4)."""
        length = 20 if self.rng.random() < 0.25 else 21
        return b2a_base64(self.rng.randbytes(length), newline=False).translate(_URL_SAFE).decode()

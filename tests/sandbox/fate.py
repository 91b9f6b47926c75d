"""Fate of a delivery after its creation: which metrics, when, and how often."""

from __future__ import annotations

from random import Random

from tests.sandbox.delivery import Delivery

HOUR, DAY = 3600, 86_400

# Possible metrics of a channel: the reporting subscriptions of reference/customerio.md 5.
_CAN = {
    "email": "attempted delivered opened clicked converted bounced dropped failed undeliverable".split(),
    "push": "attempted delivered opened clicked converted bounced dropped failed undeliverable".split(),
    "twilio": "attempted delivered clicked converted bounced dropped failed undeliverable replied".split(),
    "in_app": "attempted opened clicked converted failed undeliverable".split(),
    "whatsapp": "attempted delivered opened clicked converted bounced dropped failed undeliverable replied".split(),
    "slack": "attempted clicked converted failed undeliverable".split(),
    "webhook": "attempted clicked converted failed undeliverable".split(),
}


class Fates:
    """Draws the fates of deliveries from one seeded source."""

    def __init__(self, rng: Random, *, on_bounds: float, longest_lag: int, late_opens: float = 0.0) -> None:
        self.rng, self.on_bounds, self.longest_lag, self.late_opens = rng, on_bounds, longest_lag, late_opens
        self._can = {channel: frozenset(metrics) for channel, metrics in _CAN.items()}
        self._latest = 0

    def befall(self, delivery: Delivery) -> None:
        """Fill in `times`, `counts` and `failure_message`."""
        random = self.rng.random
        can = self._can[delivery.channel]
        times, now = delivery.times, delivery.created
        self._latest = now + self.longest_lag
        end = random()
        if end < 0.06:
            if end < 0.02:
                times["failed"] = self._after(now, 1 + random() * 60)
                delivery.failure_message = "550 5.1.1 user unknown ✗"
                return
            if end < 0.04 and "dropped" in can:
                times["dropped"] = self._after(now, random() * 5)
                delivery.failure_message = "suppressed"
                return
            if end > 0.05 and "undeliverable" in can:
                times["undeliverable"] = self._after(now, random() * 60)
                return
        if random() < 0.03:
            times["attempted"] = now = self._after(now, random() * 300)
        self._send(delivery, self._after(now, random() * 4))

    def send(self, draft: Delivery) -> None:
        """Send a draft after all: at once or up to the longest lag later, but sooner rather than later."""
        self._latest = draft.created + self.longest_lag
        self._send(draft, draft.created + int(self.rng.random() ** 3 * self.longest_lag))

    def _send(self, delivery: Delivery, now: int) -> None:
        random = self.rng.random
        can, times = self._can[delivery.channel], delivery.times
        times["sent"] = now
        if "delivered" in can:
            end = random()
            if end < 0.03:
                times["bounced"] = self._after(now, 1 + random() * HOUR)
                delivery.failure_message = "mailbox full"
                return
            if end < 0.05:
                return
            if end < 0.06 and delivery.channel == "email":
                times["deferred"] = now = self._after(now, 60 + random() * HOUR)
            times["delivered"] = now = self._after(now, self._transit())
            if end > 0.99:
                times["secondary:delivered"] = self._after(now, random() * 60)
        self._engage(delivery, now)

    def _engage(self, delivery: Delivery, now: int) -> None:
        random = self.rng.random
        can = self._can[delivery.channel]
        times = delivery.times
        opens = clicks = prefetched = machine = 0
        if "opened" in can and random() < 0.45:
            times["opened"] = now = self._after(now, self._pause())
            opens = self._repeats()
            prefetched = 1 if random() < 0.25 else 0
        if random() < (0.25 if opens else 0.03):
            times["clicked"] = now = self._after(now, 5 + random() * 600)
            clicks = self._repeats()
            machine = 1 if random() < 0.1 else 0
            if random() < 0.15:
                times["converted"] = self._after(now, random() * 7 * DAY)
        if delivery.channel == "email" and random() < 0.02:
            metric = ("unsubscribed", "topic_unsubscribed", "spammed")[int(random() * 3)]
            times[metric] = self._after(now, random() * HOUR)
        if "replied" in can and random() < 0.02:
            times["replied"] = self._after(now, random() * HOUR)
        is_recorded = random() < 0.7  # of e-mails always, but for those from before Customer.io did that
        if (opens or clicks) and (is_recorded or delivery.channel == "email"):
            delivery.counts = {
                key: count
                for key, count in (
                    ("human_opened", opens - prefetched),
                    ("prefetch_opened", prefetched),
                    ("human_clicked", clicks - machine),
                    ("prefetch_clicked", machine),
                )
                if count
            }

    def _after(self, time: int, lag: float) -> int:
        """Return a time that much later, at most the longest lag after the creation, sometimes on a bound."""
        later = time + int(lag)
        if later > self._latest:
            later = time + int(self.rng.random() * (self._latest - time))
        if self.rng.random() < self.on_bounds:
            chance = self.rng.random()
            bound = later + -later % (DAY if chance < 0.3 else HOUR) - (chance > 0.8)
            if time <= bound <= self._latest:
                return bound
        return later

    def _transit(self) -> float:
        """Return the seconds until it is delivered: mostly none, sometimes hours (8 h were seen)."""
        chance, random = self.rng.random(), self.rng.random()
        if chance < 0.85:
            return 1 + random * 30
        if chance < 0.97:
            return random * HOUR
        return random * 14 * HOUR

    def _pause(self) -> float:
        """Return the seconds until it is opened: minutes to weeks, or any time."""
        if self.late_opens and self.rng.random() < self.late_opens:  # without them, seeded worlds stay as they were
            return self.rng.random() * self.longest_lag
        chance = self.rng.random()
        if chance < 0.6:
            return self.rng.expovariate(1 / (0.75 * HOUR))
        if chance < 0.9:
            return self.rng.expovariate(1 / DAY)
        return self.rng.expovariate(1 / (10 * DAY))

    def _repeats(self) -> int:
        """Return how often a person opens or clicks."""
        count = 1
        while count < 9 and self.rng.random() < 0.3:
            count += 1
        return count

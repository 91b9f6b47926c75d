"""The bodies of Customer.io's reporting webhooks over a history, as reference/stream.md B.3 describes them.

The bodies are made of the same rows and of the same opens and clicks that the App API shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import msgspec

from tests.sandbox.catalog import CHANNELS, COLLECTIONS
from tests.sandbox.delivery import REPEATED, Engagement, base_of, first_ones, is_time
from tests.sandbox.dice import dice_of, upto
from tests.sandbox.engagements import link_id, ulid
from tests.sandbox.history import History
from tests.sandbox.parents import FIELDS

#: `object_type` of each channel.
OBJECT_TYPES = {channel: "sms" if channel == "twilio" else channel for channel in CHANNELS}
#: Events that a webhook can be subscribed to (`EVENTS`), in the order of the App API's list of them.
CUSTOMER_EVENTS = ("customer_subscribed", "customer_unsubscribed", "customer_subscription_preferences_changed")
REPORTED = (*CUSTOMER_EVENTS, *(f"{OBJECT_TYPES[channel]}_{metric}" for channel, metric in COLLECTIONS))
#: The specification of the bodies has this one, and the App API's list has not.
UNLISTED = "slack_undeliverable"
EVENTS = tuple(event for event in REPORTED if event != UNLISTED)

_FAILED = {"attempted": "failure_message", "failed": "failure_message", "undeliverable": "failure_message"}
_TO = dict.fromkeys(("sent", "delivered", "clicked", "converted"), "recipient")
_DEVICES = ("sent", "delivered", "opened", "clicked", "converted", "bounced", "dropped")
_BOUNCED = {"bounced": "recipient failure_message"}
#: The keys of `data` beside those of its origin, by object type and metric. What is not here is subscribable, or was
#: seen, but has no schema: it gets none. `content`, `headers`, and what only opens and clicks have are added below.
_KEYS: dict[str, dict[str, str]] = {
    "email": {
        **dict.fromkeys(("drafted", "sent", "delivered", "opened", "clicked", "converted"), "recipient subject"),
        **dict.fromkeys(("unsubscribed", "spammed"), "recipient subject"),
        **dict.fromkeys(("bounced", "dropped", "undeliverable"), "recipient subject failure_message"),
        "attempted": "failure_message",
        "failed": "failure_message subject recipient",
    },
    "sms": _FAILED | _TO | _BOUNCED | {"replied": "inbound_event_id to recipient"},
    "whatsapp": _FAILED
    | _TO
    | _BOUNCED
    | {"opened": "recipient", "dropped": "recipient failure_message", "replied": "inbound_event_id to recipient"},
    "push": _FAILED | dict.fromkeys(_DEVICES, "recipients"),
    "in_app": _FAILED | _TO,
    "slack": _FAILED | {"sent": "recipient", "clicked": "recipient"},
    "webhook": _FAILED | {"sent": "recipient", "clicked": "recipient"},
}
_ORIGINS = {
    "campaign_id": ("campaign_id", "action_id", "journey_id", "parent_action_id", "trigger_event_id"),
    "broadcast_id": ("broadcast_id", "trigger_id", "action_id", "journey_id", "parent_action_id"),
    "newsletter_id": ("newsletter_id", "content_id"),
    "transactional_message_id": ("transactional_message_id",),
}
#: Fields that the schema describes, but does not require.
_OPTIONAL = ("proxied", "prefetched", "synthetic", "machine", "tracked_response", "trigger_event_id")

#: Values of another kind than the schema says, for what only describes.
_ODD: dict[str, Any] = {
    "subject": 7,
    "recipient": ["a", "b"],
    "recipients": ["token"],
    "failure_message": {"code": 550},
    "trigger_event_id": {"id": 1},
    "action_id": 9.0,
    "machine": "no",
}

_encode = msgspec.json.Encoder().encode


class Habits(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Properties of the bodies that the reference leaves open, and the oddest bodies."""

    #: Leave out every key that the schema does not require, among them the subject of an open and the recipient of a
    #: failed e-mail.
    bare: bool = False
    #: Keys in body and `data` that nobody described.
    unknown_keys: bool = False
    #: Also what happened but can't be subscribed to, such as `topic_unsubscribed`.
    unknown_metrics: bool = False
    #: Each person who answers a message answers it twice.
    second_answers: bool = False
    #: Each push went to a second device, too, and failed for it.
    two_devices: bool = False
    #: Optional fields have other types than the schema says.
    odd_kinds: bool = False
    #: Where a change of preferences has its channel: the schema says `object_type_type`, a slip perhaps.
    preferences_key: Literal["object_type", "object_type_type"] = "object_type"


class Subscription(msgspec.Struct, kw_only=True):
    """Reporting webhook as the App API shows it. Field order is that of its schema."""

    name: str = "sandbox"
    id: int = 1
    type: str = "webhook"
    endpoint: str = ""
    disabled: bool = False
    full_resolution: bool = False
    with_content: bool = False
    events: list[str] = msgspec.field(default_factory=lambda: list(REPORTED))


class Report(NamedTuple):
    """One body, and its delivery. A report of a person's subscription has no delivery."""

    event: str
    time: int
    event_id: str
    delivery_id: str | None
    metric: str
    #: This is the one that the delivery's own metric tells of; see `Truth.first`.
    first: bool
    body: bytes


def reports(history: History, subscription: Subscription | None = None, habits: Habits | None = None) -> list[Report]:
    """Return the reports that a subscription gets of a history, in the order in which it happened."""
    subscription, habits = subscription or Subscription(), habits or Habits()
    if subscription.disabled:
        return []
    wanted = set(subscription.events)
    found: list[Report] = []
    for row, engagements in history.with_engagements():
        maker = _Maker(row, subscription.with_content, habits)
        for metric, time, one, first in _occurrences(row, engagements):
            event = f"{maker.object_type}_{metric}"
            subscribed = event in wanted if event in REPORTED else habits.unknown_metrics
            if subscribed and (first or subscription.full_resolution):
                found.append(maker.report(event, metric, time, one, first))
                if metric == "replied" and habits.second_answers:
                    found.append(maker.report(event, metric, time + 60, one, False))
        found += (report for report in maker.of_person() if report.event in wanted)
    found.sort(key=lambda report: (report.time, report.event_id))
    return found


def _occurrences(
    row: Mapping[str, Any], engagements: list[Engagement]
) -> Iterator[tuple[str, int, Engagement | None, bool]]:
    """Yield (metric, time, the open or click, whether it is the first) of all that happened to a delivery."""
    for metric, time in (row.get("metrics") or {}).items():
        if metric == "created" or base_of(metric) != metric or not is_time(time):
            continue
        those = [one for one in engagements if one.metric == metric]
        first, _ = first_ones(those, row["metrics"])
        if metric not in REPEATED or first is None:
            yield metric, time, None, True
        for one in sorted(those, key=lambda one: (one.time, one.activity_id)):
            yield metric, one.time, one, one is first


class _Maker:
    """Makes the reports about one delivery."""

    def __init__(self, row: Mapping[str, Any], with_content: bool, habits: Habits) -> None:
        self._row, self._with_content, self._habits = row, with_content, habits
        self._id = row["id"]
        self.channel = row.get("type", "email")
        self.object_type = OBJECT_TYPES.get(self.channel, self.channel)

    def report(self, event: str, metric: str, time: int, one: Engagement | None, first: bool) -> Report:
        of = one.activity_id if one else f"{self._id} {metric}" if first else f"{self._id} {metric} {time}"
        event_id = _event_id(of, time)
        data = self._person() | {"delivery_id": self._id} | self._origin() | self._details(metric, one, time)
        if self._habits.bare:
            needless = (*_OPTIONAL, *({"opened": ["subject"], "failed": ["recipient"]}.get(metric, ())))
            data = {key: value for key, value in data.items() if key not in needless}
        return self._report(event, self.object_type, metric, time, event_id, data, first)

    def of_person(self) -> Iterator[Report]:
        """Yield the reports of people who unsubscribe, subscribe again or change preferences by a message."""
        metrics = self._row.get("metrics") or {}
        dice = dice_of("person", self._id)
        address = {"email_address": (self._row.get("customer_identifiers") or {}).get("email") or ""}
        if isinstance(left := metrics.get("unsubscribed"), int) and is_time(left):
            by = self.object_type if dice % 3 else "customer"
            yield self._of_person("customer_unsubscribed", by, "unsubscribed", left, address)
            if dice % 2:
                yield self._of_person("customer_subscribed", by, "subscribed", left + 3600, address)
        if isinstance(changed := metrics.get("topic_unsubscribed"), int) and is_time(changed):
            data = address | {"delivery_id": self._id} | self._origin()
            if self._with_content:
                data["content"] = '{"topics":{"topic_1":false}}'
            metric = "cio_subscription_preferences_changed"
            yield self._of_person(CUSTOMER_EVENTS[2], self.object_type, metric, changed, data)

    def _of_person(self, event: str, by: str, metric: str, time: int, data: dict[str, Any]) -> Report:
        event_id = _event_id(f"{event} {self._id}", time)
        return self._report(event, by, metric, time, event_id, self._person() | data, True)

    def _report(
        self, event: str, by: str, metric: str, time: int, event_id: str, data: dict[str, Any], first: bool
    ) -> Report:
        key = self._habits.preferences_key if event == CUSTOMER_EVENTS[2] else "object_type"
        body: dict[str, Any] = {"metric": metric, "event_id": event_id, key: by, "timestamp": time, "data": data}
        if self._habits.odd_kinds:
            data |= {key: odd for key, odd in _ODD.items() if key in data}
            body["timestamp"] = float(time) if dice_of("odd", event_id) % 2 else str(time)
        if self._habits.unknown_keys:
            body["api_version"] = {"major": 2, "tags": ["x", None]}
            data["experiment"] = [{"id": 1.5}, None]
        delivery_id = None if event in CUSTOMER_EVENTS else self._id
        return Report(event, time, event_id, delivery_id, metric, first, _encode(body))

    def _person(self) -> dict[str, Any]:
        """Return the person's fields. `customer_id` is "blank when the person is gone"."""
        customer_id = self._row.get("customer_id")
        return {
            "customer_id": "" if customer_id is None else customer_id,
            "identifiers": self._row.get("customer_identifiers") or {},
        }

    def _origin(self) -> dict[str, Any]:
        row = self._row
        field = next((name for name in FIELDS.values() if row.get(name) is not None), None)
        if field is None:
            return {}
        return {name: self._journey[name] if name in self._journey else row.get(name) for name in _ORIGINS[field]}

    @cached_property
    def _journey(self) -> dict[str, Any]:
        """Return the fields that only webhooks have."""
        row = self._row
        trigger = dice_of("trigger", row.get("broadcast_id"), row["created"] // 86_400)
        return {"journey_id": _event_id(f"journey {self._id}", row["created"]), "trigger_id": 1 + trigger % 1000}

    def _details(self, metric: str, one: Engagement | None, time: int) -> dict[str, Any]:
        keys = _KEYS.get(self.object_type, {}).get(metric, "").split()
        data: dict[str, Any] = {key: self._row.get(key) or "" for key in keys}
        if "recipients" in data:
            data["recipients"] = self._devices(metric)
        if "inbound_event_id" in data:
            data |= {"inbound_event_id": _event_id(f"inbound {self._id}", time), "to": "+15005550006"}
        if metric == "sent" and self._with_content:
            data["content"] = self._content()
            if self.object_type == "email":
                data["headers"] = {"X-Campaign": ["a", "b"]}
        return data | (self._opened(one) if metric == "opened" else self._clicked(one) if metric == "clicked" else {})

    def _opened(self, one: Engagement | None) -> dict[str, Any]:
        if self.object_type != "email":
            return {}
        metrics, prefetched = self._row["metrics"], one is not None and one.prefetched
        synthetic = one is not None and metrics.get("clicked") == one.time
        return {"proxied": prefetched, "prefetched": prefetched, "synthetic": synthetic}

    def _clicked(self, one: Engagement | None) -> dict[str, Any]:
        link = (one and one.link) or "https://example.com/"
        data: dict[str, Any] = {"href": link, "link_id": link_id(link)}
        if self.object_type == "email":
            data["machine"] = one is not None and one.machine
        elif self.object_type == "in_app":
            data["tracked_response"] = "Dismissed"
        return data

    def _devices(self, metric: str) -> list[dict[str, Any]]:
        device: dict[str, Any] = {
            "device_id": self._row.get("recipient") or "",
            "device_platform": ("ios", "android")[dice_of("device", self._id) % 2],
        }
        if metric in ("bounced", "dropped"):
            device["failure_message"] = self._row.get("failure_message") or ""
        if self._habits.two_devices:
            return [device, {"device_id": "second", "device_platform": "ios", "failure_message": "Unregistered"}]
        return [device]

    def _content(self) -> str:
        """Return the content: an object as text for push and webhook, else markup."""
        text = "<p>Grüße 🎉</p>" * 20
        return _encode({"message": text}).decode() if self.object_type in ("push", "webhook") else text


def _event_id(of: str, time: int) -> str:
    """Return the id of a report made 80 milliseconds to 2.2 seconds after its event (the fixtures of B.3)."""
    return ulid(time * 1000 + 80 + upto(dice_of("report", of), 2120), blake2b(of.encode(), digest_size=10).digest())

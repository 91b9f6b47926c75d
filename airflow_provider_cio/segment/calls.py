"""Track calls that are given as dicts, dead letters say: checked like any other, packed and sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from airflow_provider_cio.events.event import MAX_EVENT_BYTES, MAX_MESSAGE_ID
from airflow_provider_cio.exceptions import ConfigurationError, EventsRefusedError
from airflow_provider_cio.segment.batches import Outcome, Packer, Sender
from airflow_provider_cio.segment.client import SegmentClient

#: `messageId`s that the error names, for each reason.
_MOST_NAMED = 5


def send_plain(client: SegmentClient, events: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Send track calls given as dicts; see `SegmentHook.track`."""
    packer, sent = Packer(client.envelope), Counter(events=0, batches=0, bytes=0)
    refused, named = Counter[str](), dict[str, list[str]]()

    def refuse(reason: str, message_id: str) -> None:
        refused[reason] += 1
        if refused[reason] <= _MOST_NAMED:
            named.setdefault(reason, []).append(message_id)

    def settle(outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            sent.update(events=outcome.events, batches=outcome.batches, bytes=outcome.size)
            for one in outcome.refused:
                refuse(one.reason, msgspec.json.decode(one.event)["messageId"])

    with Sender(client) as sender:
        for position, event in enumerate(events):
            encoded = _encoded(event, position)
            if reason := _rule_broken(event, encoded, position):
                refuse(reason, event["messageId"])
            elif batch := packer.add(encoded):
                settle(sender.send(batch))
        if batch := packer.flush():
            settle(sender.send(batch))
        settle(sender.settled(at_most=0))
    if refused:
        reasons = "; ".join(
            f"{reason}: {count} (first messageIds: {', '.join(named[reason])})" for reason, count in refused.items()
        )
        raise EventsRefusedError(f"{refused.total()} events can't be sent, all others were: {reasons}")
    return dict(sent)


def _encoded(event: Mapping[str, Any], position: int) -> bytes:
    """:raises ConfigurationError: it is no dict, or holds what can't be JSON."""
    try:
        return msgspec.json.encode({**event, "type": "track"})
    except (TypeError, ValueError) as error:  # a lone surrogate is a ValueError
        kind = type(error).__name__
        raise ConfigurationError(
            f"Event {position} (counted from 0) can't be made JSON ({kind}): give a dict"
        ) from None


def _rule_broken(event: Mapping[str, Any], encoded: bytes, position: int) -> str | None:
    """:raises ConfigurationError: a field that every event needs is missing."""
    for name in ("event", "messageId"):
        if not isinstance(event.get(name), str) or not event[name]:
            raise ConfigurationError(f"Event {position} (counted from 0) has no text under {name!r}: give it one")
    ids = [event[name] for name in ("userId", "anonymousId") if event.get(name) is not None]
    if not ids:
        return "unidentified"
    if not all(isinstance(one, str) and one for one in ids):
        return "id_not_string"
    if len(event["messageId"]) > MAX_MESSAGE_ID:
        return "message_id_length"
    return "event_too_large" if len(encoded) > MAX_EVENT_BYTES else None

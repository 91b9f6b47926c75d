"""Send track calls that are given as dicts, such as dead letters, with the same checks as any other event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from airflow_provider_cio.events.event import rule_broken_by
from airflow_provider_cio.exceptions import ConfigurationError, EventsRefusedError
from airflow_provider_cio.http.errors import safe_text
from airflow_provider_cio.segment.batches import InFlight, Outcome, Packer
from airflow_provider_cio.segment.client import SegmentClient
from airflow_provider_cio.values import kind_of

#: `messageId`s that the error names for each reason, so that it stays short.
_MOST_NAMED = 5


def send_calls(client: SegmentClient, events: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Send track calls given as dicts; see `SegmentHook.track`."""
    packer, sent = Packer(client.envelope), Counter(Outcome().counts())
    refused, named = Counter[str](), dict[str, list[str]]()

    def refuse(reason: str, message_id: str) -> None:
        refused[reason] += 1
        if refused[reason] <= _MOST_NAMED:
            named.setdefault(reason, []).append(safe_text(message_id))

    def settle(outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            sent.update(outcome.counts())
            for refusal in outcome.refused:
                refuse(refusal.reason, msgspec.json.decode(refusal.event)["messageId"])

    with InFlight(client) as in_flight:
        for position, event in enumerate(events):
            encoded = _encoded(event, position)
            ids = event.get("userId"), event.get("anonymousId")
            if reason := rule_broken_by(*ids, event["event"], event["messageId"], len(encoded)):
                refuse(reason, event["messageId"])
            elif batch := packer.add(encoded):
                settle(in_flight.send(batch))
        if batch := packer.flush():
            settle(in_flight.send(batch))
        settle(in_flight.settled(at_most=0))
    if refused:
        reasons = "; ".join(
            f"{reason}: {count} (first messageIds: {', '.join(named[reason])})" for reason, count in refused.items()
        )
        raise EventsRefusedError(f"{refused.total()} events can't be sent, all others were: {reasons}")
    return dict(sent)


def _encoded(event: Mapping[str, Any], position: int) -> bytes:
    """Encode one call.

    :raises ConfigurationError: the call is no dict, has a value that JSON does not know, or lacks a required field.
    """
    try:
        encoded = msgspec.json.encode({**event, "type": "track"})
    except (TypeError, ValueError) as error:  # a lone surrogate is a ValueError
        raise ConfigurationError(
            f"Event {position} (counted from 0) can't be encoded as JSON ({type(error).__name__}): give a dict of JSON "
            "values"
        ) from None
    for name in ("event", "messageId"):
        if not isinstance(event.get(name), str) or not event[name]:
            raise ConfigurationError(
                f"Event {position} (counted from 0): {name!r} must be text, got {kind_of(event.get(name))}"
            )
    return encoded

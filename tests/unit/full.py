"""Run the pipeline with all collections, and bring both sides into rows that can be compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from airflow_provider_cio.events.catalog import resolve_collections
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.pipeline.result import Result
from tests.sandbox import History, Sandbox
from tests.sandbox.catalog import DOCUMENTED_ACTIVITY_TYPES
from tests.sandbox.delivery import REPEATED, Truth
from tests.unit.support import DAY, run_pipeline

#: (channel, metric) of which the API documents activities, so that every one of them can be sent.
DOCUMENTED = {
    (channel, metric)
    for metric, _, channel in (kind.partition("_") for kind in DOCUMENTED_ACTIVITY_TYPES)
    if metric in REPEATED
}


class Told(NamedTuple):
    """One occurrence, as Customer.io held it or as Segment kept it."""

    collection: str
    delivery_id: str
    time: int
    user_id: str | None
    anonymous_id: str | None
    recipient: str | None
    subject: str | None
    campaign_name: str | None
    link: str | None
    ip: str | None
    user_agent: str | None
    machine: bool
    prefetched: bool
    link_id: int | None


def run_full(
    sandbox: Sandbox,
    interval: Interval,
    names: str | Sequence[str] = "all",
    *,
    every: bool = True,
    warn: Callable[[str], None] | None = None,
    **options: Any,
) -> Result:
    """Run with every open and click unless `every` is off. Assert that it warns of nothing, or let `warn` take it."""
    warnings: list[str] = []
    mode = "every" if every else "first"
    result = run_pipeline(sandbox, interval, names=names, mode=mode, warn=warn or warnings.append, **options)
    assert warnings == []
    return result


def held(
    history: History,
    intervals: Iterable[Interval],
    names: str | Sequence[str] = "all",
    *,
    lookback: int = 30 * DAY,
    older_than: int = 0,
    every: bool = True,
    human: bool = False,
) -> list[Truth]:
    """Return the occurrences that runs over these intervals should find. Those with an activity count at any age.

    Where no activities are documented, the delivery's first time stands for all of them.

    :param human: of opens and clicks that are told by their delivery only, the first by a person.
    """
    wanted = {collection.name for collection in resolve_collections(names)}
    drafts = any(name.endswith(" Drafted") for name in wanted)
    found: list[Truth] = []
    for interval in intervals:
        first = history.truth(*interval, drafts=drafts, human=human)
        if every:
            found += [row for row in history.truth(*interval, every=True) if (row.channel, row.metric) in DOCUMENTED]
            first = [row for row in first if (row.channel, row.metric) not in DOCUMENTED]
        found += [row for row in first if in_range(row, lookback, older_than)]
    return [row for row in found if row.collection in wanted]


def in_range(row: Truth, lookback: int, older_than: int = 0) -> bool:
    """Return whether the occurrence counts at its age."""
    age = row.time - row.created
    return age < lookback and (not older_than or older_than <= age)


def held_in_mode(
    mode: str, history: History, intervals: Iterable[Interval], names: str | Sequence[str] = "all", **options: Any
) -> list[Truth]:
    """Return the occurrences that runs with this `opens_and_clicks` should find."""
    human = mode.endswith("human")
    rows = held(history, intervals, names, every=mode.startswith("every"), human=human, **options)
    return of_mode(rows, mode)


def of_mode(rows: Iterable[Truth], mode: str) -> list[Truth]:
    """Leave out opens and clicks that no person made, if the mode is "every_human" and activities are documented."""
    return [
        one
        for one in rows
        if mode != "every_human" or not ((one.channel, one.metric) in DOCUMENTED and (one.machine or one.prefetched))
    ]


def told(row: Truth) -> Told:
    """Return the row as its event has it: empty text is left out."""
    return Told(
        row.collection,
        row.delivery_id,
        row.time,
        row.user_id,
        row.anonymous_id,
        row.recipient or None,
        row.subject or None,
        row.campaign_name,
        row.link,
        row.ip,
        row.user_agent,
        row.machine,
        row.prefetched,
        row.link_id,
    )


def to_send(rows: Iterable[Truth]) -> Counter[Told]:
    """Return the rows of people who have an id to send."""
    return Counter(told(row) for row in rows if row.user_id or row.anonymous_id)


def kept(events: Iterable[dict[str, Any]]) -> Counter[Told]:
    """Return the events that Segment kept."""
    return Counter(map(_kept, events))


def raw(events: Iterable[dict[str, Any]]) -> str:
    """Return all that Segment received, as one text."""
    return "\n".join(json.dumps(event, ensure_ascii=False) for event in events)


def _kept(event: dict[str, Any]) -> Told:
    properties, context = event["properties"], event["context"]
    assert properties.get("href") == properties.get("link_url")
    return Told(
        event["event"],
        properties["delivery_id"],
        int(datetime.fromisoformat(event["originalTimestamp"]).timestamp()),
        event.get("userId"),
        event.get("anonymousId"),
        properties.get("recipient"),
        properties.get("subject"),
        properties.get("campaign_name"),
        properties.get("href"),
        context.get("ip"),
        context.get("userAgent"),
        properties.get("machine", False),
        properties.get("prefetched", False),
        properties.get("link_id"),
    )

"""The opens and clicks that a delivery's `metrics` tell of: the first of all, and the first that a person made. Pure.

Beside `opened` and `clicked`, `metrics` has the times of the first ones of a kind: `human_opened` by a person,
`prefetch_opened` by a mail program that fetches messages in advance, `machine_clicked` by a scanner, `link:<n>` and
`human_link:<n>` on the link with that number. Each key is there only if there was one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.events.catalog import Collection
from airflow_provider_cio.events.interval import is_time, whole
from airflow_provider_cio.events.occurrence import Engagement, Occurrence, number_or_text

#: Metrics that tell people from machines -> Unix seconds since which Customer.io records it reliably for e-mail
#: (2025-03-20 and 2025-04-20). Messages created before may lack `human_opened` though a person opened them.
RECORDED_SINCE = {"opened": 1_742_428_800, "clicked": 1_745_107_200}
#: For each of them, the metrics of the first one by a person, a prefetching program, and any other program.
_FIRST_BY = {metric: [f"{by}_{metric}" for by in ("human", "prefetch", "machine")] for metric in RECORDED_SINCE}


def human_time(delivery: Delivery, metric: str) -> int | None:
    """Return the time of the first open or click that a person made; None if there is none or it is not recorded."""
    human, *_ = _FIRST_BY[metric]
    time = whole(delivery.metrics.get(human))
    return time if is_time(time) else None


def tells_people_from_machines(delivery: Delivery, metric: str) -> bool:
    """Return whether Customer.io would have recorded that a person opened or clicked."""
    metrics = delivery.metrics
    human, *by_machines = _FIRST_BY[metric]
    if (time := metrics.get(human)) is not None:
        return is_time(whole(time))
    if any(metrics.get(one) is not None for one in by_machines):
        return True
    return delivery.type == "email" and delivery.created >= RECORDED_SINCE[metric]


def occurrence_at(delivery: Delivery, collection: Collection, time: int) -> Occurrence:
    """Return the open or click of that time, which is the first of all or the first that a person made."""
    metrics, metric = delivery.metrics, collection.metric
    is_first = metrics.get(metric) == time
    return Occurrence(delivery, collection, time, _engagement(metrics, metric, time), first_human=not is_first)


def _engagement(metrics: Mapping[str, Any], metric: str, time: int) -> Engagement | None:
    human, prefetch, machine = _FIRST_BY[metric]
    by_person = metrics.get(human) == time
    is_prefetch = not by_person and metrics.get(prefetch) == time
    is_machine = not by_person and metrics.get(machine) == time
    if metric == "clicked":  # nobody prefetches a link: this, too, is a program that follows it
        is_prefetch, is_machine = False, is_machine or is_prefetch
    link_id = _link_at(metrics, time, by_person=by_person) if metric == "clicked" else None
    if not (is_prefetch or is_machine or link_id):
        return None
    return Engagement(link_id=number_or_text(link_id), machine=is_machine or None, prefetched=is_prefetch or None)


def _link_at(metrics: Mapping[str, Any], time: int, *, by_person: bool) -> str | None:
    """Return the number of the link that was clicked at that time; None if several were, as scanners do."""
    for prefix in ("human_link:", "link:") if by_person else ("link:",):
        links = [key.removeprefix(prefix) for key, at in metrics.items() if at == time and key.startswith(prefix)]
        if links:
            return links[0] or None if len(links) == 1 else None
    return None

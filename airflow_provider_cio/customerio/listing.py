"""Rows one by one, as Customer.io lists them, for those who want neither occurrences nor events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from airflow_provider_cio.customerio.reader import Reader
from airflow_provider_cio.customerio.rows import Activity, Delivery
from airflow_provider_cio.events.interval import Interval, Window
from airflow_provider_cio.events.occurrence import Malformed
from airflow_provider_cio.exceptions import UnexpectedDataError

T = TypeVar("T", Delivery, Activity)

#: Ids of activities that are remembered, of each type: rows move to a further page while others arrive ahead of them.
_REMEMBERED = 20_000
#: Odd rows that the error names.
_MOST_NAMED = 5


def deliveries(reader: Reader, windows: Sequence[Window]) -> Iterator[Delivery | Malformed]:
    """Each delivery of these windows once, in no order."""
    for read in reader.deliveries(windows):
        yield from read.malformed
        yield from read.deliveries


def activities(reader: Reader, types: Sequence[str], interval: Interval) -> Iterator[Activity | Malformed]:
    """Each activity of the interval once, about newest first. An odd row may be older if it does not say its time."""
    start, end = interval
    passed_on: dict[str, dict[str, None]] = {kind: {} for kind in types}
    for kind, page in reader.activities(types, start):
        for odd in page.malformed:
            if odd.created is None or start <= odd.created < end:
                yield odd
        known = passed_on[kind]
        for row in page.rows:
            if start <= row.timestamp < end and row.id not in known:
                known[row.id] = None
                row.type = kind
                yield row
        while len(known) > _REMEMBERED:
            del known[next(iter(known))]


def well_shaped(rows: Iterable[T | Malformed], on_malformed: Callable[[Malformed], None] | None) -> Iterator[T]:
    """Those of the documented shape.

    :param on_malformed: gets each of the others; None: they are an error, once all else has been passed on.
    :raises UnexpectedDataError: naming how many, which, and why.
    """
    odd, named = 0, list[str]()
    for row in rows:
        if not isinstance(row, Malformed):
            yield row
        elif on_malformed:
            on_malformed(row)
        else:
            odd += 1
            if len(named) < _MOST_NAMED:
                named.append(f"{row.id or 'one without an id'}: {row.problem}")
    if odd:
        which = "; ".join(named) + ("; ..." if odd > len(named) else "")
        raise UnexpectedDataError(
            f"{odd} of Customer.io's rows do not have the documented shape, all others were passed on: {which}. "
            "To go on without an error, give on_malformed=, which gets each of them."
        )

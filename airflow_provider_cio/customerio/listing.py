"""Iterate over Customer.io's rows for the hook, without making occurrences or events."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from airflow_provider_cio.customerio.deliveries import counts_of, within_bounds
from airflow_provider_cio.customerio.reader import Reader
from airflow_provider_cio.customerio.rows import Activity, Delivery
from airflow_provider_cio.events.interval import Interval, Window, age_warning
from airflow_provider_cio.events.occurrence import Malformed
from airflow_provider_cio.exceptions import UnexpectedDataError
from airflow_provider_cio.http.errors import safe_text
from airflow_provider_cio.values import number_of

T = TypeVar("T", Delivery, Activity)

#: Ids of activities that are remembered for each type, because new activities move known ones to the next page.
_REMEMBERED = 20_000
#: Malformed rows that the error names, so that it stays short.
_MOST_NAMED = 5


def deliveries(
    reader: Reader, windows: Sequence[Window], warn: Callable[[str], None]
) -> Iterator[Delivery | Malformed]:
    """Yield each delivery that was created in these windows once, in no order.

    :param warn: called before the first row if Customer.io may show less than there is, and after the last one if
        fields were left out.
    """
    first = min(window.start for window in windows)
    if warning := age_warning(first, time.time(), "compare the counts"):
        warn(warning)
    counts = Counter[str]()
    for read in reader.deliveries(windows):
        read, _ = within_bounds(read)
        yield from read.malformed
        yield from read.deliveries
        counts += counts_of(read.deliveries)
    if left_out := counts["field_left_out"]:
        warn(
            f"{number_of(left_out, 'field')} of another type than documented, which only describe, were left out of "
            "Customer.io's rows. Their left_out names them."
        )


def activities(reader: Reader, types: Sequence[str], interval: Interval) -> Iterator[Activity | Malformed]:
    """Yield each activity of the interval once, about newest first. A malformed row without a time may be older."""
    start, end = interval
    passed_on: dict[str, dict[int, None]] = {kind: {} for kind in types}  # hashes: an id may be as long as an answer
    for kind, page in reader.activities(types, start):
        for malformed in page.malformed:
            if malformed.created is None or start <= malformed.created < end:
                yield malformed
        known = passed_on[kind]
        for row in page.rows:
            if start <= row.timestamp < end and hash(row.id) not in known:
                known[hash(row.id)] = None
                row.type = kind
                yield row
        while len(known) > _REMEMBERED:
            del known[next(iter(known))]


def well_shaped(rows: Iterable[T | Malformed], on_malformed: Callable[[Malformed], None] | None) -> Iterator[T]:
    """Yield the rows of the documented shape.

    :param on_malformed: called with each malformed row; None: raise an error for them after the last row.
    :raises UnexpectedDataError: the message has the number of malformed rows, and ids and problems of the first.
    """
    malformed, named = 0, list[str]()
    for row in rows:
        if not isinstance(row, Malformed):
            yield row
        elif on_malformed:
            on_malformed(row)
        else:
            malformed += 1
            if len(named) < _MOST_NAMED:
                named.append(safe_text(f"{row.id or 'one without an id'}: {row.problem}"))
    if malformed:
        first = "; ".join(named) + ("; ..." if malformed > len(named) else "")
        raise UnexpectedDataError(
            f"{malformed} of Customer.io's rows do not have the documented shape, all others were passed on: {first}. "
            "To avoid the error, set on_malformed to a function, which is called with each of them."
        )

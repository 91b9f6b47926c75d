"""Load the events of a pipeline into a warehouse."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Self

from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.events.event import Event, Refused, encode, rule_broken
from airflow_provider_cio.warehouse.loading import Warehouse
from airflow_provider_cio.warehouse.spool import Spool
from airflow_provider_cio.warehouse.tables import SPOOLED, Value, csv_lines, number_of, unstorable, values_of

log = logging.getLogger(__name__)


class WarehouseSink:
    """A sink of events that spools them on disk, and loads them on `flush`, on `wait`, or at `spool_bytes`.

    It refuses the events that Segment would refuse, and those that no database can store.

    :param collections: names of all collections whose events may come. Each gets its table before the first event.
    """

    def __init__(self, warehouse: Warehouse, collections: Iterable[str]) -> None:
        #: Number of pieces, counted from the first, whose events are all loaded or refused.
        self.acknowledged = 0
        self._warehouse = warehouse
        self._tables = {name: CATALOG[name].table for name in collections}
        self._spool = Spool()
        self._pieces_taken = self._loaded = self._new = self._null_ids = 0
        #: Column -> values in the spool that are NULL in a table, because it has numbers there and they are none.
        self._no_numbers: Counter[str] = Counter()
        self._warned: set[str] = set()
        self._numbers_of_others: list[int] = []  # places of text in a row that an existing table has as numbers
        self._refused: list[Refused] = []

    def rule_broken(self, event: Event, encoded: bytes) -> str | None:
        """Return the rule that makes the event undeliverable: one of Segment's, or that no text has a NUL character."""
        reason = rule_broken(event, encoded)
        # JSON escapes a NUL, so an event without a backslash has none, and needs no look at its values.
        if reason is None and b"\\" in encoded and (column := unstorable(values_of(event))):
            return f"nul_character_in_{column}"
        return reason

    def check(self) -> None:
        """Connect once, to find a wrong connection before anything is read."""
        self._warehouse.check()

    def waiting(self) -> str | None:
        """Return one sentence about the load's current wait, or None."""
        return self._warehouse.waiting()

    def take(self, events: Iterable[Event]) -> None:
        """Spool all events of the next piece, and load the spool if it is full."""
        rows: dict[str, list[tuple[Value, ...]]] = {}
        for event in events:
            encoded = encode(event)
            if reason := self.rule_broken(event, encoded):
                self._refused.append(Refused(reason, encoded))
            else:
                rows.setdefault(event.event, []).append(self._row(event))
        for name, values in rows.items():
            self._spool.add(self._tables[name], csv_lines(values), len(values))
        self._pieces_taken += 1
        if self._spool.size >= self._warehouse.spool_bytes or not self._spool.rows:
            self._load()

    def flush(self) -> None:
        """Load the spool."""
        self._load()

    def wait(self) -> None:
        """Load the spool."""
        self._load()

    def refused(self) -> Sequence[Refused]:
        """Return the events that were refused since the last call."""
        refused, self._refused = self._refused, []
        return refused

    def counts(self) -> dict[str, int]:
        """Return the number of loaded ``events``, and how many of them were ``new`` to their tables.

        If there are any, also ``null_ids``: ids that are no numbers, of columns that are numbers in a table.
        """
        counts = {"events": self._loaded, "new": self._new}
        return counts | {"null_ids": self._null_ids} if self._null_ids else counts

    def _row(self, event: Event) -> tuple[Value, ...]:
        row = values_of(event, self._no_numbers)
        for place in self._numbers_of_others:
            if row[place] is not None and number_of(row[place]) is None:
                self._no_numbers[SPOOLED[place].name] += 1
        return row

    def _load(self) -> None:
        if self._spool.rows:
            self._new += self._warehouse.load(self._spool)
            self._loaded += self._spool.rows
            self._spool.clear()
            self._count_null_ids()
        self.acknowledged = self._pieces_taken

    def _count_null_ids(self) -> None:
        for column in sorted(self._no_numbers.keys() - self._warned):
            log.warning("%s has text that is no number: it is NULL where a table has numbers.", column)
        self._warned |= self._no_numbers.keys()
        self._null_ids += self._no_numbers.total()
        self._no_numbers.clear()

    def __enter__(self) -> Self:
        self.check()
        self._warehouse.prepare(list(self._tables.values()))
        numbers = self._warehouse.numbers
        self._numbers_of_others = [place for place, column in enumerate(SPOOLED) if column.name in numbers]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._spool.clear()

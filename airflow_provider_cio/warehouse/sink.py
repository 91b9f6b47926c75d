"""Load events into the tables of a warehouse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.events.event import Event, Refused, encode, rule_broken
from airflow_provider_cio.warehouse.loading import Warehouse
from airflow_provider_cio.warehouse.spool import Spool
from airflow_provider_cio.warehouse.tables import Value, csv_lines, unstorable, values_of


class WarehouseSink:
    """Rows wait on disk until they are loaded: at a checkpoint, at the end, or when they are `spool_bytes`.

    The same events are refused as by Segment, and those that no database can hold.

    :param collections: names of all that may come; each has its table from the start.
    """

    def __init__(self, warehouse: Warehouse, collections: Iterable[str]) -> None:
        self.acknowledged = 0
        self._warehouse = warehouse
        self._tables = {name: CATALOG[name].table for name in collections}
        self._spool = Spool()
        self._taken = self._loaded = self._new = 0
        self._refused: list[Refused] = []

    def rule_broken(self, event: Event, encoded: bytes) -> str | None:
        """Return the rule that makes the event undeliverable: one of Segment's, or that no text has a NUL character."""
        reason = rule_broken(event, encoded)
        # JSON has that character escaped, and few events have anything to escape.
        if reason is None and b"\\" in encoded and (column := unstorable(values_of(event))):
            return f"nul_character_in_{column}"
        return reason

    def check(self) -> None:
        """Connect once, to find a wrong connection before anything is read."""
        self._warehouse.check()

    def waiting(self) -> str | None:
        return self._warehouse.waiting()

    def take(self, events: Iterable[Event]) -> None:
        rows: dict[str, list[tuple[Value, ...]]] = {}
        for event in events:
            encoded = encode(event)
            if reason := self.rule_broken(event, encoded):
                self._refused.append(Refused(reason, encoded))
            else:
                rows.setdefault(event.event, []).append(values_of(event))
        for name, of_it in rows.items():
            self._spool.add(self._tables[name], csv_lines(of_it), len(of_it))
        self._taken += 1
        if self._spool.size >= self._warehouse.spool_bytes or not self._spool.rows:
            self._load()

    def flush(self) -> None:
        self._load()

    def wait(self) -> None:
        self._load()

    def refused(self) -> Sequence[Refused]:
        refused, self._refused = self._refused, []
        return refused

    def counts(self) -> dict[str, int]:
        return {"events": self._loaded, "new": self._new}

    def _load(self) -> None:
        if self._spool.rows:
            self._new += self._warehouse.load(self._spool)
            self._loaded += self._spool.rows
            self._spool.clear()
        self.acknowledged = self._taken

    def __enter__(self) -> Self:
        self.check()
        self._warehouse.prepare(list(self._tables.values()))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._spool.clear()

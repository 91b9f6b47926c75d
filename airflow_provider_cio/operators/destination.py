"""Destinations of events: Segment, or a warehouse. Neither is connected to before the pipeline runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.hooks.segment import SegmentHook
from airflow_provider_cio.observability.lineage import Dataset, namespace
from airflow_provider_cio.operators.options import Options
from airflow_provider_cio.pipeline.ends import Sink
from airflow_provider_cio.pipeline.result import LOADED, SENT, Result, Wording
from airflow_provider_cio.segment.sink import SegmentSink
from airflow_provider_cio.warehouse import database_for
from airflow_provider_cio.warehouse.connection import database_address, open_warehouse
from airflow_provider_cio.warehouse.sink import WarehouseSink
from airflow_provider_cio.warehouse.tables import TRACKS


class Destination(ABC):
    """Destination of the events of a run.

    :raises ConfigurationError: from the constructor: the connection is wrong or incomplete.
    """

    #: Words for log and result.
    wording: ClassVar[Wording]
    #: Namespace of the `messageId` of its events.
    message_id_namespace: str
    #: Whether Segment may pass the events on to Customer.io.
    send_to_customerio_destinations = False

    @property
    @abstractmethod
    def identity(self) -> tuple[object, ...]:
        """Settings that distinguish this destination, because a checkpoint is valid for one destination only."""

    @abstractmethod
    def sink(self) -> Sink:
        """Return a new sink."""

    @abstractmethod
    def datasets(self, result: Result) -> Sequence[Dataset]:
        """Return the datasets that a finished run has written to."""


class SegmentDestination(Destination):
    """A Segment source.

    The write key is part of the identity, because another key may be another source, which has none of the events.
    """

    wording = SENT

    def __init__(self, options: Options) -> None:
        self._conn_id = options.segment_conn_id
        self._hook = SegmentHook(segment_conn_id=self._conn_id)
        self._settings = self._hook.settings
        self.message_id_namespace = self._hook.message_id_namespace
        self.send_to_customerio_destinations = options.send_to_customerio_destinations

    @property
    def identity(self) -> tuple[object, ...]:
        settings = self._settings
        return self._conn_id, settings.base_url, settings.path, settings.write_key

    def sink(self) -> Sink:
        return SegmentSink(self._hook.get_conn())

    def datasets(self, result: Result) -> Sequence[Dataset]:
        where = namespace("segment", self._settings.base_url)
        return [Dataset(where, self._conn_id, result.work["events"], result.work["bytes"])]


class WarehouseDestination(Destination):
    """Segment's tables in one schema of a database."""

    wording = LOADED

    def __init__(self, options: Options) -> None:
        self._conn_id = options.warehouse_conn_id
        self._schema = options.schema
        self._collections = [one.name for one in options.collections]
        self._address = database_address(self._conn_id)
        self.message_id_namespace = options.message_id_namespace

    @property
    def identity(self) -> tuple[object, ...]:
        return self._conn_id, *self._address, self._schema

    def sink(self) -> Sink:
        return WarehouseSink(open_warehouse(self._conn_id, self._schema), self._collections)

    def datasets(self, result: Result) -> Sequence[Dataset]:
        """Return the tables that got rows, and `tracks`."""
        address = self._address
        database = database_for(address.conn_type)
        where = database.namespace(address.host, address.port)
        rows = {CATALOG[name].table: count for name, count in result.events.items() if count}
        return [
            Dataset(where, database.dataset_name(address.database, self._schema, table), count)
            for table, count in ({TRACKS: sum(rows.values())} | rows).items()
        ]

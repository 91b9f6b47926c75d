"""Customer.io's deliveries to Segment's tables in a warehouse, one data interval at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_cio.events.catalog import DEFAULT_COLLECTIONS
from airflow_provider_cio.operators.base import CustomerIOOperator
from airflow_provider_cio.operators.options import Options

if TYPE_CHECKING:
    from airflow_provider_cio.operators.destination import Destination


class CustomerIOToWarehouseOperator(CustomerIOOperator):
    """Load what happened to Customer.io's messages within the run's data interval into a warehouse.

    The tables are those that Segment would make: one for each collection (``email_link_clicked``), and ``tracks`` over
    all of them, whose rows have the `messageId` as ``id``. A row that is there already stays as it is, so intervals
    can be run again, in any order, and two at once. Rows wait on the worker's disk, at most about 200 MB of them, and
    are loaded at each checkpoint: into a table and ``tracks`` in one transaction.

    Schema, tables and columns are made where they are missing; nothing that is there is changed.

    All other parameters are described at :class:`~airflow_provider_cio.operators.base.CustomerIOOperator`.

    :param warehouse_conn_id: connection of type `postgres`, `duckdb`, `redshift` or `gcpbigquery`, whose Airflow
        provider comes with an extra: ``pip install 'airflow-provider-cio[postgres]'``.
    :param schema: of the tables: a lower-case letter, then lower-case letters, digits and underscores.
    :param message_id_namespace: goes into all ids. To have those that another road to Segment sends, give what that
        has: its connection's field of this name.
    :returns: ``{"interval": {"start", "end"}, "read": {"requests", "deliveries"}, "events": {collection: n},
        "loaded": {"events", "new"}, "skipped": {reason: n}}``, of all tries if there was more than one, and what
        the base adds to it where it applies. ``"new"`` are those that no earlier run had loaded.
    """

    template_fields: Sequence[str] = (
        *CustomerIOOperator.template_fields,
        "warehouse_conn_id",
        "schema",
        "message_id_namespace",
    )
    ui_color = "#e4e8f0"

    def __init__(
        self,
        *,
        customerio_conn_id: str = "customerio_default",
        warehouse_conn_id: str = "warehouse_default",
        schema: str = "customerio",
        message_id_namespace: str = "customerio",
        collections: str | Sequence[str] = DEFAULT_COLLECTIONS,
        opens_and_clicks: Literal["first", "every", "every_human"] | str = "first",
        interval_start: str | datetime | None = None,
        interval_end: str | datetime | None = None,
        lookback: timedelta | float | str = timedelta(days=30),
        settling_time: timedelta | float | str = timedelta(minutes=30),
        pii: Literal["keep", "hash", "drop"] | str = "keep",
        on_unidentified: Literal["skip", "cio_id", "dead_letter", "fail"] | str = "skip",
        dead_letter_path: str | None = None,
        preview: bool | str = False,
        **kwargs: Any,
    ) -> None:
        self.warehouse_conn_id = warehouse_conn_id
        self.schema = schema
        self.message_id_namespace = message_id_namespace
        super().__init__(
            customerio_conn_id=customerio_conn_id,
            collections=collections,
            opens_and_clicks=opens_and_clicks,
            interval_start=interval_start,
            interval_end=interval_end,
            lookback=lookback,
            settling_time=settling_time,
            pii=pii,
            on_unidentified=on_unidentified,
            dead_letter_path=dead_letter_path,
            preview=preview,
            **kwargs,
        )

    def _destination(self, options: Options) -> Destination:
        from airflow_provider_cio.operators.destination import WarehouseDestination

        return WarehouseDestination(options)

    def _asset_extra(self, options: Options) -> dict[str, Any]:
        from airflow_provider_cio.warehouse.tables import TRACKS

        tables = [*(one.table for one in options.collections), TRACKS]
        return {"tables": [f"{options.schema}.{table}" for table in tables]}

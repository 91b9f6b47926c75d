"""Operator that loads events from Customer.io into a warehouse."""

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
    """Load a row for each open, click, bounce, ... of a Customer.io message within a data interval into a warehouse.

    The tables are Segment's: one for each collection (``email_link_clicked``), and ``tracks`` for all, with the
    `messageId` as ``id``. A load adds only rows whose id is not there yet, so intervals can be run again, in any
    order, and at the same time. Rows wait on the worker's disk, about 200 MB at most, and each checkpoint loads them
    into a table and ``tracks`` in one transaction. Missing schemas, tables and columns are created; nothing else is
    changed.

    All parameters are templates. A template that renders to text stands for a value: a list as JSON, a number of days
    or minutes, ``true`` or ``false``.

    :param customerio_conn_id: connection of type `customerio`.
    :param warehouse_conn_id: connection of type `postgres`, `duckdb`, `redshift`, `gcpbigquery` or `snowflake`.
        Airflow's own provider for it has to be installed: ``pip install apache-airflow-providers-postgres``.
    :param schema: schema of the tables: a lower-case letter, then lower-case letters, digits and underscores.
    :param message_id_namespace: part of the hash behind every id. For the same ids as in Segment, use the value of
        this field in the Segment connection.
    :param collections: names or groups of the catalog: ``["Email Opened"]``, ``"email"``, ``"push"``, ..., ``"all"``.
        The default is the six of Segment's own Customer.io source.
    :param opens_and_clicks: ``first`` takes the first open and the first click that a delivery shows, ``first_human``
        the first that a person made: mail programs open messages in advance, and scanners follow links. ``every``
        takes each of them with its link, from Customer.io's activities, and ``every_human`` leaves out those that no
        person made. Customer.io guarantees activities for 30 days: an older interval takes the first ones (of people),
        says so in the log, and has the mode in its result. An open or click has the same `messageId` in all modes.
    :param interval_start: datetime or ISO 8601 text, in UTC unless it says otherwise. With `interval_end` it replaces
        the data interval of the run.
    :param interval_end: the first moment after the interval.
    :param lookback: the age from which on nothing counts, as a timedelta or a number of days: more than 0, at most 180.
        The age is how long after the creation of its delivery something happened. Opens and clicks of that age are not
        sent, except those that ``every`` and ``every_human`` take from activities.
    :param older_than: the least age that counts: a timedelta or a number of days, less than `lookback`. None and 0 are
        no limit. With it a run adds what happened to older deliveries to a run that has this age as its `lookback`,
        and requests only deliveries that are old enough. With ``every`` and ``every_human``, leave opens and clicks to
        the run without it.
    :param settling_time: how long after the interval's end the run begins, because Customer.io may show a metric some
        time after it happened: a timedelta or a number of minutes, at most 7 days. An early run is rescheduled, which
        takes neither a worker's slot nor a try.
    :param pii: treatment of personal data: ``keep``; ``hash`` (SHA-256 of the trimmed lower-case text); ``drop``.
        `airflow_provider_cio.events.privacy` lists the fields that count as personal data.
    :param on_unidentified: treatment of an event whose person has neither id nor address: ``skip`` counts it as
        skipped; ``cio_id`` sends the person's `cio_id` as `anonymousId`, and skips the event if there is none;
        ``dead_letter`` treats it like any event that can't be delivered; ``fail`` fails the task at its end in any
        case.
    :param dead_letter_path: absolute folder, local or remote (`ObjectStoragePath`), for events that can't be
        delivered and malformed rows: JSON lines with the reason, personal data included, one file for each run and
        try. The task then succeeds. Without it the task fails at its end.
    :param preview: deliver nothing: read, map, check and count, and log one masked sample of each collection, and
        which assumptions about Customer.io hold.
    :returns: ``{"interval": {"start", "end"}, "read": {"requests", "deliveries"}, "events": {collection: n}, "loaded":
        {"events", "new"}, "skipped": {reason: n}, "ages": {collection: {age: n}}}``, the sums of all tries. ``"new"``
        counts the events that no earlier run had loaded. `docs/operator.md` explains these keys, and further ones that
        are there where they apply. A run that fails at its end for refused events leaves the same in XCom, with
        ``"refused": {reason: n}``.
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
        opens_and_clicks: Literal["first", "first_human", "every", "every_human"] | str = "first",
        interval_start: str | datetime | None = None,
        interval_end: str | datetime | None = None,
        lookback: timedelta | float | str = timedelta(days=30),
        older_than: timedelta | float | str | None = None,
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
            older_than=older_than,
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

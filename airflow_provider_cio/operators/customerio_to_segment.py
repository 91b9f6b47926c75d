"""Customer.io's deliveries to Segment's events, one data interval at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_cio.events.catalog import DEFAULT_COLLECTIONS
from airflow_provider_cio.operators.base import CustomerIOOperator
from airflow_provider_cio.operators.options import Options

if TYPE_CHECKING:
    from airflow_provider_cio.operators.destination import Destination


class CustomerIOToSegmentOperator(CustomerIOOperator):
    """Send what happened to Customer.io's messages within the run's data interval to Segment.

    An occurrence belongs to the interval ``[start, end)`` that contains its time, and has the same `messageId`
    in every run. So adjacent intervals send the whole history once, in any order, and a run can be repeated;
    Segment drops repeated ids for about 24 hours (after that, its warehouses still do, streaming destinations don't).

    All other parameters are described at :class:`~airflow_provider_cio.operators.base.CustomerIOOperator`.

    :param segment_conn_id: connection of type `segment_source`.
    :param send_to_customerio_destinations: let Segment pass the events on to Customer.io destinations, where each
        comes back as a custom event of the person.
    :returns: ``{"interval": {"start", "end"}, "read": {"requests", "deliveries"}, "events": {collection: n},
        "sent": {"events", "batches", "bytes"}, "skipped": {reason: n}}``, of all tries if there was more than one, and
        what the base adds to it where it applies.
    """

    template_fields: Sequence[str] = (
        *CustomerIOOperator.template_fields,
        "segment_conn_id",
        "send_to_customerio_destinations",
    )
    ui_color = "#e4f0e8"

    def __init__(
        self,
        *,
        customerio_conn_id: str = "customerio_default",
        segment_conn_id: str = "segment_default",
        collections: str | Sequence[str] = DEFAULT_COLLECTIONS,
        opens_and_clicks: Literal["first", "every", "every_human"] | str = "first",
        interval_start: str | datetime | None = None,
        interval_end: str | datetime | None = None,
        lookback: timedelta | float | str = timedelta(days=30),
        settling_time: timedelta | float | str = timedelta(minutes=30),
        pii: Literal["keep", "hash", "drop"] | str = "keep",
        on_unidentified: Literal["skip", "cio_id", "dead_letter", "fail"] | str = "skip",
        dead_letter_path: str | None = None,
        send_to_customerio_destinations: bool | str = False,
        preview: bool | str = False,
        **kwargs: Any,
    ) -> None:
        self.segment_conn_id = segment_conn_id
        self.send_to_customerio_destinations = send_to_customerio_destinations
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
        from airflow_provider_cio.operators.destination import SegmentDestination

        return SegmentDestination(options)

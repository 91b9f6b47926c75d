"""Customer.io's deliveries to Segment's events, one data interval at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_cio.catalog import DEFAULT_COLLECTIONS, resolve_collections
from airflow_provider_cio.exceptions import CustomerIOToSegmentError, EventsRefusedError, TryAgainLaterError
from airflow_provider_cio.interval import check_bounds, check_lookback, resolve_interval, whole_seconds

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_cio.clients.customerio import CustomerIOClient
    from airflow_provider_cio.clients.segment import SegmentClient
    from airflow_provider_cio.line import Report


class CustomerIOToSegmentOperator(BaseOperator):
    """Send what happened to Customer.io's messages within the run's data interval to Segment.

    An occurrence belongs to the interval ``[start, end)`` that contains its time, and has the same `messageId`
    in every run. So adjacent intervals send the whole history once, in any order, and a run can be repeated;
    Segment drops repeated ids for about 24 hours (after that, its warehouses still do, streaming destinations don't).

    :param customerio_conn_id: connection of type `customerio`. Templated.
    :param segment_conn_id: connection of type `segment_source`. Templated.
    :param collections: names of the catalog; by default the six of Segment's own Customer.io source.
    :param interval_start: ISO 8601 or datetime, UTC unless it says otherwise; with `interval_end` it replaces
        the run's data interval. Templated.
    :param interval_end: the first moment after the interval. Templated.
    :param lookback: how long before the interval a delivery may have been created and still be looked at, 0 to 180
        days. What happens to a delivery later than that is not sent.
    :param send_to_customerio_destinations: let Segment pass the events on to Customer.io destinations, where each
        comes back as a custom event of the person.
    :returns: ``{"interval": {"start", "end"}, "read": {"requests", "deliveries"}, "events": {collection: n},
        "sent": {"events", "batches", "bytes"}, "skipped": {reason: n}}``
    """

    template_fields: Sequence[str] = (
        "customerio_conn_id",
        "segment_conn_id",
        "interval_start",
        "interval_end",
    )
    ui_color = "#e4f0e8"

    def __init__(
        self,
        *,
        customerio_conn_id: str = "customerio_default",
        segment_conn_id: str = "segment_default",
        collections: Sequence[str] = DEFAULT_COLLECTIONS,
        interval_start: str | datetime | None = None,
        interval_end: str | datetime | None = None,
        lookback: timedelta = timedelta(days=30),
        send_to_customerio_destinations: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.customerio_conn_id = customerio_conn_id
        self.segment_conn_id = segment_conn_id
        self.collections = [collection.name for collection in resolve_collections(collections)]
        self.interval_start = interval_start
        self.interval_end = interval_end
        self.lookback = check_lookback(lookback)
        self.send_to_customerio_destinations = send_to_customerio_destinations
        check_bounds(interval_start, interval_end)
        self._stop: Callable[[], None] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        try:
            report = self._run(context)
            if report.refused:
                raise EventsRefusedError(
                    f"{report.refused.total()} events break rules of Segment's, which would drop them without a word, "
                    f"and were not sent: {report.refusals()}. All others were."
                )
        except TryAgainLaterError:
            raise
        except CustomerIOToSegmentError as error:  # a retry would end the same way
            raise AirflowFailException(str(error)) from error
        return report.as_dict()

    def _run(self, context: Context) -> Report:
        from airflow_provider_cio.hooks.customerio import CustomerIOHook
        from airflow_provider_cio.hooks.segment import SegmentHook
        from airflow_provider_cio.line import run
        from airflow_provider_cio.mapping import Mapper

        interval = resolve_interval(self.interval_start, self.interval_end, context)
        customerio = CustomerIOHook(customerio_conn_id=self.customerio_conn_id)
        segment = SegmentHook(segment_conn_id=self.segment_conn_id)
        mapper = Mapper(
            segment.message_id_namespace, send_to_customerio_destinations=self.send_to_customerio_destinations
        )
        self.log.info("Interval %s, look-back %s: %s", interval, self.lookback, ", ".join(self.collections))
        began = time.monotonic()
        with customerio.client as source, segment.client as destination, self._stoppable(source, destination):
            report = run(
                source,
                destination,
                mapper,
                interval=interval,
                lookback=whole_seconds(self.lookback),
                collections=resolve_collections(self.collections),
                progress=lambda report: self._log_progress("So far", report, began),
            )
        self._log_progress("Done", report, began)
        return report

    def on_kill(self) -> None:
        """End the running `execute`, which then closes what it opened.

        Airflow calls this within its signal handler and goes on with the task when it returns.
        """
        if self._stop:
            self._stop()

    @contextmanager
    def _stoppable(self, source: CustomerIOClient, destination: SegmentClient) -> Iterator[None]:
        thread = threading.get_ident()

        def stop() -> None:
            if threading.get_ident() == thread:  # a signal handler: closing could wait for a lock held below it
                raise SystemExit("The task was killed.")
            source.close()
            destination.close()

        self._stop = stop
        try:
            yield
        finally:
            self._stop = None

    def _log_progress(self, label: str, report: Report, began: float) -> None:
        seconds = time.monotonic() - began
        self.log.info(
            "%s: %d requests, %d deliveries, %d events sent in %d batches, skipped %s, refused %s, "
            "%.1f s (%.0f events/s)",
            label,
            report.requests,
            report.deliveries,
            report.sent["events"],
            report.sent["batches"],
            dict(report.skipped),
            dict(report.refused),
            seconds,
            report.sent["events"] / seconds if seconds else 0,
        )

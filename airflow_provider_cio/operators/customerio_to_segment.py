"""Customer.io's deliveries to Segment's events, one data interval at a time."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError

from airflow_provider_cio.catalog import DEFAULT_COLLECTIONS, resolve_collections
from airflow_provider_cio.exceptions import (
    ConfigurationError,
    CustomerIOToSegmentError,
    EventsRefusedError,
    TryAgainLaterError,
)
from airflow_provider_cio.interval import Interval, check_bounds, check_lookback, resolve_interval, whole_seconds

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_cio.clients.customerio import CustomerIOClient
    from airflow_provider_cio.clients.segment import SegmentClient
    from airflow_provider_cio.line import Report

CHECKPOINT_KEY = "customerio_to_segment"
ON_UNIDENTIFIED = ("skip", "dead-letter", "fail")


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
    :param on_unidentified: what becomes of an event for whom nobody can be named: ``skip`` counts it as skipped,
        ``dead-letter`` treats it like any other that can't be sent, ``fail`` fails the task at its end in any case.
    :param dead_letter_path: a folder, local or remote (`ObjectStoragePath`), for events that can't be sent: JSON lines
        with the reason, personal data included, one file for each run and try. The task then succeeds, and its result
        has ``"dead_letters": {"path", "events": {reason: n}}``. Without it the task fails at its end. Templated.
    :returns: ``{"interval": {"start", "end"}, "read": {"requests", "deliveries"}, "events": {collection: n},
        "sent": {"events", "batches", "bytes"}, "skipped": {reason: n}}``
    """

    template_fields: Sequence[str] = (
        "customerio_conn_id",
        "segment_conn_id",
        "interval_start",
        "interval_end",
        "dead_letter_path",
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
        on_unidentified: Literal["skip", "dead-letter", "fail"] = "skip",
        dead_letter_path: str | None = None,
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
        self.on_unidentified = on_unidentified
        self.dead_letter_path = dead_letter_path
        check_bounds(interval_start, interval_end)
        if on_unidentified not in ON_UNIDENTIFIED:
            raise ConfigurationError(f"on_unidentified must be one of {', '.join(map(repr, ON_UNIDENTIFIED))}")
        if on_unidentified == "dead-letter" and dead_letter_path is None:
            raise ConfigurationError("on_unidentified='dead-letter' needs dead_letter_path: say where they should go")
        self._stop: Callable[[], None] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        try:
            interval = resolve_interval(self.interval_start, self.interval_end, context)
            days = self.lookback / timedelta(days=1)
            self.log.info("Interval %s, look-back %g days: %s", interval, days, ", ".join(self.collections))
            report, dead_letters = self._run(interval, context)
            result = report.as_dict()
            unnamed = report.refused["unidentified"] if self.on_unidentified == "fail" else 0
            if report.refused and (dead_letters is None or unnamed):
                raise EventsRefusedError(
                    f"{report.refused.total()} events can't be sent, all others were: {report.refusals()} "
                    "Set dead_letter_path to have such events kept aside."
                )
        except TryAgainLaterError:
            raise
        except CustomerIOToSegmentError as error:  # a retry would end the same way
            raise AirflowFailException(str(error)) from error
        if report.refused:
            self.log.warning("Events that can't be sent are in %s: %s", dead_letters, report.refusals())
            result["dead_letters"] = {"path": str(dead_letters), "events": dict(report.refused)}
        return result

    def _run(self, interval: Interval, context: Context) -> tuple[Report, str | None]:
        """Wire the rooms together; returns the report, and where dead letters would be."""
        from airflow_provider_cio.checkpoint import Checkpoint
        from airflow_provider_cio.hooks.customerio import CustomerIOHook
        from airflow_provider_cio.hooks.segment import SegmentHook
        from airflow_provider_cio.line import Callbacks, Line
        from airflow_provider_cio.mapping import Mapper

        customerio = CustomerIOHook(customerio_conn_id=self.customerio_conn_id)
        segment = SegmentHook(segment_conn_id=self.segment_conn_id)
        began = time.monotonic()
        store = context.get("task_state_store")  # Airflow 3.3 has one; where there is none, a retry starts over
        checkpoint = Checkpoint(
            self._fingerprint(interval, segment.message_id_namespace), store.get(CHECKPOINT_KEY) if store else None
        )
        if checkpoint:
            self.log.info("An earlier try has done part of this interval; the counts below are those of the rest.")
        with ExitStack() as stack:
            dead_letters = None
            if self.dead_letter_path is not None:
                from airflow_provider_cio.operators.dead_letters import DeadLetters

                dead_letters = stack.enter_context(DeadLetters(self.dead_letter_path, context))
            source = stack.enter_context(customerio.client)
            destination = stack.enter_context(segment.client)
            stack.enter_context(self._stoppable(source, destination))
            report = Line(
                source,
                destination,
                Mapper(
                    segment.message_id_namespace, send_to_customerio_destinations=self.send_to_customerio_destinations
                ),
                interval=interval,
                lookback=whole_seconds(self.lookback),
                collections=resolve_collections(self.collections),
                skip_unidentified=self.on_unidentified == "skip",
                checkpoint=checkpoint,
                callbacks=Callbacks(
                    progress=lambda report: self._log_progress("So far", report, began),
                    refused=dead_letters.write if dead_letters else lambda reason, event: None,
                    save=(lambda state: self._save(store, state)) if store else None,
                ),
            ).run()
        self._log_progress("Done", report, began)
        if store:
            store.delete(CHECKPOINT_KEY)  # a task that is cleared has to run in full
        return report, str(dead_letters.path) if dead_letters else None

    def _save(self, store: Any, state: dict[str, Any]) -> None:
        try:
            store.set(CHECKPOINT_KEY, state)
        except AirflowRuntimeError as error:  # Airflow's API is away for a while: a retry would repeat more, no harm
            self.log.warning("The checkpoint could not be stored: %s", error)

    def _fingerprint(self, interval: Interval, namespace: str) -> str:
        """Of all that decides which events are sent, and where to."""
        configuration = (
            interval,
            whole_seconds(self.lookback),
            sorted(self.collections),
            self.customerio_conn_id,
            self.segment_conn_id,
            namespace,
            self.send_to_customerio_destinations,
            self.on_unidentified,
            self.dead_letter_path,
        )
        return hashlib.sha256(repr(configuration).encode()).hexdigest()[:32]

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
            report.sent.events,
            report.sent.batches,
            dict(report.skipped),
            dict(report.refused),
            seconds,
            report.sent.events / seconds if seconds else 0,
        )

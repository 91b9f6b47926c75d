"""Customer.io's deliveries to Segment's events, one data interval at a time."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError

from airflow_provider_cio.events.catalog import DEFAULT_COLLECTIONS, resolve_collections
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
    from airflow_provider_cio.sinks.dead_letters import DeadLetters

CHECKPOINT_KEY = "customerio_to_segment"


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    return value


class CustomerIOToSegmentOperator(BaseOperator):
    """Send what happened to Customer.io's messages within the run's data interval to Segment.

    An occurrence belongs to the interval ``[start, end)`` that contains its time, and has the same `messageId`
    in every run. So adjacent intervals send the whole history once, in any order, and a run can be repeated;
    Segment drops repeated ids for about 24 hours (after that, its warehouses still do, streaming destinations don't).

    :param customerio_conn_id: connection of type `customerio`. Templated.
    :param segment_conn_id: connection of type `segment_source`. Templated.
    :param collections: names of the catalog, or groups of it (``"email"``, ``"push"``, ..., ``"all"``); by default the
        six of Segment's own Customer.io source.
    :param occurrences: ``first`` sends the one open and the one click that a delivery shows; ``every`` sends each of
        them, with its link, from Customer.io's activities. The two have different `messageId`s.
    :param machine_occurrences: with ``every``: ``keep`` or ``drop`` opens and clicks that no person made.
    :param fall_back_to_deliveries: with ``every``, and an interval older than the 30 days for which Customer.io
        guarantees activities: send the first occurrences instead of failing, machines' among them. An interval that
        was sent with activities before then gets other `messageId`s.
    :param interval_start: ISO 8601 or datetime, UTC unless it says otherwise; with `interval_end` it replaces
        the run's data interval. Templated.
    :param interval_end: the first moment after the interval. Templated.
    :param lookback: how long before the interval a delivery may have been created and still be looked at, 0 to 180
        days. What happens to a delivery later than that is not sent.
    :param send_to_customerio_destinations: let Segment pass the events on to Customer.io destinations, where each
        comes back as a custom event of the person.
    :param pii: personal data, wherever an e-mail address can stand: ``keep``; ``hash`` (SHA-256 of the trimmed
        lower-case text); ``drop``. Unless kept, IP addresses go.
    :param on_unidentified: what becomes of an event for whom nobody can be named: ``skip`` counts it as skipped,
        ``dead-letter`` treats it like any other that can't be sent; ``fail`` fails the task at its end in any case;
        ``cio_id`` lets Customer.io's own id of the person stand in as `anonymousId`, and skips whom it does not name.
    :param dead_letter_path: a folder, local or remote (`ObjectStoragePath`), for events that can't be sent: JSON lines
        with the reason, personal data included, one file for each run and try. The task then succeeds, and its result
        has ``"dead_letters": {"path", "events": {reason: n}}``. Without it the task fails at its end. Templated.
    :param preview: send nothing: read, map, check and count, and log one masked sample of each collection.
    :returns: ``{"interval": {"start", "end"}, "read": {"requests", "deliveries"}, "events": {collection: n},
        "sent": {"events", "batches", "bytes"}, "skipped": {reason: n}}``; with `every` also, in ``"read"``,
        ``"activities"`` and ``"requests_by_way"``; ``"resumed": True`` if an earlier try has done part of the interval,
        which these counts leave out; ``"preview": True`` and ``"refused": {reason: n}`` for a preview.
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
        collections: str | Sequence[str] = DEFAULT_COLLECTIONS,
        interval_start: str | datetime | None = None,
        interval_end: str | datetime | None = None,
        lookback: timedelta = timedelta(days=30),
        send_to_customerio_destinations: bool = False,
        occurrences: Literal["first", "every"] = "first",
        machine_occurrences: Literal["keep", "drop"] = "keep",
        fall_back_to_deliveries: bool = False,
        pii: Literal["keep", "hash", "drop"] = "keep",
        on_unidentified: Literal["skip", "dead-letter", "fail", "cio_id"] = "skip",
        dead_letter_path: str | None = None,
        preview: bool = False,
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
        self.occurrences = _one_of("occurrences", occurrences, ("first", "every"))
        self.machine_occurrences = _one_of("machine_occurrences", machine_occurrences, ("keep", "drop"))
        self.fall_back_to_deliveries = fall_back_to_deliveries
        self.pii = _one_of("pii", pii, ("keep", "hash", "drop"))
        self.on_unidentified = _one_of("on_unidentified", on_unidentified, ("skip", "dead-letter", "fail", "cio_id"))
        self.dead_letter_path = dead_letter_path
        self.preview = preview
        check_bounds(interval_start, interval_end)
        if machine_occurrences == "drop" and occurrences == "first":
            raise ConfigurationError("machine_occurrences='drop' needs occurrences='every': only activities tell them")
        if on_unidentified == "dead-letter" and dead_letter_path is None:
            raise ConfigurationError("on_unidentified='dead-letter' needs dead_letter_path: say where they should go")
        self._stop: Callable[[], None] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        try:
            interval = resolve_interval(self.interval_start, self.interval_end, context)
            days = self.lookback / timedelta(days=1)
            self.log.info("Interval %s, look-back %g days: %s", interval, days, ", ".join(self.collections))
            report, dead_letters = self._run(interval, self._is_every(interval), context)
            self._warn(report, dead_letters)
            unnamed = report.refused["unidentified"] if self.on_unidentified == "fail" else 0
            if report.refused and (dead_letters is None or unnamed) and not self.preview:
                kept = (
                    f"They are in {dead_letters}." if dead_letters else "Set dead_letter_path to have them kept aside."
                )
                raise EventsRefusedError(
                    f"{report.refused.total()} events can't be sent, all others were: {report.refusals()} {kept}"
                )
        except TryAgainLaterError:
            raise
        except CustomerIOToSegmentError as error:  # a retry would end the same way
            raise AirflowFailException(str(error)) from error
        return self._result(report, dead_letters)

    def _is_every(self, interval: Interval) -> bool:
        from airflow_provider_cio.sources.activities import GUARANTEED_DAYS, REPEATING

        collections = resolve_collections(self.collections)
        if self.occurrences == "first" or not any((one.channel, one.metric) in REPEATING for one in collections):
            return False
        if interval.start >= time.time() - GUARANTEED_DAYS * 86_400:
            return True
        if self.fall_back_to_deliveries:
            self.log.warning(
                "Activities do not reach back to %s: sending first occurrences, those of machines among them. Their "
                "messageIds differ from those that an earlier run with activities had.",
                interval,
            )
            return False
        raise ConfigurationError(
            f"occurrences='every': Customer.io guarantees activities for {GUARANTEED_DAYS} days, and {interval} starts "
            "earlier. Send it with occurrences='first', or allow that with fall_back_to_deliveries=True."
        )

    def _run(self, interval: Interval, every: bool, context: Context) -> tuple[Report, str | None]:
        """Wire the rooms together; returns the report, and where dead letters would be."""
        from airflow_provider_cio.checkpoint import Checkpoint
        from airflow_provider_cio.events.mapping import Mapper
        from airflow_provider_cio.hooks.customerio import CustomerIOHook
        from airflow_provider_cio.hooks.segment import SegmentHook
        from airflow_provider_cio.line import Callbacks, Line
        from airflow_provider_cio.sources.names import Names

        customerio = CustomerIOHook(customerio_conn_id=self.customerio_conn_id)
        segment = SegmentHook(segment_conn_id=self.segment_conn_id)
        began = time.monotonic()
        store = (
            None if self.preview else context.get("task_state_store")
        )  # Airflow 3.3 has one; on 3.2 a retry starts over
        checkpoint = Checkpoint(
            self._fingerprint(interval, customerio.settings, segment.settings, segment.message_id_namespace),
            store.get(CHECKPOINT_KEY) if store else None,
        )
        resumed = bool(checkpoint)
        if resumed:
            self.log.info("An earlier try has done part of this interval; the counts below are those of the rest.")
        with ExitStack() as stack:
            dead_letters = self._dead_letters(context)
            if dead_letters:
                stack.enter_context(dead_letters)
            source = stack.enter_context(customerio.get_conn())
            destination = stack.enter_context(segment.get_conn())
            stack.enter_context(self._stoppable(source, destination))
            mapper = Mapper(
                segment.message_id_namespace,
                send_to_customerio_destinations=self.send_to_customerio_destinations,
                pii=self.pii,
                cio_id_as_last_resort=self.on_unidentified == "cio_id",
                name_of=Names(source, self.log.warning).of,
            )
            report = Line(
                source,
                destination,
                mapper,
                interval=interval,
                lookback=whole_seconds(self.lookback),
                collections=resolve_collections(self.collections),
                skip_unidentified=self.on_unidentified in ("skip", "cio_id"),
                every=every,
                keep_machines=self.machine_occurrences == "keep",
                preview=self.preview,
                checkpoint=checkpoint,
                callbacks=Callbacks(
                    progress=lambda report: self._log_progress("So far", report, began),
                    refused=dead_letters.write if dead_letters else lambda reason, event: None,
                    sample=self._log_sample if self.preview else lambda event: None,
                    save=(lambda state: self._save(store, state)) if store else None,
                ),
            ).run()
        report.resumed = resumed
        self._log_progress("Done", report, began)
        if store:
            store.delete(CHECKPOINT_KEY)  # a task that is cleared has to run in full
        return report, str(dead_letters.path) if dead_letters else None

    def _result(self, report: Report, dead_letters: str | None) -> dict[str, Any]:
        result = report.as_dict()
        if self.preview:
            return result | {"preview": True, "refused": dict(report.refused)}
        if report.refused:
            result["dead_letters"] = {"path": dead_letters, "events": dict(report.refused)}
        if report.resumed:
            result["resumed"] = True
        return result

    def _warn(self, report: Report, dead_letters: str | None) -> None:
        unknown = [reason for reason in report.skipped if reason.startswith("unknown_metric")]
        if unknown:
            self.log.warning("Customer.io reports what no collection is known for: %s", ", ".join(unknown))
        if report.refused and dead_letters:
            self.log.warning("Events that can't be sent are in %s: %s", dead_letters, report.refusals())
        if self.preview:
            self.log.info("This was a preview: nothing was sent. It could not have sent: %s", dict(report.refused))

    def _dead_letters(self, context: Context) -> DeadLetters | None:
        if self.dead_letter_path is None or self.preview:
            return None
        from airflow_provider_cio.sinks.dead_letters import DeadLetters

        return DeadLetters(self.dead_letter_path, context)

    def _log_sample(self, event: bytes) -> None:
        from airflow_provider_cio.events.privacy import masked

        self.log.info(
            "For example (personal data masked): %s", json.dumps(masked(json.loads(event)), ensure_ascii=False)
        )

    def _save(self, store: Any, state: dict[str, Any]) -> None:
        try:
            store.set(CHECKPOINT_KEY, state)
        except AirflowRuntimeError as error:  # Airflow's API is away for a while: a retry would repeat more, no harm
            self.log.warning("The checkpoint could not be stored: %s", error)

    def _fingerprint(self, interval: Interval, *connections: object) -> str:
        """Of all that decides which events are sent, from where and where to."""
        configuration = (
            interval,
            whole_seconds(self.lookback),
            sorted(self.collections),
            self.customerio_conn_id,
            self.segment_conn_id,
            self.occurrences,
            self.send_to_customerio_destinations,
            self.on_unidentified,
            self.pii,
            connections,
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

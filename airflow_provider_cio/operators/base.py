"""Base class of both operators: parameters, waiting, running, telling."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import BaseOperator

from airflow_provider_cio.events.interval import Interval, resolve_interval, whole_seconds
from airflow_provider_cio.exceptions import (
    ConfigurationError,
    CustomerIOToSegmentError,
    EventsRefusedError,
    TryAgainLaterError,
)
from airflow_provider_cio.operators.options import Options, check_what_is_known, read_options
from airflow_provider_cio.operators.waiting import wait_as_asked, wait_until_settled

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

    from airflow_provider_cio.observability.lineage import Dataset
    from airflow_provider_cio.operators.destination import Destination
    from airflow_provider_cio.pipeline.dead_letters import DeadLetters
    from airflow_provider_cio.pipeline.pipeline import Callbacks
    from airflow_provider_cio.pipeline.result import Result


class ParameterError(ConfigurationError, AirflowFailException):
    """A parameter is wrong. Airflow does not retry a mapped task for it either."""


class CustomerIOOperator(BaseOperator):
    """Bring what happened to Customer.io's messages within the run's data interval to a destination.

    A subclass says which one; see `_destination`. It sets its own parameters before it calls this constructor, which
    checks all of them.

    All parameters are templated. One that renders to text is read as what it stands for: a list as JSON, a number of
    days or minutes, ``true`` or ``false``.

    :param customerio_conn_id: connection of type `customerio`.
    :param collections: names of the catalog, or groups of it (``"email"``, ``"push"``, ..., ``"all"``); by default the
        six of Segment's own Customer.io source.
    :param opens_and_clicks: ``first`` sends the one open and the one click that a delivery shows; ``every`` each of
        them, with its link, from Customer.io's activities; ``every_human`` leaves out those that no person made. An
        interval older than the 30 days for which Customer.io guarantees activities sends the first ones, says so in
        the log, and has ``"opens_and_clicks": "first"`` in its result. A first open has one `messageId` in all modes.
    :param interval_start: ISO 8601 or datetime, UTC unless it says otherwise; with `interval_end` it replaces
        the run's data interval.
    :param interval_end: the first moment after the interval.
    :param lookback: how long before the interval a delivery may have been created and still be looked at: a timedelta
        or a number of days, at most 180 days. What happens to a delivery later than that is not sent.
    :param settling_time: how long after the interval's end the run begins: a timedelta or a number of minutes, at most
        7 days. Customer.io may show a metric some time after the moment that it carries. A run that is early is
        rescheduled, which takes neither a worker's slot nor a try.
    :param pii: personal data: ``keep``; ``hash`` (SHA-256 of the trimmed lower-case text); ``drop``. What that covers
        is said in `airflow_provider_cio.events.privacy`.
    :param on_unidentified: what becomes of an event for whom nobody can be named: ``skip`` counts it as skipped;
        ``dead_letter`` treats it like any other that can't be sent; ``fail`` fails the task at its end in any case;
        ``cio_id`` lets Customer.io's own id of the person stand in as `anonymousId`, and skips whom it does not name.
    :param dead_letter_path: a folder, local or remote (`ObjectStoragePath`), for events that can't be sent, and rows of
        Customer.io's that can't be read: JSON lines with the reason, personal data included, one file for each run and
        try. The task then succeeds, and its result has ``"dead_letters": {"path", "events": {reason: n}}``. Without it
        the task fails at its end.
    :param preview: send nothing: read, map, check and count, and log one masked sample of each collection.
    :returns: ``{"interval": {"start", "end"}, "read": {"requests", "deliveries"}, "events": {collection: n},
        "skipped": {reason: n}}``, and what the destination counts; of all tries if there was more than one.
        Where they apply: in ``"read"`` the number of ``"activities"``, of requests that were ``"retried"`` or
        ``"rate_limited"``, of pages ``"out_of_order"``, of lists ``"cut_short"``, and of
        ``"opens_and_clicks_without_activity"``; ``"resumed": True``; ``"preview": True`` with
        ``"refused": {reason: n}``.
    """

    template_fields: Sequence[str] = (
        "customerio_conn_id",
        "collections",
        "opens_and_clicks",
        "interval_start",
        "interval_end",
        "lookback",
        "settling_time",
        "pii",
        "on_unidentified",
        "dead_letter_path",
        "preview",
    )

    # Before 3.1.7, Airflow keeps to the time of a reschedule only where a task's serialized form has these two, as that
    # of a sensor has. Nothing else comes of them.
    reschedule = True
    _is_sensor = True

    @classmethod
    def get_serialized_fields(cls) -> frozenset[str]:
        """What the scheduler learns of the task."""
        fields: frozenset[str] = super().get_serialized_fields()  # type: ignore[no-untyped-call]
        return fields | {"reschedule", "_is_sensor"}

    def __init__(
        self,
        *,
        customerio_conn_id: str,
        collections: str | Sequence[str],
        opens_and_clicks: str,
        interval_start: str | datetime | None,
        interval_end: str | datetime | None,
        lookback: timedelta | float | str,
        settling_time: timedelta | float | str,
        pii: str,
        on_unidentified: str,
        dead_letter_path: str | None,
        preview: bool | str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.customerio_conn_id = customerio_conn_id
        self.collections = collections
        self.opens_and_clicks = opens_and_clicks
        self.interval_start = interval_start
        self.interval_end = interval_end
        self.lookback = lookback
        self.settling_time = settling_time
        self.pii = pii
        self.on_unidentified = on_unidentified
        self.dead_letter_path = dead_letter_path
        self.preview = preview
        self._running = False
        self._inputs: Sequence[Dataset] = ()
        self._outputs: Sequence[Dataset] = ()
        try:
            check_what_is_known(self)
        except ConfigurationError as error:
            raise ParameterError(str(error)) from None

    def _destination(self, options: Options) -> Destination:
        """Return the destination of the events.

        :raises ConfigurationError: its connection lacks something.
        """
        raise NotImplementedError

    def execute(self, context: Context) -> dict[str, Any]:
        """Wait until the interval is settled, run the pipeline over it, and tell Airflow the result."""
        try:
            options = read_options(self)
            interval = resolve_interval(self.interval_start, self.interval_end, context)
            settled = interval.end + whole_seconds(options.settling_time)
            wait_until_settled(interval, settled, self.log)
            dead_letters = self._dead_letters(options, context)
            result = self._run(options, interval, dead_letters, context)
            self._fail_if_refused(result, dead_letters, options)
        except TryAgainLaterError as error:
            wait_as_asked(error, settled, context, self.log)
            raise
        except CustomerIOToSegmentError as error:  # a retry would end the same way
            raise AirflowFailException(str(error)) from error
        return self._told(result, dead_letters, options, context)

    def _run(self, options: Options, interval: Interval, dead_letters: DeadLetters | None, context: Context) -> Result:
        """Build source, mapper and sink from the options, and run them over the interval."""
        from airflow_provider_cio.hooks.customerio import CustomerIOHook
        from airflow_provider_cio.observability.lineage import customerio_datasets
        from airflow_provider_cio.observability.logs import log_findings, log_progress, log_sample
        from airflow_provider_cio.observability.metrics import count_run
        from airflow_provider_cio.operators.assembly import build_pipeline, mode_of
        from airflow_provider_cio.pipeline.checkpoint import CheckpointStore, fingerprint
        from airflow_provider_cio.pipeline.preview import PreviewSink

        began = time.monotonic()
        customerio = CustomerIOHook(customerio_conn_id=options.customerio_conn_id)
        origin = (options.customerio_conn_id, customerio.settings.base_url)
        destination = self._destination(options)
        mode = mode_of(interval, options, self.log)
        self.log.info(
            "Interval %s, look-back %g days, opens and clicks %s: %s",
            interval,
            options.lookback / timedelta(days=1),
            mode,
            ", ".join(one.name for one in options.collections),
        )
        store = CheckpointStore(None if options.preview else context.get("task_state_store"), self.log)
        checkpoint = store.load(
            fingerprint(
                interval,
                mode,
                options.decisive,
                origin,
                destination.identity,
                destination.message_id_namespace,
            )
        )
        sink = destination.sink()
        pipeline = build_pipeline(
            customerio.get_conn(),
            PreviewSink(sink, partial(log_sample, self.log)) if options.preview else sink,
            options,
            interval,
            mode=mode,
            message_id_namespace=destination.message_id_namespace,
            send_to_customerio_destinations=destination.send_to_customerio_destinations,
            wording=destination.wording,
            warn=self.log.warning,
            checkpoint=checkpoint,
            callbacks=partial(self._callbacks, dead_letters, store.save),
        )
        with dead_letters or nullcontext(), self._killable():
            result = pipeline.run()
        log_progress(self.log, "Done", result)
        store.forget()
        log_findings(self.log, result)
        if not options.preview:
            self._inputs = customerio_datasets(*origin, result)
            self._outputs = destination.datasets(result)
            count_run(result, time.monotonic() - began, {"dag_id": self.dag_id, "task_id": self.task_id})
        return result

    def _callbacks(self, dead_letters: DeadLetters | None, save: Any, result: Result) -> Callbacks:
        from airflow_provider_cio.observability.logs import log_progress
        from airflow_provider_cio.pipeline.pipeline import Callbacks

        progress = partial(log_progress, self.log, "So far", result)
        if dead_letters is None:
            return Callbacks(progress, save=save)
        return Callbacks(
            progress,
            refused_event=dead_letters.write,
            refused_row=lambda row: dead_letters.write_row("malformed", row.raw, row.problem),
            save=save,
        )

    def _dead_letters(self, options: Options, context: Context) -> DeadLetters | None:
        """Return the file for events that can't be sent, if one is wanted and can be written."""
        if options.dead_letter_path is None or options.preview:
            return None
        from airflow_provider_cio.pipeline.dead_letters import DeadLetters

        dead_letters = DeadLetters(options.dead_letter_path, context)
        dead_letters.check()
        return dead_letters

    def _fail_if_refused(self, result: Result, dead_letters: DeadLetters | None, options: Options) -> None:
        """:raises EventsRefusedError: naming reasons and deliveries."""
        done = result.wording.done
        if options.preview:
            self.log.info(
                "This was a preview: nothing was %s. It could not have %s: %s", done, done, dict(result.refused)
            )
            return
        if result.refused and dead_letters:
            self.log.warning("Events that can't be %s are in %s: %s", done, dead_letters.path, result.refusals())
        unidentified = result.refused["unidentified"] if options.on_unidentified == "fail" else 0
        if not result.refused or (dead_letters and not unidentified):
            return
        kept = f"They are in {dead_letters.path}." if dead_letters else "Set dead_letter_path to have them kept aside."
        raise EventsRefusedError(
            f"{result.refused.total()} events or rows can't be {done}, all others were: {result.refusals()} {kept}"
        )

    def _told(
        self, result: Result, dead_letters: DeadLetters | None, options: Options, context: Context
    ) -> dict[str, Any]:
        """Return the result for XCom, and put it into the events of the task's assets."""
        from airflow_provider_cio.observability.assets import describe_outlets

        told = result.as_dict()
        if options.preview:
            told |= {"preview": True, "refused": dict(result.refused)}
        elif result.refused and dead_letters:
            told["dead_letters"] = {"path": str(dead_letters.path), "events": dict(result.refused)}
        describe_outlets(self.outlets, told | self._asset_extra(options), context)
        return told

    def _asset_extra(self, options: Options) -> dict[str, Any]:
        """Return the fields that the event of an asset has besides the result."""
        return {}

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the datasets of the run. OpenLineage's provider calls this if it is installed."""
        from airflow_provider_cio.observability.lineage import lineage

        return lineage(self._inputs, self._outputs)

    def on_kill(self) -> None:
        """End the running `execute`, which then closes what it opened.

        Airflow calls this within its signal handler, in the thread of `execute`, and goes on with the task when it
        returns. Closing anything here could wait for a lock that is held below.
        """
        if self._running:
            raise SystemExit("The task was killed.")

    @contextmanager
    def _killable(self) -> Iterator[None]:
        self._running = True
        try:
            yield
        finally:
            self._running = False

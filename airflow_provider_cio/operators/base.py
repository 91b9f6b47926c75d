"""Base class of both operators: parameters, waiting, the run, and its result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import BaseOperator

from airflow_provider_cio.events.interval import Interval, resolve_interval, whole_seconds
from airflow_provider_cio.exceptions import (
    ConfigurationError,
    CustomerIOToSegmentError,
    EventsRefusedError,
    TryAgainLaterError,
)
from airflow_provider_cio.operators.options import Options, check_parameters, read_options
from airflow_provider_cio.operators.waiting import wait_as_asked, wait_until_settled

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

    from airflow_provider_cio.hooks.customerio import CustomerIOHook
    from airflow_provider_cio.observability.lineage import Dataset
    from airflow_provider_cio.operators.destination import Destination
    from airflow_provider_cio.pipeline.dead_letters import DeadLetters
    from airflow_provider_cio.pipeline.pipeline import Callbacks
    from airflow_provider_cio.pipeline.result import Result


#: Key under which Airflow keeps what a task returns.
_RESULT_KEY = "return_value"


class ParameterError(ConfigurationError, AirflowFailException):
    """A parameter is wrong. Airflow does not retry the task, not even a mapped one."""


class CustomerIOOperator(BaseOperator):
    """Base class of the operators, which document the parameters.

    A subclass sets its own parameters before it calls this constructor, which checks all of them.
    """

    template_fields: Sequence[str] = (
        "customerio_conn_id",
        "collections",
        "opens_and_clicks",
        "interval_start",
        "interval_end",
        "lookback",
        "older_than",
        "settling_time",
        "pii",
        "on_unidentified",
        "dead_letter_path",
        "preview",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"collections": "json"}

    # Airflow before 3.1.7 respects the time of a reschedule only for tasks that look like sensors in rescheduling mode.
    # Two effects follow in every version: the scheduler looks the time up with one more query, and OpenLineage's
    # provider sends the START of a rescheduled try only once.
    reschedule = True
    _is_sensor = True

    @classmethod
    def get_serialized_fields(cls) -> frozenset[str]:
        """Return the names of the attributes that the scheduler gets."""
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
        older_than: timedelta | float | str | None,
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
        self.older_than = older_than
        self.settling_time = settling_time
        self.pii = pii
        self.on_unidentified = on_unidentified
        self.dead_letter_path = dead_letter_path
        self.preview = preview
        self._running = self._killed = False
        self._inputs: Sequence[Dataset] = ()
        self._outputs: Sequence[Dataset] = ()
        try:
            check_parameters(self)
        except ConfigurationError as error:
            raise ParameterError(str(error)) from None

    def _destination(self, options: Options) -> Destination:
        """Return the destination of the events.

        :raises ConfigurationError: its connection is wrong or incomplete.
        """
        raise NotImplementedError

    def execute(self, context: Context) -> dict[str, Any]:
        """Wait until the interval is settled, deliver its events, and return the result.

        An error is raised anew: Airflow's log view hides its text behind all its frames and those of its cause.
        """
        from airflow_provider_cio.observability.logs import log_error

        self._killed = False  # by a kill of an earlier try in the same process, as in a test of the DAG
        try:
            options = read_options(self)
            interval = resolve_interval(self.interval_start, self.interval_end, context)
            settled = interval.end + whole_seconds(options.settling_time)
            ends = self._ends(options)  # before the wait, because errors in the connections are known now
            wait_until_settled(interval, settled, self.log)
            dead_letters = self._dead_letters(options, context)
            result = self._run(options, interval, *ends, dead_letters, context)
            self._fail_if_refused(result, dead_letters, options, context)
        except TryAgainLaterError as error:
            wait_as_asked(error, settled, context, self.log)
            raise TryAgainLaterError(log_error(self.log, error), error.after) from None
        except CustomerIOToSegmentError as error:  # a retry would end the same way
            raise AirflowFailException(log_error(self.log, error)) from None
        return self._publish(result, dead_letters, options, context)

    def _ends(self, options: Options) -> tuple[CustomerIOHook, Destination]:
        """Read the connections of both ends.

        :raises ConfigurationError: one is missing, wrong or incomplete.
        """
        from airflow_provider_cio.hooks.customerio import CustomerIOHook

        customerio = CustomerIOHook(customerio_conn_id=options.customerio_conn_id)
        customerio.settings  # noqa: B018 - reads them
        return customerio, self._destination(options)

    def _run(
        self,
        options: Options,
        interval: Interval,
        customerio: CustomerIOHook,
        destination: Destination,
        dead_letters: DeadLetters | None,
        context: Context,
    ) -> Result:
        """Build the pipeline from the options, run it over the interval, and record its counts."""
        from airflow_provider_cio.observability.lineage import customerio_datasets
        from airflow_provider_cio.observability.logs import log_sample, log_start, log_summary, log_warnings
        from airflow_provider_cio.observability.metrics import count_run
        from airflow_provider_cio.operators.assembly import build_pipeline, look_at_service, mode_of, warn_of_age
        from airflow_provider_cio.operators.checkpoint_store import CheckpointStore
        from airflow_provider_cio.pipeline.checkpoint import fingerprint
        from airflow_provider_cio.pipeline.preview import PreviewSink

        began = time.monotonic()
        origin = (options.customerio_conn_id, customerio.settings.base_url)
        mode = mode_of(interval, options, self.log)
        warn_of_age(interval, options, self.log)
        log_start(self.log, interval, options.older_than, options.lookback, mode, options.collections)

        store = CheckpointStore(None if options.preview else context.get("task_state_store"), self.log)
        namespace = destination.message_id_namespace
        checkpoint = store.load(fingerprint(interval, mode, options.decisive, origin, destination.identity, namespace))
        sink = destination.sink()
        pipeline = build_pipeline(
            customerio.get_conn(),
            PreviewSink(sink, partial(log_sample, self.log)) if options.preview else sink,
            options,
            interval,
            mode=mode,
            message_id_namespace=namespace,
            send_to_customerio_destinations=destination.send_to_customerio_destinations,
            wording=destination.wording,
            warn=self.log.warning,
            checkpoint=checkpoint,
            callbacks=partial(self._callbacks, dead_letters, store.save),
        )
        with dead_letters or nullcontext(), self._killable():
            result = pipeline.run()

        log_summary(self.log, result, preview=options.preview)
        store.forget()
        log_warnings(self.log, result)
        if options.preview:
            with self._killable():
                result.found = look_at_service(customerio, interval, options, self.log)
        else:
            self._inputs = customerio_datasets(*origin, result)
            self._outputs = destination.datasets(result)
            count_run(result, time.monotonic() - began, {"dag_id": self.dag_id, "task_id": self.task_id})
        return result

    def _callbacks(self, dead_letters: DeadLetters | None, save: Any, result: Result) -> Callbacks:
        """Return the callbacks that log progress, write dead letters and save checkpoints."""
        from airflow_provider_cio.observability.logs import log_progress
        from airflow_provider_cio.pipeline.pipeline import Callbacks

        progress = partial(log_progress, self.log, result)
        if dead_letters is None:
            return Callbacks(progress, save=save)
        return Callbacks(
            progress,
            refused_event=dead_letters.write,
            refused_row=lambda row: dead_letters.write_row("malformed", row.raw, row.problem),
            save=save,
        )

    def _dead_letters(self, options: Options, context: Context) -> DeadLetters | None:
        """Return the file for events that can't be delivered, or None. Check that it can be written."""
        if options.dead_letter_path is None or options.preview:
            return None
        from airflow_provider_cio.pipeline.dead_letters import DeadLetters

        dead_letters = DeadLetters(options.dead_letter_path, context)
        dead_letters.check()
        return dead_letters

    def _fail_if_refused(
        self, result: Result, dead_letters: DeadLetters | None, options: Options, context: Context
    ) -> None:
        """Fail the task if events were refused, unless they are among the dead letters. A preview never fails.

        The result is left in XCom first.

        :raises EventsRefusedError: the message names reasons and deliveries.
        """
        if not result.refused:
            return
        done = result.wording.done
        total = result.refused.total()
        number = f"1 event or row can't be {done}" if total == 1 else f"{total:,} events or rows can't be {done}"
        if options.preview:
            self.log.warning("%s: %s", number, result.refusals())
            return
        if dead_letters:
            self.log.warning("%s, and are in %s: %s", number, dead_letters.path, result.refusals())
            if options.on_unidentified != "fail" or not result.refused["unidentified"]:
                return
            advice = f"They are in {dead_letters.path}."
        else:
            advice = "Set dead_letter_path to save them in a file."
        self._push(_with_dead_letters(result, dead_letters) | {"refused": dict(result.refused)}, context)
        raise EventsRefusedError(f"{number}, all others were: {result.refusals()} {advice}")

    def _push(self, result: dict[str, Any], context: Context) -> None:
        """Push the result of a run that is about to fail, because Airflow pushes only those of successful runs."""
        push = getattr(context.get("ti"), "xcom_push", None)
        if not self.do_xcom_push or push is None:
            return
        try:
            push(key=_RESULT_KEY, value=result)
        except Exception as error:  # of any XCom backend; it must not hide why the run fails
            self.log.warning("The counts of this run could not be left in XCom: %s", type(error).__name__)

    def _publish(
        self, result: Result, dead_letters: DeadLetters | None, options: Options, context: Context
    ) -> dict[str, Any]:
        """Return the result for XCom, and attach it to the events of the task's assets."""
        from airflow_provider_cio.observability.assets import describe_outlets

        published = _with_dead_letters(result, dead_letters)
        if options.preview:
            published |= {"preview": True, "refused": dict(result.refused), "found": dict(result.found)}
        describe_outlets(self.outlets, published | self._asset_extra(options), context)
        return published

    def _asset_extra(self, options: Options) -> dict[str, Any]:
        """Return the extra fields of the asset event."""
        return {}

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the datasets of the run, for OpenLineage's provider."""
        from airflow_provider_cio.observability.lineage import lineage

        return lineage(self._inputs, self._outputs)

    def on_kill(self) -> None:
        """End the running `execute`, which then closes its clients. Before the run, let it end as soon as it begins.

        Airflow calls this method from its signal handler, in the thread of `execute`. Do not close anything here: that
        could wait for a lock that this thread holds itself.
        """
        self._killed = True
        self._exit_if_killed()

    @contextmanager
    def _killable(self) -> Iterator[None]:
        self._running = True
        try:
            self._exit_if_killed()
            yield
        finally:
            self._running = False

    def _exit_if_killed(self) -> None:
        if self._killed and self._running:
            raise SystemExit("The task was killed.")


def _with_dead_letters(result: Result, dead_letters: DeadLetters | None) -> dict[str, Any]:
    """Return the result as plain JSON, with the place of its dead letters if there are any."""
    told = result.as_dict()
    if result.refused and dead_letters:
        told["dead_letters"] = {"path": str(dead_letters.path), "events": dict(result.refused)}
    return told

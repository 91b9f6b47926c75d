"""Build the pipeline of a run from its options. The operators and the tests use the same function."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_provider_cio.customerio.activities import GUARANTEED_DAYS, EveryOpenAndClick
from airflow_provider_cio.customerio.assumptions import Found, check_assumptions
from airflow_provider_cio.customerio.client import CustomerIOClient
from airflow_provider_cio.customerio.deliveries import Deliveries
from airflow_provider_cio.customerio.names import Names
from airflow_provider_cio.customerio.reader import Reader
from airflow_provider_cio.events.interval import Ages, Interval, age_warning, whole_seconds
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.exceptions import CustomerIOToSegmentError
from airflow_provider_cio.hooks.customerio import CustomerIOHook
from airflow_provider_cio.http.transport import Retries
from airflow_provider_cio.observability.logs import log_found
from airflow_provider_cio.operators.options import FROM_ACTIVITIES, Options
from airflow_provider_cio.pipeline.checkpoint import Checkpoint
from airflow_provider_cio.pipeline.ends import Sink, Source
from airflow_provider_cio.pipeline.pipeline import Callbacks, Pipeline
from airflow_provider_cio.pipeline.result import SENT, Result, Tally, Wording
from airflow_provider_cio.pipeline.ticker import logging_waits
from airflow_provider_cio.values import span_in_words

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


def mode_of(interval: Interval, options: Options, log: Logger) -> str:
    """Return `opens_and_clicks` as asked for, or the first ones instead of each if activities don't reach that far."""
    asked = options.opens_and_clicks
    if asked not in FROM_ACTIVITIES or not any(one.has_activities for one in options.collections):
        return asked
    if interval.start >= time.time() - GUARANTEED_DAYS * 86_400:
        return asked
    mode = FROM_ACTIVITIES[asked]
    log.warning(
        "Customer.io guarantees activities for %d days, and %s starts earlier: this run sends first opens and "
        "clicks only, of messages less than %s old, as with opens_and_clicks=%r.",
        GUARANTEED_DAYS,
        interval,
        span_in_words(options.lookback),
        mode,
    )
    return mode


def warn_of_age(interval: Interval, options: Options, log: Logger) -> None:
    """Log a warning if the run asks for deliveries that Customer.io may not list any more."""
    first = interval.start - whole_seconds(options.lookback)
    if warning := age_warning(first, time.time(), "shorten lookback, or compare the counts"):
        log.warning("%s", warning)


def look_at_service(hook: CustomerIOHook, interval: Interval, options: Options, log: Logger) -> Found:
    """Check the assumptions about Customer.io for a preview, and log each.

    An error is only logged, so that it does not fail the preview.

    :returns: empty after an error.
    """
    try:
        client = hook.get_conn(retries=Retries(attempts=3, total=30))
        with client, logging_waits(log.info, client.waiting):
            found = check_assumptions(client, interval, whole_seconds(options.lookback), options.collections)
    except CustomerIOToSegmentError as error:
        log.warning("This preview could not find out whether Customer.io is as assumed: %s", error)
        return {}
    log_found(log, found)
    return found


def build_pipeline(
    client: CustomerIOClient,
    sink: Sink,
    options: Options,
    interval: Interval,
    *,
    mode: str,
    message_id_namespace: str,
    send_to_customerio_destinations: bool = False,
    wording: Wording = SENT,
    warn: Callable[[str], None] = lambda text: None,
    checkpoint: Checkpoint | None = None,
    callbacks: Callable[[Result], Callbacks] = lambda result: Callbacks(),
    **reading: Any,
) -> Pipeline:
    """Build a pipeline that reads with `client` and delivers into `sink`. It closes both.

    :param mode: the result of `mode_of`.
    :param warn: called with a text about lists of names that can't be read.
    :param callbacks: called with the result that the pipeline fills; returns the callbacks of the pipeline.
    :param reading: page sizes, for `Reader`.
    """
    reader = Reader(client, **reading)
    names = Names(reader, warn)
    ages = Ages(whole_seconds(options.lookback), whole_seconds(options.older_than))
    reads_activities = mode in FROM_ACTIVITIES
    shared: dict[str, Any] = {
        "collections": options.collections,
        "interval": interval,
        "ages": ages,
        "humans_only": mode in ("first_human", "every_human"),
    }
    source: Source = (EveryOpenAndClick if reads_activities else Deliveries)(reader, names, **shared)
    mapper = Mapper(
        message_id_namespace,
        send_to_customerio_destinations=send_to_customerio_destinations,
        pii=options.pii,
        cio_id_as_last_resort=options.on_unidentified == "cio_id",
        name_of=names.of,
    )
    result = Result(
        interval,
        Tally.of(one.name for one in options.collections),
        fell_back_to=mode if mode != options.opens_and_clicks else None,
        wording=wording,
        counted=ages,
        of_any_age=frozenset(one.name for one in options.collections if reads_activities and one.has_activities),
    )
    return Pipeline(
        source,
        mapper,
        sink,
        result,
        skip_unidentified=options.on_unidentified in ("skip", "cio_id"),
        checkpoint=checkpoint,
        callbacks=callbacks(result),
    )

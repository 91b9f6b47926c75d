"""Build the pipeline of a run from its options. The operators and the tests use the same function."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_provider_cio.customerio.activities import GUARANTEED_DAYS, REPEATING, EveryOpenAndClick
from airflow_provider_cio.customerio.client import CustomerIOClient
from airflow_provider_cio.customerio.deliveries import Deliveries
from airflow_provider_cio.customerio.names import Names
from airflow_provider_cio.customerio.reader import Reader
from airflow_provider_cio.events.interval import Interval, whole_seconds
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.operators.options import Options
from airflow_provider_cio.pipeline.checkpoint import Checkpoint
from airflow_provider_cio.pipeline.ends import Sink, Source
from airflow_provider_cio.pipeline.pipeline import Callbacks, Pipeline
from airflow_provider_cio.pipeline.result import SENT, Result, Tally, Wording

if TYPE_CHECKING:
    from airflow.sdk.types import Logger


def mode_of(interval: Interval, options: Options, log: Logger) -> str:
    """Return the option `opens_and_clicks`, or ``first`` if activities do not reach back to the interval."""
    asked = options.opens_and_clicks
    if asked == "first" or not any((one.channel, one.metric) in REPEATING for one in options.collections):
        return asked
    if interval.start >= time.time() - GUARANTEED_DAYS * 86_400:
        return asked
    log.warning(
        "Customer.io guarantees activities for %d days, and %s starts earlier: this run sends first opens and "
        "clicks only, including those of machines.",
        GUARANTEED_DAYS,
        interval,
    )
    return "first"


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
    shared: dict[str, Any] = {
        "collections": options.collections,
        "interval": interval,
        "lookback": whole_seconds(options.lookback),
    }
    source: Source = (
        Deliveries(reader, names, **shared)
        if mode == "first"
        else EveryOpenAndClick(reader, names, humans_only=mode == "every_human", **shared)
    )
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
        fell_back=mode != options.opens_and_clicks,
        wording=wording,
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

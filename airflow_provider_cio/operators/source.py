"""Which source a run reads: its options, made into one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow_provider_cio.events.interval import Interval, whole_seconds
from airflow_provider_cio.operators.options import Options

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_provider_cio.customerio.names import Names
    from airflow_provider_cio.customerio.reader import Reader
    from airflow_provider_cio.pipeline.ends import Source


def mode_of(interval: Interval, options: Options, log: Logger) -> str:
    """How opens and clicks are read: as asked, unless activities do not reach back that far."""
    from airflow_provider_cio.customerio.activities import GUARANTEED_DAYS, REPEATING

    asked = options.opens_and_clicks
    if asked == "first" or not any((one.channel, one.metric) in REPEATING for one in options.collections):
        return asked
    if interval.start >= time.time() - GUARANTEED_DAYS * 86_400:
        return asked
    log.warning(
        "Customer.io guarantees activities for %d days, and %s starts earlier: this run sends first opens and "
        "clicks only, those of machines among them.",
        GUARANTEED_DAYS,
        interval,
    )
    return "first"


def source_of(reader: Reader, names: Names, interval: Interval, options: Options, mode: str) -> Source:
    """:param mode: what `mode_of` says."""
    from airflow_provider_cio.customerio.activities import EveryOpenAndClick
    from airflow_provider_cio.customerio.deliveries import Deliveries

    shared: dict[str, Any] = {
        "collections": options.collections,
        "interval": interval,
        "lookback": whole_seconds(options.lookback),
    }
    if mode == "first":
        return Deliveries(reader, names, **shared)
    return EveryOpenAndClick(reader, names, humans_only=mode == "every_human", **shared)

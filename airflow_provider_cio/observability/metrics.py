"""Send counts and durations to Airflow's metrics (StatsD, OpenTelemetry, ...).

Airflow puts its own prefix before each name: ``airflow.customerio.events``. It is imported at the first metric only.
No function raises, because a run should not fail for its metrics.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow_provider_cio.events.catalog import CATALOG

if TYPE_CHECKING:
    from airflow_provider_cio.pipeline.result import Result

log = logging.getLogger(__name__)

#: Characters that become ``_`` in tags, because Airflow drops a metric with them where tags are part of its name.
_NOT_IN_A_TAG = re.compile("[^A-Za-z0-9_.-]+")


def count(name: str, n: int = 1, tags: Mapping[str, str] | None = None) -> None:
    """Add `n` to the counter ``customerio.<name>``. For 0, nothing is sent."""
    if n:
        _send("incr", name, n, tags)


def timing(name: str, seconds: float, tags: Mapping[str, str] | None = None) -> None:
    """Send a duration as ``customerio.<name>``. Airflow converts it to milliseconds."""
    _send("timing", name, timedelta(seconds=seconds), tags)


def _send(kind: str, name: str, value: int | timedelta, tags: Mapping[str, str] | None) -> None:
    safe = {key: _NOT_IN_A_TAG.sub("_", text) for key, text in (tags or {}).items()}
    try:
        getattr(_stats(), kind)(f"customerio.{name}", value, tags=safe)
    except Exception as error:  # each metrics back end has its own
        log.debug("The metric customerio.%s was not sent: %s", name, type(error).__name__)


@cache
def _stats() -> Any:
    """Return Airflow's stats, set up if this process needs it."""
    from airflow.providers.common.compat.sdk import Stats

    if not hasattr(sys.modules.get("airflow.sdk.execution_time.task_runner"), "SUPERVISOR_COMMS"):
        with suppress(ImportError):
            _set_up(Stats)
    return Stats


def _set_up(stats: Any) -> None:
    """Initialize the stats in processes other than a task's, such as a web server.

    :raises ImportError: this is Airflow 3.0 or 3.1, where it is not needed.
    """
    from inspect import signature

    from airflow.sdk.configuration import conf
    from airflow.sdk.observability.metrics.stats_utils import get_stats_factory

    if signature(get_stats_factory).parameters:  # 3.2
        stats.initialize(factory=get_stats_factory(stats))  # type: ignore[call-arg]
    else:
        legacy = conf.getboolean("metrics", "legacy_names_on", fallback=False)
        stats.initialize(factory=get_stats_factory(), export_legacy_names=legacy)


def count_run(result: Result, seconds: float, tags: Mapping[str, str]) -> None:
    """Send the metrics of a run that `docs/operator.md` lists, once for all its tries.

    :param seconds: duration of the last try.
    """
    for collection, n in result.events.items():
        count("events", n, {**tags, "collection": CATALOG[collection].table})
    for name, counts in (("skipped", result.skipped), ("refused", result.refused)):
        for reason, n in counts.items():
            count(name, n, {**tags, "reason": reason})
    for name in ("requests", "retried", "rate_limited"):
        count(name, result.work[name], tags)
    timing("duration", seconds, tags)

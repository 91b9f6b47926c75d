"""Counts and durations for Airflow's own metrics (StatsD, OpenTelemetry ...). A leaf; Airflow is imported on use only.

Every name begins with ``customerio.``; Airflow puts its own prefix before it: ``airflow.customerio.events``.
Nothing here raises: a run does not fail for its metrics.
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

#: What is none of these would make Airflow drop the whole metric, where tags are part of its name.
_NOT_IN_A_TAG = re.compile("[^A-Za-z0-9_.-]+")


def count(name: str, n: int = 1, tags: Mapping[str, str] | None = None) -> None:
    """Add `n` to the counter ``customerio.<name>``; nothing, not even a zero, is sent for 0."""
    if n:
        _send("incr", name, n, tags)


def took(name: str, seconds: float, tags: Mapping[str, str] | None = None) -> None:
    """Report a duration as ``customerio.<name>``. Airflow sends it in milliseconds."""
    _send("timing", name, timedelta(seconds=seconds), tags)


def _send(kind: str, name: str, value: int | timedelta, tags: Mapping[str, str] | None) -> None:
    safe = {key: _NOT_IN_A_TAG.sub("_", text) for key, text in (tags or {}).items()}
    try:
        getattr(_stats(), kind)(f"customerio.{name}", value, tags=safe)
    except Exception as error:  # whatever a metrics back end may raise
        log.debug("The metric customerio.%s was not sent: %s", name, type(error).__name__)


@cache
def _stats() -> Any:
    """Airflow's stats, ready for use."""
    from airflow.providers.common.compat.sdk import Stats

    if not hasattr(sys.modules.get("airflow.sdk.execution_time.task_runner"), "SUPERVISOR_COMMS"):
        with suppress(ImportError):
            _set_up(Stats)
    return Stats


def _set_up(stats: Any) -> None:
    """What a task's process does by itself, for others, such as a web server.

    :raises ImportError: Airflow 3.0 and 3.1 need none of it.
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
    """Report the counts of a run as metrics, once for all its tries. `docs/operator.md` lists them.

    :param seconds: duration of this try.
    """
    for collection, n in result.events.items():
        count("events", n, {**tags, "collection": CATALOG[collection].table})
    for name, counts in (("skipped", result.skipped), ("refused", result.refused)):
        for reason, n in counts.items():
            count(name, n, {**tags, "reason": reason})
    for name in ("requests", "retried", "rate_limited"):
        count(name, result.work[name], tags)
    took("duration", seconds, tags)

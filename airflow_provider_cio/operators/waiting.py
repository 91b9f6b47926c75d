"""Wait without a worker's slot: Airflow reschedules the task, which uses up none of its tries."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow.exceptions import AirflowRescheduleException

from airflow_provider_cio.events.interval import Interval, iso
from airflow_provider_cio.exceptions import TryAgainLaterError

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import Logger

#: Longest total time, in seconds, for which one try may be rescheduled because a service asked it to wait.
_LONGEST = 86_400


def wait_until_settled(interval: Interval, settled: int, log: Logger) -> None:
    """Reschedule the task to the end of the settling time, unless that has passed.

    :param settled: end of the settling time, in Unix seconds.
    :raises AirflowRescheduleException: to wait.
    """
    if time.time() < settled:
        log.info(
            "Waits until %s, without a slot: the interval %s has its settling time until then. "
            "Customer.io may still show what happened in it.",
            iso(settled),
            interval,
        )
        raise _reschedule(datetime.fromtimestamp(settled, UTC))


def wait_as_asked(error: TryAgainLaterError, settled: int, context: Context, log: Logger) -> None:
    """Reschedule the task for as long as the service asks, unless the try has waited for a day already.

    :raises AirflowRescheduleException: to wait.
    """
    if error.after is not None and _waited(context, settled) + error.after <= _LONGEST:
        log.warning("This run goes on in %d s, and takes no slot meanwhile. %s", error.after, error)
        raise _reschedule(datetime.now(UTC) + timedelta(seconds=error.after)) from error


def _waited(context: Context, settled: int) -> float:
    """Return the seconds since this try was first rescheduled, without its settling time."""
    # The task instance of a test may lack this method.
    first_reschedule_date = getattr(context.get("ti"), "get_first_reschedule_date", None)
    first = first_reschedule_date(context) if first_reschedule_date else None
    return max(0.0, time.time() - max(first.timestamp(), settled)) if first else 0.0


def _reschedule(moment: datetime) -> AirflowRescheduleException:
    return AirflowRescheduleException(moment)  # type: ignore[no-untyped-call]

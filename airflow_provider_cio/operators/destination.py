"""Where the events of a run go, and what a checkpoint of it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_cio.events.event import Event, rule_broken
from airflow_provider_cio.events.interval import Interval, whole_seconds
from airflow_provider_cio.operators.options import Options
from airflow_provider_cio.pipeline.result import SENT, Delivered

if TYPE_CHECKING:
    from airflow_provider_cio.observability.lineage import Dataset
    from airflow_provider_cio.pipeline.ends import Sink
    from airflow_provider_cio.pipeline.result import Report


class Connected(Protocol):
    """A connection that may have to wait for the other side."""

    def waiting(self) -> str | None:
        """What it waits for, in one sentence; None if it does not."""


@dataclass(frozen=True)
class Destination:
    """Where the events of a run go.

    :param identity: all that tells it from another one, but for what may be rotated or tuned.
    :param message_id_namespace: of the `messageId` of its events.
    :param connect: makes a `Connected` that is closed when it is left.
    :param sink: makes the sink over one.
    :param rule: names the rule that an event breaks which it could not take.
    :param send_to_customerio_destinations: its events may come back to Customer.io.
    :param datasets: what a run has written, for lineage.
    :param delivered: what log and result call what became of the events.
    """

    identity: tuple[object, ...]
    message_id_namespace: str
    connect: Callable[[], AbstractContextManager[Any]]
    sink: Callable[[Any], Sink]
    rule: Callable[[Event, bytes], str | None] = rule_broken
    send_to_customerio_destinations: bool = False
    datasets: Callable[[Report], Sequence[Dataset]] = lambda _: ()
    delivered: Delivered = SENT


def fingerprint(
    interval: Interval, options: Options, mode: str, origin: tuple[str, str], destination: Destination
) -> str:
    """Of all that decides which events are sent, from where and where to; not of keys that may be rotated, rates
    and time-outs."""
    configuration = (
        interval,
        whole_seconds(options.lookback),
        sorted(one.name for one in options.collections),
        origin,
        destination.identity,
        destination.message_id_namespace,
        mode,
        destination.send_to_customerio_destinations,
        options.on_unidentified,
        options.pii,
    )
    return hashlib.sha256(repr(configuration).encode()).hexdigest()[:32]

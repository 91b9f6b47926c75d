"""The run's result in the events of its assets, for the DAGs that are scheduled on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def describe_outlets(outlets: Iterable[Any], result: Mapping[str, Any], context: Mapping[str, Any]) -> None:
    """Put the run's result into the event of each asset among its outlets, for the DAGs that are scheduled on it.

    The partition of the run, if it has one, is put there by Airflow (3.2 or newer). Which asset is behind an alias is
    not known here: its event stays as it is.
    """
    from airflow.sdk import Asset
    from airflow.sdk.definitions.asset import AssetRef

    events = context.get("outlet_events")
    for outlet in outlets:
        if events is not None and isinstance(outlet, Asset | AssetRef):
            events[outlet].extra.update(result)

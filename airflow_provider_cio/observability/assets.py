"""Asset events that carry the result of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def describe_outlets(outlets: Iterable[Any], result: Mapping[str, Any], context: Mapping[str, Any]) -> None:
    """Add the result of a run to the event of each asset among its outlets, for DAGs that are scheduled on it.

    Airflow (3.2 or newer) adds the partition of the run itself. Asset aliases get nothing, because their assets are
    unknown here.
    """
    from airflow.sdk import Asset
    from airflow.sdk.definitions.asset import AssetRef

    events = context.get("outlet_events")
    for outlet in outlets:
        if events is not None and isinstance(outlet, Asset | AssetRef):
            events[outlet].extra.update(result)

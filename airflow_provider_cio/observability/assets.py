"""Assets: their URIs, and their events, which carry the result of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import SplitResult

#: The URI of an asset, by scheme, as an error shows it.
_EXAMPLES = {
    "customerio": "customerio://api.customer.io/customerio_default.deliveries",
    "segment": "segment://api.segment.io/segment_default",
}


def check_uri(uri: SplitResult) -> SplitResult:
    """Return the URI of an asset as it is. Airflow calls this for each asset whose scheme is one of this provider.

    :raises ValueError: it lacks the host or the name of the dataset.
    """
    if not uri.netloc or "/" in (name := uri.path.removeprefix("/")) or not name:
        raise ValueError(
            f"The URI of an asset with the scheme {uri.scheme} must be a host and one name, such as "
            f"{_EXAMPLES[uri.scheme]}"
        )
    return uri


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

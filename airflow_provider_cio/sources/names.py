"""Names of what a delivery was sent by: campaign, newsletter, broadcast or transactional message."""

from __future__ import annotations

from collections.abc import Callable

from airflow_provider_cio.clients.customerio import CustomerIOClient
from airflow_provider_cio.exceptions import CustomerIOToSegmentError
from airflow_provider_cio.records import Delivery

# Where the names of a kind of parent are listed, and under which key: /v1/transactional lists them as `messages`.
_LISTS = {
    "campaign_id": ("/v1/campaigns", "campaigns"),
    "newsletter_id": ("/v1/newsletters", "newsletters"),
    "broadcast_id": ("/v1/broadcasts", "broadcasts"),
    "transactional_message_id": ("/v1/transactional", "messages"),
}


class Names:
    """Reads each list at most once, at the first delivery that needs it.

    A parent without a name (it was deleted) has none here. A list that can't be read costs a warning, not the run.
    """

    def __init__(self, client: CustomerIOClient, warn: Callable[[str], None]) -> None:
        self._client = client
        self._warn = warn
        self._lists: dict[str, dict[str, str]] = {}

    def of(self, delivery: Delivery) -> str | None:
        for kind in _LISTS:
            parent = getattr(delivery, kind)
            if parent is not None:
                names = self._lists.get(kind)
                if names is None:
                    names = self._lists[kind] = self._read(kind)
                return names.get(str(parent))
        return None

    def _read(self, kind: str) -> dict[str, str]:
        path, key = _LISTS[kind]
        try:
            return self._client.names(path, key)
        except CustomerIOToSegmentError as error:
            self._warn(f"No campaign_name for events with a {kind}: {error}")
            return {}

"""Names of campaigns and the like, which reports do not have: from the App API, if the connection has a key for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from airflow_provider_cio.customerio.client import NAME_LISTS, CustomerIOClient, parent_of
from airflow_provider_cio.events.occurrence import Message
from airflow_provider_cio.exceptions import CustomerIOToSegmentError
from airflow_provider_cio.http.transport import Retries
from airflow_provider_cio.stream.intake import said_by
from airflow_provider_cio.stream.kept import Kept, NotFoundYet

#: Seconds after which the lists are read anew, and after which they are for the sake of a campaign that is not in them.
FRESH = 900.0
FRESH_FOR_A_NEW_ONE = 60.0
#: Seconds that the first reports wait for the lists. Later ones have those that were read before.
_PATIENCE = 1.0
#: Seconds for each read of a list, if the connection allows more.
_TIMEOUT = 10.0

#: By kind of parent and by its id.
Lists = dict[str, dict[str, str]]


class CampaignNames:
    """What the operator puts into `campaign_name`, as far as it is known: no report fails or waits long for a name.

    It has a thread of its own: an App API that hangs holds up no look-up of a connection.

    :param warn: told which list can't be read.
    """

    def __init__(self, customerio_conn_id: str, warn: Callable[[str], None]) -> None:
        self._conn_id = customerio_conn_id
        self._warn = warn
        executor = ThreadPoolExecutor(1, thread_name_prefix="stream-names")
        self._kept = Kept(self._look_up, executor, lambda error: warn(said_by(error)), fresh=FRESH)

    async def ready(self) -> None:
        """Wait for the first lists, but not for long."""
        if self._kept.value is None:
            with suppress(TimeoutError, NotFoundYet):
                await asyncio.wait_for(self._kept.get(), _PATIENCE)
        else:
            self._kept.begin_if_older_than(FRESH)

    def of(self, delivery: Message) -> str | None:
        """The name, if it is in the lists."""
        kind = parent_of(delivery)
        lists = self._kept.value
        if kind is None or lists is None or kind not in lists:
            return None
        name = lists[kind].get(str(getattr(delivery, kind)))
        if name is None:
            self._kept.begin_if_older_than(FRESH_FOR_A_NEW_ONE)
        return name

    def _look_up(self, before: Lists | None) -> Lists:
        """A list that can't be read now stays as it was."""
        from airflow_provider_cio.hooks.customerio import CustomerIOHook

        lists = dict(before or {})
        try:
            settings = CustomerIOHook(customerio_conn_id=self._conn_id).settings
            settings = settings._replace(timeout=min(settings.timeout, _TIMEOUT))
            called = f"Customer.io (connection {self._conn_id!r})"
            with CustomerIOClient(**settings._asdict(), name=called, retries=Retries(attempts=1)) as client:
                for kind, where in NAME_LISTS.items():
                    try:
                        lists[kind] = client.names(*where)
                    except CustomerIOToSegmentError as error:
                        self._warn(f"no campaign_name for events with a {kind}: {error}")
        except CustomerIOToSegmentError as error:  # no key, say
            self._warn(f"no campaign_name: {error}")
        return lists

"""Names of campaigns for a stream, read from the App API and renewed in the background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from airflow_provider_cio.customerio.client import CustomerIOClient
from airflow_provider_cio.customerio.names import NAME_LISTS, NamesByField, names_warning, parent_of, read_list
from airflow_provider_cio.events.occurrence import Message
from airflow_provider_cio.exceptions import CustomerIOToSegmentError
from airflow_provider_cio.http.transport import Retries
from airflow_provider_cio.stream.cached import Cached, NotFoundYet
from airflow_provider_cio.stream.intake import text_for_log

log = logging.getLogger("airflow_provider_cio.stream")

#: Seconds until the lists are read again, which takes requests from the workspace's limit.
FRESH = 900.0
#: Seconds until the lists are read again because a report has a campaign that is in none of them.
FRESH_FOR_A_NEW_ONE = 60.0
#: Seconds that the first reports wait for the lists. Later reports use the lists that were read before.
_PATIENCE = 1.0
#: Most seconds for one read of a list, whatever the connection allows.
_TIMEOUT = 10.0


class CachedNames:
    """Names of campaigns for a stream. A name that is not known in time is left out, so that no report fails for it.

    The lists are read in a thread of their own, so that a hanging App API delays no look-up of a connection.

    :param warn: called with one text about all lists that can't be read.
    """

    def __init__(self, customerio_conn_id: str, warn: Callable[[str], None]) -> None:
        self._conn_id = customerio_conn_id
        self._warn = warn
        executor = ThreadPoolExecutor(1, thread_name_prefix="stream-names")
        self._lists = Cached(self._look_up, executor, lambda error: warn(text_for_log(error)), fresh=FRESH)

    async def ready(self) -> None:
        """Wait for the first lists, at most one second."""
        if self._lists.value is None:
            with suppress(TimeoutError, NotFoundYet):
                await asyncio.wait_for(self._lists.get(), _PATIENCE)
        else:
            self._lists.begin_if_older_than(FRESH)

    def of(self, message: Message) -> str | None:
        """Return the name of the message's parent; None if it is in no list."""
        parent, lists = parent_of(message), self._lists.value
        if parent is None or lists is None or parent[0] not in lists:
            return None
        field, parent_id = parent
        name = lists[field].get(parent_id)
        if name is None:
            self._lists.begin_if_older_than(FRESH_FOR_A_NEW_ONE)
        return name

    def _look_up(self, before: NamesByField | None) -> NamesByField:
        """Read all lists. A list that can't be read now stays as it was."""
        from airflow_provider_cio.hooks.customerio import CustomerIOHook

        lists = dict(before or {})
        errors: dict[str, Exception] = {}
        try:
            hook = CustomerIOHook(customerio_conn_id=self._conn_id)
            if not hook.has_api_key:
                if before is None:
                    log.info("Events have no campaign_name: connection %r has no App API key", self._conn_id)
                return lists
            settings = hook.settings
            settings = settings._replace(timeout=min(settings.timeout, _TIMEOUT))
            name = f"Customer.io (connection {self._conn_id!r})"
            with CustomerIOClient(**settings._asdict(), name=name, retries=Retries(attempts=1)) as client:
                for field in NAME_LISTS:
                    try:
                        lists[field] = read_list(client, field)
                    except CustomerIOToSegmentError as error:
                        errors[field] = error
        except CustomerIOToSegmentError as error:  # a field of the connection is wrong, for example
            self._warn(f"No campaign_name: {error}")
        if errors:
            self._warn(names_warning(errors))
        return lists

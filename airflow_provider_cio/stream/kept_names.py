"""Names of campaigns for a stream: from the App API, if the connection has a key for it, and renewed now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from airflow_provider_cio.customerio.client import CustomerIOClient
from airflow_provider_cio.customerio.names import NAME_LISTS, Lists, name_in, parent_of, read_list, unreadable
from airflow_provider_cio.events.occurrence import Message
from airflow_provider_cio.exceptions import CustomerIOToSegmentError
from airflow_provider_cio.http.transport import Retries
from airflow_provider_cio.stream.intake import text_for_log
from airflow_provider_cio.stream.kept import Kept, NotFoundYet

#: Seconds after which the lists are read anew, and after which they are for the sake of a campaign that is not in them.
FRESH = 900.0
FRESH_FOR_A_NEW_ONE = 60.0
#: Seconds that the first reports wait for the lists. Later ones have those that were read before.
_PATIENCE = 1.0
#: Seconds for each read of a list, if the connection allows more.
_TIMEOUT = 10.0


class KeptNames:
    """Names as far as they are known: no report fails or waits long for one.

    It has a thread of its own, so that an App API that hangs holds up no look-up of a connection.

    :param warn: gets one text on all lists that can't be read.
    """

    def __init__(self, customerio_conn_id: str, warn: Callable[[str], None]) -> None:
        self._conn_id = customerio_conn_id
        self._warn = warn
        executor = ThreadPoolExecutor(1, thread_name_prefix="stream-names")
        self._kept = Kept(self._look_up, executor, lambda error: warn(text_for_log(error)), fresh=FRESH)

    async def ready(self) -> None:
        """Wait for the first lists, but not for long."""
        if self._kept.value is None:
            with suppress(TimeoutError, NotFoundYet):
                await asyncio.wait_for(self._kept.get(), _PATIENCE)
        else:
            self._kept.begin_if_older_than(FRESH)

    def of(self, message: Message) -> str | None:
        """Return the name of the message's parent, if it is in the lists."""
        field = parent_of(message)
        lists = self._kept.value
        if field is None or lists is None or field not in lists:
            return None
        name = name_in(lists[field], message, field)
        if name is None:
            self._kept.begin_if_older_than(FRESH_FOR_A_NEW_ONE)
        return name

    def _look_up(self, before: Lists | None) -> Lists:
        """Read all lists. One that can't be read now stays as it was."""
        from airflow_provider_cio.hooks.customerio import CustomerIOHook

        lists = dict(before or {})
        errors: dict[str, Exception] = {}
        try:
            settings = CustomerIOHook(customerio_conn_id=self._conn_id).settings
            settings = settings._replace(timeout=min(settings.timeout, _TIMEOUT))
            called = f"Customer.io (connection {self._conn_id!r})"
            with CustomerIOClient(**settings._asdict(), name=called, retries=Retries(attempts=1)) as client:
                for field in NAME_LISTS:
                    try:
                        lists[field] = read_list(client, field)
                    except CustomerIOToSegmentError as error:
                        errors[field] = error
        except CustomerIOToSegmentError as error:  # no key, say
            self._warn(f"No campaign_name: {error}")
        if errors:
            self._warn(unreadable(errors))
        return lists

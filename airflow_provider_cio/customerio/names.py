"""Names of the parents of messages: campaigns, newsletters, broadcasts and transactional messages.

Reports and rows have only the parent's id. The App API has a list of names for each kind of parent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING

from airflow_provider_cio.customerio.client import NEWSLETTERS, CustomerIOClient, ScopeError
from airflow_provider_cio.events.occurrence import Message, Piece
from airflow_provider_cio.exceptions import ConfigurationError, UnexpectedDataError

if TYPE_CHECKING:
    from airflow_provider_cio.customerio.reader import Reader

#: For each field of a message with a parent's id: path of the list of names, and key of the list in the answer.
NAME_LISTS = {
    "campaign_id": ("/v1/campaigns", "campaigns"),
    "newsletter_id": (NEWSLETTERS, "newsletters"),
    "broadcast_id": ("/v1/broadcasts", "broadcasts"),
    "transactional_message_id": ("/v1/transactional", "messages"),
}
#: Most pieces that wait for a list of names, so that memory stays bounded. Then the reading waits too.
_MAX_HELD = 16
#: Seconds that a run waits at its end for lists that no event needed: those that are in order have then been counted.
_PATIENCE_AT_END = 1.0

#: For each field of `NAME_LISTS`, the names by the parents' ids.
NamesByField = dict[str, dict[str, str]]


def parent_of(message: Message) -> tuple[str, str] | None:
    """Return the field of `NAME_LISTS` that has the parent's id, and the id as in the list; None if there is no parent.

    There is no loop, because each message calls it.
    """
    if (parent := message.campaign_id) is not None:
        return "campaign_id", str(parent)
    if (parent := message.newsletter_id) is not None:
        return "newsletter_id", str(parent)
    if (parent := message.broadcast_id) is not None:
        return "broadcast_id", str(parent)
    if (parent := message.transactional_message_id) is not None:
        return "transactional_message_id", str(parent)
    return None


def read_list(client: CustomerIOClient, field: str) -> dict[str, str]:
    """Read the names of all parents of one kind, by their ids. Raise as `CustomerIOClient.names` does."""
    return client.names(*NAME_LISTS[field])


def names_warning(errors: Mapping[str, Exception]) -> str:
    """Return one text about all lists that can't be read.

    :param errors: by the field of `NAME_LISTS`.
    """
    scopes = [error for error in errors.values() if isinstance(error, ScopeError)]
    texts = [str(error) for error in errors.values() if error not in scopes]
    if scopes:
        paths = ", ".join(f"{error.path} (answer {error.status})" for error in scopes)
        texts.insert(0, f"the key of {scopes[0].client_name} may not read {paths}. Give it these scopes.")
    return f"No campaign_name for events with a {', '.join(errors)}: {' '.join(dict.fromkeys(texts))}"


class Names:
    """Names for a run. Each list is asked for once, before the first page, which needs little of the rate limit.

    A list that the key may not read only causes a warning, at the end. A list that is out of reach fails the run,
    because a retry can help, and names can't be added to events later. Neither matters if no event needs the list.

    :param warn: called with one text about all lists that can't be read.
    """

    def __init__(self, reader: Reader, warn: Callable[[str], None]) -> None:
        self._reader = reader
        self._warn = warn
        self._asked: dict[str, Future[dict[str, str]]] = {}
        self._lists: NamesByField = {}
        self._errors: dict[str, Exception] = {}

    def of(self, message: Message) -> str | None:
        """Return the name of the message's parent; None if there is no parent, or if it is not in the list any more.

        :raises TryAgainLaterError: the list is out of reach.
        """
        parent = parent_of(message)
        if parent is None:
            return None
        field, parent_id = parent
        names = self._lists.get(field)
        return (self._read(field) if names is None else names).get(parent_id)

    def ahead_of(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Yield the same pieces, after all lists have come. The reading goes on meanwhile."""
        self._ask()
        held: deque[Piece] = deque()
        for piece in pieces:
            held.append(piece)
            while held and (len(held) > _MAX_HELD or all(answer.done() for answer in self._asked.values())):
                yield held.popleft()
        yield from held
        wait(self._asked.values(), _PATIENCE_AT_END)

    def warn_of_missing(self) -> None:
        """Warn once of all lists that could not be read. Call it when all occurrences have their names."""
        if self._errors:
            self._warn(names_warning(self._errors))

    def _ask(self) -> None:
        if not self._asked:
            self._asked = {field: self._reader.submit(read_list, self._reader.client, field) for field in NAME_LISTS}

    def _read(self, field: str) -> dict[str, str]:
        """Wait for a list. It is empty if the key may not read it."""
        self._ask()
        try:
            self._lists[field] = self._asked[field].result()
        except (ConfigurationError, UnexpectedDataError) as error:
            self._lists[field], self._errors[field] = {}, error
        return self._lists[field]

"""Names of what a delivery was sent by: campaign, newsletter, broadcast or transactional message."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from airflow_provider_cio.customerio.client import NAME_LISTS, parent_of
from airflow_provider_cio.customerio.reader import Reader
from airflow_provider_cio.events.occurrence import Message, Piece
from airflow_provider_cio.exceptions import ConfigurationError, UnexpectedDataError

#: Pieces that wait for a list of names; then reading waits, too.
_MOST_HELD = 16


class Names:
    """Reads each list at most once, beside the pages of deliveries, when the first occurrence needs it.

    A parent without a name (it was deleted) has none here. A list that the key may not read costs a warning; one that
    is away for the moment fails the run, since a retry can cure that, and names can't be added to events later.
    """

    def __init__(self, reader: Reader, warn: Callable[[str], None]) -> None:
        self._reader = reader
        self._warn = warn
        self._asked: dict[str, Future[dict[str, str]]] = {}
        self._lists: dict[str, dict[str, str]] = {}

    def of(self, delivery: Message) -> str | None:
        """:raises TryAgainLaterError: its list can't be read now."""
        kind = parent_of(delivery)
        if kind is None:
            return None
        names = self._lists.get(kind)
        if names is None:
            names = self._lists[kind] = self._answer(kind)
        return names.get(str(getattr(delivery, kind)))

    def ahead_of(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The same pieces, each once the lists that it needs are there; meanwhile the reading goes on."""
        held: deque[Piece] = deque()
        for piece in pieces:
            if len(self._asked) < len(NAME_LISTS):
                self._ask_for(piece)
            held.append(piece)
            while held and (len(held) > _MOST_HELD or all(answer.done() for answer in self._asked.values())):
                yield held.popleft()
        yield from held

    def _ask_for(self, piece: Piece) -> None:
        for occurrence in piece.occurrences:
            kind = parent_of(occurrence.message)
            if kind and kind not in self._asked:
                self._ask(kind)

    def _ask(self, kind: str) -> Future[dict[str, str]]:
        self._asked[kind] = self._reader.pool.submit(self._reader.client.names, *NAME_LISTS[kind])
        return self._asked[kind]

    def _answer(self, kind: str) -> dict[str, str]:
        try:
            return (self._asked.get(kind) or self._ask(kind)).result()
        except (ConfigurationError, UnexpectedDataError) as error:
            self._warn(f"No campaign_name for events with a {kind}: {error}")
            return {}

"""One page of any list."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Hidden = Callable[[int], bool]


def cut(listed: Sequence[int], place: int, limit: int, hidden: Hidden | None) -> tuple[Sequence[int], int | None]:
    """Return up to `limit` entries from a place on, without hidden ones, and the place of the next or None."""
    if hidden is None:
        stop = place + limit
        return listed[place:stop], stop if stop < len(listed) else None
    found: list[int] = []
    for at in range(place, len(listed)):
        if hidden(listed[at]):
            continue
        if len(found) == limit:
            return found, at
        found.append(listed[at])
    return found, None


def back(place: int, rows: int, limit: int) -> int:
    """Return the start of a further page of a chain, after this many rows came in at the head since the page before.

    At most all rows but one of the page before come again, so that every chain ends.
    """
    return max(0, place - min(rows, limit - 1))

"""Parents of deliveries, and the lists in which the App API names them (reference/customerio.md 4)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

Kind = Literal["campaign", "newsletter", "broadcast", "transactional"]
IdForm = Literal["mixed", "int", "string"]

#: The field of a delivery that holds the id of its parent, by kind.
FIELDS: dict[Kind, str] = {
    "campaign": "campaign_id",
    "newsletter": "newsletter_id",
    "broadcast": "broadcast_id",
    "transactional": "transactional_message_id",
}


class Parent(NamedTuple):
    kind: Kind
    id: int


#: The actions (of a newsletter: the contents) of each parent, with their channels.
Parents = dict[Parent, dict[int, str]]
#: The name of each parent that does not have the usual one; None: deleted.
Names = Mapping[tuple[Kind, int], str | None]

# One of each kind was deleted: deliveries still have its id, the lists don't.
DELETED: frozenset[tuple[Kind, int]] = frozenset(
    {("campaign", 11), ("newsletter", 501), ("broadcast", 301), ("transactional", 2)}
)
_NAMES: dict[Kind, tuple[str, ...]] = {
    "campaign": ("Welcome series", "Grüße & Küsse", "カート放棄", 'Say "hi" <b>/</b>', "Возвращение", "Win back"),
    "newsletter": ("News", "Новости", "今週のおすすめ", "Sommer-Aktion 🌞", "النشرة", "Tab\there"),
    "broadcast": ("Outage notice", "Wartung für alle", "緊急のお知らせ"),
    "transactional": ("Receipt", "Passwort zurücksetzen", "Чек", "パスワード"),
}
# Long before the deliveries, and without any: ids that meet those of other kinds, and pages of newsletters.
_OLD: dict[Kind, range] = {
    "campaign": range(1, 8),
    "newsletter": range(1, 61),
    "broadcast": range(1, 5),
    "transactional": range(10, 16),
}
_LONG_AGO = 1_700_000_000


def parent_of(delivery: Any) -> Parent | None:
    """Return the parent of a delivery: the first of the four ids that is there."""
    for kind, field in FIELDS.items():
        value = getattr(delivery, field)
        if value is not None:
            return Parent(kind, value)
    return None


def name_of(parent: Parent, names: Names) -> str | None:
    """Return the name of a parent; None if it was deleted."""
    if parent in names:
        return names[parent]
    if parent in DELETED:
        return None
    usual = _NAMES[parent.kind]
    return f"{usual[parent.id % len(usual)]} {parent.id}"


def old_parents() -> Parents:
    """Return parents without a delivery in the time that a history covers."""
    return {Parent(kind, id): {} for kind, ids in _OLD.items() for id in ids}


def collect(parents: Parents, things: Iterable[Any]) -> None:
    """Add the parents of deliveries or of plans."""
    for thing in things:
        parent = parent_of(thing)
        if parent is not None:
            actions = parents.setdefault(parent, {})
            action = thing.content_id if parent.kind == "newsletter" else thing.action_id
            if action is not None:
                actions[action] = thing.channel


def listed(
    parents: Parents, kind: Kind, names: Names, form: IdForm, sent_at: Mapping[int, int]
) -> list[dict[str, Any]]:
    """Return the items of one list, by ascending id."""
    found = []
    for parent in sorted(parent for parent in parents if parent.kind == kind):
        name = name_of(parent, names)
        if name is not None:
            found.append(_item(parent, name, parents[parent], form, sent_at))
    return found


def _item(
    parent: Parent, name: str, actions: dict[int, str], form: IdForm, sent_at: Mapping[int, int]
) -> dict[str, Any]:
    """Return an item of a list. Ids are integers in the specification and now and then strings in life."""
    as_string = form == "string" or (form == "mixed" and zlib.crc32(f"{parent.kind} {parent.id}".encode()) % 3 == 0)
    created = _LONG_AGO + parent.id
    item: dict[str, Any] = {"id": str(parent.id) if as_string else parent.id, "name": name}
    if parent.kind == "transactional":
        return item | {"description": "", "created_at": created, "updated_at": created}
    item |= {"created": created, "updated": created, "tags": None}
    if parent.kind == "newsletter":
        return item | {"content_ids": list(actions), "sent_at": sent_at.get(parent.id, created)}
    listed_actions = [{"id": str(id) if as_string else id, "type": channel} for id, channel in actions.items()]
    kind = "triggered_broadcast" if parent.kind == "broadcast" else "behavioral"
    return item | {"type": kind, "state": "running", "active": True, "actions": listed_actions}

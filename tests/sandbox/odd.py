"""Rows that follow reference/customerio.md 1.4, 1.5, 2.2 and 8 loosely or not at all.

Every kind has a name: `delivery.subject:number` is a delivery whose subject is a number, `activity:null` a row of
activities that is null. A row that the reference allows, or that was seen in life, is harmless: a null where null is
allowed, a nullable field that is missing, an id that is a string here and a number there, an unknown field or metric.
Its events have to be sent, as `changes` says. Everything else is odd. An odd row is legible if its person, its metrics
and their times can still be read: a client may refuse it, or send it as `changes` says. Other odd rows must be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import msgspec

from tests.sandbox.delivery import Truth, identity
from tests.sandbox.dice import again, strikes
from tests.sandbox.parents import FIELDS

Row = Mapping[str, Any]
Of = Literal["delivery", "activity"]

_encode = msgspec.json.Encoder().encode
_SHARE, _KIND = 11, 12  # salts
_MISSING = object()
_NULLABLE = ("null", "missing")

_VALUES: dict[str, Any] = {
    "null": None,
    "number": 7,
    "float": 1.5,
    "huge": 10**20,
    "text": "x",
    "bool": True,
    "list": ["x"],
    "object": {"x": 1},
    "missing": _MISSING,
}
# Wrong values for a field of each type, besides null and missing.
_WRONG: dict[str, tuple[str, ...]] = {
    "string": ("number", "bool", "list", "object"),
    "int": ("text", "float", "huge", "bool", "list", "object"),
    "bool": ("text", "number", "list"),
    "object": ("text", "number", "bool", "list"),
}
_PARENTS = (*FIELDS.values(), "action_id", "parent_action_id", "content_id")
_UNTOLD = {"link": None, "ip": None, "user_agent": None, "prefetched": False, "machine": False}
# A metric with a value that is no time is added under one of these names, so that no true one is lost.
_SPARE_METRICS = ("spammed", "unsubscribed", "converted", "bounced")


def _always(row: Row) -> bool:
    return True


def _never(row: Row) -> bool:
    return False


def _same(truth: Truth) -> Truth:
    return truth


class Oddity(NamedTuple):
    """One kind of odd row: how to make it of a good row, and what follows."""

    name: str
    make: Callable[[dict[str, Any]], bytes]
    #: The reference allows it.
    harmless: bool
    #: Person, metrics and times can be read from the odd row that is made of this good row.
    legible: Callable[[Row], bool] = _always
    #: This good row can become one.
    applies: Callable[[Row], bool] = _always
    #: Changes an occurrence of the good row to the one that the odd row tells.
    changes: Callable[[Truth], Truth] = _same


class Odd(NamedTuple):
    """Fate of one odd row."""

    kind: Oddity
    legible: bool


class Expected(NamedTuple):
    """Expected events of a history with odd rows."""

    #: From good and harmless rows: to be sent.
    must: list[Truth]
    #: From odd rows that are legible: to be sent just so, or refused.
    may: list[Truth]
    #: From the other odd rows: to be refused.
    never: list[Truth]


def odd_rows(
    of: Of,
    dice: Sequence[int],
    row_of: Callable[[int], dict[str, Any]],
    share: float,
    names: Iterable[str] | None,
    given: Mapping[int, str],
) -> dict[int, Odd]:
    """Return which rows are odd, by position: a share of them, and those that were named.

    :param row_of: the good row at a position.
    :param names: of the kinds to choose from; None is all.
    :param given: position -> name of a kind.
    """
    kinds = [kind for kind in (ODDITIES.values() if names is None else map(_kind, names)) if _of(kind) == of]
    found: dict[int, Odd] = {}
    for at, name in given.items():
        kind, row = _kind(name), row_of(at)
        if not kind.applies(row):
            raise ValueError(f"no row of the kind {name} can be made of {row}")
        found[at] = Odd(kind, kind.harmless or kind.legible(row))
    for at, number in enumerate(dice) if share and kinds else ():
        if at in found or not strikes(number, share, _SHARE):
            continue
        row = row_of(at)
        first = again(number, _KIND)
        for turn in range(len(kinds)):
            kind = kinds[(first + turn) % len(kinds)]
            if kind.applies(row):
                found[at] = Odd(kind, kind.harmless or kind.legible(row))
                break
    return found


def sort_truth(truth: Iterable[Truth], deliveries: Mapping[str, Odd], activities: Mapping[str, Odd]) -> Expected:
    """Return which events must, may and can't be sent; the odd rows are given by their ids."""
    expected = Expected([], [], [])
    for one in truth:
        odds = [deliveries.get(one.delivery_id), activities.get(one.activity_id or "")]
        for odd in odds:
            if odd is not None:
                one = odd.kind.changes(one)
        if all(odd is None or odd.kind.harmless for odd in odds):
            expected.must.append(one)
        elif all(odd is None or odd.legible for odd in odds):
            expected.may.append(one)
        else:
            expected.never.append(one)
    return expected


def _kind(name: str) -> Oddity:
    if name not in ODDITIES:
        raise ValueError(f"{name} is no kind of oddity")
    return ODDITIES[name]


def _of(kind: Oddity) -> str:
    return "delivery" if kind.name.startswith("delivery") else "activity"


# ------------------------------------------------------------------------------ how rows are spoilt


def _is_first_by_a_person(row: Row) -> bool:
    """Return whether the first open is by a person, so that nothing is lost without `human_opened`."""
    metrics = row.get("metrics") or {}
    return "opened" in metrics and metrics.get("human_opened") == metrics["opened"]


def _with(path: str, value: Any) -> Callable[[dict[str, Any]], bytes]:
    """Return a function that changes or removes one field of a row, or of an object in it, and encodes the row."""
    outer, _, inner = path.rpartition(".")

    def make(row: dict[str, Any]) -> bytes:
        changed = dict(row)
        holder = changed
        if outer:
            holder = changed[outer] = dict(changed.get(outer) or {})
        if value is _MISSING:
            holder.pop(inner, None)
        else:
            holder[inner] = value
        return _encode(changed)

    return make


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _known(row: Row) -> Row:
    known = row.get("customer_identifiers")
    return known if isinstance(known, Mapping) else {}


def _has_id(row: Row) -> bool:
    """Return whether the identifiers name the person, so that the rest of the row does not matter."""
    return _text(_known(row).get("id")) != ""


def _has_customer_id(row: Row) -> bool:
    """Return whether `customer_id` names the person, so that the identifiers do not matter."""
    return _has_id(row) and _text(row.get("customer_id")) == _text(_known(row)["id"])


def _set(path: str) -> Callable[[Row], bool]:
    """Return whether the field is there and not null."""
    return lambda row: _at(row, path) is not None


def _at(row: Row, path: str) -> Any:
    outer, _, inner = path.rpartition(".")
    return ((row.get(outer) or {}) if outer else row).get(inner)


def _both(*conditions: Callable[[Row], bool]) -> Callable[[Row], bool]:
    return lambda row: all(condition(row) for condition in conditions)


def _without(**fields: Any) -> Callable[[Truth], Truth]:
    return lambda truth: replace(truth, **fields)


def _without_parent(field: str) -> Callable[[Truth], Truth]:
    def changes(truth: Truth) -> Truth:
        if truth.parent_kind is None or FIELDS[truth.parent_kind] != field:
            return truth
        return replace(truth, parent_kind=None, parent_id=None, campaign_name=None)

    return changes


# -------------------------------------------------------------------------------------- the kinds


def _wrong(of: Of, path: str, type: str, **more: Any) -> Iterator[Oddity]:
    """Make the kinds that give a field values of the wrong types."""
    for name in _WRONG[type]:
        yield Oddity(f"{of}.{path}:{name}", _with(path, _VALUES[name]), False, **more)


def _gone(of: Of, path: str, harmless: Collection[str] = (), **more: Any) -> Iterator[Oddity]:
    """Make the kinds in which a field is null or missing; `harmless` says which of the two is allowed."""
    more.setdefault("applies", _set(path))
    for name in ("null", "missing"):
        yield Oddity(f"{of}.{path}:{name}", _with(path, _VALUES[name]), name in harmless, **more)


def _whole_rows(of: Of) -> Iterator[Oddity]:
    for name, body in (("null", b"null"), ("number", b"7"), ("text", b'"x"'), ("list", b"[]"), ("empty", b"{}")):
        yield Oddity(f"{of}:{name}", lambda row, body=body: body, False, _never)  # type: ignore[misc]
    yield Oddity(f"{of}.unknown_field", _with("brand_new", {"since": 2027}), True)


def _people(of: Of, *, decisive: bool) -> Iterator[Oddity]:
    """Make the kinds that damage the identity. Activities have it too, but there the delivery's identity decides."""
    by_id, by_customer_id = (_has_id, _has_customer_id) if decisive else (_always, _always)
    wrong: list[Oddity] = []
    identifiers = "customer_identifiers"
    wrong += _wrong(of, "customer_id", "string")
    wrong += _gone(of, "customer_id", _NULLABLE, applies=_both(_set("customer_id"), by_id))
    wrong += _wrong(of, identifiers, "object")
    wrong += _gone(of, identifiers, _NULLABLE, applies=_both(_set(identifiers), by_customer_id))
    for key, safe in (("id", by_customer_id), ("email", by_id), ("cio_id", by_id)):
        path = f"{identifiers}.{key}"
        # A reader may take a number for a `cio_id`, and then not know that `customer_id` is the same: only with an id.
        wrong += _wrong(of, path, "string", applies=_both(_set(identifiers), by_id if key == "cio_id" else _always))
        allowed = ("missing",) if key == "cio_id" else _NULLABLE
        wrong += _gone(of, path, allowed, applies=_both(_set(path), safe))
    numbers = {f"{of}.customer_id:number", f"{of}.{identifiers}.id:number"}  # those are ids; see below
    for kind in wrong:
        if kind.name not in numbers:
            yield kind._replace(legible=_still_known(kind)) if decisive else kind


def _still_known(kind: Oddity) -> Callable[[Row], bool]:
    """Return whether a reader that skips values of the wrong type finds the same person."""
    return lambda row: identity(msgspec.json.decode(kind.make(dict(row)))) == identity(row)


def _numbers_as_ids(of: Of) -> Iterator[Oddity]:
    """Turn ids that consist of digits into numbers (reference/customerio.md 1.4)."""

    def numeric(row: Row) -> bool:
        id = _text(_known(row).get("id"))
        return _has_customer_id(row) and id.isascii() and id.isdecimal() and not id.startswith("0")

    def as_number(path: str) -> Callable[[dict[str, Any]], bytes]:
        return lambda row: _with(path, int(row["customer_identifiers"]["id"]))(row)

    for path in ("customer_id", "customer_identifiers.id"):
        as_text = _both(numeric, lambda row, path=path: isinstance(_at(row, path), str))  # type: ignore[misc]
        yield Oddity(f"{of}.{path}:as_number", as_number(path), True, applies=as_text)


def _deliveries() -> Iterator[Oddity]:
    of: Of = "delivery"
    yield from _whole_rows(of)
    yield from _wrong(of, "id", "string", legible=_never)
    yield from _gone(of, "id", legible=_never)
    for field, type in (("type", "string"), ("deduplicate_id", "string"), ("created", "int"), ("forgotten", "bool")):
        yield from _wrong(of, field, type)
        yield from _gone(of, field)
    yield from _wrong(of, "msg_template_id", "int")
    yield from _gone(of, "msg_template_id", ("missing",))  # the documentation calls it by another name
    for field in ("failure_message", "trigger_event_id"):
        yield from _wrong(of, field, "string")
        yield from _gone(of, field, _NULLABLE)
    yield from _wrong(of, "subject", "string", changes=_without(subject=None))
    yield from _gone(of, "subject", _NULLABLE, changes=_without(subject=None))
    # Only where nobody needs the address to know who it was.
    known = _both(_set("recipient"), _has_id)
    yield from _wrong(of, "recipient", "string", applies=known, changes=_without(recipient=None))
    yield from _gone(of, "recipient", applies=known, changes=_without(recipient=None))
    for field in _PARENTS:
        unset: Callable[[Row], bool] = lambda row, field=field: row.get(field) is None  # type: ignore[misc]  # noqa: E731
        yield from _wrong(of, field, "int", changes=_without_parent(field))
        yield Oddity(f"{of}.{field}:missing", _with(field, _MISSING), True, applies=unset)
        yield Oddity(
            f"{of}.{field}:as_text",
            lambda row, field=field: _with(field, str(row[field]))(row),  # type: ignore[misc]
            True,
            applies=_set(field),
        )
    yield from _people(of, decisive=True)
    yield from _numbers_as_ids(of)
    yield from _wrong(of, "metrics", "object", legible=_never)
    yield from _gone(of, "metrics", legible=_never, applies=_always)
    yield from _odd_metrics()


def _odd_metrics() -> Iterator[Oddity]:
    """Make the kinds that add undocumented metrics, and values that are no times, to the true ones."""
    sealed = lambda row: _with("metrics.sealed", row["created"])(row)  # noqa: E731
    yield Oddity("delivery.metrics.unknown_metric", sealed, True, applies=_set("metrics"))
    human = _with("metrics.human_opened", 3)
    yield Oddity("delivery.metrics.human_opened:count", human, True, applies=_is_first_by_a_person)

    def spare(row: Row) -> str:
        return next((one for one in _SPARE_METRICS if one not in row["metrics"]), "")

    for name, value in (
        ("null", None),
        ("text", "yesterday"),
        ("list", [1_793_491_200]),
        ("bool", True),
        ("negative", -1),
        ("zero", 0),
        ("milliseconds", 1_793_491_200_000),
        ("huge", 10**20),
    ):
        yield Oddity(
            f"delivery.metrics.value:{name}",
            lambda row, value=value: _with(f"metrics.{spare(row)}", value)(row),  # type: ignore[misc]
            False,
            applies=lambda row: bool(row.get("metrics")) and spare(row) != "",
        )


def _activities() -> Iterator[Oddity]:
    of: Of = "activity"
    yield from _whole_rows(of)
    for field, type in (("id", "string"), ("timestamp", "int")):
        yield from _wrong(of, field, type, legible=_never)
        yield from _gone(of, field, legible=_never)
    yield from _wrong(of, "type", "string")
    yield from _gone(of, "type")
    twice = _set("data.delivery_id")
    yield from _wrong(of, "delivery_id", "string", legible=twice, applies=_set("delivery_id"))
    yield from _gone(of, "delivery_id", legible=twice)
    yield from _people(of, decisive=False)
    for field in ("delivery_type", "name", "url"):
        yield from _wrong(of, field, "string")
    yield from _gone(of, "delivery_type", ("missing",))
    untold = _without(**_UNTOLD)
    named = _set("delivery_id")
    yield from _wrong(of, "data", "object", legible=named, changes=untold)
    yield from _gone(of, "data", legible=named, changes=untold)
    for key, field in (("ip_address", "ip"), ("user_agent", "user_agent"), ("href", "link"), ("link", "link")):
        path = f"data.{key}"
        yield from _wrong(of, path, "string", applies=_set(path), changes=_without(**{field: None}))
        yield from _gone(of, path, () if field == "link" else ("missing",), changes=_without(**{field: None}))
    for key in ("prefetched", "machine", "proxied"):
        yield from _wrong(of, f"data.{key}", "bool", applies=_set(f"data.{key}"))
    yield from _wrong(of, "data.delivery_id", "string", legible=named, applies=twice)
    yield Oddity("activity.data.unknown_key", _with("data.brand_new", [1]), True, applies=_set("data"))


#: Every kind, by its name.
ODDITIES: dict[str, Oddity] = {kind.name: kind for kind in (*_deliveries(), *_activities())}

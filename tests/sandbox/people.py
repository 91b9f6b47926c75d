"""People of a made-up workspace, and the ways in which a delivery shows its recipient."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import msgspec

from tests.sandbox.delivery import Identifiers, Person

_NAMES = (
    ("ana", "example.com"),
    ("björn.ek", "example.se"),
    ("m.o'neill", "example.ie"),
    ("yuki+news", "example.jp"),
    ("иван", "пример.example"),
    ("LI.WEI", "Example.CN"),
    ("zoë_k", "sub.mail.example.org"),
    ("o", "e.example"),
)


def make_people(rng: Random, count: int) -> list[Person]:
    """Make people with id and e-mail, one of them, neither; old e-mail-only ones; "" where others have null."""
    return [_person(rng, number) for number in range(count)]


def _person(rng: Random, number: int) -> Person:
    name, domain = _NAMES[number % len(_NAMES)]
    email = f"{name}{number}@{domain}"
    cio_id = f"d9c1{number:08x}"
    phone = f"+4917{number:08d}"
    kind = rng.random()
    missing = "" if rng.random() < 0.3 else None
    if kind < 0.12:
        return Person(cio_id, missing, email, email, phone)
    if kind < 0.18:
        return Person(cio_id, missing, email, email, phone, cio_id_as_customer_id=True)
    if kind < 0.22:
        return Person(cio_id, missing, missing, email, phone)
    if kind < 0.30:
        return Person(cio_id, _id(rng, number, email), missing, email, phone)
    if kind < 0.34:
        return Person(cio_id, str(100_000 + number), email, email, phone, id_as_number=True)
    return Person(cio_id, _id(rng, number, email), email, email, phone)


def _id(rng: Random, number: int, email: str) -> str:
    """Draw an id of one of the kinds that customers use: numbers, codes, UUIDs, addresses, any script."""
    kind = rng.random()
    if kind < 0.4:
        return str(40_000 + number)
    if kind < 0.7:
        return f"user_{number:06d}"
    if kind < 0.85:
        return f"{rng.getrandbits(32):08x}-0000-4000-8000-{number:012x}"
    if kind < 0.95:
        return f"ÜID/{number}"
    return email


def show(rng: Random, person: Person) -> tuple[str | int | None, Identifiers | None, str | None, str | None]:
    """Return (customer_id, customer_identifiers) as a delivery shows them, and the person in them: (userId, e-mail).

    The ways are those of reference/customerio.md 8: usually both, sometimes the identifiers without the
    id or no identifiers at all, a `customer_id` that is a number, another id, or the `cio_id`.
    """
    known = Identifiers(person.id, person.email, person.cio_id)
    email = person.email or None
    if not person.id:
        customer_id = person.cio_id if person.cio_id_as_customer_id else (None if rng.random() < 0.5 else "")
        if not person.cio_id_as_customer_id and rng.random() < 0.1:
            return None, None, None, None  # suppressed since: anonymous
        return customer_id, known, None, email
    way = rng.random()
    if person.id_as_number:
        return int(person.id), known if way < 0.5 else None, person.id, None
    if way < 0.88:
        return person.id, known, person.id, None
    if way < 0.91:
        return person.id, None, person.id, None
    if way < 0.93:
        return (
            person.id,
            Identifiers("" if way < 0.92 else None, person.email, person.cio_id),
            person.id,
            None,
        )
    if way < 0.95:
        return "0200000001", known, person.id, None
    if way < 0.97:
        return None, known, person.id, None
    if way < 0.985:  # the person was deleted: only the cio_id is left
        return None, Identifiers(None, None, person.cio_id), None, None
    return None, None, None, None


class Shown(NamedTuple):
    """Identity as a delivery shows it, and the true person: a userId, else perhaps an e-mail address."""

    customer_id: str | int | None
    identifiers: Identifiers | None
    user_id: str | None
    email: str | None


def show_rarely(rng: Random, person: Person) -> Shown:
    """Draw one of the rarer ways of reference/customerio.md 8; each shows enough to know the person.

    The truth comes from the person: someone without an id is no user, whatever stands in `customer_id`.
    """
    cio_id, email = person.cio_id, person.email
    missing = (None, "", msgspec.UNSET)[int(rng.random() * 3)]
    prefixed = f"cio_{cio_id}"
    ways: list[tuple[str | int | None, Identifiers | None]]
    if not person.id:
        ways = [
            (cio_id, Identifiers(missing, email, cio_id)),
            (prefixed, Identifiers(missing, email, cio_id)),
            ("", Identifiers(missing, email, cio_id)),
            (None, Identifiers(missing, email, cio_id)),
        ]
        way = ways[int(rng.random() * len(ways))]
        return Shown(way[0], way[1], None, email or None)
    number = int(person.id) if person.id.isascii() and person.id.isdecimal() and person.id[0] != "0" else None
    ways = [
        # The id among the identifiers decides, whatever stands in `customer_id`.
        (cio_id, Identifiers(person.id, email, cio_id)),
        (prefixed, Identifiers(person.id, email, cio_id)),
        ("0200000001", Identifiers(person.id, email, cio_id)),
        ("", Identifiers(person.id, email, cio_id)),
        (None, Identifiers(person.id, msgspec.UNSET, msgspec.UNSET)),
        (200_000_001, Identifiers(person.id, missing, cio_id)),
        (number or person.id, Identifiers(number or person.id, email, cio_id)),
        (None, Identifiers(number or person.id, email, cio_id)),
        # Without it, or without any identifiers, `customer_id` is the id.
        (person.id, Identifiers(missing, email, cio_id)),
        (number or person.id, Identifiers(missing, missing, cio_id)),
        (number or person.id, None),
    ]
    way = ways[int(rng.random() * len(ways))]
    return Shown(way[0], way[1], person.id, None)

"""Make events to load with the mapper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from airflow_provider_cio.customerio.rows import Delivery
from airflow_provider_cio.events.catalog import CATALOG
from airflow_provider_cio.events.event import Event
from airflow_provider_cio.events.mapping import Mapper
from airflow_provider_cio.events.occurrence import Identifiers, Occurrence, engagement_in
from tests.unit.support import NOVEMBER

NAMES = ("Email Delivered", "Email Opened", "Email Link Clicked")


def event(number: int = 0, name: str = "Email Opened", data: dict[str, Any] | None = None, **fields: Any) -> Event:
    """Return an event of the delivery with this number.

    :param data: of an activity; `fields` are the delivery's.
    """
    person = Identifiers(id=f"person {number % 50}", email=f"p{number % 50}@example.com")
    known: dict[str, Any] = {"type": "email", "created": NOVEMBER, "metrics": {}, "customer_identifiers": person}
    delivery = Delivery(**{"id": f"delivery {number}"} | known | fields)
    engagement = None if data is None else engagement_in(data)
    collection = CATALOG[name]
    return Mapper("test").event(Occurrence(delivery, collection, NOVEMBER + number, engagement))


def events(first: int, last: int) -> Iterator[Event]:
    """Yield an event for each of these deliveries, without `last`, of each of the three `NAMES` in turn."""
    return (event(number, NAMES[number % 3], subject=f"Subject {number}") for number in range(first, last))

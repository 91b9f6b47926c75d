"""Rows of Customer.io's App API, typed: deliveries, activities, reporting webhooks.

Only documented fields are here, of the kinds that reference and live answers show. Times are Unix seconds.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from airflow_provider_cio.events.occurrence import Id, Identifiers, Message


class Delivery(Message, kw_only=True, gc=False):
    """One message to one person, an item of `/v1/messages`.

    `metrics` has one time per recorded metric, and may hold keys and kinds of values that nobody documented.
    """

    created: int
    metrics: dict[str, Any]


class Activity(msgspec.Struct, gc=False):
    """One open or click, an item of `/v1/activities`. `data` is documented only in part."""

    id: Annotated[str, msgspec.Meta(min_length=1)]
    timestamp: int
    delivery_id: str | None = None
    delivery_type: str | None = None
    customer_id: Id = None
    customer_identifiers: Identifiers | None = None
    data: dict[str, Any] | None = None
    #: Such as "opened_email". Whoever reads activities has asked for their type, so no row is refused for it.
    type: Any = None


class ReportingWebhook(msgspec.Struct, kw_only=True):
    """One subscription of `/v1/reporting_webhooks`. Its signing key is not part of any answer.

    :param id: None before it is created.
    :param full_resolution: each open and click is reported, not the first ones only.
    """

    name: str
    endpoint: str
    events: list[str]
    id: int | None = None
    disabled: bool = False
    full_resolution: bool = False
    with_content: bool = False

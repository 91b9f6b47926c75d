"""All pairs of type and metric that Customer.io documents, copied from its two specifications, not from the package."""

from __future__ import annotations

#: Bodies of reporting webhooks: `object_type` -> metrics with a schema (reference/stream.md B.3).
BODIES = {
    "customer": "subscribed unsubscribed cio_subscription_preferences_changed",
    "email": (
        "drafted attempted sent delivered opened clicked converted unsubscribed bounced dropped spammed failed "
        "undeliverable"
    ),
    "push": "drafted attempted sent delivered opened clicked converted bounced dropped failed undeliverable",
    "sms": "drafted attempted sent delivered clicked converted bounced failed undeliverable replied",
    "whatsapp": (
        "drafted attempted sent delivered opened clicked converted bounced dropped failed undeliverable replied"
    ),
    "slack": "drafted attempted sent clicked failed undeliverable",
    "webhook": "drafted attempted sent clicked failed undeliverable",
    "in_app": "drafted attempted sent opened clicked converted failed undeliverable",
}

#: Events that a reporting webhook can be subscribed to, in the App API (reference/customerio.md 5).
SUBSCRIBABLE = {
    "customer": "subscribed unsubscribed subscription_preferences_changed",
    "email": (
        "drafted attempted sent delivered opened clicked converted bounced dropped deferred spammed failed "
        "unsubscribed undeliverable"
    ),
    "in_app": "drafted attempted sent opened clicked converted failed undeliverable",
    "push": "drafted attempted sent delivered opened clicked converted bounced dropped failed undeliverable",
    "slack": "drafted attempted sent clicked converted failed",
    "sms": "drafted attempted sent delivered clicked converted bounced dropped failed undeliverable replied",
    "whatsapp": (
        "drafted attempted sent delivered opened clicked converted bounced dropped failed undeliverable replied"
    ),
    "webhook": "drafted attempted sent clicked converted failed undeliverable",
}


def pairs(listed: dict[str, str]) -> set[tuple[str, str]]:
    """Return each type with each of its metrics, as one list names them."""
    return {(kind, metric) for kind, metrics in listed.items() for metric in metrics.split()}

"""What Customer.io calls things: channels, metrics, and the name of each collection."""

from __future__ import annotations

# The values of the `type` filter and field (reference/customerio.md 1.1), SMS being `twilio`.
CHANNELS = ("email", "push", "twilio", "in_app", "whatsapp", "slack", "webhook")
TYPES = (*CHANNELS, "live_notification")

# The values of the `metric` filter (reference/customerio.md 1.1); `created` comes from the 2022 wording.
METRIC_FILTERS = (
    "attempted",
    "sent",
    "delivered",
    "opened",
    "clicked",
    "converted",
    "bounced",
    "spammed",
    "unsubscribed",
    "dropped",
    "failed",
    "undeliverable",
    "created",
)

_LABELS = {
    "drafted": "Drafted",
    "attempted": "Attempted",
    "sent": "Sent",
    "delivered": "Delivered",
    "opened": "Opened",
    "clicked": "Link Clicked",
    "converted": "Converted",
    "unsubscribed": "Unsubscribed",
    "bounced": "Bounced",
    "dropped": "Suppressed",
    "spammed": "Marked as Spam",
    "failed": "Failed",
    "deferred": "Deferred",
    "undeliverable": "Undeliverable",
}
_TABLE = {
    "email": ("Email", tuple(_LABELS)),
    "push": (
        "Push",
        (
            "drafted",
            "attempted",
            "sent",
            "delivered",
            "opened",
            "clicked",
            "converted",
            "bounced",
            "dropped",
            "failed",
        ),
    ),
    "twilio": (
        "SMS",
        ("drafted", "attempted", "sent", "delivered", "clicked", "converted", "bounced", "failed"),
    ),
    "in_app": ("In-App", ("drafted", "attempted", "sent", "opened", "clicked", "converted", "failed")),
    "webhook": ("Webhook", ("drafted", "attempted", "sent", "clicked", "converted", "failed")),
    "slack": ("Slack", ("drafted", "attempted", "sent", "clicked", "failed")),
}

# (channel, metric) -> collection: the whole table of reference/customerio.md 6.3. What is not in it
# (all of WhatsApp, an undeliverable push) has no published name, hence no collection and no truth.
COLLECTIONS = {
    (channel, metric): f"{prefix} {_LABELS[metric]}"
    for channel, (prefix, metrics) in _TABLE.items()
    for metric in metrics
} | {("in_app", "clicked"): "In-App Clicked"}

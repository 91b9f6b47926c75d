"""Customer.io's names of channels and metrics, and the name of each collection."""

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
    "replied": "Replied",
}
_TABLE = {
    "email": ("Email", tuple(metric for metric in _LABELS if metric not in {"undeliverable", "replied"})),
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

# What the reporting webhooks tell of (reference/customerio.md 5) and that table does not name.
_BY_ANALOGY = {
    "email": ("Email", ("undeliverable",)),
    "push": ("Push", ("undeliverable",)),
    "twilio": ("SMS", ("dropped", "undeliverable", "replied")),
    "in_app": ("In-App", ("undeliverable",)),
    "webhook": ("Webhook", ("undeliverable",)),
    "slack": ("Slack", ("converted", "undeliverable")),
    "whatsapp": (
        "WhatsApp",
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
            "undeliverable",
            "replied",
        ),
    ),
}


def _named(table: dict[str, tuple[str, tuple[str, ...]]]) -> dict[tuple[str, str], str]:
    return {
        (channel, metric): f"{prefix} {_LABELS[metric]}"
        for channel, (prefix, metrics) in table.items()
        for metric in metrics
    }


# (channel, metric) -> collection: the whole table of reference/customerio.md 6.3, and the names without one.
# What neither has (a deferred push, a topic unsubscribed) has no collection and no truth.
ANALOGUES = _named(_BY_ANALOGY)
COLLECTIONS = _named(_TABLE) | {("in_app", "clicked"): "In-App Clicked"} | ANALOGUES

# The values of the `type` field and filter of activities: every metric of every channel, by the pattern of
# reference/customerio.md 2.2, and the few others that this sandbox has rows of.
_METRICS = (*_LABELS, "topic_unsubscribed", "secondary:delivered")
OTHER_ACTIVITIES = ("attribute_change", "event", "page")
ACTIVITY_TYPES = frozenset(f"{metric}_{channel}" for metric in _METRICS for channel in CHANNELS) | set(OTHER_ACTIVITIES)

# Of these, the ones that the API's own list of values has (the `listActivities` operation of its published
# specification). It has no WhatsApp open, click or draft, no Slack click, no converted push and no reply.
_DOCUMENTED = {
    "email": "attempted bounced clicked converted deferred delivered drafted dropped failed opened sent spammed"
    " topic_unsubscribed undeliverable unsubscribed",
    "in_app": "attempted clicked converted deferred drafted failed opened sent undeliverable",
    "push": "attempted bounced clicked deferred delivered drafted dropped failed opened sent undeliverable",
    "slack": "attempted converted deferred drafted failed sent undeliverable",
    "twilio": "attempted bounced clicked converted deferred delivered drafted dropped failed sent undeliverable",
    "webhook": "attempted clicked converted deferred drafted dropped failed sent undeliverable",
    "whatsapp": "attempted bounced converted deferred delivered failed sent undeliverable",
}
DOCUMENTED_ACTIVITY_TYPES = frozenset(
    f"{metric}_{channel}" for channel, metrics in _DOCUMENTED.items() for metric in metrics.split()
) | set(OTHER_ACTIVITIES)

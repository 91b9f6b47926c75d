from __future__ import annotations

import pytest

from airflow_provider_cio.events.catalog import CATALOG, DEFAULT_COLLECTIONS, resolve_collections
from airflow_provider_cio.exceptions import ConfigurationError
from tests.sandbox.catalog import ANALOGUES, COLLECTIONS
from tests.unit.events.specification import BODIES, SUBSCRIBABLE, pairs


def test_the_e_mail_column_is_complete() -> None:
    """The e-mail column of the table is that of reference/customerio.md 6.3, with `undeliverable` by analogy."""
    assert {one.metric: one.name for one in CATALOG.values() if one.channel == "email"} == {
        "drafted": "Email Drafted",
        "attempted": "Email Attempted",
        "sent": "Email Sent",
        "delivered": "Email Delivered",
        "opened": "Email Opened",
        "clicked": "Email Link Clicked",
        "converted": "Email Converted",
        "unsubscribed": "Email Unsubscribed",
        "bounced": "Email Bounced",
        "dropped": "Email Suppressed",
        "spammed": "Email Marked as Spam",
        "failed": "Email Failed",
        "deferred": "Email Deferred",
        "undeliverable": "Email Undeliverable",
    }


def test_table_matches_the_reference() -> None:
    """Compare with the sandbox, which was written from the reference apart from the package."""
    of_messages = {(one.channel, one.metric): one.name for one in CATALOG.values() if not one.is_of_person}
    assert of_messages == COLLECTIONS
    assert {(one.channel, one.metric) for one in CATALOG.values() if one.by_analogy} == set(ANALOGUES)
    assert CATALOG["Email Undeliverable"].by_analogy
    assert not CATALOG["Email Opened"].by_analogy
    assert len({one.table for one in CATALOG.values()}) == len(CATALOG)


def test_every_documented_pair_has_a_collection() -> None:
    documented = {(kind, metric.removeprefix("cio_")) for kind, metric in pairs(BODIES) | pairs(SUBSCRIBABLE)}
    assert {one.report_name for one in CATALOG.values()} == {f"{kind}_{metric}" for kind, metric in documented}


def test_only_streams_have_collections_about_people() -> None:
    people = ["Subscribed", "Unsubscribed", "Subscription Preferences Changed"]
    assert [one.name for one in resolve_collections("subscription", in_stream=True)] == people
    assert len(resolve_collections("all", in_stream=True)) == len(CATALOG)
    assert {one.name for one in resolve_collections("all")} == CATALOG.keys() - set(people)
    for names in ("subscription", ["Email Opened", "Unsubscribed"]):
        with pytest.raises(ConfigurationError, match="only streams have '(subscription|Unsubscribed)'"):
            resolve_collections(names)


def test_tables_are_named_like_segments() -> None:
    tables = [CATALOG[name].table for name in DEFAULT_COLLECTIONS]
    assert tables == [
        "email_delivered",
        "email_opened",
        "email_link_clicked",
        "email_unsubscribed",
        "email_bounced",
        "email_marked_as_spam",
    ]


def test_names_resolve_once_in_order() -> None:
    found = resolve_collections(["Email Opened", "Email Sent", "Email Opened"])
    assert [collection.metric for collection in found] == ["opened", "sent"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Email Clicked"], "unknown collection 'Email Clicked'. Did you mean .*'Email Link Clicked'"),
        (["email opened"], "Did you mean 'Email Opened'"),
        (["xyz"], "Groups are: email, push, sms, in_app, whatsapp, slack, webhook, subscription, all"),
        ("Email Open", "Did you mean 'Email Opened'"),
        (None, "must be a list of names, got nothing"),
        ({"email": 1}, "must be a list of names, got an object"),
        ([3], "must hold names, got a number"),
        ([], "got an empty list"),
    ],
)
def test_wrong_name_gets_a_suggestion(names: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve_collections(names)

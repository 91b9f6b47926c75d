from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_cio.customerio.webhooks import wanted_webhook
from airflow_provider_cio.exceptions import ConfigurationError, TryAgainLaterError
from airflow_provider_cio.hooks.customerio import CustomerIOHook
from airflow_provider_cio.pipeline import ticker
from tests.sandbox import Fault, Sandbox, Settings
from tests.sandbox.reports import CUSTOMER_EVENTS, EVENTS, Subscription

KEY = "signing-key-0123456789"
URL = "https://airflow.example.com/cio/main"
NAMES = ["Email Opened", "Email Link Clicked"]
SUBSCRIBED = ["email_opened", "email_clicked"]
HookWith = Callable[..., CustomerIOHook]


@pytest.fixture(params=["partial", "whole"])
def sandbox(world: Sandbox, request: pytest.FixtureRequest) -> Sandbox:
    world.reset()
    world.settings = Settings(webhook_put=request.param, null_when_empty=request.param == "whole")
    return world


@pytest.fixture
def hook_with(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> HookWith:
    def hook_with(key: str | None = None) -> CustomerIOHook:
        fields = {"conn_type": "customerio", "password": sandbox.settings.app_key, "host": sandbox.url}
        extra = {"requests_per_second": 1000, "webhook_signing_secret": key}
        monkeypatch.setenv("AIRFLOW_CONN_ITS_ID", json.dumps(fields | {"extra": extra}))
        return CustomerIOHook(customerio_conn_id="its_id")

    return hook_with


def there(sandbox: Sandbox, **fields: Any) -> Subscription:
    """Return a webhook made by another user, the only one."""
    known: dict[str, Any] = {"name": "stream", "id": 7, "endpoint": URL, "events": list(SUBSCRIBED)}
    made = Subscription(**(known | fields))
    sandbox.customerio.webhooks.by_id = {made.id: made}
    return made


def stored(sandbox: Sandbox) -> Subscription:
    [webhook] = sandbox.customerio.webhooks.by_id.values()
    return webhook


def test_webhook_is_made_then_enabled(
    sandbox: Sandbox, hook_with: HookWith, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    created = hook_with().ensure_reporting_webhook("stream", URL, NAMES)
    webhook = stored(sandbox)
    assert created == {
        "id": webhook.id,
        "enabled": False,
        "changed": ["it is new, and disabled"],
        "next_step": "copy the signing key (Customer.io: Reporting Webhooks > the menu of the webhook > Copy signing "
        "key) into webhook_signing_secret of connection 'its_id', then call this again: it enables the webhook",
    }
    log = caplog.text + capsys.readouterr().out  # which of them depends on the version of Airflow
    assert f"Reporting webhook 'stream': {created['next_step']}" in log
    assert (webhook.name, webhook.endpoint, webhook.events) == ("stream", URL, SUBSCRIBED)
    assert (webhook.disabled, webhook.full_resolution, webhook.with_content) == (True, False, False)

    again = hook_with().ensure_reporting_webhook("stream", URL, NAMES)
    assert again == created | {"changed": []}
    assert stored(sandbox) == webhook

    enabled = hook_with(KEY).ensure_reporting_webhook("stream", URL, NAMES)
    assert enabled == {"id": webhook.id, "enabled": True, "changed": ["it was disabled"], "next_step": ""}
    assert stored(sandbox).disabled is False
    assert hook_with(KEY).ensure_reporting_webhook("stream", URL, NAMES)["changed"] == []
    assert hook_with(KEY).reporting_webhook_drift("stream", URL, NAMES) == []
    assert [one.method for one in sandbox.customerio.requests].count("POST") == 1
    assert KEY not in caplog.text + capsys.readouterr().out


def test_new_webhook_is_disabled(sandbox: Sandbox, hook_with: HookWith) -> None:
    """The webhook is disabled, because its key may be that of another webhook."""
    made = hook_with(KEY).ensure_reporting_webhook("stream", URL, NAMES)
    assert made["enabled"] is False
    assert stored(sandbox).disabled is True
    assert made["next_step"].startswith("call this again if the connection has its signing key, else copy the signing")
    assert hook_with(KEY).ensure_reporting_webhook("stream", URL, NAMES)["enabled"] is True


DRIFTS: list[tuple[dict[str, Any], str]] = [
    ({"name": "renamed"}, "its name differs"),
    ({"endpoint": "https://old.example.com/s3cret"}, "its endpoint is another URL"),
    ({"events": ["email_opened"]}, "its events lack email_clicked"),
    ({"events": [*SUBSCRIBED, "email_sent", "sms_sent"]}, "its events also include email_sent, sms_sent"),
    ({"full_resolution": True}, "its full_resolution is true"),
]


@pytest.mark.parametrize(("fields", "said"), DRIFTS)
def test_drift_is_corrected(sandbox: Sandbox, hook_with: HookWith, fields: dict[str, Any], said: str) -> None:
    there(sandbox, with_content=True, **fields)
    before = len(sandbox.customerio.requests)
    assert hook_with(KEY).reporting_webhook_drift("stream", URL, NAMES) == [said]
    assert [one.method for one in sandbox.customerio.requests[before:]] == ["GET"]
    assert hook_with(KEY).ensure_reporting_webhook("stream", URL, NAMES)["changed"] == [said]
    webhook = stored(sandbox)
    assert (webhook.id, webhook.name, webhook.endpoint, webhook.events) == (7, "stream", URL, SUBSCRIBED)
    assert (webhook.disabled, webhook.full_resolution) == (False, False)
    assert webhook.with_content is True, "whether reports have content is not our business"
    assert hook_with(KEY).reporting_webhook_drift("stream", URL, NAMES) == []


def test_waiting_is_logged(
    sandbox: Sandbox,
    hook_with: HookWith,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO)
    there(sandbox)
    monkeypatch.setattr(ticker, "PROGRESS_EVERY", 0.1)
    hook = hook_with(KEY)
    for call in (hook.reporting_webhook_drift, hook.ensure_reporting_webhook):
        sandbox.faults.add(Fault(side="customerio", kind="503", retry_after=1))
        call("stream", URL, NAMES)
        log = caplog.text + capsys.readouterr().out  # which of them depends on the version of Airflow
        assert "Customer.io (connection 'its_id') answered 503" in log
        caplog.clear()
        sandbox.reset()
        there(sandbox)


def test_name_of_an_event_is_shown_as_one_line(sandbox: Sandbox, hook_with: HookWith) -> None:
    there(sandbox, events=[*SUBSCRIBED, "line\none jane@example.com", "x" * 9000])
    [said] = hook_with(KEY).reporting_webhook_drift("stream", URL, NAMES)
    assert said.startswith("its events also include line one ")
    assert "jane" not in said
    assert len(said) < 300


def test_order_of_events_is_no_drift(sandbox: Sandbox, hook_with: HookWith) -> None:
    there(sandbox, events=SUBSCRIBED[::-1])
    assert hook_with(KEY).reporting_webhook_drift("stream", URL, NAMES) == []


def test_drift_names_missing_key(sandbox: Sandbox, hook_with: HookWith) -> None:
    no_key = "connection 'its_id' has no webhook_signing_secret"
    assert hook_with().reporting_webhook_drift("stream", URL, NAMES) == ["there is no such webhook", no_key]
    there(sandbox, disabled=True, full_resolution=True)
    drift = hook_with().reporting_webhook_drift("stream", URL, NAMES, full_resolution=True)
    assert drift == ["it is disabled", no_key]


def test_enabled_webhook_stays_enabled(sandbox: Sandbox, hook_with: HookWith) -> None:
    there(sandbox, events=["email_opened"])
    made = hook_with().ensure_reporting_webhook("stream", URL, NAMES)
    assert made["enabled"] is True
    assert made["next_step"].endswith("it is enabled, and without the key every report has to be sent again later")
    assert stored(sandbox).disabled is False


def test_others_are_left_alone(sandbox: Sandbox, hook_with: HookWith) -> None:
    other = there(sandbox, name="other", endpoint="https://example.com/other")
    hook_with().ensure_reporting_webhook("stream", URL, NAMES)
    assert sandbox.customerio.webhooks.by_id[7] == other
    assert len(sandbox.customerio.webhooks.by_id) == 2


def test_two_of_one_name_are_an_error(sandbox: Sandbox, hook_with: HookWith) -> None:
    one = there(sandbox, name="other")
    two = Subscription(name="stream", id=8, endpoint="https://example.com/two")
    sandbox.customerio.webhooks.by_id[8] = two
    for call in (hook_with().ensure_reporting_webhook, hook_with().reporting_webhook_drift):
        with pytest.raises(ConfigurationError, match=r"2 reporting webhooks have the name 'stream' .*\(ids 7, 8\)"):
            call("stream", URL, NAMES)
    assert sandbox.customerio.webhooks.by_id == {7: one, 8: two}


def test_every_collection_can_be_chosen() -> None:
    webhook = wanted_webhook("all", URL, "all", False)
    assert set(webhook.events) == set(EVENTS)
    assert len(webhook.events) == len(EVENTS)


def test_people_who_subscribe() -> None:
    assert wanted_webhook("people", URL, "subscription", False).events == list(CUSTOMER_EVENTS)
    assert wanted_webhook("people", URL, ["Unsubscribed"], False).events == ["customer_unsubscribed"]


@pytest.mark.parametrize(
    "url", ["", "airflow.example.com/cio/main", "ftp://example.com", "https://", "https://a b", "http://[::1"]
)
def test_malformed_url(url: str) -> None:
    with pytest.raises(ConfigurationError, match="url must be the stream's URL for Customer.io, such as"):
        wanted_webhook("stream", url, NAMES, False)


def test_other_wrong_parameters() -> None:
    with pytest.raises(ConfigurationError, match="name must be text"):
        wanted_webhook(" ", URL, NAMES, False)
    with pytest.raises(ConfigurationError, match="Did you mean 'Email Opened'"):
        wanted_webhook("stream", URL, ["Email Openend"], False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scopes": ("messages",)}, "may not read /v1/reporting_webhooks: give it that scope"),
        ({"key_region": "eu"}, "Set region to 'eu'"),
    ],
)
def test_rejected_key(sandbox: Sandbox, hook_with: HookWith, changes: dict[str, Any], words: str) -> None:
    sandbox.settings = Settings(**changes)
    with pytest.raises(ConfigurationError) as caught:
        hook_with().ensure_reporting_webhook("stream", URL, NAMES)
    assert words in str(caught.value)


def test_refusal_is_quoted(sandbox: Sandbox, hook_with: HookWith) -> None:
    sandbox.faults.add(Fault(side="customerio", kind="400", at=1))
    with pytest.raises(ConfigurationError, match="rejected the reporting webhook: 400"):
        hook_with().ensure_reporting_webhook("stream", URL, NAMES)


def test_lost_answer_is_not_repeated(sandbox: Sandbox, hook_with: HookWith) -> None:
    sandbox.faults.add(Fault(side="customerio", kind="reset_after", at=1))
    with pytest.raises(TryAgainLaterError):
        hook_with().ensure_reporting_webhook("stream", URL, NAMES)
    assert hook_with().ensure_reporting_webhook("stream", URL, NAMES)["changed"] == []
    assert stored(sandbox).disabled is True


def test_a_correction_is_repeated(sandbox: Sandbox, hook_with: HookWith) -> None:
    there(sandbox, events=["email_opened"])
    sandbox.faults.add(Fault(side="customerio", kind="503", at=1), Fault(side="customerio", kind="reset", at=2))
    hook_with(KEY).ensure_reporting_webhook("stream", URL, NAMES)
    assert stored(sandbox).events == SUBSCRIBED

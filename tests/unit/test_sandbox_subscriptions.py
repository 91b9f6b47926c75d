"""The sandbox's reporting webhook endpoints, asked with bare requests (reference/stream.md B.1)."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from tests.sandbox import Sandbox, Settings
from tests.sandbox.settings import APP_KEY

WHOLE = {"name": "mine", "endpoint": "https://example.com/hook", "events": ["email_failed", "webhook_failed"]}
FIELDS = {"name", "id", "type", "endpoint", "disabled", "full_resolution", "with_content", "events"}


def ask(sandbox: Sandbox, method: str, path: str = "", body: Any = None, key: str = APP_KEY) -> requests.Response:
    return requests.request(
        method,
        f"{sandbox.url}/v1/reporting_webhooks{path}",
        json=body,
        headers={"Authorization": f"Bearer {key}"},
        timeout=10,
    )


def test_create_list_change_delete(sandbox: Sandbox) -> None:
    assert ask(sandbox, "GET").json() == {"reporting_webhooks": []}
    created = ask(sandbox, "POST", body=WHOLE)
    assert created.status_code == 200
    webhook = created.json()
    assert set(webhook) == FIELDS
    assert webhook.items() >= (WHOLE | {"disabled": False, "full_resolution": False}).items()
    at = f"/{webhook['id']}"
    assert ask(sandbox, "GET").json() == {"reporting_webhooks": [webhook]}
    assert ask(sandbox, "GET", at).json() == webhook
    assert ask(sandbox, "PUT", at, {"disabled": True}).json() == webhook | {"disabled": True}
    assert ask(sandbox, "GET", at).json()["disabled"] is True
    assert (ask(sandbox, "DELETE", at).status_code, ask(sandbox, "GET", at).status_code) == (200, 404)
    assert ask(sandbox, "POST", body=WHOLE).json()["id"] > webhook["id"]


def test_put_may_need_every_field(sandbox: Sandbox) -> None:
    webhook = ask(sandbox, "POST", body=WHOLE | {"disabled": True, "with_content": True}).json()
    at = f"/{webhook['id']}"
    sandbox.settings = Settings(webhook_put="whole")
    assert ask(sandbox, "PUT", at, {"disabled": False}).status_code == 400
    changed = ask(sandbox, "PUT", at, WHOLE | {"full_resolution": True}).json()
    assert (changed["disabled"], changed["with_content"], changed["full_resolution"]) == (False, False, True)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"events": []}, "events"),
        ({"events": ["email_seen"]}, "events"),
        ({"events": ["slack_undeliverable"]}, "events"),
        ({"endpoint": "example.com"}, "endpoint"),
        ({"name": ""}, "name"),
        ({"disabled": "yes"}, "disabled"),
    ],
)
def test_malformed_body_is_refused(sandbox: Sandbox, changes: dict[str, Any], named: str) -> None:
    refused = ask(sandbox, "POST", body=WHOLE | changes)
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["source"] == {"pointer": f"/{named}"}
    assert sandbox.customerio.webhooks.by_id == {}


@pytest.mark.parametrize("name", WHOLE)
def test_missing_field_is_named(sandbox: Sandbox, name: str) -> None:
    refused = ask(sandbox, "POST", body={key: value for key, value in WHOLE.items() if key != name})
    assert (refused.status_code, refused.json()["errors"][0]["source"]) == (400, {"pointer": f"/{name}"})


def test_key_scope_and_limit(sandbox: Sandbox) -> None:
    assert ask(sandbox, "POST", body=WHOLE, key="another").status_code == 401
    sandbox.settings = Settings(scopes=("messages",))
    assert ask(sandbox, "GET").status_code == 403
    sandbox.settings = Settings(requests_per_second=1, null_when_empty=True)
    assert ask(sandbox, "GET").json() == {"reporting_webhooks": None}
    assert {ask(sandbox, "GET").status_code for _ in range(3)} >= {429}
    assert len(sandbox.customerio.requests) == 6
    assert sandbox.segment.requests == []

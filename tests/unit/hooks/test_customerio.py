from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cio.customerio.client import CustomerIOClient
from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.hooks.customerio import CustomerIOHook, CustomerIOSettings
from tests.airflow_names import AIRFLOW, MASKS, redact
from tests.sandbox import Fault, Sandbox, Settings
from tests.sandbox.settings import APP_KEY

KEY = "app-key-0123456789abcdef"
Put = Callable[..., CustomerIOHook]


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Put:
    """Define the connection `its_id` as a user would, and give its hook."""

    def put(uri: str | None = None, **fields: Any) -> CustomerIOHook:
        value = uri or json.dumps({"conn_type": "customerio", "password": KEY, **fields})
        monkeypatch.setenv("AIRFLOW_CONN_ITS_ID", value)
        return CustomerIOHook(customerio_conn_id="its_id")

    return put


def error_of(hook: CustomerIOHook) -> str:
    with pytest.raises(ConfigurationError) as caught:
        _ = hook.settings
    assert KEY not in str(caught.value)
    assert str(caught.value).startswith("Connection 'its_id': ")
    return str(caught.value).removeprefix("Connection 'its_id': ")


# --- reading the connection -------------------------------------------------------------------------------------


def test_the_defaults(put: Put) -> None:
    assert put().settings == CustomerIOSettings(
        api_key=KEY, base_url="https://api.customer.io", region="us", requests_per_second=8, timeout=60
    )


def test_every_field_in_json(put: Put) -> None:
    hook = put(host="http://127.0.0.1", port=8431, extra={"region": "eu", "requests_per_second": 2.5, "timeout": 5})
    assert hook.settings == CustomerIOSettings(
        api_key=KEY, base_url="http://127.0.0.1:8431", region="eu", requests_per_second=2.5, timeout=5
    )


@pytest.mark.parametrize(
    ("uri", "base_url"),
    [
        (f"customerio://:{KEY}@", "https://api.customer.io"),
        (f"customerio://:{KEY}@?region=us&timeout=5", "https://api.customer.io"),
        (f"customerio://:{KEY}@/?region=eu&timeout=5&requests_per_second=2.5", "https://api-eu.customer.io"),
        (f"customerio://:{KEY}@?__extra__={quote(json.dumps({'region': 'eu'}))}", "https://api-eu.customer.io"),
        (f"customerio://:{KEY}@127.0.0.1:8431", "https://127.0.0.1:8431"),
        (f"customerio://http://:{KEY}@127.0.0.1:8431", "http://127.0.0.1:8431"),
        (f"customerio://:{KEY}@{quote('http://127.0.0.1:8431/base', safe='')}", "http://127.0.0.1:8431/base"),
    ],
)
def test_the_uri_form(put: Put, uri: str, base_url: str) -> None:
    hook = put(uri)
    assert hook.settings.base_url == base_url
    assert hook.settings.api_key == KEY
    assert hook.settings.timeout == (5 if "timeout" in uri else 60)
    assert hook.settings.requests_per_second == (2.5 if "requests_per_second" in uri else 8)


def test_connection_is_read_once(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_ITS_ID", raising=False)
    hook = CustomerIOHook(customerio_conn_id="its_id")  # there is none yet
    put(extra={"timeout": 5})
    assert hook.settings.timeout == 5
    put(extra={"timeout": 6})
    assert hook.settings.timeout == 5
    with hook.get_conn() as client, hook.get_conn() as another:
        assert another is not client


def test_the_default_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CUSTOMERIO_DEFAULT", f"customerio://:{KEY}@")
    assert CustomerIOHook().settings.api_key == KEY


def test_key_is_stripped_and_masked(put: Put) -> None:
    """Airflow masks the password as it stands in the connection, blanks included."""
    padded = " padded-key-0123456789\n"
    assert put(password=padded).settings.api_key == padded.strip()
    assert padded.strip() not in str(redact(f"Bearer {padded.strip()}"))


CURRENT, PREVIOUS = "signing-key-current-01234", "signing-key-previous-5678"


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, ()),
        ({"webhook_signing_secret": "", "webhook_signing_secret_previous": None}, ()),
        ({"webhook_signing_secret": f" {CURRENT}\n"}, (CURRENT,)),
        ({"webhook_signing_secret": CURRENT, "webhook_signing_secret_previous": PREVIOUS}, (CURRENT, PREVIOUS)),
        ({"webhook_signing_secret_previous": PREVIOUS}, (PREVIOUS,)),
    ],
)
def test_signing_keys(put: Put, extra: dict[str, Any], expected: tuple[str, ...]) -> None:
    hook = put(extra=extra)
    assert hook.webhook_signing_secrets == expected
    assert hook.settings == put().settings
    for secret in expected:
        assert secret not in str(redact(f"a line with {secret} in it"))
        assert secret not in repr(hook) + repr(hook.settings)


@pytest.mark.parametrize("name", ["webhook_signing_secret", "webhook_signing_secret_previous"])
@pytest.mark.parametrize("value", ["two words", "ключ", ["S3CRET"], 7])
def test_malformed_signing_key(put: Put, name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _ = put(extra={name: value}).webhook_signing_secrets
    assert str(caught.value).startswith(f"Connection 'its_id': {name} must be ")
    assert not any(part in str(caught.value) for part in ("two words", "ключ", "S3CRET"))


def test_signing_key_is_hidden_in_ui(put: Put) -> None:
    """Airflow hides an extra field there if its name has one of the masker's words in it."""
    fields = ("webhook_signing_secret", "webhook_signing_secret_previous")
    assert set(redact(dict.fromkeys(fields, CURRENT)).values()) == {"***"}  # type: ignore[union-attr]


@pytest.mark.parametrize("value", ["10", " 10 ", "1e1", 10, 10.0])
@pytest.mark.parametrize("name", ["timeout", "requests_per_second"])
def test_a_number_may_be_text(put: Put, name: str, value: Any) -> None:
    assert getattr(put(extra={name: value}).settings, name) == 10


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("name", ["region", "timeout", "requests_per_second"])
def test_empty_field_has_its_default(put: Put, name: str, value: Any) -> None:
    assert put(extra={name: value}).settings == put().settings


@pytest.mark.parametrize("region", ["eu", "EU", " eu "])
def test_a_region_in_another_case(put: Put, region: str) -> None:
    settings = put(extra={"region": region}).settings
    assert (settings.region, settings.base_url) == ("eu", "https://api-eu.customer.io")


@pytest.mark.parametrize(
    ("host", "port", "base_url"),
    [
        ("api.example.com", None, "https://api.example.com"),
        (" api.example.com/ ", None, "https://api.example.com"),
        ("http://127.0.0.1:8431", None, "http://127.0.0.1:8431"),
        ("http://127.0.0.1", 8431, "http://127.0.0.1:8431"),
        ("http://127.0.0.1:8431", 9, "http://127.0.0.1:8431"),
        ("https://example.com/customerio/", 8443, "https://example.com:8443/customerio"),
        ("example.com/a/b", None, "https://example.com/a/b"),
        ("[::1]", 8431, "https://[::1]:8431"),
        ("", 8431, "https://api.customer.io"),
        ("  ", None, "https://api.customer.io"),
    ],
)
def test_the_base_url(put: Put, host: str, port: int | None, base_url: str) -> None:
    assert put(host=host, port=port).settings.base_url == base_url


# --- what is wrong with it --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "shown"),
    [
        ("mars", "'mars'"),
        (" US-east ", "'US-east'"),
        ("0123456789abcdef0", "a string"),  # perhaps a key
        ("  ", "empty text"),
        (1, "a number"),
        (True, "true or false"),
        (False, "true or false"),
        (["eu"], "a list"),
        ({"name": "eu"}, "an object"),
    ],
)
def test_a_wrong_region(put: Put, region: Any, shown: str) -> None:
    assert error_of(put(extra={"region": region})) == f"region must be 'us' or 'eu', got {shown}."


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("fast", "a string"),
        ("10 s", "a string"),
        (" ", "empty text"),
        ("nan", "a number outside that range"),
        ("inf", "a number outside that range"),
        ("-1", "a number outside that range"),
        ("0", "a number outside that range"),
        (0, "a number outside that range"),
        (-0.0, "a number outside that range"),
        (-1, "a number outside that range"),
        (float("nan"), "a number outside that range"),
        (float("inf"), "a number outside that range"),
        (10**400, "a number outside that range"),
        (1e-12, "a number outside that range"),
        (1e10, "a number outside that range"),
        (True, "true or false"),
        ([10], "a list"),
        ({"seconds": 10}, "an object"),
    ],
)
@pytest.mark.parametrize(
    ("name", "wanted"),
    [("timeout", "seconds from 0.1 to 600"), ("requests_per_second", "requests from 0.1 to 1000")],
)
def test_a_wrong_number(put: Put, name: str, wanted: str, value: Any, kind: str) -> None:
    assert error_of(put(extra={name: value})) == f"{name} must be a number of {wanted}, got {kind}."


def test_the_ends_of_the_ranges(put: Put) -> None:
    for extra in ({"timeout": 0.1, "requests_per_second": 0.1}, {"timeout": 600, "requests_per_second": 1000}):
        hook = put(extra=extra)
        assert hook.settings._asdict().items() >= extra.items()
        hook.get_conn().close()


MASKED = "holds a mask such as '***', which Airflow shows in place of the value. Enter the value again."


@pytest.mark.parametrize("mask", [*MASKS, " *** \n"])
def test_a_mask_is_no_key(put: Put, mask: str) -> None:
    assert error_of(put(password=mask)) == f"password {MASKED}"


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ["webhook_signing_secret", "webhook_signing_secret_previous"])
def test_a_mask_is_no_signing_key(put: Put, name: str, mask: str) -> None:
    keys = {"webhook_signing_secret": "now-0123456789", "webhook_signing_secret_previous": "before-0123456789"}
    hook = put(extra=keys | {name: mask})
    with pytest.raises(ConfigurationError) as caught:
        _ = hook.webhook_signing_secrets
    assert str(caught.value) == f"Connection 'its_id': {name} {MASKED}"


@pytest.mark.parametrize("name", ["region", "requests_per_second", "timeout"])
def test_a_mask_is_no_setting(put: Put, name: str) -> None:
    assert error_of(put(extra={name: "***"})) == f"{name} {MASKED}"


def test_a_mask_is_no_host(put: Put) -> None:
    assert error_of(put(host="***")) == f"host {MASKED}"


def test_airflow_shows_these_masks() -> None:
    assert redact("secret-to-mask-0123456789", name="password") in MASKS


@pytest.mark.parametrize("password", [None, "", "  ", "\n"])
def test_no_key(put: Put, password: str | None) -> None:
    assert error_of(put(password=password)).startswith("password is empty. Put an App API key (Account settings > ")


@pytest.mark.parametrize("password", ["two words", "tab\there", "ключ", "key\x7f", "key\u00a0key", "“key”"])
def test_malformed_key(put: Put, password: str) -> None:
    error = error_of(put(password=password))
    assert error.startswith("password must be one word of plain ASCII")
    assert "App API key" in error
    assert password not in error


@pytest.mark.skipif(AIRFLOW < (3, 2), reason="Airflow 3.0 and 3.1 refuse such a connection themselves: not found")
@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        ('{"region": "eu"', "text that is not JSON"),
        ("region=eu", "text that is not JSON"),
        ('["eu"]', "a list"),
        ('"eu"', "a string"),
        ("5", "a number"),
        ("true", "true or false"),
    ],
)
def test_malformed_extra(put: Put, extra: str, kind: str) -> None:
    assert error_of(put(extra=extra)) == f"extra must be a JSON object, got {kind}."


@pytest.mark.parametrize(
    "host",
    [
        "ftp://example.com",
        "https://",
        "/v1",
        "//example.com",
        "https://example.com?x=hidden",
        "https://example.com#hidden",
        "https://somebody:hidden@example.com",
        "https://somebody@example.com",
        "https://:hidden@example.com",
        "https://[::1",
        "https://example.com:",
        "example.com:port",
        "example.com:99999",
        "https:example.com",
        "https:/example.com",
        "exa mple.com",
    ],
)
def test_malformed_host(put: Put, host: str) -> None:
    error = error_of(put(host=host, port=8431))
    assert error.startswith("host must be a base URL such as 'https://example.com")
    assert "hidden" not in error


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("S3CRET")),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["region", "timeout", "requests_per_second", "else"]), ANYTHING))
@settings(max_examples=60)
def test_any_extra_is_read_or_named(extra: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        connection = json.dumps({"conn_type": "customerio", "password": KEY, "extra": extra})
        patch.setenv("AIRFLOW_CONN_ITS_ID", connection)
        hook, said = CustomerIOHook(customerio_conn_id="its_id"), ""
        try:
            found = hook.settings
        except ConfigurationError as error:
            said = str(error)
    if said:
        assert "S3CRET" not in said or "region must be" in said
        assert any(said.startswith(f"Connection 'its_id': {name} must be") for name in extra)
    else:
        assert found.region in ("us", "eu")
        assert 0 < found.timeout < float("inf")
        assert 0 < found.requests_per_second < float("inf")


# --- the test button --------------------------------------------------------------------------------------------


def pressed(hook: CustomerIOHook, key: str = APP_KEY) -> tuple[bool, str]:
    began = time.monotonic()
    ok, message = hook.test_connection()
    assert time.monotonic() - began < 20  # somebody is looking at the form, and a retry would take longer
    assert type(ok) is bool
    assert key not in message
    return ok, message


def test_a_connection_that_works(put: Put, sandbox: Sandbox) -> None:
    assert pressed(put(host=sandbox.url, password=APP_KEY)) == (
        True,
        f"{sandbox.url} accepts the key, and the key may read messages.",
    )
    asked = sandbox.customerio.requests
    assert [one.path for one in asked] == [
        "/v1/messages",
        "/v1/activities",
        "/v1/campaigns",
        "/v1/newsletters",
        "/v1/broadcasts",
        "/v1/transactional",
    ]
    assert asked[0].params == {"type": "email", "limit": "1"}


@pytest.mark.parametrize(
    ("scopes", "sentences"),
    [
        (
            ("messages", "campaigns", "newsletters", "broadcasts", "transactional"),
            ['It may not read /v1/activities, which opens_and_clicks="every" needs.'],
        ),
        (
            ("messages", "activities", "campaigns", "transactional"),
            ["It may not read /v1/newsletters, /v1/broadcasts, which campaign_name needs."],
        ),
        (
            ("messages",),
            [
                'It may not read /v1/activities, which opens_and_clicks="every" needs.',
                "It may not read /v1/campaigns, /v1/newsletters, /v1/broadcasts, /v1/transactional, "
                "which campaign_name needs.",
            ],
        ),
    ],
)
def test_missing_scopes_are_explained(
    put: Put, sandbox: Sandbox, scopes: tuple[str, ...], sentences: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    sandbox.settings = Settings(scopes=scopes)
    ok, message = pressed(put(host=sandbox.url, password=APP_KEY))
    assert ok
    assert message == " ".join(
        [f"{sandbox.url} accepts the key, and the key may read messages.", *sentences],
    )
    assert message in "".join(capfd.readouterr()), "`airflow connections test --verbose` shows the log only"


@pytest.mark.parametrize("kind", ["html", "html200", "reset", "400", "429", "503", "timeout"])
def test_service_fails_in_mid_check(put: Put, sandbox: Sandbox, kind: Any) -> None:
    sandbox.settings = Settings(scopes=("messages",))
    sandbox.faults.add(Fault(side="customerio", kind=kind, at=3, times=9, retry_after=30, seconds=2))
    ok, message = pressed(put(host=sandbox.url, password=APP_KEY, extra={"timeout": 0.2}))
    assert ok
    for sentence in ("/v1/activities, which", "/v1/campaigns, which", "Could not check the other permissions"):
        assert sentence in message
    assert len(sandbox.customerio.requests) == 4


@pytest.mark.parametrize(
    ("changed", "key", "words"),
    [
        ({}, KEY, ["answered 401", "App API key"]),
        ({"key_region": "eu"}, APP_KEY, ["answered 401", "Set region to 'eu'"]),
        ({"scopes": ("campaigns",)}, APP_KEY, ["answered 403", "scope"]),
    ],
)
def test_rejected_key(put: Put, sandbox: Sandbox, changed: dict[str, Any], key: str, words: list[str]) -> None:
    sandbox.settings = Settings(**changed)
    ok, message = pressed(put(host=sandbox.url, password=key), key)
    assert not ok
    assert message.startswith("Customer.io (connection 'its_id') answered")
    for word in words:
        assert word in message


@pytest.mark.parametrize("kind", ["html", "html200", "truncated_json", "reset", "429", "503", "timeout"])
def test_failing_service(put: Put, sandbox: Sandbox, kind: Any) -> None:
    sandbox.faults.add(Fault(side="customerio", kind=kind, times=9, retry_after=30, seconds=2))
    ok, message = pressed(put(host=sandbox.url, password=APP_KEY, extra={"timeout": 0.2}))
    assert not ok
    assert message.startswith("Customer.io (connection 'its_id') ")
    assert len(sandbox.customerio.requests) == 1


def test_refused_connection(put: Put) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    ok, message = pressed(put(host="http://127.0.0.1", port=port))
    assert not ok
    assert "could not be reached" in message


def test_wrong_connection(put: Put) -> None:
    ok, message = pressed(put(extra={"timeout": "soon"}))
    assert not ok
    assert message == "Connection 'its_id': timeout must be a number of seconds from 0.1 to 600, got a string."


def test_missing_connection() -> None:
    ok, message = pressed(CustomerIOHook(customerio_conn_id="nowhere"))
    assert not ok
    assert message.startswith("There is no connection 'nowhere'. Add one of type customerio, or set customerio_conn_id")


def test_the_client_has_the_settings(put: Put, sandbox: Sandbox) -> None:
    with put(host=sandbox.url, password=APP_KEY, extra={"requests_per_second": 2}).get_conn() as client:
        assert isinstance(client, CustomerIOClient)
        began = time.monotonic()
        for _ in range(3):
            client.page({"type": "email", "limit": 1})
        assert time.monotonic() - began >= 1

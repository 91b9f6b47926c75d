"""Check the sandbox over https: which clients trust it, and that faults work there too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import get_args

import pytest
import requests

from tests.sandbox import Fault, History, Sandbox, Settings
from tests.sandbox.faults import Kind
from tests.unit.test_sandbox import KEY, WRITE_KEY, event, row


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(History([row(str(number)) for number in range(50)]), tls=True) as sandbox:
        yield sandbox


def ask(sandbox: Sandbox, host: str = "127.0.0.1", verify: bool | str | None = None) -> requests.Response:
    url = sandbox.url.replace("127.0.0.1", host) + "/v1/messages"
    trusted = str(sandbox.ca_file) if verify is None else verify
    return requests.get(url, headers={"Authorization": f"Bearer {KEY}"}, verify=trusted, timeout=5)


def test_trusting_clients_connect(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sandbox.url.startswith("https://127.0.0.1:")
    assert len(ask(sandbox).json()["messages"]) == 50
    assert ask(sandbox, "localhost").status_code == 200
    with pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        ask(sandbox, verify=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(sandbox.ca_file))
    body = {"batch": [event("a")]}
    answer = requests.post(sandbox.url + "/v1/batch", json=body, auth=(WRITE_KEY, ""), timeout=5)
    assert answer.json() == {"success": True}
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(sandbox.url.replace("https", "http"), timeout=5)


@pytest.mark.parametrize(
    ("hosts", "days", "reason"),
    [
        (("api.customer.io",), 2, "doesn't match|not valid for"),
        (("127.0.0.1",), -3, "certificate has expired"),
    ],
)
def test_bad_certificates(hosts: tuple[str, ...], days: int, reason: str) -> None:
    with Sandbox(tls=True, certificate_for=hosts, certificate_days=days) as sandbox:
        with pytest.raises(requests.exceptions.SSLError, match=reason):
            ask(sandbox)
        assert sandbox.customerio.requests == []


#: Faults of one short answer. tests/unit/http/test_bounds.py has those of slow and long ones.
LONG = {"200", "slow_head", "slow_body", "endless", "gzip_bomb", "empty_page"}
KINDS = [kind for kind in get_args(Kind) if kind not in LONG]


@pytest.mark.parametrize("kind", KINDS)
def test_faults_over_tls(sandbox: Sandbox, kind: Kind) -> None:
    sandbox.reset()
    sandbox.settings = Settings(latency=0.01)
    sandbox.faults.add(Fault(side="customerio", kind=kind, seconds=0.05))
    try:
        status = ask(sandbox).status_code
    except requests.exceptions.RequestException:
        status = 0
    broken = kind in {"reset", "reset_after", "truncated"}
    usual = kind in {"timeout", "truncated_json", "repeat_cursor", "html200"}
    assert status == (0 if broken else 200 if usual else 502 if kind == "html" else int(kind))
    assert ask(sandbox).status_code == 200


def test_nothing_is_left_behind() -> None:
    sandbox = Sandbox(tls=True).start()
    folder = sandbox.ca_file.parent if sandbox.ca_file else None
    assert folder is not None
    assert os.listdir(folder)
    sandbox.stop()
    assert sandbox.ca_file is None
    assert not folder.exists()
    with sandbox:
        assert ask(sandbox).status_code == 200, "and it can be started again"
    assert Sandbox().ca_file is None

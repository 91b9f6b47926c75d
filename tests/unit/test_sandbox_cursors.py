"""Check how long the sandbox's cursors hold, and for which lists."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from tests.sandbox import History, Sandbox, Settings
from tests.unit.test_sandbox import DAY, END, START, ask, chain, row

LISTS = [
    ("/v1/messages", {"type": "email", "limit": 10, "start_ts": START}),
    ("/v1/activities", {"type": "opened_email", "limit": 10}),
    ("/v1/newsletters", {"limit": 10}),
]


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with Sandbox(History.generate(seed=7, deliveries=500, start=START, end=END)) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.reset()
    running.settings = Settings(now=END + 40 * DAY)
    return running


def refused(sandbox: Sandbox, path: str, cursor: str, params: Any) -> bool:
    answer = ask(sandbox, path, **{**params, "start": cursor})
    if answer.status_code == 200:
        return False
    problem = {"detail": "bad cursor", "status": "400", "source": {"pointer": "/start"}}
    assert (answer.status_code, answer.json()) == (400, {"errors": [problem]})
    return True


@pytest.mark.parametrize(("path", "params"), LISTS)
def test_cursor_holds_by_default(sandbox: Sandbox, path: str, params: Any) -> None:
    cursor = ask(sandbox, path, **params).json()["next"]
    sandbox.settings.now = END + 140 * DAY
    assert not refused(sandbox, path, cursor, {**params, "start_ts": END + 40 * DAY - 181 * DAY})


@pytest.mark.parametrize(("path", "params"), LISTS)
def test_a_cursor_grows_old(sandbox: Sandbox, path: str, params: Any) -> None:
    begin = END + 40 * DAY
    sandbox.settings = Settings(now=begin, cursor_lifetime=60)
    cursor = ask(sandbox, path, **params).json()["next"]
    sandbox.settings.now = begin + 60
    assert not refused(sandbox, path, cursor, params)
    sandbox.settings.now = begin + 61
    assert refused(sandbox, path, cursor, params)
    again = ask(sandbox, path, **params).json()["next"]
    assert not refused(sandbox, path, again, params), "a new one, though it looks the same"
    sandbox.reset()
    assert refused(sandbox, path, again, params), "nobody gave it"
    assert len(chain(sandbox, path=path, **params)) > 2, "each page gives one of its own"


@pytest.mark.parametrize(("path", "params"), LISTS)
def test_cursor_bound_to_its_query(sandbox: Sandbox, path: str, params: Any) -> None:
    others: list[Any] = {
        "/v1/messages": [
            {**params, "type": "push"},
            {**params, "start_ts": START + 1},
            {**params, "end_ts": END},
            {**params, "metric": "sent"},
            {name: value for name, value in params.items() if name != "type"},
        ],
        "/v1/activities": [{**params, "type": "clicked_email"}, {"limit": 10}, {**params, "name": "x"}],
        "/v1/newsletters": [{**params, "sort": "desc"}],
    }[path]
    for bound in (False, True):
        sandbox.settings.cursors_bound = bound
        sandbox.reset()
        cursor = ask(sandbox, path, **params).json()["next"]
        assert not refused(sandbox, path, cursor, params)
        assert not refused(sandbox, path, cursor, {**params, "limit": 7}), "the length of a page is no matter"
        for other in others:
            assert refused(sandbox, path, cursor, other) == bound
    if path == "/v1/messages":
        assert ask(sandbox, "/v1/newsletters", start=cursor).status_code == 400, "another list"


def position(cursor: str) -> str:
    return b64decode(cursor).decode()


def test_cursor_is_a_position(sandbox: Sandbox) -> None:
    first = ask(sandbox, limit=100).json()
    assert position(first["next"]) == "v20:100"
    assert position(ask(sandbox, limit=30, start=first["next"]).json()["next"]) == "v20:130"
    assert position(ask(sandbox, "/v1/newsletters", limit=10).json()["next"]) == "10"


@pytest.mark.parametrize("offset", [10, 11, 4000])
def test_list_restarts_beyond_its_end(sandbox: Sandbox, offset: int) -> None:
    history, sandbox.history = sandbox.history, History([row(str(number)) for number in range(10)])
    try:
        first = ask(sandbox, limit=4).json()
        assert (len(first["messages"]), position(first["next"])) == (4, "v20:4")
        beyond = b64encode(f"v20:{offset}".encode()).decode()
        assert ask(sandbox, limit=4, start=beyond).json() == first
        last = b64encode(b"v20:8").decode()
        assert [one["id"] for one in ask(sandbox, limit=4, start=last).json()["messages"]] == ["8", "9"]
    finally:
        sandbox.history = history


@pytest.mark.parametrize("text", ["v20:", "v20:x", "v20:-1", "v21:10", "10", "v20:10 "])
def test_a_malformed_cursor_is_refused(sandbox: Sandbox, text: str) -> None:
    answer = ask(sandbox, start=b64encode(text.encode()).decode())
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["source"] == {"pointer": "/start"}

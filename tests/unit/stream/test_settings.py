from __future__ import annotations

import json
from typing import Any
from unittest.mock import ANY

import pytest

from airflow_provider_cio.events.catalog import DEFAULT_COLLECTIONS, GROUPS, resolve_collections
from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.stream.settings import StreamOptions, log_streams, mount_streams, option_text, read_streams

NO_OBJECT = (
    "[customerio] streams must be a JSON object of streams by name, such as "
    '{"main": {"customerio_conn_id": "customerio_default", "segment_conn_id": "segment_default"}}, got '
)


def one(**options: Any) -> StreamOptions | ConfigurationError:
    return read_streams(json.dumps({"main": options}))["main"]


def test_defaults() -> None:
    found = one()
    assert isinstance(found, StreamOptions)
    assert (found.customerio_conn_id, found.segment_conn_id) == ("customerio_default", "segment_default")
    assert [collection.name for collection in found.collections] == list(DEFAULT_COLLECTIONS)
    assert (found.pii, found.on_unidentified, found.dead_letter_path) == ("keep", "skip", None)
    assert {found.send_to_customerio_destinations, found.full_resolution, found.message_content} == {False}


def test_all_options() -> None:
    options = {
        "customerio_conn_id": "c",
        "segment_conn_id": "s",
        "collections": ["push", "Email Opened"],
        "pii": "hash",
        "on_unidentified": "dead_letter",
        "dead_letter_path": "/var/letters",
        "send_to_customerio_destinations": True,
        "full_resolution": True,
        "message_content": True,
    }
    found = one(**options)
    assert isinstance(found, StreamOptions)
    assert set(options) == set(StreamOptions._fields)
    assert found._asdict() == options | {"collections": resolve_collections(["push", "Email Opened"])}
    group = one(collections="email")
    assert isinstance(group, StreamOptions)
    assert [collection.name for collection in group.collections] == list(GROUPS["email"])


@pytest.mark.parametrize("names", ["subscription", "all", '["all"]'])
def test_people_who_subscribe(names: str) -> None:
    found = one(collections=names)
    assert isinstance(found, StreamOptions)
    assert [collection.name for collection in found.collections] == list(GROUPS[names.strip('[]"')])
    assert found.collections[-1].is_of_person


@pytest.mark.parametrize("text", ["", "{", "[]", '"main"', "null", '{"main": {}} x', "{main: {}}", "[" * 100_000])
def test_malformed_option(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\[customerio\] streams must be a JSON object"):
        read_streams(text)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "ä", "a?b", "..", "x" * 65])
def test_malformed_name(name: str) -> None:
    found = read_streams(json.dumps({name: {}, "right": {}}))
    assert isinstance(found["right"], StreamOptions)
    assert isinstance(found[name], ConfigurationError)
    assert f"[customerio] streams: the name {name!r} can't be part of a URL" in str(found[name])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"colections": ["Email Opened"]},
            "unknown option 'colections'; known are customerio_conn_id, segment_conn_id, ",
        ),
        ({"collections": ["Email Opend"]}, "unknown collection 'Email Opend'. Did you mean 'Email Opened'"),
        ({"collections": []}, "at least one collection"),
        ({"collections": 7}, "collections must be a list of names, got a number: write for example ["),
        ({"pii": "hide"}, "pii must be one of 'keep', 'hash', 'drop', got 'hide'"),
        (
            {"on_unidentified": "fail"},
            "on_unidentified must be one of 'skip', 'cio_id', 'dead_letter', got 'fail'",
        ),
        ({"on_unidentified": "dead_letter"}, "needs dead_letter_path"),
        ({"dead_letter_path": " "}, "dead_letter_path must be an absolute folder, local or remote, got empty text"),
        ({"segment_conn_id": " "}, "segment_conn_id must be the id of a connection, got empty text: leave it out"),
        ({"customerio_conn_id": None}, "customerio_conn_id must be the id of a connection, got nothing"),
        ({"full_resolution": "maybe"}, "full_resolution must be true or false, got a string"),
    ],
)
def test_a_wrong_option(options: dict[str, Any], said: str) -> None:
    found = read_streams(json.dumps({"wrong": options, "right": {}}))
    assert isinstance(found["right"], StreamOptions)
    error = found["wrong"]
    assert isinstance(error, ConfigurationError)
    assert str(error).startswith("[customerio] streams: stream 'wrong': ")
    assert said in str(error)


@pytest.mark.parametrize(("given", "kind"), [([], "an empty list"), (None, "nothing"), ("email", "a string")])
def test_malformed_stream(given: object, kind: str) -> None:
    error = read_streams(json.dumps({"main": given}))["main"]
    assert str(error) == f"[customerio] streams: stream 'main': its options must be a JSON object, got {kind}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"main": {}, "b": {}}', ["Streams that run: main, b"]),
        (
            '{"main": {}, "a/b": {}, "c": {"pii": 1}}',
            [
                "[customerio] streams: the name 'a/b' can't be part of a URL: use letters, digits, '-' and '_', "
                "at most 64",
                "[customerio] streams: stream 'c': pii must be one of 'keep', 'hash', 'drop', got a number",
                "Streams that run: main",
            ],
        ),
        ('{"a/b": {}}', [ANY, "Streams that run: none"]),
        ("[]", ["No stream runs: " + NO_OBJECT + "an empty list"]),
    ],
)
def test_the_start_says_it(text: str, said: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        log_streams(text)
    assert caplog.messages == said
    warnings = sum(record.levelname == "WARNING" for record in caplog.records)
    assert warnings == (0 if said == ["Streams that run: main, b"] else len(said))


def test_a_flag_given_as_text() -> None:
    assert one(full_resolution="true") == one(full_resolution=True) != one(full_resolution="no")


def test_the_option_comes_from_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__CUSTOMERIO__STREAMS", raising=False)
    assert option_text() == ""
    monkeypatch.setenv("AIRFLOW__CUSTOMERIO__STREAMS", ' {"main": {}} ')
    assert option_text() == '{"main": {}}'


@pytest.mark.parametrize(
    ("text", "mounted"), [(None, True), ("", True), ("True", True), ("odd", True), ("False", False), (" off ", False)]
)
def test_mount_streams(text: str | None, mounted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__CUSTOMERIO__MOUNT_STREAMS", raising=False)
    if text is not None:
        monkeypatch.setenv("AIRFLOW__CUSTOMERIO__MOUNT_STREAMS", text)
    assert mount_streams() is mounted

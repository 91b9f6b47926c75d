from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_cio.events.catalog import DEFAULT_COLLECTIONS, GROUPS
from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.stream.settings import StreamOptions, option_text, read_streams


def one(**options: Any) -> StreamOptions | ConfigurationError:
    return read_streams(json.dumps({"main": options}))["main"]


def test_all_that_is_left_out_has_a_default() -> None:
    found = one()
    assert isinstance(found, StreamOptions)
    assert (found.customerio_conn_id, found.segment_conn_id) == ("customerio_default", "segment_default")
    assert [collection.name for collection in found.known_collections] == list(DEFAULT_COLLECTIONS)
    assert (found.pii, found.on_unidentified, found.dead_letter_path) == ("keep", "skip", None)
    assert {found.send_to_customerio_destinations, found.full_resolution, found.message_content} == {False}


def test_all_can_be_set() -> None:
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
    assert set(options) == set(StreamOptions.__struct_fields__)
    assert {name: getattr(found, name) for name in options} == options | {"collections": ("push", "Email Opened")}
    group = one(collections="email")
    assert isinstance(group, StreamOptions)
    assert [collection.name for collection in group.known_collections] == list(GROUPS["email"])


@pytest.mark.parametrize("text", ["", "{", "[]", '"main"', "null", '{"main": {}} x', "{main: {}}"])
def test_text_that_is_no_object(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\[customerio\] streams must be a JSON object"):
        read_streams(text)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "ä", "a?b", "..", "x" * 65])
def test_a_name_that_can_be_no_part_of_a_url(name: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be part of a URL"):
        read_streams(json.dumps({name: {}}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"colections": ["Email Opened"]}, "unknown field `colections` (known are customerio_conn_id, "),
        ({"collections": ["Email Opend"]}, "unknown collection 'Email Opend'; did you mean 'Email Opened'"),
        ({"collections": []}, "at least one collection"),
        ({"collections": 7}, "`$.collections`"),
        ({"pii": "hide"}, "`$.pii`"),
        ({"on_unidentified": "fail"}, "`$.on_unidentified`"),
        ({"on_unidentified": "dead_letter"}, "needs dead_letter_path"),
        ({"dead_letter_path": " "}, "dead_letter_path is empty"),
        ({"segment_conn_id": " "}, "segment_conn_id is empty"),
        ({"customerio_conn_id": None}, "`$.customerio_conn_id`"),
        ({"full_resolution": "yes"}, "`$.full_resolution`"),
    ],
)
def test_a_wrong_option_is_named_and_spoils_only_its_stream(options: dict[str, Any], said: str) -> None:
    found = read_streams(json.dumps({"wrong": options, "right": {}}))
    assert isinstance(found["right"], StreamOptions)
    error = found["wrong"]
    assert isinstance(error, ConfigurationError)
    assert str(error).startswith("[customerio] streams: stream 'wrong': ")
    assert said in str(error)


def test_the_option_comes_from_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__CUSTOMERIO__STREAMS", raising=False)
    assert option_text() == ""
    monkeypatch.setenv("AIRFLOW__CUSTOMERIO__STREAMS", ' {"main": {}} ')
    assert option_text() == '{"main": {}}'

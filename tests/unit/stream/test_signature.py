from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cio.stream.signature import is_signed, signature_of

#: key, timestamp, body, signature. The first is from Customer.io's own helper for Node; the second was computed with
#: Python and openssl from the documented rule.
VECTORS = [
    (
        "signing-secret",
        b"1614265384",
        b'{"event_id":"abc","object_type":"email","metric":"delivered"}',
        b"6f55cf23f9b73a2ff07733fe04421f64ce9ec5e409696edda6b2a80311944230",
    ),
    (
        "cio_test_signing_key",
        b"1613063089",
        b'{"metric":"sent","event_id":"01E4C4CT6YDC7Y5M7FE1GWWPQJ","object_type":"email","timestamp":1613063089,'
        b'"data":{"delivery_id":"RPILAgUBcRhIBqSfeiIwdIYJKxTY","recipient":"test@example.com"}}',
        b"63275a6a6296f8b681f885b6d09ff7a4f093092249efbc0db0f7100e2b456149",
    ),
]


@pytest.mark.parametrize(("key", "timestamp", "body", "signature"), VECTORS)
def test_vectors(key: str, timestamp: bytes, body: bytes, signature: bytes) -> None:
    assert signature_of(key, timestamp, body) == signature
    assert is_signed([key], timestamp, body, signature)
    assert is_signed([key], timestamp, body, signature.upper())
    assert is_signed(["another", key], timestamp, body, signature), "the previous key"
    assert is_signed([key, "another"], timestamp, body, signature)
    assert not is_signed(["another"], timestamp, body, signature)
    assert not is_signed([], timestamp, body, signature)
    assert not is_signed([key], timestamp + b"0", body, signature)
    assert not is_signed([key], timestamp, body + b" ", signature)


@pytest.mark.parametrize("timestamp", [b"", b" 1614265384", b"+1", b"-1", b"1.5", b"1e9", "\u0661".encode(), b"1" * 21])
def test_a_timestamp_is_digits(timestamp: bytes) -> None:
    assert not is_signed(["k"], timestamp, b"body", signature_of("k", timestamp, b"body"))


def test_an_empty_key_signs_nothing() -> None:
    with pytest.raises(ValueError, match="empty"):
        is_signed([""], b"1", b"body", b"0" * 64)


@given(st.text(min_size=1), st.integers(0, 10**15), st.binary(), st.data())
def test_any_change_is_seen(key: str, stamp: int, body: bytes, data: st.DataObject) -> None:
    timestamp = str(stamp).encode()
    signature = signature_of(key, timestamp, body)
    assert is_signed([key], timestamp, body, signature)
    where = data.draw(st.integers(0, 63))
    other = data.draw(st.sampled_from("0123456789abcdef").filter(lambda digit: ord(digit) != signature[where]))
    assert not is_signed([key], timestamp, body, signature[:where] + other.encode() + signature[where + 1 :])
    assert not is_signed([key], timestamp, body, data.draw(st.binary(max_size=80).filter(lambda x: x != signature)))


def test_every_key_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key is tried, so that the time does not tell which key fits."""
    tried: list[str] = []
    original = signature_of

    def noting(secret: str, timestamp: bytes, body: bytes) -> bytes:
        tried.append(secret)
        return original(secret, timestamp, body)

    monkeypatch.setattr("airflow_provider_cio.stream.signature.signature_of", noting)
    for key in ("a", "b", "none"):
        tried.clear()
        is_signed(["a", "b"], b"1", b"body", original(key, b"1", b"body"))
        assert tried == ["a", "b"]

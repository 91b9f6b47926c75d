"""The gate that every text from outside passes before it is shown."""

from __future__ import annotations

import html
import json
import re
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_cio.http.errors import asked_wait, error_text, safe_text

KEY = "s3cr3t/Key+0123456789"
ADDRESS = "jane.doe@example.com"
#: Ways in which a service may write a text.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "upper case": str.upper,
    "percent": lambda text: quote(text, safe=""),
    "percent, all of it": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "percent twice": lambda text: quote(quote(text, safe=""), safe=""),
    "html": lambda text: html.escape(text).replace("/", "&#47;"),
    "html, all of it": lambda text: "".join(f"&#x{ord(one):x};" for one in text),
    "html in percent": lambda text: quote("".join(f"&#{ord(one)};" for one in text)),
    "json": lambda text: json.dumps(text)[1:-1],
    "json of PHP": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "json, all of it": lambda text: re.sub(r"(..)(..)", r"\\u\2\1", text.encode("utf-16-le").hex()),
    "NULs between": lambda text: "\0".join(text),
    "escaped NULs between": lambda text: "%00".join(text),
    "nothing visible between": lambda text: "\u200b".join(text),
}
BASE64: dict[str, Callable[[str], str]] = {
    "base64": lambda text: b64encode(text.encode()).decode(),
    "base64 of a user": lambda text: b64encode(f"{text}:".encode()).decode(),
    "base64 for URLs": lambda text: urlsafe_b64encode(f"{text}:".encode()).decode(),
    "base64 in percent": lambda text: quote(b64encode(f"{text}:".encode()), safe=""),
}


def assert_may_be_shown(text: str, *private: str) -> None:
    assert len(text) <= 200
    assert text.isprintable()
    assert text == " ".join(text.split())
    for one in private:
        for spelled in {one, *(spell(one) for spell in SPELLINGS.values())}:
            assert spelled.lower() not in text.lower()


@pytest.mark.parametrize("spelling", SPELLINGS | BASE64)
@pytest.mark.parametrize(
    "around", ["{}", "x {} y", "'{}'", "?k={}&x=1", "<a href='{}'>", '{{"k": "{}"}}', "%2{}", "&#{};"]
)
def test_a_secret_in_any_spelling(spelling: str, around: str) -> None:
    text = around.format((SPELLINGS | BASE64)[spelling](KEY))
    assert_may_be_shown(safe_text(text, (KEY,)), KEY)
    assert "***" in safe_text(text, (KEY,)), text
    assert_may_be_shown(safe_text(text * 50, (KEY,)), KEY)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_address_in_any_spelling(spelling: str) -> None:
    shown = safe_text(f"no {SPELLINGS[spelling](ADDRESS)} here")
    assert_may_be_shown(shown, ADDRESS)
    assert shown == "no <address> here"


@pytest.mark.parametrize("key", ["a%40b%2Fc", "a&amp;b&#64;c", "k\\u0041y", 'q"uo\\te', "clé-😀", "a,b(c)@host"])
def test_a_secret_that_looks_encoded(key: str) -> None:
    """The secret has to be masked before the text is decoded, or it would no longer be recognised."""
    for spelling in (SPELLINGS | BASE64).values():
        shown = safe_text(f"no {spelling(key)} here", (key,))
        assert shown.replace("=", "") == "no *** here", spelling(key)


@given(
    st.lists(st.sampled_from([spell for name, spell in SPELLINGS.items() if name != "upper case"]), max_size=3),
    st.sampled_from([KEY, ADDRESS]),
    st.text(max_size=10),
    st.text(max_size=10),
    st.integers(0, 20_100),
)
@example([], KEY, "", "", 20_000 - 10)
@settings(max_examples=300)
def test_whatever_comes_it_may_be_shown(
    spellings: list[Callable[[str], str]], private: str, before: str, after: str, fill: int
) -> None:
    spelled = private
    for spell in spellings:
        spelled = spell(spelled)
    assert_may_be_shown(safe_text(" " * fill + before + spelled + after, (KEY,)), private)


@given(st.text())
def test_any_text_at_all(text: str) -> None:
    assert_may_be_shown(safe_text(text, (KEY, "")))
    assert_may_be_shown(safe_text(error_text(text.encode("utf-8", "surrogatepass"))))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Bad Request", "Bad Request"),
        ("two\r\n  lines\t\u2028and\x1b[31m red", "two lines and[31m red"),
        ("50% off &amp; more", "50% off & more"),
        ("&lt;b&gt; &nosuch; &#0; \\u0041", "<b> &nosuch; \ufffd A"),
        ("&#" + "9" * 5000 + ";", "\ufffd" + "9" * 196 + "..."),
        ("right\u202eleft \ud800 zero\u200bwidth", "rightleft \ufffd zerowidth"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 197 + "..."),
        ("x" * 10**6, "x" * 197 + "..."),
        ("", ""),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert safe_text(text, (KEY,)) == shown


def test_a_secret_with_odd_blanks() -> None:
    for key in ("my\tsecret\x01key", "two  blanks", "\x01", "\u200b"):
        assert safe_text(f"no {key} here", (key,)) in ("no *** here", "no here")


def test_more_levels_than_anybody_needs() -> None:
    text = KEY
    for _ in range(30):
        text = quote(text, safe="")
    assert "%" not in safe_text(text, (KEY,))


PIECES = ["x", " ", "%25", "%2525", "&amp;", "&#64;", "a@", "\\u0040", "<", '"a b ', "@", "&", "a@b ", "\u200b", "&a;",
          KEY, KEY[:-1], "&#9" + "9" * 9000, "%40a", "[", '{"a":', "<script>", "<a "]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_time_grows_with_length_alone(piece: str) -> None:
    """The text has 300 KB first, the most that was seen, and then ten times that."""
    for length in (300_000, 3_000_000):
        text = piece * (length // len(piece))
        began = time.process_time()
        safe_text(text, (KEY,))
        safe_text(error_text(text.encode(), (KEY,)), (KEY,))
        assert time.process_time() - began < 2


@pytest.mark.parametrize("fill", ["<br>", " ", "x", "&nbsp;"])
def test_where_an_explanation_is_cut_no_part_of_a_secret_stays(fill: str) -> None:
    for at in range(100_000 - len(KEY), 100_000, 3):
        body = ((fill * 100_000)[:at] + KEY + "x" * 99).encode()
        shown = safe_text(error_text(body, (KEY,)), (KEY,))
        assert KEY[:4] not in shown


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "1e999"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "٣"}, None),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, None),
        ({"Retry-After": "Mon, 01 Jan 0001 00:00:00 GMT"}, 0),
        ({"Retry-After": "999999999"}, None),
        ({"Retry-After": "999999999999"}, None),
        ({"Retry-After": "9" * 400}, None),
        ({"Retry-After": "1." + "9" * 400}, None),
        ({"Retry-After": "1e999", "X-RateLimit-Reset": "7"}, 7),
        ({"Retry-After": "999999999999", "X-RateLimit-Reset": "7"}, 7),
        ({"Retry-After": "86400"}, 86_400),
    ],
)
def test_a_wait_that_nobody_means_is_none(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait(headers) == seconds

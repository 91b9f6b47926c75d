"""Check the definition of an e-mail address in free text, which logs, errors and personal data share."""

from __future__ import annotations

import ast
import html
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_cio import addresses
from airflow_provider_cio.addresses import has_address, masked_addresses, one_address, replace_addresses

PLAIN = st.from_regex(r"[a-z0-9ß_+-][a-z0-9ß'+._=-]{0,20}[a-z0-9]@[a-z0-9-]{1,9}[a-z]\.(com|example)", fullmatch=True)
QUOTED = st.from_regex(r'"[a-z][a-z0-9 .,@()<>]{0,20}[a-z]"@[a-z]{1,9}\.example', fullmatch=True)
SPELLINGS: list[Callable[[str], str]] = [
    lambda text: text,
    lambda text: quote(text, safe=""),
    lambda text: quote(text, safe="").lower(),
    lambda text: quote(quote(text, safe=""), safe=""),
    lambda text: quote(quote(quote(text, safe=""), safe=""), safe=""),
    lambda text: html.escape(text).replace("@", "&#64;"),
    lambda text: html.escape(text).replace("@", "&#064;"),
    lambda text: html.escape(text).replace("@", "&#x40;"),
    lambda text: html.escape(text).replace("@", "&commat;"),
    lambda text: "".join(f"&#{ord(character)};" for character in text),
    lambda text: quote(html.escape(text).replace("@", "&#64;"), safe=""),
    lambda text: html.escape(quote(text, safe="")),
    lambda text: text.replace("@", "\\u0040"),
]


def found_in(text: str) -> list[str]:
    found: list[str] = []

    def keep(address: str) -> str:
        found.append(address)
        return ""

    replace_addresses(text, keep)
    return found


@pytest.mark.parametrize(
    "address",
    [
        "jane.doe@example.com",
        "Jane.Doe+news@Sub.Example.COM",
        "m.o'neill@example.ie",
        "a_b-c~d!e$f^g%h`i@example.com",
        "root@localhost",
        "zoë_k6@sub.mail.example.org",
        "юлия@пример.example",
        "ふじ@例え.jp",
        "ana@उदाहरण.परीक्षा",
        "jane@[192.0.2.1]",
        "jane@[IPv6:2001:db8::1]",
        "jane@example.com@relay.example",
        '"jane.doe"@example.com',
        '"jane doe"@example.com',
        '"doe, jane (home) <x@y>"@example.com',
        '"jane \\"jd\\" doe"@example.com',
        '\\"jane doe\\"@example.com',
        "bounces+123-ab-jane.doe=example.com@em.shop.example",
        "msprvs1=18abc=bounces-1-jane.doe=example.com@em.shop.example",
        "SRS0=HHH=TT=example.org=jane.doe@example.com",
    ],
)
@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "Hi {}!",
        "Hi {}, how are you",
        "<{}>",
        "Jane <{}>: unknown",
        "550 5.1.1 <{}>... user unknown",
        "({})",
        "[{}]",
        "“{}” or «{}»",
        "write to {}.",
        "mailto:{}?subject=Hi",
        "rfc822;{}",
        "https://x.example/?to={}&x=1",
        "https://x.example/?x=1&amp;to={}#top",
        "https://x.example/u/{}/profile",
        "https://x.example/#e={}",
        "{},{};{}|{}",
        "メール、{}。",
    ],
)
def test_address_is_found_whole(text: str, address: str) -> None:
    whole = text.replace("{}", address)
    assert found_in(whole) == [address] * text.count("{}")
    assert masked_addresses(whole) == text.replace("{}", "<address>")
    assert has_address(whole)


@pytest.mark.parametrize("spelling", range(len(SPELLINGS)))
@settings(max_examples=60)
@given(address=PLAIN | QUOTED)
@example("bounces+123-ab-jane.doe=example.com@em.shop.example")
def test_any_spelling_is_found(spelling: int, address: str) -> None:
    if '"' in address and spelling == len(SPELLINGS) - 1:
        address = address.replace("@", " ", address.count("@") - 1)  # \u0040 is an escape within quotes already
    spelled = SPELLINGS[spelling](address)
    for text in ("{}", "x {} y", "https://x.example/?a=%C3%BC&e={}&b=%7E", "550 <{}> ✗"):
        assert found_in(text.replace("{}", spelled)) == [address]
        assert masked_addresses(text.replace("{}", spelled)) == text.replace("{}", "<address>")


def test_address_in_three_nested_links() -> None:
    link = "https://a.example/?e=jane.doe%2Bx%40example.com&b=1"
    for depth in range(6):
        link = f"https://track{depth}.example/r?to={quote(link, safe='')}&c=%7E"
        assert found_in(link) == ["jane.doe+x@example.com"]
        assert "jane" not in masked_addresses(link)
        assert masked_addresses(link).endswith("&c=%7E")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "a @ b",
        "Lunch @ noon",
        "@handle",
        "Follow us @acme!",
        "'@acme' and *@acme*",
        "https://medium.example/@ana/post-1",
        "https://x.example/?by=@ana",
        "by=@ana",
        "https://maps.example/@52.5,13.4,12z",
        "ana@ or @example.com",
        '"Sale" on "@acme"',
        '{"a":"b","@type":"c"}',
        "%40 &#64; &commat; &#x40; %2540",
        "%40handle &#64;handle",
        "&#640;a&#64",
        "50% off &amp; 40 more \\u0041",
    ],
)
def test_other_text_is_no_address(text: str) -> None:
    assert found_in(text) == []
    assert masked_addresses(text) == text
    assert not has_address(text)


@given(st.text(alphabet="ab@%4025'.=&#64;\"\\<> ?xé", max_size=60))
def test_other_text_is_untouched(text: str) -> None:
    pieces = replace_addresses(text, lambda address: "\n").split("\n")
    at = 0
    for piece in pieces:
        at = text.index(piece, at) + len(piece)
    assert len(pieces) == len(found_in(text)) + 1
    assert has_address(text) == (len(pieces) > 1)


@given(st.text(alphabet="ab@'.=\"<> ?,é", max_size=60))
def test_at_between_words_is_removed(text: str) -> None:
    left = replace_addresses(text, lambda address: "\n")
    for before, after in zip(left.split("@"), left.split("@")[1:], strict=False):
        assert not (before[-1:].isalnum() and after[:1].isalnum()), left


@given(st.text())
def test_text_without_an_at_stays(text: str) -> None:
    if not set("@%&\\") & set(text):
        assert replace_addresses(text, lambda address: "gone") == text


HOSTILE = [
    "%2B", "'", "a@", "%25", "(@", '"', '"a', '\\"', '"a\\"', '\\"a', "?a", "?", "&", "&a", ".", "a.", "=", "a=", "&#",
    "%", "a", "a@[", "@", "@.", "%40", "&#64;", "\\u0040", "&commat", '"a b ', " ", "#", "\\", "a@a", "\u200b",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_grows_with_length_alone(piece: str) -> None:
    """A pattern that backtracks would take minutes for this."""
    for start in ("", "a@", '"', "?"):
        for end in ("@", '"@b.c', "%40b", "40"):
            began = time.process_time()
            masked_addresses(start + piece * (20_000 // len(piece)) + end + "@")
            assert time.process_time() - began < 1, (start, end)


@settings(max_examples=100)
@given(st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=5), st.text(max_size=3))
def test_repetition_costs_linear_time(pieces: list[str], end: str) -> None:
    piece = "".join(pieces)
    began = time.process_time()
    masked_addresses(piece * (20_000 // len(piece)) + end + "@")
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("ana@example.com", True),
        ("m.o'neill@example.ie", True),
        ("юлия@пример.example", True),
        ('"jane doe"@example.com', True),
        ("a/b=c&d?e%f@example.com", True),
        ("", False),
        ("ana", False),
        ("@ana", False),
        ("ana@", False),
        (" ana@example.com", False),
        ("ana@example.com, bob@example.com", False),
        ("ana@example.com;bob@example.com", False),
        ("Ana <ana@example.com>", False),
        ("ana@example.com@example.org", False),
        ("{{ana@example.com}}", False),
    ],
)
def test_exactly_one_address(text: str, is_one: bool) -> None:
    assert one_address(text) is is_one


def test_only_stdlib_is_imported() -> None:
    tree = ast.parse(Path(str(addresses.__file__)).read_text())
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert all(name.partition(".")[0] in sys.stdlib_module_names for name in names)

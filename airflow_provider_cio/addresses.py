r"""Find, mask and replace e-mail addresses in free text. Pure.

Logs, errors and `pii` share this one definition. An address may be in any script and in any of these spellings, also
nested, such as a link within a link::

    jane.doe@example.com                              also in <>, "", (), after mailto:, ?to= and &to=
    "jane.doe"@example.com  "jane doe"@example.com    quoted local parts
    jane.doe&#64;example.com  &#x40;  &commat;        HTML
    jane.doe%40example.com  %2540  %252540            percent-encoding
    jane.doe\u0040example.com                         truncated JSON, which could not be decoded
    bounces+1-jane.doe=example.com@em.example         VERP: everything before the last @ belongs to the address

A lone ``@``, a handle (``@jane``), ``jane at example.com`` and base64 are not found. Any text around an ``@`` without
blanks counts as an address: ``key@host`` in ``https://user:key@host/`` does.

The time of every function is linear in the length of the text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote_to_bytes

#: Brackets, quotes and stops of other scripts. They stand around an address, never inside.
_OTHER_PUNCTUATION = (
    "\u00a1\u00ab\u00bb\u00bf\u2010-\u2027\u2030-\u205e\u3000-\u3003\u3008-\u3011\u3014-\u301f"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff3d\uff5b-\uff65"
)
#: A character of a local part: "=" because of VERP, but none that separates addresses in lists, texts and links.
_LOCAL = rf'[^\s\x00-\x1f\x7f@<>",;:?&#/(){{}}\[\]|{_OTHER_PUNCTUATION}]'
_LABEL = rf"[^\s\x00-\x2c./\x3a-\x40\x5b-\x5e`\x7b-\x7f{_OTHER_PUNCTUATION}]"
_DOMAIN = rf"(?:\.*+{_LABEL}++(?:\.++{_LABEL}++)*+|\[[0-9A-Za-z:.]{{2,60}}\])"
#: A quoted local part. It begins with a letter, digit or backslash, because the text between two quotations before
#: "@jane" is none.
_QUOTED = r'(?:"(?=[\w\\])(?:[^"\\\r\n]|\\.){1,254}"|\\"(?=\w)[^"\\\r\n]{1,254}\\")'

#: A piece of a text, which may be an address. Pieces do not overlap and are never tried again, so the time is linear.
_PIECE = re.compile(
    rf"""
    [?&\#][^\s?&\#=@/"<>]*+=                      # ?key= and &key=: the value begins after it
    | (?P<quoted>{_QUOTED}(?:@{_DOMAIN})++)
    | ['`*=!~\\]++                                 # often stands before an address, hardly ever begins one
    | {_LOCAL}++(?P<domain>(?:(?<!=)@{_DOMAIN})++)?
    """,
    re.VERBOSE,
)
_ONE = re.compile(r'(?:"(?:[^"\\\r\n]|\\.)+"|[^\s@,;<>"{}]+)@[^\s@,;<>"{}]+')

_ENCODED = re.compile(
    r"(?:%[0-9A-Fa-f]{2})++"
    r"|&\#(?:[0-9]{1,7}|[xX][0-9A-Fa-f]{1,6});?"
    r"|&[A-Za-z][A-Za-z0-9]{1,31};"  # without the semicolon it may be a key: ?a=1&copy=2
    r"|\\u[0-9A-Fa-f]{4}"
)
#: Nested encodings that are undone.
_LEVELS = 8


def decoded(text: str) -> str:
    """Return the text with each percent-, HTML and JSON escape undone, once."""
    return _ENCODED.sub(lambda encoded: _plain(encoded[0]), text)


def one_address(text: str) -> bool:
    """Return whether the text is exactly one plain address, without a name or blanks around it."""
    return _ONE.fullmatch(text) is not None


def has_address(text: str) -> bool:
    """Return whether the text contains an address in any spelling."""
    return next(_found(text), None) is not None


def masked_addresses(text: str) -> str:
    """Return the text with ``<address>`` in place of each address, for logs and errors."""
    return replace_addresses(text, lambda address: "<address>")


def replace_addresses(text: str, replacement: Callable[[str], str]) -> str:
    """Return the text with each address replaced and nothing else changed.

    :param replacement: called with the plain spelling, so that ``%40`` and ``@`` give the same hash. Its result is
        inserted without any encoding.
    """
    parts: list[str] = []
    copied = 0
    for start, end, address in _found(text):
        parts += text[copied:start], replacement(address)
        copied = end
    return "".join([*parts, text[copied:]])


def _found(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and plain spelling of each address in the text."""
    if not ("@" in text or "%" in text or "&" in text or "\\u" in text):
        return
    plain, starts = _decoded(text)
    if "@" not in plain:
        return
    for piece in _PIECE.finditer(plain):
        if piece["quoted"] or piece["domain"]:
            start, end = piece.span()
            yield (starts[start], starts[end], piece[0]) if starts else (start, end, piece[0])


def _decoded(text: str) -> tuple[str, list[int] | None]:
    """Return the text without encodings, and the start of each of its characters in `text` (None: unchanged)."""
    starts: list[int] | None = None
    for _ in range(_LEVELS):
        if not _ENCODED.search(text):
            break
        text, starts = _decoded_once(text, starts or list(range(len(text) + 1)))
    return text, starts


def _decoded_once(text: str, starts: list[int]) -> tuple[str, list[int]]:
    parts: list[str] = []
    found: list[int] = []
    copied = 0
    for encoded in _ENCODED.finditer(text):
        start, end = encoded.span()
        parts.append(text[copied:start])
        found += starts[copied:start]
        copied = end
        if text[start] == "%":
            plain = _plain(encoded[0])
            for character in plain:
                found.append(starts[start])
                start += 3 * len(character.encode("utf-8", "surrogateescape"))
        else:
            plain = _plain(encoded[0])
            found += [starts[start]] * len(plain)
        parts.append(plain)
    parts.append(text[copied:])
    found += starts[copied:]
    return "".join(parts), found


def _plain(encoded: str) -> str:
    if encoded[0] == "%":  # UTF-8; an invalid byte becomes a lone surrogate
        return unquote_to_bytes(encoded).decode("utf-8", "surrogateescape")
    return chr(int(encoded[2:], 16)) if encoded[0] == "\\" else html.unescape(encoded)

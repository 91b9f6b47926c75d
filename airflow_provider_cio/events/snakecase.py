"""Names of tables and columns, as Segment's warehouses make them of names of events and keys. Pure."""

from __future__ import annotations

import re

_WORD = re.compile("[A-Z0-9]+[a-z0-9]*|[a-z0-9]+")


def snakecase(name: str) -> str:
    """``Email Link Clicked`` is ``email_link_clicked``, ``userId`` is ``user_id``, ``HTTPRequest`` is ``httprequest``.

    The same as Segment's go-snakecase: only ASCII letters and digits stay, all else parts words; a run of capitals and
    digits is one word with the lower-case letters after it. A name of other characters only becomes empty text.
    """
    return "_".join(_WORD.findall(name)).lower()

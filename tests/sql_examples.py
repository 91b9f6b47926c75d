"""The queries of `docs/warehouse.md`, by the name in their first line."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "warehouse.md"


def sql_examples() -> dict[str, str]:
    return dict(re.findall(r"^```sql\n-- ([^\n]+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S))

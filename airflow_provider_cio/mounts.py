"""Where a mounted ASGI application is. The stream and the page need it, and neither may import the other. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def path_below_mount(scope: Mapping[str, Any]) -> str:
    """Return the path of a request below the mount point."""
    path: str = scope["path"]
    root = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else path

"""Build hook: the README in a form that a package index can show, where links between files lead nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

#: A link or an image whose target is a file of the repository.
_RELATIVE = re.compile(r"(?P<image>!?)\[(?P<text>[^]]*)\]\((?![a-z]+:|#)(?P<path>[^)]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Sets `project.readme`."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {"content-type": "text/markdown", "text": for_index(text, source, metadata["version"])}


def for_index(readme: str, source: str | None, version: str) -> str:
    """Return a README without relative links.

    :param source: address of the repository. Links lead to the files of its tag ``v<version>``. If there is none, the
        path stands in place of a link, as it is in the source distribution, and pictures are left out.
    """

    def replace(found: re.Match[str]) -> str:
        image, text, path = found["image"], found["text"], found["path"]
        if source:
            kind = "raw" if image else "blob"
            return f"{image}[{text}]({source.rstrip('/')}/{kind}/v{version}/{path})"
        return "" if image else f"{text} (`{path.partition('#')[0]}`)"

    return re.sub(r"\n{3,}", "\n\n", _RELATIVE.sub(replace, readme))

"""The files of the page, as the ASGI app serves them, alone and mounted as Airflow does it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from airflow_provider_cio import flow
from airflow_provider_cio.flow import app as app_module
from airflow_provider_cio.flow.app import app
from tests.unit.flow.support import served

STATIC = Path(str(flow.__file__)).parent / "static"
NAMES = sorted(path.name for path in STATIC.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_files(name: str) -> None:
    path = "/" if name == "index.html" else f"/{name}"
    found, head = served(path), served(path, "HEAD")
    assert (found.status, found.body) == (200, (STATIC / name).read_bytes())
    assert (head.status, head.headers, head.body) == (200, found.headers, b"")
    assert found.headers["content-length"] == str(len(found.body))
    assert found.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'; script-src 'self';" in found.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["/index.html", "/../app.py", "/static/page.js", "//", "/page.js/", "/a/page.js", "/é"]
)
def test_nothing_else(path: str) -> None:
    found = served(path)
    assert found.status == 404
    assert "content-security-policy" in found.headers


def test_stray_files_are_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("page.js", "page.js~", ".DS_Store"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(app_module, "_STATIC", tmp_path)
    assert list(app_module._files.__wrapped__()) == ["page.js"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_only_get_and_head(method: str) -> None:
    assert served("/", method).status == 404


def test_what_is_known_is_not_sent_again() -> None:
    etag = served("/page.js").headers["etag"]
    again = served("/page.js", if_none_match=f'W/"other", {etag}')
    assert (again.status, again.body) == (304, b"")
    assert served("/flow.js", if_none_match=etag).status == 200
    assert served("/page.js").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("prefix", ["", "/air/flow"])
def test_mounted(prefix: str) -> None:
    client = TestClient(Starlette(routes=[Mount("/cio-flow", app)]), root_path=prefix)
    assert client.get(f"{prefix}/cio-flow/").headers["content-type"] == "text/html; charset=utf-8"
    assert client.get(f"{prefix}/cio-flow/flow.js?v=1").text == (STATIC / "flow.js").read_text()
    assert client.get(f"{prefix}/cio-flow/nothing").status_code == 404


def test_nothing_from_elsewhere() -> None:
    """Every address in the files is relative; only the name of SVG's elements looks like one."""
    for name in NAMES:
        text = (STATIC / name).read_text()
        assert set(re.findall(r"\w+://[^\"' ]+", text)) <= {"http://www.w3.org/2000/svg"}, name
        assert re.findall(r"(?:href|src)=\"(/[^\"]*)\"|style=\"|<script>|eval\(|innerHTML", text) == [], name

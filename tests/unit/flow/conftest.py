"""Fixtures of the picture's tests: a page of Chromium, started once for a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.browser import chromium, page_of
from tests.unit.flow.support import ORIGIN

PATIENCE = 20_000  # milliseconds


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    if chromium() is None:
        pytest.skip("there is no chromium: apt-get install chromium fonts-dejavu-core")
    with page_of(ORIGIN) as page:
        expect.set_options(timeout=PATIENCE)
        page.set_default_timeout(PATIENCE)
        yield page


@pytest.fixture
def page(browser_page: Page) -> Iterator[Page]:
    """As new: without routes and without what was stored."""
    yield browser_page
    if browser_page.url.startswith(ORIGIN):
        browser_page.evaluate("localStorage.clear()")
    browser_page.unroute_all()
    browser_page.goto("about:blank")

"""Fixtures of the picture's tests: Chromium, started once for a module, and a page of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser import HEIGHT, WIDTH, chromium, page_of
from tests.unit.flow.support import ORIGIN

PATIENCE = 20_000  # milliseconds


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if chromium() is None:
        pytest.skip("there is no chromium: apt-get install chromium fonts-dejavu-core")
    with page_of(ORIGIN) as page:
        assert page.context.browser is not None
        expect.set_options(timeout=PATIENCE)
        yield page.context.browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open a new page: nothing is stored, and the clock is right."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, locale="en-US", timezone_id="UTC")
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()

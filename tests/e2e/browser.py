"""Steps of a person in Airflow's UI. Every element is found by its role and its label."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect, sync_playwright

WIDTH, HEIGHT, FORM_HEIGHT = 1280, 800, 1600
PATIENCE = 90_000  # milliseconds; a page that has loaded its code is quick, but a busy machine is not


def chromium() -> str | None:
    """Return the path of Debian's Chromium, if it is installed."""
    return shutil.which("chromium")


@contextmanager
def page_of(url: str) -> Iterator[Page]:
    """Open an empty page of a headless Chromium. Relative addresses start at this Airflow."""
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(),
            # Without the sandbox, which a container's root can't use; without GPU and calls home.
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
            timeout=PATIENCE,
        )
        context = browser.new_context(
            base_url=url,
            viewport={"width": WIDTH, "height": HEIGHT},
            locale="en-US",
            timezone_id="UTC",
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write"],
        )
        context.set_default_timeout(PATIENCE)
        yield context.new_page()
        browser.close()


class UI:
    """
    Airflow's UI in one page of a browser.

    :param pictures: the folder for screenshots.
    """

    def __init__(self, page: Page, pictures: Path) -> None:
        self.page = page
        self.pictures = pictures

    def picture(self, name: str, form: Locator | None = None) -> None:
        """Take a screenshot of the window, or of a whole form."""
        path = self.pictures / f"{name}.png"
        if form is None:
            self.page.screenshot(path=path, animations="disabled")
            return
        self.page.set_viewport_size({"width": WIDTH, "height": FORM_HEIGHT})
        form.screenshot(path=path, animations="disabled")
        self.page.set_viewport_size({"width": WIDTH, "height": HEIGHT})

    # Connections

    def open_form(self, conn_id: str, kind: str) -> Locator:
        """Open Admin > Connections > Add Connection, and fill the two fields that every connection has.

        :param kind: its name, as people see it.
        """
        self.page.goto("/connections")
        self.page.get_by_role("button", name="Add Connection").click()
        form = self.page.get_by_role("dialog")
        form.get_by_role("textbox", name="Connection ID").fill(conn_id)
        form.get_by_role("combobox", name="Connection Type").fill(kind)
        self.page.get_by_role("option", name=kind, exact=True).click()
        expect(form.get_by_role("spinbutton", name="Port")).to_be_visible()
        return form

    def open_extra_fields(self, form: Locator) -> None:
        """Unfold the extra fields; the standard fields fold."""
        form.get_by_role("button", name="Extra Fields", exact=True).click()
        expect(form.get_by_role("spinbutton", name="Port")).to_be_hidden()

    def save(self, form: Locator) -> None:
        """Save the connection, and see that it is stored."""
        form.get_by_role("button", name="Save").click()
        expect(self.page.get_by_role("status", name="Create Connection Request Submitted")).to_be_visible()
        expect(form).to_be_hidden()

    def test_connection(self, conn_id: str, picture: str | None = None) -> list[str]:
        """Press Test in the list of connections; return the title and the text of Airflow's message."""
        self.page.goto("/connections")
        row = self.page.get_by_role("row", name=conn_id)
        row.get_by_role("button", name="Test Connection").click()
        notice = self.page.get_by_role("status", name="Test Connection")
        said = notice.inner_text()
        if picture is not None:
            notice.hover()  # it moves in, and it goes away by itself; under the mouse it stays
            self.picture(picture)
        return said.split("\n", 1)

    # Runs

    def trigger(self, dag_id: str, dates: Mapping[str, str]) -> None:
        """Trigger the DAG by Dags > the DAG > Trigger, with a date for each field of this title."""
        self.page.goto(f"/dags/{dag_id}")
        self.page.get_by_role("button", name="Trigger Dag").click()
        form = self.page.get_by_role("dialog").filter(has=self.page.get_by_role("heading"))
        for title, day in dates.items():
            form.get_by_role("group").filter(has_text=re.compile(f"^{title}")).get_by_role("textbox").fill(day)
        form.get_by_role("button", name="Trigger").click()
        expect(form).to_be_hidden()

    def backfill(self, dag_id: str, first: str, last: str, picture: str) -> None:
        """Backfill by Dags > the DAG > Trigger > Backfill, from a date to another, both inclusive."""
        self.page.goto(f"/dags/{dag_id}")
        self.page.get_by_role("button", name="Trigger Dag").click()
        form = self.page.get_by_role("dialog").filter(has=self.page.get_by_role("heading"))
        form.get_by_text("Backfill", exact=True).click()
        for label, day in (("From", first), ("To", last)):
            form.get_by_role("group").filter(has_text=re.compile(f"^{label}")).click()
            field = self.page.get_by_role("textbox", name=label)
            field.fill(day.replace("-", "/"))
            field.press("Enter")
            self.page.keyboard.press("Escape")
            expect(field).to_be_hidden()
        expect(form.get_by_text(re.compile(r"\d+ runs? will be triggered"))).to_be_visible()
        unpause = form.get_by_role("checkbox", name="Unpause")
        expect(unpause).to_be_checked()
        self.picture(picture, form)  # as the docs advise; here, unpaused by hand once all runs are there
        form.get_by_text("Unpause").click()
        expect(unpause).not_to_be_checked()
        form.get_by_role("button", name="Run Backfill").click()
        expect(self.page.get_by_role("status", name="Backfill generated").first).to_be_visible()
        expect(form).to_be_hidden()

    def unpause(self) -> None:
        """Flip the switch of the DAG whose page is open, and leave the page, which works hard while a DAG runs."""
        heading = self.page.get_by_role("heading").filter(has=self.page.get_by_role("checkbox"))
        heading.locator("label").click()
        expect(heading.get_by_role("checkbox")).to_be_checked()
        self.page.goto("about:blank")

    def open_task(self, dag_id: str, day_after: str, task_id: str, picture: str) -> None:
        """Open the task by Dags > the DAG > Runs > the run.

        :param day_after: the day that the data interval ends on: Airflow names a run by it.
        """
        self.page.goto(f"/dags/{dag_id}/runs")
        row = self.page.get_by_role("row", name=f"backfill__{day_after}")
        expect(row.get_by_role("cell", name="Success")).to_be_visible()
        row.get_by_role("link", name=f"backfill__{day_after}").click()
        row = self.page.get_by_role("row", name=task_id)
        expect(row.get_by_role("cell", name="Success")).to_be_visible()
        row.get_by_role("link", name=task_id).click()
        done = self.page.get_by_text(re.compile(r"^[\d,]+ events sent \("))
        expect(done).to_be_visible()
        self.page.keyboard.press("w")  # wraps long lines
        assert done.evaluate("line => line.getBoundingClientRect().right <= innerWidth"), "the line is cut"
        self.picture(picture)

    def rendered_templates(self, picture: str) -> dict[str, str]:
        """Return the texts of the Copy buttons in the open task's tab Rendered Templates, by the name of the field."""
        self.page.get_by_role("link", name="Rendered Templates").click()
        rows = self.page.get_by_role("table").get_by_role("row")
        expect(rows.first.get_by_role("code")).to_be_visible()
        self.picture(picture)
        return {row.get_by_role("cell").first.inner_text(): self._copy(row) for row in rows.all()}

    def result(self, picture: str) -> Any:
        """Return the text of the Copy button of the returned value in the open task's tab Storage > XCom."""
        self.page.get_by_role("link", name="Storage").click()
        self.page.get_by_role("link", name="XCom").click()
        row = self.page.get_by_role("row", name="return_value")
        self.page.get_by_role("button", name="Expand").click()
        expect(row.get_by_text('"events"')).to_be_visible()
        self.picture(picture)
        return json.loads(self._copy(row))

    def _copy(self, row: Locator) -> str:
        """Press Copy, and return the copied text."""
        row.get_by_role("button", name="Copy to clipboard").click()
        expect(row.get_by_role("button", name="Copied to clipboard")).to_be_visible()
        return str(self.page.evaluate("navigator.clipboard.readText()"))

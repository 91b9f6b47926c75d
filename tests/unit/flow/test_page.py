"""The whole page in Chromium, under a prefix and its own strict policy, with a fake Airflow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.unit.flow.support import DAG, DAY, FIRST, ORIGIN, PREFIX, MadeUp, Server, moment, result

URL = f"{ORIGIN}{PREFIX}/cio-flow/"
UNTIL = "&days=30&until=2026-11-20"


@pytest.fixture(autouse=True)
def no_errors(page: Page) -> Iterator[None]:
    """Assert that the page has no error, and tries nothing that its policy forbids."""
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    yield
    assert [text for text in found if "Failed to load resource" not in text] == []


@pytest.fixture
def made() -> MadeUp:
    """Make twenty days: two never ran, one failed, one had refused events, the last waits."""
    one = MadeUp()
    for i in range(20):
        start = FIRST + i * DAY
        if i in (4, 5):
            continue
        if i == 9:
            one.add(start, "failed")
        elif i == 12:
            one.add(start, "failed", kept=result(start, refused={"event_too_large": 2}))
        else:
            one.add(start, None if i == 19 else "success")
    return one


def words(page: Page, of: str = DAG) -> list[str]:
    page.locator("#tasks[aria-busy=false]").wait_for()
    return page.get_by_role("region", name=of, exact=True).locator(".words li").all_inner_texts()


def test_words_and_links(page: Page, made: MadeUp) -> None:
    Server(page, made)
    page.goto(f"{URL}?dag_id={DAG}{UNTIL}")
    assert words(page) == [
        "16 of 20 intervals are done",
        "2 never ran: 2026-11-05 to 2026-11-06 (2 intervals)",
        "1 failed: 2026-11-10",
        "1 with refused events: 2026-11-13 (event_too_large 2)",
        "1 not done yet: 2026-11-20",
        "Airflow keeps no run from before 2026-11-01.",
    ]
    page.get_by_role("link", name="2026-11-10").click()
    expect(page).to_have_url(f"{ORIGIN}{PREFIX}/dags/{DAG}/runs/scheduled__2026-11-10T00%3A00%3A00Z/tasks/{DAG}")


def test_the_keyboard(page: Page, made: MadeUp) -> None:
    Server(page, made)
    page.goto(f"{URL}?dag_id={DAG}{UNTIL}")
    words(page)
    page.get_by_role("application").focus()
    line = page.locator(".line")
    page.keyboard.press("End")
    expect(line).to_have_text("2026-11-20: not done yet")
    page.keyboard.press("ArrowLeft")
    expect(line).to_contain_text("2026-11-19: done; 140 events: Email Delivered 100, Email Opened 40")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("runs/scheduled__2026-11-01"))


def test_the_mouse(page: Page, made: MadeUp) -> None:
    Server(page, made)
    page.goto(f"{URL}?dag_id={DAG}{UNTIL}")
    words(page)
    canvas = page.get_by_role("application")
    size = canvas.bounding_box()
    assert size is not None
    canvas.hover(position={"x": size["width"] * 12.5 / 20, "y": 100})
    expect(page.locator(".line")).to_contain_text("2026-11-13: done, events refused")
    expect(page.locator(".line")).to_contain_text("refused: event_too_large 2; skipped: other_channel 7")


def test_the_table(page: Page, made: MadeUp) -> None:
    Server(page, made)
    page.goto(f"{URL}?dag_id={DAG}{UNTIL}")
    words(page)
    page.get_by_role("button", name="Table").click()
    rows = page.get_by_role("table").get_by_role("row")
    expect(rows).to_have_count(1 + 19)  # the two that are missing are one
    assert rows.nth(1).get_by_role("cell").all_inner_texts()[:2] == ["2026-11-20", "not done yet"]
    assert rows.nth(2).get_by_role("cell").all_inner_texts() == [
        "2026-11-19", "done", "100", "40", "0", "other_channel 7"
    ]  # fmt: skip


def test_the_second_visit_reads_no_result(page: Page, made: MadeUp) -> None:
    """The second visit reads only the result of a run that was cleared in between, because its instance is new."""
    server = Server(page, made)
    page.goto(f"{URL}?dag_id={DAG}{UNTIL}")
    first = words(page)
    assert sum("xcomEntries" in path for path in server.asked) == 17
    server.asked.clear()
    page.reload()
    assert words(page) == first
    assert [path for path in server.asked if "xcomEntries" in path or "assets" in path] == []
    assert len(server.asked) == 6
    made.results[made.instances[0]["id"]] = result(FIRST, refused={"malformed": 1})
    made.instances[0]["id"] = "of another try"
    page.reload()
    assert "2 with refused events: 2026-11-01 (malformed 1), 2026-11-13 (event_too_large 2)" in words(page)
    assert sum("xcomEntries" in path for path in server.asked) == 1


def test_asset_events_save_requests(page: Page, made: MadeUp) -> None:
    class WithAssets(Server):
        def _asset_events(self, dag_id: str, offset: int) -> list[Any]:
            events = [
                {
                    "source_run_id": one["dag_run_id"],
                    "source_map_index": -1,
                    "timestamp": moment(FIRST + 40 * DAY if "11-02" in one["id"] else FIRST - DAY),
                    "extra": result(FIRST + DAY, refused={"malformed": 5}),
                }
                for one in made.instances[:2]  # the first event is of an earlier run of what was cleared since
            ]
            return events[::-1][offset:]

    server = WithAssets(page, made)
    page.goto(f"{URL}?dag_id={DAG}{UNTIL}")
    assert "2026-11-02 (malformed 5), 2026-11-13" in words(page)[3]
    assert sum("xcomEntries" in path for path in server.asked) == 16


def test_three_rhythms(page: Page) -> None:
    hours, days = MadeUp("hourly"), MadeUp("daily")
    for i in range(48):
        if i != 7:
            hours.add(FIRST + i * timedelta(hours=1), length=timedelta(hours=1))
    for i in (0, 2):
        ages = {"Email Opened": {"1d": 3, "30d": 1}}
        days.add(FIRST + i * DAY, kept=result(FIRST + i * DAY, ages=ages))
    server = Server(page, hours, days)
    page.goto(f"{URL}?days=30&until=2026-11-20")
    assert "1 never ran: 2026-11-01 07:00 to 08:00" in words(page, "hourly, task customerio_to_segment")
    assert "1 never ran: 2026-11-02" in words(page, "daily, task customerio_to_segment")
    cells = page.locator("#ages").get_by_role("cell").all_inner_texts()
    assert cells == ["Email Opened", "8", "0 %", "75 %", "75 %", "75 %", "100 %"]
    page.locator("#choice summary").click()
    page.get_by_role("checkbox", name="daily").uncheck()
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile(r"\?days=30&until=2026-11-20&dag_id=hourly$"))
    assert server.refuse == {}


@pytest.mark.parametrize(
    ("part", "status", "said"),
    [
        ("xcomEntries", 403, "You may not read XComs, so there are no counts. Not read: 17."),
        ("dags", 403, f"DAG {DAG}: you may not read it."),
        (DAG, 404, f"DAG {DAG}: Airflow does not know it."),
        ("dags", 401, "You are not signed in. Sign in to Airflow, and load this page again."),
        ("dagRuns/list", 500, "The picture can't be drawn: Airflow answered 500 to dags/~/dagRuns/list"),
    ],
)
def test_what_is_refused(page: Page, made: MadeUp, part: str, status: int, said: str) -> None:
    Server(page, made).refuse = {part: status}
    page.goto(f"{URL}?dag_id={DAG}{UNTIL}")
    expect(page.get_by_text(said)).to_be_visible()
    if part == "xcomEntries":
        assert words(page)[1] == "2 never ran: 2026-11-05 to 2026-11-06 (2 intervals)"


def test_one_bad_dag_leaves_the_others(page: Page, made: MadeUp) -> None:
    Server(page, made, MadeUp("secret"), MadeUp("gone")).refuse = {"dags/secret": 403, "dags/gone": 404}
    page.goto(f"{URL}?dag_id=secret&dag_id={DAG}&dag_id=gone{UNTIL}")
    assert words(page)[0] == "16 of 20 intervals are done"
    said = page.locator(".problem").all_inner_texts()
    assert said == ["DAG secret: you may not read it.", "DAG gone: Airflow does not know it."]


NEXT = {
    "next_dagrun_data_interval_start": moment(FIRST),
    "next_dagrun_data_interval_end": moment(FIRST + DAY),
    "next_dagrun_run_after": moment(FIRST + DAY),
}


def test_a_paused_dag_misses_nothing(page: Page, made: MadeUp) -> None:
    made.dag = NEXT | {
        "is_paused": True,
        "next_dagrun_data_interval_start": moment(FIRST + 20 * DAY),
        "next_dagrun_data_interval_end": moment(FIRST + 21 * DAY),
    }
    Server(page, made)
    page.clock.set_fixed_time(FIRST + 25 * DAY)
    page.goto(f"{URL}?dag_id={DAG}&days=30")
    said = words(page)
    assert "2 never ran: 2026-11-05 to 2026-11-06 (2 intervals)" in said
    assert said[-1] == "The run of 2026-11-21 is due, but the DAG is paused."


def test_dags_without_runs(page: Page, made: MadeUp) -> None:
    """They take one line, unless somebody chose them, or a run is late."""
    late = MadeUp("late", dag=NEXT)
    paused = MadeUp("paused", dag=NEXT | {"is_paused": True})
    Server(page, MadeUp("new"), paused, made, late)
    page.clock.set_fixed_time(FIRST + 20 * DAY)
    page.goto(f"{URL}?days=30")
    assert words(page)[0] == "16 of 20 intervals are done"
    assert words(page, "late, task customerio_to_segment")[1:] == [
        "20 never ran: 2026-11-01 to 2026-11-20 (20 intervals)",
        "No run is known in these days.",
        "The run of 2026-11-01 is due, but Airflow has not made it. Does its scheduler run?",
    ]
    idle = page.get_by_text("No run in these days: ")
    expect(idle).to_have_text(
        "No run in these days: new, task customerio_to_segment, paused, task customerio_to_segment."
    )
    assert page.locator("#tasks section:visible").count() == 2
    page.goto(f"{URL}?days=30&dag_id=new")
    assert words(page, "new, task customerio_to_segment") == ["No run is known in these days."]
    expect(idle).to_be_hidden()


def test_ten_dags_at_once(page: Page) -> None:
    many = [MadeUp(f"dag{i}") for i in range(12)]
    for one in many:
        one.days(2)
    Server(page, *many)
    page.goto(f"{URL}?{UNTIL}")
    expect(page.get_by_text("10 of 12 DAGs are shown. Choose others under DAGs.")).to_be_visible()
    page.locator("#choice summary").click()
    assert page.locator("#dags input:checked").count() == 10
    page.get_by_role("checkbox", name="dag11").check()
    page.get_by_role("button", name="Show").click()
    page.locator("#tasks[aria-busy=false]").wait_for()
    assert page.locator("#tasks section").count() == 11
    expect(page.get_by_text("DAGs are shown")).to_have_count(0)


def test_without_storage(page: Page, made: MadeUp) -> None:
    """A browser may deny it. Then each visit reads all results."""
    Server(page, made)
    page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no'); }})")
    page.goto(f"{URL}?dag_id={DAG}{UNTIL}")
    assert words(page)[0] == "16 of 20 intervals are done"


def test_a_token_only_after_a_401(page: Page, made: MadeUp) -> None:
    """The page tries the cookie first, because a token in the browser may come from an older Airflow."""
    server = Server(page, made)
    page.goto(f"{ORIGIN}{PREFIX}/")
    page.evaluate("localStorage.setItem('token', '\"left.behind\"')")
    page.goto(f"{URL}?dag_id={DAG}{UNTIL}")
    words(page)
    assert [one for one in server.headers if "authorization" in one] == []
    server.headers.clear()
    server.refuse = {"dags": 401}
    page.reload()
    expect(page.get_by_text("You are not signed in.")).to_be_visible()
    assert {one.get("authorization") for one in server.headers} == {None, "Bearer left.behind"}


def test_an_old_airflow_takes_a_token_only(page: Page, made: MadeUp) -> None:
    """Before Airflow 3.1.1, requests under way at the same time are all repeated, and later ones are sent only once."""

    class Old(Server):
        def _api(self, route: Route, path: str) -> None:
            self.refuse = {} if route.request.headers.get("authorization") == "Bearer good" else {"": 401}
            super()._api(route, path)

    server = Old(page, made, MadeUp("other"))
    page.goto(f"{ORIGIN}{PREFIX}/")
    page.evaluate("localStorage.setItem('token', 'good')")
    page.goto(f"{URL}?dag_id={DAG}&dag_id=other{UNTIL}")
    assert words(page)[0] == "16 of 20 intervals are done"
    assert server.asked.count("dags") == 2
    assert sum("xcomEntries" in path for path in server.asked) == 17


AT_ONCE = """async (dag) => {
  const real = fetch;
  let now = 0, most = 0;
  window.fetch = async (...options) => {
    most = Math.max(most, ++now);
    try { return await real(...options); } finally { now -= 1; }
  };
  const { dagOf } = await import("./airflow.js");
  const found = await Promise.allSettled(Array.from({ length: 14 }, (_, i) => dagOf(i % 3 ? dag : "none")));
  window.fetch = real;
  return [most, found.filter(({ status }) => status === "fulfilled").length];
}"""


def test_four_requests_at_a_time(page: Page, made: MadeUp) -> None:
    """A failed request gives its place to the next, too."""
    server = Server(page, made)
    server.refuse = {"none": 404}
    page.goto(f"{URL}icon.svg")
    assert page.evaluate(AT_ONCE, DAG) == [4, 9]


def test_earlier_and_later(page: Page, made: MadeUp) -> None:
    Server(page, made)
    page.clock.set_fixed_time("2026-11-21T06:00:00Z")
    page.goto(f"{URL}?dag_id={DAG}&days=30")
    words(page)
    page.get_by_role("button", name="Earlier").click()  # with all of the day in which the first page began
    expect(page).to_have_url(f"{URL}?dag_id={DAG}&days=30&until=2026-10-22")
    words(page)
    page.get_by_role("button", name="Earlier").click()
    expect(page).to_have_url(f"{URL}?dag_id={DAG}&days=30&until=2026-09-22")
    words(page)
    page.get_by_role("button", name="Later").click()
    expect(page).to_have_url(f"{URL}?dag_id={DAG}&days=30&until=2026-10-22")
    words(page)
    page.get_by_role("button", name="Later").click()
    expect(page).to_have_url(f"{URL}?dag_id={DAG}&days=30")


def test_light_and_dark_as_airflow(page: Page, made: MadeUp) -> None:
    Server(page, made)
    page.goto(f"{ORIGIN}{PREFIX}/")
    for theme in ("dark", "light"):
        page.evaluate("theme => localStorage.setItem('theme', theme)", theme)
        page.goto(f"{URL}?dag_id={DAG}{UNTIL}")
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == theme
    page.evaluate("localStorage.removeItem('theme')")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.emulate_media(color_scheme="dark")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_in_a_frame_a_link_opens_the_whole_page(page: Page, made: MadeUp) -> None:
    """The page in Airflow's frame may open nothing by itself."""
    Server(page, made)
    page.goto(f"{ORIGIN}{PREFIX}/")
    page.evaluate(
        """url => { const frame = document.createElement("iframe"); frame.src = url;
        frame.setAttribute("sandbox", "allow-scripts allow-same-origin allow-forms"); document.body.append(frame); }""",
        f"{URL}?dag_id={DAG}{UNTIL}",
    )
    frame = page.frame_locator("iframe")
    frame.get_by_role("link", name="2026-11-10").click()
    expect(page).to_have_url(re.compile(f"^{ORIGIN}{PREFIX}/dags/{DAG}/runs/scheduled__2026-11-10"))


def test_days_without_a_run_give_way(page: Page) -> None:
    """Without recent runs the picture ends with the newest run, whatever day it is today."""
    made = MadeUp()
    made.days(20, FIRST.replace(year=2021))
    Server(page, made)
    page.goto(f"{URL}?dag_id={DAG}")
    assert words(page)[0] == "All 20 intervals are done"
    expect(page.locator(".ticks span").first).to_have_text("2021-11-01")


def test_a_year_is_quick(page: Page) -> None:
    """A year has 8,760 hourly intervals, all drawn; at most a thousand results are read."""
    hours = MadeUp()
    for i in range(365 * 24):
        hours.add(FIRST + (i - 365 * 24) * timedelta(hours=1), length=timedelta(hours=1))
    Server(page, hours).refuse = {"xcomEntries": 403}
    page.goto(f"{URL}?dag_id={DAG}&days=365&until=2026-10-31")
    assert words(page)[0] == "All 8,760 intervals are done; the counts of 8,760 are not read yet"


READ = """async ([first, count, shown]) => {
  const { Reader } = await import("./airflow.js");
  const instances = Array.from({ length: count }, (_, i) => ({
    id: `${first + i}`, dag_run_id: `run${first + i}`, map_index: -1, state: "success",
    run_after: new Date((first + i) * 3_600_000).toISOString(), start_date: new Date(0).toISOString(),
  }));
  const asked = [];
  window.fetch = async (url) => {
    const [, run] = url.pathname.match(/run(\\d+)/) ?? [];
    if (run) asked.push(Number(run));
    return { ok: true, json: async () => (run ? { value: null } : { asset_events: [] }) };
  };
  const [from, to] = shown ?? [first, first + count];
  const reader = new Reader("dag", "task", instances, ({ id }) => id >= from && id < to);
  await reader.read(() => {});
  return [asked, reader.unread.length, reader.note || ""];
}"""


def test_what_is_read_is_kept(page: Page) -> None:
    """Two visits read the newest 2,000. The third one reads nothing."""
    Server(page)
    page.goto(f"{URL}icon.svg")
    said = "Counts of the newest 2,000 intervals are kept in this browser; the others are not read."
    newest = list(range(2999, 999, -1))
    assert page.evaluate(READ, [0, 3000, None]) == [newest[:1000], 1000, said]
    assert page.evaluate(READ, [0, 3000, None]) == [newest[1000:], 0, said]
    assert page.evaluate(READ, [0, 3000, None]) == [[], 0, said]


def test_the_days_that_are_shown_are_read_first(page: Page) -> None:
    """A visit to old days leaves what is kept of newer ones."""
    Server(page)
    page.goto(f"{URL}icon.svg")
    assert page.evaluate(READ, [2990, 10, None]) == [list(range(2999, 2989, -1)), 0, ""]
    asked, left, note = page.evaluate(READ, [0, 2990, [100, 200]])
    assert asked == [*range(199, 99, -1), *range(2989, 2089, -1)]
    assert (left, note) == (1000, "")
    assert page.evaluate(READ, [2990, 10, None]) == [[], 0, ""]


def test_old_days_come_first(page: Page, made: MadeUp) -> None:
    server = Server(page, made)
    page.goto(f"{URL}?dag_id={DAG}&days=30&until=2026-11-03")
    assert words(page)[0] == "All 3 intervals are done"
    first = [path for path in server.asked if "xcomEntries" in path][:3]
    assert sorted(path.split("scheduled__")[1][:10] for path in first) == ["2026-11-01", "2026-11-02", "2026-11-03"]


def test_asset_events_are_asked_for_back_to_the_first_start(page: Page, made: MadeUp) -> None:
    """The oldest run may have been cleared, and so have started last."""
    asked = []

    class WithAssets(Server):
        def _asset_events(self, dag_id: str, offset: int) -> list[Any]:
            asked.append(offset)
            return [{"source_run_id": "other", "timestamp": moment(FIRST + 60 * DAY - offset * DAY / 10)}] * 100

    made.instances[0]["start_date"] = moment(FIRST + 59 * DAY)
    WithAssets(page, made)
    page.goto(f"{URL}?dag_id={DAG}{UNTIL}")
    words(page)
    assert len(asked) == 7

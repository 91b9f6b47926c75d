from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cio import costs
from airflow_provider_cio.costs import AGES, DAY, HOUR, MONTH, PLANS, Rhythm, Run, Seen, main, read_results, seen
from airflow_provider_cio.customerio.client import PAGE_SIZE, CustomerIOClient
from airflow_provider_cio.customerio.names import NAME_LISTS
from airflow_provider_cio.customerio.windows import CREATED_LATE
from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.operators.assembly import build_pipeline
from airflow_provider_cio.operators.options import MAX_LOOKBACK, Options
from airflow_provider_cio.pipeline import ages
from tests.benchmarks.run_reading import Nowhere
from tests.sandbox import History, Sandbox

PAGE = Path(__file__).parents[2] / "docs" / "costs.md"
ONE, THREE = PLANS["one hourly DAG, look-back of 30 days"], PLANS["three rhythms"]
NOON = 1_793_534_400
RESULT: dict[str, Any] = {
    "interval": {"start": "2026-11-05T00:00:00Z", "end": "2026-11-05T01:00:00Z"},
    "read": {"requests": 1108, "deliveries": 1_001_412},
    "events": {"Email Opened": 400, "Email Bounced": 0},
    "ages": {"Email Opened": {"1h": 200, "1d": 100, "7d": 60, "30d": 40}},
}

Said = Callable[..., str]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Said:
    """Return what the command prints on a file of these lines."""

    def run(*lines: object, options: str = "") -> str:
        path = tmp_path / "results.jsonl"
        path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines))
        try:
            main([str(path), *options.split()])
        except SystemExit:
            return capsys.readouterr().err
        return capsys.readouterr().out

    return run


def cells(output: str, start: str) -> list[str]:
    (row,) = [line for line in output.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def test_docs_show_what_the_command_prints() -> None:
    (command,) = re.findall(r"^python (-m .*--deliveries-a-month .*)$", PAGE.read_text(), re.M)
    ran = subprocess.run([sys.executable, *shlex.split(command)], capture_output=True, text=True, check=True)
    tables = [part for part in ran.stdout.split("\n\n") if part.startswith("|")]
    assert len(tables) == 4
    assert [table for table in tables if f"\n\n{table.strip()}\n\n" not in PAGE.read_text()] == []


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, airflow_provider_cio.costs; print(*{name.partition('.')[0] for name in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"airflow", "msgspec", "requests", "socket"}.isdisjoint(ran.stdout.split())


def test_defaults_are_the_provider_s() -> None:
    assert (PAGE_SIZE, CREATED_LATE, len(NAME_LISTS)) == (costs.PAGE_SIZE, costs.CREATED_LATE, costs.NAME_LISTS)
    assert timedelta(seconds=costs.SETTLING_TIME) == Options().settling_time
    assert timedelta(seconds=costs.LONGEST) == MAX_LOOKBACK
    assert {one.lookback for one in ONE.values()} == {Options().lookback.total_seconds()}
    assert {*AGES, *costs.BEYOND} == {*ages._UP_TO, ages._OLDER, ages._UNKNOWN}
    assert ages._UP_TO == AGES
    per_second = inspect.signature(CustomerIOClient).parameters["requests_per_second"].default
    assert per_second == costs.REQUESTS_PER_SECOND


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Run a sandbox with a thousand deliveries a day."""
    start = NOON - 11 * DAY
    history = History.generate(
        deliveries=12_000, start=start, end=start + 12 * DAY, burst=0.0, channels=["email"], drafts=0.0, lean=True
    )
    with Sandbox(history) as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    "rhythm", [Rhythm(HOUR, 0, 10 * DAY), Rhythm(HOUR, 0, DAY), Rhythm(DAY, 0, 7 * DAY), Rhythm(DAY, DAY, 7 * DAY)]
)
def test_runs_need_the_estimated_requests(sandbox: Sandbox, rhythm: Rhythm) -> None:
    """With pages of 100 rows, a thousand deliveries a day take the requests of ten thousand.

    Their number depends a little on the order in which answers come: one rhythm took 84 to 88 in 25 runs.
    """
    options = Options(lookback=timedelta(seconds=rhythm.lookback), older_than=timedelta(seconds=rhythm.older_than))
    interval = Interval(NOON - rhythm.every, NOON)
    with CustomerIOClient(sandbox.settings.app_key, base_url=sandbox.url, requests_per_second=1000) as client:
        pipeline = build_pipeline(
            client, Nowhere(), options, interval, mode="first", message_id_namespace="costs", page_size=100
        )
        result = pipeline.run()
    assert result.work["requests"] == pytest.approx(rhythm.requests(300_000), rel=0.1, abs=3)
    (read,) = read_results([json.dumps(result.as_dict())])
    assert read == Run(rhythm.every, result.tally.read["deliveries"], result.as_dict()["ages"])
    assert read.ages


def test_rhythms_share_all_ages() -> None:
    bounds = [(one.older_than, one.lookback) for one in THREE.values()]
    assert bounds == [(0, DAY), (DAY, 7 * DAY), (7 * DAY, 180 * DAY)]


@given(st.dictionaries(st.sampled_from(list(AGES)), st.integers(0, 10**9)).filter(lambda counts: any(counts.values())))
def test_shares_add_up(counts: dict[str, int]) -> None:
    for rhythms in PLANS.values():
        found = seen(rhythms.values(), counts)
        assert found.never is not None
        assert found.within[-1] + found.never == pytest.approx(1)
        assert sorted(found.within) == list(found.within)


def test_a_rhythm_sees_its_own_ages_after_its_interval() -> None:
    counts = {"1h": 1, "1d": 2, "2d": 3, "7d": 4, "30d": 5, "90d": 6, "180d": 4}
    assert seen(THREE.values(), counts) == Seen((3 / 25, 10 / 25, 25 / 25), 0)
    assert seen(ONE.values(), counts) == Seen((15 / 25, 15 / 25, 15 / 25), 10 / 25)


def test_costs_are_summed_over_days(said: Said) -> None:
    out = said(RESULT, options="--deliveries-a-month 1000000")
    hourly, daily, weekly = (one.requests(1_000_000) for one in THREE.values())
    assert cells(out, "three rhythms")[1].startswith(f"{hourly * 24 + daily + weekly / 7:,.0f} ")
    assert cells(out, "one hourly DAG")[1].startswith(f"{24 * 1108:,} (55 min)")


def test_deliveries_come_from_the_results(said: Said) -> None:
    lookback = 30 * DAY + HOUR + CREATED_LATE
    assert f"| {1_001_412 * MONTH / lookback:,.0f} deliveries a month" in said(RESULT, "", RESULT)


def test_shares_come_from_the_results(said: Said) -> None:
    out = said(RESULT, options="--lookback 30")
    assert cells(out, "Email Opened, one hourly") == ["100.0%", "100.0%", "100.0%", "unknown"]
    assert cells(out, "Email Opened, three") == ["75.0%", "90.0%", "100.0%", "0.0%"]
    assert "Assumed" not in out
    out = said(RESULT, options="--lookback 180")
    assert cells(out, "Email Opened, one hourly") == ["100.0%", "100.0%", "100.0%", "0.0%"]


def test_events_beyond_any_look_back_are_left_out(said: Said) -> None:
    older = RESULT | {"ages": {"Email Opened": {"1h": 1, "older": 5, "unknown": 2}}}
    assert cells(said(older), "Email Opened, three")[0] == "100.0%"


def test_ages_beyond_the_look_back_are_pointed_at(said: Said) -> None:
    assert "--lookback" in said(RESULT, options="--lookback 7")
    assert "--lookback" not in said(RESULT, options="--lookback 8")


def test_no_events_tell_nothing(said: Said) -> None:
    assert "nothing of ages" in said(RESULT | {"ages": {}})


def test_too_many_requests_are_called_too_much(said: Said) -> None:
    out = said(RESULT, options="--deliveries-a-month 100000000")
    assert cells(out, "one hourly DAG")[-2:] != cells(out, "one daily DAG")[-2:]
    assert out.count("too much") == 1


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("{", "line 2 is no JSON: write each result on one line"),
        ("9" * 5000, "line 2 is no JSON"),
        ("[" * 100_000, "line 2 is no JSON"),
        ([RESULT], "line 2: the line must be an object, got a list: give the XCom return_value"),
        ({"value": RESULT}, "line 2: interval must be an object, got nothing"),
        (RESULT | {"interval": {"start": 3}}, "line 2: interval.end must be a time such as '2026-11-01T00:00:00Z'"),
        (
            RESULT | {"interval": {"start": "2026-11-05", "end": "2026-11-05T00:00:00Z"}},
            "line 2: interval.end must be later than interval.start",
        ),
        (RESULT | {"read": {"requests": 3}}, "line 2: read.deliveries must be a number from 0, got nothing"),
        (RESULT | {"read": {"deliveries": True}}, "line 2: read.deliveries must be a number from 0, got true or false"),
        ({key: RESULT[key] for key in ("interval", "read")}, "line 2: it has no ages"),
        (RESULT | {"ages": {"Email Opened": 3}}, "line 2: ages of Email Opened must be an object, got a number"),
        (
            RESULT | {"ages": {"Email Opened": {"1h": -1}}},
            "line 2: ages of Email Opened, 1h must be a number from 0",
        ),
        (RESULT | {"ages": {"Email Opened": {"3h": 1}}}, "line 2: ages of Email Opened: there is no age '3h', but 1h"),
    ],
)
def test_a_wrong_line_is_named(said: Said, line: object, error: str) -> None:
    assert error in said(RESULT, line)


def test_what_is_missing_is_asked_for(said: Said, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no result: write the XCom return_value" in said("")
    for arguments, error in (
        ([], "give a file of results, or --deliveries-a-month"),
        ([str(tmp_path / "none")], "No such file"),
        (["--deliveries-a-month", "1e6"], "must be a whole number from 1"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert error in capsys.readouterr().err

"""docs/guarantees.md lists every bound, with the figures of the code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_cio.customerio import client as customerio
from airflow_provider_cio.customerio import paging, reader
from airflow_provider_cio.events import interval, occurrence
from airflow_provider_cio.exceptions import ConfigurationError
from airflow_provider_cio.hooks.customerio import CustomerIOHook
from airflow_provider_cio.hooks.segment import SegmentHook
from airflow_provider_cio.http import errors, session
from airflow_provider_cio.http.transport import Retries
from airflow_provider_cio.operators import waiting
from airflow_provider_cio.pipeline import dead_letters, result
from airflow_provider_cio.segment import client as segment
from airflow_provider_cio.stream import app, intake, stream, unverified
from tests.unit.test_docs import table

MIB, MINUTE, DAY = 2**20, 60, 86_400
WORDS = {1: "a", 4: "four", 10: "ten"}


def whole(value: float, unit: float) -> int:
    """Return a constant in the unit of the docs, which must divide it."""
    assert value % unit == 0
    return int(value // unit)


@pytest.fixture
def timeout(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setenv("AIRFLOW_CONN_CUSTOMERIO_DEFAULT", json.dumps({"conn_type": "customerio", "password": "key"}))
    return CustomerIOHook().settings.timeout


@pytest.fixture
def range_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], str]:
    """Return a function that returns the range of a field, as the error for a value outside it shows it."""

    def asked(hook: Any, field: str) -> str:
        for kind in ("customerio", "segment_source"):
            fields = {"conn_type": kind, "password": "key", "extra": {field: -1}}
            monkeypatch.setenv(f"AIRFLOW_CONN_{kind.split('_')[0].upper()}_DEFAULT", json.dumps(fields))
        with pytest.raises(ConfigurationError) as caught:
            _ = hook().settings
        (found,) = re.findall(r"from ([\d.]+) to ([\d.e+]+)", str(caught.value))
        return f"{found[0]} to {float(found[1]):,.10g}"

    return asked


def test_figures(timeout: float, range_of: Callable[[Any, str], str]) -> None:
    expected = {
        "a whole answer": (
            f"{WORDS[session.TIMEOUTS_PER_ANSWER]} [time-outs]",
            f"{timeout * session.TIMEOUTS_PER_ANSWER:g} seconds",
        ),
        "silence within": (f"{timeout:g} seconds",),
        "an answer of Customer.io": (f"{whole(customerio._LARGEST_ANSWER, MIB)} MiB",),
        "an answer of Segment": (f"{whole(segment._LARGEST_ANSWER, MIB)} MiB",),
        "an answer on the wire": (f"{whole(session.LARGEST_ON_THE_WIRE, MIB)} MiB",),
        "the explanation": (f"{errors.LONGEST_EXPLANATION:,} bytes",),
        "a text of a service": (f"{errors._LONGEST_TEXT} characters",),
        "the repetition": (f"{WORDS[whole(Retries().total, MINUTE)]} minutes",),
        "a wait that": (
            f"{whole(errors._LONGEST_WAIT, DAY)} days",
            f"{WORDS[whole(Retries().total, MINUTE)]} minutes",
            f"for {WORDS[whole(waiting._LONGEST, DAY)]} day at most",
        ),
        "names in a log": (f"{occurrence.MOST_NAMED}; {stream._MOST_NAMES}; {result._NAMED_IDS}",),
        "cookies": ("none",),
        "`timeout`": (f"{range_of(CustomerIOHook, 'timeout')} s", f"{range_of(SegmentHook, 'timeout')} s"),
        "`requests_per_second`": (
            f"{range_of(CustomerIOHook, 'requests_per_second')};",
            f"{range_of(SegmentHook, 'events_per_second')}, or 0",
        ),
        "bounds of an interval": (f"{interval._YEARS[0]} to {interval._YEARS[-1]}",),
        "pages in a row": (f"{paging.MAX_IDLE_PAGES}",),
        "pages of deliveries": (f"{reader.MAX_PAGES:,}",),
        "empty pages": (f"{reader.MAX_EMPTY_ACTIVITY_PAGES}",),
        "a list of names": (
            f"{customerio._MAX_PAGES_OF_NAMES:,} pages",
            f"{whole(customerio._LARGEST_ANSWER, MIB)} MiB",
        ),
        "a body that": (
            f"{whole(app.MAX_BODY, MIB)} MiB",
            f"{whole(app.MAX_BODY_WITH_CONTENT, MIB)} MiB with",
            f"{app.BODY_WITHIN} s",
        ),
        "reports of a stream": (f"{intake.MAX_WAITING_ITEMS:,}", f"{whole(intake.MAX_WAITING_BYTES, MIB)} MiB"),
        "all bodies": (f"{whole(unverified.MOST, MIB)} MiB",),
        "a part of": (f"{dead_letters._LONGEST_PART} bytes",),
    }
    documented = {of: bound for of, bound, *_ in table("guarantees.md", "Bounds")}
    assert len(documented) == len(expected)
    for name, figures in expected.items():
        (bound,) = [bound for of, bound in documented.items() if of.startswith(name)]
        for figure in figures:
            assert re.search(rf"(?<![\d.,]){re.escape(figure)}(?![.,]?\d)", bound), (name, figure)

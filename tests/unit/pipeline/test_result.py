"""The result of a run shows no text of a service that has not been masked and cut."""

from __future__ import annotations

from airflow_provider_cio.events.interval import Interval
from airflow_provider_cio.pipeline.result import Result, Tally


def test_ids_pass_the_gate() -> None:
    result = Result(Interval(0, 1), Tally())
    for one in ("d1", "jane@example.com", "two\nlines", "x" * 300_000, None):
        result.refuse("malformed", one, "Expected `str`")
    text = result.refusals()
    assert result.refused == {"malformed": 5}
    assert "jane" not in text
    assert "\n" not in text
    assert len(text) < 500
    assert text.startswith("malformed: 5 (first ids: d1, <address>, two lines, xxx")

"""Check the metrics that StatsD gets from a process with Airflow's settings in its environment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.statsd import Listener, listening, run


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as listener:
        yield listener


def test_metrics_reach_statsd(listener: Listener) -> None:
    code = """
count("events", 3, {"collection": "email_opened", "dag_id": "a"})
count("events")
count("nothing", 0)  # a zero is not sent
timing("duration", 1.5, {"dag_id": "a"})
count("skipped", 1, {"reason": "unknown_metric email.a b,c=d:e|f"})  # Airflow would drop it with such a tag
count("blocked")
"""
    run(code, listener, AIRFLOW__METRICS__STATSD_PREFIX="ours", AIRFLOW__METRICS__METRICS_BLOCK_LIST="customerio.bl")
    assert listener.received() == [
        "ours.customerio.events,collection=email_opened,dag_id=a:3|c",
        "ours.customerio.events:1|c",
        "ours.customerio.duration,dag_id=a:1500.000000|ms",
        "ours.customerio.skipped,reason=unknown_metric_email.a_b_c_d_e_f:1|c",
    ]


@pytest.mark.parametrize(
    ("broken", "settings"),
    [
        ("", {"AIRFLOW__METRICS__STATSD_ON": "False"}),
        ("import sys; sys.modules['airflow.providers.common.compat.sdk'] = None", {}),  # the import has moved
        ("import statsd; statsd.StatsClient.incr = None", {}),  # the back end fails
    ],
    ids=["off", "moved", "failing"],
)
def test_missing_metrics_are_harmless(listener: Listener, broken: str, settings: dict[str, str]) -> None:
    run(f'{broken}\ncount("events"); count("events", tags={{"a": "b"}})', listener, **settings)
    assert listener.received() == []

"""Run the examples of docs/hooks.md as they are."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.sandbox import History, Sandbox, Settings

PAGE = Path(__file__).parents[3] / "docs" / "hooks.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
DAY = 86_400
START = 1_793_491_200  # 2026-11-01T00:00:00Z
INTERVAL = {
    "data_interval_start": datetime.fromtimestamp(START + DAY, UTC),
    "data_interval_end": datetime.fromtimestamp(START + 2 * DAY, UTC),
}


SETTINGS = Settings(now=START + 5 * DAY)
HISTORY = History.generate(seed=4, deliveries=2000, start=START, end=START + 3 * DAY)


def run(name: str, **parameters: Any) -> Any:
    """Run the example that defines the task of this name, like a real run."""
    [example] = [one for one in EXAMPLES if f"def {name}(" in one]
    namespace: dict[str, Any] = {}
    exec(compile(example, f"{PAGE.name}: {name}", "exec"), namespace)
    return namespace[name].function(**parameters)


def created_within(sandbox: Sandbox) -> list[dict[str, Any]]:
    start, end = START + DAY, START + 2 * DAY
    rows = [
        json.loads(data) for at, data in enumerate(sandbox.history.rows.data) if not sandbox.history.rows.is_draft(at)
    ]
    return [row for row in rows if row["type"] == "email" and start <= row["created"] < end]


def test_deliveries(sandbox: Sandbox) -> None:
    found = run("count_bounced", **INTERVAL)
    assert found == sum("bounced" in row["metrics"] for row in created_within(sandbox)) > 0


def test_activities(sandbox: Sandbox) -> None:
    rows = [row for row in sandbox.history.activities.rows() if row["type"] == "clicked_email"]
    rows = [row for row in rows if START + DAY <= row["timestamp"] < START + 2 * DAY]
    expected = Counter(row["data"].get("href") or row["data"].get("link") for row in rows)
    assert dict(run("most_clicked", **INTERVAL)) == dict(expected)
    assert expected


def test_malformed_rows(sandbox: Sandbox) -> None:
    assert run("count_malformed", **INTERVAL) == 0
    sandbox.settings = Settings(now=START + 5 * DAY, odd_deliveries=1.0, odd_kinds=("delivery.metrics:null",))
    assert run("count_malformed", **INTERVAL) == len(created_within(sandbox))


def test_sending(sandbox: Sandbox) -> None:
    expected = [row for row in created_within(sandbox) if row["customer_id"] and "bounced" in row["metrics"]]
    assert run("send_bounced", **INTERVAL)["events"] == len(expected)
    assert {one["messageId"] for one in sandbox.segment.kept} == {f"bounced-{row['id']}" for row in expected}
    assert expected


def test_a_reporting_webhook(sandbox: Sandbox) -> None:
    assert run("subscribe")["enabled"] is False
    [webhook] = sandbox.customerio.webhooks.by_id.values()
    assert (webhook.name, webhook.events) == ("main", ["email_opened", "email_clicked"])


def test_each_example_is_run_here() -> None:
    names = {name for example in EXAMPLES for name in re.findall(r"^def (\w+)\(", example, re.MULTILINE)}
    run_here = set(re.findall(r'run\("(\w+)"', Path(__file__).read_text()))
    assert names == run_here
    assert len(EXAMPLES) == len(names) == 5

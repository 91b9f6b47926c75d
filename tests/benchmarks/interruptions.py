"""Measure the share of an interval that is sent again after a real Airflow has interrupted the task."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.figures import Figure
from tests.e2e.compare import differences
from tests.e2e.interruptions import LATER, TIMEOUT, play

WHAT = {
    "killed": f"SIGKILL {LATER:.0f} s after a checkpoint",
    "timed_out": f"execution_timeout of {TIMEOUT:.0f} s",
    "restarted": "the API server restarted",
}


def measure(quick: bool) -> Iterator[Figure]:
    """Measure. Quick mode takes as long, because most of it is waiting for Airflow."""
    stories = play(say=lambda line: None)
    for case, what in WHAT.items():
        story = stories.of(case)
        wrong = differences(stories.truth, story.kept)
        yield Figure(
            "Interrupted in a real Airflow: work of about 14 s, a checkpoint every 5 s",
            f"{what}: percent sent again",
            100 * story.again,
            "{:.0f}",
            note=(
                f"{len(story.repeated):,} of {len(story.kept):,} events, all of them kept once; "
                f"{story.task['try_number']} tries, the last sent {story.result['sent']['events']:,}"
            ),
            wrong="; ".join(wrong[:3]),
            details={"kept": len(story.kept), "repeated": len(story.repeated), "tries": story.task["try_number"]},
        )

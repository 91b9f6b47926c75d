"""A task that is interrupted in mid-run in a real Airflow: its retry completes the interval and sends only the rest."""

import pytest

from tests.e2e.compare import differences
from tests.e2e.interruptions import CASES, CLEARING_DISCARDS_STATE, TASKS_OUTLIVE_SIGTERM, Stories, play

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(800)]

#: The cases whose last try goes on where the one before was.
RESUMED = [
    *("killed", "timed_out"),
    *([] if TASKS_OUTLIVE_SIGTERM else ["worker_stopped"]),
    "state_kept" if CLEARING_DISCARDS_STATE else "marked_failed",
]


@pytest.fixture(scope="module")
def stories() -> Stories:
    return play(print)


@pytest.mark.parametrize("case", CASES)
def test_the_interval_is_complete(stories: Stories, case: str) -> None:
    story = stories.of(case)
    assert story.task["state"] == "success"
    assert differences(stories.truth, story.kept) == []
    assert len(story.kept) > 1000
    assert story.checkpoints == 0


@pytest.mark.parametrize("case", RESUMED)
def test_a_retry_sends_only_the_rest(stories: Stories, case: str) -> None:
    story = stories.of(case)
    print(f"{case}: {story.task['try_number']} tries, {story.again:.0%} was sent again")
    assert story.task["try_number"] > 1
    assert story.result["resumed"] is True
    assert story.result["sent"]["events"] == len(story.kept)  # of all tries
    # Twelve windows are open at a time, of about thirty, and each further try may be interrupted too.
    assert story.again / (story.task["try_number"] - 1) < 0.7


@pytest.mark.parametrize("case", ["marked_failed"] if TASKS_OUTLIVE_SIGTERM else ["worker_stopped", "marked_failed"])
def test_interrupted_task_ends_itself(stories: Stories, case: str) -> None:
    """SIGKILL would come some seconds later, after `[core] killed_task_cleanup_time` since Airflow 3.4."""
    log = stories.of(case).first_log
    assert "The task was killed." in log
    assert "SIGKILL" not in log
    print(f"{case}: it ended {stories.seconds_to_end[case]:.1f} s after it was told to")


@pytest.mark.skipif(not TASKS_OUTLIVE_SIGTERM, reason="before Airflow 3.4 SIGTERM is passed on to the task")
def test_task_outlives_sigterm(stories: Stories) -> None:
    story = stories.of("worker_stopped")
    assert "The task was killed." not in story.first_log
    assert story.task["try_number"] == 1
    assert story.repeated == []


@pytest.mark.skipif(not CLEARING_DISCARDS_STATE, reason="before Airflow 3.4 a cleared task keeps its state")
def test_cleared_task_starts_over(stories: Stories) -> None:
    story = stories.of("marked_failed")
    assert story.task["try_number"] == 2
    assert "resumed" not in story.result
    assert story.result["sent"]["events"] == len(story.kept)
    assert len(story.repeated) > 100  # what the first try had sent


def test_api_server_restart(stories: Stories) -> None:
    story = stories.of("restarted")
    assert story.task["try_number"] == 1
    assert story.repeated == []

"""A task that is interrupted in mid-run in a real Airflow: its retry completes the interval and sends only the rest."""

import pytest

from tests.e2e.compare import differences
from tests.e2e.interruptions import CASES, Stories, play

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def stories() -> Stories:
    return play(print)


@pytest.mark.parametrize("case", CASES)
def test_the_interval_is_complete(stories: Stories, case: str) -> None:
    story = stories.cases[case]
    assert story.task["state"] == "success"
    assert differences(stories.truth, story.kept) == []
    assert len(story.kept) > 1000
    assert story.checkpoints == 0


@pytest.mark.parametrize("case", ["killed", "timed_out", "worker_stopped", "marked_failed"])
def test_a_retry_sends_only_the_rest(stories: Stories, case: str) -> None:
    story = stories.cases[case]
    print(f"{case}: {story.task['try_number']} tries, {story.again:.0%} was sent again")
    assert story.task["try_number"] > 1
    assert story.result["resumed"] is True
    assert story.result["sent"]["events"] == len(story.kept)  # of all tries
    # Twelve windows are open at a time, of about thirty, and each further try may be interrupted too.
    assert story.again / (story.task["try_number"] - 1) < 0.7


@pytest.mark.parametrize("case", ["worker_stopped", "marked_failed"])
def test_interrupted_task_ends_itself(stories: Stories, case: str) -> None:
    """SIGKILL would come five seconds later."""
    log = stories.cases[case].first_log
    assert "The task was killed." in log
    assert "SIGKILL" not in log
    print(f"{case}: it ended {stories.seconds_to_end[case]:.1f} s after it was told to")


def test_api_server_restart(stories: Stories) -> None:
    story = stories.cases["restarted"]
    assert story.task["try_number"] == 1
    assert story.repeated == []

"""What is done and what is left, against brute force over single seconds."""

from __future__ import annotations

import itertools
import json
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cio.events.interval import Window
from airflow_provider_cio.pipeline.checkpoint import Checkpoint, State
from airflow_provider_cio.pipeline.result import Tally

Second = tuple[str, bool, int]

some_windows = st.lists(
    st.builds(
        lambda channel, start, length, drafts: Window(channel, start, start + length, drafts),
        st.sampled_from(["email", "push"]),
        st.integers(0, 30),
        st.integers(1, 12),
        st.booleans(),
    ),
    max_size=8,
)


def seconds(windows: list[Window]) -> set[Second]:
    return {(window.channel, window.drafts, second) for window in windows for second in range(window.start, window.end)}


def add(checkpoint: Checkpoint, windows: list[Window]) -> None:
    for window in windows:
        checkpoint.add(window, Tally(read=Counter(deliveries=1)))


def state_of(checkpoint: Checkpoint) -> State:
    return checkpoint.state({"requests": 3})


def done(*windows: Window) -> Checkpoint:
    checkpoint = Checkpoint("f")
    add(checkpoint, list(windows))
    return checkpoint


@given(added=st.lists(some_windows, max_size=4), planned=some_windows)
def test_the_rest_is_what_was_not_added(added: list[list[Window]], planned: list[Window]) -> None:
    checkpoint = Checkpoint("f")
    for some in added:
        add(checkpoint, some)
    finished = {second for some in added for second in seconds(some)}
    for window in planned:
        rest = checkpoint.rest([window])
        assert all(piece.start < piece.end for piece in rest)
        assert seconds(rest) == seconds([window]) - finished
        assert len(seconds(rest)) == sum(piece.end - piece.start for piece in rest)
    assert checkpoint.rest(planned) == [piece for window in planned for piece in checkpoint.rest([window])]
    assert bool(checkpoint) == bool(finished)


@given(added=st.lists(some_windows, max_size=4), planned=some_windows)
def test_a_later_try_knows_what_an_earlier_one_has_stored(added: list[list[Window]], planned: list[Window]) -> None:
    earlier = Checkpoint("f")
    for some in added:
        add(earlier, some)
    state = json.loads(json.dumps(state_of(earlier)))
    later = Checkpoint("f", state)
    assert later.rest(planned) == earlier.rest(planned)
    assert state_of(later) == state_of(earlier) == state
    add(later, planned)  # and goes on from there
    assert later.rest(planned) == []


@given(some_windows)
def test_what_meets_becomes_one(windows: list[Window]) -> None:
    """So the state is as small as it can be, whatever the order in which windows ended."""
    state = state_of(done(*windows))["done"]
    for earlier, later in itertools.pairwise(Window(*one) for one in state):
        assert (earlier.channel, earlier.drafts) != (later.channel, later.drafts) or earlier.end < later.start
    assert len({(one[0], one[3]) for one in state}) <= len(state)


def test_it_stays_small_in_a_run_of_many_windows() -> None:
    """Ten thousand windows that end in any order of a dozen chains."""
    checkpoint = Checkpoint("f" * 32)
    largest = 0
    pieces = [Window("email", 1_790_000_000 + n * 60, 1_790_000_000 + (n + 1) * 60) for n in range(10_000)]
    for first in range(0, len(pieces), 12):
        add(checkpoint, pieces[first : first + 12][::2])
        largest = max(largest, len(json.dumps(state_of(checkpoint))))
        add(checkpoint, pieces[first : first + 12][1::2])
    assert largest < 1000
    assert len(state_of(checkpoint)["done"]) == 1


@given(some_windows)
def test_another_fingerprint_and_what_is_no_state_are_ignored(windows: list[Window]) -> None:
    state = state_of(done(*windows))
    for checkpoint in (Checkpoint("g", state), Checkpoint("f", None), Checkpoint("f", "x"), Checkpoint("f", {})):
        assert not checkpoint
        assert seconds(checkpoint.rest(windows)) == seconds(windows)
    assert Checkpoint("f", state | {"version": 1}).rest(windows) == Checkpoint("f").rest(windows)


@given(some_windows)
def test_counts_are_of_the_windows_that_are_done(windows: list[Window]) -> None:
    checkpoint = Checkpoint("f", json.loads(json.dumps(state_of(done(*windows)))))
    assert checkpoint.tally.read["deliveries"] == len(windows)
    assert checkpoint.work == {"requests": 3}
    for second in range(45):
        for drafts in (True, False):
            window = Window("email", 0, 45, drafts)
            assert checkpoint.covers(window, second) == (("email", drafts, second) in seconds(windows))

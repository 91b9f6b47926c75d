"""Compare checkpoints with brute force over seconds."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from typing import Any

import pytest
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


def test_windows_a_second_apart_stay_apart() -> None:
    checkpoint = done(Window("email", 0, 5), Window("email", 6, 9))
    assert checkpoint.rest([Window("email", 0, 9)]) == [Window("email", 5, 6)]
    assert not checkpoint.covers(Window("email", 0, 9), 5)


def done(*windows: Window) -> Checkpoint:
    checkpoint = Checkpoint("f")
    add(checkpoint, list(windows))
    return checkpoint


@given(added=st.lists(some_windows, max_size=4), planned=some_windows)
def test_rest_is_unfinished_windows(added: list[list[Window]], planned: list[Window]) -> None:
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
def test_state_survives_storing(added: list[list[Window]], planned: list[Window]) -> None:
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
def test_adjacent_windows_are_joined(windows: list[Window]) -> None:
    """The state is as small as it can be, in whatever order the windows ended."""
    state = state_of(done(*windows))["done"]
    for earlier, later in itertools.pairwise(Window(*one) for one in state):
        assert (earlier.channel, earlier.drafts) != (later.channel, later.drafts) or earlier.end < later.start
    assert len({(one[0], one[3]) for one in state}) <= len(state)


def test_state_stays_small() -> None:
    """Ten thousand windows end in any order of a dozen chains."""
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
def test_foreign_state_is_ignored(windows: list[Window]) -> None:
    state = state_of(done(*windows))
    for checkpoint in (Checkpoint("g", state), Checkpoint("f", None), Checkpoint("f", "x"), Checkpoint("f", {})):
        assert not checkpoint
        assert seconds(checkpoint.rest(windows)) == seconds(windows)
    assert Checkpoint("f", state | {"version": 1}).rest(windows) == Checkpoint("f").rest(windows)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(10**400), 10**400])
    | st.floats()
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=6,
)
#: A state that fits, whatever is in place of one of its members.
WHOLE: State = {
    "version": 3,
    "fingerprint": "f",
    "done": [["email", 1_790_000_000, 1_790_000_060, False], ["push", 1_790_000_000, 1_790_003_600, True]],
    "tally": {"read": {"deliveries": 2}, "events": {"Email Opened": 1}, "skipped": {}, "ages": {"Email Opened: 1h": 1}},
    "work": {"requests": 3},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all members, however deep."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


def damaged(place: tuple[Any, ...], by: Any) -> Any:
    """Return the whole state with another value in one place; without this place if it is ``gone``."""
    if not place:
        return by
    state = json.loads(json.dumps(WHOLE))
    at = functools.reduce(lambda inner, key: inner[key], place[:-1], state)
    if by == "gone":
        del at[place[-1]]
    else:
        at[place[-1]] = by
    return state


@given(place=st.sampled_from(places(WHOLE)), by=json_values | st.just("gone"))
def test_a_damaged_state_counts_as_none(place: tuple[Any, ...], by: Any) -> None:
    checkpoint = Checkpoint("f", damaged(place, by))
    windows = [Window("email", 1_789_999_000, 1_790_010_000), Window("push", 1_790_000_000, 1_790_000_030, True)]
    assert sum(piece.end - piece.start for piece in checkpoint.rest(windows)) >= 0
    checkpoint.covers(windows[0], 1_790_000_001)
    add(checkpoint, windows)
    assert checkpoint.rest(windows) == []
    json.dumps(checkpoint.state(checkpoint.work + Counter(requests=1)))
    assert all(count >= 0 for counts in checkpoint.tally.as_dict().values() for count in counts.values())


@pytest.mark.parametrize(
    ("place", "by"),
    [
        (("version",), "2"),
        (("fingerprint",), None),
        (("done",), "gone"),
        (("done",), None),
        (("done",), {}),
        (("done", 0), []),
        (("done", 0), ["email", 1]),
        (("done", 0), ["email", 1, 2, False, 4]),
        (("done", 0, 0), None),
        (("done", 0, 1), "1790000000"),
        (("done", 0, 1), -1),
        (("done", 0, 1), 1_790_000_060),
        (("done", 0, 2), 10**400),
        (("done", 0, 2), 1e400),
        (("done", 0, 3), 0),
        (("tally",), []),
        (("tally", "read"), "gone"),
        (("tally", "ages"), "gone"),
        (("tally", "events"), [["Email Opened", 1]]),
        (("tally", "events", "Email Opened"), True),
        (("tally", "events", "Email Opened"), -1),
        (("tally", "read", "deliveries"), 2**62),
        (("work",), None),
        (("work", "requests"), 2**62),
        (("work", "requests"), {}),
    ],
)
def test_nothing_of_a_damaged_state_is_used(place: tuple[Any, ...], by: Any) -> None:
    assert Checkpoint("f", WHOLE)
    checkpoint = Checkpoint("f", damaged(place, by))
    assert not checkpoint
    assert (checkpoint.tally, checkpoint.work) == (Tally(), Counter())


def test_windows_in_any_order_are_put_in_order() -> None:
    window = Window("email", 0, 10)
    state = WHOLE | {"done": [["email", 6, 8, False], ["email", 2, 5, False], ["email", 3, 4, False]]}
    assert Checkpoint("f", state).rest([window]) == [
        window._replace(end=2),
        Window("email", 5, 6),
        Window("email", 8, 10),
    ]


@given(some_windows)
def test_counts_cover_finished_windows(windows: list[Window]) -> None:
    checkpoint = Checkpoint("f", json.loads(json.dumps(state_of(done(*windows)))))
    assert checkpoint.tally.read["deliveries"] == len(windows)
    assert checkpoint.work == {"requests": 3}
    for second in range(45):
        for drafts in (True, False):
            window = Window("email", 0, 45, drafts)
            assert checkpoint.covers(window, second) == (("email", drafts, second) in seconds(windows))

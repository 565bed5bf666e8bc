"""Claims about a run's states, its ancestors and its trace."""

from __future__ import annotations

from typing import get_args

import pytest

from gateway.core.errors import Undecodable
from gateway.core.life import TRANSITIONS, Event, State, ancestors, move, trace_id


def test_a_killed_or_paused_run_goes_on_only_when_it_is_resumed() -> None:
    """No event but `resume` leads from killed or paused to a state that is served."""
    for state in ("killed", "paused"):
        served = {event for event in get_args(Event) if move(state, event) in ("active", "waiting")}
        assert {"resume"} == served


def test_a_later_call_reopens_an_ended_run() -> None:
    """An idle run ends, the next call makes it active again (design.md section 3)."""
    assert move("active", "idle") == "ended"
    assert move("ended", "call") == "active"


def test_idle_time_does_not_end_a_run_that_is_stopped() -> None:
    """Else the next call would reopen it past the stop."""
    assert [None] * 3 == [move(state, "idle") for state in ("waiting", "paused", "killed")]


def test_the_table_names_known_states_and_events_only() -> None:
    """Every state can be left and can be ended by a kill."""
    states, events = set(get_args(State)), set(get_args(Event))
    assert states == {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values())
    assert events == {event for _, event in TRANSITIONS}
    assert {"killed"} == {move(state, "kill") for state in get_args(State)}


def test_ancestors_come_nearest_first() -> None:
    """The order decides which budget's refusal is told (design.md section 2)."""
    parents = {"c": "b", "b": "a"}
    assert ("b", "a") == ancestors("c", parents.get)
    assert () == ancestors("a", parents.get)


@pytest.mark.parametrize("parents", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "c", "c": "b"}])
def test_a_run_is_never_its_own_ancestor(parents: dict[str, str]) -> None:
    """A circle of any length is refused with 400."""
    with pytest.raises(Undecodable, match="own ancestor") as caught:
        ancestors("a", parents.get)
    assert 400 == caught.value.status


def test_a_tree_has_sixteen_floors_at_most() -> None:
    """Sixteen ancestors are served, the seventeenth is refused."""
    parents = {str(depth): str(depth - 1) for depth in range(1, 18)}
    assert 16 == len(ancestors("16", parents.get))
    with pytest.raises(Undecodable):
        ancestors("17", parents.get)


def test_a_trace_id_depends_on_the_run_alone() -> None:
    """32 hex characters, the same after every restart, another for another run."""
    assert trace_id("run_1") == trace_id("run_1")
    assert trace_id("run_1") != trace_id("run_2")
    assert 32 == len(trace_id("run_1")) == len(f"{int(trace_id('run_1'), 16):032x}")

"""Tests of core/live.py."""

from functools import partial

from gateway.core.live import Live, OpenCall, killed
from gateway.core.types import Refusal


def opened(call_id: str = "c1", line: tuple[str, ...] = ("child", "root"), agent: str | None = "a") -> OpenCall:
    return OpenCall(call_id, line, agent, "u")


def test_killing_a_run_ends_its_descendants_calls():
    """Stopping a run runs the aborts of its own and its children's open calls, and of no other (R-084)."""
    live = Live()
    ended: list[str] = []
    for call in (opened("c1"), opened("c2", ("root",)), opened("c3", ("other",))):
        call.on_stop(partial(ended.append, call.call_id))
        live.enter(call)
    assert live.stop_run("root", "enough") == 2
    assert sorted(ended) == ["c1", "c2"]


def test_a_call_that_settled_is_not_stopped():
    """A call that has left is out of reach."""
    live = Live()
    live.enter(opened())
    live.leave("c1")
    assert live.stop_run("root", "late") == 0


def test_an_abort_that_comes_late_runs_at_once():
    """An upstream that opens after the client left is closed at once."""
    call, ended = opened(), []
    call.leave()
    call.on_stop(lambda: ended.append(1))
    assert ended == [1]


def test_the_first_reason_stays():
    """A second stop neither changes the reason nor aborts twice."""
    call, ended = opened(), []
    call.on_stop(lambda: ended.append(1))
    call.stop(Refusal(403, "first", ""))
    call.stop(Refusal(403, "second", ""))
    assert call.refusal is not None
    assert call.refusal.code == "first"
    assert ended == [1]


def test_agents_users_and_all_can_be_stopped():
    """stop_all reaches by agent, by user, and everything."""
    live = Live()
    live.enter(opened("c1", agent="a"))
    live.enter(opened("c2", agent="b"))
    assert live.stop_all("agent", "a", "x") == 1
    assert live.stop_all("user", "u", "x") == 2
    assert live.stop_all("global", "", "x") == 2


def test_the_reason_given_to_kill_is_in_the_refusal():
    """A killed run's message contains the operator's reason."""
    assert "runaway at 3 a.m." in killed("runaway at 3 a.m.").message

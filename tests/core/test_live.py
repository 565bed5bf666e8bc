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


def test_a_call_that_began_after_the_kill_goes_on():
    """`until`: a kill that is heard of late ends only what was open when it was given."""
    live = Live()
    for call_id in ("c1", "c2", "c3"):
        live.enter(opened(call_id))
    assert 2 == live.stop_run("root", "late", "c2~")
    assert 2 == live.stop_all("agent", "a", "late", "c2~")
    assert 3 == live.stop_all("global", "", "late")


def test_own_calls_are_told_from_others():
    """Open ones, and the latest that have left, where that is asked for."""
    live, forgetful = Live(kept=2), Live()
    for call_id in ("c1", "c2", "c3"):
        live.enter(opened(call_id))
        forgetful.enter(opened(call_id))
    assert live.mine("c1")
    for call_id in ("c1", "c2", "c3"):
        live.leave(call_id)
        forgetful.leave(call_id)
    assert [False, True, True, False] == [live.mine(call_id) for call_id in ("c1", "c2", "c3", "c4")]
    assert not forgetful.mine("c3")

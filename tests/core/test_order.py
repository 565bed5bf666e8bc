"""Tests of core/order.py."""

from gateway.core.errors import StoreFailed, Undecodable
from gateway.core.order import explain, scope_of, turned_away
from gateway.core.types import Balance, Denied

BALANCE = Balance("run/r1/nusd", limit=1_000_000_000, spent=900_000_000, held=50_000_000)


def test_held_money_is_not_shown_as_spent():
    """spent, held, limit and needed are four numbers, in the message and apart (R-086)."""
    refusal = explain(Denied("run/r1/nusd", "nusd", "limit", BALANCE, needed=70_000_000), "r1", None)
    assert (402, "insufficient_quota") == (refusal.status, refusal.code)
    assert (900_000_000, 50_000_000, 1_000_000_000, 70_000_000) == (
        refusal.spent,
        refusal.held,
        refusal.limit,
        refusal.needed,
    )
    assert "has spent $0.9 of its $1 limit, $0.05 more is held" in refusal.message


def test_a_killed_run_is_refused_with_the_reason():
    """A closed gate gives run_killed and the operator's words (R-084)."""
    refusal = explain(Denied("run/r1", "nusd", "closed", why="looping"), "r1", None)
    assert (403, "run_killed") == (refusal.status, refusal.code)
    assert "looping" in refusal.message


def test_a_full_line_is_overload_not_poverty():
    """Too many waiting calls give a retryable 503, never a budget refusal."""
    refusal = explain(Denied("run/r1/nusd", "nusd", "busy"), "r1", None)
    assert (503, True) == (refusal.status, refusal.retryable)


def test_scopes_are_named_as_the_api_names_them():
    """Accounts become the words of details.scope."""
    assert scope_of("run/r1/nusd") == "run"
    assert scope_of("agent/research/nusd/2026-11-20") == "agent:research"
    assert scope_of("global/all/nusd") == "global"


def test_other_units_have_codes_of_their_own():
    """A limit of calls is limit_calls."""
    refusal = explain(Denied("run/r1/calls", "calls", "limit", BALANCE), "r1", None)
    assert (refusal.code, refusal.unit) == ("limit_calls", "calls")


def test_a_store_in_trouble_is_a_retryable_503():
    """Nothing is served without the ledger."""
    refusal = turned_away(StoreFailed("disk full"))
    assert (503, "store_unavailable", 2) == (refusal.status, refusal.code, refusal.retry_after_s)
    assert turned_away(Undecodable("no model")).status == 400


def test_a_parents_limit_is_not_called_the_runs_own():
    """Run `1` refused by its parent `run-1` reads whose budget it was; a tenant's own run is still its own."""
    balance = Balance("run/run-1/nusd", limit=1, spent=1, held=0)
    assert "The budget of run run-1" in explain(Denied("run/run-1/nusd", "nusd", "limit", balance), "1", None).message
    assert "This run has" in explain(Denied("run/team~1/nusd", "nusd", "limit", balance), "1", None).message

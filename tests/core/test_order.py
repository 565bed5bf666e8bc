"""Tests of core/order.py."""

from __future__ import annotations

import pytest

from gateway.core.errors import StoreFailed, Undecodable
from gateway.core.ledger.engine import LAST_USED
from gateway.core.order import explain, turned_away
from gateway.core.refusal import details
from gateway.core.types import Balance, Denied, Unit

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


@pytest.mark.parametrize(
    ("unit", "spent", "held", "says"),
    [
        ("calls", 10, 2, "has made 10 of its 10 calls, 2 more in flight."),
        ("calls", 10, 0, "has made 10 of its 10 calls."),
        ("tool_calls", 12, 0, "has asked for 12 tool calls; its limit is 10."),
        ("tokens", 9, 0, "has used 9 of its 10 tokens; this call needs up to 7."),
        ("tokens", 3, 5, "has used 3 of its 10 tokens, 5 more are held by calls in flight; this call needs up to 7."),
        ("seconds", 11, 0, "has been going for 11 seconds; its limit is 10."),
    ],
)
def test_every_unit_has_a_code_and_words_of_its_own(unit: Unit, spent: int, held: int, says: str):
    """limit_<unit>, the five numbers in their own fields, dollars null (http.md section 3)."""
    balance = Balance(f"run/r1/{unit}", limit=10, spent=spent, held=held)
    refusal = explain(Denied(f"run/r1/{unit}", unit, "limit", balance, needed=7), "r1", None)
    assert (402, f"limit_{unit}", False) == (refusal.status, refusal.code, refusal.retryable)
    assert refusal.message.startswith(f"This run {says} Don't retry")
    assert "meterbox budget r1" in refusal.message and "$" not in refusal.message
    told = details(refusal)
    assert (unit, 10, spent, held, 7) == tuple(told[name] for name in ("unit", "limit", "used", "held", "needed"))
    assert {None} == {told[name] for name in ("limit_usd", "spent_usd", "held_usd", "needed_usd", "resets_at")}


@pytest.mark.parametrize(
    ("account", "whose", "scope"),
    [
        ("run/team~r1/nusd", "This run has", "run"),
        ("run/team~r0/nusd", "The budget of the parent run r0 has", "run"),
        ("run/1/nusd", "The budget of the parent run 1 has", "run"),
        ("agent/a%2Fb/nusd", "The budget of agent a/b has", "agent:a/b"),
        ("user/ann/nusd", "The budget of user ann has", "user:ann"),
        ("key/team/nusd", "The budget of key team has", "key:team"),
        ("global/all/nusd", "The budget of all runs together has", "global"),
    ],
)
def test_the_refusal_says_whose_limit_it_was(account: str, whose: str, scope: str):
    """A parent's limit is not called the run's own, also where the ids look alike; details.scope has its word."""
    refusal = explain(Denied(account, "nusd", "limit", Balance(account, 1, 1, 0)), "r1", None)
    assert refusal.message.startswith(whose) and scope == refusal.scope
    command = {"run/team~r1/nusd": " r1", "run/team~r0/nusd": " r0", "run/1/nusd": " 1"}.get(account, "")
    assert refusal.message.endswith(f"raise the budget (meterbox budget{command}).")


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("2026-11-20", "limit of the day 2026-11-20 (UTC);"),
        ("2026-11@America:Argentina:Salta", "limit of the month 2026-11 (America/Argentina/Salta);"),
        ("2026-11-20T15", "limit of the hour 2026-11-20T15 (UTC);"),
        ("2026-10-25T02+0200@Europe:Berlin", "limit of the hour 2026-10-25T02+0200 (Europe/Berlin);"),
    ],
)
def test_a_window_is_named_with_its_end(label: str, says: str):
    """Which day, in whose zone, and when the limit begins anew; the end stands in the details too."""
    account = f"agent/a/nusd/{label}"
    denied = Denied(account, "nusd", "limit", Balance(account, 1, 1, 0), resets_at=1_800_000_000.0)
    refusal = explain(denied, "r1", None)
    assert says in refusal.message
    assert "until 2027-01-15T08:00:00Z, when its limit begins anew" in refusal.message
    assert ("agent:a", "2027-01-15T08:00:00Z") == (refusal.scope, details(refusal)["resets_at"])


def test_calls_of_others_than_runs_take_time_together():
    """An agent's seconds are those of its calls, not since anything began."""
    refusal = explain(Denied("agent/a/seconds", "seconds", "limit", Balance("agent/a/seconds", 5, 9, 0)), "r1", None)
    assert "has been calling for 9 seconds; its limit is 5." in refusal.message


def test_a_last_call_that_was_made_is_said():
    """What is left below the limit is no offer any more."""
    denied = Denied("run/r1/nusd", "nusd", "limit", BALANCE, 7, why=LAST_USED)
    assert "Its last call has been made. Don't retry" in explain(denied, "r1", None).message


def test_an_order_that_stays_stale_is_overload():
    """Nothing was wrong with the budget: try again."""
    assert "overloaded" == explain(Denied("", "", "stale"), "r1", None).code


def test_a_store_in_trouble_is_a_retryable_503():
    """Nothing is served without the ledger."""
    refusal = turned_away(StoreFailed("disk full"))
    assert (503, "store_unavailable", 2) == (refusal.status, refusal.code, refusal.retry_after_s)
    assert turned_away(Undecodable("no model")).status == 400

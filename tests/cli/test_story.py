"""`runs show`: the seven questions in their order, each answered from what the control plane says."""

from typing import Any

import pytest

from gateway.cli.story import QUESTIONS, Facts, by_model, context_eaten, tell
from gateway.cli.words import instant
from tests.cli.conftest import RUN, call

NOW = instant("2026-11-20T10:02:05.5Z")
TOOL = {"id": "t", "name": "search", "known": True, "valid": True}
SPAN = {"id": "t", "name": "search", "step": 1, "repeated": False, "is_error": False}
REFUSED = {"cost_source": "refused", "status": None, "outcome": "refused", "reason": "insufficient_quota"}
BUDGET = {
    "name": "each-run", "scope": "run", "account": "run/r-1/nusd", "unit": "usd", "per": "run", "mode": "strict",
    "limit": "1", "spent": "0.03", "held": "0.5", "overrun": "0", "window_started_at": "2026-11-20T10:00:00Z",
    "resets_at": None, "exhausted_at": None,
}  # fmt: skip


def answers(run: dict[str, Any] = RUN, **known: Any) -> list[str]:
    """The seven answers, without their questions."""
    page = tell(Facts(run=run, **{"now": NOW, **known}))
    parts = page.split("\n\n")
    assert list(QUESTIONS) == [part.split("\n")[0] for part in parts]
    assert all(line.startswith("  ") for part in parts for line in part.split("\n")[1:])
    return [part.split("\n", 1)[1] if "\n" in part else "" for part in parts]


def test_what_happened() -> None:
    """Who it was, how much it did in which time, what was refused or failed, which tools, and its last call."""
    calls = [call(2, "large", "0.02"), call(1, "small", "0.01"), call(3, "small", "0", **REFUSED)]
    tools = [SPAN, {**SPAN, "repeated": True}, {**SPAN, "name": "re\x1bad", "is_error": True}]
    said = answers({**RUN, "parent": "p-0"}, calls=calls, tools=tools)[0]
    assert "Run r-1 (agent research, a child of p-0) is active." in said
    assert "3 calls and 2 tool calls in 1 min 5 s from 2026-11-20 10:00:00Z; 1 refused by the gateway, 1 failed" in said
    assert "Tools: search 2x, re\\x1bad 1x; 1 repeated an earlier call, 1 ended with an error." in said
    assert "Its last call, step 3 to small, 2 min 5 s ago: refused (insufficient_quota)." in said


def test_a_call_that_reached_no_provider_was_not_refused_by_the_gateway() -> None:
    """It costs nothing, as a refused one; but it is a failure, and told as one only."""
    unsent = {**REFUSED, "outcome": "upstream_error", "reason": "upstream_connect"}
    said = answers(calls=[call(1, "m", "0", **unsent)])
    assert "; 0 refused by the gateway, 1 failed at the provider." in said[0]
    assert "refused with" not in said[3]


def test_what_it_cost() -> None:
    """Spent, held and limit are three numbers; what is a bound, its children's, or unknown is said."""
    calls = [
        call(1, "m", "0.005", cost_source="presumed"), call(2, "m", "0.001", cost_source="estimate"),
        call(3, "m", "0.002", cost_source="presumed"), call(4, "m", None, cost_source="unknown_model"),
    ]  # fmt: skip
    said = answers({**RUN, "overrun_usd": "0.001"}, calls=calls)[1]
    assert "$0.030000 spent of $1.00; 13,023 tokens." in said
    assert "$0.50 more is held by calls under way; it is not spent." in said
    assert "$0.001000 of it was charged beyond what had been held (overrun)." in said
    assert "$0.02 by its own calls, $0.010000 by its children." in said
    assert "2 calls ended unclear and are charged at the most that they can cost: $0.007000. The bill may be" in said
    assert "1 call is charged by an estimate, cut by the gateway or settled by hand: $0.001000." in said
    assert "1 call of unknown cost" in said
    plain = answers({**RUN, "own_spent_usd": RUN["spent_usd"], "held_usd": "0", "limits": {"usd": None}})[1]
    assert "  $0.030000 spent, without a limit; 13,023 tokens." == plain


def test_where_the_money_went() -> None:
    """By model, by the dearest steps, by the tools whose results filled the context, by children."""
    calls = [
        call(1, "small", "0.01", tool_calls=[TOOL]),
        call(2, "large", "0.02", tool_calls=[TOOL, {**TOOL, "name": "re\x1bad"}], usage={"input_tokens": 3100,
                                                                                       "output_tokens": 100}),
        call(3, "small", "0.000000001", usage={"input_tokens": 3400, "output_tokens": 1}),
    ]  # fmt: skip
    children = [{**RUN, "run_id": f"kid-{n}", "spent_usd": f"0.{9 - n}"} for n in range(7)]
    said = answers(calls=calls, children=children)[2]
    rows = [line.split() for line in said.split("\n")]
    assert ["large", "1", "3,100", "100", "$0.02"] in rows
    assert ["small", "2", "4,400", "101", "$0.010000"] in rows
    assert ["step", "2", "large", "3,100", "100", "$0.02", "ok", "search,", "re\\x1bad"] in rows
    assert "(input that grew after a tool was called): search 2,100 tokens in 2 calls, re\\x1bad 100 tokens" in said
    assert "Children: kid-0 $0.90, kid-1 $0.80, kid-2 $0.70, kid-3 $0.60, kid-4 $0.50, and 2 more." in said
    assert "Nowhere" in answers()[2]
    assert 100 >= max(len(line) for line in said.split("\n")[:7])


@pytest.mark.parametrize(
    ("state", "outcome", "reason", "words"),
    [
        ("ended", "completed", "idle", "It ended by itself, its work done: idle."),
        ("ended", "gave_up", None, "It gave up."),
        ("ended", "failed", "exit status 1", "Its last call failed: exit status 1."),
        ("ended", "stopped_by_limit", "idle", "A limit was used up: idle."),
        ("ended", "abandoned", "idle", "No call came any more: idle."),
        ("killed", "killed", "too\x07 loud", "Somebody killed it: too\\x07 loud."),
        ("paused", None, "its limit", "It is paused: calls are refused: its limit."),
        ("waiting", None, None, "It has not: a call waits for a person."),
        ("active", None, None, "It has not ended."),
    ],
)
def test_why_it_stopped(state: str, outcome: str | None, reason: str | None, words: str) -> None:
    """In every state, with the reason that was given."""
    run = {**RUN, "state": state, "outcome": outcome, "reason": reason}
    assert f"  {words}" == answers(run)[3]


def test_which_budget_refused() -> None:
    """The refusals by their code, with the budget that is nearest to its limit in that unit; shadows refuse nobody."""
    codes = ["insufficient_quota", "limit_calls", "limit_calls", "loop_blocked"]
    calls = [call(n, "m", "0", **{**REFUSED, "reason": code}) for n, code in enumerate(codes)]
    own = {**BUDGET, "name": "few", "unit": "calls", "account": "run/r-1/calls", "limit": 40, "spent": 3}
    day = {**own, "name": "per-day", "account": "agent:research", "limit": 10, "spent": 9}
    shadow = {**own, "name": "watch", "mode": "shadow", "limit": 1, "spent": 9}
    said = answers(calls=calls, budgets=[BUDGET, own, day, shadow])[3].split("\n")
    assert (
        "  2 calls were refused with limit_calls: budget per-day on agent:research has 9 calls spent of 10 calls now."
        in said
    )
    quota = "  1 call was refused with insufficient_quota: budget each-run on run r-1 has $0.03 spent of $1.00"
    assert f"{quota} now." in said  # since then another limit refused, or this one was raised: it may fit again
    assert "  1 call was refused with loop_blocked." in said
    quoted = answers(calls=calls[:1], budgets=[BUDGET])[3]
    assert f"{quota}, and the most that the call could use is more than what may be used." in quoted
    assert not any("used up" in line for line in said)
    said = answers(budgets=[{**BUDGET, "spent": "1"}, shadow])[3:]
    assert (
        "It can't go on: budget each-run on run r-1 is used up: $1.00 of $1.00." in said[0] and "watch" not in said[0]
    )
    assert "its next call will be refused" in said[1] and "meterbox budget r-1 --usd 2.00" in said[3]


def test_what_is_still_running() -> None:
    """Open calls with what they hold and since when, children that go on; else a plain no."""
    one = {"call_id": "c0", "run_id": "kid", "model": "gpt-4o", "held_usd": "0.25"}
    one |= {"started_at": "2026-11-20T10:01:05.5Z", "deadline_at": "2026-11-20T11:00:00Z"}
    held = [one, *({**one, "call_id": f"c{n}", "run_id": "r-1"} for n in range(1, 7))]
    kid = {**RUN, "run_id": "kid"}
    said = answers(held=held, children=[kid, {**kid, "run_id": "done", "state": "ended"}])[4]
    assert "Call c0 of kid to gpt-4o is open since 2026-11-20 10:01:05Z (1 min 0 s) and holds $0.25." in said
    assert "Call c1 to gpt-4o is open" in said and "And 2 more calls that hold $0.50." in said
    assert "1 child is not ended: kid." in said
    assert "7 more calls are under way." in answers(held=held)[0]
    assert "And 1 more call that holds $0.25." in answers(held=held[:6])[4]
    assert "No call is under way. The run is open: its next call is served" in answers()[4]
    ended = {**RUN, "state": "ended", "outcome": "completed"}
    assert "  No: nothing is under way, nothing is held." == answers(ended)[4]
    assert "No:" not in answers(ended, children=[kid])[4]


def test_the_last_two_questions_are_answered_too() -> None:
    """Also of a run of which nothing but its row is known (tests/cli/test_advice.py has the claims)."""
    again, now = answers()[5:]
    assert again and now


def test_sums_are_exact() -> None:
    """By model, to the nano-dollar; a call without a price adds nothing, a refused one is none."""
    calls = [call(1, "m", "0.000000001"), call(2, "m", "0.000000002"), call(3, "n", None, cost_source="unknown_model")]
    rows = by_model([*calls, call(4, "o", "0", **REFUSED)])
    assert [("m", "0.000000003"), ("n", "0.000000000")] == [(row["model"], row["cost_usd"]) for row in rows]
    assert {"model", "calls", "input_tokens", "output_tokens", "cost_usd"} == set(rows[0])


def test_a_context_that_shrinks_was_filled_by_nobody() -> None:
    """Trimmed history, calls without usage and answers without tools count for no tool."""
    calls = [
        call(1, "m", "1", tool_calls=[TOOL]), call(2, "m", "1", usage={"input_tokens": 5}),
        call(3, "m", "1", usage={}), call(4, "m", "1"),
    ]  # fmt: skip
    assert [] == context_eaten(calls)

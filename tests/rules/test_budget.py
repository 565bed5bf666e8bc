"""Tests of rules/budget.py."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.core.presets import PRESETS
from gateway.core.price import CLASSES, RateCard, Rates
from gateway.core.quote import Ask, Quote
from gateway.core.types import Call, Charge, Labels, Mark, Refusal, RunFacts
from gateway.core.windows import Calendar
from gateway.rules.budget import Budget, Budgets, Config

SAME: dict[str, Any] = dict.fromkeys(CLASSES, 1)
CARD = RateCard("m", "p", Rates(**SAME))
SIZES = {"nusd": (100, 40), "tokens": (9, 5), "calls": (1, 1), "tool_calls": (0, 0), "seconds": (1, 1)}
PRICED = Quote(card=CARD, want=100, least=40, share=True, sizes=SIZES)
UNPRICED = Quote(card=None, sizes={**SIZES, "nusd": (0, 0)})
TEN, FIVE = Budget("ten", 10, 20), Budget("five", 5, 5)
DAY = Calendar("day")
SHOWN = Budget("shown", 1, 1, mode="shadow")


def ask(
    quote: Quote = PRICED, ancestors: tuple[str, ...] = (), limit: int | None = None, model: str = "m", **facts: Any
) -> Ask:
    call = Call("d", PRESETS["openai"], "metered", model=model)
    return Ask(call, RunFacts("k~r", "r", "k", "path", **facts), ancestors, Labels(limit_nusd=limit), quote, 0.0)


def charges(rule: Budgets, asked: Ask) -> list[Charge]:
    said = rule.check(asked)
    assert isinstance(said, list)
    return said


def refusal(rule: Budgets, asked: Ask) -> Refusal:
    said = rule.check(asked)
    assert isinstance(said, Refusal)
    return said


def test_a_run_and_its_ancestors_are_charged_alike():
    """Innermost first, the same amounts and limits for each (R-017)."""
    got = charges(Budgets([TEN]), ask(ancestors=("k~p", "k~g")))
    assert ["run/k~r/nusd", "run/k~p/nusd", "run/k~g/nusd"] == [charge.account for charge in got]
    assert {(100, 40, 10, 20, True)} == {(c.want, c.least, c.limit, c.most, c.share) for c in got}


def test_a_run_is_counted_where_nothing_limits_it():
    """Without a budget, and under a shadow one: a charge without a limit."""
    for budgets in ((), (SHOWN,)):
        (got,) = charges(Budgets(budgets), ask())
        assert (None, None, 100) == (got.limit, got.most, got.want)


def test_the_lowest_binding_limit_is_in_force():
    """A shadow budget is never in force, however low."""
    (got,) = charges(Budgets([TEN, SHOWN, FIVE]), ask())
    assert (5, 5) == (got.limit, got.most)


def test_a_callers_limit_is_its_own_runs_only():
    """A header may lower the run that sends it, not its parent's."""
    got = charges(Budgets([TEN]), ask(ancestors=("k~p",), limit=3))
    assert [3, None] == [charge.lower for charge in got]


@pytest.mark.parametrize("why", ["budget", "header"])
def test_what_has_no_price_is_refused_under_a_limit(why: str):
    """402 `price_unknown` names model and section, under a budget and under a caller's own limit."""
    rule, limit = (Budgets([TEN]), None) if why == "budget" else (Budgets(()), 5)
    got = refusal(rule, ask(UNPRICED, limit=limit, model="odd"))
    assert (402, "price_unknown", "r", "run") == (got.status, got.code, got.run_id, got.scope)
    assert "odd" in got.message and "openai" in got.message and not got.retryable
    assert "doesn't name" in refusal(rule, ask(UNPRICED, limit=limit, model="")).message


def test_what_has_no_price_passes_where_it_may():
    """`unknown = "allow"`, no limit at all, or only a shadow: counted at nothing, never at zero dollars of cost."""
    for rule in (Budgets([TEN], refuse_unknown=False), Budgets(()), Budgets([SHOWN])):
        assert [(0, 0)] == [(charge.want, charge.least) for charge in charges(rule, ask(UNPRICED))]


def test_what_cannot_be_bounded_is_refused_under_a_limit():
    """402 `cost_unbounded` with the reason; `allow` for prices doesn't let it through (ledger.md section 5)."""
    open_ended = Quote(card=CARD, want=1, least=1, unbounded="it searches as it likes", sizes=SIZES)
    for rule in (Budgets([TEN]), Budgets([TEN], refuse_unknown=False)):
        got = refusal(rule, ask(open_ended))
        assert (402, "cost_unbounded", True) == (got.status, got.code, "as it likes" in got.message)
    assert 1 == len(charges(Budgets([SHOWN]), ask(open_ended)))


def test_clamping_is_the_enforcing_budgets_word():
    """Default yes; any budget that enforces may switch it off for its account, a shadow may not."""
    for budgets, clamp in (
        ((), True), ((TEN,), True), ((Budget("b", 99, 99, clamp=False), TEN), False),
        ((Budget("b", 1, 1, clamp=False, mode="shadow"), TEN), True),
    ):  # fmt: skip
        assert [clamp] == [charge.clamp for charge in charges(Budgets(budgets), ask())]


def test_every_scope_has_an_account_innermost_first():
    """run, ancestors, agent, user, key, global: the order in which a refusal names them (design.md section 2)."""
    budgets = [
        Budget("all", 9, 9, scope="global", unit="calls", window=DAY), Budget("k", 9, 9, scope="key:*", window=DAY),
        Budget("u", 9, 9, scope="user:*", window=DAY), Budget("a", 9, 9, scope="agent:*", window=DAY), TEN,
    ]  # fmt: skip
    got = charges(Budgets(budgets), ask(ancestors=("k~p",), agent="x/y", user="eve"))
    assert [
        "run/k~r/nusd", "run/k~p/nusd", "agent/x%2Fy/nusd", "user/eve/nusd", "key/k/nusd", "global/all/calls",
    ] == [charge.account for charge in got]  # fmt: skip
    assert [None, None, DAY, DAY, DAY, DAY] == [charge.window for charge in got]


def test_a_scope_that_the_call_does_not_name_has_no_account():
    """agent:NAME is nobody else's, and a call without an agent has none."""
    rule = Budgets([Budget("x", 9, 9, scope="agent:x", window=DAY)])
    for agent, accounts in ((None, 1), ("y", 1), ("x", 2)):
        assert accounts == len(charges(rule, ask(agent=agent)))


def test_of_all_agents_and_of_one_the_lower_binds():
    """agent:* and agent:NAME meet on one account: charged once, with the behaviour of the one that binds."""
    budgets = [
        Budget("every", 50, 60, scope="agent:*", window=DAY, on_exceed="degrade", degrade_to="m-mini"),
        Budget("one", 20, 20, scope="agent:x", window=DAY, on_exceed="last_call"),
    ]
    (_, got) = charges(Budgets(budgets), ask(agent="x"))
    assert (20, 20, True, None) == (got.limit, got.most, got.last, got.degrade)
    (_, got) = charges(Budgets(budgets), ask(agent="y"))
    assert (50, 60, False, "m-mini") == (got.limit, got.most, got.last, got.degrade)


def test_each_unit_holds_its_own_size():
    """One budget of several units is several charges; dollars come first, and are counted in any case."""
    units: tuple[Any, ...] = ("seconds", "calls", "tokens", "tool_calls")
    got = charges(Budgets([Budget("b", 7, 7, unit=unit) for unit in units]), ask())
    assert [("nusd", 100, 40, None), ("tokens", 9, 5, 7), ("calls", 1, 1, 7), ("tool_calls", 0, 0, 7),
            ("seconds", 1, 1, 7)] == [(c.unit, c.want, c.least, c.limit) for c in got]  # fmt: skip
    assert [True, True, False, False, False] == [c.share for c in got]


def test_time_that_is_up_has_no_last_call():
    """The other units of the same budget have."""
    units: tuple[Any, ...] = ("seconds", "calls")
    got = charges(Budgets([Budget("b", 7, 7, unit=unit, on_exceed="last_call") for unit in units]), ask())
    assert {"nusd": False, "calls": True, "seconds": False} == {charge.unit: charge.last for charge in got}


def test_expected_is_only_what_every_enforcing_budget_expects():
    """A strict one beside it stays hard; a shadow doesn't count."""
    soft, hard = Budget("s", 9, 9, mode="expected"), Budget("h", 99, 99)
    for budgets, expected in (((soft,), True), ((soft, hard), False), ((soft, SHOWN), True)):
        assert [expected] == [charge.expected for charge in charges(Budgets(budgets), ask())]


def test_thresholds_of_all_budgets_ride_on_the_charge():
    """A shadow budget alerts like any other, by its own limit."""
    half = (("0.5", 500),)
    budgets = [Budget("b", 10, 10, alert_at=half), Budget("s", 4, 4, alert_at=half, mode="shadow"), FIVE]
    (got,) = charges(Budgets(budgets), ask())
    assert (Mark("b", 10, half), Mark("s", 4, half, shadow=True)) == got.marks


def test_a_missing_price_names_the_scope_that_needs_it():
    """The run has no dollar budget here; its agent has."""
    rule = Budgets([Budget("a", 9, 9, scope="agent:*", window=DAY)])
    assert ("price_unknown", "agent:x") == (
        refusal(rule, ask(UNPRICED, agent="x")).code, refusal(rule, ask(UNPRICED, agent="x")).scope,
    )  # fmt: skip
    assert 1 == len(charges(rule, ask(UNPRICED)))


def test_what_has_no_end_is_refused_under_a_limit_of_tokens():
    """Whatever it costs: nobody can say how many tokens a search without a cap brings in."""
    rule = Budgets([Budget("t", 9, 9, unit="tokens")])
    endless = Quote(card=None, endless="it searches as it likes", sizes=SIZES)
    assert ("cost_unbounded", "run") == (refusal(rule, ask(endless)).code, refusal(rule, ask(endless)).scope)
    assert 1 == len(charges(Budgets(()), ask(endless)))


def test_what_is_remembered_of_callers_is_bounded():
    """Agents are named by clients."""
    rule = Budgets([Budget("a", 9, 9, scope="agent:*", window=DAY)])
    for number in range(5000):
        rule.check(ask(agent=f"a{number}"))
    assert 4096 >= len(rule._plans)


def test_the_section_has_no_settings():
    """An unknown key is an error, never ignored."""
    known: dict[str, Any] = {"limit": 1}
    with pytest.raises(ValidationError):
        Config(**known)

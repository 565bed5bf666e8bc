"""Tests of rules/budget.py."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.core.presets import PRESETS
from gateway.core.price import CLASSES, RateCard, Rates
from gateway.core.quote import Ask, Quote
from gateway.core.types import Call, Charge, Labels, Refusal, RunFacts
from gateway.rules.budget import Budget, Config, RunBudgets

SAME: dict[str, Any] = dict.fromkeys(CLASSES, 1)
CARD = RateCard("m", "p", Rates(**SAME))
PRICED = Quote(card=CARD, want=100, least=40, share=True)
TEN, FIVE = Budget("ten", 10, 20), Budget("five", 5, 5)
SHOWN = Budget("shown", 1, 1, mode="shadow")


def ask(quote: Quote = PRICED, ancestors: tuple[str, ...] = (), limit: int | None = None, model: str = "m") -> Ask:
    call = Call("d", PRESETS["openai"], "metered", model=model)
    return Ask(call, RunFacts("k~r", "r", "k", "path"), ancestors, Labels(limit_nusd=limit), quote, 0.0)


def charges(rule: RunBudgets, asked: Ask) -> list[Charge]:
    said = rule.check(asked)
    assert isinstance(said, list)
    return said


def refusal(rule: RunBudgets, asked: Ask) -> Refusal:
    said = rule.check(asked)
    assert isinstance(said, Refusal)
    return said


def test_a_run_and_its_ancestors_are_charged_alike():
    """Innermost first, the same amounts and limits for each (R-017)."""
    got = charges(RunBudgets([TEN]), ask(ancestors=("k~p", "k~g")))
    assert ["run/k~r/nusd", "run/k~p/nusd", "run/k~g/nusd"] == [charge.account for charge in got]
    assert {(100, 40, 10, 20, True)} == {(c.want, c.least, c.limit, c.most, c.share) for c in got}


def test_a_run_is_counted_where_nothing_limits_it():
    """Without a budget, and under a shadow one: a charge without a limit."""
    for budgets in ((), (SHOWN,)):
        (got,) = charges(RunBudgets(budgets), ask())
        assert (None, None, 100) == (got.limit, got.most, got.want)


def test_the_lowest_binding_limit_is_in_force():
    """A shadow budget is never in force, however low."""
    (got,) = charges(RunBudgets([TEN, SHOWN, FIVE]), ask())
    assert (5, 5) == (got.limit, got.most)


def test_a_callers_limit_is_its_own_runs_only():
    """A header may lower the run that sends it, not its parent's."""
    got = charges(RunBudgets([TEN]), ask(ancestors=("k~p",), limit=3))
    assert [3, None] == [charge.lower for charge in got]


@pytest.mark.parametrize("why", ["budget", "header"])
def test_what_has_no_price_is_refused_under_a_limit(why: str):
    """402 `price_unknown` names model and section, under a budget and under a caller's own limit."""
    rule, limit = (RunBudgets([TEN]), None) if why == "budget" else (RunBudgets(()), 5)
    got = refusal(rule, ask(Quote(card=None), limit=limit, model="odd"))
    assert (402, "price_unknown", "r", "run") == (got.status, got.code, got.run_id, got.scope)
    assert "odd" in got.message and "openai" in got.message and not got.retryable
    assert "doesn't name" in refusal(rule, ask(Quote(card=None), limit=limit, model="")).message


def test_what_has_no_price_passes_where_it_may():
    """`unknown = "allow"`, no limit at all, or only a shadow: counted at nothing, never at zero dollars of cost."""
    for rule in (RunBudgets([TEN], refuse_unknown=False), RunBudgets(()), RunBudgets([SHOWN])):
        assert [(0, 0)] == [(charge.want, charge.least) for charge in charges(rule, ask(Quote(card=None)))]


def test_what_cannot_be_bounded_is_refused_under_a_limit():
    """402 `cost_unbounded` with the reason; `allow` for prices doesn't let it through (ledger.md section 5)."""
    open_ended = Quote(card=CARD, want=1, least=1, unbounded="it searches as it likes")
    for rule in (RunBudgets([TEN]), RunBudgets([TEN], refuse_unknown=False)):
        got = refusal(rule, ask(open_ended))
        assert (402, "cost_unbounded", True) == (got.status, got.code, "as it likes" in got.message)
    assert 1 == len(charges(RunBudgets([SHOWN]), ask(open_ended)))


def test_clamping_is_the_binding_budgets_word():
    """Default yes; the budget in force may switch it off."""
    assert RunBudgets(()).clamps and RunBudgets([TEN]).clamps
    assert not RunBudgets([Budget("b", 1, 1, clamp=False), TEN]).clamps
    assert RunBudgets([Budget("b", 1, 1, clamp=False, mode="shadow"), TEN]).clamps


def test_the_section_has_no_settings():
    """An unknown key is an error, never ignored."""
    known: dict[str, Any] = {"limit": 1}
    with pytest.raises(ValidationError):
        Config(**known)

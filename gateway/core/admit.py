"""The rules' answers made into one verdict: the first refusal wins, else a person is asked, else all is held."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.core.ports import Rule
from gateway.core.quote import Ask
from gateway.core.types import Charge, Grant, Pending, Refusal, Verdict


def admit(rules: Sequence[Rule], ask: Ask) -> Verdict:
    """Asks the rules in their fixed order (allow, breaker, rate, budget, approval)."""
    charges: list[Charge] = []
    waiting: Pending | None = None
    for rule in rules:
        said = rule.check(ask)
        if isinstance(said, Refusal):
            return said
        if isinstance(said, Pending):
            waiting = waiting or said
        else:
            charges.extend(said)
    return waiting or Grant(tuple(charges))


def gates(ask: Ask) -> tuple[str, ...]:
    """The accounts that a kill switch may have closed for this call, innermost first."""
    names = [f"run/{ask.run.key}", *(f"run/{key}" for key in ask.ancestors)]
    if ask.run.agent:
        names.append(f"agent/{ask.run.agent}")
    if ask.run.user:
        names.append(f"user/{ask.run.user}")
    return (*names, "global")

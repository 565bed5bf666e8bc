"""Budgets as charges: what a call may use is held on its run, every ancestor, its agent, user, key, and on all.

Invariant: a run is always counted, also where nothing limits it; a price that isn't known is refused under a limit,
unless the operator said otherwise; what can't be bounded is never let through a limit of its unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct
from pydantic import BaseModel, ConfigDict

from gateway.core.ledger.names import EVERYBODY, read, scope_of, spell
from gateway.core.quote import Ask
from gateway.core.types import Charge, Exchange, Mark, Refusal, RunFacts, Unit
from gateway.core.windows import Calendar


class Config(BaseModel):
    """`[rules.budget]` has no settings of its own: budgets stand alone as `[[budgets]]`."""

    model_config = ConfigDict(extra="forbid")


class Budget(Struct, frozen=True):
    """One unit of one `[[budgets]]`; amounts in nano-dollars, or in the unit's own numbers.

    `most`: how far /limits may raise it. A shadow budget is shown, and neither clamps nor refuses. An `expected` one
    may hold what its run has learned instead of the worst case.
    """

    name: str
    limit: int
    most: int
    clamp: bool = True
    scope: str = "run"  # run | agent:* | agent:NAME | user:* | user:NAME | key:* | key:NAME | global
    unit: Unit = "nusd"
    window: Calendar | None = None  # None: per run
    mode: Literal["strict", "expected", "shadow"] = "strict"
    on_exceed: Literal["stop", "last_call", "degrade"] = "stop"
    degrade_to: str | None = None
    alert_at: tuple[tuple[str, int], ...] = ()  # as the operator spelled it, and in per mille: ("0.5", 500)
    part: int = 1000  # per mille of what is free that one call may hold

    @property
    def shadow(self) -> bool:
        """Is it only watched?"""
        return self.mode == "shadow"


class _Stand(Struct, frozen=True):
    """All budgets that meet on one account: what its charge says. The lowest limit binds, with its own behaviour."""

    unit: Unit
    window: Calendar | None
    limit: int | None = None
    most: int | None = None
    part: int = 1000
    last: bool = False
    degrade: str | None = None
    expected: bool = False
    clamp: bool = True
    marks: tuple[Mark, ...] = ()


# The run's dollars come first: they are what the answer's headers tell.
_ORDER: tuple[Unit, ...] = ("nusd", "tokens", "calls", "tool_calls", "seconds")
_SHARED = frozenset({"nusd", "tokens"})  # what an absent output limit could take all of
_PLANS_MOST = 4096  # pairs of agent, user and key whose accounts are remembered


class Budgets:
    """Turns all budgets into charges: the run's and its ancestors' first, then agent, user, key, global."""

    def __init__(self, budgets: Sequence[Budget], *, refuse_unknown: bool = True) -> None:
        self._refuse_unknown = refuse_unknown
        counted = _Stand("nusd", None)  # a run is counted, also where nothing limits it
        runs = _stands([budget for budget in budgets if budget.scope == "run"])
        self._run = runs if runs and runs[0].unit == "nusd" else (counted, *runs)
        self._others = [budget for budget in budgets if budget.scope != "run"]
        self._plans: dict[tuple[str | None, str | None, str], tuple[tuple[str, _Stand], ...]] = {}

    def check(self, ask: Ask) -> Refusal | list[Charge]:
        """Charges for all accounts of the call; or why it can't be held at all."""
        others = self._accounts(ask.run)
        refusal = self._unholdable(ask, others)
        if refusal is not None:
            return refusal
        charges = []
        for key in (ask.run.key, *ask.ancestors):
            lower = ask.labels.limit_nusd if key == ask.run.key else None
            for stand in self._run:
                charges.append(_charge(f"run/{key}/{stand.unit}", stand, ask, lower if stand.unit == "nusd" else None))
        charges.extend([_charge(account, stand, ask, None) for account, stand in others])
        return charges

    def note(self, exchange: Exchange) -> None:
        """Learns nothing: what was spent is the ledger's to know."""

    def _accounts(self, run: RunFacts) -> tuple[tuple[str, _Stand], ...]:
        """Accounts beside the run's, in the order in which they are named when they refuse."""
        if not self._others:
            return ()
        whose = (run.agent, run.user, run.tenant)
        plan = self._plans.get(whose)
        if plan is None:
            plan = tuple(self._plan(*whose))
            if len(self._plans) >= _PLANS_MOST:
                self._plans.clear()
            self._plans[whose] = plan
        return plan

    def _plan(self, agent: str | None, user: str | None, key: str) -> Iterator[tuple[str, _Stand]]:
        for kind, owner in (("agent", agent), ("user", user), ("key", key or None), ("global", EVERYBODY)):
            if owner is not None:
                words = ("global",) if kind == "global" else (f"{kind}:*", f"{kind}:{owner}")
                for stand in _stands([budget for budget in self._others if budget.scope in words]):
                    yield spell(kind, owner, stand.unit), stand

    def _unholdable(self, ask: Ask, others: tuple[tuple[str, _Stand], ...]) -> Refusal | None:
        """A price or a bound that is missing where a limit needs it."""
        offer = ask.quote
        if offer.card is not None and offer.unbounded is None and offer.endless is None:
            return None
        stands = [(f"run/{ask.run.key}/{stand.unit}", stand) for stand in self._run] + list(others)
        limited: list[tuple[str, str]] = [(stand.unit, name) for name, stand in stands if stand.limit is not None]
        if ask.labels.limit_nusd is not None:
            limited.insert(0, ("nusd", f"run/{ask.run.key}/nusd"))
        limited += [(read(name).unit, name) for name in ask.limited]  # by a caller's or an operator's word
        dollars = [name for unit, name in limited if unit == "nusd"]
        tokens = [name for unit, name in limited if unit == "tokens"]
        if dollars and offer.card is None and self._refuse_unknown:
            return _no_price(ask, scope_of(dollars[0]))
        if dollars and offer.unbounded is not None:
            return _no_bound(ask, scope_of(dollars[0]), "cost", offer.unbounded)
        if tokens and offer.endless is not None:
            return _no_bound(ask, scope_of(tokens[0]), "number of tokens", offer.endless)
        return None


def _stands(budgets: Sequence[Budget]) -> tuple[_Stand, ...]:
    """One for each unit and window among budgets of one account."""
    places: dict[tuple[Unit, Calendar | None], list[Budget]] = {}
    for budget in budgets:
        places.setdefault((budget.unit, budget.window), []).append(budget)
    found = [_stand(unit, window, together) for (unit, window), together in places.items()]
    return tuple(sorted(found, key=lambda stand: _ORDER.index(stand.unit)))


def _stand(unit: Unit, window: Calendar | None, budgets: Sequence[Budget]) -> _Stand:
    marks = tuple(Mark(b.name, b.limit, b.alert_at, b.shadow) for b in budgets if b.alert_at)
    enforced = [budget for budget in budgets if not budget.shadow]
    if not enforced:
        return _Stand(unit, window, marks=marks)
    binding = min(enforced, key=lambda budget: budget.limit)
    return _Stand(
        unit=unit,
        window=window,
        limit=binding.limit,
        most=min(budget.most for budget in enforced),
        part=min(budget.part for budget in enforced),
        last=binding.on_exceed == "last_call" and unit != "seconds",  # time that is up has no reserve
        degrade=binding.degrade_to if binding.on_exceed == "degrade" else None,
        expected=all(budget.mode == "expected" for budget in enforced),
        clamp=all(budget.clamp for budget in enforced),
        marks=marks,
    )


def _charge(account: str, stand: _Stand, ask: Ask, lower: int | None) -> Charge:
    want, least = ask.quote.sizes[stand.unit]
    return Charge(
        account=account,
        unit=stand.unit,
        want=want,
        least=least,
        limit=stand.limit,
        most=stand.most,
        lower=lower,
        share=ask.quote.share and stand.unit in _SHARED,
        part=stand.part,
        window=stand.window,
        last=stand.last,
        degrade=stand.degrade,
        expected=stand.expected,
        clamp=stand.clamp,
        marks=stand.marks,
    )


def _no_price(ask: Ask, scope: str) -> Refusal:
    model = ask.call.model or "a model that the request doesn't name"
    return Refusal(
        402,
        "price_unknown",
        f"The price of {model} at provider {ask.call.provider.name} is unknown, and {_whose(scope)} has a dollar "
        "budget. Don't repeat the call. Use a model that `meterbox prices` lists, or have the operator add its "
        'price under [[prices.overrides]] or set [prices] unknown = "allow".',
        run_id=ask.run.id,
        scope=scope,
    )


def _no_bound(ask: Ask, scope: str, what: str, why: str) -> Refusal:
    return Refusal(
        402,
        "cost_unbounded",
        f"The {what} of this call can't be bounded: {why}. {_whose(scope).capitalize()} has a budget for it. "
        "Don't repeat the call as it is; take that tool or input out, or give it a limit that binds.",
        run_id=ask.run.id,
        scope=scope,
    )


def _whose(scope: str) -> str:
    return "this run" if scope == "run" else f"the scope {scope}"

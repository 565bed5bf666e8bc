"""Budgets as charges: what a call may cost is held on its run's account and on every ancestor's.

Invariant: a run is always counted, also where nothing limits it; a price that isn't known is refused under a limit,
unless the operator said otherwise; a cost that can't be bounded is never let through a strict limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct
from pydantic import BaseModel, ConfigDict

from gateway.core.quote import Ask
from gateway.core.types import Charge, Exchange, Refusal, Unit
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


class RunBudgets:
    """Turns the budgets of scope `run` into charges; the lowest limit is the one in force."""

    def __init__(self, budgets: Sequence[Budget], *, refuse_unknown: bool = True) -> None:
        binding = [budget for budget in budgets if not budget.shadow]
        self._budget = min(binding, key=lambda budget: budget.limit, default=None)
        self._refuse_unknown = refuse_unknown

    @property
    def clamps(self) -> bool:
        """May the gateway lower a call's output limit to what is affordable?"""
        return self._budget is None or self._budget.clamp

    def check(self, ask: Ask) -> Refusal | list[Charge]:
        """Charges for the run and its ancestors, innermost first; or why this call can't be held at all."""
        limited = self._budget is not None or ask.labels.limit_nusd is not None
        if limited and (refusal := self._unpriceable(ask)) is not None:
            return refusal
        return [self._charge(ask, key) for key in (ask.run.key, *ask.ancestors)]

    def note(self, exchange: Exchange) -> None:
        """Learns nothing: what was spent is the ledger's to know."""

    def _charge(self, ask: Ask, key: str) -> Charge:
        budget = self._budget
        return Charge(
            account=f"run/{key}/nusd",
            unit="nusd",
            want=ask.quote.want,
            least=ask.quote.least,
            limit=budget.limit if budget else None,
            most=budget.most if budget else None,
            lower=ask.labels.limit_nusd if key == ask.run.key else None,
            share=ask.quote.share,
        )

    def _unpriceable(self, ask: Ask) -> Refusal | None:
        if ask.quote.card is None:
            if not self._refuse_unknown:
                return None
            model = ask.call.model or "a model that the request doesn't name"
            return Refusal(
                402,
                "price_unknown",
                f"The price of {model} at provider {ask.call.provider.name} is unknown, and this run has a dollar "
                "budget. Don't repeat the call. Use a model that `meterbox prices` lists, or have the operator add its "
                'price under [[prices.overrides]] or set [prices] unknown = "allow".',
                run_id=ask.run.id,
                scope="run",
            )
        if ask.quote.unbounded:
            return Refusal(
                402,
                "cost_unbounded",
                f"The cost of this call can't be bounded: {ask.quote.unbounded}. This run has a dollar budget. "
                "Don't repeat the call as it is; take that tool or input out, or give it a limit that binds.",
                run_id=ask.run.id,
                scope="run",
            )
        return None

"""What the calls of a random life charge: every unit, windows, one to six budgets, last calls, shares and thresholds.

Invariant: an order is made from the dice alone. What never enters: a store.
"""

from __future__ import annotations

from typing import Any, Protocol
from zoneinfo import ZoneInfo

from gateway.core.types import Charge, Mark, Order, RunFacts
from gateway.core.windows import Calendar


class Dice(Protocol):
    """Chance."""

    def below(self, sides: int) -> int: ...


HOUR = Calendar("hour", "Europe/Berlin", ZoneInfo("Europe/Berlin"))
DAY = Calendar("day", "Europe/Berlin", ZoneInfo("Europe/Berlin"))
MONTH = Calendar("month")
MARKS = (Mark("b", 400, (("0.5", 500), ("1.0", 1000))),)

# run -> its charges: (account, limit, what else is special about it)
PURSES: dict[str, tuple[str, tuple[tuple[str, int | None, dict[str, Any]], ...]]] = {
    "small": ("K", (("run/K/nusd", 400, {"marks": MARKS}), ("run/P/nusd", 1000, {}))),
    "units": (
        "P",
        (
            ("run/P/nusd", 1000, {}),
            ("run/P/calls", 8, {}),
            ("run/P/tokens", 900, {}),
            ("run/P/tool_calls", 3, {}),
            ("run/P/inflight", 3, {}),
        ),
    ),
    "six": (
        "K",
        (
            ("run/K/nusd", 400, {"marks": MARKS}),
            ("run/P/nusd", 1000, {}),
            ("agent/a/nusd", 600, {"window": HOUR}),
            ("user/u/nusd", 900, {"window": DAY}),
            ("key/k/nusd", 1500, {"window": MONTH, "part": 500}),
            ("global/all/nusd", None, {}),
        ),
    ),
    "last": ("L", (("run/L/nusd", 500, {"last": True, "marks": MARKS}), ("run/L/calls", 6, {"last": True}))),
    "slow": (
        "S",
        (
            ("run/S/nusd", 700, {"clamp": False}),
            ("run/S/seconds", 300, {}),
            ("agent/a/seconds", 60, {"window": HOUR}),
            ("agent/a/calls", 5, {"window": HOUR}),
        ),
    ),
    "free": ("S", (("agent/a/tokens", None, {}), ("run/P/nusd", 1000, {}))),
}
# Thresholds of accounts: what a process knows once an order told it.
MARKED = {account: more["marks"] for _, purse in PURSES.values() for account, _, more in purse if "marks" in more}
CAPPABLE = (
    "run/K/nusd", "run/P/nusd", "run/P/calls", "run/P/tokens", "run/K/tool_calls", "run/L/nusd", "run/S/seconds",
    "run/K/seconds",
)  # fmt: skip
GATES = ("global", "run/P", "run/K/nusd", "agent/a")


def order_of(call: str, dice: Dice, now: float, processes: int) -> Order:
    """An order for one of the purses. Several processes that look at one account have the same configuration."""
    run, purse = PURSES[sorted(PURSES)[dice.below(len(PURSES))]]
    sizes = [dice.below(501), dice.below(501)]
    share, short, patient = dice.below(4) == 0, dice.below(3) == 0, dice.below(2) == 0
    lower = 300 + dice.below(200) if dice.below(8) == 0 else None
    knows_all = dice.below(8) > 0
    charges = []
    for account, limit, more in purse:
        unit: Any = account.split("/")[2]
        size = (max(sizes), min(sizes)) if unit in ("nusd", "tokens") else (1, 1)
        if unit == "tool_calls":
            size = (0, 0)
        first = account == purse[0][0] and unit == "nusd"
        charges.append(
            Charge(
                account,
                unit,
                *size,
                limit=limit,
                most=2000 if short or processes > 1 else None,
                lower=lower if first else None,
                share=share and unit == "nusd",
                **more,
            )
        )
    facts = RunFacts(
        run, run, "", "header", parent="P" if run == "K" and knows_all else None,
        agent="a" if any(account.startswith("agent/a/") for account, _, _ in purse) else None,
    )  # fmt: skip
    gates = (f"run/{run}", *(("run/P",) if run == "K" and knows_all else ()), "agent/a", "global")
    amounts = {"nusd": (max(sizes), min(sizes)), "tokens": (max(sizes), min(sizes)), "calls": (1, 1)}
    return Order(
        f"{call}/1", call, facts, tuple(charges), now, now + (20 if short else 1e6), 30.0 if patient else 0.0, gates,
        sizes={**amounts, "tool_calls": (0, 0), "seconds": (1, 1)},
    )  # fmt: skip

"""Which limit an account has, in plain dicts: what is configured, what callers lowered, what operators set.

Invariant: written from design.md alone, not from the engine. What never enters: `core.ledger`, balances.
"""

from __future__ import annotations

from gateway.core.types import Charge, Order

Full = list[tuple[str, Charge]]  # accounts with their windows' labels, and what is charged there


class Limits:
    """Remembers what callers and operators said, and which runs were given limits in which units."""

    def __init__(self) -> None:
        self.cap: dict[str, int] = {}  # the limit that an operator set, or a caller lowered it to
        self.asked: dict[str, int] = {}  # the lowest that a caller ever sent
        self.capped: dict[str, list[str]] = {}  # run -> units
        self.parents: dict[str, str] = {}
        self.began: dict[str, float] = {}  # run -> its first instant

    def met(self, order: Order, now: float) -> None:
        """An order was looked at: its run exists from now on, and a lower limit that it named stays."""
        run, parent = order.run.key, order.run.parent
        self.began.setdefault(run, now)
        if parent is not None and run not in self.parents:
            self.parents[run] = parent
            self.began.setdefault(parent, now)

    def looked(self, order: Order, now: float) -> None:
        """The order's accounts were looked at: the lowest limit that a caller sent stays."""
        for name, charge in self.in_full(order, now):
            lower = charge.lower
            if lower is not None and (name not in self.asked or lower < self.asked[name]):
                before = self.in_force(name, charge)
                self.asked[name] = lower
                if before is None or lower < before:
                    self.cap[name] = lower

    def set(self, account: str, limit: int, now: float) -> bool:
        """An operator's word. Is it the first one about this unit of a run?"""
        kind, owner, unit = account.split("/")[:3]
        if kind == "run":
            self.began.setdefault(owner, now)
        units = self.capped.setdefault(owner, []) if kind == "run" else []
        first = kind == "run" and unit != "nusd" and unit not in units
        if first:
            units.append(unit)
        self.cap[account] = limit
        return first

    def in_full(self, order: Order, now: float) -> Full:
        """The accounts that this order charges at this instant: windows by name, and what its runs were capped in."""
        found = {}
        for charge in order.charges:
            label = "" if charge.window is None else f"/{charge.window.at(now).label}"
            found[charge.account + label] = charge
        run: str | None = order.run.key
        while run is not None:
            for unit in self.capped.get(run, ()):
                want, least = order.sizes.get(unit, (0, 0))
                found.setdefault(f"run/{run}/{unit}", Charge(f"run/{run}/{unit}", unit, want, least))  # type: ignore[arg-type]
            run = self.parents.get(run)
        return list(found.items())

    def in_force(self, account: str, charge: Charge) -> int | None:
        """The limit that this charge meets."""
        cap, most = self.cap.get(account), charge.limit if charge.most is None else charge.most
        return charge.limit if cap is None else cap if most is None else min(cap, most)

    def is_age(self, account: str) -> bool:
        """Is this the account of how long ago a run began?"""
        kind, _, unit = account.split("/")[:3]
        return (kind, unit) == ("run", "seconds")

    def age(self, account: str, now: float) -> int:
        """Whole seconds since the run began."""
        run = account.split("/")[1]
        return max(0, int(now - self.began.get(run, now)))

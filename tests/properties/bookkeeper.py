"""A ledger in plain dicts, written from ledger.md alone: what was granted and told, and what that adds up to.

Invariant: it never asks the engine for a decision; it hears answers, knows the table of section 3, and says what every
account must have spent and held. P1 is asserted at each grant, from its own sums. What never enters: `core.ledger`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

from gateway.core.types import Balance, Charge, Exchange, Order, Reservation
from tests.properties.limits import Full, Limits

UNHELD = ("tool_calls", "seconds", "age")


@dataclass
class Kept:
    """One reservation: where it stands in the table of section 3."""

    run: str
    accounts: list[tuple[str, str]]
    held: dict[str, int]
    created_at: float
    deadline_at: float
    instance: str
    state: str = "held"
    charged: dict[str, int] = field(default_factory=dict)
    response_id: str | None = None
    corrections: set[str] = field(default_factory=set)
    joined: set[str] = field(default_factory=set)  # accounts that it counts on since it ended


class Bookkeeper:
    """Adds up."""

    def __init__(self) -> None:
        self.limits = Limits()
        self.spent: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.kept: dict[str, Kept] = {}

    def sums(self, account: str) -> tuple[int, int]:
        """(spent, held) as they must be."""
        return self.spent.get(account, 0), self.held.get(account, 0)

    def granted(self, order: Order, got: Reservation, now: float, instance: str, parked: Full | None = None) -> None:
        """An order was granted at this instant. Asserts P1 on each of its accounts, before anything is added.

        parked: its charges in full as they were when it began to wait: windows are pinned then.
        """
        if got.id in self.kept:
            return
        charges = self.limits.in_full(order, now)
        if parked is not None and {name for name, _ in parked} == {balance.account for balance in got.balances}:
            charges = parked
        assert {name for name, _ in charges} == {balance.account for balance in got.balances}
        accounts: list[tuple[str, str]] = [
            (name, "age" if self.limits.is_age(name) else charge.unit) for name, charge in charges
        ]
        held = {unit: 0 if unit in UNHELD else got.granted[unit] for _, unit in accounts}
        assert held == got.granted, (held, got.granted)
        for name, charge in charges:
            self._fits(name, charge, held, now)
        self.kept[got.id] = Kept(
            order.run.key, accounts, held, now, max(order.deadline_at, now + order.deadline_at - order.at), instance
        )
        for name, unit in accounts:
            self.held[name] = self.held.get(name, 0) + held[unit]

    def _fits(self, name: str, charge: Charge, held: dict[str, int], now: float) -> None:
        limit = self.limits.in_force(name, charge)
        if limit is None:
            return
        spent, beside = self.sums(name)
        if charge.unit == "tool_calls":
            assert spent <= limit, f"{name}: {spent} tool calls of {limit}, and another call"
        elif charge.unit == "seconds":
            used = self.limits.age(name, now) if self.limits.is_age(name) else spent
            assert used < limit, f"{name}: {used} s of {limit}, and another call"
        else:
            granted = held[charge.unit]
            assert granted >= (charge.least if charge.clamp else charge.want)
            assert spent + beside + granted <= limit, f"P1 {name}: {spent} + {beside} + {granted} of {limit}"

    def limited(self, said: Balance, limit: int, now: float) -> None:
        """An operator set a limit. Where nobody counted this unit of the run before, the answer says what it did."""
        account, unit = said.account, said.account.split("/")[2]
        first = self.limits.set(account, limit, now)
        if first and unit in ("calls", "tool_calls", "tokens") and not self.spent.get(account, 0):
            self.spent[account] = said.spent

    # ------------------------------------------------------------- how a reservation ends

    def settled(
        self, order_id: str, actual: dict[str, int] | None, told: Exchange, cost: int | None, now: float
    ) -> None:
        """A call told how it ended. cost: as the exchange said it before the store wrote into it."""
        kept = self.kept.get(order_id)
        if kept is None or kept.state not in ("held", "presumed"):
            return
        given = actual or {}
        if told.cost_source == "refused":
            self._end(kept, "void", {"calls": given.get("calls", 0)}, now)
        elif told.cost_source == "presumed":
            if kept.state == "held":
                seen = {"tool_calls": given.get("tool_calls", 0)}
                self._end(kept, "presumed", {**_whole(kept), **seen}, now)
                kept.response_id = told.response_id
        else:
            self._end(kept, "settled", {**_whole(kept), "nusd": cost or 0, **given}, now)

    def ended(self, order_id: str, state: str, now: float) -> None:
        """void, or presumed, without a word."""
        kept = self.kept.get(order_id)
        if kept is not None and (kept.state == "held" or (kept.state == "presumed" and state == "void")):
            self._end(kept, state, _whole(kept) if state == "presumed" else {}, now)

    def trued_up(self, response_id: str, actual: dict[str, int], now: float) -> bool:
        """A late fact; was there a presumed call that it is about?"""
        for kept in self.kept.values():
            if kept.state == "presumed" and kept.response_id == response_id:
                self._end(kept, "settled", {**_whole(kept), **actual}, now)
                return True
        return False

    def corrected(self, order_id: str, delta: int, correction_id: str) -> None:
        """A refund, or a provider's correction, once per id."""
        kept = self.kept.get(order_id)
        if kept is None or kept.state not in ("settled", "void") or "nusd" not in kept.charged:
            return
        if correction_id in kept.corrections:
            return
        delta = max(delta, -kept.charged["nusd"])
        kept.corrections.add(correction_id)
        kept.charged["nusd"] += delta
        for name, unit in kept.accounts:
            if unit == "nusd":
                self.spent[name] += delta

    def adjusted(self, order_id: str, unit: str, amount: int) -> None:
        """The hold of one unit was set."""
        kept = self.kept[order_id]
        for name, of in kept.accounts:
            if of == unit:
                self.held[name] += amount - kept.held[unit]
        kept.held[unit] = amount

    def lost(self, now: float, lapsed: frozenset[str] = frozenset(), late: bool = True) -> None:
        """Presumes what is past its deadline (late), and what processes held that are dead or without a lease."""
        for kept in self.kept.values():
            if kept.state == "held" and (kept.instance in lapsed or (late and kept.deadline_at < now)):
                self._end(kept, "presumed", _whole(kept), now)

    def _end(self, kept: Kept, state: str, amounts: dict[str, int], now: float) -> None:
        late = kept.state == "presumed"
        if not late:
            self._join(kept)
        if state == "presumed":
            amounts = {"calls": 1, **amounts}
        charged = {unit: amounts.get(unit, 0) for unit in kept.held}
        if "age" in charged:
            charged["age"] = 0
        if "seconds" in charged:
            until = min(now, kept.deadline_at)
            charged["seconds"] = kept.charged["seconds"] if late else max(0, ceil(until - kept.created_at))
        for name, unit in kept.accounts:
            self.spent[name] = self.spent.get(name, 0) + charged[unit] - kept.charged.get(unit, 0)
            if not late and name not in kept.joined:
                self.held[name] -= kept.held[unit]
        kept.charged, kept.state = charged, state

    def _join(self, kept: Kept) -> None:
        """What was limited on its run, or on one above, since it was granted: it counts there, and held nothing."""
        run: str | None = kept.run
        while run is not None:
            for unit in self.limits.capped.get(run, ()):
                name = f"run/{run}/{unit}"
                if all(name != known for known, _ in kept.accounts):
                    kept.accounts.append((name, "age" if unit == "seconds" else unit))
                    kept.held.setdefault(kept.accounts[-1][1], 0)
                    kept.joined.add(name)
            run = self.limits.parents.get(run)


def _whole(kept: Kept) -> dict[str, int]:
    return {unit: 0 if unit == "inflight" else amount for unit, amount in kept.held.items()}

"""A report's difference booked: corrections on the calls of that day and model, in proportion to what they cost.

Invariant: the parts add up to the difference, to the nano-dollar, and take no call below zero; the same report booked
again changes nothing, a later one books only the rest. What never enters: a call that the ledger has no reservation of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.cli.books import holds_of

if TYPE_CHECKING:
    from gateway.cli.diff import Row
    from gateway.core.ledger.book import Hold
    from gateway.core.ledger.reading import Query
    from gateway.core.types import Exchange
    from gateway.stores.sqlite import SqliteStore

AT_ONCE: Final = 64  # one commit of the store takes as many


@dataclass
class Part:
    """What one call is corrected by, and the id of that correction."""

    call: Exchange
    hold: Hold
    nusd: int
    name: str


@dataclass
class Plan:
    """What one row books: a part for each call, and what is left because no call can take it."""

    row: Row
    parts: list[Part] = field(default_factory=list)
    left_nusd: int = 0


def plan(query: Query, row: Row, provider: str) -> Plan:
    """Spreads the difference of a row over its calls."""
    made = Plan(row)
    difference = row.difference_nusd
    if not difference or abs(difference) <= row.tolerance_nusd:
        return made
    able = [(call, hold) for call in row.calls if (hold := _correctable(query, call)) is not None]
    charged = [hold.charged["nusd"] for _, hold in able]
    weights = charged if any(charged) else [_tokens(call) for call, _ in able]
    nusd = spread(difference, weights, charged)
    billed = 0 if row.billed is None else row.billed.cost_nusd
    # what the report says and how often this call was corrected before: a repeat from the same state is the same one
    about = f"report:{provider}:{row.day}:{row.model}:{billed}"
    made.parts = [
        Part(call, hold, part, f"{about}:{len(hold.corrections)}")
        for (call, hold), part in zip(able, nusd, strict=True)
        if part
    ]
    made.left_nusd = difference - sum(nusd)
    return made


def spread(amount: int, weights: Sequence[int], charged: Sequence[int]) -> list[int]:
    """Parts of an amount in proportion to weights, largest remainder first; less than nothing is charged on none.

    Without any weight all parts are equal.
    """
    if not weights:
        return []
    if not any(weights):
        weights = [1] * len(weights)
    whole = abs(amount) if amount > 0 else min(abs(amount), sum(charged))
    total = sum(weights)
    parts = [whole * weight // total for weight in weights]
    remainders = sorted(range(len(weights)), key=lambda at: (-(whole * weights[at] % total), at))
    rest = whole - sum(parts)
    for at in remainders:
        if rest and (amount > 0 or parts[at] < charged[at]):
            parts[at] += 1
            rest -= 1
    return [part if amount > 0 else -part for part in parts]


def _correctable(query: Query, call: Exchange) -> Hold | None:
    holds = holds_of(query, call.call_id)
    return holds[-1] if holds and holds[-1].state != "held" and "nusd" in holds[-1].charged else None


def _tokens(call: Exchange) -> int:
    usage = call.usage
    return 0 if usage is None else (usage.input_tokens or 0) + (usage.output_tokens or 0)


async def book(store: SqliteStore, plans: Sequence[Plan], reason: str, actor: str) -> int:
    """Books every part; how many corrections there are."""
    parts = [part for made in plans for part in made.parts]
    for begin in range(0, len(parts), AT_ONCE):
        some = parts[begin : begin + AT_ONCE]
        await asyncio.gather(*(_book(store, part, reason, actor) for part in some))
    return len(parts)


async def _book(store: SqliteStore, part: Part, reason: str, actor: str) -> None:
    hold, call = part.hold, part.call
    if hold.state == "presumed":  # the invoice ends the doubt; what it says is laid on what was presumed
        call.cost_source, call.cost_nusd = "estimate", hold.charged["nusd"]
        await store.settle(hold.id, None, call)
    await store.correct(hold.id, part.nusd, reason, actor, part.name)

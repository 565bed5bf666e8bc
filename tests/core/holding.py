"""A call up to its order and beyond: what the tests of core/reserve.py and core/hold.py share.

Invariant: the real rooms, prices and ledger; only the rules say what a test wants them to.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.core import reserve
from gateway.core.quote import Ask, quote
from gateway.core.step import Step, Way, begin
from gateway.core.types import Charge, Exchange, Order, Refusal, RunFacts
from tests.fakes import RecordingOutlet
from tests.walking import World, chat, inbound, provider

LIMIT = 100_000_000


class Fixed:
    """A rule that says what it was given. Implements ports.Rule."""

    def __init__(self, *says: Any) -> None:
        self.says = says
        self.asked: list[Ask] = []

    def check(self, ask: Ask) -> Any:
        self.asked.append(ask)
        said = self.says[min(len(self.asked), len(self.says)) - 1] if self.says else []
        return said

    def note(self, exchange: Exchange) -> None:
        """Learns nothing."""


class Orders:
    """Remembers what was ordered, and answers as told; else as the real store."""

    def __init__(self, world: World, *says: Any) -> None:
        self.world, self.says = world, list(says)
        self.orders: list[Order] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world.faulty, name)

    async def reserve(self, order: Order) -> Any:
        self.orders.append(order)
        return self.says.pop(0) if self.says else await self.world.store.reserve(order)


def facts(key: str = "r", parent: str | None = None, source: str = "header", **more: Any) -> RunFacts:
    """A run that its caller named."""
    return RunFacts(key=key, id=key, tenant="", source=source, parent=parent, **more)


def made(world: World, body: Any = None, path: str = "/v1/chat/completions", **more: Any) -> Step:
    """A call whose run is known; its offer is what it will be quoted."""
    came, section = inbound(body or chat(), path, **more), provider()
    dialect = next(one for one in world.dialects if one.matches("POST", path))
    call = dialect.decode(came, section)
    step = begin(Way(came, section, dialect, RecordingOutlet()), call, world.kin.merge(facts()), (), world.clock)
    step.offer = quote(call, world.parts.prices.card(section, call.model, came.at), world.parts.policy)
    return step


def charge(limit: int | None = LIMIT, account: str = "run/r/nusd", **more: Any) -> Charge:
    """One charge; its amounts are the quote's."""
    return Charge(account, account.split("/")[2], 1, 1, limit, **more)  # type: ignore[arg-type]  # a unit


def watched(*says: Any, **more: Any) -> tuple[World, Orders]:
    """A world whose orders are seen, and answered as told."""
    world = World(**more)
    orders = Orders(world, *says)
    world.parts = msgspec.structs.replace(world.parts, store=orders)
    return world, orders


async def held(world: World, step: Step, *charges: Charge, says: tuple[Any, ...] = ()) -> Refusal | None:
    """Admits the call with these charges (without: one on the run's dollars)."""
    rule = Fixed(*(says or (list(charges) or [charge()],)))
    world.parts = msgspec.structs.replace(world.parts, rules=(rule,))
    return await reserve.admit(world.parts, step)

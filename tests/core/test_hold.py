"""Tests of core/hold.py: what a hold makes of the body, how it shrinks, grows and ends."""

from __future__ import annotations

from gateway.core import hold
from gateway.core.outcome import Ending
from gateway.core.types import Reply, Usage
from tests.core.holding import held, made
from tests.walking import COST, World, chat

# --------------------------------------------------------------------------- the hold's end


async def test_a_hold_only_shrinks():
    """Exact input lowers it; what would raise it is not even asked."""
    world = World()
    step = made(world, chat(words=500))
    await held(world, step)
    before = step.hold_nusd
    adjust = hold.lower(world.parts, step)
    await adjust(10_000_000)
    assert (before, []) == (step.hold_nusd, [name for name in world.faulty.asked if name == "adjust"])
    await adjust(10)
    assert step.hold_nusd == world.held() < before


async def test_a_call_is_settled_registered_and_numbered():
    """Money, record and conversation in one go; the record carries what the ledger says (http.md section 4)."""
    world = World()
    step = made(world)
    await held(world, step)
    usage = Usage(input_tokens=10, output_tokens=20)
    await hold.settle(
        world.parts, step, Ending(status=200), Reply(usage=usage, usage_complete=True, ended=True, links=(5,))
    )
    assert (True, COST, 1) == (step.settled, step.record.cost_nusd, step.record.step)
    assert (COST, 0) == (step.balances[0].spent, step.balances[0].held)
    assert 1 == len(world.parts.index) and world.sound()


async def test_what_held_nothing_is_listed_too():
    """A refusal gets its number and its place in the journal, and charges nothing."""
    world = World()
    step = made(world)
    await hold.settle(world.parts, step, Ending("refused", None, "loop_blocked"), Reply())
    assert (1, "loop_blocked", 0) == (world.last.step, world.last.reason, world.last.cost_nusd)
    assert [] == world.store.rows

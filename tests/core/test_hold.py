"""Tests of core/hold.py: what a hold makes of the body, how it shrinks, grows and ends."""

from __future__ import annotations

from gateway.core import hold
from gateway.core.errors import StoreFailed, Undecodable
from gateway.core.outcome import Ending
from gateway.core.types import Reply, Usage
from tests.core.holding import LIMIT, charge, held, made
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


# --------------------------------------------------------------------------- what is sent, what is lowered


async def test_a_limit_that_a_format_does_not_take_is_a_refusal_of_its_unit():
    """402 by the unit that pays for least; another fault of the body keeps its own words."""
    world = World()
    step = made(world, chat(max_tokens=4000))
    least = step.offer.sizes["tokens"][1]
    await held(world, step, charge(LIMIT), charge(least, "run/r/tokens"))
    low = hold.unfit(step, Undecodable("too low", status=402, code="insufficient_quota"))
    assert (402, "limit_tokens", "too low", "r") == (low.status, low.code, low.message, low.run_id)
    assert (400, "invalid_request") == ((odd := hold.unfit(step, Undecodable("odd"))).status, odd.code)
    step = made(world := World(), chat(max_tokens=4000))
    await held(world, step, charge(step.offer.least))
    assert "insufficient_quota" == hold.unfit(step, Undecodable("low", status=402)).code


async def test_every_unit_that_is_held_is_lowered():
    """Exact input frees tokens as it frees dollars; calls stay held."""
    world = World()
    step = made(world, chat(words=500))
    await held(world, step, charge(), charge(10**6, "run/r/tokens"), charge(5, "run/r/calls"))
    before = dict(step.held)
    await hold.lower(world.parts, step)(10)
    assert (10 + 100, 1) == (step.held["tokens"], step.held["calls"])
    assert step.held["nusd"] < before["nusd"] and sum(step.held.values()) == world.held()


async def test_a_hold_that_cannot_be_lowered_stays():
    """What the store doesn't take is not believed either."""
    world = World()
    step = made(world, chat(words=500))
    await held(world, step, charge(), charge(10**6, "run/r/tokens"))
    before = dict(step.held)
    world.faulty.fails["adjust"] = StoreFailed("disk full")
    await hold.lower(world.parts, step)(10)
    assert before == step.held


async def test_only_what_is_expected_grows():
    """A strict hold has nothing to top up; what grows is never more than was asked, and each unit counts."""
    world = World()
    step = made(world, chat(True, max_tokens=600))
    await held(world, step, charge(expected=True))
    assert (None, None) == (hold.top_up(world.parts, step), hold.most_output(step))
    for _ in range(10):
        world.parts.learned.note("r", step.call.model, 100, 400, 0)
    step = made(world, chat(True, max_tokens=600))
    await held(world, step, charge(expected=True), charge(10**6, "run/r/tokens", expected=True))
    grow = hold.top_up(world.parts, step)
    assert grow is not None and (100, 600) == (hold.metered_output(step), hold.most_output(step))
    assert 356 == await grow(256)
    assert step.offer.input_tokens + 356 == step.held["tokens"]
    assert 600 == await grow(1024)
    assert step.offer.sizes["nusd"][0] == step.held["nusd"] and step.offer.sizes["tokens"][0] == step.held["tokens"]


async def test_the_unit_that_did_not_grow_ends_the_answer():
    """Its refusal has that unit's code, whatever the other would still pay for."""
    world = World()
    for _ in range(10):
        world.parts.learned.note("r", "gpt-4o-mini", 100, 400, 0)
    step = made(world, chat(True, max_tokens=600))
    room = step.offer.input_tokens + 200
    await held(world, step, charge(expected=True), charge(room, "run/r/tokens", expected=True))
    grow = hold.top_up(world.parts, step)
    assert grow is not None and 100 == await grow(256)
    refusal = hold.why_cut(step, Ending("cut", 200, "budget_ended"))
    assert (402, "limit_tokens") == (refusal.status, refusal.code)

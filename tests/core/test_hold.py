"""Tests of core/hold.py: what is known of a run, the order that holds its call, and how the hold shrinks and ends."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from gateway.core import hold
from gateway.core.errors import Undecodable
from gateway.core.live import killed
from gateway.core.outcome import Ending
from gateway.core.quote import Ask, quote
from gateway.core.step import Step, Way, begin
from gateway.core.types import Charge, Denied, Order, Refusal, Reply, Reservation, RunFacts, Usage
from tests.fakes import RecordingOutlet
from tests.walking import COST, Words, World, chat, inbound, provider

LIMIT = 100_000_000


def facts(key: str = "r", parent: str | None = None, source: str = "header") -> RunFacts:
    return RunFacts(key=key, id=key, tenant="", source=source, parent=parent)


def made(world: World, body: Any = None) -> tuple[Step, Ask]:
    """A call that has been quoted, and what the rules are asked of it."""
    came, section, dialect = inbound(body or chat()), provider(), world.dialects[0]
    call = dialect.decode(came, section)
    step = begin(Way(came, section, dialect, RecordingOutlet()), call, facts(), (), world.clock.new_id("call"))
    step.offer = quote(call, world.parts.prices.card(section, call.model, 0.0), world.parts.policy)
    return step, Ask(call, step.run, (), came.labels, step.offer, came.at)


def charge(limit: int | None = LIMIT) -> Charge:
    return Charge("run/r/nusd", "nusd", 1, 1, limit)


async def held(world: World, step: Step, ask: Ask, limit: int | None = LIMIT) -> Refusal | None:
    return await hold.reserve(world.parts, step, ask, [charge(limit)])


class Orders:
    """Remembers what was ordered, and answers as told; else as the real store."""

    def __init__(self, world: World, *says: Any) -> None:
        self.world, self.says = world, list(says)
        self.orders: list[Order] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world.store, name)

    async def reserve(self, order: Order) -> Any:
        self.orders.append(order)
        return self.says.pop(0) if self.says else await self.world.store.reserve(order)


def watched(*says: Any, **more: Any) -> tuple[World, Orders]:
    world = World(**more)
    orders = Orders(world, *says)
    world.parts = msgspec.structs.replace(world.parts, store=orders)
    return world, orders


# --------------------------------------------------------------------------- whose call


async def test_a_run_that_was_seen_is_not_asked_for_again():
    """The store is asked once a run and ancestor, then never again on the hot path."""
    world = World()
    await world.store.make_run(facts("root"), 0.0)
    for _ in range(2):
        assert "root" == (await hold.recall(world.parts, facts(parent="root"))).parent
    assert ["run", "run"] == world.faulty.asked
    await hold.recall(world.parts, facts())
    assert ["run", "run"] == world.faulty.asked


async def test_an_inferred_run_is_nobodys_to_ask_for():
    """Its key was made here: no trip to the store for the first call of a conversation."""
    world = World()
    await hold.recall(world.parts, facts(source="inferred"))
    assert [] == world.faulty.asked


async def test_what_the_store_knows_is_filled_in():
    """A run's agent and parent from before a restart come back, and the whole line above it."""
    world = World()
    for key, parent in (("root", None), ("mid", "root"), ("r", "mid")):
        await world.store.make_run(msgspec.structs.replace(facts(key, parent), agent=key), 0.0)
    got = await hold.recall(world.parts, facts())
    assert ("mid", "r") == (got.parent, got.agent)
    assert ("mid", "root") == (world.kin.parent_of("r"), world.kin.parent_of("mid"))


@pytest.mark.parametrize("line", [["r"], ["a", "r"], ["a", "b", "r"]])
async def test_a_circle_is_refused_before_it_is_remembered(line: list[str]):
    """Whoever closes it gets 400; nobody's parent has changed."""
    world = World()
    for key, parent in itertools.pairwise(line):
        await hold.recall(world.parts, facts(key, parent))
    with pytest.raises(Undecodable, match="own ancestor"):
        await hold.recall(world.parts, facts("r", line[0]))
    assert None is world.kin.parent_of("r")


async def test_the_look_upwards_ends():
    """However a store's runs hang together, so many are asked for and no more."""
    world = World()
    for number in range(50):
        await world.store.make_run(facts(f"n{number}", f"n{number + 1}"), 0.0)
    await hold.recall(world.parts, facts("n0"))
    assert hold.MOST_LOOKS == len(world.faulty.asked)


# --------------------------------------------------------------------------- the order


async def test_the_order_says_all_that_a_lost_call_needs():
    """Amounts of the quote, an id of the call, a deadline past the call's own time, gates, and what it was about."""
    world, orders = watched()
    step, ask = made(world)
    assert None is await held(world, step, ask)
    (order,) = orders.orders
    call_id = step.record.call_id
    assert (f"{call_id}/1", call_id, step.run) == (order.id, order.call_id, facts())
    assert ((step.offer.want, step.offer.least),) == tuple((c.want, c.least) for c in order.charges)
    assert ask.now + provider().total_s + hold.GRACE_S == order.deadline_at
    assert ("run/r", "global") == order.gates
    assert ("openai-chat", "scripted", "chat", "gpt-4o-mini", False) == order.about
    assert (step.offer.want, 1, True, order.id) == (step.hold_nusd, step.record.step, step.metered, step.order_id)


async def test_only_dollars_are_set_by_the_quote():
    """A charge of another unit keeps its own amounts."""
    world, orders = watched()
    step, ask = made(world)
    calls = Charge("run/r/calls", "calls", 1, 1)
    assert None is await hold.reserve(world.parts, step, ask, [charge(), calls])
    assert calls == orders.orders[0].charges[1]


async def test_the_finer_bound_is_tried_before_the_line():
    """The first order has no patience; denied, the call is counted, and only then stands in line."""
    no = Denied("run/r/nusd", "nusd", "limit")
    world, orders = watched(no)
    step, ask = made(world, chat(words=400))
    coarse = step.offer.want
    assert None is await held(world, step, ask)
    first, second = orders.orders
    assert (0.0, 30.0, first.id) == (first.wait_s, second.wait_s, second.id)
    assert second.charges[0].want < coarse


async def test_what_no_count_can_lower_stands_in_line_at_once():
    """Images and unseen input aren't text: one order, with patience."""
    world, orders = watched()
    parts = [{"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]
    step, ask = made(world, chat(messages=[{"role": "user", "content": parts}]))
    await held(world, step, ask)
    assert ([30.0], []) == ([order.wait_s for order in orders.orders], world.tokenizer.asked)


async def test_a_tokenizer_that_is_not_loaded_is_warmed_and_not_waited_for():
    """The bytes decide until it has loaded."""
    world, orders = watched(Denied("run/r/nusd", "nusd", "limit"), tokenizer=Words(ready=False))
    step, ask = made(world)
    await held(world, step, ask)
    assert ["o200k_base"] == world.tokenizer.warmed and [] == world.tokenizer.asked
    assert orders.orders[0].charges == orders.orders[1].charges


@pytest.mark.parametrize("how", ["kill", "leave"])
async def test_nobody_stands_in_line_for_who_is_gone(how: str):
    """The store isn't asked any more; a killed run reads the operator's reason."""
    world, orders = watched()
    step, ask = made(world)
    step.open.stop(killed("loop")) if how == "kill" else step.open.leave()
    refusal = await held(world, step, ask)
    assert refusal is not None and [] == orders.orders
    assert ("run_killed" if how == "kill" else "client_left", "r") == (refusal.code, refusal.run_id)


async def test_a_denial_becomes_the_refusal_of_its_reason():
    """Limit, overload and kill each keep their own words."""
    for reason, code in (("closed", "run_killed"), ("busy", "overloaded")):
        world, _ = watched(Denied("run/r/nusd", "nusd", reason))  # type: ignore[arg-type]  # one of the literals
        step, ask = made(world)
        refusal = await held(world, step, ask)
        assert refusal is not None and code == refusal.code
        assert (None, 0) == (step.order_id, step.hold_nusd)


@pytest.mark.parametrize("granted", [True, False])
async def test_a_limit_is_set_only_where_the_grant_is_short(granted: bool):
    """The record says what was set, for the header (http.md section 2)."""
    world = World()
    step, ask = made(world, chat(max_tokens=4000))
    assert None is await held(world, step, ask, step.offer.want if granted else step.offer.least + 1)
    assert granted == (step.limit is None) == (step.record.clamped is None)
    assert 4000 if granted else step.limit == hold.metered_output(step)


async def test_without_a_limit_that_binds_nothing_is_metered():
    """Counted, not cut, not capped, not clamped, whatever the model's own maximum."""
    world = World()
    body = chat(model="priced-by-us")
    del body["max_tokens"]
    step, ask = made(world, body)
    assert step.offer.must_set
    assert None is await held(world, step, ask, None)
    assert (False, None, None, None) == (step.metered, step.limit, hold.metered_output(step), hold.edits(step, False).caps)


# --------------------------------------------------------------------------- the hold's end


async def test_a_hold_only_shrinks():
    """Exact input lowers it; what would raise it is not even asked."""
    world = World()
    step, ask = made(world, chat(words=500))
    await held(world, step, ask)
    before = step.hold_nusd
    adjust = hold.lower(world.parts, step)
    await adjust(10_000_000)
    assert (before, []) == (step.hold_nusd, [name for name in world.faulty.asked if name == "adjust"])
    await adjust(10)
    assert step.hold_nusd == world.held() < before


async def test_a_call_is_settled_registered_and_numbered():
    """Money, record and conversation in one go; the record carries what the ledger says (http.md section 4)."""
    world = World()
    step, ask = made(world)
    await held(world, step, ask)
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
    step, _ = made(world)
    await hold.settle(world.parts, step, Ending("refused", None, "loop_blocked"), Reply())
    assert (1, "loop_blocked", 0) == (world.last.step, world.last.reason, world.last.cost_nusd)
    assert [] == world.store.rows


async def test_a_grant_names_the_amount_of_dollars():
    """A reservation without dollars holds none (limits of other units only)."""
    world, _ = watched(Reservation("c/1", 3, {"calls": 1}, ()))
    step, ask = made(world)
    assert None is await held(world, step, ask)
    assert (0, 3, False) == (step.hold_nusd, step.record.step, step.metered)

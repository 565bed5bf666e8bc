"""Tests of core/reserve.py: what is known of a run, and the order that holds its call."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from gateway.core import hold, reserve
from gateway.core.errors import Undecodable
from gateway.core.live import killed
from gateway.core.types import Charge, Denied, Reservation
from tests.core.holding import charge, facts, held, made, watched
from tests.walking import Words, World, chat, provider

# --------------------------------------------------------------------------- whose call


async def test_a_run_that_was_seen_is_not_asked_for_again():
    """The store is asked once a run and ancestor, then never again on the hot path."""
    world = World()
    await world.store.make_run(facts("root"), 0.0)
    for _ in range(2):
        assert "root" == (await reserve.recall(world.parts, facts(parent="root"))).parent
    assert ["run", "run"] == world.faulty.asked
    await reserve.recall(world.parts, facts())
    assert ["run", "run"] == world.faulty.asked


async def test_an_inferred_run_is_nobodys_to_ask_for():
    """Its key was made here: no trip to the store for the first call of a conversation."""
    world = World()
    await reserve.recall(world.parts, facts(source="inferred"))
    assert [] == world.faulty.asked


async def test_what_the_store_knows_is_filled_in():
    """A run's agent and parent from before a restart come back, and the whole line above it."""
    world = World()
    for key, parent in (("root", None), ("mid", "root"), ("r", "mid")):
        await world.store.make_run(msgspec.structs.replace(facts(key, parent), agent=key), 0.0)
    got = await reserve.recall(world.parts, facts())
    assert ("mid", "r") == (got.parent, got.agent)
    assert ("mid", "root") == (world.kin.parent_of("r"), world.kin.parent_of("mid"))


@pytest.mark.parametrize("line", [["r"], ["a", "r"], ["a", "b", "r"]])
async def test_a_circle_is_refused_before_it_is_remembered(line: list[str]):
    """Whoever closes it gets 400; nobody's parent has changed."""
    world = World()
    for key, parent in itertools.pairwise(line):
        await reserve.recall(world.parts, facts(key, parent))
    with pytest.raises(Undecodable, match="own ancestor"):
        await reserve.recall(world.parts, facts("r", line[0]))
    assert None is world.kin.parent_of("r")


async def test_the_look_upwards_ends():
    """However a store's runs hang together, so many are asked for and no more."""
    world = World()
    for number in range(50):
        await world.store.make_run(facts(f"n{number}", f"n{number + 1}"), 0.0)
    await reserve.recall(world.parts, facts("n0"))
    assert reserve.MOST_LOOKS == len(world.faulty.asked)


# --------------------------------------------------------------------------- the order


async def test_the_order_says_all_that_a_lost_call_needs():
    """Amounts of the quote, an id of the call, a deadline past the call's own time, gates, and what it was about."""
    world, orders = watched()
    step = made(world)
    assert None is await held(world, step)
    (order,) = orders.orders
    call_id = step.record.call_id
    assert (f"{call_id}/1", call_id, step.run) == (order.id, order.call_id, facts())
    assert ((step.offer.want, step.offer.least),) == tuple((c.want, c.least) for c in order.charges)
    assert step.inbound.at + provider().total_s + reserve.GRACE_S == order.deadline_at
    assert ("run/r", "global") == order.gates
    assert ("openai-chat", "scripted", "chat", "gpt-4o-mini", False) == order.about
    assert (step.offer.want, 1, True, order.id) == (step.hold_nusd, step.record.step, step.metered, step.order_id)


async def test_only_dollars_are_set_by_the_quote():
    """A charge of another unit keeps its own amounts."""
    world, orders = watched()
    step = made(world)
    calls = Charge("run/r/calls", "calls", 1, 1)
    assert None is await held(world, step, charge(), calls)
    assert calls == orders.orders[0].charges[1]


async def test_the_finer_bound_is_tried_before_the_line():
    """The first order has no patience; denied, the call is counted, and only then stands in line."""
    no = Denied("run/r/nusd", "nusd", "limit")
    world, orders = watched(no)
    step = made(world, chat(words=400))
    coarse = step.offer.want
    assert None is await held(world, step)
    first, second = orders.orders
    assert (0.0, 30.0, first.id) == (first.wait_s, second.wait_s, second.id)
    assert second.charges[0].want < coarse


async def test_what_no_count_can_lower_stands_in_line_at_once():
    """Images and unseen input aren't text: one order, with patience."""
    world, orders = watched()
    parts = [{"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}]
    step = made(world, chat(messages=[{"role": "user", "content": parts}]))
    await held(world, step)
    assert ([30.0], []) == ([order.wait_s for order in orders.orders], world.tokenizer.asked)


async def test_a_tokenizer_that_is_not_loaded_is_warmed_and_not_waited_for():
    """The bytes decide until it has loaded."""
    world, orders = watched(Denied("run/r/nusd", "nusd", "limit"), tokenizer=Words(ready=False))
    step = made(world)
    await held(world, step)
    assert ["o200k_base"] == world.tokenizer.warmed and [] == world.tokenizer.asked
    assert orders.orders[0].charges == orders.orders[1].charges


@pytest.mark.parametrize("how", ["kill", "leave"])
async def test_nobody_stands_in_line_for_who_is_gone(how: str):
    """The store isn't asked any more; a killed run reads the operator's reason."""
    world, orders = watched()
    step = made(world)
    step.open.stop(killed("loop")) if how == "kill" else step.open.leave()
    refusal = await held(world, step)
    assert refusal is not None and [] == orders.orders
    assert ("run_killed" if how == "kill" else "client_left", "r") == (refusal.code, refusal.run_id)


async def test_a_denial_becomes_the_refusal_of_its_reason():
    """Limit, overload and kill each keep their own words."""
    for reason, code in (("closed", "run_killed"), ("busy", "overloaded")):
        world, _ = watched(Denied("run/r/nusd", "nusd", reason))  # type: ignore[arg-type]  # one of the literals
        step = made(world)
        refusal = await held(world, step)
        assert refusal is not None and code == refusal.code
        assert (None, 0) == (step.order_id, step.hold_nusd)


@pytest.mark.parametrize("granted", [True, False])
async def test_a_limit_is_set_only_where_the_grant_is_short(granted: bool):
    """The record says what was set, for the header (http.md section 2)."""
    world = World()
    step = made(world, chat(max_tokens=4000))
    assert None is await held(world, step, charge(step.offer.want if granted else step.offer.least + 1))
    assert granted == (step.limit is None) == (step.record.clamped is None)
    assert 4000 if granted else step.limit == hold.metered_output(step)


async def test_without_a_limit_that_binds_nothing_is_metered():
    """Counted, not cut, not capped, not clamped, whatever the model's own maximum."""
    world = World()
    body = chat(model="priced-by-us")
    del body["max_tokens"]
    step = made(world, body)
    assert step.offer.must_set
    assert None is await held(world, step, charge(None))
    assert (False, None, None, None) == (
        step.metered,
        step.limit,
        hold.metered_output(step),
        hold.edits(step, False).caps,
    )


async def test_a_grant_names_the_amount_of_dollars():
    """A reservation without dollars holds none (limits of other units only)."""
    world, _ = watched(Reservation("c/1", 3, {"calls": 1}, ()))
    step = made(world)
    assert None is await held(world, step)
    assert (0, 3, False) == (step.hold_nusd, step.record.step, step.metered)

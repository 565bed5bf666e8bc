"""Tests of core/reserve.py: what is known of a run, and the order that holds its call."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from gateway.core import hold, reserve
from gateway.core.errors import StoreFailed, Undecodable
from gateway.core.live import killed
from gateway.core.quote import PAID_IN
from gateway.core.types import Balance, Charge, Denied, Pending, Refusal, Reservation
from tests.core.holding import LIMIT, Fixed, charge, facts, held, made, watched
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


# --------------------------------------------------------------------------- every unit


UNITS = ("nusd", "tokens", "calls", "tool_calls")


def charges(*units: str, limit: int | None = None, **more: Any) -> tuple[Charge, ...]:
    return tuple(charge(limit, f"run/r/{unit}", **more) for unit in units)


async def test_every_charge_holds_the_size_of_its_unit():
    """Rules say where, the quote how much; the sizes go along for limits that only the ledger knows."""
    world, orders = watched()
    step = made(world)
    assert None is await held(world, step, *charges(*UNITS))
    (order,) = orders.orders
    assert [step.offer.sizes[unit] for unit in UNITS] == [(c.want, c.least) for c in order.charges]
    assert step.offer.sizes == order.sizes
    assert {"nusd": step.offer.want, "tokens": step.offer.sizes["tokens"][0], "calls": 1, "tool_calls": 0} == step.held


async def test_a_finer_bound_is_held_in_every_unit():
    """Refined near a limit, all charges and the order's sizes shrink together."""
    world, orders = watched(Denied("run/r/tokens", "tokens", "limit"))
    await held(world, made(world, chat(words=400)), *charges("nusd", "tokens"))
    coarse, fine = orders.orders
    for unit, place in (("nusd", 0), ("tokens", 1)):
        assert fine.charges[place].want < coarse.charges[place].want
        assert fine.sizes[unit] == (fine.charges[place].want, fine.charges[place].least)


@pytest.mark.parametrize("tight", PAID_IN)
async def test_the_output_limit_is_what_both_units_pay_for(tight: str):
    """The lower of the two grants decides; the other one may be as large as it likes."""
    world = World()
    step = made(world, chat(max_tokens=4000, words=40))
    want, least = step.offer.sizes[tight]
    limits = {"nusd": LIMIT, "tokens": 10**6, tight: (want + least) // 2}
    await held(world, step, *[charge(limits[unit], f"run/r/{unit}") for unit in PAID_IN])
    assert step.limit is not None and 256 < step.limit < 4000
    terms = step.offer.terms
    assert terms is not None
    assert PAID_IN[tight](terms, step.limit) <= limits[tight] < PAID_IN[tight](terms, step.limit + 2)
    assert hold.metered_output(step) == step.limit == step.record.clamped


async def test_tokens_hold_without_a_price():
    """Where the operator lets unknown prices pass, a budget of tokens clamps and meters all the same."""
    world = World()
    step = made(world, chat(model="nobody-knows", max_tokens=4000))
    assert step.offer.card is None
    await held(world, step, charge(None), charge(1000, "run/r/tokens"))
    assert (True, 0) == (step.metered, step.hold_nusd)
    assert step.limit == 1000 - step.offer.input_tokens == hold.metered_output(step)


@pytest.mark.parametrize("unit", ["calls", "tool_calls"])
async def test_limits_of_other_units_change_nothing_in_the_body(unit: str):
    """Counted calls say nothing of an answer's length: no clamp, no cut, no caps."""
    world = World()
    step = made(world, chat(max_tokens=4000))
    await held(world, step, charge(None), charge(5, f"run/r/{unit}"))
    assert (False, None, None) == (step.metered, step.limit, hold.metered_output(step))


# --------------------------------------------------------------------------- asked again


async def test_a_stale_order_is_given_again_with_all_that_is_known():
    """Another process was told parent, agent and user: their accounts are charged, their gates named."""
    world, orders = watched()
    await world.store.make_run(facts("root", agent="chief"), 0.0)
    await world.store.make_run(facts("r", "root", agent="a", user="u"), 0.0)
    world.kin.merge(facts())
    step = made(world)
    assert (None, ()) == (step.run.parent, step.ancestors)
    rule = Fixed([charge()])
    world.parts = msgspec.structs.replace(world.parts, rules=(rule,))
    assert None is await reserve.admit(world.parts, step)
    assert [(None, ()), ("a", ("root",))] == [(ask.run.agent, ask.ancestors) for ask in rule.asked]
    assert ("run/r", "run/root", "agent/a", "user/u", "global") == orders.orders[-1].gates
    assert ("a", "u", "root") == (step.run.agent, step.run.user, world.kin.parent_of("r"))
    assert (("r", "root"), "a", "u") == (step.open.line, step.open.agent, step.open.user)
    assert "chief" == world.kin.merge(facts("root")).agent


async def test_what_the_store_knows_stands_against_what_was_thought():
    """An agent that only this process was told, after the run had one already, is not the run's."""
    world, _ = watched()
    await world.store.make_run(facts(agent="first"), 0.0)
    world.kin.merge(facts(agent="second"))
    step = made(world)
    assert None is await held(world, step)
    assert "first" == step.run.agent


async def test_an_order_that_stays_stale_is_given_up():
    """Three orders, then 503 `overloaded`: never a loop."""
    world, orders = watched(*[Denied("", "", "stale")] * 9)
    refusal = await held(world, made(world))
    assert refusal is not None and ("overloaded", True) == (refusal.code, refusal.retryable)
    assert reserve.MOST_ORDERS >= len(orders.orders) >= 3


async def test_a_store_that_fails_meanwhile_is_said():
    """Learning the run anew may fail as any trip to the store."""
    world, _ = watched(Denied("", "", "stale"))
    step = made(world)
    world.faulty.fails["run"] = StoreFailed("disk full")
    with pytest.raises(StoreFailed):
        await held(world, step)


def no(model: str | None = "priced-cheap", reason: Any = "limit") -> Denied:
    return Denied("run/r/nusd", "nusd", reason, Balance("run/r/nusd", 10, 9, 0), needed=5, degrade=model)


async def test_a_refused_model_is_replaced_by_the_one_its_budget_names():
    """Quoted at its own card, asked of the rules again, ordered under the same id; the record keeps what was asked."""
    world, orders = watched(no(), no())
    step = made(world)
    dear = step.offer
    assert None is await held(world, step)
    first, refined, cheap = orders.orders
    assert first.id == refined.id == cheap.id
    assert (dear.want, step.offer.want) == (first.charges[0].want, cheap.charges[0].want)
    assert step.offer.card is not None and "override" == step.offer.card.source
    assert ("priced-cheap", "priced-cheap", "gpt-4o-mini") == (step.model, step.call.model, step.record.request_model)
    assert ("priced-cheap", True) == (hold.edits(step, False).model, "priced-cheap is asked" in step.record.warning)


async def test_no_model_is_asked_that_does_not_fit_either():
    """Once, and the refusal is that of the cheaper one."""
    world, orders = watched(no(), no(), no(), Denied("run/r/nusd", "nusd", "limit", Balance("run/r/nusd", 10, 9, 0), 2))
    refusal = await held(world, made(world))
    assert refusal is not None and ("insufficient_quota", 2) == (refusal.code, refusal.needed)
    assert 4 == len(orders.orders)


async def test_a_model_that_the_rules_refuse_leaves_the_first_refusal():
    """Its price is unknown, say: the caller reads why its own model was refused."""
    world, _ = watched(no(), no())
    says = ([charge()], Refusal(402, "price_unknown", ""))
    refusal = await held(world, made(world), says=says)
    assert refusal is not None and "insufficient_quota" == refusal.code


@pytest.mark.parametrize("why", ["itself", "embeddings", "path", "closed"])
async def test_where_no_other_model_can_be_asked(why: str):
    """The same one; vectors; a deployment in the path; and a kill is no matter of money."""
    world, orders = watched(
        *[no("gpt-4o-mini" if why == "itself" else "n", "closed" if why == "closed" else "limit")] * 4
    )
    if why == "embeddings":
        body: Any = {"model": "text-embedding-3-small", "input": "x"}
        step = made(world, body, "/v1/embeddings")
    else:
        path = "/openai/deployments/gpt-4o/chat/completions" if why == "path" else "/v1/chat/completions"
        step = made(world, chat(), path)
    step.provider = provider("azure") if why == "path" else step.provider
    refusal = await held(world, step)
    assert refusal is not None and None is step.model and len(orders.orders) <= 2


async def test_who_must_be_asked_first_is_overload_for_now():
    """A rule that wants a person holds nothing."""
    world, orders = watched()
    refusal = await held(world, made(world), says=(Pending("a person", 1.0),))
    assert refusal is not None and ("overloaded", []) == (refusal.code, orders.orders)


# --------------------------------------------------------------------------- the last call


async def test_the_last_call_is_said_and_made_without_tools():
    """The reservation names the account; header and body follow."""
    world, _ = watched(Reservation("c/1", 3, {"nusd": 10**7}, (Balance("run/r/nusd", 10**8, 0, 10**7),), "run/r/nusd"))
    step = made(world)
    assert None is await held(world, step)
    assert "last call" in step.record.warning and hold.edits(step, True).last
    assert not hold.edits(made(world), True).last


async def test_a_last_call_is_never_let_grow():
    """Nothing is left to grow from: it is clamped to what was kept for it."""
    world = World()
    for _ in range(10):
        world.parts.learned.note("r", "gpt-4o-mini", 50, 400, 0)
    step = made(world, chat(True, max_tokens=900))
    call = f"{step.record.call_id}/1"
    sizes = reserve._sizes(step, 50)
    balance = Balance("run/r/nusd", LIMIT, 0, sizes["nusd"][0])
    world, _ = watched(Reservation(call, 1, {"nusd": sizes["nusd"][0]}, (balance,), "run/r/nusd"))
    for _ in range(10):
        world.parts.learned.note("r", "gpt-4o-mini", 50, 400, 0)
    assert None is await held(world, step, charge(expected=True))
    assert (None, None) == (step.paid, hold.top_up(world.parts, step)) and step.limit is not None and step.limit >= 50


async def test_a_last_call_comes_no_sooner_than_the_finer_bound_says():
    """Where the bytes would make it the last one already, it is counted before it is ordered."""
    world, orders = watched()
    step = made(world, chat(words=400))
    limit = step.offer.least * 2
    await held(world, step, charge(limit, last=True))
    assert (1, "", False) == (len(orders.orders), step.last, hold.edits(step, False).last)
    assert orders.orders[0].charges[0].least < limit // 4 and 30.0 == orders.orders[0].wait_s
    world.tokenizer.asked.clear()
    await held(world, made(world, chat(words=3)), charge(LIMIT, last=True))
    assert [] == world.tokenizer.asked, "far from it, nothing is counted"

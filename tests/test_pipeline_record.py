"""Tests of pipeline.py: what a call's record says for those who show it (spans, counters), beside its money."""

from __future__ import annotations

import asyncio

from gateway.core.types import Asked, Limited
from gateway.rules.budget import Budget
from tests.walking import STREAMED, World, answered, chat, streamed, turns, whole

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


async def test_the_record_names_the_parameters_and_the_tier_that_served() -> None:
    """As they were asked for; the tier as the answer names it."""
    world = World(whole(answered(service_tier="default")))
    await world.call(chat(temperature=0.2, seed=5, service_tier="auto"))
    assert Asked(max_tokens=100, temperature=0.2, seed=5, tier="auto") == world.last.asked
    assert "default" == world.last.tier


async def test_the_callers_span_is_in_the_record_and_the_first_one_is_the_runs() -> None:
    """Its trace is the run's; a later call's own span stays with that call."""
    world = World(whole())
    later = PARENT.replace(SPAN, "1111111111111111")
    await world.call(traceparent=PARENT)
    await world.call(traceparent=later)
    assert [SPAN, "1111111111111111"] == [call.parent_span for call in world.calls]
    run = await world.store.run("r")
    assert run is not None
    assert (TRACE, SPAN) == (run.trace_id, run.parent_span)


async def test_without_traceparent_there_is_no_callers_span() -> None:
    """A trace is derived from the run, and hangs under nothing."""
    world = World(whole())
    await world.call()
    run = await world.store.run("r")
    assert run is not None and run.trace_id is not None
    assert (None, None) == (run.parent_span, world.last.parent_span)


async def test_reads_of_a_stream_are_counted() -> None:
    """Those that came, the terminal one too; none of a whole answer."""
    world = World(streamed(), whole())
    await world.call(chat(stream=True))
    assert len(STREAMED) == world.last.chunks
    await world.call()
    assert 0 == world.last.chunks


async def test_a_refusal_names_its_limit_in_the_record() -> None:
    """The ledger's own numbers; a call that was granted names none."""
    world = World(whole(), budgets=(Budget("b", 1, 1, unit="calls"),))
    await world.call()
    assert world.last.limited is None
    await world.call()
    assert Limited("run/r/calls", "run", "calls", 1, 1, 0, 1) == world.last.limited


async def test_the_wait_in_line_is_in_the_record() -> None:
    """From the order to the answer, by the clock that never steps; a call that is granted at once waits none."""
    gate = asyncio.Event()
    world = World(whole(gate=gate), budgets=(Budget("b", 1, 1, unit="calls"),))
    first, _ = world.start()
    await turns()
    second, outlet = world.start()
    await turns()
    world.clock.advance(1.5)
    gate.set()
    await asyncio.gather(first, second)
    assert 402 == outlet.status
    assert [0.0, 1.5] == [call.reserve_s for call in world.calls]

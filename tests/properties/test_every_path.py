"""Every endpoint, broken at every await in every way: the reservation is resolved, and what was sent is paid for.

Invariant: the await that breaks is counted, not named, and counted up until none is left (ledger.md section 13, 6).
What never enters: a patch of our own code; only ports fail.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from gateway.core.ledger.book import HELD
from tests.fakes import Scripted
from tests.properties.endpoints import METERED, UNMETERED, Endpoint, Trip, walk, world_of
from tests.walking import JSON, MODEL, World, provider

WAYS = ("failed", "odd", "left", "killed", "cancelled")
MOST_AWAITS = 200
# where the walk can't know, or can't say, that it holds something: the deadline ends it
SWEPT = {"store.reserve", "store.settle"}
LATER_S = 4000.0  # the longest total timeout, and the grace after it


async def bill_of(endpoint: Endpoint) -> tuple[int, int]:
    """(cost, hold) of a call of this endpoint that nothing disturbs."""
    world, outlet = world_of(endpoint, Trip("", "", 0))
    await walk(world, endpoint, outlet)
    assert world.sound() and "price_list" == world.last.cost_source, world.last
    return world.spent(), world.last.hold_nusd


async def broken(endpoint: Endpoint, trip: Trip, **headers: str) -> World:
    """A walk that breaks there. A walk is cancelled only where its process ends: then the sweep has the last word."""
    world, outlet = world_of(endpoint, trip)
    with suppress(asyncio.CancelledError):
        await walk(world, endpoint, outlet, **headers)
    swept = trip.how == "cancelled" or trip.where in SWEPT
    if any(hold.state == HELD for hold in world.store.book.holds.values()):
        assert swept, f"left held by {trip.how} {trip.when} {trip.where}"
        world.clock.advance(LATER_S)
        await world.store.expire(world.clock.at)
    return world


@pytest.mark.parametrize("tight", [False, True], ids=["roomy", "tight"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("endpoint", METERED, ids=lambda one: one.name)
async def test_a_call_that_breaks_anywhere_resolves_its_hold(endpoint: Endpoint, way: str, tight: bool) -> None:
    """Nothing stays held, the books sum up, and once a byte was sent at least what the provider bills is charged."""
    bill, hold = await bill_of(endpoint)
    limit = {"x_meterbox_limit_usd": f"{hold * 0.97 / 1e9:.9f}"} if tight else {}
    fired = 0
    for when in ("before", "after"):
        for at in range(1, MOST_AWAITS):
            trip = Trip(way, when, at)
            world = await broken(endpoint, trip, **limit)
            assert world.sound(), (when, at, trip.where)
            if world.upstream.sent:
                assert world.spent() >= bill, (when, at, trip.where, world.spent(), bill)
            else:
                unsure = way == "cancelled" or trip.where in {*SWEPT, "upstream.send"}
                assert 0 == world.spent() or unsure, (when, at, trip.where)
            if trip.count < at:
                break
            fired += bool(trip.where)
        else:
            raise AssertionError("a walk has no end")
    assert fired >= 8, "fewer awaits than a walk has"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("endpoint", UNMETERED, ids=lambda one: one.name)
async def test_a_call_that_is_not_metered_holds_nothing_wherever_it_breaks(endpoint: Endpoint, way: str) -> None:
    """Free and opaque calls: no reservation comes into being, on any path."""
    for when in ("before", "after"):
        for at in range(1, MOST_AWAITS):
            trip = Trip(way, when, at)
            world = await broken(endpoint, trip)
            assert world.sound() and 0 == world.spent() and not world.store.book.holds
            if trip.count < at:
                break


@pytest.mark.parametrize("way", WAYS)
async def test_a_late_fact_that_breaks_anywhere_leaves_what_was_presumed_or_tells_it(way: str) -> None:
    """A stored response that is fetched again trues its call up or leaves it presumed: nothing in between."""
    body = b'{"id":"resp_1","object":"response","model":"%s","status":"%s","output":[]%s}'
    pending = body % (MODEL.encode(), b"in_progress", b"")
    usage = b',"usage":{"input_tokens":10,"output_tokens":20,"total_tokens":30}'
    done = body % (MODEL.encode(), b"completed", usage)
    ask = {"model": MODEL, "input": "hi", "background": True, "max_output_tokens": 100}
    endpoint = next(one for one in UNMETERED if one.name == "retrieve")
    seen = set()
    for when in ("before", "after"):
        for at in range(1, MOST_AWAITS):
            trip = Trip(way, when, 0)
            world, outlet = world_of(endpoint, trip, Scripted(headers=JSON, chunks=[pending]))
            world.upstream.scripts.append(Scripted(headers=JSON, chunks=[done]))
            await world.call(ask, "/v1/responses", provider=provider("openai"))
            presumed, trip.count, trip.at = world.spent(), 0, at
            with suppress(asyncio.CancelledError):
                await walk(world, endpoint, outlet)
            assert world.sound() and world.spent() in (presumed, 10 * 150 + 20 * 600)
            seen.add(world.spent())
            if trip.count < at:
                break
    assert {10 * 150 + 20 * 600, presumed} >= seen and presumed > 10 * 150 + 20 * 600

"""Tests of pipeline.py: a kill, and a client that leaves, at each point of the walk; and whose purse a call spends."""

from __future__ import annotations

import asyncio
import json

import pytest
from msgspec import structs

from gateway.core.parts import Parts
from gateway.core.types import Run, RunFacts
from gateway.core.windows import Calendar
from gateway.pipeline import Pipeline
from gateway.rules.budget import Budget, Budgets
from tests.fakes import RecordingOutlet, Scripted
from tests.walking import (
    COST,
    DONE,
    JSON,
    SSE,
    STREAMED,
    Words,
    World,
    chat,
    piece,
    streamed,
    turns,
    whole,
)

ONE = "0.0002"  # pays for one call of `chat()` (a hold of 163,250 nano-dollars), not for two
WHY = "looks like a loop"


def stop(world: World, outlet: RecordingOutlet, how: str) -> None:
    """The call's end from outside: by an operator, or by its client."""
    if how == "kill":
        assert 1 == world.live.stop_run("r", WHY)
    else:
        outlet.leave()


def killed(outlet: RecordingOutlet, run: str = "r") -> bool:
    """Is the answer the refusal of a killed run, with the reason that was given?"""
    error = json.loads(outlet.body)["error"]
    assert (403, "run_killed", run) == (outlet.status, error["code"], error["details"]["run_id"])
    return WHY in error["message"] and "false" == outlet.header("x-should-retry")


@pytest.mark.parametrize("how", ["kill", "leave"])
async def test_who_is_stopped_in_line_gets_no_hold(how: str) -> None:
    """A call that waits for others' holds leaves the line at once; it holds nothing and is never sent."""
    gate = asyncio.Event()
    world = World(whole(gate=gate))
    first, _ = world.start(chat(), run="r", x_meterbox_limit_usd=ONE)
    await turns()
    second, outlet = world.start(chat(), run="r")
    await turns()
    assert (1, 1) == (len(world.store.book.line.parked), len(world.upstream.sent))
    second_open = list(world.live._open.values())[-1]
    if how == "kill":
        from gateway.core.live import killed as refusal

        second_open.stop(refusal(WHY))
    else:
        outlet.leave()
    await asyncio.wait_for(second, 1)
    assert how == "leave" or killed(outlet)
    assert ("refused" if how == "kill" else "client_left", "refused", 0) == (
        world.last.outcome,
        world.last.cost_source,
        world.last.cost_nusd,
    )
    gate.set()
    await first
    assert (1, COST, True) == (len(world.upstream.sent), world.spent(), world.sound())


def ruled(world: World, limit: int | None) -> Parts:
    """The world's parts with another budget for all together, or without one."""
    budgets = () if limit is None else (Budget("all", limit, limit, scope="global", window=Calendar("month")),)
    return structs.replace(world.parts, rules=(Budgets(budgets),))


@pytest.mark.parametrize("limit", [None, 160_000])
@pytest.mark.parametrize("times", [1, 9])
async def test_who_waits_while_budgets_change_is_judged_by_those_in_force(limit: int | None, times: int) -> None:
    """A limit that was lowered lets nobody through who waited under the old one; where it is gone, nobody waits on."""
    gate = asyncio.Event()
    served: list[Parts] = []
    world = World(whole(gate=gate), latest=lambda: served[-1])
    world.parts = ruled(world, 400_000)
    served.append(world.parts)
    world.pipeline = Pipeline(world.parts)
    calls = [world.start(chat(), run=run) for run in "rst"]  # two fit, one waits
    await turns()
    assert (1, 2) == (len(world.store.book.line.parked), len(world.upstream.sent))
    for _ in range(times):
        served.append(ruled(world, limit))
        world.live.renew()
        await turns()
    assert (2 if limit else 3) == len(world.upstream.sent)
    gate.set()
    await asyncio.gather(*(task for task, _ in calls))
    statuses = [outlet.status for _, outlet in calls]
    assert ([200, 200, 402] if limit else [200] * 3) == statuses
    assert (len(world.upstream.sent), True) == (statuses.count(200), world.sound())


class Leaver(Words):
    """A tokenizer during whose count somebody stops the call."""

    world: World
    outlet: RecordingOutlet

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    async def count(self, encoding: str, text: str) -> int | None:
        stop(self.world, self.outlet, self.how)
        return await super().count(encoding, text)


@pytest.mark.parametrize("how", ["kill", "leave"])
async def test_who_is_stopped_before_the_line_never_enters_it(how: str) -> None:
    """Stopped while the finer bound is counted: it must not stand in line for half a minute, in everybody's way."""
    gate = asyncio.Event()
    leaver = Leaver(how)
    world = World(whole(gate=gate), tokenizer=leaver)
    first, _ = world.start(chat(), run="r", x_meterbox_limit_usd=ONE)
    await turns()
    world.live.leave(next(iter(world.live._open)))  # only the second one is to be stopped
    leaver.world, leaver.outlet = world, RecordingOutlet()
    second, outlet = world.start(chat(), run="r", outlet=leaver.outlet)
    await turns()
    assert second.done(), "it stands in line though nobody waits for it"
    assert how == "leave" or killed(outlet)
    gate.set()
    await first
    assert (1, True) == (len(world.upstream.sent), world.sound())


@pytest.mark.parametrize("how", ["kill", "leave"])
async def test_who_is_stopped_between_hold_and_send_is_never_sent(how: str) -> None:
    """A call that was granted, and stopped before a byte left, costs nothing."""
    world = World(whole())
    outlet = RecordingOutlet()
    world.faulty.after["reserve"] = lambda: stop(world, outlet, how)
    await world.call(outlet=outlet)
    assert ([], ["void"], 0) == (world.upstream.sent, world.ends(), world.spent())
    assert ("cut" if how == "kill" else "client_left") == world.last.outcome
    assert (how == "leave" or killed(outlet)) and world.sound()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["kill", "leave"])
async def test_who_is_stopped_before_the_head_pays_the_hold(how: str, stream: bool) -> None:
    """The upstream is closed at once; what the provider bills is unknown. A killed run reads that it was killed."""
    world = World(whole(gate=asyncio.Event()))
    task, outlet = world.start(chat(stream))
    await turns()
    stop(world, outlet, how)
    await asyncio.wait_for(task, 1)
    assert world.upstream.streams[0].closed and world.sound()
    source, outcome = ("estimate", "cut") if how == "kill" else ("presumed", "client_left")
    assert (source, outcome) == (world.last.cost_source, world.last.outcome)
    assert 0 < world.last.hold_nusd == world.spent() == world.last.cost_nusd
    assert how == "leave" or killed(outlet)


@pytest.mark.parametrize("how", ["kill", "leave"])
async def test_who_is_stopped_in_the_middle_of_a_stream_pays_the_hold(how: str) -> None:
    """Upstream closed; a killed stream ends with the dialect's error event and the reason (R-084)."""
    world = World(Scripted(headers=SSE, chunks=STREAMED, chunk_gate=asyncio.Event()))
    task, outlet = world.start(chat(True))
    await turns()
    assert STREAMED[0] == outlet.body
    stop(world, outlet, how)
    await asyncio.wait_for(task, 1)
    assert world.upstream.streams[0].closed and 1 == world.upstream.streams[0].pulled and world.sound()
    source, outcome = ("estimate", "cut") if how == "kill" else ("presumed", "client_left")
    assert (source, outcome) == (world.last.cost_source, world.last.outcome)
    assert world.last.hold_nusd == world.spent()
    tail = outlet.body.removeprefix(STREAMED[0])
    if how == "leave":
        assert b"" == tail
    else:
        error = json.loads(tail.removeprefix(b"data: "))["error"]
        assert ("run_killed", True) == (error["code"], WHY in error["message"])


@pytest.mark.parametrize("how", ["kill", "leave"])
async def test_who_is_stopped_in_the_middle_of_a_whole_answer_pays_the_hold(how: str) -> None:
    """Half of a body is never delivered: a killed run reads its refusal."""
    world = World(Scripted(headers=JSON, chunks=[b'{"id":', b'"c"}'], chunk_gate=asyncio.Event()))
    task, outlet = world.start(chat())
    await turns()
    stop(world, outlet, how)
    await asyncio.wait_for(task, 1)
    assert world.last.hold_nusd == world.spent() and world.sound()
    assert ("cut" if how == "kill" else "client_left") == world.last.outcome
    assert killed(outlet) if how == "kill" else b"" == outlet.body


@pytest.mark.parametrize("how", ["kill", "leave"])
async def test_who_is_stopped_after_the_end_pays_what_was_told(how: str) -> None:
    """Once the terminal event was seen the call is over: it is charged exactly, and its end is delivered."""
    world = World(streamed())
    outlet = RecordingOutlet()
    world.faulty.before["settle"] = lambda: stop(world, outlet, how)
    await world.call(chat(True), outlet=outlet)
    assert (COST, "ok", ["settle"]) == (world.spent(), world.last.outcome, world.ends())
    assert how == "leave" or outlet.body.endswith(DONE)
    assert world.sound()


async def test_what_follows_the_end_keeps_nobody() -> None:
    """A provider that keeps its connection open after the terminal event is let go with the client."""
    world = World(Scripted(headers=SSE, chunks=[b"".join(STREAMED), b": more\n\n"], chunk_gate=asyncio.Event()))
    task, outlet = world.start(chat(True))
    await turns()
    assert outlet.body.endswith(DONE) and not task.done() and world.held() == 0
    outlet.leave()
    await asyncio.wait_for(task, 1)
    assert (COST, True) == (world.spent(), world.upstream.streams[0].closed)


async def test_who_left_before_the_walk_began_costs_nothing() -> None:
    """A client that is gone already is not served."""
    world = World(whole())
    outlet = RecordingOutlet()
    outlet.leave()
    await world.call(outlet=outlet)
    assert ([], "client_left", True) == (world.upstream.sent, world.last.outcome, world.sound())


async def test_a_killed_run_is_refused_in_line_with_the_reason() -> None:
    """Closing the gate turns away who waits, as the kill switch does it (R-084)."""
    gate = asyncio.Event()
    world = World(whole(gate=gate))
    first, _ = world.start(x_meterbox_limit_usd=ONE)
    await turns()
    second, outlet = world.start()
    await turns()
    await world.store.close_account("run/r", WHY)
    await asyncio.wait_for(second, 1)
    assert killed(outlet)
    gate.set()
    await first
    assert world.sound()


# --------------------------------------------------------------------------- whose purse


async def test_a_child_spends_from_every_ancestor() -> None:
    """What a grandchild spends is spent by its parent and by the root (R-017)."""
    world = World(whole())
    await world.call(run="root")
    await world.call(run="mid", x_meterbox_parent_run_id="root")
    await world.call(run="leaf", x_meterbox_parent_run_id="mid")
    await world.call(run="leaf")
    assert (4 * COST, 3 * COST, 2 * COST) == tuple(world.spent(run) for run in ("root", "mid", "leaf"))
    assert world.held() == 0 and [] == world.store.audit()


async def test_a_root_without_money_stops_its_grandchildren() -> None:
    """The limit of an ancestor binds, and the refusal is the ancestor's (R-017)."""
    world = World(whole())
    await world.call(run="root", x_meterbox_limit_usd="0.00016")
    await world.call(run="mid", x_meterbox_parent_run_id="root")
    outlet = await world.call(run="leaf", x_meterbox_parent_run_id="mid")
    assert (402, "insufficient_quota") == (outlet.status, json.loads(outlet.body)["error"]["code"])
    assert 2 == len(world.upstream.sent)


@pytest.mark.parametrize("known", ["leaf", "mid"])
async def test_ancestors_are_known_after_a_restart(known: str) -> None:
    """A process that has forgotten all asks the store for the whole line, also of a run that it never saw (R-017)."""
    world = World(whole())
    for run, parent in (("root", None), ("mid", "root"), ("low", "mid"), ("leaf", "low")):
        if run != "leaf" or known == "leaf":
            facts = RunFacts(key=run, id=run, tenant="", source="header", parent=parent)
            assert isinstance(await world.store.make_run(facts, 0.0), Run)
    named = {} if known == "leaf" else {"x_meterbox_parent_run_id": "low"}
    await world.call(run="leaf", **named)
    assert [COST] * 4 == [world.spent(run) for run in ("root", "mid", "low", "leaf")]


async def test_a_cycle_of_parents_is_refused_and_poisons_nothing() -> None:
    """A run can't become its own ancestor: 400, nothing sent, and both runs go on as they were."""
    world = World(whole())
    await world.call(run="child", x_meterbox_parent_run_id="root")
    for run, parent in (("root", "child"), ("me", "me")):
        outlet = await world.call(run=run, x_meterbox_parent_run_id=parent)
        assert (400, "invalid_request") == (outlet.status, json.loads(outlet.body)["error"]["code"])
    assert 1 == len(world.upstream.sent)
    assert [200] * 3 == [(await world.call(run=run)).status for run in ("root", "child", "me")]
    assert (3 * COST, 2 * COST, COST) == tuple(world.spent(run) for run in ("root", "child", "me"))


async def test_a_large_call_in_line_is_not_overtaken_by_small_ones() -> None:
    """Held is not spent, first come first served: a newcomer that would fit waits behind who was there before."""
    gate = asyncio.Event()
    world = World(whole(gate=gate), whole())
    first, _ = world.start(chat(max_tokens=800), x_meterbox_limit_usd="0.001")
    await turns()
    large, _ = world.start(chat(max_tokens=900))
    await turns()
    assert 1 == len(world.store.book.line.parked)
    small, _ = world.start(chat(max_tokens=1))
    await turns()
    overtook = small.done()
    gate.set()
    await asyncio.gather(first, large, small)
    assert not overtook


async def test_streams_share_nothing_but_the_ledger() -> None:
    """Two streams side by side are settled each at its own usage."""
    world = World(streamed(), streamed(piece("other", "stop"), *STREAMED[2:]))
    outlets = await asyncio.gather(world.call(chat(True)), world.call(chat(True)))
    assert [True, True] == [outlet.ended for outlet in outlets]
    assert (2 * COST, True) == (world.spent(), world.sound())

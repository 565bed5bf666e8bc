"""Tests of core/passing.py; tests/test_pipeline_clamp.py has what costs nothing, and the settling by retrieval."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.core import passing
from gateway.core.errors import StoreFailed, UpstreamFailed
from gateway.core.passing import Passing
from tests.fakes import RecordingOutlet, Scripted
from tests.walking import COST, JSON, MODEL, World, inbound, provider, turns, whole

TOLD = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}
DONE = json.dumps({"id": "resp_1", "object": "response", "model": MODEL, "status": "completed", "usage": TOLD}).encode()
QUEUED = json.dumps({"id": "resp_1", "object": "response", "model": MODEL, "status": "queued"}).encode()


async def fetch(world: World, outlet: RecordingOutlet | None = None) -> Any:
    return await world.call(b"", "/v1/responses/resp_1", outlet, method="GET")


async def waiting(*scripts: Scripted) -> World:
    """A background response that was asked for and is presumed."""
    world = World(whole(QUEUED), *scripts)
    await world.call({"model": MODEL, "input": "hi", "background": True, "max_output_tokens": 9}, "/v1/responses")
    assert ["presumed"] == world.ends()
    return world


async def test_bytes_and_headers_pass():
    """Status, body and the provider's headers; nothing of ours is invented for an unmetered call."""
    script = Scripted(status=404, headers=[*JSON, ("x-request-id", "q"), ("set-cookie", "c")], chunks=[b"a", b"b"])
    world = World(script)
    outlet = RecordingOutlet()
    await Passing(world.parts, inbound(b"x", "/v1/odd"), provider(), outlet).go(None, None)
    assert (404, [b"a", b"b"], True) == (outlet.status, outlet.writes, outlet.ended)
    assert ("q", None, None) == tuple(
        outlet.header(f"{n}") for n in ("x-request-id", "set-cookie", "x-meterbox-run-id")
    )
    assert (b"x", True) == (world.upstream.sent[0].body, world.upstream.sent[0].whole)


async def test_an_unreachable_provider_is_told_in_the_callers_format():
    """In the dialect where one is known, else in OpenAI's shape."""
    world = World(Scripted(fails=UpstreamFailed("no", kind="connect", sent=False)))
    outlet = RecordingOutlet()
    await Passing(world.parts, inbound(b"", "/v1/odd"), provider(), outlet).go(None, None)
    assert (502, "upstream_connect") == (outlet.status, json.loads(outlet.body)["error"]["code"])
    spoken = await world.call(b"{}", "/v1/messages/count_tokens", provider=provider("anthropic"))
    assert (502, "error") == (spoken.status, json.loads(spoken.body)["type"])


async def test_a_client_that_leaves_closes_the_upstream():
    """Before the head and in the middle; nothing stays in flight."""
    for script in (whole(gate=asyncio.Event()), Scripted(chunks=[b"a", b"b"], chunk_gate=asyncio.Event())):
        world = World(script)
        outlet = RecordingOutlet()
        task = asyncio.ensure_future(fetch(world, outlet))
        await turns()
        assert 1 == len(world.live)
        outlet.leave()
        await asyncio.wait_for(task, 1)
        assert world.upstream.streams[0].closed and 0 == len(world.live)


async def test_a_kill_of_everything_reaches_unmetered_calls():
    """`/api/kill {all}` ends them, too (http.md section 4)."""
    world = World(Scripted(chunks=[b"a", b"b"], chunk_gate=asyncio.Event()))
    outlet = RecordingOutlet()
    task = asyncio.ensure_future(fetch(world, outlet))
    await turns()
    assert 1 == world.live.stop_all("global", "", "enough")
    await asyncio.wait_for(task, 1)
    assert (True, False) == (outlet.aborted, outlet.ended)


async def test_a_provider_that_breaks_off_breaks_the_line():
    """Half an answer never looks whole, and settles nothing."""
    world = await waiting(Scripted(headers=JSON, chunks=[DONE], breaks=UpstreamFailed("gone")))
    outlet = await fetch(world)
    assert (True, False, ["presumed"]) == (outlet.aborted, outlet.ended, world.ends())


async def test_the_retrieval_settles_before_its_end():
    """Once the fetched answer has ended, the next call sees what it cost."""
    world = await waiting(whole(DONE))
    outlet = RecordingOutlet()
    seen: list[bool] = []
    world.faulty.before["true_up"] = lambda: seen.append(outlet.ended)
    await fetch(world, outlet)
    assert ([False], True, COST) == (seen, outlet.ended, world.spent())


LATE = {"a store that fails": StoreFailed("disk full"), "a defect": RuntimeError("odd")}


@pytest.mark.parametrize("name", LATE)
async def test_what_goes_wrong_while_settling_is_not_hidden(name: str):
    """The client has its bytes; the call stays presumed, and the log says so."""
    world = await waiting(whole(DONE))
    world.faulty.fails["true_up"] = LATE[name]
    outlet = await fetch(world)
    assert (DONE, ["presumed"]) == (outlet.body, world.ends())
    assert ("true_up_failed" if name == "a store that fails" else "defect") == world.log[-1][0]
    assert outlet.ended == (name == "a store that fails")


NOTHING = {
    "an error": whole(DONE, status=404),
    "no usage": whole(QUEUED),
    "garbage": whole(b"{"),
}


@pytest.mark.parametrize("name", ["an error", "no usage", "garbage"])
async def test_only_told_usage_settles(name: str):
    """A presumed call stays presumed until a successful answer tells what it used."""
    world = await waiting(NOTHING[name])
    await fetch(world)
    assert ["presumed"] == world.ends() and world.sound()


async def test_a_stored_response_is_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch):
    """A larger one passes whole and settles nothing."""
    monkeypatch.setattr(passing, "MOST_KEPT_BYTES", 10)
    world = await waiting(whole(DONE))
    outlet = await fetch(world)
    assert (DONE, True, ["presumed"]) == (outlet.body, outlet.ended, world.ends())


async def test_a_price_that_is_unknown_settles_nothing():
    """Told usage of a model without a price: the bound stays, it never becomes null or zero."""
    world = await waiting(whole(DONE.replace(MODEL.encode(), b"nobody-knows-me")))
    await fetch(world)
    assert ["presumed"] == world.ends()

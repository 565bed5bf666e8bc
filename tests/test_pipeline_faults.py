"""Tests of pipeline.py: whatever fails at whichever await, the hold ends once and the walk doesn't raise.

A store that fails or is slow, a provider, a client, a tokenizer or a price list that raises what nobody expects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.core.errors import StoreFailed
from gateway.core.types import Provider, Settled
from tests.fakes import RecordingOutlet, Scripted, ScriptedStream, ScriptedUpstream
from tests.walking import (
    COST,
    DONE,
    JSON,
    Words,
    World,
    answered,
    chat,
    inbound,
    piece,
    prices,
    provider,
    streamed,
    whole,
)

ODD = RuntimeError("nobody expects this")


class BrokenOutlet(RecordingOutlet):
    """A client's connection that fails in one method, from its nth use on."""

    def fail(self, where: str, failure: Exception, at: int = 1) -> BrokenOutlet:
        self.where, self.failure, self.left = where, failure, at
        return self

    def _use(self, where: str) -> None:
        if where == self.where:
            self.left -= 1
            if self.left <= 0:
                raise self.failure

    async def start(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        self._use("start")
        await super().start(status, headers)

    async def write(self, chunk: bytes) -> None:
        self._use("write")
        await super().write(chunk)

    async def end(self) -> None:
        self._use("end")
        await super().end()

    async def whole(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        self._use("whole")
        await super().whole(status, headers, body)


class OddUpstream(ScriptedUpstream):
    """Raises what a provider's port never should."""

    async def send(self, *args: Any, **more: Any) -> ScriptedStream:
        await super().send(*args, **more)
        raise ODD


def codes(outlet: RecordingOutlet) -> tuple[int | None, str]:
    return outlet.status, json.loads(outlet.body)["error"]["code"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure", [ConnectionError("gone"), ODD], ids=["connection", "odd"])
@pytest.mark.parametrize(
    ("where", "at"), [("start", 1), ("write", 1), ("write", 2), ("write", 3), ("end", 1), ("whole", 1)]
)
async def test_a_client_that_breaks_anywhere_leaves_nothing_held(
    where: str, at: int, failure: Exception, stream: bool
) -> None:
    """However the way back fails, the hold ends once and the provider's stream is closed."""
    world = World(streamed(piece("a"), *streamed().chunks) if stream else whole())
    outlet = BrokenOutlet().fail(where, failure, at)
    await world.call(chat(stream), outlet=outlet)
    assert world.sound() and 1 == len(world.ends())
    assert world.spent() in (COST, world.last.hold_nusd)
    assert 1 == len(world.calls) == world.faulty.asked.count("settle")
    assert all(one.closed for one in world.upstream.streams)
    if outlet.left <= 0:
        assert outlet.aborted or (500, "internal_error") == codes(outlet)
        assert "defect" == world.log[-1][0]


async def test_an_upstream_that_fails_oddly_is_presumed_and_told() -> None:
    """A defect once a byte may have left: the hold is charged, the caller gets one final 500 in its own dialect."""
    odd = OddUpstream(whole())
    world = World(upstream=odd)
    await world.call(b"", "/v1/models", method="GET")
    outlet = await world.call()
    assert [True, True] == [stream.closed for stream in odd.streams]
    assert (500, "internal_error") == codes(outlet)
    assert ("false", "r") == (outlet.header("x-should-retry"), outlet.header("x-meterbox-run-id"))
    assert ["presumed"] == world.ends() and world.sound() and not outlet.aborted


@pytest.mark.parametrize("stream", [False, True])
async def test_chunks_that_fail_oddly_are_presumed(stream: bool) -> None:
    """A stream that raises something foreign: presumed, and the line breaks if an answer had begun."""
    script = Scripted(headers=streamed().headers if stream else JSON, chunks=[piece("a")])
    script.breaks = ODD  # type: ignore[assignment]  # that is the point
    world = World(script)
    outlet = await world.call(chat(stream))
    assert ["presumed"] == world.ends() and world.sound()
    assert stream == outlet.aborted
    assert stream or (500, "internal_error") == codes(outlet)
    assert all(one.closed for one in world.upstream.streams)


@pytest.mark.parametrize(("method", "code"), [("run", "store_unavailable"), ("reserve", "store_unavailable")])
async def test_a_store_that_fails_before_the_send_lets_nothing_through(method: str, code: str) -> None:
    """Fail closed: 503 with Retry-After, retryable, nothing sent, nothing held (ledger.md section 6)."""
    world = World()
    world.faulty.fails[method] = StoreFailed("disk full")
    outlet = await world.call()
    assert (503, code) == codes(outlet)
    assert ("2", "true") == (outlet.header("retry-after"), outlet.header("x-should-retry"))
    assert [] == world.upstream.sent and world.sound()


async def test_nobody_waits_for_a_ledger_that_is_in_trouble() -> None:
    """The refusal goes out before it is written down; it is listed once the ledger can be written again."""
    world = World()
    world.faulty.fails["reserve"] = StoreFailed("disk full")
    outlet = RecordingOutlet()
    said: list[int | None] = []
    world.faulty.before["settle"] = lambda: said.append(outlet.status)
    await world.call(outlet=outlet)
    assert ([503], "store_unavailable") == (said, world.last.reason) and world.sound()


@pytest.mark.parametrize("method", ["run", "reserve"])
async def test_a_store_that_fails_oddly_before_the_send_lets_nothing_through(method: str) -> None:
    """A defect before the send: 500, nothing sent, nothing held."""
    world = World()
    world.faulty.fails[method] = ODD
    assert (500, "internal_error") == codes(await world.call())
    assert [] == world.upstream.sent and world.sound()


@pytest.mark.parametrize("failure", [StoreFailed("disk full"), ODD], ids=["store", "odd"])
async def test_an_adjust_that_fails_leaves_the_larger_hold(failure: Exception) -> None:
    """A hold that can't be lowered stays as it is; the call is settled at its usage all the same, or presumed."""
    world = World(streamed(piece("a"), event_with_input(), *streamed().chunks))
    world.faulty.fails["adjust"] = failure
    outlet = await world.call(chat(True, stream_options={"include_usage": True}))
    assert world.sound() and 1 == len(world.ends())
    assert "adjust" in world.faulty.asked
    assert isinstance(failure, StoreFailed) == (COST == world.spent()) == outlet.body.endswith(DONE)


def event_with_input() -> bytes:
    """A running usage figure, as vLLM sends it: the exact input is known before the end."""
    part = json.loads(piece("b").removeprefix(b"data: "))
    part["usage"] = {"prompt_tokens": 10, "completion_tokens": 1}
    return b"data: " + json.dumps(part).encode() + b"\n\n"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_settle_that_fails_leaves_the_hold_to_the_sweep(stream: bool) -> None:
    """The answer leaves; the hold stays until its deadline and is presumed once: too much, never nothing (P3, P4)."""
    world = World(streamed() if stream else whole())
    world.faulty.fails["settle"] = StoreFailed("disk full")
    outlet = await world.call(chat(stream))
    assert 200 == outlet.status and outlet.ended and outlet.body.endswith(DONE if stream else answered())
    assert world.held() > 0
    assert "settle_failed" == world.log[-1][0]
    world.clock.advance(provider().total_s + 61)
    await world.store.expire(world.clock.now())
    assert ["presumed"] == world.ends() and world.sound()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_settle_that_fails_oddly_is_tried_once_more(stream: bool) -> None:
    """A defect in the store never raises out of the walk: tried again, then left to the sweep."""
    world = World(streamed() if stream else whole())
    world.faulty.fails["settle"] = ODD
    outlet = await world.call(chat(stream))
    assert 2 == world.faulty.asked.count("settle")
    assert outlet.aborted or (500, "internal_error") == codes(outlet)
    world.clock.advance(provider().total_s + 61)
    await world.store.expire(world.clock.now())
    assert ["presumed"] == world.ends() and world.sound()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_slow_store_does_not_hold_the_end_back(stream: bool) -> None:
    """If the store can't within 2 s, the end goes out and the settle stays queued (design.md section 1)."""
    world = World(streamed() if stream else whole())
    world.faulty.says["settle"] = Settled(None)  # what a store says after 2 s
    outlet = await world.call(chat(stream))
    assert outlet.ended and outlet.body.endswith(DONE if stream else answered())
    assert stream or "0.0000135" == outlet.header("x-meterbox-cost-usd")
    assert 1 == world.faulty.asked.count("settle")


@pytest.mark.parametrize("stream", [False, True])
async def test_the_end_leaves_only_after_settle(stream: bool) -> None:
    """While settle has no answer yet, neither the terminal event nor a whole answer is out (design.md section 1)."""
    world = World(streamed() if stream else whole())
    seen: list[tuple[bool, bytes]] = []
    outlet = RecordingOutlet()
    world.faulty.before["settle"] = lambda: seen.append((outlet.ended, outlet.body))
    await world.call(chat(stream), outlet=outlet)
    assert [(False, b"".join(streamed().chunks[:2]) if stream else b"")] == seen
    assert outlet.ended


async def test_a_tokenizer_that_fails_leaves_nothing_held() -> None:
    """While the order is made: nothing was sent, so it costs nothing."""
    tokenizer = Words()
    tokenizer.fails = ODD
    world = World(tokenizer=tokenizer)
    assert (500, "internal_error") == codes(await world.call(x_meterbox_limit_usd="0.0000001"))
    assert [] == world.upstream.sent and world.sound()


async def test_a_tokenizer_that_fails_while_it_streams_leaves_nothing_held() -> None:
    """While output is counted: the hold is charged, and the provider let go."""
    tokenizer = Words()
    world = World(streamed(*[piece("word " * 200)] * 9), tokenizer=tokenizer)
    tokenizer.fails = ODD
    outlet = await world.call(chat(True))
    assert outlet.aborted and ["presumed"] == world.ends() and world.sound()
    assert world.upstream.streams[0].closed


class OddPrices:
    """A price list that fails once the answer has named its model."""

    def card(self, section: Provider, model: str, at: float) -> Any:
        if model == "answered":
            raise ODD
        return prices().card(section, model, at)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_defect_while_pricing_is_presumed(stream: bool) -> None:
    """What fails between the answer and its settlement doesn't leave the hold behind."""
    named = [chunk.replace(b"gpt-4o-mini", b"answered") for chunk in streamed().chunks]
    world = World(streamed(*named) if stream else whole(answered(model="answered")), prices=OddPrices())
    outlet = await world.call(chat(stream))
    assert ["presumed"] == world.ends() and world.sound()
    assert outlet.aborted if stream else (500, "internal_error") == codes(outlet)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/responses/resp_1"])
@pytest.mark.parametrize("where", ["start", "write", "end", "whole"])
async def test_unmetered_calls_never_raise_either(path: str, where: str) -> None:
    """A client that breaks while an unmetered answer passes: the stream is closed, nothing stays in flight."""
    world = World(whole())
    await world.call(b"", path, method="GET", outlet=BrokenOutlet().fail(where, ODD))
    assert world.upstream.streams[0].closed and [] == world.calls


async def test_a_path_that_nobody_speaks_passes_unmetered_and_never_raises() -> None:
    """Where the operator lets it, an unknown path passes; a defect on it breaks the line."""
    world = World(whole(b"ok"))
    outlet, broken = RecordingOutlet(), BrokenOutlet().fail("start", ODD)
    for one in (outlet, broken):
        await world.pipeline.walk(inbound(b"x", "/v1/odd"), provider(), None, one)
    assert ((200, b"ok"), True) == ((outlet.status, outlet.body), broken.aborted or 500 == broken.status)
    assert 0 == len(world.live) and world.upstream.streams[1].closed

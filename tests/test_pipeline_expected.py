"""Tests of pipeline.py: mode `expected` holds what a run has learned, and tops up while its answer streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.core.errors import StoreFailed, UpstreamFailed
from gateway.core.learn import ENOUGH
from gateway.core.meter import SLICE
from gateway.core.price import bound
from gateway.core.types import Inbound, Provider
from gateway.pipeline import Pipeline
from gateway.rules.budget import Budget
from tests.fakes import RecordingOutlet, Scripted, ScriptedStream, ScriptedUpstream, Sent
from tests.ledgers import opened, sqlite
from tests.walking import (
    DOLLAR,
    DONE,
    MODEL,
    SSE,
    World,
    answered,
    chat,
    event,
    inbound,
    piece,
    prices,
    provider,
    streamed,
    whole,
)

LEARNED = 100
WORDS = 40  # tokens of one chunk, as tests/walking.py counts
OUT_NUSD = 600  # of one token of output at MODEL's price
ASKED = 4000


def expected(limit: int = DOLLAR, unit: str = "nusd", **more: Any) -> tuple[Budget, ...]:
    return (Budget("likely", limit, limit, unit=unit, mode="expected", **more),)  # type: ignore[arg-type]  # a unit


def taught(world: World, run: str = "r", output: int = LEARNED) -> World:
    """A run that has had enough answers."""
    for _ in range(ENOUGH):
        world.parts.learned.note(run, MODEL, output, output * 4, 0)
    return world


def answer(tokens: int, finish: str = "stop") -> list[bytes]:
    """A streamed answer of so many tokens, told at its end."""
    usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
    chunks = [piece("a" * 4 * WORDS) for _ in range(tokens // WORDS)]
    return [*chunks, piece("", finish), event({"id": "c", "model": MODEL, "choices": [], "usage": usage}), DONE]


def ask(**more: Any) -> dict[str, Any]:
    return chat(True, **{"max_tokens": ASKED, **more})


def hold_of(output: int, words: int = 3) -> int:
    """What a call of this output holds."""
    world = World()
    call = world.dialects[0].decode(inbound(ask(words=words)), provider())
    card = prices().card(provider(), MODEL, 1_800_000_000.0)
    assert card is not None
    return bound(card, call.size, call.size.text_bytes + 128, output)


def told(output: int) -> int:
    """What it holds once the provider has told that the input was ten tokens."""
    return hold_of(output) - hold_of(0) + 10 * 250


def adjusts(world: World) -> int:
    return world.faulty.asked.count("adjust")


async def test_ten_answers_teach_what_the_eleventh_holds() -> None:
    """Until then, and where it doesn't stream, the worst case is held (design.md 2); the limit stays as asked."""
    world = World(*[streamed(*answer(LEARNED - LEARNED % WORDS))] * 11, whole(), budgets=expected())
    body = json.dumps(ask()).encode()
    for _ in range(11):
        await world.call(body)
    assert [told(ASKED)] * ENOUGH + [told(80)] == [call.hold_nusd for call in world.calls]
    assert {ASKED} == {json.loads(sent.body)["max_tokens"] for sent in world.upstream.sent}
    await world.call(chat(max_tokens=ASKED))
    assert world.last.hold_nusd > told(ASKED)
    assert world.sound()


async def test_an_answer_as_expected_costs_no_further_trip() -> None:
    """While there is room the store is touched as ever: reserve, settle, and once where the stream tells its input."""
    world = taught(World(streamed(*answer(80)), budgets=expected()))
    world.faulty.asked.clear()
    outlet = await world.call(ask())
    assert ["run", "reserve", "adjust", "settle"] == world.faulty.asked and outlet.body.endswith(DONE)
    assert ASKED == json.loads(world.upstream.sent[0].body)["max_tokens"]
    assert None is outlet.header("x-meterbox-clamped") and world.sound()


async def test_a_longer_answer_is_paid_for_as_it_comes() -> None:
    """Slice by slice, each before what it pays for goes out; it ends politely, at its own usage."""
    world = taught(World(Scripted(headers=SSE, chunks=answer(2000)), budgets=expected()))
    held: list[tuple[int, int]] = []
    outlet = RecordingOutlet()
    real = outlet.write

    async def write(chunk: bytes) -> None:
        await real(chunk)
        held.append((outlet.body.count(b"a" * WORDS * 4) * WORDS, world.held()))

    outlet.write = write  # type: ignore[method-assign]  # what is held while it goes out
    await world.call(ask(), outlet=outlet)
    assert outlet.body.endswith(DONE) and 50 == outlet.body.count(b"a" * WORDS * 4)
    assert all(tokens * OUT_NUSD < amount for tokens, amount in held[:50])
    assert max(amount for _, amount in held) <= hold_of(2000 + 2 * SLICE)
    assert 1900 // SLICE <= adjusts(world) <= 1900 // SLICE + 2
    assert (10 * 150 + 2000 * OUT_NUSD, "ok") == (world.spent(), world.last.outcome) and world.sound()


async def test_it_never_holds_more_than_the_worst_case() -> None:
    """Once the hold pays for all that was asked, it is as strict as any: a provider that keeps its limit isn't cut."""
    world = taught(World(streamed(*answer(400)), budgets=expected()))
    outlet = await world.call(ask(max_tokens=400))
    assert told(400) == world.last.hold_nusd and outlet.body.endswith(DONE) and world.sound()


async def test_a_top_up_that_is_refused_ends_the_answer_in_band() -> None:
    """Cut as where a provider ignores its limit; what is spent passes the limit by a slice or a chunk at most."""
    limit = hold_of(LEARNED + 2 * SLICE)
    world = taught(World(budgets=expected(limit), upstream=Obedient(answer(ASKED))))
    outlet = await world.call(ask())
    assert b"insufficient_quota" in outlet.body and b"pays for no more than" in outlet.body
    assert ("cut", "budget_ended", "estimate") == (world.last.outcome, world.last.reason, world.last.cost_source)
    assert limit <= world.spent() <= limit + (SLICE + WORDS) * OUT_NUSD and world.sound()


@pytest.mark.parametrize("says", [False, StoreFailed("disk full")])
async def test_what_the_store_cannot_add_is_not_passed_on(says: Any) -> None:
    """A top-up that is refused, or fails, leaves the answer with what was held."""
    world = taught(World(budgets=expected(), upstream=Obedient(answer(ASKED))))
    (world.faulty.fails if isinstance(says, Exception) else world.faulty.says)["adjust"] = says
    outlet = await world.call(ask())
    assert LEARNED - WORDS <= outlet.body.count(b"a" * WORDS * 4) * WORDS <= LEARNED
    assert "cut" == world.last.outcome and world.sound()


async def test_told_input_lowers_the_hold_and_what_grows_grows_from_there() -> None:
    """The exact input frees what its bound held; the output that was topped up stays paid."""
    first = event({"id": "c", "model": MODEL, "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 0}})
    chunks = answer(800)
    gate = asyncio.Event()
    script = Scripted(headers=SSE, chunks=[*chunks[:10], first, *chunks[10:]], chunk_gate=gate)
    world = taught(World(script, budgets=expected()))
    seen: list[int] = []
    world.faulty.after["adjust"] = lambda: seen.append(world.held())
    gate.set()
    await world.call(ask(words=500, stream_options={"include_usage": True}))
    grown = hold_of(LEARNED + SLICE, 500) < max(seen)
    assert grown and 10 * 150 + 400 * OUT_NUSD <= min(seen) < hold_of(0, 500)
    assert 10 * 150 + 800 * OUT_NUSD == world.spent() and world.sound()


async def test_a_limit_that_is_not_expected_keeps_the_worst_case() -> None:
    """A strict budget beside it, or a caller's header, and the next call without it (the lowest limit stays)."""
    strict = Budget("strict", 5 * DOLLAR, 5 * DOLLAR, scope="global")
    world = taught(World(streamed(*answer(80)), budgets=(*expected(), strict)))
    await world.call(ask())
    assert told(ASKED) == world.last.hold_nusd and world.sound()
    counted = Budget("agents", DOLLAR, DOLLAR, scope="agent:*", mode="expected")
    world = taught(World(streamed(*answer(80)), budgets=(counted,)))
    who = {"x_meterbox_agent": "a"}
    await world.call(ask(), x_meterbox_limit_usd="0.5", **who)
    assert told(ASKED) == world.last.hold_nusd
    await world.call(ask(), **who)
    assert told(ASKED) == world.last.hold_nusd and None is world.last.clamped and world.sound()


async def test_a_grant_that_is_short_is_clamped_as_ever() -> None:
    """Where not even the expected output fits, the limit in the body is lowered: a polite end beats a cut."""
    limit = hold_of(300)
    world = taught(World(streamed(*answer(280)), budgets=expected(limit)), output=350)
    outlet = await world.call(ask())
    assert world.last.clamped == json.loads(world.upstream.sent[0].body)["max_tokens"]
    assert 300 <= (world.last.clamped or 0) < 350
    assert outlet.body.endswith(DONE) and world.sound()


@pytest.mark.parametrize(("status", "held"), [(200, ASKED), (429, LEARNED)])
async def test_an_answer_in_one_piece_after_all_is_held_as_such(status: int, held: int) -> None:
    """A provider that doesn't stream though asked to can't be cut: its answer is covered while it comes."""
    world = taught(World(whole(status=status, body=answered() if status == 200 else b"{}"), budgets=expected()))
    await world.call(ask())
    assert (held == ASKED) == (world.last.hold_nusd > hold_of(ASKED - 100)) and world.sound()


async def test_tokens_are_expected_like_dollars() -> None:
    """A budget of tokens holds what was learned, grows, and ends the answer with its own code."""
    world = taught(World(budgets=expected(1500, "tokens"), upstream=Obedient(answer(ASKED))))
    outlet = await world.call(ask())
    assert b'"code":"limit_tokens"' in outlet.body
    used = world.store.book.account("run/r/tokens").spent
    assert 1500 <= used + SLICE and used <= 1500 + SLICE + WORDS and world.sound()


# --------------------------------------------------------------------------- many at once


class Ending(ScriptedStream):
    """Stops to write once it is let go, as a provider does; others take their turn between its chunks."""

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in super().chunks():
            if self.lingers:
                raise UpstreamFailed("we closed it", kind="closed")
            yield chunk
            await asyncio.sleep(0)


class Obedient(ScriptedUpstream):
    """Every call gets this answer; `billed` is what the provider wrote."""

    def __init__(self, chunks: list[bytes]) -> None:
        super().__init__()
        self._script = Scripted(headers=SSE, chunks=chunks)

    async def send(
        self,
        provider: Provider,
        inbound: Inbound,
        body: bytes,
        on_open: Callable[[Callable[[], None]], None],
        whole: bool = False,
    ) -> ScriptedStream:
        self.sent.append(Sent(provider, inbound, body, whole))
        stream = Ending(self._script)
        self.streams.append(stream)
        on_open(stream.close)
        return stream

    @property
    def billed(self) -> int:
        """Nano-dollars for ten tokens of input, and the output that was handed out."""
        return sum(10 * 150 + min(s.yielded, len(self._script.chunks) - 3) * WORDS * OUT_NUSD for s in self.streams)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_parallel_streams_never_overspend_beyond_the_bound(kind: str, tmp_path: Path) -> None:
    """Thirty streams on a purse for a few of them: what the provider bills, and what the ledger says, passes the limit
    by 256 tokens or a chunk for each open stream at most."""
    upstream = Obedient(answer(1200))
    limit = 6 * hold_of(1200)
    world = taught(World(budgets=expected(limit), upstream=upstream))
    if kind == "memory":
        await asyncio.gather(*(world.call(ask(max_tokens=1200)) for _ in range(30)))
        spent, held = world.spent(), world.held()
    else:
        async with opened(sqlite(tmp_path, world.clock)) as store:
            world.parts = msgspec.structs.replace(world.parts, store=store)
            world.pipeline = Pipeline(world.parts)
            await asyncio.gather(*(world.call(ask(max_tokens=1200)) for _ in range(30)))
            balance = await store.ask(lambda book, _: book.account("run/r/nusd").balance())
            spent, held = balance.spent, balance.held
    served = len(upstream.streams)
    assert served > 6, "more are let in than the worst case would let"
    assert 0 == held and upstream.billed <= spent
    assert spent <= limit + served * (SLICE + WORDS) * OUT_NUSD
    assert upstream.billed <= limit + served * (SLICE + WORDS) * OUT_NUSD

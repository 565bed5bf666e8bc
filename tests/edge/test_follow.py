"""edge/follow.py: kills and conversations of other workers on the same journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import structs

from gateway.core.errors import StoreFailed
from gateway.core.identify import Index
from gateway.core.live import Live, OpenCall
from gateway.core.types import Entry, Exchange
from gateway.edge import follow
from gateway.edge.clock import last_id
from gateway.edge.follow import Follower
from gateway.pipeline import Pipeline
from tests.walking import World, chat, whole


class Watched:
    """A reading that counts."""

    def __init__(self, reading: Any) -> None:
        self._reading = reading
        self.reads = 0
        self.fails: Exception | None = None

    def entries(self, after_seq: int, run: str | None = None, limit: int = 100) -> list[Entry]:
        """The journal's."""
        self.reads += 1
        if self.fails is not None:
            raise self.fails
        found: list[Entry] = self._reading.entries(after_seq, run, limit)
        return found


class Counting(Index):
    """An index that counts what it learns from the journal."""

    def __init__(self) -> None:
        super().__init__()
        self.learnt = 0

    def restore(self, exchange: Exchange) -> None:
        """As it is."""
        self.learnt += 1
        super().restore(exchange)


class Other:
    """A second worker on the same ledger: its own open calls, its own memory of conversations."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.live, self.index = Live(kept=100), Counting()
        self.reading = Watched(world.store.reading())
        self.follower = Follower(self.reading, self.live, self.index, 0)
        parts = structs.replace(world.parts, live=self.live, index=self.index, catch_up=self.follower.catch_up)
        self.pipeline = Pipeline(parts)

    def opened(self, run: str, agent: str | None = None, at: float | None = None) -> OpenCall:
        """A call that this worker serves."""
        number = len(self.live)
        made = last_id("call", self.world.clock.now() if at is None else at).removesuffix("~") + f"{number:016d}"
        call = OpenCall(made, (run, "root"), agent, None)
        self.live.enter(call)
        return call


@pytest.fixture
async def other() -> AsyncIterator[Other]:
    made = Other(World(whole()))
    yield made
    made.follower.close()


async def test_a_kill_elsewhere_ends_our_streams(other: Other) -> None:
    """The gate's entry is read once; the reason given to /kill is in the refusal."""
    mine, another = other.opened("r"), other.opened("r2")
    await other.world.store.close_account("run/r", "runaway")
    await other.follower.look()
    assert mine.refusal is not None and "runaway" in mine.refusal.message
    assert another.refusal is None


@pytest.mark.parametrize("gate", ["run/root", "agent/a", "global"])
async def test_every_gate_is_followed(other: Other, gate: str) -> None:
    """A parent's, an agent's, everybody's."""
    call = other.opened("r", agent="a")
    await other.world.store.close_account(gate, "stop")
    await other.follower.look()
    assert call.refusal is not None


async def test_what_began_after_the_kill_goes_on(other: Other) -> None:
    """The gate is open again by the time that we read of it: the call that began since is not ended."""
    before = other.opened("r")
    other.world.clock.advance(0.005)
    await other.world.store.close_account("run/r", "stop")
    await other.world.store.open_account("run/r")
    other.world.clock.advance(0.005)
    since = other.opened("r")
    await other.follower.look()
    assert before.refusal is not None and since.refusal is None


async def test_a_conversation_goes_on_with_another_worker(other: Other) -> None:
    """A call without an id, whose history another worker answered, belongs to the same run."""
    await other.world.call(chat(), run=None)
    again = chat() | {"messages": [*chat()["messages"], {"role": "assistant", "content": "hi"}, *chat()["messages"]]}
    other.world.pipeline = other.pipeline
    await other.world.call(again, run=None)
    assert [1, 2] == [call.step for call in other.world.calls]
    assert 1 == len({call.run for call in other.world.calls})


async def test_a_call_that_names_its_run_reads_nothing(other: Other) -> None:
    """Only where the conversation alone can tell is the journal asked."""
    other.world.pipeline = other.pipeline
    await other.world.call(chat(), run="named")
    assert 0 == other.reading.reads
    await other.world.call(chat(), run=None)
    assert 1 == other.reading.reads


async def test_a_repeat_is_known_where_another_worker_failed() -> None:
    """An SDK's retry that reaches another worker stays in the run of the call that failed."""
    failing = Other(World(whole(b"{}", status=503), whole()))
    await failing.world.call(chat(), run=None)
    failing.world.pipeline = failing.pipeline
    await failing.world.call(chat(), run=None, x_stainless_retry_count="1")
    failing.follower.close()
    assert [503, 200] == [call.status for call in failing.world.calls]
    assert 1 == len({call.run for call in failing.world.calls})


async def test_own_calls_are_not_learnt_twice(other: Other) -> None:
    """What this worker answered itself is no news to it."""
    other.world.pipeline = other.pipeline
    await other.world.call(chat(), run=None)
    links = other.index.links
    await other.follower.catch_up()
    assert (0, links) == (other.index.learnt, other.index.links)


async def test_a_long_backlog_is_read_to_its_end(other: Other, monkeypatch: pytest.MonkeyPatch) -> None:
    """More entries than one read takes: read again at once, until there are no more."""
    monkeypatch.setattr(follow, "MOST_READ", 3)
    monkeypatch.setattr(follow, "AT_ONCE", 2)
    for number in range(5):
        await other.world.call(chat(), run=f"r{number}")
    await other.follower.catch_up()
    assert 5 == len(other.index)


async def test_looks_at_the_same_time_share_their_reads(other: Other) -> None:
    """Whoever comes while a read is under way waits for the next one, with all the others."""
    await asyncio.gather(*(other.follower.look() for _ in range(50)))
    assert 1 == other.reading.reads
    first = asyncio.ensure_future(other.follower.look())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.gather(first, *(other.follower.look() for _ in range(50)))
    assert 3 == other.reading.reads


async def test_a_look_learns_where_calls_name_no_run(other: Other) -> None:
    """After a call without an id the ticks learn what is new; before, what others answered only waits, bounded."""
    await other.world.call(chat(), run="r1")
    await other.follower.tick()
    assert 0 == len(other.index)
    await other.follower.catch_up()
    await other.world.call(chat(), run="r2")
    await other.follower.tick()
    assert 2 == len(other.index)


async def test_an_outage_is_said_once(other: Other) -> None:
    """A ledger that can't be read fails the first tick of the outage, and every call that must be identified."""
    other.reading.fails = StoreFailed("gone")
    for _ in range(2):
        with pytest.raises(StoreFailed):
            await other.follower.tick()
        await other.follower.tick()
        with pytest.raises(StoreFailed):
            await other.follower.catch_up()
        other.reading.fails = None
        await other.follower.tick()
        other.reading.fails = StoreFailed("gone again")

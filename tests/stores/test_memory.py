"""The memory store beyond the contract: its own sweep, and its end (tests/contracts/test_store.py has the rest)."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.errors import StoreFailed
from gateway.core.types import Denied
from gateway.stores import memory
from gateway.stores.memory import MemoryStore
from tests.fakes import FakeClock
from tests.ledgers import charge, order


async def test_it_sweeps_by_itself_while_something_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hold past its deadline and a wait past its patience end without anybody asking."""
    monkeypatch.setattr(memory, "SWEEP_S", 0.001)
    clock = FakeClock()
    store = MemoryStore(clock.now)
    await store.reserve(order("c1", charge(want=900), deadline_at=clock.at + 60))
    waits = asyncio.ensure_future(store.reserve(order("c2", charge(want=200), wait_s=30)))
    await asyncio.sleep(0)
    clock.advance(31)
    assert isinstance(await asyncio.wait_for(waits, 5), Denied)
    clock.advance(30)
    while (found := store.reading().account("run/R/nusd")) is None or found.held:  # noqa: ASYNC110 - the sweep tells nobody
        await asyncio.sleep(0.001)
    assert 900 == found.spent
    await store.close()


async def test_closing_turns_away_who_waits() -> None:
    """Nobody is left waiting for a store that is gone."""
    clock = FakeClock()
    store = MemoryStore(clock.now)
    await store.open()
    await store.reserve(order("c1", charge(want=900)))
    waits = asyncio.ensure_future(store.reserve(order("c2", charge(want=200), wait_s=30)))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreFailed, match="closing"):
        await waits
    assert store.failed() is None


async def test_its_time_never_steps_back() -> None:
    """Journal and deadlines use the latest time that was seen."""
    clock = FakeClock()
    store = MemoryStore(clock.now)
    await store.note("feedback", "R", {}, 0)
    seen = clock.at
    clock.advance(-500)
    await store.note("feedback", "R", {}, 0)
    assert [seen, seen] == [entry.at for entry in store.journal]

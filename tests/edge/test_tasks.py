"""edge/tasks.py: work is kept, named, reported once, and drained in bounded time."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from gateway.edge.tasks import Tasks

Lines = list[tuple[str, dict[str, Any]]]


def tasks() -> tuple[Tasks, Lines]:
    lines: Lines = []
    return Tasks(lambda event, fields: lines.append((event, fields))), lines


async def test_started_work_survives_without_a_reference() -> None:
    """asyncio alone would let it be collected."""
    kept, _ = tasks()
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        done.set()

    kept.start(work(), "walk")
    gc.collect()
    await asyncio.wait_for(done.wait(), 5)
    await asyncio.sleep(0)
    assert 0 == len(kept)


async def test_a_failure_is_logged_once_with_the_works_name() -> None:
    """Nobody awaits it, somebody hears of it."""
    kept, lines = tasks()
    failure = KeyError("x")

    async def work() -> None:
        raise failure

    await asyncio.wait([kept.start(work(), "sweep")])
    assert [("task_failed", {"task": "sweep", "error": failure})] == lines


async def test_a_drain_waits_for_work_and_cancels_what_is_left() -> None:
    """0 where all ended by itself; else how many were cut, with their names."""
    kept, lines = tasks()
    go = asyncio.Event()
    kept.start(go.wait(), "walk")
    asyncio.get_running_loop().call_soon(go.set)
    assert (0, []) == (await kept.drain(5), lines)
    stuck = kept.start(asyncio.Event().wait(), "stuck")
    assert 1 == await kept.drain(0.01)
    assert stuck.cancelled()
    assert [("drain_cut", {"tasks": 1, "names": "stuck"})] == lines


async def test_a_drain_waits_for_what_begins_meanwhile() -> None:
    """A call that comes on an open connection while others end isn't cut for it."""
    kept, lines = tasks()

    async def first() -> None:
        await asyncio.sleep(0.01)
        kept.start(asyncio.sleep(0.01), "second")

    kept.start(first(), "first")
    assert (0, []) == (await kept.drain(5), lines)


async def test_what_a_drain_cuts_has_begun() -> None:
    """Its `finally` runs, and whoever waits for its word gets it."""
    kept, _ = tasks()
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("told")

    kept.start(work(), "walk")
    assert 1 == await kept.drain(0)
    assert ["told"] == ended


async def test_a_tick_repeats_although_it_fails_and_stops_at_the_drain() -> None:
    """A failing tick is logged; the next one may do better."""
    kept, lines = tasks()
    seen = 0
    enough = asyncio.Event()

    async def tick() -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            raise ValueError
        enough.set()

    kept.every(0.001, tick, "reaper")
    await asyncio.wait_for(enough.wait(), 5)
    assert 0 == await kept.drain(1)
    after = seen
    await asyncio.sleep(0.01)
    assert after == seen
    assert ["tick_failed"] == [event for event, _ in lines]

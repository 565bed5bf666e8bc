"""Work that goes on by itself: walks, ticks, whatever must outlive the handler that began it.

Invariant: a task started here is referenced until it ends, has a name, and its failure is written down once; a drain
ends in bounded time. What never enters: what the work is about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
Log = Callable[[str, dict[str, Any]], None]

DRAIN_S = 30.0  # a stop waits so long for the calls in flight; what is left is presumed


class Tasks:
    """The running tasks of a process. asyncio itself keeps only weak references to them."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._running: set[asyncio.Task[Any]] = set()
        self._ticks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Begins work that a drain waits for."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def every(self, period_s: float, tick: Callable[[], Awaitable[object]], name: str) -> None:
        """Runs `tick` again and again, `period_s` after it last ended; a failing tick is logged and tried again."""
        task = asyncio.get_running_loop().create_task(self._repeat(period_s, tick, name), name=name)
        self._ticks.add(task)
        task.add_done_callback(self._ticks.discard)

    async def drain(self, timeout_s: float) -> int:
        """Stops the ticks, waits for the work, cancels what is left after the time; how many that were."""
        for task in tuple(self._ticks):
            task.cancel()
        if self._ticks:
            await asyncio.wait(tuple(self._ticks))
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while self._running and (time_left := until - loop.time()) > 0:  # what begins meanwhile is waited for, too
            await asyncio.wait(tuple(self._running), timeout=time_left)
        left = tuple(self._running)
        if left:
            await asyncio.sleep(0)  # each has begun: cancelled before its first step, it could tell nobody
        for task in left:
            task.cancel()
        if left:
            self._log("drain_cut", {"tasks": len(left), "names": ", ".join(sorted({t.get_name() for t in left}))})
            await asyncio.wait(left, timeout=1.0)
        return len(left)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._log("task_failed", {"task": task.get_name(), "error": failure})

    async def _repeat(self, period_s: float, tick: Callable[[], Awaitable[object]], name: str) -> None:
        while True:
            await asyncio.sleep(period_s)
            try:
                await tick()
            except Exception as failure:  # noqa: BLE001  logged as `tick_failed`: the next tick may do better
                self._log("tick_failed", {"task": name, "error": failure})

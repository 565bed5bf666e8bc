"""What other workers wrote: follows the journal, ends what they killed, learns the conversations that they answered.

Invariant: a kill anywhere ends this process' streams within LOOK_S and a read; after `catch_up` the index knows every
answer whose last byte had left when it was called, since that byte waits for the commit (bounded by MOST_BEHIND). What
never enters: a write, a decision about money, a process that runs alone (it has nobody to follow).
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import msgspec

from gateway.core.errors import StoreFailed
from gateway.core.index import Index
from gateway.core.live import Live
from gateway.core.types import Entry, Exchange
from gateway.edge.clock import last_id

LOOK_S = 0.2
MOST_READ = 1_000  # entries of one read; what is more comes with the next one, at once
MOST_BEHIND = 5_000  # calls of others that wait to be learnt; as many as are known again after a restart
LEARN_LOOKS = 300  # for a minute after a call that named no run, looks learn at once: the next one waits less
AT_ONCE = 50  # of them are learnt before somebody else's turn: about 2 ms
_EVERYTHING = "global"

_exchange = msgspec.msgpack.Decoder(Exchange)
_small = msgspec.msgpack.Decoder(dict[str, object])


class Journal(Protocol):
    """A reading, as far as this file needs one (ports.Reading)."""

    def entries(self, after_seq: int, run: str | None = None, limit: int = 100) -> list[Entry]:
        """The journal in commit order. Raises StoreFailed."""
        ...


class Follower:
    """Reads what is new on a thread of its own. `tick` every LOOK_S, `catch_up` before a call that names no run."""

    def __init__(self, reading: Journal, live: Live, index: Index, after: int) -> None:
        self._reading = reading
        self._live = live
        self._index = index
        self._after = after  # number of the last entry that was seen
        self._behind: deque[Entry] = deque(maxlen=MOST_BEHIND)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="follow")
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._learning = 0  # so many looks more will learn
        self._failing = False

    def close(self) -> None:
        """Ends the thread after the read that it is at."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def tick(self) -> None:
        """One look. Raises StoreFailed, once an outage."""
        try:
            await self.look()
        except StoreFailed:
            if not self._failing:
                self._failing = True
                raise
            return
        self._failing = False
        if self._learning:
            self._learning -= 1
            await self._learn()

    async def look(self) -> None:
        """Returns once everything is seen that was committed when it was called. Raises StoreFailed."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._read(), name="follow")
        # shared: whoever comes while a read is under way waits for the one after it
        await asyncio.shield(self._next)

    async def catch_up(self) -> None:
        """Learns the conversations that others answered until now. Raises StoreFailed."""
        self._learning = LEARN_LOOKS
        await self.look()
        await self._learn()

    async def _learn(self) -> None:
        while self._behind:
            for _ in range(min(AT_ONCE, len(self._behind))):
                self._index.restore(_exchange.decode(self._behind.popleft().data))
            if self._behind:
                await asyncio.sleep(0)

    async def _read(self) -> None:
        async with self._turn:
            self._next = None
            more = True
            while more:
                loop = asyncio.get_running_loop()
                entries = await loop.run_in_executor(self._thread, self._reading.entries, self._after, None, MOST_READ)
                for entry in entries:
                    self._see(entry)
                    self._after = entry.seq
                more = len(entries) == MOST_READ

    def _see(self, entry: Entry) -> None:
        if entry.kind == "call":
            if entry.call_id is not None and not self._live.mine(entry.call_id):
                self._behind.append(entry)
        elif entry.kind == "gate":
            told = _small.decode(entry.data)
            if told.get("closed"):
                self._stop(str(told.get("gate")), str(told.get("reason") or ""), entry.at)

    def _stop(self, gate: str, reason: str, at: float) -> None:
        """Ends the calls that were open when the gate closed; it may be open again by now."""
        kind, _, name = gate.partition("/")
        until = last_id("call", at)
        if kind == "run":
            self._live.stop_run(name, reason, until)
        elif kind in ("agent", "user", _EVERYTHING):
            self._live.stop_all(kind, name, reason, until)

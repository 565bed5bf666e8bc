"""One process of the ledger's bench: reserve and settle on a file, closed loop or at a rate; prints what it measured.

`python -m tests.bench.pairs FILE '{"budgets": 4, ...}'` (the fields of `Load`); a line of JSON comes back.
"""

from __future__ import annotations

import asyncio
import ctypes
import random
import sys
import threading
import time
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct

from gateway.core.ledger.names import spell
from gateway.core.types import Attempt, Charge, Exchange, Order, Reservation, RunFacts
from gateway.core.windows import Calendar
from gateway.edge.clock import SystemClock
from gateway.stores.sqlite import SqliteStore

LIMIT = 1 << 49
WANT, COST = 1_000_000, 300_000
DAY = Calendar("day")
# Accounts of a call beyond its run's dollars: units of the run, two ancestors, then agent, user, all, in windows.
MORE = (
    ("run", "tokens"), ("agent", "nusd"), ("global", "nusd"), ("run", "calls"), ("agent", "tokens"), ("agent", "calls"),
    ("user", "nusd"), ("user", "tokens"), ("global", "tokens"), ("parent", "nusd"), ("parent", "tokens"),
    ("parent", "calls"), ("root", "nusd"), ("root", "tokens"), ("root", "calls"),
)  # fmt: skip


class Load(Struct, frozen=True):
    """What one process does. per_s 0: closed loop with so many callers; else at this rate."""

    budgets: int = 1
    runs: int = 1_000
    callers: int = 16
    per_s: float = 0.0
    seconds: float = 2.0
    seed: int = 1


class Measured(Struct):
    """What came of it."""

    pairs: int
    took_s: float
    cpu_s: float
    syncs: int | None  # None: not counted, there is no shim
    reserve_ms: list[float]  # sorted


def charges(run: str, budgets: int) -> tuple[Charge, ...]:
    """Accounts of one call, innermost first."""
    found = [Charge(spell("run", run, "nusd"), "nusd", WANT, WANT, LIMIT)]
    owners = {"run": run, "agent": "a1", "user": "u1", "global": "all", "parent": "parent", "root": "root"}
    amounts = {"nusd": WANT, "tokens": 2_000, "calls": 1}
    for kind, unit in MORE[: budgets - 1]:
        size = amounts[unit]
        window = DAY if kind in ("agent", "user", "global") else None
        name = spell("run" if kind in ("parent", "root") else kind, owners[kind], unit)
        found.append(Charge(name, unit, size, size, LIMIT, window=window))  # type: ignore[arg-type]  # units of MORE
    return tuple(found)


class Caller:
    """Makes calls on a store and notes how long each reserve took."""

    def __init__(self, store: SqliteStore, load: Load) -> None:
        self._store = store
        self._load = load
        self._chance = random.Random(load.seed)
        self._name = f"{load.seed}-{time.time_ns()}"
        self.made = 0
        self.reserve_ms: list[float] = []

    async def pair(self) -> None:
        """One call: held, answered, settled."""
        self.made += 1
        run = f"r{self._chance.randrange(self._load.runs)}"
        now = time.time()
        call = f"c{self._name}-{self.made}"
        facts = RunFacts(key=run, id=run, tenant="", source="header")
        about = ("openai-chat", "openai", "chat", "gpt-4o-mini", False)
        order = Order(f"{call}/1", call, facts, charges(run, self._load.budgets), now, now + 3_660, 30.0, about=about)
        begun = time.perf_counter()
        got = await self._store.reserve(order)
        self.reserve_ms.append((time.perf_counter() - begun) * 1_000)
        assert isinstance(got, Reservation), got
        exchange = Exchange(
            call_id=call, run=run, step=0, dialect="openai-chat", provider="openai", operation="chat",
            request_model="gpt-4o-mini", stream=False, started_at=now, ended_at=now, outcome="ok", cost_nusd=COST,
            cost_source="price_list", attempts=[Attempt("openai", "gpt-4o-mini", 200, "ok", COST)],
        )  # fmt: skip
        await self._store.settle(order.id, {"nusd": COST, "tokens": 700, "calls": 1}, exchange)

    async def closed(self, seconds: float) -> None:
        """As fast as it goes, so many callers side by side."""
        until = time.perf_counter() + seconds

        async def one() -> None:
            while time.perf_counter() < until:
                await self.pair()

        await asyncio.gather(*(one() for _ in range(self._load.callers)))

    async def at_rate(self, per_s: float, seconds: float) -> None:
        """At a fixed rate, whatever the answers do."""
        begun = time.perf_counter()
        made: list[asyncio.Task[None]] = []
        for number in range(int(per_s * seconds)):
            if (late := begun + number / per_s - time.perf_counter()) > 0:
                await asyncio.sleep(late)
            made.append(asyncio.ensure_future(self.pair()))
        await asyncio.gather(*made)


def syncs() -> int | None:
    """How often this process asked the disk so far."""
    try:
        return int(ctypes.CDLL(None).syncs())
    except AttributeError:
        return None


async def measure(file: Path, load: Load) -> Measured:
    """Opens the file, warms up, waits for a line on stdin (others may not be ready yet), measures."""
    clock = SystemClock()
    store = SqliteStore(file, clock.now, clock.new_id, idle_s=1e9)
    await store.open()
    for thread in threading.enumerate():
        if thread.name == "ledger-check":  # a large file is checked while it serves
            await asyncio.to_thread(thread.join)
    warm = Caller(store, load)
    await warm.closed(0.4)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    caller = Caller(store, load)
    cpu, asked, begun = time.process_time(), syncs(), time.perf_counter()
    if load.per_s:
        await caller.at_rate(load.per_s, load.seconds)
    else:
        await caller.closed(load.seconds)
    took, cpu, after = time.perf_counter() - begun, time.process_time() - cpu, syncs()
    await store.close()
    counted = after - asked if after is not None and asked is not None else None
    return Measured(caller.made, took, cpu, counted, sorted(caller.reserve_ms))


def main() -> None:
    """Measures and prints."""
    load = msgspec.json.decode(sys.argv[2], type=Load)
    print(msgspec.json.encode(uvloop.run(measure(Path(sys.argv[1]), load))).decode(), flush=True)


if __name__ == "__main__":
    main()

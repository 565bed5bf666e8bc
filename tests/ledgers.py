"""What tests of the ledger share: orders, exchanges, and stores that are opened, killed and opened again.

Invariant: plain builders with the smallest defaults that are legal; a kill is a copy of the files as they lie on disk.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.core.types import (
    Attempt,
    Charge,
    CostSource,
    Exchange,
    Order,
    Outcome,
    Reservation,
    RunFacts,
    Settled,
)
from gateway.stores.memory import MemoryStore
from gateway.stores.sqlite import SqliteStore
from tests.fakes import FakeClock

AnyStore = MemoryStore | SqliteStore


def facts(run: str = "R", **more: Any) -> RunFacts:
    """A run named by a header."""
    return RunFacts(key=run, id=run, tenant="", source="header", **more)


def charge(account: str = "run/R/nusd", want: int = 100, least: int | None = None, **more: Any) -> Charge:
    """A charge in dollars, of a fixed size unless `least` says less."""
    unit = account.split("/")[2]
    return Charge(account, unit, want, want if least is None else least, **{"limit": 1000, **more})  # type: ignore[arg-type]


def order(call: str, *charges: Charge, run: str = "R", wait_s: float = 0.0, **more: Any) -> Order:
    """An order with a far deadline; with one of its own it holds until then, whenever it is granted."""
    known = {"run": facts(run), "at": more.get("deadline_at", 0.0), "deadline_at": 1e12, **more}
    return Order(f"{call}/1", call, charges=charges or (charge(),), wait_s=wait_s, **known)


def exchange(call: str, cost: int | None = None, source: CostSource = "price_list", **more: Any) -> Exchange:
    """A call that was sent and answered, unless its source is `refused`."""
    outcome: Outcome = "refused" if source == "refused" else "unknown" if source == "presumed" else "ok"
    known: dict[str, Any] = {
        "run": "R", "step": 0, "dialect": "openai-chat", "provider": "openai", "operation": "chat",
        "request_model": "m", "stream": False, "started_at": 0.0, "outcome": outcome,
        "attempts": [] if source == "refused" else [Attempt("openai", "m", 200, outcome, cost)],
    }  # fmt: skip
    return Exchange(call_id=call, cost_nusd=cost, cost_source=source, **{**known, **more})


async def spend(store: AnyStore, call: str, cost: int, *charges: Charge, **more: Any) -> Settled:
    """A whole call: held, answered, settled at its cost."""
    held = await store.reserve(order(call, *charges, **more))
    assert isinstance(held, Reservation)
    return await store.settle(f"{call}/1", {"nusd": cost}, exchange(call, cost, run=more.get("run", "R")))


def sqlite(folder: Path, clock: FakeClock, **more: Any) -> SqliteStore:
    """A store over `ledger.db` in this folder, not open yet."""
    return SqliteStore(folder / "ledger.db", clock.now, clock.new_id, **more)


@asynccontextmanager
async def opened(store: SqliteStore) -> AsyncIterator[SqliteStore]:
    """Open as long as the block lasts."""
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def killed(folder: Path, into: Path) -> Path:
    """The files as kill -9 would leave them now: a copy, in which nobody holds a lock."""
    shutil.copytree(folder, into, ignore=shutil.ignore_patterns("*-shm"))
    return into


def balance(store: SqliteStore, account: str = "run/R/nusd") -> tuple[int, int]:
    """(spent, held) of an account as it lies on disk."""
    found = store.reading().account(account)
    return (0, 0) if found is None else (found.spent, found.held)


async def failing(store: SqliteStore) -> None:
    """Returns once admission is closed: the thread tells nobody, so it is asked."""
    while store.failed() is None:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.001)

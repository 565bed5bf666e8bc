"""The store for tests and throw-away runs: a book in memory, each operation carried out where it is asked.

Invariant: the same state machine as every store (`core.ledger`), so it is the oracle that the others are compared with.
What never enters: a file, a thread. It keeps every call it has seen, and forgets all when its process ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from gateway.core.errors import StoreFailed
from gateway.core.ledger import engine, settle
from gateway.core.ledger.audit import audit
from gateway.core.ledger.book import Book, Row
from gateway.core.ledger.desk import Desk, Op, Window, tell
from gateway.core.ledger.reading import BookReading
from gateway.core.types import Entry, Finding

T = TypeVar("T")

SWEEP_S = 1.0


class MemoryStore(Desk):
    """`ports.Store` over a Book. While anything is held or waits, it sweeps once a second by the loop's own timer."""

    def __init__(self, now: Callable[[], float], idle_s: float = 600.0, instance: str = "memory") -> None:
        self.book = Book(instance)
        self.rows: list[Row] = []
        self.journal: list[Entry] = []
        self.findings: list[Finding] = []
        self.texts: dict[str, str] = {}  # captured, by hash
        self._window = Window(self.book)
        self._now = now
        self._last = 0.0
        self.idle_s = idle_s
        self._timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Stops the sweep; whoever waits is turned away."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tell([(reply, StoreFailed("the store is closing")) for reply in self._window.send_home()])

    def ask(self, act: Callable[..., T], *args: Any, kept: bool = False) -> Awaitable[T]:
        """Carried out at once; only an order that waits is answered later."""
        reply: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._do(Op(act, args, reply, kept))
        return reply

    def put(self, op: Op) -> None:
        """Carried out at once, on the one thread that this store knows."""
        self._do(op)

    def forget(self, order_id: str) -> None:
        """The caller of a waiting order left."""
        self._do(Op(engine.forget, (order_id,), None, False))

    def failed(self) -> str | None:
        """Memory doesn't fail."""
        return None

    def reading(self) -> BookReading:
        """The same book for readers."""
        return BookReading(self.book, self.journal, self.findings, self.texts)

    def audit(self) -> list[str]:
        """What is wrong with the balances; empty if nothing is."""
        return audit(self.book, self.rows)

    def _do(self, op: Op) -> None:
        self._last = max(self._last, self._now())
        done: list[tuple[Any, Any]] = []
        self._window.carry_out([op], self._last, done)
        tell(done)
        taken = self.book.take_dirty()
        self.rows.extend(taken.rows)
        self.findings.extend(taken.findings)
        self.texts.update((text.hash, text.text) for text in taken.texts)
        for entry in taken.journal:
            number = len(self.journal) + 1
            self.journal.append(Entry(number, entry.at, entry.kind, entry.run, entry.call_id, entry.data))
        if taken.holds or self.book.line.parked:
            self._wind()

    def _wind(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        self._do(Op(settle.expire, (self.idle_s,), None, False))
        if self.book.line.parked or any(account.open for account in self.book.accounts.values()):
            self._wind()

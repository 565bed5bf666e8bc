"""Both stores without a thread and without an event loop: an operation is carried out where it is asked.

Invariant: nothing here depends on when a thread gets its turn, and an answer that isn't there yet is told apart
from one that is. What never enters: an operation of its own; the words are the socket's, driven by hand.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

from gateway.core.ledger import engine
from gateway.core.ledger.book import BookShelf
from gateway.core.ledger.desk import Op, tell
from gateway.core.types import Order
from gateway.stores.memory import MemoryStore
from gateway.stores.sqlite import SqliteStore
from tests.fakes import FakeClock

WAITS = object()  # an answer that comes later


class Answer:
    """A future for one that needs no loop: awaited by a coroutine that `Asked` drives."""

    __slots__ = ("_error", "_result", "_there")

    def __init__(self) -> None:
        self._there = False
        self._result: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        return self._there

    def set_result(self, result: Any) -> None:
        self._there, self._result = True, result

    def set_exception(self, error: BaseException) -> None:
        self._there, self._error = True, error

    def __await__(self) -> Generator[Answer, None, Any]:
        if not self._there:
            yield self
        if self._error is not None:
            raise self._error
        return self._result


class Asked:
    """A question to a store. `answer()` is what it says, the exception it raises, or WAITS."""

    def __init__(self, words: Coroutine[Any, Any, Any]) -> None:
        self._words = words
        self._awaits: Answer | None = None
        self._said: Any = WAITS
        self._go_on()

    def answer(self) -> Any:
        if self._said is WAITS and self._awaits is not None and self._awaits.done():
            self._go_on()
        return self._said

    def leave(self) -> None:
        """Whoever asked is gone: the answer is never read."""
        self._words.close()

    def _go_on(self) -> None:
        try:
            self._awaits = self._words.send(None)
        except StopIteration as end:
            self._said = end.value
        except Exception as error:  # noqa: BLE001 - compared with what the other store raises
            self._said = error


class LeasedShelf(BookShelf):
    """Knows of leases what the file says: what a process held whose lease has ended is due, too."""

    lapsed: frozenset[str] = frozenset()

    def due(self, now: float, limit: int) -> list[str]:
        held = [hold for hold in self._held() if hold.deadline_at < now or hold.instance in self.lapsed]
        return sorted(hold.id for hold in held)[:limit]


class InlineMemory(MemoryStore):
    """The memory store; it sweeps only when it is asked to."""

    def __init__(self, now: Callable[[], float], idle_s: float) -> None:
        super().__init__(now, idle_s)
        self.shelf = self.book.shelf = LeasedShelf(self.book)

    def ask(self, act: Callable[..., Any], *args: Any, kept: bool = False) -> Awaitable[Any]:
        reply = Answer()
        self._do(Op(act, args, reply, kept))
        return reply

    async def ask_to(self, act: Callable[..., Any], *args: Any) -> Any:
        """An operation that the socket has no word for."""
        return await self.ask(act, *args)

    def _wind(self) -> None:
        """No timer without a loop."""


class InlineFile(SqliteStore):
    """The SQLite store without its thread: each operation is a batch of its own.

    tests/stores/sqlite/test_store.py has the thread.
    """

    def __init__(self, path: Path, clock: FakeClock, **more: Any) -> None:
        super().__init__(path, clock.now, clock.new_id, **more)
        self._begin()
        self._why, self._open = None, True

    def finish(self) -> None:
        """The process ends in order: what it holds is presumed."""
        self._finish()
        self._hang_up()

    def die(self) -> None:
        """The process is killed between two commits: its locks are free, its holds stand in the file."""
        self._connection.close()
        self._locks.close()
        self._hang_up()

    def turn(self) -> None:
        """The thread looks up: it sweeps if that is due, and follows what other processes wrote."""
        self._turn([])

    def ask(self, act: Callable[..., Any], *args: Any, kept: bool = False) -> Awaitable[Any]:
        reply = Answer()
        self._turn([Op(act, args, reply, kept)])
        return reply

    def place(self, order: Order) -> Awaitable[Any]:
        return self.ask(engine.reserve, order)

    def within(self, reply: Awaitable[Any], seconds: float, instead: Any) -> Awaitable[Any]:
        return reply

    def forget(self, order_id: str) -> None:
        self._turn([Op(engine.forget, (order_id,), None, False)])

    def _tell(self, done: list[tuple[Any, Any]]) -> None:
        tell(done)

    def _hang_up(self) -> None:
        self._open = False
        for connection in self._readers:
            connection.close()
        self._readers.clear()

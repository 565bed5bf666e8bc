"""The default store: one SQLite file, written by one thread in group commits (ledger.md section 7).

The thread takes what is queued (1 to 64 operations), carries it out on a book in memory that reads missing rows from
the file, writes what changed in one transaction, and only then answers. If the commit fails, the book is thrown away,
admission closes (`failed`), settles wait and are tried again. The lock file is held by flock for the length of a batch:
one writer at a time, and no commit races a checkpoint. Each process holds a lock file of its own while it lives: who
can take it knows that its owner is dead, and charges its holds.

Invariant: an answer given is on disk (as far as `durability` says); a file that can't be trusted is named and left as
it is. What never enters: a decision about money (core.ledger), a network file system, a second thread that writes.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from gateway.core.errors import MeterboxError, StoreFailed
from gateway.core.ledger import engine, schema, settle
from gateway.core.ledger.book import Book
from gateway.core.ledger.company import Company, tight_account
from gateway.core.ledger.desk import Desk, Op, Patience, Window, tell
from gateway.core.ledger.reading import SqlReading
from gateway.core.ledger.shared import SharedLine, look_again
from gateway.core.ledger.shelf import SqlShelf
from gateway.core.types import Denied, Order, Reservation
from gateway.stores.sqlite.aside import Aside, nothing
from gateway.stores.sqlite.file import connect, refuse_bad_file, refuse_bad_ground
from gateway.stores.sqlite.inspect import audit_file
from gateway.stores.sqlite.instances import Instances
from gateway.stores.sqlite.lock import FairLock
from gateway.stores.sqlite.pen import Pen

T = TypeVar("T")
Chore = Callable[[Callable[..., sqlite3.Cursor], float], bool]  # (execute, now); True: there is more to do

BATCH_MOST: Final = 64
QUEUE_MOST: Final = 20_000  # operations that wait for the thread
KEPT_MOST: Final = 10_000  # settles that wait for a store that fails; what is lost beyond is presumed at its hold
CACHE_MOST: Final = 8_192  # rows of one kind in memory before those at rest are let go
BUSY, GATHER_S = 3, 0.0005  # after a batch of so many the next one waits for company: a transaction has its own price
SWEEP_S, PARKED_SWEEP_S = 1.0, 0.1  # the latter while orders wait: their patience ends on time
CHORE_S, MORE_CHORES_S = 1.0, 0.1  # between two rounds of housekeeping; the latter while there is more to do
LOOK_S = 0.01  # while orders wait: how soon it shows that another process made room
LEASE_S, RENEW_S = 30.0, 10.0
START_WAIT_S = 30.0  # for the lock: several processes may start at once, and the first one checks the file
CHECK_MOST_BYTES = 64 * 2**20  # a larger file is checked while it serves


class SqliteStore(Desk):
    """`ports.Store` over one SQLite file. `open` and `close` frame its life; the rest may be called between."""

    def __init__(
        self, path: Path, now: Callable[[], float], new_id: Callable[[str], str], idle_s: float = 600.0,
        durability: Literal["process", "power_loss"] = "process",
    ) -> None:  # fmt: skip
        self.path = path
        self.instance = new_id("ins")
        self.idle_s = idle_s
        self.chores: list[Chore] = []  # short steps of housekeeping, each in a transaction of its own under the lock
        self._now = now
        self._full = durability == "power_loss"
        self._inbox: queue.SimpleQueue[Op | None] = queue.SimpleQueue()
        self._aside = Aside()
        self._kept: deque[Op] = deque()
        self._why: str | None = "the store is not open"
        self._damaged: str | None = None
        self._pause = threading.Event()
        self._chores_at = self._swept_at = self._renewed_at = float("-inf")
        self._locks = ExitStack()  # lets go of ledger.lock and of our own lock
        self._readers: list[sqlite3.Connection] = []
        self._open, self._busy = False, False
        self._time = 0.0
        self._more = False  # chores are left over
        self._line = SharedLine()
        self._dead: set[str] = set()  # instances whose rows go with the next batch

    async def open(self) -> None:
        """Checks ground and file, charges the holds of dead instances, starts the thread. Raises ConfigError where this
        place can't keep a ledger, StoreFailed where the file can't be used."""
        self._loop = asyncio.get_running_loop()
        self._patience = Patience(self._loop.call_at, self._loop.time)
        self._company = Company(self._loop.call_at, self._loop.time, self._hand_in)
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=self._work, name="ledger", daemon=True).start()
        await self._ready
        self._open = True

    async def close(self) -> None:
        """Writes what is queued, presumes what is still held, ends the thread."""
        if self._open:
            self._open = False
            self._inbox.put(None)
            await asyncio.shield(self._ended)
        for connection in self._readers:
            connection.close()

    def ask(self, act: Callable[..., T], *args: Any, kept: bool = False) -> Awaitable[T]:
        """Queues one operation for the thread."""
        reply: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._inbox.qsize() >= QUEUE_MOST:
            reply.set_exception(StoreFailed("the store is too far behind"))
        elif not self._open or (self.failed() is not None and not kept):
            reply.set_exception(StoreFailed(self.failed() or "the store is closed"))
        else:
            self._inbox.put(Op(act, args, reply, kept))
        return reply

    def put(self, op: Op) -> None:
        """Queues it from any thread, behind all that is waited for."""
        if self._open and self.failed() is None and self._aside.put(op):
            self._inbox.put(Op(nothing, (), None, False))
        else:
            tell([(op.reply, StoreFailed("the store has no room for this"))])

    def place(self, order: Order) -> Awaitable[Reservation | Denied | engine.Waiting]:
        account = tight_account(order) if self._open else None
        if account is None:
            return self.ask(engine.reserve, order)
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._company.gather(account, order, reply)
        return reply

    def _hand_in(self, order: Order, reply: asyncio.Future[Any]) -> None:
        if self._open and self.failed() is None:
            self._inbox.put(Op(engine.reserve, (order,), reply, False))
        elif not reply.done():
            reply.set_exception(StoreFailed(self.failed() or "the store is closed"))

    def within(self, reply: Awaitable[T], seconds: float, instead: T) -> Awaitable[T]:
        self._patience.watch(reply, seconds, instead)
        return reply

    def forget(self, order_id: str) -> None:
        """The caller of a waiting order left."""
        if not self._company.forget(order_id):
            self._inbox.put(Op(engine.forget, (order_id,), None, False))

    def failed(self) -> str | None:
        """Why admission is closed; None while the store works."""
        return self._damaged or self._why

    def reading(self) -> SqlReading:
        """A reader with a connection of its own, for one thread; open until the store closes."""
        self._readers.append(connect(self.path, "ro"))
        return SqlReading(self._query_over(self._readers[-1]))

    def audit(self) -> list[str]:
        """What is wrong with the balances as they are on disk at one instant; reads all of it, from any thread."""
        return audit_file(self.path)

    def _query_over(self, connection: sqlite3.Connection) -> Callable[[str, Sequence[Any]], list[Any]]:
        def query(sql: str, values: Sequence[Any]) -> list[Any]:
            try:
                return connection.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise StoreFailed(f"the ledger {self.path} can't be read: {error}") from error

        return query

    def _tell(self, done: list[tuple[Any, Any]]) -> None:
        if done:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(tell, done)

    def _work(self) -> None:
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001 - whatever it is, `open` raises it
            self._locks.close()
            failed = error if isinstance(error, MeterboxError) else StoreFailed(f"can't open {self.path}: {error}")
            failed.__cause__ = None if failed is error else error
            self._tell([(self._ready, failed)])
            return
        self._why = None
        self._tell([(self._ready, None)])
        going = True
        while going or self._aside or not self._inbox.empty():
            ops, more = self._gather()
            going = going and more
            self._turn(ops)
            self._do_chores()
        self._finish()
        self._tell([(self._ended, None)])

    def _begin(self) -> None:
        lock_file = self.path.with_suffix(".lock")
        self._instances = Instances(self.path.with_suffix(".instances"))
        self._locks.callback(self._instances.close)
        self._lock = FairLock(lock_file)
        self._locks.callback(self._lock.close)
        with self._lock.held(START_WAIT_S):
            refuse_bad_ground(lock_file)
            size = self.path.stat().st_size if self.path.exists() else 0
            if size or (self.path.exists() and self._instances.made):  # it was not empty once
                # who has it open has checked it
                check = size <= CHECK_MOST_BYTES and not self._instances.has_company()
                refuse_bad_file(self.path, check, self._instances.made)
            self._pen = Pen(self.path, self._lock, self._now, self._full)
            self._connection = self._pen.connection
            self._shelf = SqlShelf(lambda sql, values: self._connection.execute(sql, values).fetchall())
            self._window = Window(Book(self.instance, self._shelf, self._line))
            try:
                self._settle_in()
            except BaseException:
                self._connection.close()
                raise
        self._instances.bury(self._bury)
        if size > CHECK_MOST_BYTES:
            threading.Thread(target=self._check, name="ledger-check", daemon=True).start()

    def _settle_in(self) -> None:
        """Tables, time, our own lock and lease."""
        execute = self._connection.execute
        with self._pen.locked():
            for statement in schema.migrations_after(execute("PRAGMA user_version").fetchone()[0]):
                execute(statement)
            self._catch_up()
            self._renew(self._tick())
            self._instances.enter(self.instance)

    def _bury(self, instance: str) -> bool:
        """Charges what a dead process held and takes it out of every line. False: not done, ask again."""
        self._dead.add(instance)
        left: list[str] = [""]
        while self._attempt([Op(settle.bury, (instance,), None, False)]):
            before, left = left, self._shelf.held_by(instance, 1)
            if not left or left == before:
                return not left
        return False

    def _check(self) -> None:
        try:
            refuse_bad_file(self.path, True, True)
        except StoreFailed as error:
            self._damaged = str(error)

    def _gather(self) -> tuple[list[Op], bool]:
        """What is queued, up to a batch; waits for the first, but not past the next sweep. False: close was asked."""
        ops: list[Op] = []
        patience = 0 if self._aside else LOOK_S if self._line.parked else MORE_CHORES_S if self._more else SWEEP_S
        with suppress(queue.Empty):
            op = self._inbox.get(timeout=patience)
            if self._busy:
                self._pause.wait(GATHER_S)
            while op is not None:
                ops.append(op)
                if len(ops) == BATCH_MOST or self._inbox.empty():  # nobody else takes from it
                    return ops + self._aside.take(self._why is not None), True
                op = self._inbox.get()
            return ops, False
        return self._aside.take(self._why is not None), True

    def _turn(self, ops: list[Op]) -> None:
        self._busy = len(ops) >= BUSY
        every = PARKED_SWEEP_S if self._line.parked else SWEEP_S
        if sweeps := abs((wall := self._now()) - self._swept_at) >= every:  # abs: the clock may step back
            self._swept_at = wall
            ops.append(Op(settle.expire, (self.idle_s,), None, False))
        if self._why is None:
            idle = not ops and not (self._line.parked and self._pen.others_wrote())
            self._keep([] if idle or self._attempt(ops) else ops)
            if sweeps and self._why is None:
                self._instances.bury(self._bury)
            return
        self._refuse([op.reply for op in ops if not op.kept])
        self._keep(ops)
        waiting = list(self._kept)
        self._kept.clear()
        while self._attempt(waiting[:BATCH_MOST]):  # without any, it still tries whether the file can be written
            waiting = waiting[BATCH_MOST:]
            if not waiting:
                self._why = None
                return
        self._keep(waiting)

    def _attempt(self, ops: list[Op]) -> bool:
        """One batch. False: the file failed, admission is closed, what is kept must be tried again. Where one operation
        is at fault, it alone is answered with StoreFailed."""
        done: list[tuple[Any, Any]] = []
        try:
            self._commit(ops, done)
        except Exception as error:  # noqa: BLE001 - becomes `failed()`, or the answer of the operation at fault
            lost = self._window.throw_away(ops, done)
            if isinstance(error, OSError | sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
                self._why = f"the ledger {self.path} can't be written: {error}"
                self._refuse(lost + [op.reply for op in ops if not op.kept])
                return False
            self._refuse(lost, "the ledger threw away a batch")
            if len(ops) > 1:
                return all([self._attempt([op]) for op in ops])  # noqa: C419 - every one must be tried
            self._refuse([op.reply for op in ops], f"the ledger can't carry this out: {error!r}")
            return True
        self._tell(done)
        return True

    def _commit(self, ops: list[Op], done: list[tuple[Any, Any]]) -> None:
        with self._pen.transaction():
            if self._pen.news:
                self._catch_up()
            now = self._tick()
            if abs(now - self._renewed_at) >= RENEW_S:
                self._renew(now)
            looks = self._pen.news and bool(self._line.parked)
            self._shelf.prefetch(self._window.book, ops, self._line.orders() if looks else ())
            if looks:
                look_again(self._window.book, now)
            self._window.carry_out(ops, now, done)
            self._write()
        if self._dead:  # whoever stood behind them may go
            self._dead.clear()
            self._pen.look_anew()
        self._window.book.trim(CACHE_MOST)

    def _do_chores(self) -> None:
        """Housekeeping between two batches. What fails leaves nothing behind and is tried again in the next round."""
        every = MORE_CHORES_S if self._more else CHORE_S
        if not self.chores or self._why is not None or abs((wall := self._now()) - self._chores_at) < every:
            return
        self._chores_at, self._more = wall, False
        for chore in self.chores:
            with suppress(OSError, sqlite3.Error), self._transaction() as execute:
                before = self._connection.total_changes
                self._more = chore(execute, self._tick()) or self._more
                if self._connection.total_changes != before:  # rows that the book has in mind may be gone
                    self._window.book.drop()
                news = self._pen.news
            if news:  # the next batch must hear of it, too: who waits is judged there
                self._pen.look_anew()

    @contextmanager
    def _transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        with self._pen.transaction():
            if self._pen.news:
                self._catch_up()
            yield self._connection.execute

    def _catch_up(self) -> None:
        """Others wrote: what we have in mind may be old."""
        self._window.book.drop()
        rows = self._connection.execute(schema.NEWS, (self.instance,)).fetchall()
        self._line.hear(row for row in rows if row[0])
        self._time = max([self._time, *(row[1] for row in rows if not row[0])])

    def _write(self) -> None:
        dirty = self._window.book.take_dirty()
        execute = self._connection.execute
        if dirty or self._pen.proves or self._why is not None:  # a try after a failure must write something
            execute(schema.PUT_META, (self._time,))
        self._pen.unsynced = self._pen.unsynced or bool(dirty)
        self._pen.wrote(sum([len(text.text) for text in dirty.texts]))
        for sql, values in schema.statements_of(self._window.book, dirty):
            execute(sql, values)
        if self._line.has_news:
            for sql, values in schema.statements_of_line(self.instance, self._line):
                execute(sql, values)
        for instance in self._dead:
            for sql in schema.BURY:
                execute(sql, (instance,))
        if self._line.parked:
            self._line.remember(self._window.book)

    def _renew(self, now: float) -> None:
        self._connection.execute(schema.PUT_LEASE, (self.instance, now + LEASE_S))
        self._connection.execute(schema.END_LEASES, (now,))
        if self._connection.execute(schema.END_LINES, (now,)).rowcount > 0:
            self._pen.look_anew()
        if now - self._renewed_at > LEASE_S:  # we were stopped, and others have ended our lines
            self._line.tell_anew()
        self._renewed_at = now

    def _tick(self) -> float:
        self._time = max(self._time, self._now())  # never behind what was written
        return self._time

    def _refuse(self, replies: list[Any], why: str | None = None) -> None:
        self._tell([(reply, StoreFailed(why or self.failed() or "the store is closed")) for reply in replies])

    def _keep(self, ops: list[Op]) -> None:
        self._kept.extend(op for op in ops if op.kept)
        while len(self._kept) > KEPT_MOST:
            self._refuse([self._kept.pop().reply])

    def _finish(self) -> None:
        self._why = self._why or "the store is closed"
        self._refuse([op.reply for op in self._kept] + self._window.throw_away((), ()))
        with suppress(OSError, sqlite3.Error):  # else others, or the next start, charge what we still hold
            buried = self._bury(self.instance)
            self._pen.close()
            if buried:
                self._instances.leave()
        self._locks.close()

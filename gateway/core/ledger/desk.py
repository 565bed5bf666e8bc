"""The Store socket in terms of operations on a book: what both stores share; each says how an operation is carried out.

Invariant: an operation is answered after its effect is as durable as the store makes it, and an order that waits is
answered when its wait has ended. What never enters: how, where or in which thread anything is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import Any, TypeVar

from gateway.core.errors import StoreFailed
from gateway.core.ledger import contents, control, engine, runs, settle
from gateway.core.ledger.book import Book, whole
from gateway.core.ledger.legible import legible_facts, legible_order
from gateway.core.types import (
    Balance,
    Content,
    Denied,
    Exchange,
    Finding,
    Order,
    Reservation,
    Run,
    RunFacts,
    Settled,
)

T = TypeVar("T")


class Op:
    """One operation: `act(book, now, *args)`, and whom to tell. kept: worth repeating until it can be written."""

    __slots__ = ("act", "args", "kept", "reply")

    def __init__(self, act: Callable[..., Any], args: tuple[Any, ...], reply: Any, kept: bool) -> None:
        self.act = act
        self.args = args
        self.reply = reply
        self.kept = kept

    @property
    def order(self) -> Order | None:
        """The order, if it is a reserve."""
        return self.args[0] if self.act is engine.reserve else None


class Window:
    """Carries out operations on a book and knows who waits for which answer."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self._waiting: dict[str, list[Any]] = {}

    def carry_out(self, ops: Sequence[Op], now: float, done: list[tuple[Any, Any]]) -> None:
        """Applies them in order. Adds (reply, result) for each that has its answer, those that had waited too.

        A StoreFailed that an operation raises is its result; it raises before it changes anything.
        """
        for op in ops:
            try:
                result = op.act(self.book, now, *op.args)
            except StoreFailed as refused:
                result = refused
            if result is engine.WAITING:
                self._waiting.setdefault(op.args[0].id, []).append(op.reply)
            else:
                done.append((op.reply, result))
        if self.book.answers:
            for order_id, answer in self.book.take_answers():
                done.extend((reply, answer) for reply in self._waiting.pop(order_id, ()))

    def send_home(self) -> list[Any]:
        """Empties the line; gives back whom to tell."""
        self.book.line.clear()
        replies = [reply for waiting in self._waiting.values() for reply in waiting]
        self._waiting.clear()
        return replies

    def throw_away(self, ops: Sequence[Op], done: Sequence[tuple[Any, Any]]) -> list[Any]:
        """Forgets what a failed batch changed. Gives back who else than these operations is left without an answer."""
        self.book.drop()
        mine = {id(op.reply) for op in ops}
        return [reply for reply in (*(reply for reply, _ in done), *self.send_home()) if id(reply) not in mine]


class Patience:
    """Replies that wait only so long, with one timer for all of them: a timer each costs 15 us a call.

    later: the loop's `call_at`; time: its clock. All are given the same patience, so the first is due first.
    """

    def __init__(self, later: Callable[..., Any], time: Callable[[], float]) -> None:
        self._later = later
        self._time = time
        self._waiting: deque[tuple[float, Any, Any]] = deque()
        self._armed = False

    def watch(self, reply: Any, seconds: float, instead: Any) -> None:
        """Tells `instead` if the reply isn't there in time."""
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()
        self._waiting.append((self._time() + seconds, reply, instead))
        if not self._armed:
            self._armed = True
            self._later(self._waiting[0][0], self._look)

    def _look(self) -> None:
        now = self._time()
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= now):
            _, reply, instead = self._waiting.popleft()
            tell([(reply, instead)])
        self._armed = bool(self._waiting)
        if self._armed:
            self._later(self._waiting[0][0], self._look)


class Desk:
    """The socket's methods, each one operation. A store inherits this and says what `ask` does."""

    idle_s: float = 600.0  # a run without a call for so long has ended
    settle_s: float = 2.0  # how long the end of an answer waits for its settlement

    def ask(self, act: Callable[..., T], *args: Any, kept: bool = False) -> Awaitable[T]:
        """Carries out one operation; the answer comes when it is written."""
        raise NotImplementedError

    def failed(self) -> str | None:
        """Why admission is closed; None while the store works."""
        raise NotImplementedError

    def put(self, op: Op) -> None:
        """Queues an operation that nobody awaits, from any thread that the store allows."""
        raise NotImplementedError

    def remember(self, content: Content, lost: Callable[[], None]) -> None:
        """See `ports.Store`. It isn't kept while the store fails: what is kept then is money."""
        self.put(Op(contents.keep, (content,), contents.Receipt(lost), False))

    def place(self, order: Order) -> Awaitable[Reservation | Denied | engine.Waiting]:
        """Hands an order in; a store may let it stand aside for a moment with others that come (`company`)."""
        return self.ask(engine.reserve, order)

    def within(self, reply: Awaitable[T], seconds: float, instead: T) -> Awaitable[T]:  # noqa: ARG002 - for a store that may be slow
        """The reply, or something else where it takes too long. A store that answers at once has nothing to do."""
        return reply

    async def run(self, key: str) -> Run | None:
        """The run of that key as of now (a copy)."""
        return await self.ask(_copy_of_run, whole(key))

    async def reserve(self, order: Order) -> Reservation | Denied:
        """All charges in one step or none; waits in line if the order has patience."""
        answer = await self.place(legible_order(order))
        assert not isinstance(answer, engine.Waiting)  # the window answers only when the wait has ended
        return answer

    async def adjust(self, order_id: str, unit: str, hold: int) -> bool:
        """Sets the hold of one unit: down always, up only if it fits."""
        return await self.ask(engine.adjust, order_id, unit, hold)

    async def settle(
        self, order_id: str | None, actual: dict[str, int] | None, exchange: Exchange, findings: Sequence[Finding] = ()
    ) -> Settled:
        """Ends a reservation and writes its call. After `settle_s` the answer's end waits no longer: the operation
        stays queued, and what it charged isn't known yet (design.md section 1). Where nothing was held and the store
        has failed, nobody waits for it at all."""
        exchange.run = whole(exchange.run)
        reply = self.ask(settle.settle, order_id, actual, exchange, findings, kept=True)
        if order_id is None and self.failed() is not None:
            tell([(reply, Settled(None))])
        return await self.within(reply, self.settle_s, Settled(None))

    async def void(self, order_id: str) -> Settled | None:
        """Ends one attempt of a call that goes on elsewhere: nothing can have been billed."""
        return await self.ask(settle.void, order_id, kept=True)

    async def presume(self, order_id: str) -> Settled | None:
        """Ends one attempt of a call that goes on elsewhere: its outcome is unknown."""
        return await self.ask(settle.presume, order_id, kept=True)

    async def true_up(self, response_id: str, tenant: str, exchange: Exchange) -> Settled | None:
        """A late fact about a presumed call."""
        reply = self.ask(settle.true_up, whole(response_id), tenant, exchange, kept=True)
        return await self.within(reply, self.settle_s, None)

    async def correct(self, order_id: str, delta_nusd: int, reason: str, actor: str, correction_id: str) -> Settled:
        """A refund or a correction, once per id."""
        return await self.ask(settle.correct, order_id, delta_nusd, (reason, actor, correction_id))

    async def expire(self, now: float) -> int:
        """Presumes what outlived lease or deadline, ends idle runs and waits without hope. How many it touched."""
        return await self.ask(_expire, now, self.idle_s)

    async def close_account(self, gate: str, reason: str) -> None:
        """Kills."""
        await self.ask(control.close, whole(gate), whole(reason))

    async def open_account(self, gate: str) -> None:
        """Takes a kill back."""
        await self.ask(control.open_gate, whole(gate))

    async def set_limit(self, account: str, limit: int) -> Balance:
        """An operator's limit."""
        return await self.ask(control.set_limit, whole(account), limit)

    async def make_run(self, facts: RunFacts, at: float) -> Run:  # noqa: ARG002 - the store's time counts
        """The run of these facts, made if unknown (a copy)."""
        return await self.ask(_make_run, legible_facts(facts))

    async def end_run(self, key: str, state: str, outcome: str | None, reason: str | None, at: float) -> Run | None:  # noqa: ARG002 - the store's time counts
        """Ends, kills, pauses or resumes (a copy; None if unknown)."""
        told = [None if text is None else whole(text) for text in (outcome, reason)]
        return await self.ask(_end_run, whole(key), state, *told)

    async def note(self, kind: str, run: str, data: dict[str, Any], at: float) -> None:  # noqa: ARG002 - the store's time counts
        """A journal entry that moves no money."""
        await self.ask(_note, kind, whole(run), data)


def _copy_of_run(book: Book, _now: float, key: str) -> Run | None:
    run = book.run(key)
    return None if run is None else copied(run)


def copied(run: Run) -> Run:
    """A copy that the book will not change behind its reader's back (its fields are all plain values)."""
    return copy(run)


def _make_run(book: Book, now: float, facts: RunFacts) -> Run:
    return copied(runs.make(book, facts, now))


def _end_run(book: Book, now: float, key: str, state: str, outcome: str | None, reason: str | None) -> Run | None:
    run = control.end_run(book, now, key, state, outcome, reason)
    return None if run is None else copied(run)


def _expire(book: Book, now: float, at: float, idle_s: float) -> int:
    return settle.expire(book, max(now, at), idle_s)


def tell(done: Sequence[tuple[Any, Any]]) -> None:
    """Hands results to futures (to nobody, where nobody waits); an exception is raised where it is awaited."""
    for reply, result in done:
        if reply is None or reply.done():
            continue
        if isinstance(result, BaseException):
            reply.set_exception(result)
        else:
            reply.set_result(result)


def _note(book: Book, now: float, kind: str, run: str, data: dict[str, Any]) -> None:
    book.write(now, kind, run, None, data)

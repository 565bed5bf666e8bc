"""Every order of events of a small world: three calls of two gateways on two nested budgets, over the real engine.

Invariant: what a gateway knows is only what it was told; what the provider bills is decided when the first byte leaves,
and is never more than was granted. After every step the promises of ledger.md (P1, P2, I1 to I9) are checked against
sums of this file's own. What never enters: chance, time, a store.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gateway.core.ledger import engine, settle
from gateway.core.ledger.audit import audit
from gateway.core.ledger.book import HELD, PRESUMED, Book, BookShelf, Row
from gateway.core.types import Charge, Denied, Exchange, Order, Reservation, RunFacts
from tests.ledgers import exchange

LIMITS = {"run/K/nusd": 10, "run/P/nusd": 13}
PURSES = (("run/K/nusd", "run/P/nusd"), ("run/K/nusd", "run/P/nusd"), ("run/P/nusd",))  # of call 0, 1, 2
GATEWAYS = (0, 1, 0)  # who serves call 0, 1, 2
WANT, LEAST = 6, 3
OVER = frozenset({"done", "refused", "lost"})
AT = 1000.0


class Broken(AssertionError):
    """A promise was broken; the message says which one, and the events that led there."""


class Words:
    """What a gateway may ask of the ledger: the engine itself. A broken variant overrides one of these."""

    acts_at_once = True  # False: a check in one step, the booking in a later one
    waits_for_the_ack = True  # False: sends while the reserve is still on its way

    def reserve(self, book: Book, order: Order) -> Any:
        return engine.reserve(book, AT, order)

    def forget(self, book: Book, order_id: str) -> None:
        engine.forget(book, AT, order_id)

    def settle(self, book: Book, order_id: str, told: Exchange) -> None:
        settle.settle(book, AT, order_id, {"nusd": told.cost_nusd or 0}, told, ())

    def unknown(self, book: Book, order_id: str, told: Exchange) -> None:
        """A timeout, or a client that left: nobody knows what the provider bills."""
        settle.settle(book, AT, order_id, None, told, ())

    def void(self, book: Book, order_id: str) -> None:
        settle.void(book, AT, order_id)

    def adjust(self, book: Book, order_id: str, amount: int) -> None:
        engine.adjust(book, AT, order_id, "nusd", amount)

    def expire(self, book: Book) -> None:
        settle.expire(book, AT, 1e9)

    def bury(self, book: Book, instance: str) -> None:
        settle.bury(book, AT, instance)


class Shelf(BookShelf):
    """Everything lies in the book; which deadline has passed, the world says."""

    overdue: str | None = None

    def due(self, now: float, limit: int) -> list[str]:
        return [self.overdue] if self.overdue is not None else []


@dataclass(frozen=True)
class Size:
    """How much of the world is looked at."""

    patient: bool = False  # orders wait in line
    deaf: tuple[int, ...] = (0,)  # calls whose answers from the ledger may be lost
    free: tuple[int, ...] = (0,)  # calls that the provider may bill at nothing; others at all that was granted
    wide: tuple[int, ...] = ()  # calls that may be billed between the two as well, and whose holds may be lowered


class World:
    """One state: the committed ledger, what each gateway believes of its calls, and the provider's bill."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.book = Book("g0")
        self.shelf = self.book.shelf = Shelf(self.book)
        self.rows: list[Row] = []
        self.phases = ["new", "new", "new"]
        self.bills: list[int | None] = [None, None, None]  # None: not a byte was sent
        self.alive = [True, True]
        self.wait_s = 30.0 if size.patient else 0.0

    def order(self, call: int) -> Order:
        charges = tuple([Charge(name, "nusd", WANT, LEAST, LIMITS[name]) for name in PURSES[call]])
        run = PURSES[call][0].split("/")[1]
        facts = RunFacts(run, run, "", "header", parent="P" if run == "K" else None)
        return Order(f"c{call}/1", f"c{call}", facts, charges, 0.0, 1e12, self.wait_s, (f"run/{run}", "run/P"))

    def told(self, call: int, known: bool) -> Exchange:
        run = PURSES[call][0].split("/")[1]
        cost = self.bills[call] if known else None
        return exchange(f"c{call}", cost, "price_list" if known else "presumed", run=run)

    def key(self) -> tuple[Any, ...]:
        """Two worlds with the same key have the same future."""
        accounts = tuple([(a.name, a.spent, a.held, a.open, a.overrun) for a in map(self.book.account, LIMITS)])
        holds = tuple(
            [(h.id, h.state, h.instance, tuple(h.held.items()), tuple(h.charged.items())) for _, h in self._holds()]
        )
        line = tuple(parked.order.id for parked in self.book.line.parked.values())
        rows = tuple(sorted([(row.hold or "", row.account, row.kind, row.delta) for row in self.rows]))
        return (tuple(self.phases), tuple(self.bills), tuple(self.alive), accounts, holds, line, rows)

    def _holds(self) -> list[tuple[str, Any]]:
        return sorted(self.book.holds.items())

    def write(self) -> None:
        """The end of a transaction: rows are appended, and whoever waited hears his answer if his gateway lives."""
        dirty = self.book.take_dirty()
        self.rows += dirty.rows
        for order_id, answer in self.book.take_answers():
            call = int(order_id[1])
            if isinstance(answer, Reservation):  # a process grants only what its own callers wait for
                self.book.holds[order_id].instance = f"g{GATEWAYS[call]}"
            self.hear(call, answer)

    def hear(self, call: int, answer: Any) -> None:
        """The gateway reads the ledger's answer to its order."""
        if isinstance(answer, Reservation):
            self.phases[call] = "held"
        elif isinstance(answer, Denied):
            self.phases[call] = "refused"
        else:
            self.phases[call] = "waiting"

    # ------------------------------------------------------------- what may happen next

    def events(self, words: Words) -> Iterator[tuple[Any, ...]]:
        for call, phase in enumerate(self.phases):
            if phase not in OVER and self.alive[GATEWAYS[call]]:
                yield from self._steps(call, phase, words)
            hold = self.book.holds.get(f"c{call}/1")
            if hold is not None and hold.state == HELD:
                yield ("expire", call)
        for gateway, alive in enumerate(self.alive):
            if alive and any(GATEWAYS[call] == gateway and self.phases[call] not in OVER for call in range(3)):
                yield ("crash", gateway)
            elif not alive and any(h.state == HELD and h.instance == f"g{gateway}" for h in self.book.holds.values()):
                yield ("bury", gateway)

    def _steps(self, call: int, phase: str, words: Words) -> Iterator[tuple[Any, ...]]:
        deaf, wide = call in self.size.deaf, call in self.size.wide
        if phase in ("new", "asked", "checked"):
            yield ("reserve", call)
        if phase == "new":
            if deaf:
                yield ("reserve, unheard", call)
            if not words.waits_for_the_ack:
                yield ("send", call, WANT)
        if phase in ("asked", "held"):
            yield ("give up", call)
        if phase == "waiting":
            yield ("leave", call)
        if phase == "held":
            granted = self.book.holds[f"c{call}/1"].held["nusd"]
            bills = (*((0,) if call in self.size.free else ()), *((1,) if wide else ()), granted)
            yield from (("send", call, bill) for bill in bills)
        if phase in ("sent", "adjusted", "unknown"):
            yield ("settle", call)
            if deaf:
                yield ("settle, unheard", call)
        if phase in ("sent", "adjusted"):
            yield ("timeout", call)
            if wide and phase == "sent":
                yield ("adjust", call)
        if phase == "unsure":
            yield ("settle", call)

    # ------------------------------------------------------------- one event

    def happen(self, event: tuple[Any, ...], words: Words) -> None:
        what, which = event[0], event[1]
        if what in ("crash", "bury"):
            self._gateway(what, which, words)
        else:
            self.book.instance = f"g{GATEWAYS[which]}"
            _EVENTS[what](self, words, *event[1:])
        self.write()

    def _gateway(self, what: str, gateway: int, words: Words) -> None:
        if what == "bury":
            return words.bury(self.book, f"g{gateway}")
        self.alive[gateway] = False
        for call, phase in enumerate(self.phases):
            if GATEWAYS[call] == gateway and phase not in OVER:
                words.forget(self.book, f"c{call}/1")  # who waits dies with his process
                self.write()
                self.phases[call] = "lost"
        return None

    def _reserve(self, words: Words, call: int) -> None:
        if not words.acts_at_once and self.phases[call] == "new":
            fits = all(self._room(name) >= LEAST for name in PURSES[call])
            self.phases[call] = "checked" if fits else "refused"
            return
        self.hear(call, words.reserve(self.book, self.order(call)))

    def _room(self, name: str) -> int:
        account = self.book.account(name)
        return LIMITS[name] - account.spent - account.held

    def _reserve_unheard(self, words: Words, call: int) -> None:
        words.reserve(self.book, self.order(call))
        self.write()
        self.phases[call] = "asked"

    def _give_up(self, words: Words, call: int) -> None:
        """The client left before a byte was sent: the hold ends as void, if there is one, and so does the wait."""
        words.forget(self.book, f"c{call}/1")
        words.void(self.book, f"c{call}/1")
        self.write()
        self.phases[call] = "done"

    def _leave(self, words: Words, call: int) -> None:
        words.forget(self.book, f"c{call}/1")

    def _send(self, words: Words, call: int, bill: int) -> None:
        self.phases[call], self.bills[call] = "sent", bill

    def _settle(self, words: Words, call: int) -> None:
        words.settle(self.book, f"c{call}/1", self.told(call, known=True))
        self.phases[call] = "done"

    def _settle_unheard(self, words: Words, call: int) -> None:
        words.settle(self.book, f"c{call}/1", self.told(call, known=True))
        self.phases[call] = "unsure"

    def _timeout(self, words: Words, call: int) -> None:
        words.unknown(self.book, f"c{call}/1", self.told(call, known=False))
        self.phases[call] = "unknown"

    def _adjust(self, words: Words, call: int) -> None:
        words.adjust(self.book, f"c{call}/1", max(self.bills[call] or 0, 2))
        self.phases[call] = "adjusted"

    def _expire(self, words: Words, call: int) -> None:
        self.shelf.overdue = f"c{call}/1"
        words.expire(self.book)
        self.shelf.overdue = None

    # ------------------------------------------------------------- what must hold

    def check(self) -> Iterator[str]:
        """What is wrong in this state."""
        yield from audit(self.book, self.rows)
        for name, limit in LIMITS.items():
            account = self.book.account(name)
            if account.spent + account.held > limit:
                yield f"P1 {name} uses {account.spent} + {account.held} of {limit}"
            billed = sum(self.bills[call] or 0 for call in range(3) if name in PURSES[call])
            if billed > limit:
                yield f"P2 the provider bills {billed} of {limit} on {name}"
        for call, bill in enumerate(self.bills):
            if bill is not None and bill > self.accounted(call):
                yield f"I6 call {call} is billed {bill} and accounted {self.accounted(call)}"
        if not self.book.line.parked and "waiting" in self.phases:
            yield "somebody waits and stands in no line"

    def accounted(self, call: int) -> int:
        hold = self.book.holds.get(f"c{call}/1")
        if hold is None:
            return 0
        return hold.held["nusd"] if hold.state == HELD else hold.charged.get("nusd", 0)

    def check_recovery(self, words: Words) -> Iterator[str]:
        """Every gateway dies here and now: its holds are charged, nothing is left held, and once is enough."""
        for gateway in (0, 1):
            words.bury(self.book, f"g{gateway}")
            self.write()
        yield from self.check()
        if any(account.held for account in map(self.book.account, LIMITS)):
            yield "I8 something is held after all have died and were buried"
        before = self.key()
        for gateway in (0, 1):
            words.bury(self.book, f"g{gateway}")
        self.write()
        if before != self.key():
            yield "I9 recovering twice is not recovering once"

    def check_end(self) -> Iterator[str]:
        """Nothing more can happen: nothing is held, and nobody was forgotten."""
        if any(account.held for account in map(self.book.account, LIMITS)):
            yield "P4 something is held for ever"
        if not set(self.phases) <= OVER:
            yield f"somebody was forgotten: {self.phases}"
        if any(hold.state == PRESUMED for hold in self.book.holds.values()) and all(self.alive):
            known = [call for call in range(3) if self.phases[call] == "done" and self.bills[call] is not None]
            if any(self.accounted(call) > (self.bills[call] or 0) for call in known):
                yield "a call whose bill was told is charged more than its bill"


_EVENTS: dict[str, Callable[..., None]] = {
    "reserve": World._reserve, "reserve, unheard": World._reserve_unheard, "give up": World._give_up,
    "leave": World._leave, "send": World._send, "settle": World._settle, "settle, unheard": World._settle_unheard,
    "timeout": World._timeout, "adjust": World._adjust, "expire": World._expire,
}  # fmt: skip


def explore(words: Words, size: Size) -> int:
    """Walks through every state that can be reached, depth first. How many there are. Raises Broken."""
    start = World(size)
    seen = {start.key()}
    todo: list[tuple[bytes, tuple[Any, ...]]] = [(pickle.dumps(start), ())]
    buried: set[tuple[Any, ...]] = set()
    while todo:
        frozen, path = todo.pop()
        world: World = pickle.loads(frozen)
        events = list(world.events(words))
        for problem in [] if events else world.check_end():
            raise Broken(f"{problem} after {list(path)}")
        for event in events:
            after: World = pickle.loads(frozen)
            after.happen(event, words)
            key = after.key()
            if key in seen:
                continue
            seen.add(key)
            for problem in after.check():
                raise Broken(f"{problem} after {[*path, event]}")
            todo.append((pickle.dumps(after), (*path, event)))
            if key[1:] not in buried:  # what gateways believe doesn't matter to those who bury them
                buried.add(key[1:])
                for problem in after.check_recovery(words):
                    raise Broken(f"{problem} after {[*path, event]} and the end of all gateways")
    return len(seen)

"""The ledger's state as plain values: accounts, holds, runs, who waits, and what changed since the last write.

Invariant: nothing here decides; `ledger` does, and marks what it touched, so that a store can write exactly that.
What never enters: a clock, I/O, a limit's meaning.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
from msgspec import Struct, field

from gateway.core.ledger.line import Line
from gateway.core.types import Balance, Denied, Finding, Mark, Reservation, Run
from gateway.core.windows import Calendar, Window

HELD = "held"
SETTLED = "settled"
VOID = "void"
PRESUMED = "presumed"

AMOUNT_MOST = 2**50  # one call's amount; 8192 of them still fit into the int64 of SQLite


class Account(Struct):
    """One budget, or one gate (a name that is only open or closed)."""

    name: str
    spent: int = 0
    held: int = 0
    open: int = 0  # reservations that hold on it: calls in flight
    overrun: int = 0  # charged beyond holds, summed up
    lowered: int = 0  # how far the limit was set below what was used already
    cap: int | None = None  # set by an operator or lowered by a caller; stays
    limit: int | None = None  # in force at the last look
    closed: str | None = None  # the reason given to /kill
    asked: int | None = None  # the lowest limit that a caller ever sent: the same one again changes nothing
    last: str | None = None  # the order that was granted as the last one
    marks: str = ""  # thresholds that were recorded, as `budget@0.5` with blanks between
    ends_at: float | None = None  # end of its window; None: it has none

    def balance(self) -> Balance:
        """What a reader may know of it."""
        return Balance(self.name, self.limit, self.spent, self.held, self.overrun)


class Hold(Struct, array_like=True):
    """One reservation as a row. Every account of a unit holds, and later is charged, the same amount.

    Written as an array: fields are only ever added at the end, with a default.
    """

    id: str
    call_id: str
    run: str
    tenant: str
    step: int
    instance: str
    state: str
    created_at: float
    deadline_at: float
    accounts: list[tuple[str, str]]  # (account, unit), innermost first; pinned
    held: dict[str, int]  # unit -> amount; stays after the end, for the record
    charged: dict[str, int] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)  # `want` of each charge: a repeat must ask the same
    told: bool = False  # its call stands in the journal
    response_id: str | None = None  # of a presumed call: a later look at the stored response trues it up
    tally: tuple[int, ...] = ()  # what its call added to the run's counters
    corrections: list[str] = field(default_factory=list)
    about: tuple[str, str, str, str, bool] = ("", "", "", "", False)
    aside: dict[str, int] = field(default_factory=dict)  # what it leaves on an account for the last call


class Row(Struct, frozen=True):
    """One change of one account's `spent` (or of its limit). Append-only: the balance is the sum of these."""

    hold: str | None
    account: str
    unit: str
    kind: str  # settle presumed void trueup correct limit
    delta: int
    at: float
    note: str = ""


class Written(Struct, frozen=True):
    """A journal entry before it has its number."""

    at: float
    kind: str
    run: str
    call_id: str | None
    data: bytes


class Text(Struct, frozen=True):
    """A captured text: a message, a list of parts, a tool, as JSON."""

    hash: str
    first_call: str
    at: float  # when it was named last, to the hour
    text: str


class Shelf(Protocol):
    """Where rows come from that the book has not in mind, and the questions that need them all."""

    def account(self, name: str, /) -> Account | None: ...

    def hold(self, hold_id: str, /) -> Hold | None: ...

    def run(self, key: str, /) -> Run | None: ...

    def due(self, now: float, limit: int) -> list[str]:
        """Holds past their deadline, or whose instance's lease has ended."""
        ...

    def held_by(self, instance: str, limit: int) -> list[str]: ...

    def idle(self, before: float, limit: int) -> list[str]:
        """Active runs without a call since `before`, without a hold and without an active child."""
        ...

    def below(self, run: str) -> list[str]:
        """The runs below this one, as far as they are written."""
        ...

    def presumed(self, response_id: str, tenant: str) -> str | None:
        """The presumed hold whose answer had this id."""
        ...


class Dirty(Struct):
    """What one batch changed; sets hold names, lists hold new rows in order."""

    accounts: set[str] = field(default_factory=set)
    holds: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    rows: list[Row] = field(default_factory=list)
    journal: list[Written] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    def __bool__(self) -> bool:
        changed = self.accounts or self.holds or self.runs or self.rows or self.journal or self.findings or self.texts
        return bool(changed)


Indexed = tuple[str, str | None, str | None, str | None]


def indexed_of(run: Run) -> Indexed:
    """What of a run is looked for by more than its key, and seldom changes."""
    return run.state, run.parent, run.agent, run.user


_encode = msgspec.msgpack.Encoder().encode


class Book:
    """State that the functions of `ledger` and `runs` work on. Reads go to the shelf when the book has no such row."""

    def __init__(self, instance: str, shelf: Shelf | None = None, line: Line | None = None) -> None:
        self.instance = instance
        self.accounts: dict[str, Account] = {}
        self.holds: dict[str, Hold] = {}
        self.runs: dict[str, Run] = {}
        self.indexed: dict[str, Indexed] = {}  # of runs: what the shelf has in its indexes
        self.shelf: Shelf = shelf or BookShelf(self)
        self.absent: set[str] = set()  # holds that the shelf is known not to have, as long as nobody else may write
        self.line = line or Line()
        self.dirty = Dirty()
        self.answers: list[tuple[str, Reservation | Denied]] = []  # what became of orders that had waited
        self.windows: dict[Calendar, Window] = {}  # the latest window of each calendar; there are as many as budgets
        self.marks: dict[str, tuple[Mark, ...]] = {}  # thresholds of accounts, as their latest charge told them

    def account(self, name: str) -> Account:
        """The account of that name; an unknown one is empty, open, and is written only once it changes."""
        found = self.accounts.get(name)
        if found is None:
            found = self.accounts[name] = self.shelf.account(name) or Account(name)
        return found

    def hold(self, hold_id: str) -> Hold | None:
        """The reservation of that id, ended ones too."""
        found = self.holds.get(hold_id)
        if found is None and hold_id not in self.absent:
            found = self.shelf.hold(hold_id)
            if found is not None:
                self.holds[hold_id] = found
        return found

    def run(self, key: str) -> Run | None:
        """The run of that key."""
        found = self.runs.get(key)
        if found is None:
            found = self.shelf.run(key)
            if found is not None:
                self.keep_run(found)
        return found

    def keep_run(self, run: Run) -> None:
        """Takes a run in mind as it stands on the shelf."""
        self.runs[run.key] = run
        self.indexed[run.key] = indexed_of(run)

    def write(self, at: float, kind: str, run: str, call_id: str | None, data: object) -> None:
        """Appends to the journal. Encoded at once: the caller's object may change later."""
        try:
            text = _encode(data)
        except (OverflowError, UnicodeEncodeError):  # a provider's wild number, half a surrogate: the rest still counts
            text = _encode(_tamed(msgspec.to_builtins(data)))
        self.dirty.journal.append(Written(at, kind, run, call_id, text))

    def take_dirty(self) -> Dirty:
        """What changed since the last call."""
        taken, self.dirty = self.dirty, Dirty()
        return taken

    def take_answers(self) -> list[tuple[str, Reservation | Denied]]:
        """Orders whose wait has ended since the last call."""
        taken, self.answers = self.answers, []
        return taken

    def trim(self, most: int) -> None:
        """Lets rows at rest go once there are more than `most` of a kind; only right when all is written."""
        self.absent.clear()
        if len(self.holds) > most:
            self.holds = {key: hold for key, hold in self.holds.items() if hold.state == HELD}
            if len(self.holds) > most // 2:
                self.holds.clear()
        if len(self.accounts) > most:
            self.accounts.clear()
        if len(self.marks) > most:  # where others write, too, accounts are dropped long before they are so many
            self.marks.clear()
        if len(self.runs) > most:
            self.runs.clear()
            self.indexed.clear()

    def drop(self) -> None:
        """Forgets all rows (they stand on the shelf) and whatever was changed but not written."""
        self.accounts.clear()
        self.holds.clear()
        self.runs.clear()
        self.indexed.clear()
        self.absent.clear()
        self.dirty = Dirty()
        self.answers = []


def whole(text: str) -> str:
    """The same text without half surrogates, which no file can hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _tamed(value: object) -> object:
    """The same with every number cut to 64 bits and every text made whole."""
    if isinstance(value, dict):
        return {_tamed(key): _tamed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tamed(item) for item in value]
    if isinstance(value, str):
        return whole(value)
    return max(-(2**63), min(2**64 - 1, value)) if type(value) is int else value


class BookShelf:
    """The shelf of a book that has everything in mind: nothing behind it, questions answered by looking through."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def account(self, _name: str, /) -> Account | None:
        return None

    def hold(self, _hold_id: str, /) -> Hold | None:
        return None

    def run(self, _key: str, /) -> Run | None:
        return None

    def due(self, now: float, limit: int) -> list[str]:
        return sorted(h.id for h in self._held() if h.deadline_at < now)[:limit]

    def held_by(self, instance: str, limit: int) -> list[str]:
        return sorted(h.id for h in self._held() if h.instance == instance)[:limit]

    def idle(self, before: float, limit: int) -> list[str]:
        runs = self._book.runs.values()
        busy = {r.parent for r in runs if r.state == "active"}
        busy.update(hold.run for hold in self._held())
        return sorted(r.key for r in runs if r.state == "active" and r.last_at < before and r.key not in busy)[:limit]

    def below(self, run: str) -> list[str]:
        found = {run}
        while more := {r.key for r in self._book.runs.values() if r.parent in found} - found:
            found |= more
        return sorted(found - {run})

    def _held(self) -> list[Hold]:
        return [hold for hold in self._book.holds.values() if hold.state == HELD]

    def presumed(self, response_id: str, tenant: str) -> str | None:
        for hold in self._book.holds.values():
            if hold.state == PRESUMED and hold.response_id == response_id and hold.tenant == tenant:
                return hold.id
        return None

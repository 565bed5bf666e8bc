"""One random life of a ledger: memory, SQLite in one process or two, and a bookkeeper are told the same.

Invariant: every step is decided by the dice alone, so a life can be told again; after each step answers and balances
are equal everywhere and I1 to I9 hold. A crash is a process whose locks are free, or a copy of the files. What never
enters: real time, a thread, a second source of chance.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs

from gateway.core.errors import StoreFailed
from gateway.core.ledger import settle
from gateway.core.ledger.book import Account
from gateway.core.ledger.schema import account_from
from gateway.core.types import Balance, CostSource, Denied, Exchange, Order, Reservation, Settled, ToolCall, Usage
from tests.fakes import FakeClock
from tests.ledgers import exchange, killed
from tests.properties.bookkeeper import Bookkeeper
from tests.properties.inline import WAITS, Asked, InlineFile, InlineMemory
from tests.properties.limits import Full
from tests.properties.purses import CAPPABLE, GATES, MARKED, order_of

T = TypeVar("T")

SHM = Path("/dev/shm")
STEP_BYTES = 12
IDLE_S = 100.0
MOST_SWEEPS = 6  # what is held ends first, then idle runs, a parent after its child, and a sweep that finds none
START_AT = 1_792_886_400.0  # 2026-10-25 00:00 UTC: an hour before clocks are set back in Berlin
JUMPS = (1, 15, 40, 200, 3000, -50)


_SOURCES: tuple[CostSource, ...] = ("price_list", "price_list", "refused", "presumed", "no_usage")


class Dice:
    """Chance as one number, thrown until it is used up."""

    def __init__(self, thrown: bytes) -> None:
        self._left = int.from_bytes(thrown, "little")

    def below(self, sides: int) -> int:
        self._left, got = divmod(self._left, sides)
        return got

    def pick(self, some: Sequence[T]) -> T:
        return some[self.below(len(some))]


class Waiting:
    """A call that stands in line."""

    def __init__(self, order: Order, asked: tuple[Asked, Asked], which: int, full: Full) -> None:
        self.order, self.asked, self.which, self.full = order, asked, which, full


class Life:
    """Both stores and the bookkeeper, asked the same."""

    def __init__(self, processes: int) -> None:
        # in memory where there is such a place: a crash opens the file anew, and fsync is not what is tested
        self.folder = tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None)
        self.clock = FakeClock(START_AT)
        self.lives = 0
        self.memory = InlineMemory(self.clock.now, IDLE_S)
        self.books = Bookkeeper()
        # Of several processes each has had orders before: which of them heard of a threshold through whom that waited
        # there is nothing that memory could play.
        self.heard = MARKED if processes > 1 else {}
        first = Path(self.folder.name) / "life0"
        shutil.copytree(empty(), first)
        self.files = [self.opened(first)]
        self.files += [self.opened(first) for _ in range(processes - 1)]
        self.marks: dict[str, Any] = {}  # instance -> thresholds that this process knows of
        self.calls: list[str] = []
        self.orders: dict[str, Order] = {}
        self.waiting: dict[str, Waiting] = {}
        self.steps = 0

    def opened(self, folder: Path) -> InlineFile:
        file = InlineFile(folder / "ledger.db", self.clock, idle_s=IDLE_S)
        file._window.book.marks.update(self.heard)
        return file

    def end(self) -> None:
        self.send_home()
        for file in self.files:
            file.finish()
        self.folder.cleanup()

    def step(self, dice: Dice) -> None:
        """One event, whatever the dice say."""
        self.steps += 1
        word = dice.pick(_WORDS)
        word(self, dice)

    # ------------------------------------------------------------- how all are asked

    @property
    def now(self) -> float:
        return self.memory._last

    def become(self, which: int) -> InlineFile:
        """The process that acts from now on; memory plays it too."""
        file = self.files[which % len(self.files)]
        book = self.memory.book
        book.instance = file.instance
        book.marks = self.marks.setdefault(file.instance, dict(self.heard))
        return file

    def ask(self, which: int, name: str, *args: Any) -> Any:
        """The same question to both; the answers must be equal. An Exchange is copied: stores write into it."""
        file = self.become(which)
        answers = []
        for store in (file, self.memory):
            told = [copied(arg) if isinstance(arg, Exchange) else arg for arg in args]
            got = Asked(getattr(store, name)(*told)).answer()
            answers.append((got, [arg for arg in told if isinstance(arg, Exchange)]))
            self.memory._last = file._time
        theirs, ours = answers
        assert self.same(ours[0], theirs[0]) and ours[1] == theirs[1], (name, ours, theirs)
        return ours[0]

    def same(self, ours: Any, theirs: Any) -> bool:
        """Are these answers equal? Where others wait in another process, they are served a moment later: then a settle
        shows balances of before, and of several accounts that refuse by now another one may be named."""
        if isinstance(ours, Exception):
            return str(ours) == str(theirs)
        if len(self.files) > 1 and self.waiting:
            if isinstance(ours, Settled) and isinstance(theirs, Settled):
                return structs.replace(ours, balances=()) == structs.replace(theirs, balances=())
            if isinstance(ours, Denied) and isinstance(theirs, Denied):
                return True
            if isinstance(ours, Balance) and isinstance(theirs, Balance):
                return ours.account == theirs.account
            if isinstance(ours, Reservation) and isinstance(theirs, Reservation):
                return (ours.id, ours.granted) == (theirs.id, theirs.granted)
        return bool(ours == theirs)

    def look_around(self, file: InlineFile) -> None:
        """After every step: who waited hears the same, the accounts are equal, the invariants hold."""
        self.turn()
        book = self.memory.book
        for name, account in self.accounts_of(file).items():
            assert book.accounts.get(name, Account(name)) == account, name
        assert [] == self.memory.audit()
        for name, account in book.accounts.items():
            assert self.books.sums(name) == (account.spent, account.held), name

    def accounts_of(self, file: InlineFile) -> dict[str, Account]:
        """As this process has them in mind; where another one may have written since, as they lie in the file."""
        if len(self.files) == 1:
            return file._window.book.accounts
        return {row[0]: account_from(row) for row in file._connection.execute("SELECT * FROM account")}

    def turn(self) -> None:
        """Every process looks whether others made room; who waited hears it."""
        for file in self.files if self.waiting else ():
            file.turn()
        self.hear()

    def hear(self) -> None:
        heard = []
        for call, waiting in list(self.waiting.items()):
            ours, theirs = (asked.answer() for asked in waiting.asked)
            assert self.same(ours, theirs), (call, ours, theirs)
            if ours is not WAITS:
                del self.waiting[call]
                heard.append((waiting, ours))
        for waiting, answer in heard:
            if isinstance(answer, Reservation):
                instance = self.files[waiting.which % len(self.files)].instance
                self.memory.book.holds[answer.id].instance = instance
                self.books.granted(waiting.order, answer, self.now, instance, waiting.full)

    # ------------------------------------------------------------- words

    def rest(self, dice: Dice) -> None:
        """Nothing happens: what a life is made of that is made small."""

    def reserve(self, dice: Dice) -> None:
        which = dice.below(2)
        if self.calls and dice.below(8) == 0:  # the same once more: its answer was lost
            call = dice.pick(self.calls[-4:])
            if call in self.waiting:
                return
            order = self.orders[call]
        else:
            call = f"c{len(self.calls):03}"
            self.calls.append(call)
            order = order_of(call, dice, self.clock.at, len(self.files))
            if len(self.files) > 1 and self.waiting:  # of several that wait in several processes any may go first
                order = structs.replace(order, wait_s=0.0)
            self.orders[call] = order
        file = self.become(which)
        theirs = Asked(file.reserve(order))
        self.memory._last = file._time  # instants at which nothing was written are known to one process alone
        asked = (Asked(self.memory.reserve(order)), theirs)
        now, known = self.now, order.id in self.books.kept
        self.books.limits.met(order, now)
        answers = [one.answer() for one in asked]
        assert self.same(*answers), answers
        answer = answers[0]
        if isinstance(answer, StoreFailed):  # it was settled before it was granted: that row has no accounts
            assert not known and order.id in self.memory.book.holds, answer
            return
        if not known and not (isinstance(answer, Denied) and answer.reason == "stale"):
            self.books.limits.looked(order, now)
        if answer is WAITS:
            self.waiting[call] = Waiting(order, asked, which, self.books.limits.in_full(order, now))
        elif isinstance(answer, Reservation):
            self.books.granted(order, answer, now, file.instance)
        else:
            assert isinstance(answer, Denied), answer
        self.look_around(file)

    def settle(self, dice: Dice) -> None:
        if not self.calls:
            return self.settle_without_a_hold(dice)
        which, call, cost = dice.below(2), dice.pick(self.calls[-8:]), dice.below(501)
        source: CostSource = dice.pick(_SOURCES)
        if call in self.waiting:
            return None
        run = self.orders[call].run.key
        known = None if source in {"presumed", "no_usage"} else 0 if source == "refused" else cost
        tools = [ToolCall(f"t{number}", "f") for number in range(dice.below(4) if source == "price_list" else 0)]
        told = exchange(
            call, known, source, run=run, response_id=f"resp-{call}", tool_calls=tools,
            usage=Usage(input_tokens=cost, output_tokens=dice.below(100)),
        )  # fmt: skip
        actual: dict[str, int] | None = None
        if source == "price_list":
            assert told.usage is not None
            actual = {"nusd": cost, "tokens": cost + (told.usage.output_tokens or 0), "tool_calls": len(tools)}
        elif source == "refused" and dice.below(2):
            actual = {"calls": 1}
        settled = self.ask(which, "settle", f"{call}/1", actual, told)
        assert isinstance(settled, Settled)
        self.books.settled(f"{call}/1", actual, told, known, self.now)
        self.look_around(self.become(which))
        return None

    def settle_without_a_hold(self, dice: Dice) -> None:
        which, number = dice.below(2), dice.below(6)
        self.ask(which, "settle", None, None, exchange(f"free{number}", 0, "refused"))
        self.look_around(self.become(which))

    def adjust(self, dice: Dice) -> None:
        which, amount, unit = dice.below(2), dice.below(501), dice.pick(("nusd", "nusd", "tokens"))
        if self.calls:
            call = f"{dice.pick(self.calls[-8:])}/1"
            if self.ask(which, "adjust", call, unit, amount):
                self.books.adjusted(call, unit, amount)
            self.look_around(self.become(which))

    def end_quietly(self, dice: Dice) -> None:
        which, word = dice.below(2), dice.pick(("void", "presume"))
        if self.calls:
            call = f"{dice.pick(self.calls[-8:])}/1"
            self.ask(which, word, call)
            self.books.ended(call, "void" if word == "void" else "presumed", self.now)
            self.look_around(self.become(which))

    def correct(self, dice: Dice) -> None:
        which, delta, number = dice.below(2), dice.below(601) - 300, dice.below(4)
        if self.calls:
            call = f"{dice.pick(self.calls[-8:])}/1"
            self.ask(which, "correct", call, delta, "why", "ops", f"x{number}")
            self.books.corrected(call, delta, f"x{number}")
            self.look_around(self.become(which))

    def true_up(self, dice: Dice) -> None:
        which, cost = dice.below(2), dice.below(501)
        if self.calls:
            response = f"resp-{dice.pick(self.calls[-8:])}"
            told = exchange("look", cost, usage=Usage(input_tokens=1, output_tokens=2))
            got = self.ask(which, "true_up", response, "", told)
            amounts = {"nusd": cost, "tokens": 3, "tool_calls": 0}
            assert (got is not None) == self.books.trued_up(response, amounts, self.now)
            self.look_around(self.become(which))

    def forget(self, dice: Dice) -> None:
        if self.waiting:
            waiting = self.waiting[dice.pick(sorted(self.waiting))]
            file = self.become(waiting.which)
            for store in (file, self.memory):
                store.forget(waiting.order.id)
                self.memory._last = file._time
            self.look_around(file)

    def set_limit(self, dice: Dice) -> None:
        which, account, limit = dice.below(2), dice.pick(CAPPABLE), dice.pick((0, 1, 3, 20, 400, 700, 1500))
        got = self.ask(which, "set_limit", account, limit)
        assert isinstance(got, Balance)
        self.books.limited(got, limit, self.now)
        self.look_around(self.become(which))

    def gate(self, dice: Dice) -> None:
        which, gate, shut = dice.below(2), dice.pick(GATES), dice.below(3) == 0
        self.ask(which, *(("close_account", gate, "why") if shut else ("open_account", gate)))
        self.look_around(self.become(which))

    def end_run(self, dice: Dice) -> None:
        which, run = dice.below(2), dice.pick(("K", "P", "L", "S"))
        state = dice.pick(("ended", "active", "paused", "active", "killed"))
        self.ask(which, "end_run", run, state, None, "because", 0.0)
        self.look_around(self.become(which))

    def pass_time(self, dice: Dice) -> None:
        self.clock.advance(dice.pick(JUMPS))
        self.sweep()

    def sweep(self) -> None:
        """Until nothing is left to sweep; the file sweeps by itself, too, and may be a round ahead."""
        for _ in range(MOST_SWEEPS):
            told = len(self.memory.journal)
            for which, file in enumerate(self.files):
                self.become(which)
                self.memory.shelf.lapsed = lapsed = self.leases_lapsed(file)
                Asked(file.expire(0.0))
                self.memory._last = file._time
                Asked(self.memory.expire(0.0))
                self.books.lost(self.now, lapsed)
                self.memory.shelf.lapsed = frozenset()
            self.turn()
            if len(self.memory.journal) == told:
                break
        else:
            raise AssertionError("a sweep always finds something")
        self.look_around(file)

    def leases_lapsed(self, file: InlineFile) -> frozenset[str]:
        """Who else has not renewed his lease at this instant, as the file says."""
        now = max(self.now, self.clock.at)
        rows = file._connection.execute("SELECT id FROM instance WHERE lease_until < ?", (now,)).fetchall()
        return frozenset(row[0] for row in rows) - {file.instance}

    # ------------------------------------------------------------- crashes

    def crash(self, dice: Dice) -> None:
        """A process is killed between two commits; another one finds its lock free, and charges what it held."""
        which, copies = dice.below(len(self.files)), dice.below(2)
        if self.lives == 3:
            return
        self.lives += 1
        dead = self.files[which]
        if any(waiting.which % len(self.files) == which for waiting in self.waiting.values()):
            self.send_home()  # who waits dies with his process; of two processes only one has somebody who waits
        if copies and len(self.files) == 1:
            left = killed(dead.path.parent, Path(self.folder.name) / f"life{self.lives}")
            dead.finish()
        else:
            left = dead.path.parent
            dead.die()
        self.files[which] = file = self.opened(left)
        known = self.marks[file.instance] = {}  # it charged what was lost before it heard of any threshold
        self.become(which)
        self.memory._last = file._time
        while Asked(self.memory.ask_to(settle.bury, dead.instance)).answer():
            continue
        known.update(self.heard)
        self.books.lost(self.now, frozenset({dead.instance}), late=False)
        self.sweep()
        self.look_at_the_file(dice)

    def send_home(self) -> None:
        """Nobody waits any more, all in the same instant, and nobody is asked on their way out."""
        for waiting in self.waiting.values():
            for asked in waiting.asked:
                asked.leave()
        self.waiting.clear()
        self.memory._window.send_home()

    def look_at_the_file(self, _dice: Dice) -> None:
        """What lies on disk is what memory has, account by account, run by run, row by row, and it sums up."""
        file = self.files[0]
        assert [] == file.audit()
        reading, known = file.reading(), self.memory.reading()
        for name in self.memory.book.accounts:
            assert known.account(name) == reading.account(name) or reading.account(name) is None, name
        for run in self.memory.book.runs:
            assert known.get_run(run) == reading.get_run(run)
            assert known.calls(run) == reading.calls(run)
        ours, theirs = (
            [(e.at, e.kind, e.run, e.call_id or "") for e in one.entries(0, None, 10_000)] for one in (known, reading)
        )
        if len(self.files) > 1:  # who waits in another process is let go in a batch of that, a moment after the settle
            ours, theirs = sorted(ours), sorted(theirs)
        assert ours == theirs


@cache
def empty() -> Path:
    """A folder with a ledger in which nothing has happened; it lasts as long as the process."""
    folder = Path(tempfile.mkdtemp(dir=SHM if SHM.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    clock = FakeClock(0.0)
    InlineFile(folder / "ledger.db", clock).finish()
    return folder


def copied(told: Exchange) -> Exchange:
    """A copy that a store may write into."""
    return exchange(
        told.call_id, told.cost_nusd, told.cost_source, run=told.run, response_id=told.response_id, usage=told.usage,
        tool_calls=told.tool_calls,
    )  # fmt: skip


# how often each word is said: by its place in this list
_WORDS: tuple[Callable[[Life, Dice], None], ...] = (
    Life.rest, *[Life.reserve] * 8, *[Life.settle] * 7, *[Life.adjust] * 2, *[Life.end_quietly] * 2,
    Life.correct, Life.correct,
    Life.true_up, Life.true_up, Life.forget, Life.set_limit, Life.set_limit, Life.gate, Life.end_run,
    *[Life.pass_time] * 3, Life.settle_without_a_hold, Life.crash, Life.look_at_the_file,
)  # fmt: skip


def live(processes: int, steps: Sequence[bytes], said: Callable[[str], None]) -> Life:
    """A whole life. Tells `said` what it has been through if something is wrong."""
    life = Life(processes)
    try:
        for number, thrown in enumerate(steps):
            try:
                life.step(Dice(thrown))
            except BaseException:
                said(f"step {number} of {len(steps)}: {_WORDS[Dice(thrown).below(len(_WORDS))].__name__}")
                raise
    finally:
        life.end()
    return life

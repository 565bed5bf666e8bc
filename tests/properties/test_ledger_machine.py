"""Any order of events: memory and SQLite give the same answers, and the invariants hold after every step.

Invariant: one machine drives both stores with the same words (ledger.md section 13, 1); a crash is a copy of SQLite's
files and, in memory, the end of everything that instance held. What never enters: real time, a second clock.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gateway.core.ledger import engine
from gateway.core.ledger import settle as ends
from gateway.core.ledger.book import Account
from gateway.core.ledger.desk import Op, tell
from gateway.core.types import Charge, Exchange, Order, RunFacts, Usage
from gateway.stores.memory import MemoryStore
from gateway.stores.sqlite import SqliteStore
from tests.fakes import FakeClock
from tests.ledgers import exchange, killed

LIMITS = {"run/K/nusd": 400, "run/P/nusd": 1000, "agent/a/nusd": None, "run/P/calls": 8}
RUNS = {"K": ("run/K/nusd", "run/P/nusd"), "P": ("run/P/nusd", "run/P/calls"), "S": ("agent/a/nusd", "run/P/nusd")}
AMOUNTS = st.integers(0, 500)
SHM = Path("/dev/shm")
LONG = bool(os.environ.get("METERBOX_TEST_LONG"))


class Inline(SqliteStore):
    """The same store without its thread: each operation is a batch of its own, carried out where it is asked.

    tests/stores/sqlite/test_store.py has the thread; here nothing may depend on when it gets its turn.
    """

    async def open(self) -> None:
        self._begin()
        self._why, self._open = None, True

    async def close(self) -> None:
        self._finish()
        for connection in self._readers:
            connection.close()

    def ask(self, act: Callable[..., Any], *args: Any, kept: bool = False) -> Awaitable[Any]:
        reply = asyncio.get_running_loop().create_future()
        self._turn([Op(act, args, reply, kept)])
        return reply

    def within(self, reply: Awaitable[Any], seconds: float, instead: Any) -> Awaitable[Any]:
        return reply

    def forget(self, order_id: str) -> None:
        self._turn([Op(engine.forget, (order_id,), None, False)])

    def _tell(self, done: list[tuple[Any, Any]]) -> None:
        tell(done)


class Ledgers(RuleBasedStateMachine):
    """Both stores, asked the same."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        # in memory where there is such a place: a crash opens the file anew, and fsync is not what is tested
        self.folder = tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None)
        self.lives = 0
        self.clock = FakeClock()
        self.calls: list[str] = []
        self.waiting: dict[str, tuple[asyncio.Task[Any], asyncio.Task[Any]]] = {}
        self.memory = MemoryStore(self.clock.now, idle_s=100, instance="ins_000001")
        self.file = self._opened(Path(self.folder.name) / "life0")
        self.memory._last = self.file._time

    def _opened(self, folder: Path) -> SqliteStore:
        store = Inline(folder / "ledger.db", self.clock.now, self.clock.new_id, idle_s=100)
        self.loop.run_until_complete(store.open())
        return store

    def teardown(self) -> None:
        try:
            self.send_home()
            self.loop.run_until_complete(self.memory.close())
            self.loop.run_until_complete(self.file.close())
        finally:
            self.loop.close()
            self.folder.cleanup()

    # ------------------------------------------------------------- how both are asked

    def both(self, name: str, *args: Any) -> Any:
        """The same question to both; the answers must be equal. An Exchange is copied: stores write into it."""

        async def ask() -> tuple[Any, Any]:
            answers = []
            for store in (self.memory, self.file):
                told = [copied(arg) for arg in args]
                answers.append((await getattr(store, name)(*told), [arg for arg in told if isinstance(arg, Exchange)]))
            for _ in range(4):
                await asyncio.sleep(0)
            return answers[0], answers[1]

        ours, theirs = self.loop.run_until_complete(ask())
        assert ours == theirs, name
        self.compare()
        return ours[0]

    def compare(self) -> None:
        for call, (ours, theirs) in list(self.waiting.items()):
            assert ours.done() == theirs.done(), call
            if ours.done():
                assert ours.result() == theirs.result()
                del self.waiting[call]
        book = self.memory.book
        for name, account in self.file._window.book.accounts.items():
            assert book.accounts.get(name, Account(name)) == account
        assert [] == self.memory.audit()

    def send_home(self) -> None:
        """Those who wait die with their process."""
        tasks = [task for pair in self.waiting.values() for task in pair]
        for task in tasks:
            task.cancel()
        self.waiting.clear()
        self.memory._window.send_home()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))

    # ------------------------------------------------------------- events

    @rule(
        run=st.sampled_from(sorted(RUNS)), sizes=st.tuples(AMOUNTS, AMOUNTS), share=st.booleans(),
        patient=st.booleans(), lower=st.none() | AMOUNTS, short=st.booleans(),
    )  # fmt: skip
    def reserve(
        self, run: str, sizes: tuple[int, int], share: bool, patient: bool, lower: int | None, short: bool
    ) -> None:
        call = f"c{len(self.calls):03}"
        self.calls.append(call)
        charges = []
        for account in RUNS[run]:
            unit = account.split("/")[2]
            size = (1, 1) if unit == "calls" else (max(sizes), min(sizes))
            cap = lower if account == RUNS[run][0] and lower is not None and lower > 300 else None
            charges.append(Charge(account, unit, *size, LIMITS[account], 2000 if short else None, cap, share))  # type: ignore[arg-type]
        facts = RunFacts(run, run, "", "header", parent="P" if run == "K" else None)
        order = Order(
            f"{call}/1", call, facts, tuple(charges), 0.0, self.clock.at + (20 if short else 1e6),
            30.0 if patient else 0.0, (f"run/{run}", "global"),
        )  # fmt: skip
        self.place(call, order)

    def place(self, call: str, order: Order) -> None:
        async def ask() -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        pair = [self.loop.create_task(store.reserve(order)) for store in (self.memory, self.file)]
        self.waiting[call] = (pair[0], pair[1])
        self.loop.run_until_complete(ask())
        self.compare()

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), cost=AMOUNTS, source=st.sampled_from(["price_list", "refused", "presumed", "no_usage"]))
    def settle(self, data: st.DataObject, cost: int, source: Any) -> None:
        call = data.draw(st.sampled_from(self.calls[-8:]))
        if call in self.waiting:
            return
        known = None if source in {"presumed", "no_usage"} else 0 if source == "refused" else cost
        told = exchange(call, known, source, response_id=f"resp-{call}", usage=Usage(input_tokens=cost))
        self.both("settle", f"{call}/1", {"nusd": cost} if source == "price_list" else None, told)

    @rule(number=st.integers(0, 5))
    def settle_without_a_hold(self, number: int) -> None:
        self.both("settle", None, None, exchange(f"free{number}", 0, "refused"))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), amount=AMOUNTS)
    def adjust(self, data: st.DataObject, amount: int) -> None:
        self.both("adjust", f"{data.draw(st.sampled_from(self.calls[-8:]))}/1", "nusd", amount)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), word=st.sampled_from(["void", "presume"]))
    def end_quietly(self, data: st.DataObject, word: str) -> None:
        self.both(word, f"{data.draw(st.sampled_from(self.calls[-8:]))}/1")

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), delta=st.integers(-300, 300), number=st.integers(0, 3))
    def correct(self, data: st.DataObject, delta: int, number: int) -> None:
        call = data.draw(st.sampled_from(self.calls[-8:]))
        self.both("correct", f"{call}/1", delta, "why", "ops", f"x{number}")

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), cost=AMOUNTS)
    def true_up(self, data: st.DataObject, cost: int) -> None:
        call = data.draw(st.sampled_from(self.calls[-8:]))
        self.both("true_up", f"resp-{call}", "", exchange("look", cost, usage=Usage(input_tokens=1)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.waiting)))

        async def leave() -> None:
            for store in (self.memory, self.file):
                store.forget(f"{call}/1")

        self.loop.run_until_complete(leave())
        self.both("run", "nobody")

    @rule(account=st.sampled_from(sorted(LIMITS)), limit=st.integers(0, 1500))
    def set_limit(self, account: str, limit: int) -> None:
        self.both("set_limit", account, limit)

    @rule(gate=st.sampled_from(["global", "run/P", "run/K/nusd"]), shut=st.booleans())
    def gate(self, gate: str, shut: bool) -> None:
        self.both(*(("close_account", gate, "why") if shut else ("open_account", gate)))

    @rule(run=st.sampled_from(sorted(RUNS)), state=st.sampled_from(["ended", "killed", "active", "paused"]))
    def end_run(self, run: str, state: str) -> None:
        self.both("end_run", run, state, None, "because", 0.0)

    @rule(seconds=st.sampled_from([1, 15, 40, 200, -50]))
    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.sweep()

    def sweep(self) -> None:
        """Until nothing is left to sweep: a parent goes idle after its child, and the file sweeps by itself."""

        async def both() -> None:
            for store in (self.memory, self.file):
                for _ in range(3):
                    await store.expire(0.0)
            for _ in range(4):
                await asyncio.sleep(0)

        self.loop.run_until_complete(both())
        self.compare()

    @precondition(lambda self: self.lives < 2)
    @rule()
    def crash(self) -> None:
        self.send_home()
        self.lives += 1
        left = killed(self.file.path.parent, Path(self.folder.name) / f"life{self.lives}")
        self.loop.run_until_complete(self.file.close())
        self.file = self._opened(left)
        assert self.file._time <= self.memory._last
        self.memory._last = self.file._time  # instants at which nothing was written may be forgotten

        async def bury() -> None:
            while await self.memory.ask(ends.bury, "ins_000001"):
                continue

        self.loop.run_until_complete(bury())
        self.sweep()
        self.look_at_the_file()

    @rule()
    def look_at_the_file(self) -> None:
        """What lies on disk is what memory has, run by run, row by row, and it sums up."""
        assert [] == self.file.audit()
        reading, known = self.file.reading(), self.memory.reading()
        for account in LIMITS:
            assert known.account(account) == reading.account(account)
        for run in RUNS:
            assert known.get_run(run) == reading.get_run(run)
            assert known.calls(run) == reading.calls(run)
        ours = [(e.seq, e.at, e.kind, e.run, e.call_id) for e in known.entries(0, None, 10_000)]
        assert ours == [(e.seq, e.at, e.kind, e.run, e.call_id) for e in reading.entries(0, None, 10_000)]


def copied(value: Any) -> Any:
    """A copy of what a store may write into."""
    return (
        exchange(value.call_id, value.cost_nusd, value.cost_source, response_id=value.response_id, usage=value.usage)
        if isinstance(value, Exchange)
        else value
    )


TestLedgers = Ledgers.TestCase
TestLedgers.settings = settings(
    max_examples=2_000 if LONG else 200, stateful_step_count=50, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip

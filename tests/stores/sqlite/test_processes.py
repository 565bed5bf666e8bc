"""Several processes on one ledger: one line, one time, and nobody left behind who died (ledger.md section 7, ADR 0002).

Invariant: two stores in one process share nothing but the file, as two processes do; where a process must die or be
stuck, or many must start at once, it is a real one.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from gateway.core.ledger import schema
from gateway.core.types import Denied, Order, Reservation
from gateway.stores.sqlite import SqliteStore
from tests.fakes import FakeClock
from tests.ledgers import balance, charge, exchange, opened, order, spend, sqlite

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@asynccontextmanager
async def two(folder: Path, clock: FakeClock) -> AsyncIterator[tuple[SqliteStore, SqliteStore]]:
    """Two stores on one file."""
    async with opened(sqlite(folder, clock)) as one, opened(sqlite(folder, clock)) as other:
        yield one, other


async def parked(store: SqliteStore, asked: Order) -> asyncio.Task[Reservation | Denied]:
    """An order that stands in line by now."""
    task = asyncio.ensure_future(store.reserve(asked))
    await asyncio.sleep(0)
    await store.run("R")
    assert not task.done()
    return task


def patient(call: str, want: int, *more: Any, **rest: Any) -> Order:
    """An order that waits up to 30 s without progress."""
    return order(call, charge(want=want), *more, wait_s=30.0, **rest)


async def told(task: asyncio.Task[Reservation | Denied]) -> Reservation | Denied:
    """Its answer, soon."""
    return await asyncio.wait_for(task, 5)


def settled(store: SqliteStore, call: str, cost: int) -> Any:
    return store.settle(f"{call}/1", {"nusd": cost}, exchange(call, cost))


# --------------------------------------------------------------------------- one line


async def test_nobody_overtakes_who_waits_in_another_process(tmp_path: Path, clock: FakeClock) -> None:
    """What would fit waits behind what came first elsewhere; both go when a third process makes room."""
    async with two(tmp_path, clock) as (one, other):
        await one.reserve(order("c1", charge(want=900)))
        big = await parked(other, patient("big", 500))
        small = await parked(one, patient("small", 50))
        hasty = await one.reserve(order("hasty", charge(want=50)))
        assert isinstance(hasty, Denied) and "limit" == hasty.reason
        await settled(one, "c1", 10)
        answers = await told(big), await told(small)
        assert [Reservation, Reservation] == [type(answer) for answer in answers]
        assert [] == one.audit()
        rows = sqlite3.connect(one.path)
        assert [] == rows.execute("SELECT * FROM parked").fetchall()
        rows.close()


async def test_turns_are_in_order_over_processes(tmp_path: Path, clock: FakeClock) -> None:
    """Whoever came first goes first, wherever he stands: one settle after the other lets exactly one go."""
    async with two(tmp_path, clock) as (one, other):
        for number in range(4):
            await one.reserve(order(f"h{number}", charge(want=250)))
        waits = [await parked((one, other, other, one)[number], patient(f"w{number}", 250)) for number in range(4)]
        for number in range(4):
            await settled((other, one)[number % 2], f"h{number}", 0)
            assert isinstance(await told(waits[number]), Reservation)
            assert [False] * (3 - number) == [task.done() for task in waits[number + 1 :]]


async def test_who_waits_elsewhere_is_counted_when_it_is_shared(tmp_path: Path, clock: FakeClock) -> None:
    """1/w of what is free, w being all who wait or are in flight on the account."""
    async with two(tmp_path, clock) as (one, other):
        await one.reserve(order("c1", charge(want=700), charge("run/P/nusd", 700, limit=1300)))
        waits = await parked(other, order("c2", charge(want=400), charge("run/P/nusd", 400, limit=1300), wait_s=30.0))
        got = await one.reserve(order("c3", charge("run/P/nusd", 600, 1, limit=1300, share=True)))
        assert isinstance(got, Reservation)
        assert {"nusd": 200} == got.granted
        await settled(one, "c1", 0)
        assert isinstance(await told(waits), Reservation)


async def test_a_settle_elsewhere_that_spends_all_ends_the_wait(tmp_path: Path, clock: FakeClock) -> None:
    """Spent alone makes it hopeless: it is told at once."""
    async with two(tmp_path, clock) as (one, other):
        await one.reserve(order("c1", charge(want=900)))
        waits = await parked(other, patient("c2", 500))
        await settled(one, "c1", 800)
        answer = await told(waits)
        assert isinstance(answer, Denied) and ("limit", 800) == (answer.reason, answer.balance and answer.balance.spent)


async def test_housekeeping_does_not_keep_news_from_who_waits(tmp_path: Path, clock: FakeClock) -> None:
    """Room that was made just before a chore ran is seen, though the chore's transaction saw it first."""
    async with two(tmp_path, clock) as (one, other):
        await one.reserve(order("c1", charge(want=900)))
        waits = await parked(other, patient("c2", 500))
        turn, at_chores, may_go = other._turn, threading.Event(), threading.Event()

        def stopped(ops: list[Any]) -> None:
            turn(ops)
            at_chores.set()
            may_go.wait(5)

        other._turn = stopped  # type: ignore[method-assign]  # the thread stands between a batch and its chores
        await asyncio.to_thread(at_chores.wait, 5)
        await settled(one, "c1", 0)
        other.chores.append(lambda _execute, _now: False)
        may_go.set()
        assert isinstance(await told(waits), Reservation)


async def test_a_process_that_was_stopped_keeps_its_places_in_line(tmp_path: Path, clock: FakeClock) -> None:
    """Its lease ended, so others went on; when it is there again, who comes now stands behind."""
    async with two(tmp_path, clock) as (one, other):
        await other.reserve(order("c1", charge(want=900)))
        first = await parked(one, order("c2", charge(want=500), wait_s=1e6))
        turn, stopped, may_go = one._turn, threading.Event(), threading.Event()

        def stands(ops: list[Any]) -> None:
            stopped.set()
            may_go.wait(5)
            turn(ops)

        one._turn = stands  # type: ignore[method-assign]  # SIGSTOP of one thread
        await asyncio.to_thread(stopped.wait, 5)
        clock.advance(40)
        await other.expire(clock.at)
        file = sqlite3.connect(one.path)
        assert [] == file.execute("SELECT * FROM parked").fetchall()
        file.close()
        may_go.set()
        await one.run("R")
        second = await parked(other, order("c3", charge(want=500), wait_s=1e6))
        await settled(other, "c1", 500)
        assert isinstance(await told(first), Reservation)
        assert not second.done()


async def test_a_kill_elsewhere_ends_the_wait(tmp_path: Path, clock: FakeClock) -> None:
    """Wherever in the line it stands."""
    async with two(tmp_path, clock) as (one, other):
        await one.reserve(order("c1", charge(want=900)))
        first = await parked(other, patient("c2", 500))
        second = await parked(other, patient("c3", 500, gates=("run/R", "agent/a")))
        await one.close_account("agent/a", "enough")
        answer = await told(second)
        assert isinstance(answer, Denied) and ("closed", "enough") == (answer.reason, answer.why)
        assert not first.done()


async def test_patience_lasts_as_long_as_others_settle(tmp_path: Path, clock: FakeClock) -> None:
    """30 s without progress end a wait; a settle in another process is progress."""
    async with two(tmp_path, clock) as (one, other):
        await one.reserve(order("c1", charge(want=500)))
        await one.reserve(order("c2", charge(want=400)))
        waits = await parked(other, patient("c3", 900))
        clock.advance(20)
        await settled(one, "c2", 0)
        while other._line._seen["run/R/nusd"][1] != 500:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)
        clock.advance(20)
        assert 0 == await other.expire(clock.at)
        assert not waits.done()
        clock.advance(11)
        answer = await told(waits)
        assert isinstance(answer, Denied) and "limit" == answer.reason


async def test_a_line_costs_nothing_where_nobody_waits(tmp_path: Path, clock: FakeClock) -> None:
    """No statement names the table of those who wait, as long as nobody else writes."""
    async with opened(sqlite(tmp_path, clock)) as store:
        await spend(store, "c0", 1)
        seen: list[str] = []
        store._connection.set_trace_callback(seen.append)
        for number in range(1, 5):
            await spend(store, f"c{number}", 1)
        store._connection.set_trace_callback(None)
        assert seen
        assert [] == [line for line in seen if "parked" in line]


async def test_a_failed_batch_leaves_no_place_in_line_behind(tmp_path: Path, clock: FakeClock) -> None:
    """Those whom a failing store sent home block nobody in other processes."""
    async with two(tmp_path, clock) as (one, other):
        await one.reserve(order("c1", charge(want=900)))
        waits = await parked(other, patient("c2", 500))
        pages = other._connection.execute("PRAGMA page_count").fetchone()[0]
        other._connection.execute(f"PRAGMA max_page_count={pages}")
        big = asyncio.ensure_future(other.settle(None, None, exchange("big", 0, "refused", warning="x" * 100_000)))
        with pytest.raises(Exception, match="full"):
            await told(waits)
        other._connection.execute("PRAGMA max_page_count=1000000")
        await asyncio.wait_for(big, 5)
        assert isinstance(await one.reserve(order("c3", charge(want=50))), Reservation)


# --------------------------------------------------------------------------- one time


async def test_time_is_one_over_processes(tmp_path: Path, clock: FakeClock) -> None:
    """A process whose clock is behind writes no earlier instant than another one did."""
    late = FakeClock(clock.at + 500)
    async with opened(sqlite(tmp_path, clock)) as one, opened(sqlite(tmp_path, late)) as other:
        await spend(other, "c1", 1)
        await spend(one, "c2", 1)
        assert late.at == one.reading().entries(0)[-1].at


# --------------------------------------------------------------------------- life and death


CHILD = """
import asyncio, sys, time
from itertools import count
from pathlib import Path
from gateway.stores.sqlite import SqliteStore
from gateway.core.types import Denied
from tests.ledgers import charge, exchange, order, spend

async def main(path, tag, work):
    ids = count()
    store = SqliteStore(Path(path), time.time, lambda prefix: f"{prefix}-{tag}-{next(ids)}")
    await store.open()
    await globals()[work](store, tag)
    await store.close()

async def holds(store, tag):
    await store.reserve(order(f"{tag}-held", charge(want=900)))
    waits = asyncio.ensure_future(store.reserve(order(f"{tag}-waits", charge(want=500), wait_s=30.0)))
    await asyncio.sleep(0)
    await store.run("R")
    print("ready", flush=True)
    await waits
    await asyncio.Event().wait()

async def pays(store, tag):
    print("ready", flush=True)
    await spend(store, tag, 1)

async def saturates(store, tag):
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    loop, numbers, waits = asyncio.get_running_loop(), count(), []
    ends_at = loop.time() + 2.0
    async def agent():
        while (begun := loop.time()) < ends_at:
            call = f"{tag}-{next(numbers)}"
            await store.reserve(order(call, charge(want=2, limit=10**9)))
            waits.append(loop.time() - begun)
            await store.settle(f"{call}/1", {"nusd": 1}, exchange(call, 1))
    await asyncio.gather(*[agent() for _ in range(16)])
    print(len(waits), sorted(waits)[len(waits) * 99 // 100], flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def child(folder: Path, tag: str, work: str) -> subprocess.Popen[str]:
    """A process with a store of its own."""
    command = [sys.executable, "-c", CHILD, str(folder / "ledger.db"), tag, work]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    """Its next line."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def timed(folder: Path, now: Callable[[], float] = time.time) -> SqliteStore:
    """A store by the clock on the wall, as the children have."""
    ids = count()
    return SqliteStore(folder / "ledger.db", now, lambda prefix: f"{prefix}-parent-{next(ids)}")


async def test_the_living_charge_what_a_dead_process_held(tmp_path: Path) -> None:
    """SIGKILL: without a new start, within a sweep or two, its hold is charged and its place in line is free."""
    async with opened(timed(tmp_path)) as store:
        process = child(tmp_path, "dies", "holds")
        assert "ready" == await asyncio.to_thread(said, process)
        behind = asyncio.ensure_future(store.reserve(patient("behind", 50)))
        await asyncio.sleep(0)
        await store.run("R")
        assert not behind.done()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert isinstance(await told(behind), Reservation)
        assert (900, 50) == balance(store)
        assert [] == list((tmp_path / "ledger.instances").glob("ins-dies*"))
        assert [] == store.audit()


async def test_many_processes_start_at_once(tmp_path: Path) -> None:
    """On an empty folder: one makes the tables, all serve, nobody takes another for dead."""
    children = [child(tmp_path, f"t{number}", "pays") for number in range(6)]
    ends = [await asyncio.to_thread(process.communicate) for process in children]
    assert [("ready\n", 0)] * 6 == [(out, process.returncode) for (out, _), process in zip(ends, children, strict=True)]
    async with opened(timed(tmp_path)) as store:
        assert schema.VERSION == store._connection.execute("PRAGMA user_version").fetchone()[0]
        assert (6, 0) == balance(store)
        assert [] == store.audit()


async def test_saturated_processes_get_equal_shares(tmp_path: Path) -> None:
    """Four processes that reserve and settle as fast as they can: nobody starves, nobody waits for long."""
    children = [child(tmp_path, f"t{number}", "saturates") for number in range(4)]
    for process in children:
        assert "ready" == await asyncio.to_thread(said, process)
    for process in children:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    results = [(await asyncio.to_thread(process.communicate))[0].split() for process in children]
    shares = sorted(int(pairs) for pairs, _ in results)
    assert shares[-1] <= 3 * shares[0], shares
    assert max(float(wait) for _, wait in results) < 1.0, results
    async with opened(timed(tmp_path)) as store:
        assert (sum(shares), 0) == balance(store)
        assert [] == store.audit()


async def test_a_place_that_nobody_stands_for_ends_with_its_lease(tmp_path: Path, clock: FakeClock) -> None:
    """A process that is paused keeps its lock file: its lease says when others go on."""
    async with two(tmp_path, clock) as (one, other):
        with sqlite3.connect(one.path) as file:
            file.execute("INSERT INTO instance VALUES ('paused', ?)", (clock.at + 5,))
            file.execute("INSERT INTO parked VALUES (7, 'run/R/nusd', 'paused', 1)")
        file.close()
        waits = await parked(one, patient("c1", 50))
        clock.advance(11)
        assert isinstance(await told(waits), Reservation)
        assert isinstance(await other.reserve(order("c2", charge(want=50))), Reservation)

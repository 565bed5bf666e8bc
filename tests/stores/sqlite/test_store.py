"""The SQLite store where files, locks, threads and crashes come in (ledger.md sections 7 and 11).

Invariant: what a test calls a kill is either a copy of the files under a living store, or a child process and SIGKILL.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import StoreFailed
from gateway.core.ledger.book import Book
from gateway.core.types import Denied, Exchange, Reservation, Settled, Usage
from gateway.stores.sqlite import SqliteStore
from gateway.stores.sqlite import store as module
from gateway.stores.sqlite.lock import take
from tests.fakes import FakeClock
from tests.ledgers import balance, charge, exchange, failing, killed, opened, order, spend, sqlite

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def big_refusal(number: int) -> Exchange:
    """A call that needs new pages in the file."""
    return exchange(f"c{number}", 0, "refused", warning="x" * 100_000)


# --------------------------------------------------------------------------- crash and restart


async def test_what_was_answered_is_there_after_a_kill(tmp_path: Path, clock: FakeClock) -> None:
    """Settled money stays settled; what was held is charged whole at once, without waiting for the lease (P2, P3)."""
    async with opened(sqlite(tmp_path / "a", clock)) as store:
        await spend(store, "c1", 100)
        await store.reserve(order("c2", charge(want=300), about=("d", "p", "chat", "m", True)))
        after = killed(tmp_path / "a", tmp_path / "b")
        async with opened(sqlite(after, clock)) as again:
            assert (400, 0) == balance(again)
            assert [] == again.audit()
            calls, _ = again.reading().calls("R")
            assert [("c1", 100, "ok"), ("c2", 300, "unknown")] == [(c.call_id, c.cost_nusd, c.outcome) for c in calls]
            late = await again.settle("c2/1", {"nusd": 10}, exchange("c2", 10))
            assert (10, True) == (late.charged, late.late)
            got = await again.reserve(order("c3"))
            assert isinstance(got, Reservation) and 3 == got.step


async def test_a_restart_of_a_restarted_state_changes_nothing(tmp_path: Path, clock: FakeClock) -> None:
    """I9: recovery of a recovered state is a no-op."""
    async with opened(sqlite(tmp_path / "a", clock)) as store:
        await store.reserve(order("c1", charge(want=300)))
        after = killed(tmp_path / "a", tmp_path / "b")
    seen = []
    for _ in range(2):
        async with opened(sqlite(after, clock)) as again:
            seen.append((balance(again), [entry.data for entry in again.reading().entries(0)], again.audit()))
    assert seen[0] == seen[1]
    assert (300, 0) == seen[0][0]


async def test_a_clean_end_leaves_no_hold_and_no_lock(tmp_path: Path, clock: FakeClock) -> None:
    """close writes what is queued, charges what nobody will settle, and takes its lock file away."""
    store = sqlite(tmp_path, clock)
    await store.open()
    asked = [asyncio.ensure_future(store.reserve(order(f"c{n}", charge(want=10)))) for n in range(100)]
    await asyncio.sleep(0)
    await store.close()
    assert 100 == sum(isinstance(task.result(), Reservation) for task in asked)
    assert [] == list((tmp_path / "ledger.instances").glob("*.lock"))
    with pytest.raises(StoreFailed, match="closed"):
        await store.reserve(order("c999"))
    async with opened(sqlite(tmp_path, clock)) as again:
        assert (1000, 0) == balance(again)


async def test_a_living_instance_keeps_its_holds(tmp_path: Path, clock: FakeClock) -> None:
    """A second process on the same file charges nobody who lives, sees what the first wrote, and vice versa."""
    async with opened(sqlite(tmp_path, clock)) as one, opened(sqlite(tmp_path, clock)) as two:
        await one.reserve(order("c1", charge(want=600)))
        assert (0, 600) == balance(two)
        no = await two.reserve(order("c2", charge(want=500)))
        assert isinstance(no, Denied) and no.balance is not None and 600 == no.balance.held
        await two.reserve(order("c3", charge(want=400)))
        assert isinstance(await one.reserve(order("c4", charge(want=1))), Denied)
        await two.settle("c1/1", {"nusd": 5}, exchange("c1", 5))
        assert isinstance(await one.reserve(order("c5", charge(want=595))), Reservation)
        assert [] == one.audit()


async def test_two_stores_race_for_the_last_dollar(tmp_path: Path, clock: FakeClock) -> None:
    """One transaction each: never more than the limit is held, whoever asks."""
    async with opened(sqlite(tmp_path, clock)) as one, opened(sqlite(tmp_path, clock)) as two:
        asked = [(one, two)[n % 2].reserve(order(f"c{n}", charge(want=100))) for n in range(60)]
        answers = await asyncio.gather(*asked)
        assert 10 == sum(isinstance(answer, Reservation) for answer in answers)
        assert (0, 1000) == balance(one) == balance(two)
        assert [] == one.audit()


async def test_an_ended_lease_is_charged_by_whoever_sweeps(tmp_path: Path, clock: FakeClock) -> None:
    """P4: a worker that is paused beyond its lease is presumed by another; its late settle trues up."""
    async with opened(sqlite(tmp_path, clock)) as one, opened(sqlite(tmp_path, clock)) as two:
        await one.reserve(order("c1", charge(want=600)))
        with sqlite3.connect(tmp_path / "ledger.db") as file:
            file.execute("UPDATE instance SET lease_until = ? WHERE id = ?", (clock.at - 1, one.instance))
        file.close()
        assert 1 == await two.expire(clock.at)
        assert (600, 0) == balance(two)
        late = await one.settle("c1/1", {"nusd": 6}, exchange("c1", 6))
        assert (6, True) == (late.charged, late.late)


async def test_a_lease_is_renewed(tmp_path: Path, clock: FakeClock) -> None:
    """Every 10 s for 30 s: who lives is never presumed by age alone."""
    async with opened(sqlite(tmp_path, clock)) as store:
        await store.reserve(order("c1", charge(want=600)))
        for _ in range(10):
            clock.advance(11)
            assert 0 == await store.expire(clock.at)
        assert (0, 600) == balance(store)


async def test_a_clock_that_steps_back_revives_nothing(tmp_path: Path, clock: FakeClock) -> None:
    """Stored time is max(last_now, wall), over a restart too."""
    async with opened(sqlite(tmp_path, clock)) as store:
        await spend(store, "c1", 1)
        clock.advance(50)
        await spend(store, "c2", 1)
        await store.expire(clock.at)
        late = clock.at
    clock.advance(-5000)
    async with opened(sqlite(tmp_path, clock)) as again:
        await spend(again, "c3", 1)
        entries = again.reading().entries(0)
        assert late == entries[-1].at == max(entry.at for entry in entries)
        assert [] == again.audit()


CHILD = """
import asyncio, sys, time
from pathlib import Path
from gateway.stores.sqlite import SqliteStore
from gateway.core.types import Denied
from tests.ledgers import charge, exchange, order
from itertools import count

async def main():
    ids = count()
    tag = sys.argv[2]
    store = SqliteStore(Path(sys.argv[1]), time.time, lambda prefix: f"{prefix}-{tag}-{next(ids)}")
    await store.open()
    numbers = count()
    async def agent():
        for number in numbers:
            call = f"{tag}-{number}"
            answer = await store.reserve(order(call, charge(want=50, limit=200_000), deadline_at=time.time() + 600))
            if isinstance(answer, Denied):
                return
            print("sent", call, flush=True)      # the provider bills 30 from here on
            await asyncio.sleep(0.001)
            await store.settle(f"{call}/1", {"nusd": 30}, exchange(call, 30))
            print("done", call, flush=True)
    await asyncio.gather(*[agent() for _ in range(20)])
asyncio.run(main())
"""


def test_kill_9_loses_no_billed_call(tmp_path: Path) -> None:
    """SIGKILL under load, again and again: every dispatched call is accounted at >= its bill, settled ones exactly."""
    sent: set[str] = set()
    done: set[str] = set()
    for turn in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "ledger.db"), f"t{turn}"],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdout is not None
        for _ in range(150 + 37 * turn):
            word, _, call = child.stdout.readline().strip().partition(" ")
            (sent if word == "sent" else done).add(call)
        child.send_signal(signal.SIGKILL)
        for line in child.stdout:
            word, _, call = line.strip().partition(" ")
            if line.endswith("\n"):
                (sent if word == "sent" else done).add(call)
        child.wait()
        child.stdout.close()

    async def look() -> None:
        ids = iter(range(100))
        store = SqliteStore(tmp_path / "ledger.db", time.time, lambda prefix: f"{prefix}-look-{next(ids)}")
        async with opened(store):
            spent, held = balance(store)
            assert 0 == held
            reading, cursor = store.reading(), None
            costs: dict[str, int] = {}
            while True:
                page, cursor = reading.calls("R", 1000, cursor)
                costs.update({call.call_id: call.cost_nusd or 0 for call in page})
                if cursor is None:
                    break
            assert sent <= costs.keys()
            assert all(30 <= costs[call] for call in sent)
            assert all(30 == costs[call] for call in done)
            assert spent == sum(costs.values())
            assert [] == store.audit()
            assert len(done) > 200

    asyncio.run(look())


# --------------------------------------------------------------------------- the file fails


async def test_a_full_disk_closes_admission_and_keeps_settles(tmp_path: Path, clock: FakeClock) -> None:
    """Reserves fail, settles wait and are written once there is room, without a restart; nothing is lost."""
    async with opened(sqlite(tmp_path, clock)) as store:
        await store.reserve(order("c1", charge(want=700)))
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count={pages}")
        settle = asyncio.ensure_future(store.settle("c1/1", {"nusd": 70}, exchange("c1", 70, warning="x" * 100_000)))
        await failing(store)
        assert "full" in str(store.failed())
        assert str(store.path) in str(store.failed())
        with pytest.raises(StoreFailed, match="full"):
            await store.reserve(order("c2"))
        with pytest.raises(StoreFailed):
            await store.close_account("run/R", "why")
        assert Settled(None) == await store.settle(None, None, exchange("c3", 0, "refused"))  # at once
        assert (0, 700) == balance(store)
        store._connection.execute("PRAGMA max_page_count=1000000")
        assert 70 == (await asyncio.wait_for(settle, 5)).charged
        while store.failed() is not None:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)
        assert {"c1", "c3"} == {call.call_id for call in store.reading().calls("R")[0]}
        assert store.failed() is None
        assert (70, 0) == balance(store)
        assert isinstance(await store.reserve(order("c2")), Reservation)
        assert [] == store.audit()


async def test_a_failed_batch_leaves_nobody_waiting(tmp_path: Path, clock: FakeClock) -> None:
    """Orders in line, and those that the lost batch had granted, are answered with StoreFailed."""
    async with opened(sqlite(tmp_path, clock)) as store:
        await store.reserve(order("c1", charge(want=900)))
        waits = [asyncio.ensure_future(store.reserve(order(f"w{n}", charge(want=300), wait_s=30))) for n in range(4)]
        await asyncio.sleep(0)
        await store.run("R")
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count={pages}")
        settle = asyncio.ensure_future(store.settle("c1/1", {"nusd": 1}, exchange("c1", 1, warning="x" * 100_000)))
        answers = await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), 5)
        assert [StoreFailed] * 4 == [type(answer) for answer in answers]
        store._connection.execute("PRAGMA max_page_count=1000000")
        await asyncio.wait_for(settle, 5)
        assert (1, 0) == balance(store)
        assert [] == store.audit()


async def test_only_so_many_settles_are_kept(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue of a failing store has an end; what is beyond it is said, and presumed later."""
    monkeypatch.setattr(module, "KEPT_MOST", 3)
    async with opened(sqlite(tmp_path, clock)) as store:
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count={pages}")
        big = {"warning": "x" * 100_000}
        tasks = [
            asyncio.ensure_future(store.settle(None, None, exchange(f"c{n}", 0, "refused", **big))) for n in range(5)
        ]
        done, left = await asyncio.wait(tasks, timeout=5, return_when=asyncio.FIRST_EXCEPTION)
        while len(done) < 2:
            more, left = await asyncio.wait(left, timeout=5, return_when=asyncio.FIRST_EXCEPTION)
            done |= more
        assert [StoreFailed, StoreFailed] == [type(task.exception()) for task in done]
        store._connection.execute("PRAGMA max_page_count=1000000")
        await asyncio.wait_for(asyncio.gather(*left), 5)


async def test_too_many_operations_are_turned_away(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue of the thread has an end."""
    monkeypatch.setattr(module, "QUEUE_MOST", 10)
    async with opened(sqlite(tmp_path, clock)) as store:
        with _foreign_lock(tmp_path):
            asked = [asyncio.ensure_future(store.reserve(order(f"c{n}", charge(want=1)))) for n in range(200)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        answers = await asyncio.gather(*asked, return_exceptions=True)
    kinds = {type(answer) for answer in answers}
    assert {Reservation, StoreFailed} == kinds


@contextmanager
def _foreign_lock(folder: Path) -> Iterator[None]:
    lock = take(folder / "ledger.lock")
    while lock is None:
        lock = take(folder / "ledger.lock")
    try:
        yield
    finally:
        os.close(lock)


async def test_a_stuck_lock_holder_closes_admission(tmp_path: Path, clock: FakeClock) -> None:
    """Lock not got in time: 503, settles kept; when it is free again, all goes on."""
    async with opened(sqlite(tmp_path, clock)) as store:
        store._lock.wait_s = 0.02
        await store.reserve(order("c1", charge(want=700)))
        with _foreign_lock(tmp_path):
            settle = asyncio.ensure_future(store.settle("c1/1", {"nusd": 70}, exchange("c1", 70)))
            with pytest.raises(StoreFailed, match=r"ledger\.lock"):
                await store.reserve(order("c2"))
            assert "another process" in str(store.failed())
        assert 70 == (await asyncio.wait_for(settle, 5)).charged


def breaks(book: Book, now: float) -> None:
    """An operation whose row can't be written."""
    book.account("agent/a/nusd").spent = 2**70
    book.dirty.accounts.add("agent/a/nusd")


async def test_one_bad_operation_spoils_no_neighbour(tmp_path: Path, clock: FakeClock) -> None:
    """What can't be written is answered alone; the others of its batch are written."""
    async with opened(sqlite(tmp_path, clock)) as store:
        asked: list[Any] = [store.reserve(order(f"c{n}", charge(want=10))) for n in range(20)]
        asked.insert(7, store.ask(breaks))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [7] == [n for n, answer in enumerate(answers) if isinstance(answer, StoreFailed)]
        assert "carry this out" in str(answers[7])
        assert (0, 200) == balance(store)
        assert store.failed() is None
        assert [] == store.audit()


async def test_wild_numbers_and_half_letters_do_not_stop_a_settle(tmp_path: Path, clock: FakeClock) -> None:
    """A provider may say anything: the call is booked, its row is tamed."""
    async with opened(sqlite(tmp_path, clock)) as store:
        await store.reserve(order("c1", charge(want=700)))
        wild = exchange("c1", 70, usage=Usage(input_tokens=10**30), finish_reason="a\ud800b")
        assert 70 == (await store.settle("c1/1", {"nusd": 70}, wild)).charged
        (call,), _ = store.reading().calls("R")
        assert ("a?b", 70) == (call.finish_reason, call.cost_nusd)


async def test_nothing_is_served_before_open(tmp_path: Path, clock: FakeClock) -> None:
    """Admission is closed until the file is there."""
    store = sqlite(tmp_path, clock)
    assert "the store is not open" == store.failed()
    with pytest.raises(StoreFailed):
        await store.run("R")
    await store.close()


async def test_each_second_with_writes_reaches_the_disk(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeat: the log is synced once a second while something is written, and with power_loss at every commit."""
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(Path(f"/proc/self/fd/{file}").resolve().name))
    async with opened(sqlite(tmp_path, clock)) as store:
        for n in range(10):
            await spend(store, f"c{n}", 1)
        assert 1 == store._pen._sync.asked
        for n in range(2):
            clock.advance(1)
            await spend(store, f"d{n}", 1)
            await store.run("R")
        while store._pen._sync.busy:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)
        assert {"ledger.db-wal"} == set(synced)
        assert 2 <= len(synced) <= 3
    async with opened(sqlite(tmp_path, clock, durability="power_loss")) as full:
        assert 2 == full._connection.execute("PRAGMA synchronous").fetchone()[0]
        await spend(full, "e1", 1)


async def test_many_operations_share_a_transaction(tmp_path: Path, clock: FakeClock) -> None:
    """Group commit: what is queued together is written together, at most 64 at a time."""
    async with opened(sqlite(tmp_path, clock)) as store:
        before = store._pen.batches
        await asyncio.gather(*[store.reserve(order(f"c{n}", charge(want=1))) for n in range(640)])
        assert store._pen.batches - before <= 60
        assert (0, 640) == balance(store)


async def test_rows_at_rest_leave_memory(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache has an end, and what left it is read again."""
    monkeypatch.setattr(module, "CACHE_MOST", 8)
    async with opened(sqlite(tmp_path, clock)) as store:
        await store.reserve(order("keep", charge("run/k/nusd", 7), run="k"))
        for n in range(40):
            await spend(store, f"c{n}", 1, charge(f"run/r{n}/nusd"), run=f"r{n}")
        book = store._window.book
        assert max(len(book.holds), len(book.accounts), len(book.runs)) <= 10
        assert 7 == (await store.settle("keep/1", {"nusd": 7}, exchange("keep", 7, run="k"))).charged
        assert [] == store.audit()


async def test_the_thread_ends_with_the_store(tmp_path: Path, clock: FakeClock) -> None:
    """No thread is left behind."""
    async with opened(sqlite(tmp_path, clock)):
        assert "ledger" in {thread.name for thread in threading.enumerate()}
    for thread in threading.enumerate():
        if thread.name == "ledger":
            thread.join(5)
    assert "ledger" not in {thread.name for thread in threading.enumerate()}


async def test_the_end_of_an_answer_waits_for_its_settlement_only_so_long(tmp_path: Path, clock: FakeClock) -> None:
    """A ledger that is held up keeps no answer back: the settle stays queued and is applied later (design.md 1)."""
    async with opened(sqlite(tmp_path / "a", clock)) as store:
        store.settle_s = 0.02
        assert isinstance(await store.reserve(order("c1")), Reservation)
        held = os.open(store.path.with_suffix(".lock"), os.O_RDWR)
        fcntl.flock(held, fcntl.LOCK_EX)
        late = await store.settle("c1/1", {"nusd": 40}, exchange("c1", 40))
        assert late.charged is None
        os.close(held)
        again = await store.settle("c1/1", {"nusd": 40}, exchange("c1", 40))
        assert 40 == again.charged
        assert (40, 0) == balance(store)


# --------------------------------------------------------------------------- chores


async def test_chores_are_done_between_batches(tmp_path: Path, clock: FakeClock) -> None:
    """Each in a transaction of its own, again soon while there is more to do; what it changed is read anew."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    left = [2, 1, 0]

    def forgets(execute: Callable[..., sqlite3.Cursor], now: float) -> bool:
        assert clock.at <= now
        execute("UPDATE account SET closed = ? WHERE name = 'run/R'", (f"chore {left[0]}",))
        more = left.pop(0) > 0
        loop.call_soon_threadsafe(done.set)
        return more

    def fails(execute: Callable[..., sqlite3.Cursor], now: float) -> bool:
        execute("UPDATE account SET closed = 'never' WHERE name = 'run/R'")
        raise sqlite3.OperationalError("no room")

    async with opened(sqlite(tmp_path, clock)) as store:
        await store.close_account("run/R", "why")
        store.chores += [forgets, fails]
        while left:
            clock.advance(0.2 if left[0] < 2 else 1.0)
            await store.run("R")
            await asyncio.wait_for(done.wait(), 5)
            done.clear()
        denied = await store.reserve(order("c1", gates=("run/R",)))
        assert isinstance(denied, Denied) and "chore 0" == denied.why
        assert store.failed() is None

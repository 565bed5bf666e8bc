"""A live ledger is audited once an hour, by one process, beside the serving."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import StoreFailed
from gateway.core.ledger.shelf import SqlShelf
from gateway.stores.sqlite import SqliteStore
from gateway.stores.sqlite import inspect as module
from gateway.stores.sqlite.inspect import HOUR_S, Auditor, audit_file
from tests.fakes import FakeClock
from tests.ledgers import charge, exchange, opened, order, spend, sqlite


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def damage(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute(sql)


def turn(store: SqliteStore, auditor: Auditor, now: float) -> list[str] | None:
    """One chore of the store's thread, as it does it, and what came of the audit if one began."""
    with closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        assert not auditor.chore(connection.execute, now)
        connection.execute("COMMIT")
    for thread in threading.enumerate():
        if thread.name == "ledger-audit":
            thread.join(10)
    return auditor.take()


async def test_the_file_is_audited_as_it_is(tmp_path: Path, clock: FakeClock) -> None:
    """Sound: nothing; damaged: the invariant, the account, the figures; past its time: I8, where that is asked."""
    async with opened(sqlite(tmp_path, clock)) as store:
        await spend(store, "c1", 40)
        await store.reserve(order("c2", deadline_at=clock.at + 10))
        assert [] == audit_file(store.path)
        assert ["I8 c2/1 is held past its deadline"] == audit_file(store.path, clock.at + 11)
        damage(store.path, "UPDATE account SET spent = 41 WHERE name = 'run/R/nusd'")
        assert ["I3 run/R/nusd spent 41, its rows say 40"] == audit_file(store.path)


async def test_an_audit_sees_one_instant(tmp_path: Path, clock: FakeClock) -> None:
    """What is booked between two statements of the audit is not in it: no balance looks wrong because it moved."""
    async with opened(sqlite(tmp_path, clock)) as store:
        await spend(store, "c1", 40)
        loop = asyncio.get_running_loop()
        calls = iter(range(100))

        async def book() -> None:
            """Ends the call before, and begins the next."""
            number = next(calls)
            await store.reserve(order(f"d{number}", charge(want=7 + number, limit=None)))
            if number:
                await store.settle(f"d{number - 1}/1", {"nusd": 1}, exchange(f"d{number - 1}", 1))

        def begun(connection: sqlite3.Connection) -> None:
            def between(sql: str) -> None:
                if sql.startswith("SELECT"):
                    asyncio.run_coroutine_threadsafe(book(), loop).result(5)

            connection.set_trace_callback(between)

        assert [] == await asyncio.to_thread(audit_file, store.path, None, begun)
        purse = store.reading().account("run/R/nusd")
        assert purse is not None and purse.spent > 41 and purse.held > 7


async def test_what_is_found_ends_somewhere(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger with a thousand faults is told with the first ones; one that can't be read is said."""
    monkeypatch.setattr(module, "FOUND_MOST", 5)
    async with opened(sqlite(tmp_path, clock)) as store:
        for number in range(9):
            await spend(store, f"c{number}", 1, charge(f"run/r{number}/nusd"), run=f"r{number}")
        damage(store.path, "DELETE FROM ledger")
        assert 5 == len(audit_file(store.path))
    with pytest.raises(StoreFailed, match="can't be read"):
        audit_file(tmp_path / "nowhere.db")


async def test_an_hour_has_one_audit_in_all_processes(tmp_path: Path, clock: FakeClock) -> None:
    """The first in an hour does it, the others see that it was done; a new ledger waits its first hour."""
    async with opened(sqlite(tmp_path, clock)) as store:
        await spend(store, "c1", 40)
        damage(store.path, "UPDATE account SET overrun = -1 WHERE name = 'run/R/nusd'")
        one, two = Auditor(store.path), Auditor(store.path)
        assert [None, None] == [turn(store, one, clock.at), turn(store, two, clock.at)]
        said = []
        for minutes in range(1, 181, 2):
            said += [
                (minutes, found) for auditor in (one, two) if (found := turn(store, auditor, clock.at + minutes * 60))
            ]
        assert [61, 121] == [minutes for minutes, _ in said]
        assert {"I7 run/R/nusd.overrun is -1"} == {sentence for _, found in said for sentence in found}


async def test_it_runs_as_a_chore_of_the_store(tmp_path: Path, clock: FakeClock) -> None:
    """With the real thread: calls go on while it reads, and a sound ledger is told as []."""
    async with opened(sqlite(tmp_path, clock)) as store:
        auditor = Auditor(store.path)
        store.chores.append(auditor.chore)
        found: list[str] | None = None
        for number in range(500):
            clock.advance(61)
            await spend(store, f"c{number}", 1, charge(limit=None))
            found = auditor.take()
            if found is not None:
                break
            await asyncio.sleep(0.001)
        assert [] == found
        auditor.stop()


async def test_a_stop_breaks_an_audit_off(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a process doesn't wait for the end of an audit, and what was broken off is no finding."""
    async with opened(sqlite(tmp_path, clock)) as store:
        await spend(store, "c1", 40)
        begun, go = threading.Event(), threading.Event()
        endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x), x, x FROM n"

        def slow(path: Path, overdue: float, told: Callable[[sqlite3.Connection], None]) -> list[str]:
            with closing(sqlite3.connect(path, check_same_thread=False)) as connection:
                told(connection)
                begun.set()
                go.wait(5)
                try:
                    connection.execute(endless).fetchall()
                except sqlite3.OperationalError as error:
                    raise StoreFailed(str(error)) from error
            return []

        monkeypatch.setattr(module, "audit_file", slow)
        auditor = Auditor(store.path)
        assert None is turn(store, auditor, clock.at)
        with closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
            auditor.chore(connection.execute, clock.at + HOUR_S)
        await asyncio.to_thread(begun.wait, 5)
        go.set()
        await asyncio.sleep(0.05)  # into the endless statement
        await asyncio.to_thread(auditor.stop, 5.0)
        assert "ledger-audit" not in {thread.name for thread in threading.enumerate()}
        assert None is auditor.take()
        await store.settle(None, None, exchange("c9", 0, "refused"))


async def test_a_sweep_looks_at_what_is_held_and_at_nothing_else(tmp_path: Path, clock: FakeClock) -> None:
    """Whatever has ended lies in the same table, millions of rows: neither the sweep nor a burial walks over them."""
    async with opened(sqlite(tmp_path, clock)) as store:
        await spend(store, "c1", 1)
    plans: list[str] = []
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:

        def query(sql: str, values: Sequence[Any]) -> list[Any]:
            plans.extend(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values))
            return connection.execute(sql, values).fetchall()

        shelf = SqlShelf(query)
        shelf.due(clock.at, 500)
        shelf.held_by("ins_000001", 500)
        shelf.idle(clock.at, 500)
    walked = [plan for plan in plans if plan.startswith("SCAN") and "reservation" in plan]
    assert walked and all("reservation_open" in plan for plan in walked)

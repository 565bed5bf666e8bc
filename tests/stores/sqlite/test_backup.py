"""A backup is a whole ledger of one instant, taken while others write, and never in the place of something else."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.core.errors import ConfigError, StoreFailed
from gateway.core.types import Reservation
from gateway.stores.sqlite import SqliteStore
from gateway.stores.sqlite import backup as module
from gateway.stores.sqlite.backup import back_up
from gateway.stores.sqlite.lock import FairLock
from tests.fakes import FakeClock
from tests.ledgers import charge, exchange, opened, order, spend, sqlite

PURSE = "run/R/nusd"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def spent(store: SqliteStore) -> tuple[int, int]:
    purse = store.reading().account(PURSE)
    assert purse is not None
    return purse.spent, purse.held


def restored(target: Path, folder: Path) -> Path:
    """The backup in its place, as an operator would put it."""
    folder.mkdir()
    shutil.copy(target, folder / "ledger.db")
    return folder


async def test_a_backup_opens_as_a_ledger(tmp_path: Path, clock: FakeClock) -> None:
    """Balances, calls and limits are those of its instant; it is sound, private, and goes on; what was held then is
    charged by the sweep of whoever opens it."""
    async with opened(sqlite(tmp_path / "a", clock)) as store:
        await spend(store, "c1", 40)
        await store.reserve(order("c2", charge(want=300)))
        await asyncio.to_thread(back_up, store.path, tmp_path / "copy.db")
        await spend(store, "c3", 1)
        assert (41, 300) == spent(store)
    assert 0o600 == (tmp_path / "copy.db").stat().st_mode & 0o777
    clock.advance(60)
    async with opened(sqlite(restored(tmp_path / "copy.db", tmp_path / "b"), clock)) as again:
        await again.expire(clock.at)
        assert (340, 0) == spent(again)
        assert [] == again.audit()
        assert ["c1", "c2"] == [call.call_id for call in again.reading().calls("R")[0]]
        assert isinstance(await again.reserve(order("c4", charge(want=660))), Reservation)


async def test_a_backup_of_a_killed_ledger_has_what_stands_in_the_log(tmp_path: Path, clock: FakeClock) -> None:
    """Nobody runs, nothing was checkpointed: the log counts, and the ledger's own file is not changed."""
    async with opened(sqlite(tmp_path / "a", clock)) as store:
        await spend(store, "c1", 40)
        shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("*-shm"))
    before = (tmp_path / "b" / "ledger.db").read_bytes()
    back_up(tmp_path / "b" / "ledger.db", tmp_path / "copy.db")
    assert before == (tmp_path / "b" / "ledger.db").read_bytes()
    async with opened(sqlite(restored(tmp_path / "copy.db", tmp_path / "c"), clock)) as again:
        assert (40, 0) == spent(again)


async def test_a_backup_is_of_one_instant_and_holds_nobody_up(tmp_path: Path, clock: FakeClock) -> None:
    """While calls are booked, copies are taken: each is sound, and writers wait for none of them."""
    async with opened(sqlite(tmp_path / "a", clock)) as store:
        for number in range(200):
            await spend(store, f"a{number:03}", 1, charge(limit=None))
        numbers, done = iter(range(10_000)), asyncio.Event()

        async def agent() -> None:
            while not done.is_set():
                await spend(store, f"b{next(numbers):05}", 1, charge(limit=None))

        agents = [asyncio.ensure_future(agent()) for _ in range(8)]
        for copy in range(5):
            await asyncio.to_thread(back_up, store.path, tmp_path / f"copy{copy}.db")
        done.set()
        await asyncio.gather(*agents)
        assert next(numbers) > 5
        assert [] == store.audit()
    for copy in range(5):
        async with opened(sqlite(restored(tmp_path / f"copy{copy}.db", tmp_path / f"r{copy}"), clock)) as again:
            assert [] == again.audit()
            assert spent(again)[0] >= 200


async def test_the_lock_is_free_while_the_copy_is_written(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is admitted and settled in the midst of a copy that can't go on."""
    async with opened(sqlite(tmp_path / "a", clock)) as store:
        loop = asyncio.get_running_loop()
        seen: list[int | None] = []

        class Slow(sqlite3.Connection):
            def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
                if sql.startswith("VACUUM"):
                    booked = asyncio.run_coroutine_threadsafe(spend(store, "c1", 3), loop).result(5)
                    seen.append(booked.charged)
                return super().execute(sql, *values)  # type: ignore[arg-type]

        def connect(path: Path, mode: str) -> sqlite3.Connection:
            return sqlite3.connect(f"file:{path}?mode={mode}", uri=True, factory=Slow, isolation_level=None)

        monkeypatch.setattr(module, "connect", connect)
        await asyncio.to_thread(back_up, store.path, tmp_path / "copy.db")
        assert [3] == seen


def test_nothing_is_written_over(tmp_path: Path) -> None:
    """A target that exists, a copy under way, a folder that isn't there, no ledger: each is said, and left alone."""
    ledger, target = tmp_path / "ledger.db", tmp_path / "copy.db"
    with pytest.raises(ConfigError, match="there is no ledger"):
        back_up(ledger, target)
    ledger.write_bytes(b"x" * 4096)
    target.write_bytes(b"precious")
    with pytest.raises(ConfigError, match="exists already"):
        back_up(ledger, target)
    assert b"precious" == target.read_bytes()
    (tmp_path / "other.db.part").write_bytes(b"half")
    with pytest.raises(ConfigError, match="under way"):
        back_up(ledger, tmp_path / "other.db")
    assert b"half" == (tmp_path / "other.db.part").read_bytes()
    with pytest.raises(ConfigError, match="No such file"):
        back_up(ledger, tmp_path / "nowhere" / "copy.db")
    with pytest.raises(StoreFailed, match="damaged"):
        back_up(ledger, tmp_path / "third.db")
    assert not list(tmp_path.glob("third*"))


async def test_a_copy_that_fails_leaves_nothing(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, a lock that nobody gives: one sentence, no file, and the ledger works on."""
    async with opened(sqlite(tmp_path / "a", clock)) as store:
        await spend(store, "c1", 3)
        monkeypatch.setattr(module, "LOCK_S", 0.05)
        other = FairLock(store.path.with_suffix(".lock"))
        with other.held(), pytest.raises(StoreFailed, match="not free within"):
            await asyncio.to_thread(back_up, store.path, tmp_path / "copy.db")

        def full(path: Path) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(module, "_sync", full)
        with pytest.raises(StoreFailed, match="No space left"):
            await asyncio.to_thread(back_up, store.path, tmp_path / "copy.db")
        assert not [name for name in os.listdir(tmp_path) if name.startswith("copy")]
        await store.settle("c2/1", {"nusd": 1}, exchange("c2", 1))
        other.close()
        with closing(sqlite3.connect(store.path)) as connection:
            assert ("ok",) == connection.execute("PRAGMA quick_check").fetchone()

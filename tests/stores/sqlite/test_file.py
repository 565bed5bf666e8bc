"""What the ledger may stand on: damaged, foreign and newer files, folders that can't be used (ledger.md section 7)."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

import pytest

from gateway.core.errors import ConfigError, StoreFailed
from gateway.core.ledger import schema
from gateway.stores.sqlite import store as module
from tests.fakes import FakeClock
from tests.ledgers import balance, failing, killed, opened, order, spend, sqlite


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path: Path, clock: FakeClock) -> None:
    """Never replaced, never changed, and the message says what to do (issue: corrupt database)."""
    async with opened(sqlite(tmp_path, clock)) as store:
        for n in range(50):
            await spend(store, f"c{n}", 1)
    file = tmp_path / "ledger.db"
    whole = file.read_bytes()
    for damage in (whole[:4096] + b"\xff" * 4096 + whole[8192:], b"not a database at all" * 100, whole[:9000]):
        file.write_bytes(damage)
        with pytest.raises(StoreFailed, match="left as it is") as told:
            await sqlite(tmp_path, clock).open()
        assert str(file) in str(told.value)
        assert damage == file.read_bytes()


async def test_damage_in_the_log_never_reaches_the_balances(tmp_path: Path, clock: FakeClock) -> None:
    """A torn tail of the write-ahead log is cut: what remains is a state that once was, and sums up."""
    async with opened(sqlite(tmp_path / "a", clock)) as store:
        for n in range(20):
            await spend(store, f"c{n}", 10)
        for cut in (1, 24, 4096, 10_000, 33_333):
            after = killed(tmp_path / "a", tmp_path / f"b{cut}")
            log = after / "ledger.db-wal"
            log.write_bytes(log.read_bytes()[:-cut])
            async with opened(sqlite(after, clock)) as again:
                assert [] == again.audit()
                spent, held = balance(again)  # what was held at the cut is charged whole
                assert spent <= 300 and 0 == held


async def test_a_newer_schema_is_refused_with_the_reason(tmp_path: Path, clock: FakeClock) -> None:
    """An older program doesn't touch what it doesn't know."""
    async with opened(sqlite(tmp_path, clock)):
        pass
    with sqlite3.connect(tmp_path / "ledger.db") as file:
        file.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    file.close()
    with pytest.raises(StoreFailed, match="newer Meterbox"):
        await sqlite(tmp_path, clock).open()


async def test_a_foreign_database_is_refused(tmp_path: Path, clock: FakeClock) -> None:
    """A database of another program is no ledger."""
    with sqlite3.connect(tmp_path / "ledger.db") as file:
        file.execute("CREATE TABLE album (title)")
    file.close()
    with pytest.raises(StoreFailed, match="not a Meterbox ledger"):
        await sqlite(tmp_path, clock).open()


async def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, clock: FakeClock) -> None:
    """Read-only state folder: StoreFailed with the path, no traceback."""
    folder = tmp_path / "ro"
    folder.mkdir()
    folder.chmod(0o500)
    dropped = os.geteuid() == 0
    if dropped:
        os.chown(folder, 65534, 65534)
        for parent in (tmp_path, *list(tmp_path.parents)[:3]):
            parent.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(StoreFailed, match="ro"):
            await sqlite(folder / "state", clock).open()
        with pytest.raises(StoreFailed, match="ro"):
            await sqlite(folder, clock).open()
    finally:
        if dropped:
            os.seteuid(0)
        folder.chmod(0o700)


async def test_a_folder_that_ignores_flock_is_refused(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that can be had twice is none."""
    monkeypatch.setattr(fcntl, "flock", lambda lock, how: None)
    with pytest.raises(ConfigError, match="does not honour flock"):
        await sqlite(tmp_path, clock).open()


async def test_a_big_file_is_checked_beside_the_serving(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above 64 MB the start doesn't wait; a failure closes admission for good."""
    async with opened(sqlite(tmp_path, clock)) as store:
        for n in range(200):
            await spend(store, f"c{n}", 1)
    file = tmp_path / "ledger.db"
    raw = bytearray(file.read_bytes())
    with sqlite3.connect(file) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'journal_run'").fetchone()[0]
    connection.close()
    raw[(page - 1) * 4096 : page * 4096] = b"\x00" * 4096
    file.write_bytes(raw)
    with pytest.raises(StoreFailed, match="damaged"):
        await sqlite(tmp_path, clock).open()
    monkeypatch.setattr(module, "CHECK_MOST_BYTES", 1000)
    async with opened(sqlite(tmp_path, clock)) as store:
        await failing(store)
        with pytest.raises(StoreFailed, match="damaged"):
            await store.reserve(order("d1"))


async def test_a_ledger_that_lost_all_its_bytes_is_not_taken_as_new(tmp_path: Path, clock: FakeClock) -> None:
    """An emptied file is named and left as it is: what was spent is not forgotten in silence."""
    async with opened(sqlite(tmp_path / "a", clock)) as store:
        await spend(store, "c1", 100)
        path = store.path
    path.write_bytes(b"")
    with pytest.raises(StoreFailed, match="not a Meterbox ledger"):
        await sqlite(tmp_path / "a", clock).open()
    assert b"" == path.read_bytes()

"""The writing connection by itself: transactions, news of others, checkpoints."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.stores.sqlite import pen as module
from gateway.stores.sqlite.lock import FairLock, take
from gateway.stores.sqlite.pen import Pen
from tests.fakes import FakeClock
from tests.stores.sqlite.test_sync import answered


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[FairLock]:
    lock = FairLock(tmp_path / "ledger.lock", 5.0)
    yield lock
    lock.close()


def write(pen: Pen, value: int, *tables: str) -> None:
    with pen.transaction():
        for table in ("t", *tables):
            pen.connection.execute(f"INSERT INTO {table} VALUES (?)", (value,))
        pen.unsynced = True


def made(path: Path, lock: FairLock, full: bool = False) -> Pen:
    """A pen on a file with one table."""
    pen = Pen(path, lock, FakeClock().now, full)
    pen.connection.execute("CREATE TABLE IF NOT EXISTS t (a)")
    return pen


def test_news_is_what_others_wrote(tmp_path: Path, lock: FairLock) -> None:
    """The first transaction has it, and each after another connection's commit; our own commits are none."""
    one, two = made(tmp_path / "l.db", lock), made(tmp_path / "l.db", lock)
    seen = []
    for number, pen in enumerate((one, one, two, two, one, one)):
        seen.append((pen.others_wrote(), pen.news))
        write(pen, number)
        seen[-1] = (seen[-1][0], pen.news)
    assert [(True, True), (False, False), (True, True), (False, False), (True, True), (False, False)] == seen
    one.look_anew()
    assert one.others_wrote()
    for pen in (one, two):
        pen.close()


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path, lock: FairLock) -> None:
    """It is rolled back, the lock is free, and the next one reads everything anew."""
    pen = made(tmp_path / "l.db", lock)
    write(pen, 1)
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        write(pen, 2, "nowhere")
    assert [(1,)] == pen.connection.execute("SELECT a FROM t").fetchall()
    write(pen, 3)
    assert pen.news
    pen.close()


def test_the_log_is_moved_into_the_file_now_and_then(
    tmp_path: Path, lock: FairLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every so many transactions, still under the lock, and at the end."""
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 5)
    pen = made(tmp_path / "l.db", lock)
    free: list[bool] = []

    def notes(sql: str) -> None:
        if "checkpoint" in sql:
            free.append(take(lock.file) is not None)

    pen.connection.set_trace_callback(notes)
    for number in range(12):
        write(pen, number)
        answered(pen._sync)
    assert [False, False] == free
    monkeypatch.setattr(module, "CHECKPOINT_ROWS", 2)
    for number in range(6):
        write(pen, number)
        answered(pen._sync)
    assert [False] * 4 == free
    pen.close()
    assert [False] * 5 == free


def test_a_checkpoint_waits_until_the_disk_has_the_log(
    tmp_path: Path, lock: FairLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the writing, which goes on; nobody waits for the whole log under the lock."""
    monkeypatch.setattr(module, "CHECKPOINT_ROWS", 2)
    go = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda file: go.wait(10))
    pen = made(tmp_path / "l.db", lock)
    seen: list[str] = []
    pen.connection.set_trace_callback(lambda sql: seen.append(sql) if "checkpoint" in sql else None)
    for number in range(8):
        write(pen, number)
    assert [] == seen
    go.set()
    answered(pen._sync)
    write(pen, 9)
    assert 1 == len(seen)
    pen.close()


def test_a_checkpoint_that_fails_does_not_undo_the_commit_before_it(
    tmp_path: Path, lock: FairLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: what the log has is committed, so nobody is told otherwise; the next commit has to prove itself."""
    monkeypatch.setattr(module, "CHECKPOINT_ROWS", 1)
    pen = made(tmp_path / "l.db", lock)

    def full() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(pen, "checkpoint", full)
        write(pen, 1)
        answered(pen._sync)
        write(pen, 2)
    proves = [pen.proves]
    assert [(1,), (2,)] == pen.connection.execute("SELECT a FROM t ORDER BY a").fetchall()
    write(pen, 3)
    assert [True, False] == [*proves, pen.proves]
    pen.close()


def test_a_heartbeat_comes_once_a_second(tmp_path: Path, lock: FairLock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where something was written since, and never where every commit waits for the disk anyway."""
    clock = FakeClock()
    pen = Pen(tmp_path / "l.db", lock, clock.now, False)
    pen.connection.execute("CREATE TABLE t (a)")
    beats = []
    for step in (0.0, 0.5, 0.6, 0.5, 0.6):
        clock.advance(step)
        write(pen, 1)
        answered(pen._sync)
        beats.append(pen._sync.done)
    assert [1, 1, 2, 2, 3] == beats
    clock.advance(5)
    with pen.transaction():
        pass
    assert 3 == pen._sync.asked
    pen.close()
    full = Pen(tmp_path / "l.db", lock, clock.now, True)
    write(full, 1)
    assert (0, 2) == (full._sync.asked, full.connection.execute("PRAGMA synchronous").fetchone()[0])
    full.close()


def test_where_the_disk_said_no_the_next_commit_waits_for_it(
    tmp_path: Path, lock: FairLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must write something, and asks the disk itself, until that works; then all is as before."""
    clock = FakeClock()
    pen = Pen(tmp_path / "l.db", lock, clock.now, False)
    pen.connection.execute("CREATE TABLE t (a)")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        write(pen, 1)
        answered(pen._sync)
    seen: list[str] = []
    pen.connection.set_trace_callback(lambda sql: seen.append(sql) if "synchronous" in sql else None)
    with pytest.raises(sqlite3.OperationalError):
        write(pen, 2, "nowhere")
    states = [pen.proves]
    for number in (3, 4):
        write(pen, number)
        states.append(pen.proves)
    assert [True, False, False] == states
    assert ["PRAGMA synchronous=FULL", "PRAGMA synchronous=NORMAL"] * 2 == seen
    pen.close()


def fails(file: int) -> None:
    raise OSError(errno.EIO, "no")


def test_long_rows_are_due_for_a_checkpoint_sooner(tmp_path: Path, lock: FairLock) -> None:
    """32 MB of texts are as many as CHECKPOINT_ROWS rows: neither the log nor a checkpoint grows with them."""
    pen = made(tmp_path / "l.db", lock)
    write(pen, 1)
    pen.wrote(31_990_000)
    write(pen, 2)
    assert 0 == pen._sync.asked - 1  # the heartbeat's only
    pen.wrote(10_000)
    write(pen, 3)
    assert 1 == pen._sync.asked - 1
    answered(pen._sync)
    write(pen, 4)
    pen.wrote(31_000_000)
    write(pen, 5)
    assert 1 == pen._sync.asked - 1  # counted anew
    pen.close()

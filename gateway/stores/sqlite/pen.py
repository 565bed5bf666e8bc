"""The one connection of a process that writes the ledger: transactions under the lock, checkpoints, the heartbeat.

Invariant: no commit and no checkpoint without ledger.lock; what was written by this process reaches the disk within a
second of its commit (`synchronous = FULL` once a second). What never enters: what is written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from gateway.core.errors import ConfigError
from gateway.stores.sqlite.file import connect
from gateway.stores.sqlite.lock import FairLock

# Transactions, or rows written, between two checkpoints: each waits for the disk twice while nobody else may write.
CHECKPOINT_EVERY, CHECKPOINT_ROWS = 1_000, 20_000
BEAT_S: Final = 1.0
_NEVER: Final = -1


class Pen:
    """Writes for one thread. `news` says within a transaction whether others wrote since the one before."""

    def __init__(self, path: Path, lock: FairLock, now: Callable[[], float], full: bool) -> None:
        """Opens the file, and makes it where there is none; the caller holds the lock."""
        self.connection = connect(path, "rwc")
        self.batches = 0
        self.beats = False  # this transaction is a heartbeat: it must write something
        self.unsynced = False  # something was written since the last one
        self.news = True
        self._lock = lock
        self._now = now
        self._full = full
        self._beat_at = float("-inf")
        self._version = _NEVER
        self._rows = 0  # written until the last checkpoint
        try:
            self._prepare(path)
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self, path: Path) -> None:
        execute = self.connection.execute
        if execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            raise ConfigError(f"{path} can't use a write-ahead log here; set [stores.sqlite] path to a local disk")
        execute("PRAGMA wal_autocheckpoint=0")
        execute("PRAGMA synchronous=FULL" if self._full else "PRAGMA synchronous=NORMAL")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """The lock around BEGIN IMMEDIATE ... COMMIT, and a checkpoint now and then. Raises OSError, sqlite3.Error."""
        with self._lock.held():
            with self.locked():
                yield
            self.batches += 1
            rows = self.connection.total_changes - self._rows
            if self.batches % CHECKPOINT_EVERY == 0 or rows >= CHECKPOINT_ROWS:
                self.checkpoint()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """BEGIN IMMEDIATE ... COMMIT for who holds the lock already."""
        execute = self.connection.execute
        self.beats = self.unsynced and abs(self._now() - self._beat_at) >= BEAT_S and not self._full
        if self.beats:
            execute("PRAGMA synchronous=FULL")
        try:
            execute("BEGIN IMMEDIATE")
            version = self._read_version()
            self.news = version != self._version
            self._version = version
            yield
            execute("COMMIT")
        except BaseException:
            self.look_anew()
            with suppress(sqlite3.Error):
                self.connection.rollback()
            raise
        finally:
            if self.beats:
                execute("PRAGMA synchronous=NORMAL")
        if self.beats:
            self._beat_at, self.unsynced = self._now(), False

    def others_wrote(self) -> bool:
        """Without the lock: is there something that the last transaction couldn't see?"""
        with suppress(sqlite3.Error):  # the next transaction says what is wrong
            return self._read_version() != self._version
        return True

    def look_anew(self) -> None:
        """The next transaction has news, whoever wrote."""
        self._version = _NEVER

    def checkpoint(self) -> None:
        """Moves the log into the file; the caller holds the lock."""
        self._rows = self.connection.total_changes
        self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Raises OSError if the lock isn't free in time; the file then stays open."""
        with self._lock.held():
            self.checkpoint()
            self.connection.close()

    def _read_version(self) -> int:
        return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

"""The one connection of a process that writes the ledger: transactions under the lock, checkpoints, the heartbeat.

The heartbeat asks the disk once a second, beside the writing, for all that the log has: a commit that waited for it
under the lock (`synchronous = FULL`) held everybody up for 20 to 50 ms. Where the disk said no, the next commit waits.

Invariant: no commit and no checkpoint without ledger.lock; what was written by this process reaches the disk within a
second or two of its commit. What never enters: what is written.
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
from gateway.stores.sqlite.sync import Sync

# Transactions, or rows written, between two checkpoints: each waits for the disk twice while nobody else may write.
CHECKPOINT_EVERY, CHECKPOINT_ROWS = 1_000, 20_000
_ROW: Final = 1_600  # characters of a text that count as one more row: 32 MB of texts are due, 0.04 s of copying
BEAT_S: Final = 1.0
_NEVER: Final = -1


class Pen:
    """Writes for one thread. `news` says within a transaction whether others wrote since the one before."""

    def __init__(self, path: Path, lock: FairLock, now: Callable[[], float], full: bool) -> None:
        """Opens the file, and makes it where there is none; the caller holds the lock."""
        self.connection = connect(path, "rwc")
        self.batches = 0
        self.proves = False  # this transaction must write something: its commit asks the disk, which had said no
        self.unsynced = False  # something was written since the disk was asked
        self.news = True
        self._lock = lock
        self._now = now
        self._full = full
        self._beat_at = float("-inf")
        self._version = _NEVER
        self._rows = 0  # written until the last checkpoint
        self._sync = Sync(path.with_name(f"{path.name}-wal"))
        self._ready_at = 0  # answers of the disk after which a checkpoint finds the log there; 0: none is due
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
        self._lock.take()  # no `with` inside of this one: each costs a lone operation 3 us
        try:
            self._begin()
            try:
                yield
                self._end()
            except BaseException:
                self._undo()
                raise
            self.batches += 1
            self._beat()
            self._checkpoint_in_time()
        finally:
            self._lock.leave()

    def _beat(self) -> None:
        due = self.unsynced and not self._full and abs(self._now() - self._beat_at) >= BEAT_S
        if due and not self._sync.busy:
            self._beat_at, self.unsynced = self._now(), False
            self._sync.ask()

    def _checkpoint_in_time(self) -> None:
        """Now and then, as soon as the disk has the log: it has to have it first, and nobody may write meanwhile."""
        rows = self.connection.total_changes - self._rows
        if not self._ready_at and (self.batches % CHECKPOINT_EVERY == 0 or rows >= CHECKPOINT_ROWS):
            self._sync.ask()
            self._ready_at = self._sync.asked
        elif self._ready_at and self._sync.done >= self._ready_at:
            try:
                self.checkpoint()
            except sqlite3.Error:  # what was committed stands, and is answered; the next commit asks the disk
                self.proves = True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """BEGIN IMMEDIATE ... COMMIT for who holds the lock already."""
        self._begin()
        try:
            yield
            self._end()
        except BaseException:
            self._undo()
            raise

    def _begin(self) -> None:
        self.proves = self._sync.take_failed() or self.proves
        try:
            if self.proves:
                self.connection.execute("PRAGMA synchronous=FULL")
            self.connection.execute("BEGIN IMMEDIATE")
            version = self._read_version()
        except BaseException:
            self._undo()
            raise
        self.news = version != self._version
        self._version = version

    def _end(self) -> None:
        self.connection.execute("COMMIT")
        self._ask_less()
        self.proves = False

    def _undo(self) -> None:
        self.look_anew()
        with suppress(sqlite3.Error):
            self.connection.rollback()
        self._ask_less()

    def _ask_less(self) -> None:
        if self.proves and not self._full:
            self.connection.execute("PRAGMA synchronous=NORMAL")

    def others_wrote(self) -> bool:
        """Without the lock: is there something that the last transaction couldn't see?"""
        with suppress(sqlite3.Error):  # the next transaction says what is wrong
            return self._read_version() != self._version
        return True

    def look_anew(self) -> None:
        """The next transaction has news, whoever wrote."""
        self._version = _NEVER

    def wrote(self, characters: int) -> None:
        """Rows may be long, and the log must not grow by that: copying 460 MB takes 0.6 s, and nobody may write."""
        self._rows -= characters // _ROW

    def checkpoint(self) -> None:
        """Moves the log into the file; the caller holds the lock."""
        self._rows, self._ready_at = self.connection.total_changes, 0
        self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Raises OSError if the lock isn't free in time; the file then stays open."""
        with self._lock.held():
            self.checkpoint()
            self.connection.close()
        self._sync.close()

    def _read_version(self) -> int:
        return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

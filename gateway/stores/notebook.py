"""The notebook of one projection: a small SQLite file with its cursor and what it remembers, beside the ledger.

Invariant: a write is whole or did not happen, also over a SIGKILL; a file that is damaged or not ours is moved aside
and begun anew, since a notebook can be made again from the journal, as far back as that goes; a disk that is full or a
lock moves none. What never enters: money that nothing else knows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from gateway.core.errors import StoreFailed

APPLICATION_ID: Final = 0x4D424E31  # "MBN1"
VERSION: Final = 1
LOCK_WAIT_S = 5.0
_TABLES: Final = (
    "CREATE TABLE kept (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE cursor (seq INTEGER NOT NULL)",
    "INSERT INTO cursor VALUES (0)",
    f"PRAGMA user_version = {VERSION}",
    f"PRAGMA application_id = {APPLICATION_ID}",
)
# Primary result codes that say nothing against the file: it is there when the disk has room again, or the lock is gone.
_OF_THE_MOMENT: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_READONLY,
    }
)  # fmt: skip
_BETWEEN: Final = "SELECT key, value FROM kept WHERE key >= ? AND key < ? ORDER BY key"


class SqliteNotebook:
    """Implements ports.Notebook over one file; made on first use, its folder too. One thread at a time."""

    def __init__(self, path: Path, read_only: bool = False, moved: Callable[[Path], None] | None = None) -> None:
        """moved: told where a file was put that could not be used. Raises StoreFailed; read-only also where there is
        none."""
        self.path = path
        self._file = path
        try:
            self._connection = self._opened(read_only, moved)
            self._cursor: int = self._connection.execute("SELECT seq FROM cursor").fetchone()[0]
        except (sqlite3.Error, OSError) as error:
            raise StoreFailed(f"the notebook {path} can't be used: {error}") from error

    @property
    def cursor(self) -> int:
        """See `ports.Notebook`."""
        return self._cursor

    def get(self, key: str) -> bytes | None:
        """What is kept under a key."""
        rows = self._ask("SELECT key, value FROM kept WHERE key = ?", (key,))
        return rows[0][1] if rows else None

    def all(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """See `ports.Notebook`."""
        yield from self._ask(_BETWEEN, (prefix, prefix + "\U0010ffff"))

    def write(self, changes: Mapping[str, bytes | None], cursor: int | None = None) -> None:
        """See `ports.Notebook`."""
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            try:
                kept = [(key, value) for key, value in changes.items() if value is not None]
                gone = [(key,) for key, value in changes.items() if value is None]
                self._connection.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", kept)
                self._connection.executemany("DELETE FROM kept WHERE key = ?", gone)
                if cursor is not None:
                    execute("UPDATE cursor SET seq = ?", (cursor,))
                execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise StoreFailed(f"the notebook {self.path} can't be written: {error}") from error
        if cursor is not None:
            self._cursor = cursor

    def close(self) -> None:
        """Lets go of the file."""
        self._connection.close()

    def _ask(self, sql: str, values: tuple[str, ...]) -> list[tuple[str, bytes]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreFailed(f"the notebook {self.path} can't be read: {error}") from error

    def _opened(self, read_only: bool, moved: Callable[[Path], None] | None) -> sqlite3.Connection:
        if read_only:
            return self._connect("ro")
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = self._connect("rwc")
        try:
            if self._ours(connection):
                return connection
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in _OF_THE_MOMENT:
                connection.close()
                raise
        connection.close()
        aside = self._file.with_suffix(f"{self._file.suffix}.aside")
        self._file.replace(aside)
        for tail in ("-wal", "-shm"):
            self._file.with_name(self._file.name + tail).unlink(missing_ok=True)
        if moved is not None:
            moved(aside)
        connection = self._connect("rwc")
        self._ours(connection)
        return connection

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{quote(str(self._file))}?mode={mode}", LOCK_WAIT_S, 0, None, False, uri=True)

    @staticmethod
    def _ours(connection: sqlite3.Connection) -> bool:
        """Can it be used? An empty file gets its tables."""
        execute = connection.execute
        execute("PRAGMA journal_mode=WAL").fetchall()
        execute("PRAGMA synchronous=NORMAL")
        if not execute("SELECT 1 FROM sqlite_master").fetchone():
            execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                execute(statement)
            execute("COMMIT")
        ours = execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        return bool(
            ours
            and execute("PRAGMA user_version").fetchone()[0] == VERSION
            and execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        )

"""The audit of a live ledger: once an hour among all its processes, beside the serving, never in its way.

Whoever comes first in an hour writes that it was his turn, and reads the whole file in a thread of its own over a
read-only connection: one read transaction, so one instant, whatever is written meanwhile.
Invariant: an audit changes nothing and stops nothing; what it found is kept until somebody takes it. What never enters:
repair, the loop, the thread that writes.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

from gateway.core.errors import StoreFailed
from gateway.core.ledger.audit_sql import audit_tables
from gateway.stores.sqlite.file import connect

HOUR_S: Final = 3600.0
ASK_S: Final = 60.0  # between two looks whether it is anybody's turn
SWEPT_S: Final = 60.0  # a hold this long past its deadline outlived many sweeps
FOUND_MOST: Final = 1000  # sentences; a ledger this wrong needs a person, not a longer list

Execute = Callable[[str, Sequence[Any]], sqlite3.Cursor]


def audit_file(
    path: Path, overdue: float | None = None, opened: Callable[[sqlite3.Connection], None] = lambda _: None
) -> list[str]:
    """What is wrong with the balances as they are on disk at one instant; reads all of it, from any thread.

    opened: told the connection, so that somebody else may interrupt it. Raises StoreFailed where it can't be read.
    """
    try:
        with closing(connect(path, "ro")) as connection:
            opened(connection)
            connection.execute("BEGIN")
            return list(islice(audit_tables(connection.execute, overdue), FOUND_MOST))
    except sqlite3.Error as error:
        raise StoreFailed(f"the ledger {path} can't be read: {error}") from error


class Auditor:
    """`chore` goes into `SqliteStore.chores`; `take` gives what the last audit found, once."""

    def __init__(self, path: Path, every_s: float = HOUR_S) -> None:
        self._path = path
        self._every_s = every_s
        self._asked_at = float("-inf")
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._found: list[str] | None = None
        self._stopped = False

    def chore(self, execute: Execute, now: float) -> bool:
        """Begins an audit if the last one of any process is an hour old. There is never more to do at once."""
        if abs(now - self._asked_at) < ASK_S or self._runs():
            return False
        self._asked_at = now
        last = execute("SELECT value FROM meta WHERE name = 'audited_at'", ()).fetchone()
        if last is not None and abs(now - last[0]) < self._every_s:
            return False
        execute("INSERT OR REPLACE INTO meta VALUES ('audited_at', ?)", (now,))
        if last is not None:  # a ledger is first audited an hour after it was made
            self._thread = threading.Thread(target=self._audit, args=(now,), name="ledger-audit", daemon=True)
            self._thread.start()
        return False

    def take(self) -> list[str] | None:
        """What the audit that ended found, in words; [] if all is sound; None if none has ended since the last look."""
        found, self._found = self._found, None
        return found

    def stop(self, within_s: float = 2.0) -> None:
        """Breaks off what is under way."""
        self._stopped = True
        if self._thread is not None and self._runs():
            with suppress(sqlite3.Error):  # it closed its connection just now
                if self._connection is not None:
                    self._connection.interrupt()
            self._thread.join(within_s)

    def _runs(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _audit(self, now: float) -> None:
        try:
            found = audit_file(self._path, now - SWEPT_S, self._opened)
        except StoreFailed as error:
            found = [str(error)]
        if not self._stopped:
            self._found = found

    def _opened(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

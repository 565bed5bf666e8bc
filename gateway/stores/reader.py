"""The ledger's file for a reader in another process: one read-only connection, nothing of the engine.

Invariant: no statement runs longer than its rows are read, so that no checkpoint waits for it; what goes wrong is
StoreFailed. What never enters: a write, a lock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.core.errors import StoreFailed
from gateway.core.ledger.reading import SqlReading


class LedgerReader(SqlReading):
    """Implements ports.Reading over a file that another process writes. One thread at a time."""

    def __init__(self, path: Path) -> None:
        """Raises StoreFailed where there is no such file."""
        self.path = path
        try:
            self._connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", 5.0, 0, None, False, uri=True)
        except sqlite3.Error as error:
            raise StoreFailed(f"the ledger {path} can't be opened: {error}") from error
        super().__init__(self._rows)

    def close(self) -> None:
        """Lets go of the file."""
        self._connection.close()

    def _rows(self, sql: str, values: Sequence[Any]) -> list[Any]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreFailed(f"the ledger {self.path} can't be read: {error}") from error

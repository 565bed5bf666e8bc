"""What the ledger stands on: whether this folder and this file can be trusted, and how the file is opened.

Invariant: a file that can't be trusted is named and left as it is. What never enters: a write, a decision about money.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from gateway.core.errors import ConfigError, StoreFailed
from gateway.core.ledger.ground import ADVICE, complaint_on_file, complaint_on_mount, damaged
from gateway.stores.sqlite.lock import take


def refuse_bad_ground(lock_file: Path) -> None:
    """Raises ConfigError where locks can't be relied on. The caller holds the lock."""
    folder = lock_file.parent.resolve()
    mounts = Path("/proc/mounts")
    said = mounts.read_text("utf-8", "replace") if mounts.exists() else ""
    if (complaint := complaint_on_mount(said, str(folder))) is not None:
        raise ConfigError(complaint)
    if take(lock_file) is not None:
        raise ConfigError(f"{folder} does not honour flock: a lock that is held could be taken again; {ADVICE}")


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection in SQLite's mode `ro` or `rwc`, usable from any thread, without transactions of its own."""
    file = f"file:{quote(str(path))}?mode={mode}"
    return sqlite3.connect(file, 5.0, 0, None, False, cached_statements=512, uri=True)


def refuse_bad_file(path: Path, check: bool, made: bool) -> None:
    """Raises StoreFailed for a file that isn't ours, is newer than we are, or is damaged. Opens it read-only.

    made: it had its tables once. Else it may be what a process left that was killed while it made the file.
    """
    try:
        with closing(connect(path, "ro")) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            ours = connection.execute("PRAGMA application_id").fetchone()[0]
            if not (made or ours or version or connection.execute("SELECT 1 FROM sqlite_master").fetchone()):
                return
            rows = connection.execute("PRAGMA quick_check(3)").fetchall() if check else [("ok",)]
    except sqlite3.Error as error:
        raise StoreFailed(damaged(str(path), str(error))) from error
    said = "; ".join(str(row[0]) for row in rows)
    if (complaint := complaint_on_file(str(path), ours, version, said)) is not None:
        raise StoreFailed(complaint)

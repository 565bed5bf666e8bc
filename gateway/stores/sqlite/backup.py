"""A copy of the ledger while gateways work on it: `VACUUM INTO`, which reads one instant of the file (ADR 0009).

ledger.lock is held while the connection is opened and closed, not while the copy is written: a reader of a write-ahead
log stands in nobody's way, and whoever held the lock for the whole copy would close admission. Meanwhile checkpoints
get no further than that instant, so the log grows by what is written.
Invariant: the copy stands under its name only once it is whole and synced; nothing that exists is written over. What
never enters: a write to the ledger.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.core.errors import ConfigError, StoreFailed
from gateway.stores.sqlite.file import connect, refuse_bad_file
from gateway.stores.sqlite.lock import FairLock

LOCK_S: Final = 10.0  # for gateways under load: each batch lets go of it after a few milliseconds


def back_up(ledger: Path, target: Path) -> None:
    """Copies the ledger to a file that must not exist. Raises ConfigError where one of the names can't be used,
    StoreFailed where the copy fails; then there is no target."""
    if not ledger.is_file():
        raise ConfigError(f"there is no ledger at {ledger}; set [stores.sqlite] path, or start the gateway once")
    if target.exists():
        raise ConfigError(f"{target} exists already; name a file that doesn't, or move it away first")
    part = target.with_name(f"{target.name}.part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # as private as the ledger itself
    except FileExistsError as error:
        raise ConfigError(f"{part} exists: another backup is under way, or died; if it died, delete it") from error
    except OSError as error:
        raise ConfigError(f"can't write to {target.parent}: {error.strerror}") from error
    try:
        _copy(ledger, part)
        if target.exists():
            raise ConfigError(f"{target} has come into being meanwhile; it was left as it is")
        part.rename(target)
        _sync(target.parent)
    except (OSError, sqlite3.Error) as error:
        raise StoreFailed(f"the backup of {ledger} to {target} failed: {error}; nothing was left there") from error
    finally:
        part.unlink(missing_ok=True)


def _copy(ledger: Path, part: Path) -> None:
    lock = FairLock(ledger.with_suffix(".lock"))
    try:
        with lock.held(LOCK_S):
            refuse_bad_file(ledger, check=False, made=True)
            connection = connect(ledger, "ro")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens the log, mends it after a kill
        try:
            connection.execute("VACUUM INTO ?", (str(part),))
        finally:
            with lock.held(LOCK_S):
                connection.close()
    finally:
        lock.close()
    _sync(part)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    with suppress(OSError):  # a folder that can't be synced: the name may be lost with the power, the copy is whole
        os.fsync(descriptor)
    os.close(descriptor)

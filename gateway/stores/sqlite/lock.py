"""ledger.lock: one writer at a time among all processes of a host, by flock.

Invariant: the lock is held exactly as long as a `with` block lasts; the kernel frees it when a process dies. What never
enters: SQLite, a decision about what is done under the lock.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

WAIT_S: Final = 2.0  # then admission closes (ledger.md section 7)
PAUSE_S: Final = 0.005


def take(file: Path) -> int | None:
    """Locks a file for as long as the descriptor lives; None if somebody else holds it."""
    lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


class FairLock:
    """The lock of one file for one thread; another thread needs one of its own."""

    def __init__(self, file: Path, wait_s: float = WAIT_S) -> None:
        self.file = file
        self.wait_s = wait_s
        self._lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._pause = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds it for the block. Raises OSError if it wasn't free within `wait_s`."""
        for _ in range(max(1, round(self.wait_s / PAUSE_S))):
            with suppress(BlockingIOError):
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            self._pause.wait(PAUSE_S)
        else:
            raise OSError(f"{self.file.name} was not free within {self.wait_s:g} s: another process holds it")
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Lets the file go."""
        os.close(self._lock)

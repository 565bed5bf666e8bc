"""The folder of the projections beside a ledger: one process at a time works in it, for one ledger.

Invariant: the lock goes with the process that holds it; two processes that count from the same notebooks would count
twice. What never enters: what lies in the notebooks.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from gateway.core.errors import StoreFailed

LOCK: Final = "lock"
METRICS_FILE: Final = "metrics.txt"  # what /metrics passes on
_MOST_BYTES: Final = 4_096


def folder_of(ledger: Path) -> Path:
    """Where the notebooks of a ledger lie."""
    return ledger.parent / "projections"


class Folder:
    """Made on first use, for its owner only."""

    def __init__(self, ledger: Path) -> None:
        self.path = folder_of(ledger)
        self._ledger = ledger.name.encode()
        self._lock: int | None = None

    def take(self) -> bool:
        """Takes it if no other process has it. Raises StoreFailed where it belongs to another ledger, or can't be
        used."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            owner = os.pread(lock, _MOST_BYTES, 0)
            if not owner:
                os.pwrite(lock, self._ledger, 0)
        except OSError as error:
            raise StoreFailed(f"the folder {self.path} can't be used ({error.strerror})") from error
        if owner not in (b"", self._ledger):
            os.close(lock)
            raise StoreFailed(
                f"the folder {self.path} has the notebooks of the ledger {owner.decode('utf-8', 'replace')}: give each "
                "ledger a folder of its own"
            )
        self._lock = lock
        return True

    def leave(self) -> None:
        """Lets it go."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

"""The disk's word that what was written is there, asked for beside the writing: fsync in a thread of its own.

Invariant: one file, one question at a time; what failed is told once. What never enters: a lock, a transaction.
"""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path


class Sync:
    """Asks for one file. `asked` and `done` count questions and answers."""

    def __init__(self, file: Path) -> None:
        self.asked = self.done = 0
        self._file = file
        self._failed = False
        self._errands: queue.SimpleQueue[bool] | None = None  # False: end

    @property
    def busy(self) -> bool:
        """The disk has not answered yet."""
        return self.asked != self.done

    def ask(self) -> None:
        """All that was written to the file until now shall be on the disk soon."""
        self.asked += 1
        if self._errands is None:
            self._errands = queue.SimpleQueue()
            threading.Thread(target=self._run, args=(self._errands,), name="ledger-sync", daemon=True).start()
        self._errands.put(True)

    def take_failed(self) -> bool:
        """Did the disk say no since the last look?"""
        failed, self._failed = self._failed, False
        return failed

    def close(self) -> None:
        """Ends the thread, after its answer."""
        if self._errands is not None:
            self._errands.put(False)

    def _run(self, errands: queue.SimpleQueue[bool]) -> None:
        while errands.get():
            try:
                file = os.open(
                    self._file, os.O_RDONLY | os.O_CLOEXEC
                )  # SQLite keeps no lock on its log: closing is safe
                try:
                    os.fsync(file)
                finally:
                    os.close(file)
            except FileNotFoundError:
                pass  # the log is gone because all of it stands in the file
            except OSError:
                self._failed = True
            self.done += 1

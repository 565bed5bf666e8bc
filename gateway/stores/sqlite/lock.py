"""ledger.lock: one writer at a time among all processes of a host, by flock.

Who finds the lock taken queues for it in the kernel, in a thread of its own, because flock knows no time limit; the
file beside it (`.turn`) is held by the one who is next, so that whoever just let go can't take it again before him.

Invariant: the lock is held exactly as long as a `with` block lasts, and the kernel frees it when a process dies: what
was asked for and comes too late is used by the next block, or let go at once. What never enters: SQLite, a decision
about what is done under the lock.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

WAIT_S: Final = 2.0  # then admission closes (ledger.md section 7)


def take(file: Path) -> int | None:
    """Locks a file for as long as the descriptor lives; None if somebody else holds it."""
    lock = _opened(file)
    if is_free(lock):
        return lock
    os.close(lock)
    return None


def _opened(file: Path) -> int:
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def is_free(lock: int) -> bool:
    """Takes the lock of this descriptor if nobody else has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class FairLock:
    """The lock of one file for one thread; another thread needs one of its own. Not to be taken again inside."""

    def __init__(self, file: Path, wait_s: float = WAIT_S) -> None:
        self.file = file
        self.wait_s = wait_s
        self._lock = _opened(file)
        self._turn = _opened(file.with_suffix(".turn"))
        self._mutex = threading.Lock()
        self._errands: queue.SimpleQueue[bool] | None = None  # True: queue for the lock; False: end
        self._queued = False  # the thread is on its errand
        self._wanted = False  # somebody waits for it here
        self._granted = threading.Event()

    @contextmanager
    def held(self, wait_s: float | None = None) -> Iterator[None]:
        """Holds it for the block. Raises OSError if it wasn't free within `wait_s` (None: the lock's own)."""
        self.take(wait_s)
        try:
            yield
        finally:
            self.leave()

    def take(self, wait_s: float | None = None) -> None:
        """From now on it is held. Raises as `held`; whoever takes it leaves it, whatever happens."""
        most = self.wait_s if wait_s is None else wait_s
        if not self._at_once() and not self._in_time(most):
            raise OSError(f"{self.file.name} was not free within {most:g} s: another process holds it")

    def leave(self) -> None:
        """Lets the next one in."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Lets the files go, at the latest when the errand that is under way has ended."""
        with self._mutex:
            if self._errands is None:
                self._let_go()
            else:
                self._errands.put(False)

    def _at_once(self) -> bool:
        """Nobody holds it and nobody is next."""
        with self._mutex:
            if self._queued or not is_free(self._turn):
                return False
            free = is_free(self._lock)
            fcntl.flock(self._turn, fcntl.LOCK_UN)
            return free

    def _in_time(self, wait_s: float) -> bool:
        with self._mutex:
            self._wanted = True
            if not self._queued:
                self._queued = True
                if self._errands is None:
                    self._errands = queue.SimpleQueue()
                    threading.Thread(target=self._run_errands, name="ledger-lock", daemon=True).start()
                self._errands.put(True)
        self._granted.wait(wait_s)
        with self._mutex:
            self._wanted = False
            got = self._granted.is_set()
            self._granted.clear()
            return got

    def _run_errands(self) -> None:
        assert self._errands is not None
        while self._errands.get():
            fcntl.flock(self._turn, fcntl.LOCK_EX)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            fcntl.flock(self._turn, fcntl.LOCK_UN)
            with self._mutex:
                self._queued = False
                if self._wanted:
                    self._granted.set()
                else:  # he who asked has given up
                    fcntl.flock(self._lock, fcntl.LOCK_UN)
        self._let_go()

    def _let_go(self) -> None:
        os.close(self._lock)
        os.close(self._turn)

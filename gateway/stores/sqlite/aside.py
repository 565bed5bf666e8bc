"""Where captured contents wait for the ledger's thread: behind all that somebody waits for, a part at a time.

In one queue with money, the 8 MiB of a long history's first call were one transaction of 64 operations, and whoever
came behind it waited for all of them.

Invariant: bounded in size, in order; from any thread in, by one thread out. What never enters: money.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from gateway.core.ledger import contents
from gateway.core.ledger.desk import Op

WAITING_MOST: Final = 32 << 20  # characters of what waits; what comes then is lost, and said
BATCH_MOST: Final = 128 << 10  # characters after which a transaction takes no more: with its last part 384 Ki


class Aside:
    """Operations of `contents.keep`, in their order."""

    def __init__(self, most: int = WAITING_MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._ops: deque[tuple[Op, int]] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._ops)

    def put(self, op: Op) -> bool:
        """Is there room? Then it waits here."""
        size = contents.size_of(op.args[0])
        with self._lock:
            if self._size + size > self._most:
                return False
            self._size += size
            self._ops.append((op, size))
            return True

    def take(self, whole: bool = False) -> list[Op]:
        """The next ones, as many as may go with one batch; or all."""
        taken: list[Op] = []
        if not self._ops:  # nothing is captured: no lock
            return taken
        with self._lock:
            room = self._size + 1 if whole else BATCH_MOST
            while self._ops and room > 0:
                op, size = self._ops.popleft()
                self._size -= size
                room -= size
                taken.append(op)
        return taken


def nothing(_book: object, _now: float) -> None:
    """An operation that wakes the thread."""

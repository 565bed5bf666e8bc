"""The only source of time, ids and chance.

Invariant: ids of one process sort by the millisecond in which they were made, also when the wall clock steps back. What
never enters: sleeping, timers (edge/tasks.py), a decision that depends on the time.
"""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, as ULIDs have it: no i, l, o, u
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_TIME_SHIFTS = (40, 30, 20, 10, 0)  # as in a ULID: 48 bits of milliseconds, 80 of chance
_CHANCE_BYTES = 10
_CHANCE_SHIFTS = (70, 60, 50, 40, 30, 20, 10, 0)


class SystemClock:
    """The machine's clocks. Implements ports.Clock."""

    def __init__(self) -> None:
        self._last_ms = 0
        self._pool = b""  # chance read ahead: the system call costs more than all the rest of an id
        self._stamp = ""  # the last millisecond, spelled: made once for all ids of that millisecond

    def now(self) -> float:
        """Epoch seconds; may step back when the machine's clock is set."""
        return time.time()

    def mono(self) -> float:
        """Seconds that never step back; only differences mean something."""
        return time.monotonic()

    def seed(self) -> int:
        """64 bits that nobody outside can guess: for hashes that outsiders choose the input of."""
        return secrets.randbits(64)

    def new_id(self, prefix: str) -> str:
        """`prefix_` and 26 letters: milliseconds, then chance."""
        ms = time.time_ns() // 1_000_000
        if ms > self._last_ms:
            self._last_ms = ms
            self._stamp = "".join([_PAIRS[ms >> shift & 1023] for shift in _TIME_SHIFTS])
        if len(self._pool) < _CHANCE_BYTES:
            self._pool = secrets.token_bytes(_CHANCE_BYTES * 128)
        chance = int.from_bytes(self._pool[-_CHANCE_BYTES:], "big")
        self._pool = self._pool[:-_CHANCE_BYTES]
        return f"{prefix}_{self._stamp}{''.join([_PAIRS[chance >> shift & 1023] for shift in _CHANCE_SHIFTS])}"


def last_id(prefix: str, at: float) -> str:
    """What sorts behind every id that was made up to this instant, and before those that are made later."""
    ms = int(at * 1000)
    return f"{prefix}_{''.join([_PAIRS[ms >> shift & 1023] for shift in _TIME_SHIFTS])}~"

"""How fast a run spends: one figure a run, so that a rate is known without keeping calls.

Invariant: what is kept of a run is constant, and of so many runs at most; time only lowers a pace. What never enters:
what is done about it, exact money (a pace is an estimate in whole nano-dollars, the ledger has the sums).

The pace is the spending of the last minutes, each dollar counting less the older it is (it halves every four minutes),
as if it went on for an hour. A steady $50/h is known for more than $10/h after 80 s, a steady $12/h after 11 minutes.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from msgspec import Struct

MOST_RUNS: Final = 10_000
TAU_S: Final = 360.0
HOUR_S: Final = 3_600.0
IDLE_S: Final = 10 * TAU_S  # nothing is left of a pace then
OVER: Final = 0.5  # a pace is over below this part of the limit, so that one that wavers is one episode


class Pace(Struct):
    """Of one run. recent: what counts still of what it spent, at that instant; calls: since it was at rest."""

    recent_nusd: int
    at: float
    calls: int = 0

    def per_h(self, now: float) -> int:
        """Nano-dollars an hour at this pace."""
        return int(self._left(now) * HOUR_S / TAU_S)

    def spend(self, nusd: int, at: float) -> None:
        """A call was settled."""
        if at - self.at > IDLE_S:
            self.calls = 0
        self.recent_nusd = self._left(at) + nusd
        self.at = max(self.at, at)
        self.calls += 1

    def _left(self, now: float) -> int:
        return int(self.recent_nusd * math.exp(-max(0.0, now - self.at) / TAU_S))


class Paces:
    """The paces of all runs that spent something lately."""

    def __init__(self, limit_nusd: int, known: dict[str, Pace] | None = None) -> None:
        self.limit = limit_nusd
        self._of: OrderedDict[str, Pace] = OrderedDict(sorted((known or {}).items(), key=lambda item: item[1].at))
        self.dirty: dict[str, Pace | None] = {}

    def spend(self, run: str, nusd: int, at: float) -> int | None:
        """A run's call cost so much: its pace an hour, where that is above the limit.

        One call is no pace, unless it alone costs what an hour may.
        """
        pace = self._of.get(run)
        if pace is None:
            pace = self._of[run] = Pace(0, at)
        self._of.move_to_end(run)
        pace.spend(nusd, at)
        self.dirty[run] = pace
        if len(self._of) > MOST_RUNS:
            self.forget(next(iter(self._of)))
        rate = pace.per_h(at)
        return rate if rate > self.limit and (pace.calls > 1 or nusd > self.limit) else None

    def slow(self, run: str, now: float) -> bool:
        """Has it fallen well below the limit?"""
        pace = self._of.get(run)
        return pace is None or pace.per_h(now) < self.limit * OVER

    def forget(self, run: str) -> None:
        """The run has ended."""
        if self._of.pop(run, None) is not None:
            self.dirty[run] = None

    def sweep(self, now: float) -> None:
        """Lets go of runs that spent nothing for an hour: the oldest stand first."""
        while self._of:
            run, pace = next(iter(self._of.items()))
            if now - pace.at < IDLE_S:
                return
            self.forget(run)

    def take(self) -> dict[str, Pace | None]:
        """What changed since the last time."""
        changed, self.dirty = self.dirty, {}
        return changed

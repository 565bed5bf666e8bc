"""What drives a projection: reads the journal behind its cursor, hands it on in batches, and comes again when it fails.

A projection that was stopped by a failure of its own, or of its notebook, is made anew from its notebook before it is
asked again: half of a batch in memory must not be counted twice. Where nobody takes what it tells (UpstreamFailed) it
is handed the same batch after a pause. After a defect a batch is gone through one by one, so that the log can name the
entry that can't be worked in.

Invariant: nothing is skipped: the cursor is the projection's own, and what it doesn't move past comes again; a pause is
at most MOST_PAUSE_S, or what the destination asked for up to MOST_ASKED_S. What never enters: what an entry means.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

from msgspec import Struct

from gateway.core.errors import MeterboxError, StoreFailed, UpstreamFailed
from gateway.core.ports import Clock, Projection, Reading
from gateway.core.telemetry.health import Health
from gateway.core.types import Entry
from gateway.edge.log import failure

BATCH = 500
LOOK_S = 0.2
LEAST_PAUSE_S = 0.5
MOST_PAUSE_S = 30.0
MOST_ASKED_S = 300.0  # a Retry-After above is kept to so long
LEAST_TICK_S, MOST_TICK_S = 0.05, 60.0
LAST_S = 3.0  # at the end: what came last is told, if that goes in so long


class Opened(Struct, frozen=True):
    """A projection over its notebook, and the journal: used by one thread, until the context ends."""

    projection: Projection
    reading: Reading


class House(Struct, frozen=True):
    """What all drivers of a process share. chance: from 0 to 1, for pauses that don't march in step."""

    clock: Clock
    chance: Callable[[], float]
    log: Callable[[str, dict[str, Any]], None]
    health: Health


class _Turn:
    """One of the two things that a driver does again and again: reading, ticking."""

    def __init__(self, work: Callable[[], float]) -> None:
        self.work = work
        self.due_at = 0.0
        self.failures = 0
        self.failing_since = 0.0
        self.kind: type[Exception] | None = None


class Driver:
    """Drives one projection. `round` does what is due; `run` does so until it is told to stop."""

    def __init__(self, name: str, opens: Callable[[], AbstractContextManager[Opened]], house: House) -> None:
        self.name = name
        self._opens = opens
        self._house = house
        self._context: AbstractContextManager[Opened] | None = None
        self._opened: Opened | None = None
        self._batch: Sequence[Entry] = ()
        self._base = -1  # the cursor behind which the batch begins
        self._singly_to = 0  # up to this number entries are handed on one by one
        self._reading, self._ticking = _Turn(self._read), _Turn(self._tick)

    def run(self, stop: threading.Event) -> None:
        """On a thread of its own. Never raises."""
        try:
            while not stop.wait(self.round()):
                pass
            self._last_look()
        finally:
            self._close()

    def round(self) -> float:
        """Does what is due; gives back for how many seconds nothing is."""
        for turn in (self._reading, self._ticking):
            if turn.due_at <= self._house.clock.mono():
                self._take(turn)
        return max(0.0, min(self._reading.due_at, self._ticking.due_at) - self._house.clock.mono())

    def _take(self, turn: _Turn) -> None:
        clock = self._house.clock
        if turn is self._ticking and self._opened is None:  # it can't be opened: the other turn says why, once
            turn.due_at = self._reading.due_at
            return
        try:
            wait_s = turn.work()
        except UpstreamFailed as error:
            self._failed(turn, error)
        except Exception as error:  # noqa: BLE001  counted in `failures`, said in the log, never skipped
            self._singly_to = self._batch[-1].seq if self._batch and not isinstance(error, MeterboxError) else 0
            self._failed(turn, error)
            self._close()
        else:
            turn.due_at = clock.mono() + wait_s
            if turn.failures:
                turn.failures, turn.kind = 0, None
                told = {"projection": self.name, "after_s": round(clock.mono() - turn.failing_since, 1)}
                self._house.log("projection_recovered", told)
                self._tell_failures()

    def _failed(self, turn: _Turn, error: Exception) -> None:
        clock = self._house.clock
        turn.failures += 1
        if turn.failures == 1:
            turn.failing_since = clock.mono()
        pause_s = min(LEAST_PAUSE_S * 2.0 ** min(turn.failures - 1, 16), MOST_PAUSE_S)
        asked_s = (error.wait_s or 0.0) if isinstance(error, UpstreamFailed) else 0.0
        turn.due_at = clock.mono() + max(pause_s * (1.0 - self._house.chance() / 2.0), min(asked_s, MOST_ASKED_S))
        why = str(error) if isinstance(error, MeterboxError) else failure(error)
        doubled = not isinstance(error, MeterboxError) and turn.failures & (turn.failures - 1) == 0
        if doubled or turn.kind is not type(error):
            told: dict[str, Any] = {"projection": self.name, "why": why, "failures": turn.failures}
            if turn is self._reading and len(self._batch) == 1:
                told["entry"] = self._batch[0].seq
            self._house.log("projection_failed", told)
        turn.kind = type(error)
        self._tell_failures(why)

    def _tell_failures(self, why: str = "") -> None:
        failing = [turn for turn in (self._reading, self._ticking) if turn.failures]
        now, mono = self._house.clock.now(), self._house.clock.mono()
        since = min((now - (mono - turn.failing_since) for turn in failing), default=None)
        most = max((turn.failures for turn in failing), default=0)
        self._house.health.tell(self.name, failures=most, failing_since=since, **({"last_error": why} if why else {}))

    # ----------------------------------------------------------------------- the two turns

    def _read(self) -> float:
        projection, reading = self._open()
        base = projection.cursor
        if base != self._base or not self._batch:
            self._batch = reading.entries(base, limit=1 if base < self._singly_to else BATCH)
            self._base = base
        entries = self._batch
        newest = reading.ends()[1] if entries or base else 0
        self._tell_backlog(base, newest, entries)
        if not entries:
            if 0 < newest < base:
                raise StoreFailed(
                    f"its cursor {base} is ahead of the journal's end {newest}: is this another ledger, or an older "
                    "copy of it? See docs/telemetry.md, rebuilding"
                )
            return LOOK_S
        projection.apply(entries)
        if projection.cursor <= base:
            raise StoreFailed(f"entry {entries[0].seq}: taken, and the cursor stayed at {base}")
        self._miss(base, [entry for entry in entries if entry.seq <= projection.cursor])
        self._batch = ()
        self._tell_backlog(projection.cursor, newest, entries[-1:] if projection.cursor < newest else ())
        return 0.0 if projection.cursor < newest else LOOK_S

    def _tick(self) -> float:
        projection, _ = self._open()
        return min(max(projection.tick(self._house.clock.now()), LEAST_TICK_S), MOST_TICK_S)

    def _miss(self, base: int, entries: Sequence[Entry]) -> None:
        """Counts what the journal had forgotten before it was read. Nobody was promised what came before the first."""
        first = base if base else entries[0].seq - 1
        missing = entries[-1].seq - first - len(entries)
        if missing <= 0:
            return
        lost = self._house.health.of(self.name).lost
        if not lost:
            told = {"projection": self.name, "after": base, "goes_on_at": entries[0].seq, "entries": missing}
            self._house.log("journal_forgotten", told)
        self._house.health.tell(self.name, lost=lost + missing)

    def _tell_backlog(self, cursor: int, newest: int, waiting: Sequence[Entry]) -> None:
        behind = max(0, newest - cursor) if waiting else 0
        self._house.health.tell(
            self.name,
            cursor=cursor,
            behind=behind,
            oldest_at=waiting[0].at if waiting else None,
            behind_bytes=behind * sum(len(entry.data) for entry in waiting) // len(waiting) if waiting else 0,
        )

    # ----------------------------------------------------------------------- its life

    def _open(self) -> tuple[Projection, Reading]:
        if self._opened is None:
            self._batch, self._base = (), -1
            context = self._opens()
            self._opened = context.__enter__()
            self._context = context
        return self._opened.projection, self._opened.reading

    def _close(self) -> None:
        context, self._context, self._opened = self._context, None, None
        if context is not None:
            with suppress(Exception):  # what can't be let go is let go by the end of the process
                context.__exit__(None, None, None)

    def _last_look(self) -> None:
        """What came since: told now, unless nobody takes it. What isn't comes at the next start."""
        clock = self._house.clock
        ends_at = clock.mono() + LAST_S
        while not self._reading.failures and clock.mono() < ends_at:
            self._take(self._reading)
            if not self._house.health.of(self.name).behind:
                break
        if not self._ticking.failures and clock.mono() < ends_at:
            self._take(self._ticking)


def drive(drivers: Sequence[Driver], stop: threading.Event, log: Callable[[str, dict[str, Any]], None]) -> None:
    """Runs each on a thread of its own until `stop`, and then as long as their last look takes."""
    threads = [threading.Thread(target=one.run, args=(stop,), name=one.name, daemon=True) for one in drivers]
    for thread in threads:
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join(LAST_S)
    if left := [thread.name for thread in threads if thread.is_alive()]:
        log("projections_cut", {"projections": ", ".join(left)})

"""Where captured calls wait, and the thread that makes them into messages and hands those to the ledger.

A thread of its own, not the ledger's: reading and redacting a long answer takes milliseconds, and for so long nobody's
money would settle. It rests between two texts, since the walk needs the interpreter that it holds.

Invariant: a walk never waits for it; what is kept here is bounded in calls and bytes, and what finds no room is counted
and said. What never enters: how messages are read (core/capture.py), a write that money would wait for.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from gateway.core.capture import Said, Scribe, parts
from gateway.core.ports import Clock, Store

CALLS_MOST: Final = 1_000  # that wait for the thread
BYTES_MOST: Final = 64 << 20  # of answers under way and of calls that wait, together
REST_S: Final = 0.0002  # between two texts
CLOSE_S: Final = 2.0  # a stop waits so long for what is still to be written
LOOK_S: Final = 10.0  # between two lines of the log about what was lost


class Capture:
    """Implements core.capture.Ear. `room`, `take` and `look` are the loop's; the thread begins with the first call."""

    def __init__(self, store: Store, clock: Clock, log: Callable[[str, dict[str, Any]], None]) -> None:
        self.dropped = 0  # calls for which there was no room, or at the end no time
        self._store = store
        self._clock = clock
        self._log = log
        self._inbox: queue.SimpleQueue[Said | None] = queue.SimpleQueue()
        self._taken = self._done = 0  # bytes: counted up by the loop, and by the thread
        self._came = self._gone = 0  # calls, likewise
        self._lost = self._failed = 0  # calls that the store did not take, or that could not be read: the thread's own
        self._missing = ""  # the call that was lost last: it is one, however many parts it had
        self._why = ""  # of the call that could not be read last
        self._said = 0
        self._lock = threading.Lock()
        self._stop, self._late = threading.Event(), threading.Event()
        self._forget = threading.Event()
        self._scribe = Scribe(lambda: _rest(self._stop))
        self._thread: threading.Thread | None = None

    @property
    def lost(self) -> int:
        """Calls whose content was not written down."""
        return self.dropped + self._lost + self._failed

    def room(self, size: int) -> bool:
        """See core.capture.Ear."""
        if self._taken - self._done + size > BYTES_MOST:
            return False
        self._taken += size
        return True

    def take(self, said: Said) -> None:
        """See core.capture.Ear."""
        fits = self._inbox.qsize() < CALLS_MOST and self.room(len(said.request))
        if not fits or self._stop.is_set():
            self.dropped += 1
            self._taken -= said.size - (0 if fits else len(said.request))
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="capture", daemon=True)
            self._thread.start()
        self._came += 1
        self._inbox.put(said)

    async def look(self) -> None:
        """Says what was lost since the last look."""
        self._say()

    def _say(self) -> None:
        lost = self.lost
        if lost != self._said:
            told: dict[str, Any] = {"calls": lost - self._said, "no_room": self.dropped, "not_written": self._lost}
            told |= {"broken": self._failed} | ({"why": self._why} if self._why else {})
            self._log("content_lost", told)
            self._said = lost

    def close(self) -> None:
        """Writes what waits, for a moment, and says what it had no time for; whoever owns the store closes it
        afterwards. From any thread, once."""
        self._stop.set()
        if self._thread is not None:
            self._inbox.put(None)
            self._thread.join(CLOSE_S)
            self._late.set()
            self.dropped += self._came - self._gone
        self._say()

    def _work(self) -> None:
        while (said := self._inbox.get()) is not None and not self._late.is_set():
            if self._forget.is_set():
                self._forget.clear()
                self._scribe.forget()
            try:
                content = self._scribe.write(said, self._clock.now())
            except Exception as error:  # noqa: BLE001  counted in `_failed`, said by `look`: others go on
                self._failed += 1
                self._why = _where(error)
            else:
                for part in parts(content):
                    self._store.remember(part, partial(self._missed, content.call_id))
            self._done += said.size
            self._gone += 1

    def _missed(self, call_id: str) -> None:
        """The store did not write it: what counts as known may be among it. On any thread."""
        with self._lock:
            self._lost += call_id != self._missing
            self._missing = call_id
        self._forget.set()


def _where(error: Exception) -> str:
    """What broke and in which line of ours; never its message, which may quote what was said."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _rest(stop: threading.Event) -> None:
    """Lets go of the interpreter for a moment; not while a stop waits."""
    stop.wait(REST_S)

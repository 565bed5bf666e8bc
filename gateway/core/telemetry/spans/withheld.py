"""Content comes into the journal after its call: a run whose call waits for it is told no further until it is there.

A span can't be changed once it was sent, so the call is withheld, and with it all that follows in its run: the order
within a run is what joins tools and ends. What was withheld is read again from the journal. Invariant: nothing waits
longer than WAIT_S after it was written; what waits is in the notebook, with the cursor. What never enters: texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from gateway.core.ports import Notebook, Reading
from gateway.core.types import Entry, Exchange

WAIT_S: Final = 10.0  # the store writes it within a second; content that was lost never comes
ONCE_MOST: Final = 1_000  # entries of one run that are read again at a time
PREFIX: Final = "wait/"

_exchange: Final = msgspec.msgpack.Decoder(Exchange).decode


class Withheld:
    """Which entries may be told now, for one destination that opted in."""

    def __init__(self, reading: Reading, notebook: Notebook) -> None:
        self._reading = reading
        self._notebook = notebook
        self._after: dict[str, int] = {}  # run -> the last of its entries that was told
        self._before: dict[str, int] = {}

    def ready(self, entries: Sequence[Entry], last: int, now: float) -> Iterator[Entry]:
        """These entries, and those that were withheld, as far as they may be told; each run in its order. `last`: the
        number up to which the journal was read."""
        kept = self._notebook.all(PREFIX)
        self._before = {key.removeprefix(PREFIX): int(value) for key, value in kept}
        self._after = dict(self._before)
        for entry in entries:
            if entry.run in self._after:
                continue
            if self._misses(entry, now):
                self._after[entry.run] = entry.seq - 1
            else:
                yield entry
        for run in list(self._after):
            yield from self._again(run, last, now)

    def changes(self) -> dict[str, bytes | None]:
        """For the notebook, once all that was ready is accepted."""
        found: dict[str, bytes | None] = {PREFIX + run: None for run in self._before.keys() - self._after.keys()}
        return found | {PREFIX + run: b"%d" % seq for run, seq in self._after.items() if self._before.get(run) != seq}

    def laid(self, call: Exchange) -> Any:
        """What was captured of a call; None where nothing was, where it came too late or is forgotten."""
        return self._reading.content(call.call_id, call.run) if call.content is True else None

    def _again(self, run: str, last: int, now: float) -> Iterator[Entry]:
        found = self._reading.entries(self._after[run], run=run, limit=ONCE_MOST)
        for entry in found:
            if entry.seq > last:
                break
            if self._misses(entry, now):
                return
            yield entry
            self._after[run] = entry.seq
        else:
            if len(found) == ONCE_MOST:  # the rest comes with the next look
                return
        del self._after[run]

    def _misses(self, entry: Entry, now: float) -> bool:
        if entry.kind != "call" or entry.call_id is None or now - entry.at > WAIT_S:
            return False
        return _exchange(entry.data).content is True and self._reading.content(entry.call_id, entry.run) is None

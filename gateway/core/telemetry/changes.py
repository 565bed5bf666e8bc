"""The journal as changes: each entry that concerns a call, with the call as it was known before and as it is now.

A counter adds what came new, so it needs both: a call that was presumed and told its usage later is counted once, at
its last figures. Invariant: the same entries give the same changes, however often they are read; the sum over all
changes of `delta_nusd` is the sum of what the calls cost. What never enters: money that is only held, I/O of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.core.ports import Reading
from gateway.core.types import Entry, Exchange, Run

RUNS_MOST: Final = 4_096  # runs whose labels are in mind
CALL_KINDS: Final = frozenset({"call", "amend", "correct"})

_exchange = msgspec.msgpack.Decoder(Exchange).decode
_any = msgspec.msgpack.Decoder().decode


class Change(Struct, frozen=True):
    """One entry that concerns a call. `before` is None where the call is new."""

    entry: Entry
    call: Exchange
    before: Exchange | None
    run: Run | None  # as the ledger knows it now; None: forgotten

    @property
    def delta_nusd(self) -> int:
        """What this entry adds to (or takes from) what was charged."""
        return (self.call.cost_nusd or 0) - ((self.before.cost_nusd or 0) if self.before is not None else 0)


class Changes:
    """Reads entries; asks the ledger for what an entry doesn't say, and remembers the runs that it asked for."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._runs: OrderedDict[str, Run | None] = OrderedDict()

    def of(self, entries: Sequence[Entry]) -> Iterator[Change]:
        """The changes of these entries, in order; entries that concern no call give none. Raises StoreFailed."""
        for entry in entries:
            if entry.kind in CALL_KINDS and entry.call_id is not None:
                change = self._change(entry, entry.call_id)
                if change is not None:
                    yield change
            elif entry.kind == "run":
                self.forget(entry.run)  # a new episode, perhaps with other facts

    def run(self, key: str) -> Run | None:
        """The run of a key, from memory where it was asked for lately: its labels count, its counters may be old."""
        if key in self._runs:
            self._runs.move_to_end(key)
            return self._runs[key]
        found = self._reading.get_run(key)
        self._runs[key] = run = found[0] if found is not None else None
        if len(self._runs) > RUNS_MOST:
            self._runs.popitem(last=False)
        return run

    def forget(self, key: str) -> None:
        """The run is asked for again when it is next needed."""
        self._runs.pop(key, None)

    def _change(self, entry: Entry, call_id: str) -> Change | None:
        if entry.kind == "call":
            return Change(entry, _exchange(entry.data), None, self.run(entry.run))
        before = self._reading.call_before(entry.run, call_id, entry.seq)
        if before is None:  # what is amended was forgotten before it was read
            return None
        return Change(entry, laid(before, _any(entry.data)), before, self.run(entry.run))


def laid(call: Exchange, amend: dict[str, Any]) -> Exchange:
    """A call with what an entry says of it laid over."""
    return msgspec.convert(msgspec.to_builtins(call, builtin_types=(bytes,)) | amend, Exchange)

"""The rules of a run's life that need no ledger: legal state changes, ancestors, trace id.

Invariant: a run is never its own ancestor; a killed or paused run goes on only by a person's word. What never enters:
balances and counters (`runs`), a store, a clock. How an idle run ended is said in `runs.outcome_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from xxhash import xxh3_128_hexdigest

from gateway.core.errors import Undecodable

State = Literal["active", "waiting", "paused", "ended", "killed"]
# call: a call is admitted; hold, decide: an answer waits for a person, and no longer; resume: also a raised limit;
# idle: nothing came for `[runs] idle_s`; end, kill, pause: /api, the client, a budget or a detector
Event = Literal["call", "hold", "decide", "pause", "resume", "end", "idle", "kill"]

# A pair that is missing is not legal (409). A repeat of what already holds changes nothing. Idle time does not end a
# run that waits for a person or is paused: the next call would reopen it, past the stop.
TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        ("active", "call"): "active",
        ("active", "hold"): "waiting",
        ("active", "pause"): "paused",
        ("active", "resume"): "active",
        ("active", "end"): "ended",
        ("active", "idle"): "ended",
        ("active", "kill"): "killed",
        ("waiting", "call"): "waiting",
        ("waiting", "hold"): "waiting",
        ("waiting", "decide"): "active",
        ("waiting", "pause"): "paused",
        ("waiting", "end"): "ended",
        ("waiting", "kill"): "killed",
        ("paused", "pause"): "paused",
        ("paused", "resume"): "active",
        ("paused", "end"): "ended",
        ("paused", "kill"): "killed",
        ("ended", "call"): "active",
        ("ended", "resume"): "active",
        ("ended", "end"): "ended",
        ("ended", "kill"): "killed",
        ("killed", "resume"): "active",
        ("killed", "kill"): "killed",
    }
)


def move(state: State, event: Event) -> State | None:
    """The state after an event; None: not legal from here."""
    return TRANSITIONS.get((state, event))


def ancestors(run_key: str, parent_of: Callable[[str], str | None], most: int = 16) -> tuple[str, ...]:
    """A run's parents, nearest first. Raises Undecodable (400) where it would be its own ancestor, or lies too deep."""
    found: list[str] = []
    parent = parent_of(run_key)
    while parent is not None:
        if parent == run_key or parent in found:
            raise Undecodable(f"x-meterbox-parent-run-id: the run {run_key} would be its own ancestor")
        if len(found) == most:
            raise Undecodable(f"x-meterbox-parent-run-id: runs are nested more than {most} deep")
        found.append(parent)
        parent = parent_of(parent)
    return tuple(found)


def trace_id(run_key: str) -> str:
    """The trace of a run that came with none: derived, so that every process and every restart says the same."""
    # W3C Trace Context section 3.2.2.3 forbids all zeros only: no run key is known that hashes to it
    return xxh3_128_hexdigest(run_key.encode("utf-8", "surrogatepass"))

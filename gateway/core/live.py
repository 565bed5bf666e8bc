"""The calls that are open right now: who they belong to, and how to end one from outside.

Invariant: ending a call closes its upstream; the walk then ends on its one normal path and settles.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gateway.core.types import Refusal


class OpenCall:
    """One call between its reservation and its settlement."""

    __slots__ = ("_aborts", "_withdraw", "agent", "anew", "call_id", "gone", "line", "refusal", "user")

    def __init__(self, call_id: str, line: tuple[str, ...], agent: str | None, user: str | None) -> None:
        self.call_id = call_id
        self.line = line  # its run's key and the ancestors', nearest first
        self.agent = agent
        self.user = user
        self.refusal: Refusal | None = None  # why we cut it
        self.gone = False  # the client has left
        self.anew = False  # what it asked of the ledger no longer holds: it asks once more
        self._aborts: list[Callable[[], None]] = []
        self._withdraw: Callable[[], None] | None = None

    def belongs(self, line: tuple[str, ...], agent: str | None, user: str | None) -> None:
        """Whose call it is, as far as is known by now."""
        self.line, self.agent, self.user = line, agent, user

    def on_stop(self, abort: Callable[[], None]) -> None:
        """`abort` runs when the call is ended from outside; at once if it already was."""
        self._aborts.append(abort)
        if self.gone or self.refusal is not None:
            abort()

    def waits(self, withdraw: Callable[[], None] | None) -> None:
        """It asks the ledger, or may stand in line there: `withdraw` takes its order back. None: it has its answer."""
        self._withdraw = withdraw

    def renew(self) -> None:
        """The rules have changed: an order by the old ones is taken back. What was granted stays."""
        if self._withdraw is not None:
            self.anew = True
            self._withdraw()

    def leave(self) -> None:
        """The client has left."""
        self.gone = True
        self._run()

    def stop(self, refusal: Refusal) -> None:
        """We end it; the first reason stays."""
        if self.refusal is None:
            self.refusal = refusal
            self._run()

    def _run(self) -> None:
        for abort in tuple(self._aborts):
            abort()


class Live:
    """All open calls of this process; bounded by the server's own limit on calls in flight.

    kept: so many calls that have left are still known as ours, where other processes write to the same journal.
    """

    def __init__(self, kept: int = 0) -> None:
        self._open: dict[str, OpenCall] = {}
        self._kept = kept
        self._left: set[str] = set()
        self._order: deque[str] = deque()  # in which they left

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, call: OpenCall) -> None:
        """From now on the call can be stopped from outside."""
        self._open[call.call_id] = call

    def leave(self, call_id: str) -> None:
        """The call has settled."""
        self._open.pop(call_id, None)
        if self._kept:
            self._left.add(call_id)
            self._order.append(call_id)
            if len(self._order) > self._kept:
                self._left.discard(self._order.popleft())

    def renew(self) -> None:
        """The rules have changed: whoever waits in line asks by those in force."""
        for call in self._open.values():
            call.renew()

    def mine(self, call_id: str) -> bool:
        """Does this process serve the call, or did it serve it lately?"""
        return call_id in self._open or call_id in self._left

    def stop_run(self, run_key: str, reason: str, until: str = "") -> int:
        """Ends the open calls of a run and of its descendants; how many. `until`: those with ids up to it only."""
        return self._stop([call for call in self._open.values() if run_key in call.line], reason, until)

    def stop_all(self, kind: str, name: str, reason: str, until: str = "") -> int:
        """Ends the open calls of an agent, of a user, or all (kind `global`); how many. `until`: as in stop_run."""
        if kind == "global":
            return self._stop(list(self._open.values()), reason, until)
        return self._stop([call for call in self._open.values() if getattr(call, kind, None) == name], reason, until)

    @staticmethod
    def _stop(calls: list[OpenCall], reason: str, until: str) -> int:
        stopped = [call for call in calls if not until or call.call_id <= until]
        for call in stopped:
            call.stop(killed(reason))
        return len(stopped)


def killed(reason: str, run_id: str | None = None) -> Refusal:
    """The refusal of a killed run; the reason given to /kill is in it."""
    return Refusal(
        403,
        "run_killed",
        f"This run was killed by an operator: {reason or 'no reason given'}. Don't call again in this run. "
        "Report this to the person who runs you and stop.",
        run_id=run_id,
        scope="run",
    )

"""The calls that are open right now: who they belong to, and how to end one from outside.

Invariant: ending a call closes its upstream; the walk then ends on its one normal path and settles.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.core.types import Refusal


class OpenCall:
    """One call between its reservation and its settlement."""

    __slots__ = ("_aborts", "agent", "call_id", "gone", "line", "refusal", "user")

    def __init__(self, call_id: str, line: tuple[str, ...], agent: str | None, user: str | None) -> None:
        self.call_id = call_id
        self.line = line  # its run's key and the ancestors', nearest first
        self.agent = agent
        self.user = user
        self.refusal: Refusal | None = None  # why we cut it
        self.gone = False  # the client has left
        self._aborts: list[Callable[[], None]] = []

    def on_stop(self, abort: Callable[[], None]) -> None:
        """`abort` runs when the call is ended from outside; at once if it already was."""
        self._aborts.append(abort)
        if self.gone or self.refusal is not None:
            abort()

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
    """All open calls of this process; bounded by the server's own limit on calls in flight."""

    def __init__(self) -> None:
        self._open: dict[str, OpenCall] = {}

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, call: OpenCall) -> None:
        """From now on the call can be stopped from outside."""
        self._open[call.call_id] = call

    def leave(self, call_id: str) -> None:
        """The call has settled."""
        self._open.pop(call_id, None)

    def stop_run(self, run_key: str, reason: str) -> int:
        """Ends the open calls of a run and of its descendants; how many."""
        return self._stop([call for call in self._open.values() if run_key in call.line], reason)

    def stop_all(self, kind: str, name: str, reason: str) -> int:
        """Ends the open calls of an agent, of a user, or all (kind `global`); how many."""
        if kind == "global":
            return self._stop(list(self._open.values()), reason)
        return self._stop([call for call in self._open.values() if getattr(call, kind, None) == name], reason)

    @staticmethod
    def _stop(calls: list[OpenCall], reason: str) -> int:
        for call in calls:
            call.stop(killed(reason))
        return len(calls)


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

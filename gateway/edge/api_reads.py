"""The ledger as the control plane reads it: one thread, so that no read ever blocks a call.

Invariant: every question is answered by one job on that thread, over what is committed; the line of jobs is bounded,
and so is every walk through a run's calls or descendants. What never enters: a change, HTTP, an amount as text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import TypeVar

from gateway.core.identify import run_key
from gateway.core.ports import OpenCall, Reading, RunFilter, Standing
from gateway.core.tools import ToolSpan, spans
from gateway.core.types import Balance, Entry, Exchange, Run
from gateway.edge.api_door import MOST_LIMIT, Wrong

T = TypeVar("T")
Account = tuple[Run, Balance]

MOST_WAITING = 256  # questions in line; one takes about a millisecond
MOST_DESCENDANTS = 10_000
MOST_JOINED = 50_000  # calls of one run that are looked through for tool spans


class Reads:
    """Questions to the ledger."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="api-read")
        self._waiting = 0

    def close(self) -> None:
        """Ends the thread after the question that it is at."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def ask(self, question: Callable[[Reading], T]) -> T:
        """Answers one question on the thread. Raises Wrong when too many wait, or where a cursor has no sense."""
        if self._waiting >= MOST_WAITING:
            raise Wrong(503, "overloaded", "Too many questions wait for the ledger; ask again.", {"Retry-After": "1"})
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, question, self._reading)
        except (ValueError, OverflowError) as problem:
            raise Wrong(400, "invalid_request", "The cursor is not one that a page of this list gave.") from problem
        finally:
            self._waiting -= 1

    async def find(self, run_id: str, key: str | None, tenants: Sequence[str]) -> Account:
        """The run of that id. Raises Wrong: 404 if there is none, 409 if it takes a `?key=` to tell which."""
        names = [key] if key is not None else ["", *tenants]
        keys = [run_key(name, run_id) for name in names]
        found = await self.ask(lambda reading: [run for name in keys if (run := reading.get_run(name)) is not None])
        if not found:
            raise Wrong(
                404, "not_found", f"There is no run {run_id[:128]!r}" + (f" of key {key[:64]!r}." if key else ".")
            )
        if len(found) > 1:
            owners = ", ".join(run.tenant for run, _ in found if run.tenant)
            raise Wrong(409, "ambiguous_run", f"Several keys have a run of this id; say ?key= with one of: {owners}.")
        return copy(found[0][0]), found[0][1]

    async def known(self, key: str) -> Account:
        """The run of that key, which was seen a moment ago. Raises Wrong (404)."""
        found = await self.ask(lambda reading: reading.get_run(key))
        if found is None:
            raise Wrong(404, "not_found", "This run is no longer there.")
        return found

    async def runs(
        self, wanted: RunFilter, key: str | None, limit: int, cursor: str | None
    ) -> tuple[list[Account], str | None]:
        """A page of runs, those of one virtual key if it is named."""

        def pages(reading: Reading) -> tuple[list[Account], str | None]:
            if key is None:
                return reading.runs(wanted, limit, cursor)
            kept: list[Account] = []
            after = cursor
            while len(kept) < limit:
                # never more than the page still takes, so that its cursor is ours
                page, after = reading.runs(wanted, limit - len(kept), after)
                kept += [(run, balance) for run, balance in page if run.tenant == key]
                if after is None:
                    break
            return kept, after

        return await self.ask(pages)

    async def line(self, key: str) -> list[Run]:
        """A run and all of its descendants, parents first."""

        def walk(reading: Reading) -> list[Run]:
            found: list[Run] = []
            seen = {key}
            todo = [key]
            while todo and len(found) < MOST_DESCENDANTS:
                at = todo.pop(0)
                known = reading.get_run(at)
                if known is not None:
                    found.append(copy(known[0]))  # a book in memory gives out what it goes on changing
                fresh = [child for child in reading.children(at) if child not in seen]
                seen.update(fresh)
                todo += fresh
            return found

        return await self.ask(walk)

    async def standings(self, accounts: Sequence[str]) -> dict[str, Standing]:
        """Those of these accounts that count anything."""
        return await self.ask(lambda reading: reading.standings(accounts))

    async def open_calls(self, key: str, limit: int) -> list[OpenCall]:
        """Calls under way of a run and its descendants, the oldest first."""
        keys = [run.key for run in await self.line(key)]
        return await self.ask(lambda reading: reading.open_calls(keys, limit))

    async def calls(self, key: str, limit: int, cursor: str | None) -> tuple[list[Exchange], str | None]:
        """A page of a run's calls."""
        return await self.ask(lambda reading: reading.calls(key, limit, cursor))

    async def tool_spans(self, key: str) -> list[ToolSpan]:
        """All tool spans of a run, as far as its first MOST_JOINED calls tell."""

        def join(reading: Reading) -> list[ToolSpan]:
            known: list[Exchange] = []
            cursor: str | None = None
            while len(known) < MOST_JOINED:
                page, cursor = reading.calls(key, MOST_LIMIT, cursor)
                known += page
                if cursor is None:
                    break
            return spans(known)

        return await self.ask(join)

    async def entries(self, after: int, key: str, limit: int) -> list[Entry]:
        """What the journal says of a run, from one number on."""
        return await self.ask(lambda reading: reading.entries(after, key, limit))

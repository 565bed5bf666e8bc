"""Says in the log how the ledger is: that it failed and why, that it works again, and what its audits found.

Invariant: one line for an outage and one for its end, one line for an audit. What never enters: a repair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.core.ports import Store

LOOK_S = 1.0
SENTENCES_MOST = 10  # of what an audit found; `meterbox ledger audit` has them all


class StoreWatch:
    """Call `look` every LOOK_S seconds; what it sees changes what it says."""

    def __init__(self, store: Store, log: Callable[[str, dict[str, Any]], None]) -> None:
        self._store = store
        self._log = log
        self._why: str | None = None

    async def look(self) -> None:
        """One look at the store."""
        why = self._store.failed()
        if why == self._why:
            return
        if why is None:
            self._log("store_recovered", {"admission": "open"})
        else:
            self._log("store_failed", {"why": why, "admission": "closed"})
        self._why = why


class AuditWatch:
    """Call `look` every LOOK_S seconds; take: what the audit that ended since the last look found, None without one."""

    def __init__(self, take: Callable[[], list[str] | None], log: Callable[[str, dict[str, Any]], None]) -> None:
        self._take = take
        self._log = log

    async def look(self) -> None:
        """One look whether an audit has ended."""
        found = self._take()
        if found is None:
            return
        if not found:
            self._log("audited", {"findings": 0})
            return
        told = {f"finding_{number}": sentence for number, sentence in enumerate(found[:SENTENCES_MOST], 1)}
        self._log("audit_failed", {"findings": len(found), **told})

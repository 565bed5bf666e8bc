"""Says in the log that the ledger failed and why, and that it works again: once an outage, not once a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.core.ports import Store

LOOK_S = 1.0


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

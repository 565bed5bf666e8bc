"""How the projections of one process fare: each tells its own row, the metrics projection shows all of them.

Invariant: a row is written by one thread only and replaced whole, so that a reader on another thread never sees half of
one; errors are types and our own sentences, never a body or a header. What never enters: a decision.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, structs


class State(Struct, frozen=True):
    """One projection. `behind` entries of the journal wait, `oldest_at` is when the first of them was written (None:
    nothing waits); sent and rejected are counted over the life of its notebook where it keeps them, else since the
    start of the process."""

    cursor: int = 0
    behind: int = 0
    oldest_at: float | None = None
    behind_bytes: int = 0  # what waits, as far as it was read: an estimate from the latest batch
    lost: int = 0  # entries that the journal had forgotten before they were read
    sent: int = 0
    rejected: int = 0
    failures: int = 0  # in a row; 0 while all is well
    last_error: str = ""
    failing_since: float | None = None


class Health:
    """Rows by the name of the projection: `metrics`, `alerts`, `otlp-NAME`."""

    def __init__(self) -> None:
        self._rows: dict[str, State] = {}

    def tell(self, name: str, **changes: Any) -> None:
        """Changes fields of one row. The driver tells all but `sent` and `rejected`, which a projection tells of
        itself, on the same thread."""
        self._rows[name] = structs.replace(self._rows.get(name) or State(), **changes)

    def of(self, name: str) -> State:
        """One row; a fresh one where nothing was told."""
        return self._rows.get(name) or State()

    def all(self) -> dict[str, State]:
        """Every row, by name; a copy."""
        return dict(sorted(self._rows.copy().items()))

"""The ledger's file as verbs meet it: read at one instant beside whatever writes it, or written as one process more.

Invariant: a file that isn't there is not made, one that can't be trusted is named; who writes here is an instance like
any other, under the same lock, and what running gateways hold is theirs. What never enters: a verb's own words.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from typing import TYPE_CHECKING, Any

from gateway.cli.options import VerbFailed

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.config import Settings
    from gateway.core.ledger.book import Hold
    from gateway.core.ledger.reading import Query
    from gateway.core.types import Exchange
    from gateway.stores.sqlite import SqliteStore


def ledger_of(settings: Settings) -> Path:
    """Where the ledger lies. Raises VerbFailed where there is none."""
    path = settings.ledger_path
    if not path.is_file():
        raise VerbFailed(f"there is no ledger {path}: it is made by the first `meterbox serve`, or name its --config")
    return path


@contextmanager
def reading_of(settings: Settings) -> Iterator[Query]:
    """Questions to the file as it is at this instant. Raises VerbFailed, for a file not ours too."""
    import sqlite3

    from gateway.core.ledger.ground import complaint_on_file
    from gateway.stores.sqlite.file import connect

    path = ledger_of(settings)
    with closing(connect(path, "ro")) as connection:

        def query(sql: str, values: Sequence[Any]) -> list[Any]:
            try:
                return connection.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise VerbFailed(f"the ledger {path} can't be read: {error}") from error

        query("BEGIN", ())
        ours, version = (query(f"PRAGMA {name}", ())[0][0] for name in ("application_id", "user_version"))
        if (complaint := complaint_on_file(str(path), ours, version, "ok")) is not None:
            raise VerbFailed(complaint)
        yield query


@asynccontextmanager
async def writing_of(settings: Settings) -> AsyncIterator[SqliteStore]:
    """The ledger as a store of this process. Raises VerbFailed, ConfigError, StoreFailed."""
    from gateway.edge.clock import SystemClock
    from gateway.stores.sqlite import SqliteStore

    clock = SystemClock()
    store = SqliteStore(
        ledger_of(settings), clock.now, clock.new_id, idle_s=settings.runs.idle_s,
        durability=settings.stores.sqlite.durability,
    )  # fmt: skip
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def holds_of(query: Query, call_id: str) -> list[Hold]:
    """The reservations of a call, an attempt each, in their order."""
    from gateway.core.ledger.schema import hold_from

    # '0' is the character after '/': every attempt's id lies between
    rows = query("SELECT data FROM reservation WHERE id > ? AND id < ?", (f"{call_id}/", f"{call_id}0"))
    return sorted((hold_from(row[0]) for row in rows), key=lambda hold: int(hold.id.rpartition("/")[2] or 0))


def call_of(query: Query, hold: Hold) -> Exchange | None:
    """The call of a reservation, with what was learnt of it later."""
    from gateway.core.ledger.reading import laid_over

    rows = query(
        "SELECT kind, data FROM journal WHERE run = ? AND kind IN ('call', 'amend', 'correct') AND call_id = ?"
        " ORDER BY seq",
        (hold.run, hold.call_id),
    )
    first = next((data for kind, data in rows if kind == "call"), None)
    return None if first is None else laid_over(first, [data for kind, data in rows if kind != "call"])


def who() -> str:
    """Who books, where nobody is named."""
    return os.environ.get("USER") or "operator"

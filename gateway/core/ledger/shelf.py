"""The shelf of a book whose rows lie in tables: one by one, or at once for all that a batch will ask for.

Invariant: reads only; what a prefetch didn't find isn't asked for again in the same batch. What never enters: a
connection (a `query` function comes in), what the rows mean.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

import msgspec

from gateway.core.ledger import engine, names, settle
from gateway.core.ledger.book import Account, Book, Hold
from gateway.core.ledger.desk import Op
from gateway.core.ledger.schema import account_from, hold_from, run_from
from gateway.core.types import Exchange, Order, Run

Query = Callable[[str, Sequence[Any]], list[Any]]

# A join takes the names one by one; `IN (SELECT ...)` would sort them into a table first.
_MANY_HOLDS: Final = "SELECT h.data FROM json_each(?) name CROSS JOIN reservation h ON h.id = name.value"
_MANY_ACCOUNTS: Final = "SELECT a.* FROM json_each(?) name CROSS JOIN account a ON a.name = name.value"
_MANY_RUNS: Final = "SELECT r.data FROM json_each(?) name CROSS JOIN run r ON r.key = name.value"
_SOME_ACTIVE: Final = "SELECT key, last_at FROM run WHERE state = 'active' AND key > ? ORDER BY key LIMIT ?"
IDLE_LOOK: Final = 2_000  # active runs that one sweep looks at
_BY_ID: Final = (engine.adjust, settle.void, settle.presume)  # acts whose first argument is a hold's id

_encode_json = msgspec.json.Encoder().encode


class SqlShelf:
    """Rows from the file, for a book that has them not in mind."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._idle_after = ""  # the sweep looks at active runs behind this key next

    def prefetch(self, book: Book, ops: Iterable[Op], orders: Iterable[Order] = ()) -> None:
        """Reads in three questions what these operations, and orders that wait, will ask for one by one."""
        asked: list[Order] = []
        ended: list[str] = []
        for op in ops:
            if op.act is engine.reserve:
                asked.append(op.args[0])
            else:
                ended.extend(_holds_of(op))
        self._fetch_holds(book, [*[order.id for order in asked], *ended])
        holds = [book.holds[hold_id] for hold_id in ended if hold_id in book.holds]
        asked.extend(orders)
        self._fetch_accounts(book, asked, holds)
        self._fetch_runs(book, asked, holds)

    def _fetch_holds(self, book: Book, ids: Sequence[str]) -> None:
        wanted = {hold_id for hold_id in ids if hold_id not in book.holds}
        if wanted:
            for (data,) in self._rows(_MANY_HOLDS, wanted):
                hold = hold_from(data)
                book.holds[hold.id] = hold
        book.absent = {hold_id for hold_id in wanted if hold_id not in book.holds}

    def _fetch_accounts(self, book: Book, orders: Sequence[Order], holds: Sequence[Hold]) -> None:
        known = book.accounts
        wanted = {name for order in orders for name in _accounts_of(book, order) if name not in known}
        wanted.update([name for hold in holds for name, _ in hold.accounts if name not in known])
        if wanted:
            for row in self._rows(_MANY_ACCOUNTS, wanted):
                known[row[0]] = account_from(row)
            for name in wanted:
                if name not in known:
                    known[name] = Account(name)

    def _fetch_runs(self, book: Book, orders: Sequence[Order], holds: Sequence[Hold]) -> None:
        known = book.runs
        wanted = {key for order in orders for key in _runs_of(order) if key not in known}
        wanted.update([hold.run for hold in holds if hold.run not in known])
        for hold in holds:
            wanted.update([key for key in _above(hold) if key not in known])
        if len(wanted) > 1:
            for (data,) in self._rows(_MANY_RUNS, wanted):
                book.keep_run(run_from(data))

    def _rows(self, sql: str, wanted: Collection[str]) -> list[Any]:
        return self._query(sql, (_encode_json(wanted).decode(),))

    def account(self, name: str, /) -> Account | None:
        rows = self._query("SELECT * FROM account WHERE name = ?", (name,))
        return account_from(rows[0]) if rows else None

    def hold(self, hold_id: str, /) -> Hold | None:
        rows = self._query("SELECT data FROM reservation WHERE id = ?", (hold_id,))
        return hold_from(rows[0][0]) if rows else None

    def run(self, key: str, /) -> Run | None:
        rows = self._query("SELECT data FROM run WHERE key = ?", (key,))
        return run_from(rows[0][0]) if rows else None

    def due(self, now: float, limit: int) -> list[str]:
        return self._names(
            "SELECT id FROM reservation INDEXED BY reservation_open WHERE state = 'held' AND (deadline_at < ?"
            " OR instance NOT IN (SELECT id FROM instance WHERE lease_until >= ?)) ORDER BY id LIMIT ?",
            (now, now, limit),
        )

    def held_by(self, instance: str, limit: int) -> list[str]:
        return self._names(
            "SELECT id FROM reservation INDEXED BY reservation_open WHERE state = 'held' AND instance = ?"
            " ORDER BY id LIMIT ?",  # else the order makes SQLite look through all that have ended, too
            (instance, limit),
        )

    def idle(self, before: float, limit: int) -> list[str]:
        """Looks at so many active runs at a time, and goes on where it ended: an index by `last_at` would cost two
        pages a call, looking at all of 100,000 a tenth of a second a sweep."""
        after = self._idle_after
        (last, looked), *_ = self._query(f"SELECT max(key), count(*) FROM ({_SOME_ACTIVE})", (after, IDLE_LOOK))  # noqa: S608 - a constant
        self._idle_after = last if looked == IDLE_LOOK else ""
        return self._names(
            f"SELECT key FROM ({_SOME_ACTIVE}) r WHERE last_at < ?"  # noqa: S608 - a constant
            " AND NOT EXISTS (SELECT 1 FROM run c WHERE c.parent = r.key AND c.state = 'active')"
            " AND NOT EXISTS (SELECT 1 FROM reservation h WHERE h.state = 'held' AND h.run = r.key)"
            " ORDER BY key LIMIT ?",
            (after, IDLE_LOOK, before, limit),
        )

    def below(self, run: str) -> list[str]:
        return self._names(
            "WITH RECURSIVE below (key) AS (SELECT key FROM run WHERE parent = ?"
            " UNION SELECT run.key FROM run JOIN below ON run.parent = below.key) SELECT key FROM below",
            (run,),
        )

    def presumed(self, response_id: str, tenant: str) -> str | None:
        found = self._names(
            "SELECT id FROM reservation WHERE state = 'presumed' AND response_id = ? AND tenant = ? LIMIT 1",
            (response_id, tenant),
        )
        return found[0] if found else None

    def _names(self, sql: str, values: tuple[Any, ...]) -> list[str]:
        return [row[0] for row in self._query(sql, values)]


def _holds_of(op: Op) -> Iterable[str]:
    if op.act is settle.settle:
        exchange: Exchange = op.args[2]
        first = f"{exchange.call_id}/1"
        return (op.args[0] or f"{exchange.call_id}/0", first)
    return op.args[:1] if op.act in _BY_ID else ()


def _accounts_of(book: Book, order: Order) -> Iterable[str]:
    yield from order.gates
    for charge in order.charges:
        window = None if charge.window is None else book.windows.get(charge.window)
        yield charge.account if window is None else f"{charge.account}/{window.label}"


def _above(hold: Hold) -> Iterable[str]:
    """Runs above that of a hold, as far as it is charged there."""
    own = names.spell("run", hold.run, "")
    for name, _ in hold.accounts:
        if name.startswith("run/") and not name.startswith(own):
            yield names.read(name).owner


def _runs_of(order: Order) -> Iterable[str]:
    """The run and its ancestors, as far as the order names their gates."""
    yield order.run.key
    for gate in order.gates:
        kind, _, key = gate.partition("/")
        if kind == "run":
            yield key

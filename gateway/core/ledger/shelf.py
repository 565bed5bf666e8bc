"""The shelf of a book whose rows lie in tables: one by one, or at once for all that a batch will ask for.

Invariant: reads only; what a prefetch didn't find isn't asked for again in the same batch. What never enters: a
connection (a `query` function comes in), what the rows mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from gateway.core.ledger import engine, names, settle
from gateway.core.ledger.book import Account, Book, Hold
from gateway.core.ledger.desk import Op
from gateway.core.ledger.schema import account_from, hold_from, run_from
from gateway.core.types import Exchange, Order, Run

Query = Callable[[str, Sequence[Any]], list[Any]]

_MANY_HOLDS: Final = "SELECT data FROM reservation WHERE id IN (SELECT value FROM json_each(CAST(? AS TEXT)))"
_MANY_ACCOUNTS: Final = "SELECT * FROM account WHERE name IN (SELECT value FROM json_each(CAST(? AS TEXT)))"
_MANY_RUNS: Final = "SELECT data FROM run WHERE key IN (SELECT value FROM json_each(CAST(? AS TEXT)))"
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
        placed = [op.args[0] for op in ops if op.act is engine.reserve]
        ended = [hold_id for op in ops for hold_id in _holds_of(op)]
        self._fetch_holds(book, [*[order.id for order in placed], *ended])
        holds = [book.holds[hold_id] for hold_id in ended if hold_id in book.holds]
        asked = [*placed, *orders]
        self._fetch_accounts(book, {name for order in asked for name in _accounts_of(book, order)}.union(
            name for hold in holds for name, _ in hold.accounts
        ))  # fmt: skip
        keys = {key for hold in holds for key in _above(hold)}.union(key for order in asked for key in _runs_of(order))
        self._fetch_runs(book, [key for key in keys if key not in book.runs])

    def _fetch_holds(self, book: Book, ids: Sequence[str]) -> None:
        wanted = [hold_id for hold_id in ids if hold_id not in book.holds]
        for (data,) in self._query(_MANY_HOLDS, (_encode_json(wanted),)) if wanted else ():
            hold = hold_from(data)
            book.holds[hold.id] = hold
        book.absent = set(wanted).difference(book.holds)

    def _fetch_accounts(self, book: Book, names: Iterable[str]) -> None:
        wanted = [name for name in names if name not in book.accounts]
        for row in self._query(_MANY_ACCOUNTS, (_encode_json(wanted),)) if wanted else ():
            book.accounts[row[0]] = account_from(row)
        for name in wanted:
            book.accounts.setdefault(name, Account(name))

    def _fetch_runs(self, book: Book, keys: Sequence[str]) -> None:
        for (data,) in self._query(_MANY_RUNS, (_encode_json(keys),)) if len(keys) > 1 else ():
            run = run_from(data)
            book.runs[run.key] = run

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
    """The run of a hold and those above it, as far as it is charged there."""
    yield hold.run
    for name, _ in hold.accounts:
        if name.startswith("run/"):
            yield names.read(name).owner


def _runs_of(order: Order) -> Iterable[str]:
    """The run and its ancestors, as far as the order names their gates."""
    yield order.run.key
    for gate in order.gates:
        kind, _, key = gate.partition("/")
        if kind == "run":
            yield key

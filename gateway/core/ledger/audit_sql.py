"""Checks the ledger's invariants (ledger.md section 4) over the tables of `schema`, however many rows they have.

SQLite sums up the rows by account and by reservation, with its sorter in files; what it gives back is read once, in
order, beside the reservations, and forgotten. In memory are at most what is in flight and what was found.
Invariant: finds what `audit` finds, in the same words, if all statements see one instant (one read transaction). What
never enters: a connection (a function that gives rows comes in), repair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from gateway.core.ledger.audit import Sums, of_account, of_hold, of_holds, of_nobody, of_spent
from gateway.core.ledger.book import HELD, PRESUMED, SETTLED, VOID, Hold
from gateway.core.ledger.schema import account_from, hold_from

Rows = Callable[[str, Sequence[Any]], Iterable[Sequence[Any]]]

ACCOUNTS: Final = (  # I1, I7; an amount that is no integer may hide from a comparison
    "SELECT * FROM account WHERE spent < 0 OR held < 0 OR open < 0 OR overrun < 0 OR lowered < 0"
    " OR typeof(spent) <> 'integer' OR typeof(held) <> 'integer' OR typeof(open) <> 'integer'"
    " OR typeof(overrun) <> 'integer' OR typeof(lowered) <> 'integer'"
    " OR spent + held > in_force + overrun + lowered"
)
HELD_DATA: Final = "SELECT data FROM reservation WHERE state = 'held'"
HOLDING: Final = "SELECT * FROM account WHERE held <> 0 OR open <> 0"
SUMS: Final = (  # I3: one pass and one sort over the rows, and the balances among them as if they were rows
    "SELECT name, sum(delta), max(spent) FROM"
    " (SELECT account AS name, delta, NULL AS spent FROM ledger UNION ALL SELECT name, 0, spent FROM account)"
    " GROUP BY name HAVING sum(delta) <> coalesce(max(spent), 0)"
)
HOLDS: Final = "SELECT id, state, data FROM reservation ORDER BY id"
ENDS: Final = (  # per reservation and account: what it was charged, how often it left its hold, how often trued up
    "SELECT reservation, account, sum(delta), sum(kind IN ('settle', 'void', 'presumed')), sum(kind = 'trueup')"
    " FROM ledger WHERE reservation IS NOT NULL GROUP BY reservation, account"
)

_NOTHING: Final[Sums] = (0, 0, 0)
_END: Final[tuple[str | None, Iterable[Any]]] = (None, ())


def audit_tables(rows: Rows, overdue: float | None = None) -> Iterator[str]:
    """What is wrong, in words, I1 to I8; nothing if nothing is. overdue: no hold may have a deadline before this."""
    yield from _accounts(rows)
    for name, total, spent in rows(SUMS, ()):
        yield of_spent(name, spent, total)
    yield from _holds(rows, overdue)


def _accounts(rows: Rows) -> Iterator[str]:
    for row in rows(ACCOUNTS, ()):
        yield from of_account(account_from(row))
    held: Counter[str] = Counter()
    flying: Counter[str] = Counter()
    for (data,) in rows(HELD_DATA, ()):
        hold = hold_from(data)
        for name, unit in hold.accounts:
            held[name] += hold.held[unit]
            flying[name] += 1
    for row in rows(HOLDING, ()):
        account = account_from(row)
        said = held.pop(account.name, 0), flying.pop(account.name, 0)
        if (account.held, account.open) != said:
            yield of_holds(account, *said)
    for name in sorted(flying):  # what is left: accounts that hold nothing, or that are not there
        known = [account_from(row) for row in rows("SELECT * FROM account WHERE name = ?", (name,))]
        yield of_holds(known[0], held[name], flying[name]) if known else of_nobody(name)


def _holds(rows: Rows, overdue: float | None) -> Iterator[str]:
    """Walks reservations and the sums of their rows side by side, both in the order of ids."""
    sums = groupby(rows(ENDS, ()), itemgetter(0))
    at, group = next(sums, _END)
    for hold_id, state, data in rows(HOLDS, ()):
        while at is not None and at < hold_id:  # rows may outlive their reservation
            at, group = next(sums, _END)
        found: dict[str, Sums] = {}
        if at == hold_id:
            found = {account: (total, ends, late) for _, account, total, ends, late in group}
            at, group = next(sums, _END)
        hold = hold_from(data)
        if state != hold.state:
            yield f"I4 {hold.id} is {state} by its column and {hold.state} by its data"
        if hold.state == HELD or not _plain(hold, found):
            yield from of_hold(hold, found, overdue)


def _plain(hold: Hold, found: dict[str, Sums]) -> bool:
    """Is an ended reservation just as most are? Looked at first, because most are."""
    if len(found) != len(hold.accounts):
        return False
    charged = hold.charged
    for name, unit in hold.accounts:
        total, ends, late = found.get(name, _NOTHING)
        if total != charged.get(unit, 0) or ends != 1 or late > 1:
            return False
    return hold.state in (SETTLED, VOID, PRESUMED)

"""Checks the ledger's invariants (ledger.md section 4) over a whole book and all its rows, in memory.

The oracle of audits: `audit_sql` finds the same over files of any size, and is compared with this.
Invariant: reads only; an empty list means that every balance is the sum of its rows and no limit was passed unseen.
What never enters: repair. What is found is said, and a person decides.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from gateway.core.ledger.book import HELD, PRESUMED, SETTLED, VOID, Account, Book, Hold, Row
from gateway.core.ledger.schema import account_from, hold_from, run_from

_STATES = frozenset({HELD, SETTLED, VOID, PRESUMED})
_FIRST_ENDS = frozenset({"settle", "void", "presumed"})

Sums = tuple[int, int, int]  # of one reservation's rows on one account: charged, left its hold, trued up


def audit(book: Book, rows: Iterable[Row], overdue: float | None = None) -> list[str]:
    """What is wrong, in words, I1 to I8; empty if nothing is. overdue: no hold may have a deadline before this."""
    rows = list(rows)
    found = [*_accounts(book), *_sums(book, rows)]
    per_hold: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.hold is not None:
            per_hold[row.hold].append(row)
    for hold in book.holds.values():
        found += of_hold(hold, _summed(per_hold[hold.id]), overdue)
    return found


def book_of_tables(query: Callable[[str, Sequence[Any]], list[Any]]) -> tuple[Book, list[Row]]:
    """Everything that lies in the tables of `schema`, as a book and its rows. For audits: reads all of it."""
    book = Book("audit")
    for row in query("SELECT * FROM account", ()):
        book.accounts[row[0]] = account_from(row)
    for row in query("SELECT data FROM reservation", ()):
        hold = hold_from(row[0])
        book.holds[hold.id] = hold
    for row in query("SELECT data FROM run", ()):
        run = run_from(row[0])
        book.runs[run.key] = run
    rows = query("SELECT reservation, account, unit, kind, delta, at, note FROM ledger ORDER BY seq", ())
    return book, [Row(*row) for row in rows]


def _accounts(book: Book) -> Iterator[str]:
    held: Counter[str] = Counter()
    flying: Counter[str] = Counter()
    for hold in book.holds.values():
        if hold.state == HELD:
            for name, unit in hold.accounts:
                held[name] += hold.held[unit]
                flying[name] += 1
    for name in sorted(held.keys() - book.accounts.keys()):
        yield of_nobody(name)
    for account in book.accounts.values():
        yield from of_account(account)
        if (account.held, account.open) != (held[account.name], flying[account.name]):
            yield of_holds(account, held[account.name], flying[account.name])


def of_nobody(name: str) -> str:
    """I2 of an account that isn't there."""
    return f"I2 {name} is held on and does not exist"


def of_holds(account: Account, held: int, flying: int) -> str:
    """I2 of an account whose reservations say something else."""
    return f"I2 {account.name} holds {account.held} for {account.open} calls, its reservations {held} for {flying}"


def of_account(account: Account) -> Iterator[str]:
    """I1 and I7 of one account."""
    used = account.spent + account.held
    if account.limit is not None and used > account.limit + account.overrun + account.lowered:
        yield (
            f"I1 {account.name} uses {used} of {account.limit}, overrun {account.overrun}, lowered by {account.lowered}"
        )
    for name in ("spent", "held", "overrun", "lowered", "open"):
        value = getattr(account, name)
        if type(value) is not int or value < 0:
            yield f"I7 {account.name}.{name} is {value!r}"


def _sums(book: Book, rows: list[Row]) -> Iterator[str]:
    spent: Counter[str] = Counter()
    for row in rows:
        spent[row.account] += row.delta
    for account in book.accounts.values():
        if account.spent != spent[account.name]:
            yield of_spent(account.name, account.spent, spent[account.name])
    for name, total in spent.items():
        if total and name not in book.accounts:
            yield of_spent(name, None, total)


def of_spent(name: str, spent: int | None, total: int) -> str:
    """I3 of an account; spent None: there is none of that name."""
    if spent is None:
        return f"I3 {name} has rows for {total} and does not exist"
    return f"I3 {name} spent {spent}, its rows say {total}"


def of_hold(hold: Hold, sums: Mapping[str, Sums], overdue: float | None) -> Iterator[str]:
    """I3 to I5 and I8 of one reservation, whose rows were summed up by account."""
    if hold.state not in _STATES:
        yield f"I4 {hold.id} is {hold.state}"
    if hold.state == HELD and sums:
        yield f"I4 {hold.id} is held and has rows"
    yield from _ends(hold, sums)
    if set(sums) - {name for name, _ in hold.accounts}:
        yield f"I5 {hold.id} has rows on accounts that it does not name"
    if overdue is not None and hold.state == HELD and hold.deadline_at < overdue:
        yield f"I8 {hold.id} is held past its deadline"


def _ends(hold: Hold, sums: Mapping[str, Sums]) -> Iterator[str]:
    for name, unit in hold.accounts:
        total, ends, late = sums.get(name, (0, 0, 0))
        if total != hold.charged.get(unit, 0):
            yield f"I3 {hold.id} charged {hold.charged.get(unit, 0)} {unit}, its rows on {name} say {total}"
        if hold.state != HELD and ends != 1:
            yield f"I4 {hold.id} left its hold {ends} times on {name}"
        if late > 1:
            yield f"I4 {hold.id} was trued up {late} times on {name}"


def _summed(rows: Iterable[Row]) -> dict[str, Sums]:
    sums: dict[str, Sums] = {}
    for row in rows:
        total, ends, late = sums.get(row.account, (0, 0, 0))
        sums[row.account] = (total + row.delta, ends + (row.kind in _FIRST_ENDS), late + (row.kind == "trueup"))
    return sums

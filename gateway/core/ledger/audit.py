"""Checks the ledger's invariants (ledger.md section 4) over a whole book and all its rows.

Invariant: reads only; an empty list means that every balance is the sum of its rows and no limit was passed unseen.
What never enters: repair. What is found is said, and a person decides.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from gateway.core.ledger.book import HELD, PRESUMED, SETTLED, VOID, Account, Book, Hold, Row
from gateway.core.ledger.schema import account_from, hold_from, run_from

_STATES = frozenset({HELD, SETTLED, VOID, PRESUMED})
_FIRST_ENDS = frozenset({"settle", "void", "presumed"})


def audit(book: Book, rows: Iterable[Row], overdue: float | None = None) -> list[str]:
    """What is wrong, in words, I1 to I8; empty if nothing is. overdue: no hold may have a deadline before this."""
    rows = list(rows)
    found = [*_accounts(book), *_sums(book, rows)]
    per_hold: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.hold is not None:
            per_hold[row.hold].append(row)
    for hold in book.holds.values():
        found += _hold(hold, per_hold[hold.id])
        if overdue is not None and hold.state == HELD and hold.deadline_at < overdue:
            found.append(f"I8 {hold.id} is held past its deadline")
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
    for name in held.keys() - book.accounts.keys():
        yield f"I2 {name} is held on and does not exist"
    for account in book.accounts.values():
        yield from _limits(account)
        if (account.held, account.open) != (held[account.name], flying[account.name]):
            yield (
                f"I2 {account.name} holds {account.held} for {account.open} calls, "
                f"its reservations {held[account.name]} for {flying[account.name]}"
            )


def _limits(account: Account) -> Iterator[str]:
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
            yield f"I3 {account.name} spent {account.spent}, its rows say {spent[account.name]}"
    for name, total in spent.items():
        if total and name not in book.accounts:
            yield f"I3 {name} has rows for {total} and does not exist"


def _hold(hold: Hold, rows: list[Row]) -> Iterator[str]:
    if hold.state not in _STATES:
        yield f"I4 {hold.id} is {hold.state}"
    if hold.state == HELD and rows:
        yield f"I4 {hold.id} is held and has rows"
    charged: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    late: Counter[str] = Counter()
    for row in rows:
        charged[row.account] += row.delta
        ends[row.account] += row.kind in _FIRST_ENDS
        late[row.account] += row.kind == "trueup"
    yield from _ends(hold, charged, ends, late)
    if set(charged) - {name for name, _ in hold.accounts}:
        yield f"I5 {hold.id} has rows on accounts that it does not name"


def _ends(hold: Hold, charged: Counter[str], ends: Counter[str], late: Counter[str]) -> Iterator[str]:
    for name, unit in hold.accounts:
        if charged[name] != hold.charged.get(unit, 0):
            yield f"I3 {hold.id} charged {hold.charged.get(unit, 0)} {unit}, its rows on {name} say {charged[name]}"
        if hold.state != HELD and ends[name] != 1:
            yield f"I4 {hold.id} left its hold {ends[name]} times on {name}"
        if late[name] > 1:
            yield f"I4 {hold.id} was trued up {late[name]} times on {name}"

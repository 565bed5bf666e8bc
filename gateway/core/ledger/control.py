"""What a person does to the ledger: closes and opens gates, sets limits, ends runs.

Invariant: every word is written down, so that other processes hear of it; whoever waits without hope is told at once.
What never enters: who may say it (edge/admin).
"""

from __future__ import annotations

from gateway.core.ledger import limits, names, runs
from gateway.core.ledger.book import Book
from gateway.core.ledger.engine import dismiss, renew, send_hopeless_home, serve_line
from gateway.core.types import Balance, Denied, Run


def close(book: Book, now: float, gate: str, reason: str) -> None:
    """Kills: every later order that names this account is denied, and so are those that wait."""
    account = book.account(gate)
    if account.closed != reason:
        account.closed = reason
        book.dirty.accounts.add(gate)
        _tell_gate(book, now, gate, reason)
    moved: list[str] = []
    for parked in list(book.line.parked.values()):
        if gate in parked.order.gates or gate in parked.charges:
            moved += dismiss(book, parked, Denied(gate, "", "closed", why=reason))
    serve_line(book, now, moved)


def open_gate(book: Book, now: float, gate: str) -> None:
    """Takes a kill back."""
    account = book.account(gate)
    if account.closed is not None:
        account.closed = None
        book.dirty.accounts.add(gate)
        _tell_gate(book, now, gate, None)


def _tell_gate(book: Book, now: float, gate: str, reason: str | None) -> None:
    """Other processes read it in the journal, and end the streams that they have open."""
    name = names.read(gate)
    run = name.owner if name.kind == "run" else ""
    book.write(now, "gate", run, None, {"gate": gate, "closed": reason is not None, "reason": reason})


def set_limit(book: Book, now: float, name: str, limit: int) -> Balance:
    """An operator's word; a rise counts as far as the next order's `most` allows it. Raises StoreFailed."""
    account = book.account(name)
    limits.set_cap(book, now, account, limit)
    moved = send_hopeless_home(book, now, name)
    for parked in list(book.line.parked.values()):
        if limits.outdated(book, now, parked.order):  # nobody limited this unit of its run when it came
            moved += renew(book, now, parked)
    serve_line(book, now, [*moved, name])
    return account.balance()


def end_run(book: Book, now: float, key: str, state: str, outcome: str | None, reason: str | None) -> Run | None:
    """Ends, kills, pauses or resumes a run; a kill closes its gate in the same step, a resume opens it."""
    run = runs.end(book, now, key, state, outcome, reason)
    if run is not None and state == "killed":
        close(book, now, runs.gate_of(key), reason or "")
    elif run is not None and state == "active":
        open_gate(book, now, runs.gate_of(key))
    return run

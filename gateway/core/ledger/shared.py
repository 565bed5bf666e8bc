"""The line over all processes of a host: tickets in order everywhere, and what is known of those who wait elsewhere.

A process tells who waits in it by rows (`parked`), written in the transaction that parks, moves or ends a wait; the
others know of each account the oldest ticket it blocks and how many wait for it. So nobody overtakes (ADR 0002), though
each process answers only its own. What never enters: how rows are written, when it is looked again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.core.ledger import control, limits
from gateway.core.ledger.book import Account, Book
from gateway.core.ledger.engine import renew, send_hopeless_home, serve_line
from gateway.core.ledger.line import LINE_MOST, Line, Parked
from gateway.core.types import Order

NO_TICKET: Final = 2**62  # stands behind everybody
_NOBODY: Final = (NO_TICKET, 0)


class SharedLine(Line):
    """The orders that wait here, and what is known of those that wait in other processes."""

    def __init__(self, most: int = LINE_MOST) -> None:
        super().__init__(most)
        self.others: dict[str, tuple[int, int]] = {}  # account -> (oldest ticket that it blocks, how many watch it)
        self.start_over = False  # rows of ours may be left on disk that nobody stands for
        self._highest = 0  # ticket of anybody elsewhere
        self._untold: dict[int, Parked | None] = {}  # tickets whose rows must be written; None: must go
        self._told: set[int] = set()  # tickets that have rows
        self._rewritten: set[int] = set()  # of them: rows of accounts that they charge no longer
        self._seen: dict[str, tuple[object, ...]] = {}  # accounts that are waited for, as they were at the last look
        self._moved: set[str] = set()  # accounts at which somebody elsewhere came or went since

    def ahead(self, account: str, ticket: int | None) -> bool:
        """Does somebody stand in this account's line, here or elsewhere, before this ticket?"""
        if super().ahead(account, ticket):
            return True
        first = self.others.get(account, _NOBODY)[0] if self.others else NO_TICKET
        return first < (NO_TICKET if ticket is None else ticket)

    def watching(self, account: str) -> int:
        """How many waiting orders would charge this account, here and elsewhere."""
        return super().watching(account) + (self.others.get(account, _NOBODY)[1] if self.others else 0)

    def park(self, order: Order, at: float, blocked: list[str]) -> Parked:
        """Puts an order at the end of the lines that block it, behind everybody everywhere."""
        self._ticket = max(self._ticket, self._highest)
        return super().park(order, at, blocked)

    def block(self, parked: Parked, blocked: list[str]) -> list[str]:
        """See `Line`."""
        if parked.blocked != blocked:
            self._untold[parked.ticket] = parked
        return super().block(parked, blocked)

    def rewrite(self, parked: Parked, order: Order) -> list[str]:
        """See `Line`."""
        self._untold[parked.ticket] = parked
        if parked.ticket in self._told:
            self._rewritten.add(parked.ticket)
        return super().rewrite(parked, order)

    def remove(self, parked: Parked) -> list[str]:
        """See `Line`."""
        left = super().remove(parked)
        self._untold.pop(parked.ticket, None)
        if parked.ticket in self._told:
            self._untold[parked.ticket] = None
        return left

    def clear(self) -> list[str]:
        """See `Line`."""
        self._untold.clear()
        self._told.clear()
        self._rewritten.clear()
        self._seen.clear()
        self.start_over = True
        return super().clear()

    def orders(self) -> list[Order]:
        """Those that wait here."""
        return [parked.order for parked in self.parked.values()]

    @property
    def has_news(self) -> bool:
        """Is there anything of those who wait here that other processes don't know?"""
        return self.start_over or bool(self._untold)

    def take_untold(self) -> tuple[list[int], list[tuple[int, str, bool]]]:
        """Tickets whose rows must go, and rows (ticket, account, does it block) to be written over the old ones."""
        gone = [ticket for ticket, parked in self._untold.items() if parked is None or ticket in self._rewritten]
        rows = [
            (parked.ticket, account, account in parked.blocked)
            for parked in self._untold.values()
            if parked is not None
            for account in parked.charges
        ]
        self._told.difference_update(gone)
        self._told.update(row[0] for row in rows)
        self._untold.clear()
        self._rewritten.clear()
        return gone, rows

    def tell_anew(self) -> None:
        """Our rows may be gone: others took us for dead. The places in line stay ours."""
        self._untold.update((parked.ticket, parked) for parked in self.parked.values())

    def hear(self, others: Iterable[tuple[str, int | None, int, int]]) -> None:
        """What is on disk of those who wait elsewhere: account, oldest ticket it blocks, newest ticket, how many."""
        heard: dict[str, tuple[int, int]] = {}
        for account, first, newest, count in others:
            heard[account] = (NO_TICKET if first is None else first, count)
            self._highest = max(self._highest, newest)
        if heard or self.others:
            self._moved.update(name for name in {*heard, *self.others} if heard.get(name) != self.others.get(name))
            self.others = heard

    def remember(self, book: Book) -> None:
        """The accounts that are waited for are now as this process left them."""
        self._seen = {name: _state(book.account(name)) for name in self.queues}

    def changed(self, book: Book, now: float) -> list[str]:
        """Accounts that are waited for and that others changed since; where a hold ended, patience begins anew."""
        names = []
        for name in self.queues:
            state, before = _state(book.account(name)), self._seen.get(name)
            if state != before:
                if before is not None and _has_settled(before, state):
                    self.settled(name, now)
                names.append(name)
            elif name in self._moved:
                names.append(name)
        self._moved.clear()
        return names


def _state(account: Account) -> tuple[object, ...]:
    return (account.spent, account.held, account.open, account.limit, account.cap, account.last)


def _has_settled(before: tuple[object, ...], after: tuple[object, ...]) -> bool:
    (spent, held, number), (spent_by_now, held_by_now, number_by_now) = before[:3], after[:3]
    return spent != spent_by_now or held_by_now < held or number_by_now < number  # type: ignore[operator]  # integers


def look_again(book: Book, now: float) -> None:
    """Another process wrote: whoever waits here is judged by what the accounts say now."""
    line = book.line
    assert isinstance(line, SharedLine)
    for gate in {gate for parked in line.parked.values() for gate in (*parked.order.gates, *parked.charges)}:
        why = book.account(gate).closed
        if why is not None:
            control.close(book, now, gate, why)
    names = line.changed(book, now)
    moved = [other for name in names for other in send_hopeless_home(book, now, name)]
    for parked in list(line.parked.values()):
        if limits.outdated(book, now, parked.order):  # a unit of its run was limited there since it came
            moved += renew(book, now, parked)
    serve_line(book, now, [*moved, *names])

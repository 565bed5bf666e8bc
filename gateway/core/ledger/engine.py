"""Budgets that are hard: reserve the most that a call can cost, then settle at what it did cost (ledger.md).

The state machine as functions over a `Book`: this is the reference model, the memory store, and the engine inside the
SQLite store; `settle` has the other half, how a hold ends. Every function takes the book and the store's time first,
changes the book, marks what it touched, and may be repeated with the same ids without effect. A reservation is HELD,
then ends once: SETTLED, VOID or PRESUMED (outcome unknown: the whole hold counts as spent); only PRESUMED may be
corrected by a late fact (`trueup`).

Invariant: `audit` finds nothing after any sequence of these. What never enters: floats near money, clocks, I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Final, Literal

from gateway.core.errors import StoreFailed
from gateway.core.ledger import limits, names, runs
from gateway.core.ledger.book import AMOUNT_MOST, HELD, Account, Book, Hold
from gateway.core.ledger.line import Parked
from gateway.core.types import COUNTED, Balance, Charge, Denied, Order, Reservation


class Waiting(Enum):
    """The order stands in line; its answer comes with `Book.take_answers`."""

    WAITING = 0


WAITING: Final = Waiting.WAITING
LAST_USED: Final = "last_call"  # why of a denial: the account's last call was made

# --------------------------------------------------------------------------- reserve


def reserve(book: Book, now: float, order: Order) -> Reservation | Denied | Literal[Waiting.WAITING]:
    """All charges in one step or none; WAITING where only holds are in the way and the order has patience."""
    known = book.hold(order.id)
    if known is not None:
        return _repeat(book, known, order)
    if order.id in book.line.parked:
        return WAITING
    for charge in order.charges:
        if not 0 <= charge.least <= charge.want or charge.least > AMOUNT_MOST:
            raise StoreFailed(f"a charge on {charge.account} wants {charge.want} and at least {charge.least}")
    line = limits.line_of(book, runs.touch(book, order.run, now))
    if limits.stale(order, line):
        return Denied("", "", "stale")
    return _place(book, now, limits.complete(book, now, order, line))


def _place(book: Book, now: float, order: Order) -> Reservation | Denied | Literal[Waiting.WAITING]:
    for charge in order.charges:
        limits.look(book, charge, now)
    if book.line.parked:  # a caller's lower limit may leave those who wait without hope
        moved = [name for charge in order.charges for name in send_hopeless_home(book, now, charge.account)]
        serve_line(book, now, moved)
    answer = _attempt(book, now, order, None)
    if not isinstance(answer, list):
        return answer
    if book.line.full:
        return _denied(book, now, order, answer[0], "busy")
    book.line.park(order, now, answer)
    return WAITING


def _repeat(book: Book, hold: Hold, order: Order) -> Reservation:
    if not all(_was_granted(hold, charge) for charge in order.charges):
        raise StoreFailed(f"order {order.id} was granted before with other charges")
    return _reservation(book, hold)


def _was_granted(hold: Hold, charge: Charge) -> bool:
    """Is this charge among those that were granted? The store may have added limits of its own, and windows."""
    asked = min(charge.want, AMOUNT_MOST)
    return any(
        asked == wanted and (name == charge.account if charge.window is None else name.startswith(f"{charge.account}/"))
        for (name, _), wanted in zip(hold.accounts, hold.asked, strict=True)
    )


def _asked(order: Order) -> list[int]:
    return [min(charge.want, AMOUNT_MOST) for charge in order.charges]


def _reservation(book: Book, hold: Hold) -> Reservation:
    last = next((name for name, _ in hold.accounts if book.account(name).last == hold.id), "")
    return Reservation(hold.id, hold.step, dict(hold.held), balances(book, hold), last)


def balances(book: Book, hold: Hold) -> tuple[Balance, ...]:
    """Its accounts as they are now."""
    return tuple([book.account(name).balance() for name, _ in hold.accounts])


class _Fit:
    """What an order needs and may get, unit by unit, while its charges are looked at one after another."""

    __slots__ = ("aside", "behind", "blocked", "granted", "last", "least")

    def __init__(self, order: Order) -> None:
        self.least: dict[str, int] = {}
        self.granted: dict[str, int] = {}
        self.blocked: list[str] = []  # accounts in whose line the order must stand
        self.last: list[str] = []  # accounts whose last call it would be
        self.aside: dict[str, int] = {}  # what it leaves for the last call, by account
        self.behind = order.behind
        for charge in order.charges:
            least = charge.least if charge.clamp else charge.want
            self.least[charge.unit] = max(least, self.least.get(charge.unit, 0))
            self.granted[charge.unit] = min(charge.want, self.granted.get(charge.unit, AMOUNT_MOST))

    def held(self) -> dict[str, int]:
        """What is held, unit by unit."""
        return {unit: 0 if unit in COUNTED else max(amount, self.least[unit]) for unit, amount in self.granted.items()}


def _attempt(book: Book, now: float, order: Order, ticket: int | None) -> Reservation | Denied | list[str]:
    """Grants, denies, or names the accounts in whose line the order must stand. Pure until it grants."""
    closed = _closed(book, order)
    if closed is not None:
        return closed
    fit = _Fit(order)
    for charge in order.charges:
        account = book.account(charge.account)
        limit = limits.in_force(account, charge)
        if limit is not None and not _fits(book, now, (charge, account, limit), ticket, fit):
            return _denied(book, now, order, account.name, "limit")
    if not fit.blocked:
        return _grant(book, now, order, fit)
    return fit.blocked if order.wait_s > 0 else _denied(book, now, order, fit.blocked[0], "limit")


def _fits(
    book: Book, now: float, at: tuple[Charge, Account, int], ticket: int | None, fit: _Fit
) -> bool:  # fmt: skip
    """Is there hope on this account? Notes in `fit` what it may get there, or that it has to wait."""
    charge, account, limit = at
    need = fit.least[charge.unit]
    left = limit - limits.used(book, now, account, charge)
    if account.last is not None and charge.last:
        return False
    aside = limits.reserve_of(charge, need)
    if need + aside > left:
        if not charge.last or (need > left and charge.unit not in COUNTED):
            return False
        fit.last.append(account.name)
        aside, left = 0, max(need, left)
    elif aside:
        fit.aside[account.name] = aside
    free = left - aside - account.held - _under_way(book, charge)
    if free < need or book.line.ahead(account.name, ticket):
        fit.blocked.append(account.name)
    else:
        fit.granted[charge.unit] = min(fit.granted[charge.unit], _portion(book, charge, free, ticket, fit.behind))
    return True


def _under_way(book: Book, charge: Charge) -> int:
    """Calls of the run that were sent before a limit of calls was set: they hold nothing there, and count at their
    end. Each holds dollars of the run, as every call does."""
    name = names.read(charge.account)
    if charge.unit != "calls" or name.kind != "run":
        return 0
    return max(0, book.account(names.spell("run", name.owner, "nusd")).open - book.account(charge.account).open)


def _closed(book: Book, order: Order) -> Denied | None:
    for gate in order.gates:
        why = book.account(gate).closed
        if why is not None:
            return Denied(gate, "", "closed", why=why)
    for charge in order.charges:
        account = book.account(charge.account)
        if account.closed is not None:
            return Denied(account.name, charge.unit, "closed", account.balance(), why=account.closed)
    return None


def _portion(book: Book, charge: Charge, free: int, ticket: int | None, behind: int) -> int:
    """Of what is free: all, or one part of w while w calls (this one too) come, wait or are in flight (design.md 2)."""
    free = free * charge.part // 1000
    if not charge.share:
        return free
    others = book.account(charge.account).open + book.line.watching(charge.account)
    return free // (others + 1 + behind if ticket is None else others)


def _grant(book: Book, now: float, order: Order, fit: _Fit) -> Reservation:
    granted = fit.held()
    hold = Hold(
        id=order.id,
        call_id=order.call_id,
        run=order.run.key,
        tenant=order.run.tenant,
        step=step_of(book, order.call_id, order.id, order.run.key, now),
        instance=book.instance,
        state=HELD,
        created_at=now,
        # by the store's time, which a wall clock that was set back lags behind
        deadline_at=max(order.deadline_at, now + order.deadline_at - order.at),
        accounts=[(charge.account, limits.unit_of(charge)) for charge in order.charges],
        held={limits.unit_of(charge): granted[charge.unit] for charge in order.charges},
        asked=_asked(order),
        about=order.about,
        aside=fit.aside,
    )
    book.holds[hold.id] = hold
    book.dirty.holds.add(hold.id)
    for charge in order.charges:
        account = book.account(charge.account)
        account.held += granted[charge.unit]
        account.open += 1
        if charge.window is not None:
            account.ends_at = limits.window_of(book, charge.window, now).ends_at
        book.dirty.accounts.add(account.name)
        limit = limits.in_force(account, charge)
        if limit != account.limit:  # it waited, and another limit was seen meanwhile
            limits.set_in_force(book, account, limit)
    _note_last(book, now, hold, fit.last)
    return _reservation(book, hold)


def _note_last(book: Book, now: float, hold: Hold, names: list[str]) -> None:
    """Marks the accounts whose last call this is, and lets a run go on that a limit had paused."""
    for name in names:
        book.account(name).last = hold.id
    run = runs.known(book, hold.run, now)
    if run.state == "paused" and (run.reason or "").startswith(limits.LOWERED):
        runs.end(book, now, run.key, "active", None, None)
    elif run.state == "ended":  # as idle, while it waited in line
        runs.touch(book, runs.facts_of(run.key, ""), now)


def step_of(book: Book, call_id: str, order_id: str, run_key: str, now: float) -> int:
    """The call's 1-based number in its run; a further attempt of the same call keeps the number of the first."""
    first = f"{call_id}/1"
    if order_id != first:
        earlier = book.hold(first)
        if earlier is not None:
            return earlier.step
    run = runs.known(book, run_key, now)
    run.steps += 1
    book.dirty.runs.add(run_key)
    return run.steps


def _denied(
    book: Book, now: float, order: Order, name: str, reason: Literal["limit", "closed", "busy", "gone"]
) -> Denied:
    charge = next(charge for charge in order.charges if charge.account == name)
    account = book.account(name)
    needed = charge.least if charge.clamp else charge.want
    why = LAST_USED if account.last is not None and charge.last else ""
    balance = limits.balance(book, now, account, charge)
    return Denied(name, charge.unit, reason, balance, needed, why, account.ends_at, charge.degrade)


# --------------------------------------------------------------------------- the line


def serve_line(book: Book, now: float, names: Iterable[str]) -> None:
    """Lets those go who can, in turn, wherever room was made; whoever leaves a line makes room behind him."""
    todo = deque(one for name in names for one in _woken(name) if one in book.line.queues)
    while todo:
        name = todo.popleft()
        while (queue := book.line.queues.get(name)) is not None and queue.blocked:
            parked = queue.watch[queue.blocked[0]]
            if limits.outdated(book, now, parked.order):
                todo.extend(renew(book, now, parked))
                continue
            answer = _attempt(book, now, parked.order, parked.ticket)
            if isinstance(answer, list):
                left = book.line.block(parked, answer)
                todo.extend(other for other in left if other != name)
                if name in answer:
                    break
            else:
                todo.extend(dismiss(book, parked, answer))


def _woken(account: str) -> tuple[str, ...]:
    """Whose lines move with this account: who waits for calls under way waits for the run's dollars that they hold."""
    name = names.read(account)
    return (
        (account, names.spell("run", name.owner, "calls")) if (name.kind, name.unit) == ("run", "nusd") else (account,)
    )


def dismiss(book: Book, parked: Parked, answer: Reservation | Denied) -> list[str]:
    book.answers.append((parked.order.id, answer))
    return book.line.remove(parked)


def send_hopeless_home(book: Book, now: float, name: str) -> list[str]:
    """Ends the wait of those for whom spent alone is too much by now; gives back the lines that moved."""
    queue = book.line.queues.get(name)
    account = book.account(name)
    if queue is None or account.limit is None:
        return []
    if account.spent + queue.peak <= account.limit and account.last is None:
        return []
    moved: list[str] = []
    for parked in list(queue.watch.values()):
        charge = parked.charges[name]
        limit = limits.in_force(account, charge)
        needed = charge.least if charge.clamp else charge.want
        spent_out = limit is not None and account.spent + needed > limit
        if charge.last:  # of what is only counted, the last call comes when it has run out
            spent_out = account.last is not None or (spent_out and charge.unit not in COUNTED)
        if spent_out and not limits.has_turned(book, now, parked.order):  # else the next window decides
            moved += dismiss(book, parked, _denied(book, now, parked.order, name, "limit"))
    return moved


def forget(book: Book, now: float, order_id: str) -> None:
    """The caller of a waiting order left."""
    parked = book.line.parked.get(order_id)
    if parked is not None:
        name = parked.blocked[0]
        serve_line(book, now, dismiss(book, parked, _denied(book, now, parked.order, name, "gone")))


def expire_line(book: Book, now: float) -> int:
    """Ends waits that lasted too long without a settle; an order whose window has ended looks at the next one."""
    ended = 0
    moved: list[str] = []
    for parked in list(book.line.parked.values()):
        if limits.has_turned(book, now, parked.order):
            moved += renew(book, now, parked)
        elif (over := _out_of_time(book, now, parked.order)) or book.line.patience_ends_at(parked) <= now:
            moved += dismiss(book, parked, _denied(book, now, parked.order, over or parked.blocked[0], "limit"))
        else:
            continue
        ended += 1
    serve_line(book, now, moved)
    return ended


def renew(book: Book, now: float, parked: Parked) -> list[str]:
    """Judges it by the accounts that it charges now: a window has ended, or a unit of its run was limited since. Its
    turn stays, its patience begins anew. Gives back the lines that moved."""
    line = limits.line_of(book, runs.known(book, parked.order.run.key, now))
    left = book.line.rewrite(parked, limits.complete(book, now, limits.before_windows(parked.order), line))
    parked.at = now
    for charge in parked.order.charges:
        limits.look(book, charge, now)
    answer = _attempt(book, now, parked.order, parked.ticket)
    if not isinstance(answer, list):
        return [*left, *dismiss(book, parked, answer)]
    book.line.block(parked, answer)
    return [name for name in left if name not in answer]


def _out_of_time(book: Book, now: float, order: Order) -> str | None:
    """The account whose limit of seconds has run out while it waited."""
    for charge in order.charges:
        if charge.unit == "seconds":
            account = book.account(charge.account)
            limit = limits.in_force(account, charge)
            if limit is not None and limits.used(book, now, account, charge) >= limit:
                return account.name
    return None


# --------------------------------------------------------------------------- hold


def adjust(book: Book, now: float, order_id: str, unit: str, amount: int) -> bool:
    """Sets the hold of one unit: down always, up only if it fits everywhere. False: did not fit, or it has ended."""
    hold = book.hold(order_id)
    if hold is None or hold.state != HELD or unit not in hold.held:
        return False
    amount = min(max(0, amount), AMOUNT_MOST)
    change = amount - hold.held[unit]
    names = [name for name, of in hold.accounts if of == unit]
    accounts = [book.account(name) for name in names]
    if change > 0 and any(
        a.limit is not None and a.limit - a.spent - a.held - hold.aside.get(a.name, 0) < change for a in accounts
    ):
        return False
    hold.held[unit] = amount
    book.dirty.holds.add(hold.id)
    for account in accounts:
        account.held += change
        book.dirty.accounts.add(account.name)
    if change < 0:
        serve_line(book, now, names)
    return True

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
from gateway.core.ledger import runs
from gateway.core.ledger.book import AMOUNT_MOST, HELD, Account, Book, Hold, Row
from gateway.core.ledger.line import Parked
from gateway.core.types import Balance, Charge, Denied, Order, Reservation, Run


class Waiting(Enum):
    """The order stands in line; its answer comes with `Book.take_answers`."""

    WAITING = 0


WAITING: Final = Waiting.WAITING

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
    runs.touch(book, order.run, now)
    for charge in order.charges:
        _look_at_limit(book, charge, now)
    answer = _attempt(book, now, order, None)
    if not isinstance(answer, list):
        return answer
    if book.line.full:
        return _denied(book, order, answer[0], "busy")
    book.line.park(order, now, answer)
    return WAITING


def _repeat(book: Book, hold: Hold, order: Order) -> Reservation:
    accounts = [(charge.account, charge.unit) for charge in order.charges]
    if accounts != hold.accounts or hold.asked != _asked(order):
        raise StoreFailed(f"order {order.id} was granted before with other charges")
    return _reservation(book, hold)


def _asked(order: Order) -> list[int]:
    return [min(charge.want, AMOUNT_MOST) for charge in order.charges]


def _reservation(book: Book, hold: Hold) -> Reservation:
    return Reservation(hold.id, hold.step, dict(hold.held), _balances(book, hold))


def _balances(book: Book, hold: Hold) -> tuple[Balance, ...]:
    return tuple([book.account(name).balance() for name, _ in hold.accounts])


def in_force(account: Account, charge: Charge) -> int | None:
    """The limit that this charge meets: what is configured, or what a caller or an operator made of it."""
    if account.cap is None:
        return charge.limit
    most = charge.limit if charge.most is None else charge.most
    return account.cap if most is None else min(account.cap, most)


def _look_at_limit(book: Book, charge: Charge, now: float) -> None:
    """The lowest limit that a caller ever sent stays, also where the order is then denied (design.md section 3)."""
    account = book.account(charge.account)
    limit = in_force(account, charge)
    lower = charge.lower
    if lower is not None and (account.asked is None or lower < account.asked):
        account.asked = max(0, lower)
        book.dirty.accounts.add(account.name)
        if limit is None or account.asked < limit:
            account.cap = limit = account.asked
            _note_limit(book, account, charge.unit, now)
    if limit != account.limit:
        _set_in_force(book, account, limit)


def _set_in_force(book: Book, account: Account, limit: int | None) -> None:
    account.limit = limit
    used = account.spent + account.held - account.overrun
    account.lowered = max(0, used - limit) if limit is not None else 0
    book.dirty.accounts.add(account.name)


def _note_limit(book: Book, account: Account, unit: str, now: float) -> None:
    book.dirty.rows.append(Row(None, account.name, unit, "limit", 0, now, str(account.cap)))


def _attempt(book: Book, now: float, order: Order, ticket: int | None) -> Reservation | Denied | list[str]:
    """Grants, denies, or names the accounts in whose line the order must stand. Pure until it grants."""
    closed = _closed(book, order)
    if closed is not None:
        return closed
    least: dict[str, int] = {}
    granted: dict[str, int] = {}
    for charge in order.charges:
        least[charge.unit] = max(charge.least, least.get(charge.unit, 0))
        granted[charge.unit] = min(charge.want, granted.get(charge.unit, AMOUNT_MOST))
    blocked: list[str] = []
    for charge in order.charges:
        account = book.account(charge.account)
        limit = in_force(account, charge)
        if limit is None:
            continue
        need = least[charge.unit]
        if account.spent + need > limit:
            return _denied(book, order, account.name, "limit")
        free = limit - account.spent - account.held
        if free < need or book.line.ahead(account.name, ticket):
            blocked.append(account.name)
        else:
            granted[charge.unit] = min(granted[charge.unit], _portion(book, charge, free, ticket))
    if not blocked:
        return _grant(book, now, order, {unit: max(amount, least[unit]) for unit, amount in granted.items()})
    return blocked if order.wait_s > 0 else _denied(book, order, blocked[0], "limit")


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


def _portion(book: Book, charge: Charge, free: int, ticket: int | None) -> int:
    """Of what is free: all, or one part of w while w calls (this one too) wait or are in flight, see design.md 2."""
    if not charge.share:
        return free
    others = book.account(charge.account).open + book.line.watching(charge.account)
    return free // (others + 1 if ticket is None else others)


def _grant(book: Book, now: float, order: Order, granted: dict[str, int]) -> Reservation:
    hold = Hold(
        id=order.id,
        call_id=order.call_id,
        run=order.run.key,
        tenant=order.run.tenant,
        step=step_of(book, order.call_id, order.id, order.run.key, now),
        instance=book.instance,
        state=HELD,
        created_at=now,
        deadline_at=order.deadline_at,
        accounts=[(charge.account, charge.unit) for charge in order.charges],
        held=granted,
        asked=_asked(order),
        about=order.about,
    )
    book.holds[hold.id] = hold
    book.dirty.holds.add(hold.id)
    for charge in order.charges:
        account = book.account(charge.account)
        account.held += granted[charge.unit]
        account.open += 1
        book.dirty.accounts.add(account.name)
        limit = in_force(account, charge)
        if limit != account.limit:  # it waited, and another limit was seen meanwhile
            _set_in_force(book, account, limit)
    return _reservation(book, hold)


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


def _denied(book: Book, order: Order, name: str, reason: Literal["limit", "closed", "busy", "gone"]) -> Denied:
    charge = next(charge for charge in order.charges if charge.account == name)
    return Denied(name, charge.unit, reason, book.account(name).balance(), charge.least)


# --------------------------------------------------------------------------- the line


def serve_line(book: Book, now: float, names: Iterable[str]) -> None:
    """Lets those go who can, in turn, wherever room was made; whoever leaves a line makes room behind him."""
    todo = deque(name for name in names if name in book.line.queues)
    while todo:
        name = todo.popleft()
        while (queue := book.line.queues.get(name)) is not None and queue.blocked:
            parked = queue.watch[queue.blocked[0]]
            answer = _attempt(book, now, parked.order, parked.ticket)
            if isinstance(answer, list):
                left = book.line.block(parked, answer)
                todo.extend(other for other in left if other != name)
                if name in answer:
                    break
            else:
                todo.extend(_dismiss(book, parked, answer))


def _dismiss(book: Book, parked: Parked, answer: Reservation | Denied) -> list[str]:
    book.answers.append((parked.order.id, answer))
    return book.line.remove(parked)


def send_hopeless_home(book: Book, name: str) -> list[str]:
    """Ends the wait of those for whom spent alone is too much by now; gives back the lines that moved."""
    queue = book.line.queues.get(name)
    account = book.account(name)
    if queue is None or account.limit is None or account.spent + queue.peak <= account.limit:
        return []
    moved: list[str] = []
    for parked in list(queue.watch.values()):
        charge = parked.charges[name]
        limit = in_force(account, charge)
        if limit is not None and account.spent + charge.least > limit:
            moved += _dismiss(book, parked, _denied(book, parked.order, name, "limit"))
    return moved


def forget(book: Book, now: float, order_id: str) -> None:
    """The caller of a waiting order left."""
    parked = book.line.parked.get(order_id)
    if parked is not None:
        name = parked.blocked[0]
        serve_line(book, now, _dismiss(book, parked, _denied(book, parked.order, name, "gone")))


def expire_line(book: Book, now: float) -> int:
    """Ends waits that lasted too long without a settle."""
    ended = 0
    moved: list[str] = []
    for parked in list(book.line.parked.values()):
        if book.line.patience_ends_at(parked) <= now:
            moved += _dismiss(book, parked, _denied(book, parked.order, parked.blocked[0], "limit"))
            ended += 1
    serve_line(book, now, moved)
    return ended


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
    if change > 0 and any(a.limit is not None and a.limit - a.spent - a.held < change for a in accounts):
        return False
    hold.held[unit] = amount
    book.dirty.holds.add(hold.id)
    for account in accounts:
        account.held += change
        book.dirty.accounts.add(account.name)
    if change < 0:
        serve_line(book, now, names)
    return True


# --------------------------------------------------------------------------- gates and limits


def close(book: Book, now: float, gate: str, reason: str) -> None:
    """Kills: every later order that names this account is denied, and so are those that wait."""
    account = book.account(gate)
    account.closed = reason
    book.dirty.accounts.add(gate)
    moved: list[str] = []
    for parked in list(book.line.parked.values()):
        if gate in parked.order.gates or gate in parked.charges:
            moved += _dismiss(book, parked, Denied(gate, "", "closed", why=reason))
    serve_line(book, now, moved)


def open_gate(book: Book, _now: float, gate: str) -> None:
    """Takes a kill back."""
    account = book.account(gate)
    if account.closed is not None:
        account.closed = None
        book.dirty.accounts.add(gate)


def set_limit(book: Book, now: float, name: str, limit: int) -> Balance:
    """An operator's word; a rise counts as far as the next order's `most` allows it."""
    if not 0 <= limit <= AMOUNT_MOST:
        raise StoreFailed(f"a limit of {limit} on {name} is out of range")
    account = book.account(name)
    kind, _, rest = name.partition("/")
    key, _, tail = rest.partition("/")
    if account.cap != limit or account.limit != limit:
        account.cap = limit
        _note_limit(book, account, tail.partition("/")[0], now)
        _set_in_force(book, account, limit)
        book.write(now, "limit", key if kind == "run" else "", None, {"account": name, "limit": limit})
        serve_line(book, now, [*send_hopeless_home(book, name), name])
    return account.balance()


def end_run(book: Book, now: float, key: str, state: str, outcome: str | None, reason: str | None) -> Run | None:
    """Ends, kills, pauses or resumes a run; a kill closes its gate in the same step, a resume opens it."""
    run = runs.end(book, now, key, state, outcome, reason)
    if run is not None and state == "killed":
        close(book, now, runs.gate_of(key), reason or "")
    elif run is not None and state == "active":
        open_gate(book, now, runs.gate_of(key))
    return run

"""Which limit a charge meets: windows, limits of callers and operators, what is used, last calls, thresholds.

Invariant: the lowest limit that a caller ever sent stays; a threshold is recorded once for an account; what counts as
used is what was spent (of a run's seconds: how long ago it began), never what is held. What never enters: granting.
"""

from __future__ import annotations

from msgspec import structs

from gateway.core.errors import StoreFailed
from gateway.core.ledger import names, runs
from gateway.core.ledger.book import AMOUNT_MOST, Account, Book, Hold, Row
from gateway.core.types import Balance, Charge, Order, Run
from gateway.core.windows import Calendar, Window

LOWERED = "its limit was set below what it has used"  # why a run is paused that was not paused by a person
JOINED = -1  # what a hold asked of an account that it only counts on since it ended
_NOTHING: frozenset[str] = frozenset()
AGE = "age"  # unit of run/R/seconds in a hold: time passes by itself, a call adds nothing to it


# --------------------------------------------------------------------------- an order made whole


def line_of(book: Book, run: Run) -> list[Run]:
    """The run and its ancestors as the ledger knows them, nearest first."""
    line = [run]
    while line[-1].parent is not None and len(line) <= runs.ANCESTORS_MOST:
        above = book.run(line[-1].parent)
        if above is None:
            break
        line.append(above)
    return line


def stale(order: Order, line: list[Run]) -> bool:
    """Does the ledger know more of this run than its caller does? Another process was told, and its budgets apply."""
    run, facts = line[0], order.run
    if run.agent not in (None, facts.agent) or run.user not in (None, facts.user):
        return True
    return bool(order.gates) and any(runs.gate_of(above.key) not in order.gates for above in line[1:])


def complete(book: Book, now: float, order: Order, line: list[Run]) -> Order:
    """The order with its accounts named in full: windows by this instant, and what /limits set on the runs."""
    charges = list(order.charges)
    for run in line:
        if run.capped:
            charges = _with_capped(charges, run, order)
    if any(charge.window is not None for charge in charges):
        charges = [_in_window(book, now, charge) for charge in charges]
    elif len(charges) == len(order.charges):
        return order
    return structs.replace(order, charges=tuple(charges))


def _with_capped(charges: list[Charge], run: Run, order: Order) -> list[Charge]:
    known = {charge.account for charge in charges}
    extra = []
    for unit in run.capped:
        account = names.spell("run", run.key, unit)
        if account not in known:
            want, least = order.sizes.get(unit, (0, 0))
            extra.append(Charge(account, unit, want, least))  # type: ignore[arg-type]  # capped holds units only
    own = f"run/{run.key}/"
    places = [index for index, charge in enumerate(charges) if charge.account.startswith(own)]
    at = places[-1] + 1 if places else len(charges)
    return charges[:at] + extra + charges[at:]


def join(book: Book, hold: Hold) -> frozenset[str]:
    """Makes a hold that ends count for what /limits set on its run, or on one above, while its call was under way. It
    was granted without that limit: what passes it there is overrun. Gives the accounts."""
    run = book.run(hold.run)
    for above in () if run is None else line_of(book, run):
        for unit in above.capped:
            name = names.spell("run", above.key, unit)
            if hold.accounts and all(name != known for known, _ in hold.accounts):
                hold.accounts.append((name, AGE if unit == "seconds" else unit))
                hold.asked.append(JOINED)
                hold.held.setdefault(hold.accounts[-1][1], 0)
    return joined(hold)


def joined(hold: Hold) -> frozenset[str]:
    """Accounts of this hold on which nothing was held."""
    if JOINED not in hold.asked:
        return _NOTHING
    return frozenset(name for (name, _), asked in zip(hold.accounts, hold.asked, strict=True) if asked == JOINED)


def _in_window(book: Book, now: float, charge: Charge) -> Charge:
    calendar = charge.window
    if calendar is None:
        return charge
    window = window_of(book, calendar, now)
    account = f"{charge.account}/{window.label}"
    book.account(account).ends_at = window.ends_at
    return structs.replace(charge, account=account)


def window_of(book: Book, calendar: Calendar, now: float) -> Window:
    """The calendar's window at this instant."""
    window = book.windows.get(calendar)
    if window is None or not window.starts_at <= now < window.ends_at:
        window = book.windows[calendar] = calendar.at(now)
    return window


def has_turned(book: Book, now: float, order: Order) -> bool:
    """Has a window ended that this order would charge?"""
    return any(
        charge.window is not None and not charge.account.endswith(f"/{window_of(book, charge.window, now).label}")
        for charge in order.charges
    )


def outdated(book: Book, now: float, order: Order) -> bool:
    """Would this order charge other accounts if it came now?"""
    if has_turned(book, now, order):
        return True
    run = book.run(order.run.key)
    line = [] if run is None else line_of(book, run)
    if not any(above.capped for above in line):
        return False
    return len(complete(book, now, before_windows(order), line).charges) > len(order.charges)


def before_windows(order: Order) -> Order:
    """The same order with no window chosen."""
    charges = [
        charge if charge.window is None else structs.replace(charge, account=charge.account.rpartition("/")[0])
        for charge in order.charges
    ]
    return structs.replace(order, charges=tuple(charges))


def unit_of(charge: Charge) -> str:
    """The unit under which a hold remembers a charge."""
    return AGE if charge.unit == "seconds" and charge.account.startswith("run/") else charge.unit


# --------------------------------------------------------------------------- the limit in force


def in_force(account: Account, charge: Charge) -> int | None:
    """The limit that this charge meets: what is configured, or what a caller or an operator made of it."""
    if account.cap is None:
        return charge.limit
    most = charge.limit if charge.most is None else charge.most
    return account.cap if most is None else min(account.cap, most)


def look(book: Book, charge: Charge, now: float) -> None:
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
        set_in_force(book, account, limit)
    if charge.marks:
        book.marks[account.name] = charge.marks
        note_marks(book, now, account)


def set_in_force(book: Book, account: Account, limit: int | None) -> None:
    """From now on this limit applies; a higher one gives the last call back."""
    if account.last is not None and limit is not None and (account.limit is None or limit > account.limit):
        account.last = None
    account.limit = limit
    used = account.spent + account.held - account.overrun
    account.lowered = max(0, used - limit) if limit is not None else 0
    book.dirty.accounts.add(account.name)


def _note_limit(book: Book, account: Account, unit: str, now: float) -> None:
    book.dirty.rows.append(Row(None, account.name, unit, "limit", 0, now, str(account.cap)))


def used(book: Book, now: float, account: Account, charge: Charge) -> int:
    """What counts against the limit already, without what is held."""
    return account.spent if unit_of(charge) != AGE else age(book, now, account.name)


def age(book: Book, now: float, account: str) -> int:
    """Whole seconds since the run of `run/R/seconds` began."""
    run = book.run(names.read(account).owner)
    return 0 if run is None else max(0, int(now - run.started_at))


def balance(book: Book, now: float, account: Account, charge: Charge) -> Balance:
    """The account at this instant, as its refusal shows it."""
    return structs.replace(account.balance(), spent=used(book, now, account, charge))


def beyond(account: Account) -> int:
    """By how much the account passes its limit without a word said of it yet."""
    if account.limit is None:
        return 0
    return max(0, account.spent + account.held - account.limit - account.overrun - account.lowered)


def reserve_of(charge: Charge, least: int) -> int:
    """What an ordinary call leaves for the last one: the bound of one call with `min_output`, and a quarter more,
    since the next request quotes this one's answer."""
    return least * 5 // 4 if charge.last else 0


# --------------------------------------------------------------------------- thresholds


def note_marks(book: Book, now: float, account: Account) -> None:
    """Records each threshold that what is spent has reached, once for this account."""
    if account.spent <= 0:
        return
    for mark in book.marks.get(account.name, ()):
        limit = mark.limit if mark.shadow or account.limit is None else account.limit
        for spelled, permille in mark.at:
            if account.spent * 1000 < limit * permille:
                break
            word = f"{mark.budget}@{spelled}"
            if word not in account.marks.split():
                account.marks = f"{account.marks} {word}".strip()
                book.dirty.accounts.add(account.name)
                name = names.read(account.name)
                data = {
                    "budget": mark.budget, "account": account.name, "unit": name.unit, "threshold": spelled,
                    "limit": limit, "spent": account.spent,
                }  # fmt: skip
                if mark.shadow:
                    data["shadow"] = True
                book.write(now, "threshold", name.owner if name.kind == "run" else "", None, data)


# --------------------------------------------------------------------------- an operator's limit


def set_cap(book: Book, now: float, account: Account, limit: int) -> None:
    """An operator's word: what lies below use pauses the run, what lies above it lets it go on."""
    if not 0 <= limit <= AMOUNT_MOST:
        raise StoreFailed(f"a limit of {limit} on {account.name} is out of range")
    name = names.read(account.name)
    if name.kind == "run":
        _cap_run(book, now, account, limit, name)
    if account.cap == limit and account.limit == limit:
        return
    account.cap = limit
    _note_limit(book, account, name.unit, now)
    set_in_force(book, account, limit)
    run = name.owner if name.kind == "run" else ""
    book.write(now, "limit", run, None, {"account": account.name, "limit": limit})


def _cap_run(book: Book, now: float, account: Account, limit: int, name: names.Name) -> None:
    run = runs.known(book, name.owner, now)
    if name.unit != "nusd" and name.unit not in run.capped:  # every call is charged in dollars as it is
        run.capped = (*run.capped, name.unit)
        book.dirty.runs.add(run.key)
        _count_before(book, now, account, run, name.unit)
    if _so_far(book, now, account, name.unit) > limit:
        runs.end(book, now, run.key, "paused", None, lowered_in(name.unit))
    elif run.state == "paused" and (run.reason or "").startswith(LOWERED):  # not a person's own pause
        other = _below_elsewhere(book, now, run, name.unit)
        if other is None:
            runs.end(book, now, run.key, "active", None, None)
        else:
            run.reason = lowered_in(other)
            book.dirty.runs.add(run.key)


def lowered_in(unit: str) -> str:
    """The reason of a run that is paused by a limit, with the unit as `/limits` names it."""
    return f"{LOWERED}: {'usd' if unit == 'nusd' else unit}"


def _so_far(book: Book, now: float, account: Account, unit: str) -> int:
    return age(book, now, account.name) if unit == "seconds" else account.spent


def _below_elsewhere(book: Book, now: float, run: Run, unit: str) -> str | None:
    """Another unit whose limit an operator set below what is used: it still stands in the way."""
    for other in ("nusd", *run.capped):
        account = book.account(names.spell("run", run.key, other))
        if other != unit and account.cap is not None and _so_far(book, now, account, other) > account.cap:
            return other
    return None


def _is_below(book: Book, key: str, top: str) -> bool:
    """Also where that isn't written yet."""
    run = book.run(key)
    return run is not None and any(above.key == top for above in line_of(book, run)[1:])


def _done(run: Run, unit: str) -> int:
    tokens = run.input_tokens + run.output_tokens
    return {"calls": run.calls, "tool_calls": run.tool_calls, "tokens": tokens}.get(unit, 0)


def _count_before(book: Book, now: float, account: Account, run: Run, unit: str) -> None:
    """What the run and those below it did while nobody counted this unit: their calls count on it from now on, too."""
    below = {*book.shelf.below(run.key), *(key for key in book.dirty.runs if _is_below(book, key, run.key))}
    below.discard(run.key)
    done = sum(_done(one, unit) for one in (run, *(runs.known(book, key, now) for key in sorted(below))))
    if done and account.spent == 0:  # else a budget has counted it all along
        account.spent = done
        book.dirty.rows.append(Row(None, account.name, unit, "limit", done, now, "before it was limited"))
        book.dirty.accounts.add(account.name)

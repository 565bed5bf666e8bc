"""Budgets as `/api` shows them: one item for each configured budget and each account that it counts on.

Invariant: a page begins where the one before ended, whatever opened meanwhile: no account that was there is left out or
comes twice. Windows that have ended are shown only while something is held in them. What never enters: HTTP, a change.

The order is that of a few large accounts before many small ones: global, keys, users, agents by name, then runs, the
newest first.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

from msgspec import Struct

from gateway.core.ledger import names
from gateway.core.ledger.reading import after_run
from gateway.core.ports import Reading, RunFilter, Standing
from gateway.core.refusal import rfc3339, usd
from gateway.core.types import Run
from gateway.edge import api_models as m
from gateway.rules.budget import Budget

KINDS = ("global", "key", "user", "agent")
NEWEST = RunFilter(sort="-started_at")
BATCH = 100  # accounts, or runs, that are read at once
NEVER_S = 3.2e8  # a pace that needs more than ten years is no pace

Page = tuple[list[m.BudgetItem], str | None]


class Place(Struct, frozen=True):
    """Where a page ended: after so many items of this account, or of this run."""

    kind: str
    owner: str  # the account's name; of a run its key
    done: int = 0


class Books:
    """The configured budgets, laid beside what the ledger counts."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        self._budgets = tuple(budgets)
        self._of_runs = [budget for budget in budgets if kind_of(budget) == "run"]

    def page(self, reading: Reading, now: float, limit: int, cursor: str | None) -> Page:
        """A page of everything. Raises ValueError for a cursor that no page gave."""
        start = read_place(cursor) if cursor is not None else Place(KINDS[0], "")
        items: list[m.BudgetItem] = []
        last = start
        for place, item in self._walk(reading, now, start):
            if len(items) == limit:
                return items, spell_place(last)
            items.append(item)
            last = place
        return items, None

    def of_run(self, reading: Reading, run: Run, now: float) -> list[m.BudgetItem]:
        """Every account that a call of this run is charged on, in the order in which they refuse."""
        line = [run, *_ancestors(reading, run)]
        items = [item for one in line for _, item in self._items_of_runs(reading, now, [one])]
        owners = {"agent": run.agent, "user": run.user, "key": run.tenant or None, "global": names.EVERYBODY}
        for kind, owner in owners.items():
            for budget in self._budgets:
                if owner is None or not counts_on(budget, kind, owner) or budget.window is None:
                    continue
                account = f"{names.spell(kind, owner, budget.unit)}/{budget.window.at(now).label}"
                found = reading.standings([account]).get(account, Standing(account, None, 0, 0))
                items += [item for _, item in self._items_of(found, now, budget)]
        return items

    # ----------------------------------------------------------------------- the walk

    def _walk(self, reading: Reading, now: float, start: Place) -> Iterator[tuple[Place, m.BudgetItem]]:
        kinds = KINDS[KINDS.index(start.kind) :] if start.kind in KINDS else ()
        for kind in kinds:
            resumed = start.owner if kind == start.kind else ""
            if resumed:  # what of this account is still to come
                for standing in reading.standings([resumed]).values():
                    yield from list(self._items_of(standing, now))[start.done :]
            yield from self._accounts(reading, now, kind, resumed or None)
        yield from self._runs(reading, now, start if start.kind == "run" else Place("run", ""))

    def _accounts(
        self, reading: Reading, now: float, kind: str, cursor: str | None
    ) -> Iterator[tuple[Place, m.BudgetItem]]:
        if all(kind_of(budget) != kind for budget in self._budgets):
            return
        while True:
            found, cursor = reading.accounts(kind, BATCH, cursor, now)
            for standing in found:
                yield from self._items_of(standing, now)
            if cursor is None:
                return

    def _runs(self, reading: Reading, now: float, start: Place) -> Iterator[tuple[Place, m.BudgetItem]]:
        if not self._of_runs:
            return
        cursor: str | None = None
        if start.owner:
            known = reading.get_run(start.owner)
            if known is None:
                raise ValueError("the run of this cursor is gone")
            yield from list(self._items_of_runs(reading, now, [known[0]]))[start.done :]
            cursor = after_run(known[0])
        while True:
            found, cursor = reading.runs(NEWEST, BATCH, cursor)
            yield from self._items_of_runs(reading, now, [run for run, _ in found])
            if cursor is None:
                return

    # ----------------------------------------------------------------------- one account

    def _items_of(
        self, standing: Standing, now: float, only: Budget | None = None
    ) -> Iterator[tuple[Place, m.BudgetItem]]:
        """Items of an account with a window; `only`: of this budget."""
        name = names.read(standing.account)
        done = 0
        for budget in self._budgets if only is None else (only,):
            if budget.unit != name.unit or not counts_on(budget, name.kind, name.owner) or budget.window is None:
                continue
            # an instant inside of the window: its end is the first one outside
            window = budget.window.at(now if standing.ends_at is None else standing.ends_at - 0.001)
            if window.label != name.window:
                continue  # another budget's window on the same owner and unit
            done += 1
            limit = limit_of(budget, standing)
            running_out = None
            if window.ends_at > now:
                running_out = _runs_dry(standing.spent, limit, window.starts_at, now)
                if running_out is not None and running_out >= window.ends_at:
                    running_out = None
            words = "global" if name.kind == "global" else f"{name.kind}:{name.owner}"
            frame = (words, window.starts_at, window.ends_at, running_out)
            yield Place(name.kind, standing.account, done), _item(budget, standing, limit, frame)

    def _items_of_runs(self, reading: Reading, now: float, runs: Sequence[Run]) -> Iterator[tuple[Place, m.BudgetItem]]:
        units = {budget.unit for budget in self._of_runs}
        found = reading.standings([names.spell("run", run.key, unit) for run in runs for unit in units])
        for run in runs:
            for done, budget in enumerate(self._of_runs, 1):
                account = names.spell("run", run.key, budget.unit)
                standing = found.get(account, Standing(account, None, 0, 0))
                yield Place("run", run.key, done), _run_item(budget, run, standing, now)


def _run_item(budget: Budget, run: Run, standing: Standing, now: float) -> m.BudgetItem:
    limit = limit_of(budget, standing)
    if budget.unit == "seconds":
        used = age(run, now)
        standing = Standing(standing.account, standing.limit, used, 0, 0, standing.cap)
        dry: float | None = run.started_at + limit if run.state == "active" else None
    elif run.state != "active" or standing.spent <= 0:
        dry = None
    else:
        dry = run.last_at if standing.spent >= limit else _runs_dry(standing.spent, limit, run.started_at, now)
    return _item(budget, standing, limit, (standing.account, run.started_at, None, dry))


Frame = tuple[str, float, float | None, float | None]  # account in words, window's start and end, when it runs dry


def _item(budget: Budget, standing: Standing, limit: int, frame: Frame) -> m.BudgetItem:
    words, starts_at, ends_at, dry_at = frame
    dollars = budget.unit == "nusd"

    def spelled(amount: int) -> str | int:
        return usd(amount) if dollars else amount

    return m.BudgetItem.model_construct(
        name=budget.name,
        scope=budget.scope,
        account=words,
        unit="usd" if dollars else budget.unit,
        per="run" if budget.window is None else budget.window.per,
        mode=budget.mode,
        limit=spelled(limit),
        spent=spelled(standing.spent),
        held=spelled(standing.held),
        overrun=spelled(standing.overrun),
        window_started_at=rfc3339(starts_at),
        resets_at=None if ends_at is None else rfc3339(ends_at),
        exhausted_at=None if dry_at is None else rfc3339(dry_at),
    )


# --------------------------------------------------------------------------- meanings


def kind_of(budget: Budget) -> str:
    """run | agent | user | key | global."""
    return budget.scope.partition(":")[0]


def counts_on(budget: Budget, kind: str, owner: str) -> bool:
    """Is an account of this owner one of the budget's?"""
    own, _, named = budget.scope.partition(":")
    return own == kind and (named in ("", "*") or named == owner)


def limit_of(budget: Budget, standing: Standing) -> int:
    """The budget's limit on this account: what a caller or an operator made of it, as far as it allows."""
    return budget.limit if standing.cap is None or budget.shadow else min(standing.cap, budget.most)


def age(run: Run, now: float) -> int:
    """Whole seconds that a run has lasted; they stand still once it has ended."""
    return max(0, int((run.ended_at if run.ended_at is not None else now) - run.started_at))


def _runs_dry(spent: int, limit: int, since: float, now: float) -> float | None:
    """When an account is used up if all goes on as it did since then; None: never."""
    if spent >= limit:
        return now
    lasted = now - since
    if spent <= 0 or lasted <= 0:
        return None
    ahead = lasted * (limit - spent) / spent
    return now + ahead if ahead < NEVER_S else None


def _ancestors(reading: Reading, run: Run) -> list[Run]:
    found: list[Run] = []
    seen = {run.key}
    above = run.parent
    while above is not None and above not in seen:
        seen.add(above)
        known = reading.get_run(above)
        if known is None:
            break
        found.append(known[0])
        above = known[0].parent
    return found


# --------------------------------------------------------------------------- cursors


def spell_place(place: Place) -> str:
    """A cursor that any client can put into a query as it is: names may hold any character."""
    raw = f"{place.kind} {place.done} {place.owner}".encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def read_place(cursor: str) -> Place:
    """Where the page before ended. Raises ValueError."""
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    kind, _, rest = raw.partition(" ")
    done, _, owner = rest.partition(" ")
    if kind not in (*KINDS, "run") or not (done.isascii() and done.isdigit() and len(done) < 7) or not owner:
        raise ValueError("the cursor is not one that a page gave")
    if kind != "run" and not owner.startswith(f"{kind}/"):
        raise ValueError("the cursor is not one that a page gave")
    return Place(kind, owner, int(done))

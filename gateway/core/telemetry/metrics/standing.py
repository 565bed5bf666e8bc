"""What is read at each rendering: budgets as they stand, live runs, and how projections fare.

Invariant: one series for each configured budget of dollars, whatever number of accounts it has: the account that is
nearest to its limit; what is asked of the ledger is bounded, however many runs and owners there are. What never enters:
a counter of money, I/O of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Final

from gateway.core.ledger import names
from gateway.core.ports import Reading, Standing
from gateway.core.telemetry.changes import Change
from gateway.core.telemetry.health import State
from gateway.core.telemetry.metrics import families
from gateway.core.telemetry.metrics.families import NONE, OTHER
from gateway.core.telemetry.metrics.series import Board, scaled
from gateway.core.telemetry.settings import Watched
from gateway.core.types import NUSD
from gateway.core.windows import Calendar

RECENT: Final = 256  # owners of one kind, charged last, among which the nearest to its limit is looked for
LATEST: Final = 500  # calls from which they are known again after a start
ACTIVE_MOST: Final = 10_000  # runs that are counted as active
OTLP: Final = "otlp-"
CHANNEL: Final = "alerts-"
Row = tuple[tuple[str, ...], int]


class Standings:
    """Remembers who was charged last; reads the rest when asked."""

    def __init__(self, budgets: Sequence[Watched], zones: Mapping[str, tzinfo]) -> None:
        """zones: by the name that a budget gives."""
        dollars = [budget for budget in budgets if budget.unit == "nusd"]
        self._budgets = [(budget, _calendar(budget, zones)) for budget in dollars[: families.BUDGETS_MOST]]
        self._recent: dict[str, OrderedDict[str, None]] = {
            kind: OrderedDict() for kind in ("run", "agent", "user", "key")
        }

    def note(self, change: Change) -> None:
        """A call of these owners was charged."""
        run = change.run
        if run is None:
            return
        if run.ended_at is None:
            self._touch("run", run.key)
        for kind, owner in (("run", run.parent), ("agent", run.agent), ("user", run.user), ("key", run.tenant)):
            if owner:
                self._touch(kind, owner)

    def ended(self, run: str) -> None:
        """A run ended: it spends nothing any more."""
        self._recent["run"].pop(run, None)

    def _touch(self, kind: str, owner: str) -> None:
        recent = self._recent[kind]
        recent[owner] = None
        recent.move_to_end(owner)
        if len(recent) > RECENT:
            recent.popitem(last=False)

    # ----------------------------------------------------------------------- budgets

    def budgets(self, reading: Reading, now: float) -> dict[str, list[Row]]:
        """Limit, spent and held of each budget. Raises StoreFailed."""
        accounts = {budget.name: self._accounts(budget, calendar, now) for budget, calendar in self._budgets}
        found = reading.standings(sorted({name for names in accounts.values() for name in names}))
        rows: dict[str, list[Row]] = {family.name: [] for family in _SHOWN}
        for budget, _ in self._budgets:
            limit, spent, held = self._nearest(budget, [found[name] for name in accounts[budget.name] if name in found])
            for family, amount in zip(_SHOWN, (limit, spent, held), strict=True):
                rows[family.name].append(((budget.name, budget.per or "run"), amount))
        return rows

    def _accounts(self, budget: Watched, calendar: Calendar | None, now: float) -> list[str]:
        kind, _, owner = budget.scope.partition(":")
        tail = f"/{calendar.at(now).label}" if calendar is not None else ""
        if kind == "global":
            owners = [names.EVERYBODY]
        elif owner and owner != "*":
            owners = [owner]
        else:
            owners = list(self._recent[kind])
        return [names.spell(kind, one, budget.unit) + tail for one in owners]

    def _nearest(self, budget: Watched, standings: Sequence[Standing]) -> tuple[int, int, int]:
        """Of the account of which most is used, in parts of its limit; its owner keeps its place among the recent."""
        if not standings:
            return budget.limit, 0, 0
        nearest = max(standings, key=lambda one: (_used(one, _limit(budget, one)), one.account))
        name = names.read(nearest.account)
        if name.kind in self._recent and name.owner in self._recent[name.kind]:
            self._touch(name.kind, name.owner)
        return _limit(budget, nearest), nearest.spent, nearest.held


_SHOWN: Final = (families.BUDGET_LIMIT, families.BUDGET_SPENT, families.BUDGET_HELD)


def _calendar(budget: Watched, zones: Mapping[str, tzinfo]) -> Calendar | None:
    return None if budget.per is None else Calendar(budget.per, budget.zone, zones[budget.zone])


def _limit(budget: Watched, standing: Standing) -> int:
    """The budget's own, or what a caller or an operator made of it."""
    raised = standing.cap is not None and standing.limit is not None and not budget.shadow
    return standing.limit or 0 if raised else budget.limit


def _used(standing: Standing, limit: int) -> float:
    used = standing.spent + standing.held
    return used / limit if limit > 0 else float(used > 0)


# --------------------------------------------------------------------------- runs and projections


def active(reading: Reading, board: Board) -> list[Row]:
    """Live runs by agent: agents that have no place among the counters' are `other`. Raises StoreFailed."""
    found: dict[str, int] = {}
    for agent, count in reading.active(ACTIVE_MOST).items():
        name = agent or NONE
        label = name if name == NONE or board.has_place("agent", name) else OTHER
        found[label] = found.get(label, 0) + count
    return [((label,), count) for label, count in sorted(found.items())]


def projections(states: Mapping[str, State], now: float) -> dict[str, list[Row]]:
    """How each projection fares, by its name; destinations of spans and channels of alerts without their prefix. The
    row of a channel says how many messages it took (`sent`) or gave up (`rejected`), and since when one waits."""
    rows: dict[str, list[Row]] = {}

    def show(family: families.Family, labels: tuple[str, ...], value: int) -> None:
        rows.setdefault(family.name, []).append((labels, value))

    oldest: float | None = None
    for name, state in states.items():
        waits = 0.0 if state.oldest_at is None else max(0.0, now - state.oldest_at)
        if name.startswith(CHANNEL):
            channel = name.removeprefix(CHANNEL)
            oldest = max(oldest or 0.0, waits)
            show(families.ALERTS, (channel, "delivered"), state.sent)
            show(families.ALERTS, (channel, "failed"), state.rejected)
            continue
        destination = (name.removeprefix(OTLP),)
        show(families.BACKLOG, destination, state.behind_bytes * NUSD)
        show(families.BACKLOG_AGE, destination, scaled(waits, NUSD))
        show(families.LOST, destination, state.lost)
        if name.startswith(OTLP):
            show(families.EXPORTED, destination, state.sent)
            show(families.REJECTED, destination, state.rejected)
    if oldest is not None:
        show(families.OUTBOX_AGE, (), scaled(oldest, NUSD))
    return rows

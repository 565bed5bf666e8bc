"""What is read at each rendering: budgets, live runs, projections."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from msgspec import structs

from gateway.core.telemetry.changes import Changes
from gateway.core.telemetry.health import State
from gateway.core.telemetry.metrics import families, standing
from gateway.core.telemetry.metrics.series import Board
from gateway.core.telemetry.metrics.standing import Standings
from gateway.core.telemetry.settings import Watched
from gateway.core.windows import Calendar
from gateway.stores.memory import MemoryStore
from tests.fakes import FakeClock
from tests.ledgers import charge, exchange, facts, order

NUSD = 10**9
ZONES = {"UTC": UTC}
DAY = Calendar("day")


class World:
    """A ledger whose calls are noted, as the projection does."""

    def __init__(self, *budgets: Watched) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock.now)
        self.standings = Standings(budgets, ZONES)
        self.changes = Changes(self.store.reading())
        self._seen = 0

    async def spend(self, run: str, cost: int, *charges: Any, **more: Any) -> None:
        """A call that holds 100 of everything and costs so much."""
        self._seen += 1
        call = f"c{self._seen}"
        mine = charge(f"run/{run}/nusd", limit=None)
        known = structs.replace(order(call, mine, *charges, run=run), run=facts(run, **more))
        await self.store.reserve(known)
        await self.store.settle(f"{call}/1", {"nusd": cost}, exchange(call, cost, run=run))

    def shown(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """Limit, spent and held by budget and period, everything so far noted."""
        reading = self.store.reading()
        for change in self.changes.of(reading.entries(0, limit=10_000)):
            self.standings.note(change)
        found = self.standings.budgets(reading, self.clock.now())
        rows = [found[family.name] for family in (families.BUDGET_LIMIT, families.BUDGET_SPENT, families.BUDGET_HELD)]
        assert [row[0] for row in rows[0]] == [row[0] for row in rows[1]] == [row[0] for row in rows[2]]
        return {limit[0]: (limit[1], spent[1], held[1]) for limit, spent, held in zip(*rows, strict=True)}


def agents(limit: int = 1000, **more: Any) -> Watched:
    return Watched("each", "agent:*", "nusd", limit, "day", **more)


async def test_a_budget_of_many_accounts_is_one_series_of_the_nearest():
    """Of several agents the one that has used most of its limit, held money included."""
    world = World(agents(), Watched("all", "global", "nusd", 5000, "month"), Watched("ten", "run", "nusd", 300))
    everybody = charge("global/all/nusd", window=Calendar("month"), limit=5000)
    for run, agent, cost in (("r1", "a", 40), ("r2", "b", 90), ("r3", "c", 7)):
        mine = charge(f"agent/{agent}/nusd", window=DAY)
        await world.spend(run, cost, mine, everybody, agent=agent)
    assert {
        ("each", "day"): (1000, 90, 0),
        ("all", "month"): (5000, 137, 0),
        ("ten", "run"): (300, 90, 0),
    } == world.shown()
    held = order("open", charge("run/r3/nusd", limit=None), charge("agent/c/nusd", window=DAY), run="r3")
    await world.store.reserve(structs.replace(held, run=facts("r3", agent="c")))
    assert (1000, 7, 100) == world.shown()["each", "day"]


async def test_a_budget_that_nobody_touched_shows_its_limit():
    """A panel finds it, and nothing spent."""
    world = World(agents(), Watched("calls", "agent:*", "calls", 5, "day"))
    assert {("each", "day"): (1000, 0, 0)} == world.shown()


async def test_a_window_that_ended_counts_no_more():
    """The account of the day before stays in the ledger, not in the gauge."""
    world = World(agents())
    await world.spend("r1", 40, charge("agent/a/nusd", window=DAY), agent="a")
    world.clock.advance(86_400)
    assert {("each", "day"): (1000, 0, 0)} == world.shown()


async def test_users_keys_and_parents_have_their_accounts():
    """A child spends from its parent's; an owner's name may hold a slash."""
    world = World(
        Watched("users", "user:*", "nusd", 100, "day"), Watched("key", "key:K", "nusd", 200, "day"),
        Watched("runs", "run", "nusd", 50),
    )  # fmt: skip
    charges = [
        charge("user/u%2Fx/nusd", window=DAY),
        charge("key/K/nusd", window=DAY),
        charge("run/top/nusd", limit=None),
    ]
    await world.spend("child", 30, *charges, user="u/x", parent="top")
    await world.spend("other", 20, *charges, user="u/x", parent="top")
    assert {("users", "day"): (100, 50, 0), ("key", "day"): (200, 50, 0), ("runs", "run"): (50, 50, 0)} == world.shown()


async def test_a_run_that_ended_is_not_the_nearest():
    """It spends nothing any more."""
    world = World(Watched("runs", "run", "nusd", 50))
    await world.spend("r1", 40)
    await world.spend("r2", 10)
    world.shown()
    world.standings.ended("r1")
    found = world.standings.budgets(world.store.reading(), world.clock.now())
    assert [(("runs", "run"), 10)] == found[families.BUDGET_SPENT.name]


async def test_the_nearest_stays_in_sight_while_others_come(monkeypatch):
    """256 owners are looked at; the one that is shown isn't pushed out by others that are charged later."""
    monkeypatch.setattr(standing, "RECENT", 3)
    world = World(agents())
    await world.spend("r1", 900, charge("agent/first/nusd", window=DAY), agent="first")
    world.shown()
    for number in range(9):
        await world.spend(f"s{number}", 1, charge(f"agent/a{number}/nusd", window=DAY), agent=f"a{number}")
        for change in list(world.changes.of(world.store.reading().entries(0, limit=10_000)))[-1:]:
            world.standings.note(change)
        found = world.standings.budgets(world.store.reading(), world.clock.now())
        assert [(("each", "day"), 900)] == found[families.BUDGET_SPENT.name]
    assert all(len(recent) <= 3 for recent in world.standings._recent.values())


async def test_a_limit_that_was_set_is_the_one_in_force():
    """By a person or a caller; a shadow budget keeps its own."""
    for shadow, limit in ((False, 60), (True, 300)):
        world = World(Watched("ten", "run", "nusd", 300, shadow=shadow))
        await world.spend("r1", 40)
        await world.store.set_limit("run/r1/nusd", 60)
        assert {("ten", "run"): (limit, 40, 0)} == world.shown()


async def test_budgets_that_are_shown_are_bounded():
    """Thirty, as the file has them."""
    world = World(*[Watched(f"b{number}", "global", "nusd", 1, "day") for number in range(50)])
    assert [f"b{number}" for number in range(families.BUDGETS_MOST)] == [name for name, _ in world.shown()]


async def test_active_runs_stand_by_the_names_that_counters_know():
    """An agent without a place is `other`, with all of its kind."""
    world = World()
    for run, agent in (("r1", "a"), ("r2", "a"), ("r3", None), ("r4", "x"), ("r5", "y")):
        await world.spend(run, 1, agent=agent)
    board = Board()
    board.place("agent", "a")
    assert [(("a",), 2), (("none",), 1), (("other",), 2)] == standing.active(world.store.reading(), board)


def test_projections_show_how_far_behind_they_are():
    """Destinations by their own names, channels of alerts apart."""
    states = {
        "metrics": State(behind=3, oldest_at=90.0, behind_bytes=2_000, lost=4),
        "otlp-tempo": State(sent=17, rejected=2),
        "alerts": State(sent=99),
        "alerts-pager": State(sent=5, rejected=1, oldest_at=40.0),
        "alerts-mail": State(sent=6),
    }
    found = standing.projections(states, 100.0)
    assert [(("metrics",), 2_000 * NUSD), (("tempo",), 0), (("alerts",), 0)] == found[families.BACKLOG.name]
    assert [10 * NUSD, 0, 0] == [value for _, value in found[families.BACKLOG_AGE.name]]
    assert [4, 0, 0] == [value for _, value in found[families.LOST.name]]
    assert [(("tempo",), 17)] == found[families.EXPORTED.name]
    assert [(("tempo",), 2)] == found[families.REJECTED.name]
    assert 5 == dict(found[families.ALERTS.name])["pager", "delivered"]
    assert 1 == dict(found[families.ALERTS.name])["pager", "failed"]
    assert [((), 60 * NUSD)] == found[families.OUTBOX_AGE.name]

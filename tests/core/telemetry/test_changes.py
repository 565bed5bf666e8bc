"""The journal as changes: what an entry adds, once, whatever was known before."""

from __future__ import annotations

from gateway.core.telemetry import changes
from gateway.core.telemetry.changes import Changes
from gateway.stores.memory import MemoryStore
from tests.fakes import FakeClock
from tests.ledgers import charge, exchange, order


async def store() -> MemoryStore:
    """A ledger in memory."""
    return MemoryStore(FakeClock().now)


async def served(one: MemoryStore, call: str, cost: int, run: str = "r", source: str = "price_list") -> None:
    """A call from its hold to its end."""
    await one.reserve(order(call, charge(f"run/{run}/nusd", want=100, limit=10_000), run=run))
    told = exchange(call, cost, run=run)
    told.cost_source = source  # type: ignore[assignment]
    await one.settle(f"{call}/1", {"nusd": cost}, told)


async def test_a_call_is_new_once_and_a_correction_is_its_difference():
    """The sum of the differences is what the calls cost."""
    one = await store()
    await served(one, "c1", 40)
    await served(one, "c2", 30)
    await one.correct("c1/1", -15, "refund", "me", "x1")
    found = list(Changes(one.reading()).of(one.reading().entries(0)))
    assert [("c1", 40), ("c2", 30), ("c1", -15)] == [(change.call.call_id, change.delta_nusd) for change in found]
    assert [None, None, 40] == [change.before and change.before.cost_nusd for change in found]
    assert 25 == found[-1].call.cost_nusd
    assert "r" == found[0].run.key  # type: ignore[union-attr]


async def test_what_was_presumed_and_told_later_counts_its_difference():
    """A late fact comes as an amendment of the whole call."""
    one = await store()
    await served(one, "c1", 0, source="presumed")
    await served(one, "c1", 37)
    found = list(Changes(one.reading()).of(one.reading().entries(0)))
    assert [100, -63] == [change.delta_nusd for change in found]
    assert ["presumed", "price_list"] == [change.call.cost_source for change in found]


async def test_the_same_entries_give_the_same_changes_from_any_cursor():
    """Read one by one or all at once, and again after a restart."""
    one = await store()
    await served(one, "c1", 40)
    await one.correct("c1/1", -15, "refund", "me", "x1")
    await one.correct("c1/1", -5, "refund", "me", "x2")
    entries = one.reading().entries(0)
    at_once = [change.delta_nusd for change in Changes(one.reading()).of(entries)]
    each = [change.delta_nusd for entry in entries for change in Changes(one.reading()).of([entry])]
    assert [40, -15, -5] == at_once == each


async def test_runs_in_mind_are_bounded(monkeypatch):
    """The oldest are asked for again."""
    monkeypatch.setattr(changes, "RUNS_MOST", 2)
    one = await store()
    for number in range(3):
        await served(one, f"c{number}", 1, run=f"r{number}")
    known = Changes(one.reading())
    assert 3 == len(list(known.of(one.reading().entries(0))))
    assert 2 == len(known._runs)

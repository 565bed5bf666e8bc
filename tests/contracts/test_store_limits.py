"""One suite for every store: units, windows, last calls, thresholds, gates, limits of an operator, stale orders.

Invariant: no test here knows which store it has. The last part has two processes on one file, so only SQLite has it;
there each question may go to either.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from gateway.core.types import Denied, Mark, Reservation, ToolCall
from gateway.core.windows import Calendar
from gateway.stores.memory import MemoryStore
from gateway.stores.sqlite import SqliteStore
from tests.fakes import FakeClock
from tests.ledgers import AnyStore, charge, exchange, facts, opened, order, spend, sqlite

HALF_PAST = 1_792_888_200.0  # 2026-10-25 00:30 UTC: half an hour before clocks are set back in Berlin
MIDNIGHT = 1_792_972_800.0  # 2026-10-26 00:00 UTC
HALF = (Mark("b", 1000, (("0.5", 500), ("1.0", 1000))),)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(HALF_PAST)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[AnyStore]:
    if request.param == "sqlite":
        async with opened(sqlite(tmp_path, clock)) as file:
            yield file
            assert [] == file.audit()
    else:
        memory = MemoryStore(clock.now)
        yield memory
        assert [] == memory.audit()
        await memory.close()


def sums(store: AnyStore, account: str) -> tuple[int, int]:
    """Spent and held, as a reader sees them."""
    found = store.reading().account(account)
    return (0, 0) if found is None else (found.spent, found.held)


async def granted(store: AnyStore, call: str, *charges: Any, **more: Any) -> Reservation:
    answer = await store.reserve(order(call, *charges, **more))
    assert isinstance(answer, Reservation), answer
    return answer


async def denied(store: AnyStore, call: str, *charges: Any, **more: Any) -> Denied:
    answer = await store.reserve(order(call, *charges, **more))
    assert isinstance(answer, Denied), answer
    return answer


def kinds(store: AnyStore) -> list[str]:
    return [entry.kind for entry in store.reading().entries(0, None, 1000)]


# --------------------------------------------------------------------------- windows


async def test_a_window_turns_by_the_stores_time(store: AnyStore, clock: FakeClock) -> None:
    """The account's name ends in the window's label; what was admitted before midnight is charged to the day before."""
    clock.at = MIDNIGHT - 10
    daily = charge("agent/a/nusd", 700, limit=1000, window=Calendar("day"))
    await granted(store, "c1", daily)
    no = await denied(store, "c2", daily)
    assert ("agent/a/nusd/2026-10-25", MIDNIGHT) == (no.account, no.resets_at)
    clock.advance(10)
    await granted(store, "c3", daily)
    await store.settle("c1/1", {"nusd": 600}, exchange("c1", 600))
    assert (600, 0) == sums(store, "agent/a/nusd/2026-10-25")
    assert (0, 700) == sums(store, "agent/a/nusd/2026-10-26")


async def test_an_hour_that_comes_twice_is_two_windows(store: AnyStore, clock: FakeClock) -> None:
    """Clocks are set back in Berlin at 01:00 UTC: 02:30 before and 02:30 after are charged apart."""
    hourly = charge(
        "agent/a/nusd", 700, limit=1000, window=Calendar("hour", "Europe/Berlin", ZoneInfo("Europe/Berlin"))
    )
    first = await granted(store, "c1", hourly)
    clock.advance(3600)
    second = await granted(store, "c2", hourly)
    names = [got.balances[0].account.split("/", 3)[3] for got in (first, second)]
    assert ["2026-10-25T02+0200@Europe:Berlin", "2026-10-25T02+0100@Europe:Berlin"] == names


async def test_who_waits_past_the_end_of_a_window_looks_at_the_next(store: AnyStore, clock: FakeClock) -> None:
    """Held money of yesterday is in nobody's way today."""
    clock.at = MIDNIGHT - 10
    daily = charge("agent/a/nusd", 700, limit=1000, window=Calendar("day"))
    await granted(store, "c1", daily)
    waits = asyncio.ensure_future(store.reserve(order("c2", daily, wait_s=30.0)))
    await store.run("R")
    clock.advance(11)
    await store.expire(clock.at)
    got = await asyncio.wait_for(waits, 30)
    assert isinstance(got, Reservation) and "agent/a/nusd/2026-10-26" == got.balances[0].account


async def test_a_clock_that_steps_back_opens_no_old_window(store: AnyStore, clock: FakeClock) -> None:
    """The store's time never goes back: yesterday's budget is not spent twice."""
    clock.at = MIDNIGHT - 10
    daily = charge("agent/a/nusd", 700, limit=1000, window=Calendar("day"))
    clock.advance(20)
    await granted(store, "c1", daily)
    clock.advance(-3600)
    assert "agent/a/nusd/2026-10-26" == (await denied(store, "c2", daily)).account


# --------------------------------------------------------------------------- units


async def test_each_unit_stops_a_run_alone(store: AnyStore) -> None:
    """Tokens and calls are held; tool calls count when they are emitted, and the next call is refused."""
    three = (
        charge("run/R/calls", 1, limit=3),
        charge("run/R/tokens", 400, limit=1000),
        charge("run/R/tool_calls", 0, limit=1),
    )
    await granted(store, "c1", *three)
    await granted(store, "c2", *three)
    assert "tokens" == (await denied(store, "c3", *three)).unit
    tools = [ToolCall("t1", "f"), ToolCall("t2", "f")]
    told = exchange("c1", 5, tool_calls=tools)
    await store.settle("c1/1", {"nusd": 5, "tokens": 10, "tool_calls": 2}, told)
    assert ("tool_calls", 2) == ((no := await denied(store, "c4", *three)).unit, no.balance and no.balance.spent)
    assert [(1, 1), (10, 400), (2, 0)] == [sums(store, f"run/R/{unit}") for unit in ("calls", "tokens", "tool_calls")]


async def test_a_call_that_was_sent_counts_though_its_money_is_void(store: AnyStore) -> None:
    """calls: charged 1 where it went to a provider; a call that never left counts nothing."""
    both = (charge("run/R/nusd", 10), charge("run/R/calls", 1, limit=3))
    for call, actual, left in (("c1", {"calls": 1}, 1), ("c2", None, 1)):
        await granted(store, call, *both)
        await store.settle(f"{call}/1", actual, exchange(call, 0, "refused"))
        assert [(0, 0), (left, 0)] == [sums(store, "run/R/nusd"), sums(store, "run/R/calls")]


async def test_seconds_of_a_run_pass_by_themselves(store: AnyStore, clock: FakeClock) -> None:
    """run/R/seconds counts from the run's first call; another scope's seconds are those of its calls, rounded up."""
    both = (charge("run/R/seconds", 1, limit=30), charge("agent/a/seconds", 1, limit=100))
    await granted(store, "c1", *both)
    clock.advance(12.2)
    await store.settle("c1/1", None, exchange("c1", 0))
    assert (13, 0) == sums(store, "agent/a/seconds")
    await granted(store, "c2", *both)
    clock.advance(18)
    no = await denied(store, "c3", *both)
    assert ("run/R/seconds", 30) == (no.account, no.balance and no.balance.spent)


# --------------------------------------------------------------------------- last calls, thresholds


async def test_the_last_call_is_paid_from_a_reserve_and_there_is_one(store: AnyStore) -> None:
    """An ordinary call leaves 5/4 of its least free; the first that can't is the last; every later one is denied."""
    purse = charge("run/R/nusd", 400, 200, limit=1000, last=True)
    assert ("", 400) == ((got := await granted(store, "c1", purse)).last, got.granted["nusd"])
    await store.settle("c1/1", {"nusd": 600}, exchange("c1", 600))
    got = await granted(store, "c2", purse)
    assert ("run/R/nusd", 400) == (got.last, got.granted["nusd"])
    assert "last_call" == (await denied(store, "c3", purse)).why
    await store.settle("c2/1", None, exchange("c2", 0, "refused"))
    assert "run/R/nusd" == (await granted(store, "c4", purse)).last, "a last call that was void is given back"
    await store.settle("c4/1", {"nusd": 100}, exchange("c4", 100))
    assert "last_call" == (await denied(store, "c5", purse)).why, "though there is room for another"
    await store.set_limit("run/R/nusd", 5000)
    more = msgspec.structs.replace(purse, most=5000)
    assert "" == (await granted(store, "c6", more)).last, "a higher limit gives the last call back"


async def test_a_threshold_is_recorded_once(store: AnyStore) -> None:
    """At half and at the whole, on what is spent; neither a hold nor a later call says it again."""
    purse = charge("run/R/nusd", 600, 1, marks=HALF)
    await granted(store, "c1", purse)
    assert "threshold" not in kinds(store)
    await store.settle("c1/1", {"nusd": 500}, exchange("c1", 500))
    await spend(store, "c2", 500, charge("run/R/nusd", 500, marks=HALF))
    found = [msgspec.msgpack.decode(e.data) for e in store.reading().entries(0, None, 100) if e.kind == "threshold"]
    assert [("0.5", 500), ("1.0", 1000)] == [(one["threshold"], one["spent"]) for one in found]
    assert {("b", "run/R/nusd", "nusd", 1000)} == {(o["budget"], o["account"], o["unit"], o["limit"]) for o in found}


# --------------------------------------------------------------------------- operators, gates, other processes


async def test_a_limit_in_any_unit_holds_for_the_run_and_its_children(store: AnyStore) -> None:
    """set_limit makes the store charge that unit by itself; whoever names no amounts is refused nothing else."""
    await store.make_run(facts("K", parent="R"), 0)
    await store.set_limit("run/R/calls", 1)
    one, two = (
        msgspec.structs.replace(
            order(call, charge("run/K/nusd", 5), sizes={"calls": (1, 1)}), run=facts("K", parent="R")
        )
        for call in ("c1", "c2")
    )
    assert isinstance(await store.reserve(one), Reservation)
    no = await store.reserve(two)
    assert isinstance(no, Denied)
    assert ("run/R/calls", "calls") == (no.account, no.unit)
    run = await store.run("R")
    assert run is not None and ("calls",) == run.capped


async def test_a_limit_counts_what_the_children_did_before_it(store: AnyStore) -> None:
    """As their calls count on it from then on; what another run did is none of it."""
    for run, parent in (("C", "R"), ("G", "C"), ("Q", None)):
        await store.make_run(facts(run, parent=parent), 0)
        await spend(store, f"call-{run}", 5, charge(f"run/{run}/nusd", 5), run=run)
    said = await store.set_limit("run/R/calls", 1)
    assert 2 == said.spent
    known = await store.run("R")
    assert known is not None and "paused" == known.state
    assert [] == store.audit()


async def test_lowering_below_use_pauses_and_raising_resumes(store: AnyStore) -> None:
    """The run says why it is paused; a limit above its use lets it go on."""
    await spend(store, "c1", 900)
    for limit, state in ((100, "paused"), (950, "active")):
        await store.set_limit("run/R/nusd", limit)
        run = await store.run("R")
        assert run is not None and (state, state == "paused") == (run.state, bool(run.reason))


async def test_a_gate_leaves_a_word_in_the_journal(store: AnyStore) -> None:
    """Other processes follow the journal: they read which gate was closed, and why."""
    await store.close_account("agent/a", "too loud")
    await store.open_account("agent/a")
    said = [msgspec.msgpack.decode(e.data) for e in store.reading().entries(0, None, 9) if e.kind == "gate"]
    assert [("agent/a", True, "too loud"), ("agent/a", False)] == [
        tuple(one[key] for key in ("gate", "closed", "reason") if one.get(key) not in (None, "")) for one in said
    ]


async def test_an_order_that_knows_less_than_the_ledger_is_stale(store: AnyStore) -> None:
    """Another process was told of a parent or an agent: their budgets apply, so the order must be made anew."""
    await store.make_run(facts("R", parent="P", agent="a"), 0)
    no = await denied(store, "c1", gates=("run/R",))
    assert "stale" == no.reason
    assert "stale" == (await denied(store, "c2", gates=("run/R", "run/P"))).reason, "it names no agent"
    known = msgspec.structs.replace(order("c3", gates=("run/R", "run/P")), run=facts("R", parent="P", agent="a"))
    assert isinstance(await store.reserve(known), Reservation)


# --------------------------------------------------------------------------- two processes, one file


@pytest.fixture
async def two(tmp_path: Path, clock: FakeClock) -> AsyncIterator[tuple[SqliteStore, SqliteStore]]:
    async with opened(sqlite(tmp_path, clock)) as one, opened(sqlite(tmp_path, clock)) as other:
        yield one, other
        assert [] == one.audit()


async def test_two_processes_share_one_limit(two: tuple[SqliteStore, SqliteStore]) -> None:
    """Twenty callers at each of two processes on a purse for ten: ten are served, whoever asks where."""
    calls = [(two[number % 2], f"c{number:02}") for number in range(40)]
    answers = await asyncio.gather(*[at.reserve(order(call, charge(want=100))) for at, call in calls])
    assert 10 == sum(isinstance(answer, Reservation) for answer in answers)
    assert (0, 1000) == sums(two[0], "run/R/nusd")


async def test_either_process_settles_what_one_has_granted(two: tuple[SqliteStore, SqliteStore]) -> None:
    """A repeat at the other process is a repeat; a late fact may come from anywhere."""
    one, other = two
    first = await granted(one, "c1", charge(want=700))
    assert first == await granted(other, "c1", charge(want=700))
    await other.settle("c1/1", None, exchange("c1", None, "presumed"))
    late = await one.settle("c1/1", {"nusd": 50}, exchange("c1", 50))
    assert (50, True) == (late.charged, late.late)
    assert (50, 0) == sums(other, "run/R/nusd")


async def test_who_waits_at_one_process_is_served_by_a_settle_at_the_other(
    two: tuple[SqliteStore, SqliteStore],
) -> None:
    """Room that another process makes is seen within moments, in the order of arrival everywhere."""
    one, other = two
    await granted(one, "c1", charge(want=900))
    waits = asyncio.ensure_future(other.reserve(order("c2", charge(want=800), wait_s=30.0)))
    await asyncio.sleep(0)  # so that it asks before the next question does
    await other.run("R")
    later = asyncio.ensure_future(one.reserve(order("c3", charge(want=800), wait_s=30.0)))
    await asyncio.sleep(0)
    await one.run("R")
    assert not waits.done() and not later.done()
    await one.settle("c1/1", {"nusd": 1}, exchange("c1", 1))
    assert isinstance(await asyncio.wait_for(waits, 30), Reservation)
    assert not later.done()
    await other.settle("c2/1", {"nusd": 1}, exchange("c2", 1))
    assert isinstance(await asyncio.wait_for(later, 30), Reservation)


async def test_a_kill_at_one_process_holds_at_the_other(two: tuple[SqliteStore, SqliteStore]) -> None:
    """Gates and limits are the ledger's, not a process's; who waits elsewhere is sent home."""
    one, other = two
    await granted(one, "c1", charge(want=900), gates=("run/R",))
    waits = asyncio.ensure_future(other.reserve(order("c2", charge(want=800), wait_s=30.0, gates=("run/R",))))
    await other.run("R")
    await one.end_run("R", "killed", None, "loop", 0)
    no = await asyncio.wait_for(waits, 30)
    assert isinstance(no, Denied) and ("closed", "loop") == (no.reason, no.why)
    assert "loop" == (await denied(other, "c3", gates=("run/R",))).why

"""One suite for every store: what `ports.Store` promises, on memory and on SQLite (ledger.md sections 1 to 6).

Invariant: no test here knows which store it has; both are asked the same and give the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.core.errors import StoreFailed
from gateway.core.ports import Reading, RunFilter, Store
from gateway.core.types import Balance, Content, Denied, Exchange, Finding, Reservation, ToolCall, Usage
from gateway.core.windows import Calendar
from gateway.stores.memory import MemoryStore
from tests.fakes import FakeClock
from tests.ledgers import AnyStore, charge, exchange, facts, opened, order, spend, sqlite

PURSE = "run/R/nusd"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


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


def balance(store: AnyStore, account: str = PURSE) -> tuple[int, int]:
    """Spent and held, as a reader sees them."""
    found = store.reading().account(account)
    assert found is not None
    return found.spent, found.held


async def granted(store: AnyStore, call: str, *charges: Any, **more: Any) -> Reservation:
    answer = await store.reserve(order(call, *charges, **more))
    assert isinstance(answer, Reservation), answer
    return answer


async def denied(store: AnyStore, call: str, *charges: Any, **more: Any) -> Denied:
    answer = await store.reserve(order(call, *charges, **more))
    assert isinstance(answer, Denied), answer
    return answer


async def parked(store: AnyStore, call: str, *charges: Any, **more: Any) -> asyncio.Task[Any]:
    """An order that stands in line by now."""
    task = asyncio.ensure_future(store.reserve(order(call, *charges, wait_s=30.0, **more)))
    await still_waits(store, task)
    return task


async def still_waits(store: AnyStore, task: asyncio.Task[Any]) -> None:
    """Whatever was asked before is done, and who was answered has noticed: this one was not."""
    await asyncio.sleep(0)
    await store.run("R")
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()


def test_both_stores_fit_the_socket(tmp_path: Path, clock: FakeClock) -> None:
    """The type checker agrees that both are `ports.Store`, and their readers `ports.Reading`."""
    stores: list[Store] = [MemoryStore(clock.now), sqlite(tmp_path, clock)]
    readers: list[Reading] = [MemoryStore(clock.now).reading()]
    assert 3 == len(stores) + len(readers)


# --------------------------------------------------------------------------- reserve


async def test_a_grant_holds_on_every_account_in_one_step(store: AnyStore) -> None:
    """All charges of one unit are held by the same amount, what every account affords."""
    got = await granted(
        store, "c1", charge("run/R/nusd", 900, 10, limit=1000), charge("run/P/nusd", 900, 10, limit=300)
    )
    assert {"nusd": 300} == got.granted
    assert (0, 300) == balance(store, "run/R/nusd") == balance(store, "run/P/nusd")
    assert [Balance("run/R/nusd", 1000, 0, 300), Balance("run/P/nusd", 300, 0, 300)] == list(got.balances)


async def test_a_refused_order_holds_nothing_anywhere(store: AnyStore) -> None:
    """Money is never checked and booked in two steps: the innermost account that doesn't fit is named."""
    no = await denied(
        store,
        "c1",
        charge("run/R/nusd", 50),
        charge("run/P/nusd", 50, limit=40),
        charge("global/all/nusd", 50, limit=1),
    )
    assert ("run/P/nusd", "nusd", "limit", 50) == (no.account, no.unit, no.reason, no.needed)
    assert no.balance is not None and (0, 0, 40) == (no.balance.spent, no.balance.held, no.balance.limit)
    await granted(store, "c2", charge("run/R/nusd", 1000))


async def test_held_counts_against_the_limit(store: AnyStore) -> None:
    """spent + held + hold <= limit, to the last nano-dollar."""
    await granted(store, "c1", charge(want=600))
    no = await denied(store, "c2", charge(want=401))
    assert no.balance is not None and (0, 600) == (no.balance.spent, no.balance.held)
    await granted(store, "c3", charge(want=400))


async def test_an_account_without_a_limit_is_counted(store: AnyStore) -> None:
    """limit None counts without limiting."""
    await spend(store, "c1", 10**12, charge(want=10**12, limit=None))
    assert (10**12, 0) == balance(store)


async def test_the_same_order_twice_is_one_grant(store: AnyStore) -> None:
    """A repeat gives the same reservation and holds nothing more; with other charges it is a mistake that is said."""
    first = await granted(store, "c1", charge(want=700, least=1))
    assert first == await granted(store, "c1", charge(want=700, least=1))
    assert (0, 700) == balance(store)
    with pytest.raises(StoreFailed, match="other charges"):
        await store.reserve(order("c1", charge("run/R/nusd", 5)))


async def test_a_repeat_is_known_also_where_the_store_added_limits_of_its_own(store: AnyStore) -> None:
    """What /limits capped on the run stands among the charges that were held; the order that is repeated lacks it."""
    await store.set_limit("run/R/calls", 5)
    both = (charge("run/R/nusd", 100), charge("run/P/nusd", 100))
    first = await granted(store, "c1", *both, sizes={"calls": (1, 1)})
    assert first == await granted(store, "c1", *both, sizes={"calls": (1, 1)})
    assert [(0, 100), (0, 1)] == [balance(store, "run/R/nusd"), balance(store, "run/R/calls")]


async def test_a_charge_without_sense_is_refused_alone(store: AnyStore) -> None:
    """A negative or inverted charge raises StoreFailed and changes nothing; its neighbours go on."""
    answers = await asyncio.gather(
        store.reserve(order("c1", charge(want=10))), store.reserve(order("c2", charge(want=5, least=9))),
        store.reserve(order("c3", charge(want=10, least=-1))), store.reserve(order("c4", charge(want=10))),
        return_exceptions=True,
    )  # fmt: skip
    assert [Reservation, StoreFailed, StoreFailed, Reservation] == [type(answer) for answer in answers]
    assert (0, 20) == balance(store)


async def test_a_huge_want_is_held_as_far_as_numbers_go(store: AnyStore) -> None:
    """No amount that a caller makes up breaks the ledger's integers."""
    got = await granted(store, "c1", charge(want=10**40, least=1, limit=None))
    assert 0 < got.granted["nusd"] < 2**62
    await store.settle("c1/1", {"nusd": 10**40}, exchange("c1", 10**40))
    assert balance(store)[0] < 2**62


async def test_the_lowest_limit_of_a_caller_stays(store: AnyStore) -> None:
    """A limit header may only lower; a later higher or absent one changes nothing, also after a refusal."""
    no = await denied(store, "c1", charge(want=100, lower=50))
    assert no.balance is not None and 50 == no.balance.limit
    assert "limit" == (await denied(store, "c2", charge(want=51, lower=900))).reason
    assert "limit" == (await denied(store, "c3", charge(want=51))).reason
    await granted(store, "c4", charge(want=30))
    no = await denied(store, "c5", charge(want=11, lower=40))
    assert no.balance is not None and 40 == no.balance.limit, "a lower one counts again"


async def test_an_operator_raises_as_far_as_most_allows(store: AnyStore) -> None:
    """set_limit counts from the next reserve on, up to `most`; lowering below use never fails and stops admission."""
    await spend(store, "c1", 900)
    assert 5000 == (await store.set_limit(PURSE, 5000)).limit
    await denied(store, "c2", charge(want=200))  # no `most`: the configuration's limit stands
    await granted(store, "c3", charge(want=200, most=2000))
    await denied(store, "c4", charge(want=1000, most=2000))
    assert 10 == (await store.set_limit(PURSE, 10)).limit
    await denied(store, "c5", charge(want=1, most=2000))


async def test_a_sharing_call_takes_one_part_of_what_is_free(store: AnyStore) -> None:
    """While w calls wait or are in flight, a call without a limit of its own gets 1/w of what is free."""
    first = await granted(store, "c1", charge(want=600, least=10, share=True))
    second = await granted(store, "c2", charge(want=600, least=10, share=True))
    third = await granted(store, "c3", charge(want=600, least=190, share=True))
    assert [600, 200, 190] == [got.granted["nusd"] for got in (first, second, third)]


# --------------------------------------------------------------------------- ends


async def test_settle_books_the_cost_and_frees_the_hold(store: AnyStore) -> None:
    """HELD -> SETTLED: spent + actual, held - hold."""
    await granted(store, "c1", charge(want=700))
    done = await store.settle("c1/1", {"nusd": 123}, exchange("c1", 123))
    assert (123, False, 1) == (done.charged, done.late, done.step)
    assert (Balance(PURSE, 1000, 123, 0),) == done.balances
    assert (123, 0) == balance(store)


async def test_settling_twice_is_settling_once(store: AnyStore) -> None:
    """Every other pair of state and event is a no-op: no second row, no second entry."""
    await granted(store, "c1", charge(want=700))
    for cost in (123, 456):
        assert 123 == (await store.settle("c1/1", {"nusd": cost}, exchange("c1", cost))).charged
    assert 123 == (await store.settle("c1/1", None, exchange("c1", source="refused"))).charged
    assert 123 == (await store.settle("c1/1", None, exchange("c1", source="presumed"))).charged
    assert (123, 0) == balance(store)
    assert ["call"] == [entry.kind for entry in store.reading().entries(0) if entry.kind != "run"]


async def test_a_refused_call_costs_nothing(store: AnyStore) -> None:
    """Void: held - hold, spent unchanged; listed, not counted as a call where nothing was sent."""
    await granted(store, "c1", charge(want=700))
    assert 0 == (await store.settle("c1/1", None, exchange("c1", 0, "refused"))).charged
    assert (0, 0) == balance(store)
    run = await store.run("R")
    assert run is not None and (0, 1) == (run.calls, run.steps)


async def test_an_unknown_outcome_charges_the_whole_hold(store: AnyStore) -> None:
    """P3: it never guesses zero, and the call shows what it is charged."""
    await granted(store, "c1", charge(want=700))
    told = exchange("c1", None, "presumed")
    assert 700 == (await store.settle("c1/1", None, told)).charged
    assert (700, 700, 1) == (told.cost_nusd, told.hold_nusd, told.step)
    assert (700, 0) == balance(store)


async def test_a_late_settle_trues_up_once(store: AnyStore) -> None:
    """PRESUMED -> SETTLED: actual - hold; later words change nothing."""
    await granted(store, "c1", charge(want=700))
    await store.settle("c1/1", None, exchange("c1", None, "presumed"))
    late = await store.settle("c1/1", {"nusd": 200}, exchange("c1", 200))
    assert (200, True) == (late.charged, late.late)
    assert 200 == (await store.settle("c1/1", {"nusd": 9}, exchange("c1", 9))).charged
    assert (200, 0) == balance(store)
    calls, _ = store.reading().calls("R")
    assert [(200, "price_list")] == [(call.cost_nusd, call.cost_source) for call in calls]
    run = await store.run("R")
    assert run is not None and (1, 200) == (run.calls, run.own_spent_nusd)


async def test_a_late_void_gives_everything_back(store: AnyStore) -> None:
    """PRESUMED -> VOID: - hold."""
    await granted(store, "c1", charge(want=700))
    await store.presume("c1/1")
    done = await store.void("c1/1")
    assert done is not None and (0, True) == (done.charged, done.late)
    assert (0, 0) == balance(store)


async def test_what_is_charged_above_the_hold_is_overrun(store: AnyStore) -> None:
    """Booked as it was, on every account of the unit, and the next call is refused."""
    await granted(store, "c1", charge("run/R/nusd", 1000), charge("run/P/nusd", 1000, limit=5000))
    await store.settle("c1/1", {"nusd": 1300}, exchange("c1", 1300))
    for account in ("run/R/nusd", "run/P/nusd"):
        found = store.reading().account(account)
        assert found is not None and (1300, 300) == (found.spent, found.overrun)
    await denied(store, "c2", charge(want=1))


async def test_money_that_nobody_told_is_what_the_exchange_says(store: AnyStore) -> None:
    """actual None: nusd is exchange.cost_nusd or 0; other units are charged as held, places in flight never."""
    await granted(
        store, "c1", charge(want=700), charge("run/R/calls", 1, limit=5), charge("run/R/inflight", 1, limit=2)
    )
    await store.settle("c1/1", None, exchange("c1", 42))
    assert [(42, 0), (1, 0), (0, 0)] == [balance(store, f"run/R/{unit}") for unit in ("nusd", "calls", "inflight")]


async def test_adjust_goes_down_always_and_up_if_it_fits(store: AnyStore) -> None:
    """Exact input known: the rest is free for others; a rise is refused where it doesn't fit, or after the end."""
    await granted(store, "c1", charge(want=900))
    assert await store.adjust("c1/1", "nusd", 100)
    await granted(store, "c2", charge(want=800))
    assert await store.adjust("c1/1", "nusd", 200)
    assert not await store.adjust("c1/1", "nusd", 201)
    assert not await store.adjust("c1/1", "tokens", 1)
    assert not await store.adjust("c9/1", "nusd", 1)
    await store.settle("c1/1", {"nusd": 1}, exchange("c1", 1))
    assert not await store.adjust("c1/1", "nusd", 1)
    assert (1, 800) == balance(store)


async def test_a_correction_counts_once_per_id(store: AnyStore) -> None:
    """Refunds are rows with reason and id; never more than was charged, never on what is still open."""
    await spend(store, "c1", 300)
    for _ in range(2):
        assert 200 == (await store.correct("c1/1", -100, "refund", "ops", "x1")).charged
    assert 0 == (await store.correct("c1/1", -999, "refund", "ops", "x2")).charged
    assert (0, 0) == balance(store)
    await granted(store, "c2", charge(want=700))
    await store.correct("c2/1", 5, "early", "ops", "x3")
    assert None is (await store.correct("c9/1", 5, "unknown", "ops", "x4")).charged
    assert (0, 700) == balance(store)
    run = await store.run("R")
    assert run is not None and 0 == run.own_spent_nusd


async def test_a_correction_upwards_never_hides_above_the_limit(store: AnyStore) -> None:
    """What others hold by now stays held: the excess is overrun."""
    await spend(store, "c1", 100, charge(want=1000))
    await granted(store, "c2", charge(want=900))
    await store.correct("c1/1", 50, "report", "ops", "x1")
    found = store.reading().account(PURSE)
    assert found is not None and (150, 900, 50) == (found.spent, found.held, found.overrun)


async def test_a_fetched_response_trues_up_its_presumed_call(store: AnyStore) -> None:
    """Only the presumed call of that response and tenant, once; the run's counters and the call's row follow."""
    await granted(store, "c1", charge(want=700))
    await store.settle("c1/1", None, exchange("c1", None, "presumed", response_id="resp_1", tenant=""))
    look = exchange("c2", 90, response_id="resp_1", usage=Usage(input_tokens=7, output_tokens=3))
    assert None is await store.true_up("resp_2", "", look)
    assert None is await store.true_up("resp_1", "another", look)
    assert None is await store.true_up("resp_1", "", exchange("c2", None, "no_usage"))
    done = await store.true_up("resp_1", "", look)
    assert done is not None and (90, True) == (done.charged, done.late)
    assert None is await store.true_up("resp_1", "", look)
    assert (90, 0) == balance(store)
    (call,), _ = store.reading().calls("R")
    assert (90, "price_list", 7) == (call.cost_nusd, call.cost_source, call.usage and call.usage.input_tokens)
    run = await store.run("R")
    assert run is not None and (1, 7, 3, 90) == (run.calls, run.input_tokens, run.output_tokens, run.own_spent_nusd)


async def test_a_deadline_presumes_and_lists_the_call(store: AnyStore, clock: FakeClock) -> None:
    """P4: no hold outlives its deadline; the call stands in the journal with all that its order told."""
    await granted(
        store, "c1", charge(want=700), deadline_at=clock.at + 10, about=("openai-chat", "openai", "chat", "m", True)
    )
    assert 0 == await store.expire(clock.at + 10)
    assert 1 == await store.expire(clock.at + 10.1)
    assert 0 == await store.expire(clock.at + 10.2)
    assert (700, 0) == balance(store)
    (call,), _ = store.reading().calls("R")
    assert ("unknown", "presumed", 700, "m", 1) == (
        call.outcome,
        call.cost_source,
        call.cost_nusd,
        call.request_model,
        call.step,
    )
    late = await store.settle("c1/1", {"nusd": 30}, exchange("c1", 30, usage=Usage(input_tokens=4)))
    assert (30, True) == (late.charged, late.late)
    (call,), _ = store.reading().calls("R")
    assert ("ok", 30) == (call.outcome, call.cost_nusd)
    run = await store.run("R")
    assert run is not None and (1, 4, 30) == (run.calls, run.input_tokens, run.own_spent_nusd)


# --------------------------------------------------------------------------- waiting


async def test_held_is_not_spent(store: AnyStore) -> None:
    """An order that only holds keep out waits, and goes when one settles for less (design.md section 2)."""
    await granted(store, "c1", charge(want=900))
    second = await parked(store, "c2", charge(want=500))
    await store.settle("c1/1", {"nusd": 10}, exchange("c1", 10))
    got = await second
    assert isinstance(got, Reservation) and {"nusd": 500} == got.granted
    assert (10, 500) == balance(store)


async def test_a_line_keeps_its_order(store: AnyStore) -> None:
    """FIFO per account: what would fit queues behind who came first."""
    await granted(store, "c1", charge(want=900))
    big = await parked(store, "c2", charge(want=600))
    small = await parked(store, "c3", charge(want=50))
    await store.adjust("c1/1", "nusd", 400)
    assert isinstance(await big, Reservation)
    await still_waits(store, small)
    await store.settle("c1/1", {"nusd": 0}, exchange("c1", 0))
    assert isinstance(await small, Reservation)


async def test_a_line_holds_up_no_other_account(store: AnyStore) -> None:
    """An order that waits for its own run's account is in nobody's way on the shared one."""
    shared = {"limit": 10_000}
    await granted(store, "c1", charge("run/R/nusd", 900), charge("run/P/nusd", 900, **shared))
    waits = await parked(store, "c2", charge("run/R/nusd", 900), charge("run/P/nusd", 900, **shared))
    got = await store.reserve(
        order("c3", charge("run/S/nusd", 900), charge("run/P/nusd", 900, **shared), run="S", wait_s=30)
    )
    assert isinstance(got, Reservation)
    store.forget("c2/1")
    assert "gone" == (await waits).reason


async def test_spent_alone_ends_the_wait_at_once(store: AnyStore) -> None:
    """A settle that makes it hopeless is the answer: refused by limit, whoever still holds."""
    await granted(store, "c1", charge(want=500))
    await granted(store, "c2", charge(want=500))
    waits = await parked(store, "c3", charge(want=600))
    await store.settle("c1/1", {"nusd": 450}, exchange("c1", 450))
    no = await waits
    assert isinstance(no, Denied) and ("limit", 600) == (no.reason, no.needed)
    assert no.balance is not None and (450, 500) == (no.balance.spent, no.balance.held)
    assert "limit" == (await denied(store, "c4", charge(want=600), wait_s=30)).reason


async def test_spent_alone_ends_the_wait_behind_others_too(store: AnyStore) -> None:
    """Whoever has become hopeless doesn't wait for his turn to hear it."""
    await granted(store, "c0", charge(want=200))
    await granted(store, "c1", charge(want=700))
    first = await parked(store, "c2", charge(want=300))
    second = await parked(store, "c3", charge(want=900))
    await store.settle("c0/1", {"nusd": 200}, exchange("c0", 200))
    assert "limit" == (await asyncio.wait_for(second, 5)).reason
    await still_waits(store, first)
    store.forget("c2/1")
    await first


async def test_a_caller_who_lowers_the_limit_sends_home_whom_it_leaves_without_hope(store: AnyStore) -> None:
    """The wait ends at once when spent alone makes it hopeless, also where another call's header did that."""
    await spend(store, "c1", 400)
    await granted(store, "c2", charge(want=500))
    waits = await parked(store, "c3", charge(want=300))
    await denied(store, "c4", charge(want=600, lower=600))
    no = await asyncio.wait_for(waits, 10)
    assert isinstance(no, Denied) and ("limit", 600) == (no.reason, no.balance and no.balance.limit)


async def test_who_can_not_be_clamped_is_hopeless_by_what_he_wants(store: AnyStore) -> None:
    """An order that takes all or nothing doesn't stand behind others for room that is too small for all."""
    await granted(store, "c1", charge(want=300))
    await granted(store, "c2", charge(want=600))
    first = await parked(store, "c3", charge(want=500))
    waits = await parked(store, "c4", charge(want=600, least=10, clamp=False))
    await store.settle("c1/1", {"nusd": 450}, exchange("c1", 450))
    no = await asyncio.wait_for(waits, 10)
    assert isinstance(no, Denied) and ("limit", 600) == (no.reason, no.needed)
    assert not first.done()
    store.forget("c3/1")
    await first


async def test_patience_counts_from_the_last_settle(store: AnyStore, clock: FakeClock) -> None:
    """30 s after the last hold of that account settled, not after the order came."""
    await granted(store, "c1", charge(want=100))
    await granted(store, "c2", charge(want=900))
    waits = await parked(store, "c3", charge(want=800))
    clock.advance(20)
    await store.settle("c1/1", {"nusd": 1}, exchange("c1", 1))
    clock.advance(29)
    await store.expire(clock.at)
    await still_waits(store, waits)
    clock.advance(1)
    await store.expire(clock.at)
    no = await waits
    assert isinstance(no, Denied) and "limit" == no.reason


async def test_who_leaves_makes_room(store: AnyStore) -> None:
    """forget ends the wait as gone, and whoever stood behind is asked at once: no lost wake-up."""
    await granted(store, "c1", charge(want=500))
    first = await parked(store, "c2", charge(want=600))
    second = await parked(store, "c3", charge(want=400))
    store.forget("c2/1")
    no = await first
    assert isinstance(no, Denied) and "gone" == no.reason
    assert isinstance(await second, Reservation)
    store.forget("c3/1")  # granted already: nothing to forget
    await store.run("R")
    assert (0, 900) == balance(store)


async def test_the_same_order_may_wait_twice(store: AnyStore) -> None:
    """A repeat of a waiting order stands in line once, and both are told."""
    await granted(store, "c1", charge(want=900))
    one = await parked(store, "c2", charge(want=200))
    two = await parked(store, "c2", charge(want=200))
    await store.settle("c1/1", {"nusd": 0}, exchange("c1", 0))
    assert await one == await two
    assert (0, 200) == balance(store)


async def test_the_line_has_an_end(store: AnyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the most that may wait, an order is turned away as busy."""
    window = store._window
    monkeypatch.setattr(window.book.line, "most", 1)
    await granted(store, "c1", charge(want=900))
    first = await parked(store, "c2", charge(want=200))
    assert "busy" == (await denied(store, "c3", charge(want=200), wait_s=30)).reason
    store.forget("c2/1")
    await first


async def test_fifty_callers_share_a_small_purse(store: AnyStore) -> None:
    """Everybody is served in the end, nobody is forgotten, and the limit holds at every instant."""

    async def agent(number: int) -> bool:
        call = f"c{number:02}"
        got = await store.reserve(order(call, charge(want=300, least=20, share=True), wait_s=30))
        if isinstance(got, Denied):
            return False
        assert got.balances[0].spent + got.balances[0].held <= 1000
        await store.settle(f"{call}/1", {"nusd": 15}, exchange(call, 15))
        return True

    assert [True] * 50 == await asyncio.gather(*[agent(number) for number in range(50)])
    assert (750, 0) == balance(store)


# --------------------------------------------------------------------------- gates


@pytest.mark.parametrize("gate", ["run/R", "agent/a", "global", PURSE])
async def test_a_closed_gate_denies_and_sends_waiters_home(store: AnyStore, gate: str) -> None:
    """Kill closes an account: later orders and those in line are denied with the reason that was given."""
    gates = ("run/R", "agent/a", "global")
    await granted(store, "c1", charge(want=900), gates=gates)
    waits = await parked(store, "c2", charge(want=900), gates=gates)
    await store.close_account(gate, "too loud")
    for no in (await waits, await denied(store, "c3", gates=gates)):
        assert (gate, "closed", "too loud") == (no.account, no.reason, no.why)
    await store.open_account(gate)
    await granted(store, "c4", gates=gates)


async def test_killing_a_run_closes_its_gate_until_resume(store: AnyStore) -> None:
    """Killed stays killed when a call comes; what it spent stays after resume."""
    await spend(store, "c1", 100, gates=("run/R",))
    run = await store.end_run("R", "killed", None, "loop", 0)
    assert run is not None and ("killed", "killed", "loop") == (run.state, run.outcome, run.reason)
    assert "loop" == (await denied(store, "c2", gates=("run/R",))).why
    run = await store.run("R")
    assert run is not None and "killed" == run.state
    run = await store.end_run("R", "active", None, None, 0)
    assert run is not None and ("active", None, 2) == (run.state, run.outcome, run.episode)
    await granted(store, "c3", gates=("run/R",))
    assert (100, 100) == balance(store)
    kinds = [entry.kind for entry in store.reading().entries(0, "R")]
    assert ["run", "call", "kill", "gate", "resume", "gate"] == kinds


# --------------------------------------------------------------------------- runs


async def test_steps_count_calls_not_attempts(store: AnyStore) -> None:
    """1-based in the run; a second attempt of a call keeps its number, a refused call gets one of its own."""
    assert 1 == (await granted(store, "c1")).step
    await store.void("c1/1")
    again = msgspec.structs.replace(order("c1"), id="c1/2")
    got = await store.reserve(again)
    assert isinstance(got, Reservation) and 1 == got.step
    refused = exchange("c2", 0, "refused")
    assert 2 == (await store.settle(None, None, refused)).step == refused.step
    assert 2 == (await store.settle(None, None, exchange("c2", 0, "refused"))).step
    assert 3 == (await granted(store, "c3")).step
    assert 1 == len([entry for entry in store.reading().entries(0) if entry.kind == "call"])


async def test_a_run_adds_up_its_calls(store: AnyStore) -> None:
    """Calls, errors, tools and tokens of what was sent; own_spent is the sum of its calls' cost."""
    usage = Usage(input_tokens=10, output_tokens=5, cache_read_tokens=4, cache_write_tokens=3, reasoning_tokens=2)
    await granted(store, "c1")
    tools = [ToolCall("t1", "search"), ToolCall("t2", "search")]
    await store.settle("c1/1", {"nusd": 60}, exchange("c1", 60, usage=usage, tool_calls=tools))
    await granted(store, "c2")
    await store.settle("c2/1", {"nusd": 0}, exchange("c2", 0, "price_list", outcome="upstream_error"))
    run = await store.run("R")
    assert run is not None
    assert (2, 2, 1, 10, 5, 4, 3, 2, 60) == (
        run.calls, run.tool_calls, run.errors, run.input_tokens, run.output_tokens, run.cache_read_tokens,
        run.cache_write_tokens, run.reasoning_tokens, run.own_spent_nusd,
    )  # fmt: skip


async def test_first_sight_makes_the_run_and_its_parent(store: AnyStore) -> None:
    """Gaps are filled later, what is known is kept, a circle of parents is not followed."""
    await granted(store, "c1", run="R")
    made = await store.make_run(facts("K", parent="P", agent="a"), 0)
    assert ("K", "P", "a", "active") == (made.key, made.parent, made.agent, made.state)
    parent = await store.run("P")
    assert parent is not None and ("P", None, "api") == (parent.id, parent.parent, parent.source)
    again = await store.make_run(facts("K", parent="R", agent="b", user="u"), 0)
    assert ("P", "a", "u") == (again.parent, again.agent, again.user)
    circle = await store.make_run(facts("P", parent="K"), 0)
    assert None is circle.parent
    assert ["K"] == store.reading().children("P")
    assert None is await store.run("nobody")


async def test_the_first_call_names_the_source_of_a_run_made_by_hand(store: AnyStore) -> None:
    """`api` is a run made by POST and not called yet."""
    await store.make_run(msgspec.structs.replace(facts("R"), source="api"), 0)
    await granted(store, "c1")
    run = await store.run("R")
    assert run is not None and "header" == run.source


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        ({}, "completed"),
        ({"tool_calls": [ToolCall("t", "f")]}, "abandoned"),
        ({"outcome": "upstream_error"}, "failed"),
        ({"outcome": "client_left"}, "abandoned"),
        ({"outcome": "cut", "reason": "over"}, "stopped_by_limit"),
        ({"outcome": "refused", "reason": "insufficient_quota", "attempts": []}, "stopped_by_limit"),
        ({"outcome": "refused", "reason": "price_unknown", "attempts": []}, "failed"),
    ],
)
async def test_an_idle_run_ends_as_its_last_call_says(
    store: AnyStore, clock: FakeClock, last: dict[str, Any], outcome: str
) -> None:
    """After idle_s without a call; a later call begins its next episode."""
    await granted(store, "c1")
    await store.settle("c1/1", {"nusd": 1}, exchange("c1", 1, **last))
    clock.advance(600)
    await store.expire(clock.at)
    run = await store.run("R")
    assert run is not None and "active" == run.state
    clock.advance(1)
    await store.expire(clock.at)
    run = await store.run("R")
    assert run is not None and ("ended", outcome, 1) == (run.state, run.outcome, run.episode)
    await granted(store, "c2")
    run = await store.run("R")
    assert run is not None and ("active", None, 2, None) == (run.state, run.outcome, run.episode, run.ended_at)


async def test_a_run_with_a_call_in_flight_is_not_idle(store: AnyStore, clock: FakeClock) -> None:
    """Nor is one whose child is active."""
    await store.make_run(facts("P"), 0)
    await granted(store, "c1", run="K")
    await store.make_run(facts("K", parent="P"), 0)
    clock.advance(10_000)
    await store.expire(clock.at)
    for key in ("K", "P"):
        run = await store.run(key)
        assert run is not None and "active" == run.state


async def test_a_run_that_a_sweep_lets_go_is_not_idle(store: AnyStore, clock: FakeClock) -> None:
    """The sweep that presumes the call in the way grants the one that waited, longer than a run may be idle: neither
    its run nor the run's parent ends in that sweep, which no table tells of the grant yet."""
    place = charge("key/k/inflight", want=1, limit=1)
    await store.make_run(facts("P"), 0)
    await store.reserve(order("c1", place, deadline_at=clock.at + 700))
    child = msgspec.structs.replace(order("c2", place, run="K", wait_s=10_000.0), run=facts("K", parent="P"))
    waits = asyncio.ensure_future(store.reserve(child))
    while await store.run("K") is None:  # noqa: ASYNC110 - the ledger tells nobody that an order stands in line
        await asyncio.sleep(0)
    clock.advance(701)
    await store.expire(clock.at)
    assert isinstance(await waits, Reservation)
    for key in ("K", "P"):
        run = await store.run(key)
        assert run is not None and "active" == run.state, key


# --------------------------------------------------------------------------- reading


async def test_a_reader_sees_runs_with_their_money(store: AnyStore, clock: FakeClock) -> None:
    """Sorted, filtered, page by page, each run once."""
    for number in range(5):
        clock.advance(1)
        await spend(store, f"c{number}", 10 * ((number * 3) % 5), charge(f"run/r{number}/nusd"), run=f"r{number}")
    reading = store.reading()
    for sort in ("last_at", "-last_at", "started_at", "-spent", "spent"):
        keys, cursor = [], None
        while True:
            page, cursor = reading.runs(RunFilter(sort=sort), 2, cursor)
            keys += [run.key for run, _ in page]
            if cursor is None:
                break
        wanted = sorted(range(5), key=(lambda n: (n * 3) % 5) if "spent" in sort else (lambda n: n))
        assert [f"r{n}" for n in (reversed(wanted) if sort.startswith("-") else wanted)] == keys, sort
    assert [] == reading.runs(RunFilter(state="killed"))[0]
    assert 5 == len(reading.runs(RunFilter(state="active"))[0])
    assert ["r4"] == [run.key for run, _ in reading.runs(RunFilter(since=clock.at))[0]]
    found = reading.get_run("r1")
    assert found is not None and 30 == found[1].spent
    assert reading.get_run("nobody") is None
    assert reading.account("nothing") is None
    for wrong in (RunFilter(sort="; drop table run"), RunFilter(sort="")):
        with pytest.raises(ValueError, match="sort"):
            reading.runs(wrong)
    with pytest.raises(ValueError, match="cursor"):
        reading.runs(RunFilter(), 2, "nonsense")


async def test_a_reader_pages_calls_accounts_and_entries(store: AnyStore) -> None:
    """Cursors lead to each item once; gates are no budgets."""
    for number in range(5):
        await spend(store, f"c{number}", number, gates=("run/R",))
    await store.close_account("agent/x", "why")
    reading = store.reading()
    first, cursor = reading.calls("R", 3)
    rest, end = reading.calls("R", 3, cursor)
    assert ([0, 1, 2], [3, 4], None) == ([c.cost_nusd for c in first], [c.cost_nusd for c in rest], end)
    assert [f"c{n}" for n in range(5)] == [e.call_id for e in reading.newest(5)]
    entries = reading.entries(0, None, 3)
    assert ["run", "call", "call"] == [entry.kind for entry in entries]
    assert ["c2", "c3", "c4"] == [entry.call_id for entry in reading.entries(entries[-1].seq, "R")]
    assert ([], None) == reading.accounts("agent")
    accounts, _ = reading.accounts("run")
    assert [PURSE] == [account.account for account in accounts]


async def test_findings_are_written_with_their_call(store: AnyStore) -> None:
    """In the same transaction, and laid into the call's own row."""
    odd = Finding("f1", "R", "c1", 1, "loop", "warn", "observe", None, "again", {"count": 3}, 1.0)
    await granted(store, "c1")
    await store.settle("c1/1", {"nusd": 1}, exchange("c1", 1), [odd])
    assert [odd] == store.reading().findings("R")
    (call,), _ = store.reading().calls("R")
    assert "loop" == call.findings[0]["kind"]


async def test_a_note_stands_in_the_journal(store: AnyStore) -> None:
    """Feedback and transitions move no money."""
    await store.note("feedback", "R", {"score": 1}, 0)
    (entry,) = store.reading().entries(0)
    assert ("feedback", "R", {"score": 1}) == (entry.kind, entry.run, msgspec.msgpack.decode(entry.data))


async def test_an_exchange_comes_back_as_it_went_in(store: AnyStore) -> None:
    """The journal loses nothing of a call."""
    await granted(store, "c1")
    told = exchange("c1", 5, usage=Usage(input_tokens=1, uses={"web": 2}), links=(1, 2**64 - 1), tools=("a",))
    await store.settle("c1/1", {"nusd": 5}, told)
    (call,), _ = store.reading().calls("R")
    assert told == call
    assert isinstance(call, Exchange)


async def test_a_reader_knows_windows_limits_and_who_is_under_way(store: AnyStore, clock: FakeClock) -> None:
    """Accounts of a kind with the end of their window and what was made of their limit; of ended windows those that
    hold something; calls under way, the oldest first; the children of a run."""
    hour: dict[str, Any] = {"window": Calendar("hour"), "limit": 9}
    await granted(store, "c1", charge("agent/a/calls", 1, **hour), charge(PURSE, 5))
    await spend(store, "c2", 1, charge("agent/b/nusd", 1, **hour), charge("run/K/nusd", 1), run="K")
    await store.make_run(facts("K", parent="R"), clock.at)
    await store.set_limit(PURSE, 77)
    reading = store.reading()
    before = Calendar("hour").at(clock.at)
    names = [f"agent/a/calls/{before.label}", f"agent/b/nusd/{before.label}"]
    found, cursor = reading.accounts("agent", 1, None, clock.at)
    rest, end = reading.accounts("agent", 1, cursor, clock.at)
    assert (names, None) == ([one.account for one in found + rest], end)
    assert [before.ends_at, before.ends_at] == [one.ends_at for one in found + rest]
    later, _ = reading.accounts("agent", 9, None, before.ends_at)
    assert names[:1] == [one.account for one in later]
    standings = reading.standings([PURSE, "nothing", names[0]])
    assert {PURSE: (77, 5), names[0]: (None, 1)} == {name: (one.cap, one.held) for name, one in standings.items()}
    (open_call,) = reading.open_calls(["R", "K"])
    assert ("c1", "R", {"calls": 1, "nusd": 5}) == (open_call.call_id, open_call.run, open_call.held)
    assert [] == reading.open_calls(["K"]) == reading.open_calls([])
    assert ["K"] == [run.key for run, _ in reading.runs(RunFilter(parent="R"))[0]]
    for wrong in ("-1", "x", "1_0", " 1", "9" * 30):
        with pytest.raises(ValueError, match="cursor"):
            reading.calls("R", 1, wrong)


async def test_a_reader_counts_active_runs_by_agent(store: AnyStore) -> None:
    """Those that ended, are paused or killed are not among them; of so many at most."""
    for run, agent in (("a", "x"), ("b", "x"), ("c", None), ("d", "y"), ("e", "y"), ("f", "z")):
        asked = order(f"c-{run}", charge(f"run/{run}/nusd"), run=run)
        await store.reserve(msgspec.structs.replace(asked, run=facts(run, agent=agent)))
        await store.settle(f"c-{run}/1", {"nusd": 1}, exchange(f"c-{run}", 1, run=run))
    for run, state in (("d", "ended"), ("e", "paused"), ("f", "killed")):
        await store.end_run(run, state, None, None, 0.0)
    assert {"x": 2, None: 1} == store.reading().active(100)
    assert 1 == sum(store.reading().active(1).values())


# --------------------------------------------------------------------------- content


async def test_what_was_captured_is_read_back_and_each_text_is_kept_once(store: AnyStore) -> None:
    """`remember` writes an entry behind what was asked before; a text that is known need not come again."""
    said = '{"role":"user","parts":[{"type":"text","content":"hi"}]}'
    lost: list[int] = []
    await spend(store, "c1", 3)
    store.remember(Content("c1", "R", input=("m",), rules=1, texts={"m": said}), lambda: lost.append(1))
    store.remember(Content("c2", "R", input=("m", "m"), truncated=True, texts={"m": said}), lambda: lost.append(1))
    store.remember(Content("c3", "R", output=("m",)), lambda: lost.append(1))
    await store.run("R")
    reading = store.reading()
    message = msgspec.json.decode(said)
    nothing: dict[str, Any] = {"system": [], "input": [], "output": [], "tools": [], "truncated": False, "rules": 0}
    assert {**nothing, "input": [message], "rules": 1} == reading.content("c1", "R")
    assert {**nothing, "input": [message, message], "truncated": True} == reading.content("c2", "R")
    assert {**nothing, "output": [message]} == reading.content("c3", "R")
    assert [None, None] == [reading.content("c9", "R"), reading.content("c1", "another")]
    kinds = [(entry.kind, entry.call_id) for entry in reading.entries(0) if entry.kind in ("call", "content")]
    assert [("call", "c1"), ("content", "c1"), ("content", "c2"), ("content", "c3")] == kinds
    assert [] == lost

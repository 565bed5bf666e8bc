"""Which limit a charge meets: windows, callers, operators, counted units, the last call, thresholds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import structs

from gateway.core.errors import StoreFailed
from gateway.core.ledger import control, engine, limits, settle
from gateway.core.ledger.audit import audit
from gateway.core.ledger.book import Account, Book, Row
from gateway.core.types import Charge, Denied, Mark, Order, Reservation, RunFacts
from gateway.core.windows import Calendar
from tests.ledgers import charge, exchange, order

DAY = Calendar("day")
NOON = 1_795_262_400.0  # 2026-11-21 12:00 UTC


def grant(book: Book, now: float, asked: Order) -> Reservation:
    """The order must be granted."""
    answer = engine.reserve(book, now, asked)
    assert isinstance(answer, Reservation), answer
    return answer


def refusal(book: Book, now: float, asked: Order) -> Denied:
    """The order must be denied."""
    answer = engine.reserve(book, now, asked)
    assert isinstance(answer, Denied), answer
    return answer


def end(book: Book, now: float, call: str, cost: int = 0, source: Any = "price_list", **actual: int) -> None:
    """The call's answer came."""
    told = exchange(call, cost, source)
    settle.settle(book, now, f"{call}/1", {"nusd": cost, "calls": 1, **actual}, told, ())


def words(book: Book, kind: str) -> list[dict[str, Any]]:
    """Journal entries of a kind that were not taken yet."""
    return [msgspec.msgpack.decode(entry.data) for entry in book.dirty.journal if entry.kind == kind]


@pytest.mark.parametrize(
    ("cap", "limit", "most", "force"),
    [
        (None, 10, None, 10), (None, None, None, None), (5, 10, None, 5),
        (50, 10, None, 10), (50, 10, 30, 30), (5, None, None, 5),
    ],
)  # fmt: skip
def test_the_limit_in_force(cap: int | None, limit: int | None, most: int | None, force: int | None) -> None:
    """Configured, lowered by a caller, or raised by an operator as far as `most` allows."""
    assert force == limits.in_force(Account("a", cap=cap), charge("run/R/nusd", 1, limit=limit, most=most))


def test_a_lowered_limit_is_reported_as_such() -> None:
    """I1: how far it was set below what was used already; a rise takes it back."""
    book = Book("i")
    engine.reserve(book, 0.0, order("c1", charge(want=700)))
    control.set_limit(book, 0.0, "run/R/nusd", 100)
    assert 600 == book.account("run/R/nusd").lowered
    control.set_limit(book, 0.0, "run/R/nusd", 900)
    assert 0 == book.account("run/R/nusd").lowered
    for wrong in (-1, 2**60):
        with pytest.raises(StoreFailed, match="out of range"):
            control.set_limit(book, 0.0, "run/R/nusd", wrong)


def test_the_same_limit_header_again_does_not_undo_an_operators_raise():
    """An agent sends its header with every call: only a lower one than ever before changes anything (design.md 3)."""
    book = Book("i")
    low = charge(limit=1000, lower=10, want=5)
    engine.reserve(book, 1.0, order("c1", low))
    control.set_limit(book, 2.0, "run/R/nusd", 500)
    engine.reserve(book, 3.0, order("c2", low))
    assert book.account("run/R/nusd").limit == 500
    engine.reserve(book, 4.0, order("c3", charge(limit=1000, lower=9, want=5)))
    assert book.account("run/R/nusd").limit == 9


# --------------------------------------------------------------------------- windows


def test_a_window_is_chosen_by_the_stores_time_and_pinned() -> None:
    """A call that straddles midnight charges the window that it was admitted in (ledger.md section 10)."""
    book = Book("i")
    day = charge("agent/a/nusd", 600, limit=1000, window=DAY)
    grant(book, NOON, order("c1", day))
    assert "agent/a/nusd/2026-11-21" == refusal(book, NOON, order("c2", day)).account
    grant(book, NOON + 43_200, order("c3", day))
    end(book, NOON + 50_000, "c1", 500)
    assert (500, 0) == (book.account("agent/a/nusd/2026-11-21").spent, book.account("agent/a/nusd/2026-11-22").spent)


def test_a_refusal_says_when_its_window_ends() -> None:
    """resets_at is the end of the refusing account's window; of a run there is none."""
    book = Book("i")
    day = charge("agent/a/nusd", 600, limit=1000, window=DAY)
    grant(book, NOON, order("c1", day))
    assert NOON + 43_200 == refusal(book, NOON, order("c2", day)).resets_at
    assert refusal(book, NOON, order("c3", charge(want=2000))).resets_at is None


def test_whoever_waits_goes_on_when_the_window_turns() -> None:
    """At midnight there is room again: nobody is kept in the line of a day that is over."""
    book = Book("i")
    day = charge("agent/a/nusd", 600, limit=1000, window=DAY)
    grant(book, NOON, order("c1", day))
    assert engine.WAITING is engine.reserve(book, NOON + 43_190, order("c2", day, wait_s=30))
    assert 1 == engine.expire_line(book, NOON + 43_201)
    ((_, answer),) = book.take_answers()
    assert isinstance(answer, Reservation)
    assert 600 == book.account("agent/a/nusd/2026-11-22").held
    assert {} == book.line.parked


# --------------------------------------------------------------------------- counted units


def test_the_answer_that_passes_a_limit_of_tool_calls_is_the_last() -> None:
    """Nobody can hold what a model will emit: the fifth of four is delivered, the next call is refused."""
    book = Book("i")
    tools = Charge("run/R/tool_calls", "tool_calls", 0, 0, 4)
    for call, emitted in (("c1", 2), ("c2", 2), ("c3", 1)):
        grant(book, 0.0, order(call, tools))
        end(book, 1.0, call, tool_calls=emitted)
    refused = refusal(book, 2.0, order("c4", tools))
    assert refused.balance is not None
    assert ("tool_calls", 5, 4, 0) == (refused.unit, refused.balance.spent, refused.balance.limit, refused.balance.held)
    assert 1 == book.account("run/R/tool_calls").overrun


def test_seconds_of_a_run_pass_from_its_start() -> None:
    """Whether it calls or not: after ten seconds the next call is refused, and the refusal says how old the run is."""
    book = Book("i")
    seconds = Charge("run/R/seconds", "seconds", 1, 1, 10)
    grant(book, 100.0, order("c1", seconds))
    grant(book, 109.9, order("c2", seconds))
    refused = refusal(book, 110.0, order("c3", seconds))
    assert refused.balance is not None and (10, 10) == (refused.balance.spent, refused.balance.limit)


def test_seconds_of_an_agent_are_those_of_its_calls() -> None:
    """Outside of a run there is no start to count from: what its calls took adds up, whole seconds rounded up."""
    book = Book("i")
    seconds = Charge("agent/a/seconds", "seconds", 1, 1, 10)
    grant(book, 100.0, order("c1", seconds))
    end(book, 107.2, "c1")
    assert 8 == book.account("agent/a/seconds").spent
    grant(book, 107.2, order("c2", seconds))
    end(book, 109.0, "c2")
    assert "seconds" == refusal(book, 110.0, order("c3", seconds)).unit


def test_a_run_and_its_agent_may_both_be_limited_in_seconds() -> None:
    """One hold, two meanings of the unit: every balance is the sum of its rows all the same."""
    book = Book("i")
    both = (Charge("run/R/seconds", "seconds", 1, 1, 100), Charge("agent/a/seconds", "seconds", 1, 1, 100))
    grant(book, 0.0, order("c1", *both))
    end(book, 7.0, "c1")
    assert (0, 7) == (book.account("run/R/seconds").spent, book.account("agent/a/seconds").spent)
    assert [] == audit(book, [row for row in book.dirty.rows if isinstance(row, Row)])


def test_a_call_that_was_sent_counts_though_nobody_bills_it() -> None:
    """calls is what was sent to a provider (http.md section 4): a 429 is free, and not nothing."""
    book = Book("i")
    calls = Charge("run/R/calls", "calls", 1, 1, 2)
    for call, sent in (("c1", 0), ("c2", 1), ("c3", 1)):
        grant(book, 0.0, order(call, calls, charge(want=10)))
        settle.settle(book, 1.0, f"{call}/1", {"calls": sent}, exchange(call, 0, "refused"), ())
    assert "calls" == refusal(book, 2.0, order("c4", calls)).unit
    assert 0 == book.account("run/R/nusd").spent
    assert [] == audit(book, book.dirty.rows)


# --------------------------------------------------------------------------- the last call


def test_the_last_call_is_paid_from_a_reserve_that_others_leave() -> None:
    """Ordinary calls leave room for one more; the one that can't is granted once, and nothing after it."""
    book = Book("i")
    spare = charge("run/R/nusd", 400, 100, last=True)
    assert 400 == grant(book, 0.0, order("c1", spare)).granted["nusd"]
    end(book, 0.0, "c1", 400)
    second = grant(book, 0.0, order("c2", spare))
    assert (400, "") == (second.granted["nusd"], second.last)
    end(book, 0.0, "c2", 400)
    last = grant(book, 0.0, order("c3", spare))
    assert (200, "run/R/nusd") == (last.granted["nusd"], last.last)
    end(book, 0.0, "c3", 10)
    refused = refusal(book, 0.0, order("c4", spare))
    assert (engine.LAST_USED, 810) == (refused.why, book.account("run/R/nusd").spent)


def test_an_ordinary_call_is_granted_less_rather_than_the_reserve() -> None:
    """600 are free, 125 stay aside."""
    book = Book("i")
    book.account("run/R/nusd").spent = 400
    got = grant(book, 0.0, order("c1", charge("run/R/nusd", 600, 100, last=True)))
    assert (475, "") == (got.granted["nusd"], got.last)


def test_a_hold_that_grows_leaves_the_reserve_alone() -> None:
    """mode = "expected" tops up while it streams: what stays aside for the last call isn't its to take."""
    book = Book("i")
    grant(book, 0.0, order("c1", charge("run/R/nusd", 300, 100, last=True)))
    assert not engine.adjust(book, 0.0, "c1/1", "nusd", 876)
    assert engine.adjust(book, 0.0, "c1/1", "nusd", 875)


def test_of_many_at_once_one_is_the_last() -> None:
    """The others wait for what is held, and are told at once when there is no hope."""
    book = Book("i")
    calls = Charge("run/R/calls", "calls", 1, 1, 2, last=True)
    grant(book, 0.0, order("c1", calls))
    for call in ("c2", "c3"):
        assert engine.WAITING is engine.reserve(book, 0.0, order(call, calls, wait_s=30))
    end(book, 1.0, "c1")
    answers = [answer for _, answer in book.take_answers()]
    assert [Reservation, Denied] == [type(answer) for answer in answers]


def test_a_last_call_that_said_nothing_gives_its_place_back() -> None:
    """Void: nothing can have been billed, so nothing was said."""
    book = Book("i")
    calls = Charge("run/R/calls", "calls", 1, 1, 1, last=True)
    assert "run/R/calls" == grant(book, 0.0, order("c1", calls)).last
    settle.settle(book, 0.0, "c1/1", {"calls": 0}, exchange("c1", 0, "refused"), ())
    assert "run/R/calls" == grant(book, 0.0, order("c2", calls)).last


def test_a_raised_limit_gives_the_last_call_back() -> None:
    """Then there is room again for ordinary calls, and for another last one."""
    book = Book("i")
    calls = Charge("run/R/calls", "calls", 1, 1, 1, 9, last=True)
    grant(book, 0.0, order("c1", calls))
    end(book, 0.0, "c1")
    refusal(book, 0.0, order("c2", calls))
    control.set_limit(book, 0.0, "run/R/calls", 3)
    assert "" == grant(book, 0.0, order("c2", calls)).last


# --------------------------------------------------------------------------- thresholds


def test_a_threshold_is_recorded_once_for_an_account() -> None:
    """On what is spent, not on what is held, and never again."""
    book = Book("i")
    marks = (Mark("b", 1000, (("0.5", 500), ("0.8", 800))),)
    spent = []
    for call, cost in (("c1", 400), ("c2", 100), ("c3", 10), ("c4", 400)):
        grant(book, 0.0, order(call, charge(want=450, marks=marks)))
        end(book, 0.0, call, cost)
        spent.append([word["threshold"] for word in words(book, "threshold")])
    assert [[], ["0.5"], ["0.5"], ["0.5", "0.8"]] == spent
    said = words(book, "threshold")[1]
    assert ("b", "run/R/nusd", "nusd", 1000, 910) == tuple(
        said[name] for name in ("budget", "account", "unit", "limit", "spent")
    )


def test_a_shadow_threshold_goes_by_its_own_limit() -> None:
    """It watches; the limit in force is another's."""
    book = Book("i")
    marks = (Mark("b", 1000, (("1", 1000),)), Mark("watched", 100, (("1", 1000),), shadow=True))
    grant(book, 0.0, order("c1", charge(want=450, marks=marks)))
    end(book, 0.0, "c1", 100)
    grant(book, 0.0, order("c2", charge(want=900, marks=marks)))
    end(book, 0.0, "c2", 900)
    said = [(word["budget"], word.get("shadow", False)) for word in words(book, "threshold")]
    assert [("watched", True), ("b", False)] == said


def test_a_threshold_that_was_reached_unseen_is_recorded_with_the_next_order() -> None:
    """A process that died between the two knows of no thresholds when its hold is presumed."""
    book = Book("i")
    book.account("run/R/nusd").spent = 600
    grant(book, 0.0, order("c1", charge(want=10, marks=(Mark("b", 1000, (("0.5", 500),)),))))
    assert 1 == len(words(book, "threshold"))


# --------------------------------------------------------------------------- operators and other processes


def test_a_limit_of_any_unit_binds_the_run_from_then_on() -> None:
    """/limits on a run whose configuration has no such budget: the store charges it by itself, for children too."""
    book = Book("i")
    grant(book, 0.0, order("c1", charge(want=10)))
    control.set_limit(book, 0.0, "run/R/calls", 2)
    for call in ("c2", "c3"):
        grant(book, 0.0, of_child(call, parent="R"))
    refused = refusal(book, 0.0, of_child("c4", parent="R"))
    assert ("run/R/calls", "calls") == (refused.account, refused.unit)


def of_child(call: str, gates: tuple[str, ...] = ("run/K", "run/R"), **facts: Any) -> Order:
    """An order of run K, which knows so much of it."""
    asked = order(call, charge("run/K/nusd", 10), gates=gates, sizes={"calls": (1, 1)})
    return structs.replace(asked, run=RunFacts("K", "K", "", "header", **facts))


def test_a_limit_below_use_pauses_the_run_and_a_rise_lets_it_go_on() -> None:
    """It says so: state and reason; only the unit that stopped it starts it again."""
    book = Book("i")
    grant(book, 0.0, order("c1", charge(want=700)))
    end(book, 0.0, "c1", 700)
    control.set_limit(book, 0.0, "run/R/nusd", 500)
    run = book.run("R")
    assert run is not None and ("paused", f"{limits.LOWERED}: usd") == (run.state, run.reason)
    assert "limit" == refusal(book, 0.0, order("c2", charge(want=10))).reason
    control.set_limit(book, 0.0, "run/R/calls", 5)
    assert "paused" == run.state
    control.set_limit(book, 0.0, "run/R/nusd", 900)
    assert "active" == run.state
    grant(book, 0.0, order("c3", charge(want=10)))


def test_a_limit_counts_what_a_child_did_in_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is written yet, so no table can tell that it is a child."""
    book = Book("i")
    monkeypatch.setattr(book.shelf, "below", lambda run: [])
    child = RunFacts(key="C", id="C", tenant="", source="header", parent="R")
    grant(book, 0.0, structs.replace(order("c1", charge("run/C/nusd")), run=child))
    settle.settle(book, 0.0, "c1/1", {"nusd": 1, "calls": 1}, exchange("c1", 1, run="C"), ())
    assert 1 == control.set_limit(book, 0.0, "run/R/calls", 5).spent


def test_a_limit_does_not_take_back_what_a_person_paused() -> None:
    """Only a pause that a limit made ends with it."""
    book = Book("i")
    grant(book, 0.0, order("c1"))
    control.end_run(book, 0.0, "R", "paused", None, "by hand")
    control.set_limit(book, 0.0, "run/R/nusd", 900)
    assert ("paused", "by hand") == (book.runs["R"].state, book.runs["R"].reason)


def test_a_configuration_that_allows_more_lets_a_lowered_run_go_on() -> None:
    """The first call that fits again makes it active."""
    book = Book("i")
    grant(book, 0.0, order("c1", charge("run/R/nusd", 700)))
    end(book, 0.0, "c1", 700)
    control.set_limit(book, 0.0, "run/R/nusd", 500)
    book.account("run/R/nusd").cap = 800
    grant(book, 0.0, order("c2", charge("run/R/nusd", 10)))
    run = book.run("R")
    assert run is not None and "active" == run.state


def test_an_order_that_knows_less_of_its_run_than_the_ledger_is_stale() -> None:
    """Another process was told of a parent, an agent, a user: their budgets apply to this call too."""
    book = Book("i")
    grant(book, 0.0, of_child("c1", parent="R", agent="a", user="u"))
    known: tuple[dict[str, Any], ...] = ({"user": "u"}, {"agent": "a"}, {"agent": "b", "user": "u"})
    for less in known:
        assert "stale" == refusal(book, 0.0, of_child("c2", **less)).reason
    assert "stale" == refusal(book, 0.0, of_child("c2", ("run/K",), agent="a", user="u")).reason
    grant(book, 0.0, of_child("c2", agent="a", user="u"))


def test_a_charge_that_can_not_be_clamped_needs_all_it_wants() -> None:
    """clamp = false: rather refused than shortened."""
    book = Book("i")
    book.account("run/R/nusd").spent = 600
    refused = refusal(book, 0.0, order("c1", charge("run/R/nusd", 500, 100, clamp=False)))
    assert 500 == refused.needed


def test_one_call_holds_no_more_than_its_share_of_what_is_free() -> None:
    """share = 0.5 for runs that fan out; the least that a call needs is never kept from it."""
    book = Book("i")
    half = charge("run/R/nusd", 1000, 100, part=500)
    assert 500 == grant(book, 0.0, order("c1", half)).granted["nusd"]
    book.account("run/R/nusd").spent = 350
    assert 100 == grant(book, 0.0, order("c2", half)).granted["nusd"]

"""The line by itself: turns, moves and exits; and what becomes of those who wait while windows and limits change."""

from __future__ import annotations

from gateway.core.ledger import control, engine, settle
from gateway.core.ledger.book import Book
from gateway.core.ledger.line import Line
from gateway.core.types import Denied, Reservation
from gateway.core.windows import Calendar
from tests.ledgers import charge, exchange, order

DAY = Calendar("day")
NOON = 1_795_262_400.0  # 2026-11-21 12:00 UTC


def test_an_order_stands_only_where_it_is_blocked() -> None:
    """It is watched by every account it would charge, and in line only at those in its way."""
    line = Line()
    line.park(order("c1", charge("run/R/nusd"), charge("run/P/nusd")), 5.0, ["run/P/nusd"])
    assert (1, 1) == (line.watching("run/R/nusd"), line.watching("run/P/nusd"))
    assert (False, True) == (line.ahead("run/R/nusd", None), line.ahead("run/P/nusd", None))
    assert 0 == line.watching("elsewhere")


def test_a_move_keeps_the_turn() -> None:
    """Whoever came first stays before those who came later, in whatever line."""
    line = Line()
    both = (charge("run/R/nusd"), charge("run/P/nusd"))
    first = line.park(order("c1", *both), 0.0, ["run/R/nusd"])
    second = line.park(order("c2", *both), 0.0, ["run/P/nusd"])
    assert ["run/R/nusd"] == line.block(first, ["run/P/nusd"])
    assert [first.ticket, second.ticket] == line.queues["run/P/nusd"].blocked
    assert line.ahead("run/P/nusd", second.ticket)
    assert not line.ahead("run/P/nusd", first.ticket)


def test_leaving_names_the_lines_that_move() -> None:
    """And nothing of an order stays behind."""
    line = Line()
    parked = line.park(order("c1", charge("run/R/nusd"), charge("run/P/nusd")), 0.0, ["run/R/nusd", "run/P/nusd"])
    assert ["run/R/nusd", "run/P/nusd"] == line.remove(parked)
    assert ({}, {}) == (line.parked, line.queues)


def test_patience_starts_again_with_each_settle_in_its_way() -> None:
    """Only accounts that block it count."""
    line = Line()
    parked = line.park(order("c1", charge("run/R/nusd"), charge("run/P/nusd"), wait_s=30.0), 100.0, ["run/R/nusd"])
    line.settled("run/P/nusd", 500.0)
    assert 130.0 == line.patience_ends_at(parked)
    line.settled("run/R/nusd", 120.0)
    line.settled("nobody/waits/nusd", 900.0)
    assert 150.0 == line.patience_ends_at(parked)


def test_it_is_full_at_its_limit() -> None:
    """And empty after everybody was sent home."""
    line = Line(most=1)
    seen = [line.full]
    line.park(order("c1"), 0.0, ["run/R/nusd"])
    seen.append(line.full)
    assert ["c1/1"] == line.clear()
    assert [False, True, False] == [*seen, line.full]


# --------------------------------------------------------------------------- who waits while things change


def test_a_settle_after_the_turn_does_not_send_home_who_waits_for_the_next_window() -> None:
    """What the old window lacks is no reason: the next one pays, before the sweep has come by."""
    book = Book("i")
    day = charge("agent/a/nusd", 100, limit=100, window=DAY)
    engine.reserve(book, NOON, order("c1", day))
    assert engine.WAITING is engine.reserve(book, NOON, order("c2", day, wait_s=1e6))
    settle.settle(book, NOON + 86_400, "c1/1", {"nusd": 100}, exchange("c1", 100), ())
    [(waited, answer)] = book.take_answers()
    assert "c2/1" == waited and isinstance(answer, Reservation)
    assert "agent/a/nusd/2026-11-22" == answer.balances[0].account


def test_a_last_call_at_the_turn_of_a_window_leaves_the_line_whole() -> None:
    """Who is granted first after the turn may leave the others without hope: each is told once."""
    book = Book("i")
    day = charge("agent/a/nusd", 100, limit=100, window=DAY)
    tight = charge("run/R/nusd", 100, limit=150, last=True)
    engine.reserve(book, NOON, order("c1", day, run="Q"))
    for call in ("c2", "c3", "c4"):
        assert engine.WAITING is engine.reserve(book, NOON, order(call, tight, day, wait_s=1e6))
    assert 3 == engine.expire_line(book, NOON + 86_400)
    answers = dict(book.take_answers())
    assert ["c2/1"] == [call for call, got in answers.items() if isinstance(got, Reservation)]
    assert ["c3/1", "c4/1"] == [call for call, got in answers.items() if isinstance(got, Denied)]
    assert not book.line.parked


def test_a_turn_keeps_the_place_in_line() -> None:
    """Who waits for a run's money and a new day's stays before who came later for the run's alone."""
    book = Book("i")
    run, day = charge("run/R/nusd", 900), charge("agent/a/calls", 1, limit=100, window=DAY)
    engine.reserve(book, NOON, order("c1", run))
    engine.reserve(book, NOON, order("c2", run, day, wait_s=1e6))
    engine.reserve(book, NOON, order("c3", run, wait_s=1e6))
    engine.expire_line(book, NOON + 86_400)
    settle.void(book, NOON + 86_401, "c1/1")
    assert ["c2/1"] == [call for call, _ in book.take_answers()]


def test_a_limit_that_is_set_meanwhile_binds_who_waits() -> None:
    """Its run was limited in another unit since it came: it goes no further than that."""
    book = Book("i")
    sizes = {"calls": (1, 1)}
    engine.reserve(book, 0.0, order("c1", charge(want=1000), sizes=sizes))
    engine.reserve(book, 0.0, order("c2", charge(want=1000), sizes=sizes, wait_s=30.0))
    control.set_limit(book, 1.0, "run/R/calls", 0)
    settle.settle(book, 2.0, "c1/1", {"nusd": 0, "calls": 0}, exchange("c1", 0), ())
    [(_, answer)] = book.take_answers()
    assert isinstance(answer, Denied) and ("run/R/calls", "limit") == (answer.account, answer.reason)


def test_who_waits_is_told_at_once_of_a_limit_that_leaves_no_hope() -> None:
    """Nobody limited this unit of the run when it came; it need not come to its turn to hear of it."""
    book = Book("i")
    sizes = {"tokens": (50, 50)}
    engine.reserve(book, 0.0, order("c1", charge(want=1000), sizes=sizes))
    for call in ("c2", "c3"):
        engine.reserve(book, 0.0, order(call, charge(want=1000), sizes=sizes, wait_s=30.0))
    control.set_limit(book, 1.0, "run/R/tokens", 49)
    assert ["run/R/tokens"] * 2 == [no.account for _, no in book.take_answers() if isinstance(no, Denied)]


def test_a_call_under_way_that_held_no_call_lets_go_who_waits_for_its_end() -> None:
    """It was sent before there was a limit of calls (a reload), and is still reckoned with: its end makes room."""
    book = Book("i")
    engine.reserve(book, 0.0, order("c1"))
    asked = order("c2", charge(), charge("run/R/calls", 1, limit=1), wait_s=30.0)
    assert engine.WAITING is engine.reserve(book, 0.0, asked)
    settle.void(book, 1.0, "c1/1")
    assert ["c2/1"] == [call for call, got in book.take_answers() if isinstance(got, Reservation)]


def test_tool_calls_that_others_made_end_a_wait_at_once() -> None:
    """Spent alone is too much: nobody waits for money that can't help. A last call is still to be had."""
    for last, outcome in ((False, ["c3/1"]), (True, [])):
        book = Book("i")
        tools = charge("run/R/tool_calls", 0, limit=2, last=last)
        engine.reserve(book, 0.0, order("c1", charge(want=1000), tools))
        engine.reserve(book, 0.0, order("c2", tools))
        engine.reserve(book, 0.0, order("c3", charge(want=1000), tools, wait_s=30.0))
        settle.settle(book, 1.0, "c2/1", {"tool_calls": 3}, exchange("c2", 0), ())
        assert outcome == [call for call, _ in book.take_answers()]


def test_time_that_runs_out_in_line_is_what_the_refusal_names() -> None:
    """Not the money that was waited for."""
    book = Book("i")
    clock = charge("run/R/seconds", 1, limit=10)
    engine.reserve(book, 0.0, order("c1", charge(want=1000), clock))
    engine.reserve(book, 0.0, order("c2", charge(want=1000), clock, wait_s=30.0))
    engine.expire_line(book, 11.0)
    [(_, answer)] = book.take_answers()
    assert isinstance(answer, Denied) and ("seconds", 10) == (answer.unit, answer.balance and answer.balance.limit)


def test_a_window_that_another_process_has_made_us_forget_still_turns() -> None:
    """When it ends is in the account's name, not only in a row that was never written."""
    book = Book("i")
    full, day = charge("run/R/nusd", 1000), charge("agent/a/calls", 1, limit=100, window=DAY)
    engine.reserve(book, NOON, order("c1", full))
    engine.reserve(book, NOON, order("c2", full, day, wait_s=1e6))
    del book.accounts["agent/a/calls/2026-11-21"]
    engine.expire_line(book, NOON + 86_400)
    settle.void(book, NOON + 86_401, "c1/1")
    [(_, answer)] = book.take_answers()
    assert isinstance(answer, Reservation) and "agent/a/calls/2026-11-22" == answer.balances[1].account


def test_an_account_that_was_forgotten_while_its_first_order_waited_still_has_an_end() -> None:
    """Without one it would never be forgotten for good (retention), and no refusal could say when it begins anew."""
    book = Book("i")
    full, day = charge("run/R/nusd", 1000), charge("agent/a/calls", 1, limit=100, window=DAY)
    engine.reserve(book, NOON, order("c1", full))
    engine.reserve(book, NOON, order("c2", full, day, wait_s=30.0))
    del book.accounts["agent/a/calls/2026-11-21"]
    settle.void(book, NOON + 1, "c1/1")
    assert NOON + 43_200 == book.account("agent/a/calls/2026-11-21").ends_at


def test_a_run_that_ended_as_idle_while_its_call_waited_goes_on_with_the_grant() -> None:
    """A call of a run that has ended would be one of no run that anybody sees."""
    book = Book("i")
    engine.reserve(book, 0.0, order("c1", charge("run/P/nusd", 1000), run="Q"))
    engine.reserve(book, 0.0, order("c2", charge("run/P/nusd", 1000), wait_s=1e6))
    settle.expire(book, 700.0, 600.0)
    assert "ended" == book.runs["R"].state
    settle.void(book, 701.0, "c1/1")
    assert ("active", 2) == (book.runs["R"].state, book.runs["R"].episode)

"""The rules of a grant as pure functions; tests/contracts/test_store.py has them through the socket."""

from __future__ import annotations

from gateway.core.ledger import control, engine, settle
from gateway.core.ledger.audit import audit
from gateway.core.ledger.book import Book
from gateway.core.types import Denied, Reservation
from tests.ledgers import charge, exchange, order


def test_a_denied_order_marks_nothing_but_its_run() -> None:
    """Denied: nothing of the money is written."""
    book = Book("i")
    book.take_dirty()
    answer = engine.reserve(book, 0.0, order("c1", charge(want=5), charge("run/P/nusd", 2000)))
    assert isinstance(answer, Denied)
    dirty = book.take_dirty()
    assert (set(), [], {"R"}) == (dirty.holds, dirty.rows, dirty.runs)


def test_hopeless_is_said_before_held() -> None:
    """Of several accounts that don't fit, one that is spent refuses at once, however long the order would wait."""
    book = Book("i")
    engine.reserve(book, 0.0, order("c1", charge("run/R/nusd", 900)))
    book.account("run/P/nusd").spent = 990
    answer = engine.reserve(book, 0.0, order("c2", charge("run/R/nusd", 200), charge("run/P/nusd", 200), wait_s=30))
    assert isinstance(answer, Denied) and "run/P/nusd" == answer.account


def test_a_waiting_order_is_answered_by_the_book() -> None:
    """WAITING now, the answer in `take_answers` once there is room."""
    book = Book("i")
    engine.reserve(book, 0.0, order("c1", charge(want=900)))
    assert engine.WAITING is engine.reserve(book, 0.0, order("c2", charge(want=500), wait_s=30))
    assert [] == book.take_answers()
    engine.adjust(book, 0.0, "c1/1", "nusd", 500)
    ((order_id, answer),) = book.take_answers()
    assert "c2/1" == order_id and isinstance(answer, Reservation)


def test_a_patient_order_that_fits_goes_at_once() -> None:
    """Waiting is for those in whose way something stands."""
    book = Book("i")
    assert isinstance(engine.reserve(book, 0.0, order("c1", wait_s=30)), Reservation)


def test_calls_under_way_count_against_a_limit_of_calls_that_is_set_meanwhile() -> None:
    """They hold nothing there, yet each will count: of five, two fit beside three that were sent before (P1)."""
    book = Book("i")
    sizes = {"calls": (1, 1)}
    for call in ("c1", "c2", "c3"):
        engine.reserve(book, 0.0, order(call, sizes=sizes))
    control.set_limit(book, 0.0, "run/R/calls", 5)
    for call in ("c4", "c5"):
        assert isinstance(engine.reserve(book, 0.0, order(call, sizes=sizes)), Reservation)
    assert isinstance(engine.reserve(book, 0.0, order("c6", sizes=sizes)), Denied)
    assert engine.WAITING is engine.reserve(book, 0.0, order("c6", sizes=sizes, wait_s=30))
    settle.void(book, 0.0, "c1/1")  # what was not sent makes room again
    assert [("c6/1", True)] == [(name, isinstance(said, Reservation)) for name, said in book.take_answers()]
    for call in ("c2", "c3", "c4", "c5", "c6"):
        settle.settle(book, 1.0, f"{call}/1", {"nusd": 1, "calls": 1}, exchange(call, 1), ())
    calls = book.account("run/R/calls")
    assert (5, 0, 0) == (calls.spent, calls.held, calls.overrun) and [] == audit(book, book.dirty.rows)


def test_a_clock_that_was_set_back_does_not_end_a_hold_early() -> None:
    """The store's time never falls: a deadline by the wall clock would lie behind it before the call was sent."""
    book = Book("i")
    engine.reserve(book, 10_000.0, order("c1", at=1_000.0, deadline_at=1_060.0))
    held = book.hold("c1/1")
    assert held is not None and 10_060.0 == held.deadline_at

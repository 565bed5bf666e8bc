"""The rules of a grant as pure functions; tests/contracts/test_store.py has them through the socket."""

from __future__ import annotations

import pytest

from gateway.core.errors import StoreFailed
from gateway.core.ledger import engine
from gateway.core.ledger.book import Account, Book
from gateway.core.types import Denied, Reservation
from tests.ledgers import charge, order


@pytest.mark.parametrize(
    ("cap", "limit", "most", "force"),
    [
        (None, 10, None, 10), (None, None, None, None), (5, 10, None, 5),
        (50, 10, None, 10), (50, 10, 30, 30), (5, None, None, 5),
    ],
)  # fmt: skip
def test_the_limit_in_force(cap: int | None, limit: int | None, most: int | None, force: int | None) -> None:
    """Configured, lowered by a caller, or raised by an operator as far as `most` allows."""
    assert force == engine.in_force(Account("a", cap=cap), charge("run/R/nusd", 1, limit=limit, most=most))


def test_a_lowered_limit_is_reported_as_such() -> None:
    """I1: how far it was set below what was used already; a rise takes it back."""
    book = Book("i")
    engine.reserve(book, 0.0, order("c1", charge(want=700)))
    engine.set_limit(book, 0.0, "run/R/nusd", 100)
    assert 600 == book.account("run/R/nusd").lowered
    engine.set_limit(book, 0.0, "run/R/nusd", 900)
    assert 0 == book.account("run/R/nusd").lowered
    for wrong in (-1, 2**60):
        with pytest.raises(StoreFailed, match="out of range"):
            engine.set_limit(book, 0.0, "run/R/nusd", wrong)


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


def test_the_same_limit_header_again_does_not_undo_an_operators_raise():
    """An agent sends its header with every call: only a lower one than ever before changes anything (design.md 3)."""
    book = Book("i")
    low = charge(limit=1000, lower=10, want=5)
    engine.reserve(book, 1.0, order("c1", low))
    engine.set_limit(book, 2.0, "run/R/nusd", 500)
    engine.reserve(book, 3.0, order("c2", low))
    assert book.account("run/R/nusd").limit == 500
    engine.reserve(book, 4.0, order("c3", charge(limit=1000, lower=9, want=5)))
    assert book.account("run/R/nusd").limit == 9

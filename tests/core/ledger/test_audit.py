"""The audit finds each way in which a ledger can be wrong (ledger.md section 4)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.core.ledger import engine, settle
from gateway.core.ledger.audit import audit
from gateway.core.ledger.book import Book, Row
from tests.ledgers import charge, exchange, order

PURSE = "run/R/nusd"


def a_ledger() -> tuple[Book, list[Row]]:
    """One call settled, one presumed, one held."""
    book = Book("i")
    for call in ("c1", "c2", "c3"):
        engine.reserve(book, 0.0, order(call, charge(want=100), deadline_at=50.0))
    settle.settle(book, 1.0, "c1/1", {"nusd": 30}, exchange("c1", 30), ())
    settle.presume(book, 1.0, "c2/1")
    return book, book.take_dirty().rows


def test_a_sound_ledger_has_nothing_to_say() -> None:
    """No finding without a fault."""
    assert [] == audit(*a_ledger())


FAULTS: dict[str, Callable[[Book, list[Row]], object]] = {
    "I1": lambda book, _: setattr(book.account(PURSE), "limit", 100),
    "I2": lambda book, _: setattr(book.account(PURSE), "held", 99),
    "I2 run/R/nusd is held on": lambda book, _: book.accounts.pop(PURSE),
    "I2 run/R/nusd holds": lambda book, _: setattr(book.account(PURSE), "open", 2),
    "I3 run/R/nusd spent": lambda book, _: setattr(book.account(PURSE), "spent", 131),
    "I3 c1/1": lambda book, _: book.holds["c1/1"].charged.update(nusd=31),
    "I3 other has rows": lambda _, rows: rows.append(Row(None, "other", "nusd", "settle", 5, 0.0)),
    "I4 c1/1 left its hold 2": lambda _, rows: rows.append(Row("c1/1", PURSE, "nusd", "settle", 0, 0.0)),
    "I4 c2/1 was trued up 2": lambda _, rows: rows.extend([Row("c2/1", PURSE, "nusd", "trueup", 0, 0.0)] * 2),
    "I4 c3/1 is held and has rows": lambda _, rows: rows.append(Row("c3/1", PURSE, "nusd", "correct", 0, 0.0)),
    "I4 c3/1 is lost": lambda book, _: setattr(book.holds["c3/1"], "state", "lost"),
    "I5": lambda _, rows: rows.append(Row("c1/1", "run/P/nusd", "nusd", "correct", 0, 0.0)),
    "I7": lambda book, _: setattr(book.account(PURSE), "overrun", -1),
    "I7 run/R/nusd.lowered": lambda book, _: setattr(book.account(PURSE), "lowered", 0.5),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(fault: str) -> None:
    """Each invariant has a way to be broken, and breaking it is said by its number."""
    book, rows = a_ledger()
    FAULTS[fault](book, rows)
    assert any(found.startswith(fault) for found in audit(book, rows)), audit(book, rows)


def test_a_hold_past_its_time_is_named() -> None:
    """I8, where the caller says which instant should have been swept."""
    book, rows = a_ledger()
    assert [] == audit(book, rows, overdue=50.0)
    assert ["I8 c3/1 is held past its deadline"] == audit(book, rows, overdue=50.1)

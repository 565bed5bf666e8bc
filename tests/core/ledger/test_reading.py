"""What is laid over a call (tests/contracts/test_store.py reads through both stores)."""

from __future__ import annotations

import msgspec

from gateway.core.ledger import engine, settle
from gateway.core.ledger.book import Book
from gateway.core.ledger.reading import laid_over
from tests.ledgers import exchange, order

encode = msgspec.msgpack.encode


def test_later_words_win() -> None:
    """Each amend replaces what it names and leaves the rest; a correction's own fields are no part of a call."""
    call = encode(exchange("c1", 700, "presumed"))
    first = encode({"cost_nusd": 90, "cost_source": "price_list"})
    second = encode({"cost_nusd": 80, "correction": {"reason": "refund"}})
    found = laid_over(call, [first, second])
    assert (80, "price_list", "m") == (found.cost_nusd, found.cost_source, found.request_model)
    assert exchange("c1", 700, "presumed") == laid_over(call, ())


def test_a_correction_does_not_replace_the_reason_of_its_call() -> None:
    """What an operator said stands beside the call, only the cost is laid over it."""
    book = Book("i")
    engine.reserve(book, 0.0, order("c1"))
    settle.settle(book, 0.0, "c1/1", None, exchange("c1", 70, reason="slow"), ())
    settle.correct(book, 0.0, "c1/1", -30, ("refund", "ops", "x1"))
    call, correction = book.dirty.journal[-2:]
    found = laid_over(call.data, [correction.data])
    assert ("correct", "slow", 40) == (correction.kind, found.reason, found.cost_nusd)


def test_what_is_better_known_takes_words_back() -> None:
    """An amend spells every field, though a call leaves out what says nothing: a warning that is gone is gone."""
    book = Book("i")
    engine.reserve(book, 0.0, order("c1"))
    settle.settle(book, 0.0, "c1/1", None, exchange("c1", None, "presumed", warning="lost", reason="gap"), ())
    settle.settle(book, 1.0, "c1/1", None, exchange("c1", 40, estimated=False), ())
    call, amend = book.dirty.journal[-2:]
    found = laid_over(call.data, [amend.data])
    assert ("amend", "", "", "ok", 40) == (amend.kind, found.warning, found.reason, found.outcome, found.cost_nusd)
    assert len(call.data) < len(amend.data) and b"clamped" not in call.data

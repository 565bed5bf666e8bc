"""Gates and limits by a person's word; tests/contracts/test_store.py has them through the socket."""

from __future__ import annotations

import msgspec

from gateway.core.ledger import control, engine
from gateway.core.ledger.book import Book
from gateway.core.types import Denied, Reservation
from tests.ledgers import charge, order


def test_a_gate_is_told_to_other_processes_once() -> None:
    """They end the streams that they have open: every change stands in the journal, a repeat does not."""
    book = Book("i")
    for _ in range(2):
        control.close(book, 0.0, "agent/a", "loop")
    control.open_gate(book, 0.0, "agent/a")
    control.open_gate(book, 0.0, "agent/a")
    said = [msgspec.msgpack.decode(entry.data) for entry in book.dirty.journal]
    assert [
        {"gate": "agent/a", "closed": True, "reason": "loop"}, {"gate": "agent/a", "closed": False, "reason": None},
    ] == said  # fmt: skip


def test_a_closed_gate_sends_home_who_waits() -> None:
    """At once, with the reason."""
    book = Book("i")
    engine.reserve(book, 0.0, order("c1", charge(want=900)))
    engine.reserve(book, 0.0, order("c2", charge(want=500), wait_s=30, gates=("run/R",)))
    control.close(book, 0.0, "run/R", "loop")
    ((_, answer),) = book.take_answers()
    assert isinstance(answer, Denied) and ("closed", "loop") == (answer.reason, answer.why)


def test_a_raised_limit_lets_go_who_waits() -> None:
    """Nobody has to ask again."""
    book = Book("i")
    engine.reserve(book, 0.0, order("c1", charge(want=900, limit=None)))
    control.set_limit(book, 0.0, "run/R/nusd", 1000)
    assert engine.WAITING is engine.reserve(book, 0.0, order("c2", charge(want=500, limit=None), wait_s=30))
    control.set_limit(book, 0.0, "run/R/nusd", 1400)
    ((_, answer),) = book.take_answers()
    assert isinstance(answer, Reservation)

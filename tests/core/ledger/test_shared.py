"""The line over all processes, by itself (tests/stores/sqlite/test_processes.py has it between stores)."""

from __future__ import annotations

from gateway.core.ledger import engine
from gateway.core.ledger.book import Book
from gateway.core.ledger.line import Parked
from gateway.core.ledger.shared import NO_TICKET, SharedLine, look_again
from gateway.core.types import Denied
from tests.ledgers import charge, order

PURSE, TREE = "run/R/nusd", "run/P/nusd"


def parked(line: SharedLine, call: str, blocked: list[str]) -> Parked:
    return line.park(order(call, charge(PURSE), charge(TREE), wait_s=30.0), 0.0, blocked)


def test_rows_tell_where_an_order_stands() -> None:
    """Written when it comes and when it moves, gone when it goes; nothing twice, nothing of what came and went."""
    line = SharedLine()
    first = parked(line, "c1", [PURSE])
    assert ([], [(1, PURSE, True), (1, TREE, False)]) == line.take_untold()
    assert ([], []) == line.take_untold()
    line.block(first, [PURSE])
    assert ([], []) == line.take_untold()
    line.block(first, [TREE])
    assert ([], [(1, PURSE, False), (1, TREE, True)]) == line.take_untold()
    line.remove(first)
    line.remove(parked(line, "c2", [PURSE]))
    assert ([1], []) == line.take_untold()
    assert ([], []) == line.take_untold()


def test_rows_of_accounts_that_it_charges_no_longer_go() -> None:
    """A window turned: nobody shall wait for a ticket in yesterday's line."""
    line = SharedLine()
    first = parked(line, "c1", [PURSE])
    line.take_untold()
    line.rewrite(first, order("c1", charge(PURSE), wait_s=30.0))
    line.block(first, [PURSE])
    assert ([1], [(1, PURSE, True)]) == line.take_untold()
    assert ([], []) == line.take_untold()


def test_tickets_follow_those_of_others() -> None:
    """A newcomer stands behind everybody everywhere; who came first stays first."""
    line = SharedLine()
    mine = parked(line, "c1", [PURSE])
    line.hear([(PURSE, 40, 41, 2)])
    late = parked(line, "c2", [PURSE])
    assert (1, 42) == (mine.ticket, late.ticket)
    assert [False, True] == [line.ahead(PURSE, 1), line.ahead(PURSE, 42)]
    line.remove(mine)
    assert line.ahead(PURSE, 42)
    line.hear([(PURSE, 50, 50, 1)])
    assert not line.ahead(PURSE, 42)


def test_those_elsewhere_count_where_they_watch_and_stand_where_they_are_blocked() -> None:
    """As those here do; when nobody is left, nothing is known of them."""
    line = SharedLine()
    line.hear([(PURSE, None, 7, 3), (TREE, 6, 7, 3)])
    assert (3, 3, 0) == (line.watching(PURSE), line.watching(TREE), line.watching("elsewhere"))
    assert [False, True] == [line.ahead(PURSE, None), line.ahead(TREE, None)]
    assert {PURSE: (NO_TICKET, 3), TREE: (6, 3)} == line.others
    line.hear([])
    assert (0, False) == (line.watching(PURSE), line.ahead(TREE, None))


def test_what_others_changed_is_looked_at_and_nothing_else() -> None:
    """Money that moved, somebody who left; a hold that came is no progress."""
    book = Book("i", line=(line := SharedLine()))
    waits = parked(line, "c1", [PURSE, TREE])
    book.account(PURSE).held = 900
    line.remember(book)
    assert [] == line.changed(book, 5.0)
    book.account(PURSE).held = 950
    assert ([PURSE], 30.0) == (line.changed(book, 5.0), line.patience_ends_at(waits))
    line.remember(book)
    line.hear([(TREE, 3, 3, 1)])
    assert [TREE] == line.changed(book, 6.0)
    for change in ("spent", "held", "open"):
        book.account(PURSE).open = 2
        line.remember(book)
        setattr(book.account(PURSE), change, 1)
        line.queues[PURSE].settled_at = 0.0
        assert ([PURSE], 37.0) == (line.changed(book, 7.0), line.patience_ends_at(waits))


def test_everybody_sent_home_starts_over() -> None:
    """Rows that may be left on disk are all forgotten; nothing is told of those who left."""
    line = SharedLine()
    parked(line, "c1", [PURSE])
    line.take_untold()
    parked(line, "c2", [PURSE])
    assert ["c1/1", "c2/1"] == line.clear()
    assert (True, ([], [])) == (line.start_over, line.take_untold())


def test_a_gate_that_another_process_closed_sends_home() -> None:
    """Everybody who names it, wherever he stands in line, and nobody else."""
    book = Book("i", line=(line := SharedLine()))
    engine.reserve(book, 0.0, order("c0", charge(PURSE, 900)))
    for call, gates in (("c1", ("global",)), ("c2", ("run/R",)), ("c3", ("run/R",))):
        engine.reserve(book, 0.0, order(call, charge(PURSE, 500), wait_s=30.0, gates=gates))
    line.remember(book)
    book.account("run/R").closed = "enough"
    book.take_dirty()
    look_again(book, 1.0)
    answers = [(order_id, answer.why) for order_id, answer in book.take_answers() if isinstance(answer, Denied)]
    assert [("c2/1", "enough"), ("c3/1", "enough")] == answers
    assert (["c1/1"], []) == (list(line.parked), book.take_dirty().journal)

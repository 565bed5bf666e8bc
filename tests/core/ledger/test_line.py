"""The line by itself: turns, moves and exits (the contract of stores has it together with money)."""

from __future__ import annotations

from gateway.core.ledger.line import Line
from tests.ledgers import charge, order


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

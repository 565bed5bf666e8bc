"""How holds end, as pure functions; tests/contracts/test_store.py has the table through the socket."""

from __future__ import annotations

import pytest
from msgspec import structs

from gateway.core.ledger import control, engine, settle
from gateway.core.ledger.audit import audit
from gateway.core.ledger.book import HELD, PRESUMED, SETTLED, VOID, Book
from gateway.core.types import Denied, Reservation, ToolCall, Usage
from tests.ledgers import charge, exchange, facts, order


def held(*charges: object) -> Book:
    book = Book("i")
    engine.reserve(book, 0.0, order("c1", *charges))  # type: ignore[arg-type]
    return book


@pytest.mark.parametrize(
    ("words", "state", "charged"),
    [
        (["settle"], SETTLED, 30), (["void"], VOID, 0), (["presume"], PRESUMED, 100),
        (["presume", "settle"], SETTLED, 30), (["presume", "void"], VOID, 0), (["presume", "presume"], PRESUMED, 100),
        (["settle", "void"], SETTLED, 30), (["settle", "presume"], SETTLED, 30), (["void", "settle"], VOID, 0),
        (["void", "presume"], VOID, 0), (["presume", "settle", "void"], SETTLED, 30),
    ],
)  # fmt: skip
def test_the_table_of_states(words: list[str], state: str, charged: int) -> None:
    """ledger.md section 3, each pair; balances are the sum of the rows after each."""
    book = held()
    for word in words:
        if word == "settle":
            settle.settle(book, 1.0, "c1/1", {"nusd": 30}, exchange("c1", 30), ())
        elif word == "void":
            settle.void(book, 1.0, "c1/1")
        else:
            settle.presume(book, 1.0, "c1/1")
    hold = book.hold("c1/1")
    assert hold is not None and (state, charged) == (hold.state, hold.charged["nusd"])
    assert charged == book.account("run/R/nusd").spent
    assert [] == audit(book, book.dirty.rows)


def test_each_end_is_a_row_on_every_account() -> None:
    """P5 and I5: every change is a row, on all accounts of the unit."""
    book = held(charge("run/R/nusd", 100), charge("run/P/nusd", 100))
    settle.presume(book, 1.0, "c1/1")
    settle.void(book, 2.0, "c1/1")
    rows = [(row.account, row.kind, row.delta) for row in book.dirty.rows]
    assert [
        (f"run/{run}/nusd", kind, delta) for kind, delta in (("presumed", 100), ("trueup", -100)) for run in "RP"
    ] == rows


def test_an_unknown_attempt_has_no_end() -> None:
    """void and presume of nothing report nothing."""
    assert None is settle.void(Book("i"), 0.0, "c9/1")


def test_a_settle_without_its_hold_is_still_listed() -> None:
    """A reservation that was never granted, or left the file: the call stands in the journal, once."""
    book = Book("i")
    for _ in range(2):
        assert None is settle.settle(book, 0.0, "c1/1", {"nusd": 5}, exchange("c1", 5), ()).charged
    assert ["run", "call"] == [entry.kind for entry in book.dirty.journal]


def test_a_sweep_takes_a_bounded_number() -> None:
    """A batch stays short: 500 holds in one sweep, the rest in the next."""
    book = Book("i")
    for number in range(settle.SWEEP_MOST + 7):
        engine.reserve(book, 0.0, order(f"c{number:04}", charge(limit=None), deadline_at=10.0))
    assert [settle.SWEEP_MOST, 7, 0] == [settle.expire(book, 11.0, 600.0) for _ in range(3)]
    assert not any(hold.state == HELD for hold in book.holds.values())


def test_a_dead_instance_is_buried_once() -> None:
    """Its holds are charged, nobody else's; a second burial finds nothing (I9)."""
    book = held()
    assert [0, 1, 0] == [settle.bury(book, 1.0, instance) for instance in ("other", "i", "i")]
    assert 100 == book.account("run/R/nusd").spent


def test_tool_calls_count_that_an_answer_without_usage_emitted() -> None:
    """Who never says what he used can't pass a limit of tool_calls; what is told later replaces what was seen."""
    book = held(charge("run/R/nusd", 100), charge("run/R/tool_calls", 0, limit=2))
    settle.settle(book, 1.0, "c1/1", {"tool_calls": 3}, exchange("c1", None, "presumed"), ())
    assert (100, 3, 1) == (
        book.account("run/R/nusd").spent, book.account("run/R/tool_calls").spent,
        book.account("run/R/tool_calls").overrun,
    )  # fmt: skip
    settle.settle(book, 2.0, "c1/1", {"nusd": 30, "tool_calls": 2}, exchange("c1", 30), ())
    assert (30, 2) == (book.account("run/R/nusd").spent, book.account("run/R/tool_calls").spent)
    assert [] == audit(book, book.dirty.rows)


def test_no_seconds_pass_while_the_gateway_is_down() -> None:
    """A call of a gateway that died, and starts again ten hours later, took no longer than it could have."""
    book = Book("i")
    engine.reserve(book, 0.0, order("c1", charge("agent/a/seconds", 1, limit=900), deadline_at=660.0))
    settle.bury(book, 36_000.0, "i")
    assert 660 == book.account("agent/a/seconds").spent


def test_a_limit_that_is_set_while_calls_are_under_way_counts_them() -> None:
    """They were granted without it: they count when they end, and what passes the limit is overrun (I1)."""
    book = Book("i")
    sizes = {"calls": (1, 1), "tokens": (9, 9)}
    for call in ("c1", "c2", "c3", "c4"):
        engine.reserve(book, 0.0, order(call, sizes=sizes))
    for unit, limit in (("calls", 2), ("tokens", 50), ("seconds", 60)):
        control.set_limit(book, 1.0, f"run/R/{unit}", limit)
    end = exchange("c1", 5)
    for _ in range(2):
        settle.settle(book, 2.0, "c1/1", {"nusd": 5, "calls": 1, "tokens": 40}, end, ())
    settle.presume(book, 2.0, "c2/1")
    settle.settle(book, 3.0, "c2/1", {"nusd": 5, "calls": 1, "tokens": 40}, exchange("c2", 5), ())
    settle.settle(book, 3.0, "c3/1", {"calls": 1}, exchange("c3", 0, "refused"), ())
    settle.bury(book, 4.0, "i")
    calls, tokens = book.account("run/R/calls"), book.account("run/R/tokens")
    assert (4, 0, 2, 0) == (calls.spent, calls.held, calls.overrun, calls.open)
    assert (80, 30) == (tokens.spent, tokens.overrun)
    assert isinstance(engine.reserve(book, 5.0, order("c5", sizes=sizes)), Denied)
    assert isinstance(engine.reserve(book, 5.0, order("c1", sizes=sizes)), Reservation)
    assert [] == audit(book, book.dirty.rows)


def test_a_limit_on_a_parent_counts_the_calls_of_its_children_under_way() -> None:
    """A call counts on every run above its own."""
    book = Book("i")
    asked = order("c1", charge("run/C/nusd"), charge("run/R/nusd"))
    engine.reserve(book, 0.0, structs.replace(asked, run=facts("C", parent="R")))
    control.set_limit(book, 1.0, "run/R/calls", 5)
    settle.settle(book, 2.0, "c1/1", {"nusd": 5, "calls": 1}, exchange("c1", 5, run="C"), ())
    assert 1 == book.account("run/R/calls").spent
    assert [] == audit(book, book.dirty.rows)


def test_a_stored_response_tells_its_tool_calls_and_all_of_its_tokens() -> None:
    """A background answer says nothing until it is fetched: then its run and its accounts say the same."""
    tokens, tools = charge("run/R/tokens", 500), charge("run/R/tool_calls", 0, limit=9)
    book = held(charge(), tokens, tools)
    settle.settle(book, 1.0, "c1/1", None, exchange("c1", None, "presumed", response_id="resp"), ())
    usage = Usage(input_tokens=10, output_tokens=20, extra=[("m2", 3, 4)])
    told = exchange("look", 30, usage=usage, tool_calls=[ToolCall("t", "f"), ToolCall("u", "f")])
    assert settle.true_up(book, 2.0, "resp", "", told) is not None
    assert (37, 2) == (book.account("run/R/tokens").spent, book.account("run/R/tool_calls").spent)
    assert (1, 2) == (book.runs["R"].calls, book.runs["R"].tool_calls)

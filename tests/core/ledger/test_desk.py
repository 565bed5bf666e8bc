"""Who is told what: operations, their answers, and orders that wait."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.errors import StoreFailed
from gateway.core.ledger import engine
from gateway.core.ledger.book import Book
from gateway.core.ledger.desk import Desk, Op, Patience, Window, tell
from tests.ledgers import charge, order


def reserve(call: str, want: int, reply: str, wait_s: float = 0.0) -> Op:
    return Op(engine.reserve, (order(call, charge(want=want), wait_s=wait_s),), reply, False)


def test_each_operation_is_answered_once() -> None:
    """Those that wait, when their wait has ended, and every caller of the same order."""
    window = Window(Book("i"))
    done: list[tuple[Any, Any]] = []
    window.carry_out(
        [reserve("c1", 900, "one"), reserve("c2", 500, "two", 30), reserve("c2", 500, "three", 30)], 0.0, done
    )
    assert ["one"] == [reply for reply, _ in done]
    window.carry_out([Op(engine.adjust, ("c1/1", "nusd", 0), "four", False)], 0.0, done)
    assert ["one", "four", "two", "three"] == [reply for reply, _ in done]
    assert [] == window.send_home()


def test_a_refused_operation_is_its_own_answer() -> None:
    """StoreFailed of one is told to that one."""
    done: list[tuple[Any, Any]] = []
    Window(Book("i")).carry_out([reserve("c1", -1, "bad"), reserve("c2", 1, "good")], 0.0, done)
    assert [("bad", True), ("good", False)] == [(reply, isinstance(answer, StoreFailed)) for reply, answer in done]


def test_a_batch_that_failed_leaves_nobody_out() -> None:
    """Who waited and who was granted by it are named, once; its own operations are the caller's."""
    window = Window(Book("i"))
    window.carry_out(
        [reserve("c1", 900, "one"), reserve("c2", 500, "two", 30), reserve("c3", 600, "three", 30)], 0.0, []
    )
    done: list[tuple[Any, Any]] = []
    ops = [Op(engine.adjust, ("c1/1", "nusd", 0), "four", False), reserve("c4", 900, "five", 30)]
    window.carry_out(ops, 0.0, done)
    assert ["three", "two"] == sorted(window.throw_away(ops, done))
    assert {} == window.book.holds
    assert [] == window.send_home()


class Reply:
    """What a store hands out instead of a future."""

    def __init__(self, over: bool = False) -> None:
        self.over = over
        self.got: list[Any] = []

    def done(self) -> bool:
        return self.over

    def set_result(self, result: Any) -> None:
        self.got.append(result)

    def set_exception(self, error: BaseException) -> None:
        self.got.append(error)


def test_nobody_is_told_twice() -> None:
    """None waits for nothing; who left is left alone; an exception is raised at the asker's."""
    gone, here, wrong = Reply(over=True), Reply(), Reply()
    failed = StoreFailed("x")
    tell([(None, 1), (gone, 2), (here, 3), (wrong, failed)])
    assert ([], [3], [failed]) == (gone.got, here.got, wrong.got)


def test_patience_has_one_timer_for_all() -> None:
    """Who isn't told in time is told something else; who was told is left alone; the timer rests when nobody waits."""
    timers: list[tuple[float, Any]] = []
    clock = [0.0]
    patience = Patience(lambda at, look: timers.append((at, look)), lambda: clock[0])
    first, told, last = Reply(), Reply(), Reply()
    for at, reply in ((0.0, first), (0.5, told), (1.0, last)):
        clock[0] = at
        patience.watch(reply, 2.0, "late")
    told.over = True
    assert [2.0] == [at for at, _ in timers]
    clock[0] = 2.0
    timers.pop()[1]()
    assert (["late"], [], []) == (first.got, told.got, last.got)
    assert [3.0] == [at for at, _ in timers]
    clock[0] = 3.0
    timers.pop()[1]()
    assert (["late"], []) == (last.got, timers)
    patience.watch(Reply(), 2.0, "late")
    assert [5.0] == [at for at, _ in timers]


def test_a_desk_needs_a_store_behind_it() -> None:
    """`ask` is what a store adds."""
    with pytest.raises(NotImplementedError):
        Desk().ask(engine.adjust, "c1/1", "nusd", 1)

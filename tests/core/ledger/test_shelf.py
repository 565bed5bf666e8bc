"""What a book reads ahead (tests/contracts/test_store.py reads one by one)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import msgspec
import pytest

from gateway.core.ledger import engine, schema, settle
from gateway.core.ledger import shelf as module
from gateway.core.ledger.book import Account, Book, Hold
from gateway.core.ledger.desk import Op
from gateway.core.ledger.shelf import SqlShelf
from gateway.core.types import Order, Run
from gateway.core.windows import Calendar
from tests.ledgers import charge, exchange, order

DAY = Calendar("day", "UTC")


class Tables:
    """Answers a shelf's questions, and counts them."""

    def __init__(self, *holds: Hold) -> None:
        self.asked: list[list[str]] = []
        self.holds = holds

    def query(self, sql: str, values: Sequence[Any]) -> list[Any]:
        names = msgspec.json.decode(values[0])
        self.asked.append(sorted(names))
        if " account " in sql:
            return [("run/P/nusd", 5, *[0] * 4, *[None] * 5, "", None)]
        if " run " in sql:
            return [
                schema.run_row(Run(key=key, id=key, tenant="", source="api", started_at=0, last_at=0))[7:]
                for key in names
            ]
        return [schema.hold_row(hold)[7:] for hold in self.holds if hold.id in names]


def reserve(asked: Order) -> Op:
    return Op(engine.reserve, (asked,), None, False)


def test_a_batch_of_orders_reads_ahead_in_three_questions() -> None:
    """Known rows aren't asked for, unknown ones are remembered as such; a run's ancestors are read with it."""
    tables = Tables()
    shelf = SqlShelf(tables.query)
    book = Book("i", shelf)
    book.accounts["run/R/nusd"] = Account("run/R/nusd", spent=1)
    charges = (charge("run/R/nusd"), charge("run/P/nusd"))
    ops = [reserve(order(f"c{n}", *charges, gates=("run/R", "run/P", "global"))) for n in range(50)]
    shelf.prefetch(book, ops)
    assert [50, 4, 2] == [len(names) for names in tables.asked]
    assert ["global", "run/P", "run/P/nusd", "run/R"] == tables.asked[1]
    assert 5 == book.account("run/P/nusd").spent
    assert None is book.hold("c7/1")
    assert Account("global") == book.account("global")
    assert ["P", "R"] == sorted(book.runs)
    shelf.prefetch(book, [])
    assert 3 == len(tables.asked)


def test_a_batch_of_settles_reads_what_its_holds_name() -> None:
    """Holds first, then their accounts and runs; one run alone is left to whoever asks for it."""
    held = Book("i")
    for call, run in (("c1", "R"), ("c2", "S")):
        engine.reserve(held, 0.0, order(call, charge(f"run/{run}/nusd"), charge("agent/a/nusd"), run=run))
    tables = Tables(*held.holds.values())
    book = Book("i", shelf := SqlShelf(tables.query))
    told = exchange("c2", 5)
    ops = [Op(settle.void, ("c1/1",), None, True), Op(settle.settle, ("c2/2", None, told, ()), None, True)]
    shelf.prefetch(book, ops)
    assert [["c1/1", "c2/1", "c2/2"], ["agent/a/nusd", "run/R/nusd", "run/S/nusd"]] == [
        sorted(set(n)) for n in tables.asked[:2]
    ]
    assert ["R", "S"] == tables.asked[2]
    assert {"c2/2"} == book.absent
    tables.asked.clear()
    book.drop()
    shelf.prefetch(book, ops[:1])
    assert [["c1/1"], ["agent/a/nusd", "run/R/nusd"]] == tables.asked


def test_the_window_of_now_is_read_ahead() -> None:
    """By the label that the store's time gave it last."""
    tables = Tables()
    book = Book("i", shelf := SqlShelf(tables.query))
    window = book.windows[DAY] = DAY.at(1_800_000_000.0)
    shelf.prefetch(book, [], [order("c1", charge("agent/a/nusd", window=DAY))])
    assert [[f"agent/a/nusd/{window.label}"]] == tables.asked


def test_the_idle_are_found_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep looks at so many active runs and goes on where the one before ended; at the end it begins again."""
    monkeypatch.setattr(module, "IDLE_LOOK", 4)
    with closing(sqlite3.connect(":memory:")) as tables:
        for statement in schema.migrations_after(0):
            tables.execute(statement)
        for number in range(10):
            run = Run(key=f"r{number}", id="", tenant="", source="api", started_at=0, last_at=number % 2 * 100.0)
            tables.execute("INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?)", tuple(schema.run_row(run)))
        tables.execute("UPDATE run SET state = 'ended' WHERE key = 'r2'")
        shelf = SqlShelf(lambda sql, values: tables.execute(sql, values).fetchall())
        assert [["r0", "r4"], ["r6", "r8"], [], ["r0", "r4"]] == [shelf.idle(50.0, 500) for _ in range(4)]
        tables.execute("DELETE FROM run WHERE key > 'r3'")
        shelf = SqlShelf(lambda sql, values: tables.execute(sql, values).fetchall())
        assert [["r0"], ["r0"]] == [shelf.idle(50.0, 500) for _ in range(2)]

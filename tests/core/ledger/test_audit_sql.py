"""The audit over tables finds what the audit in memory finds, in the same words, whatever is damaged.

Invariant: every damage is written into real tables (their CHECKs switched off) and read back by both.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.core.ledger import engine, schema, settle
from gateway.core.ledger.audit import audit, book_of_tables
from gateway.core.ledger.audit_sql import audit_tables
from gateway.core.ledger.book import Book, Row
from tests.core.ledger.test_audit import FAULTS, a_ledger
from tests.ledgers import charge, exchange, order

ACCOUNTS = ("run/R/nusd", "run/P/nusd", "run/R/calls")


@contextmanager
def tables(book: Book, rows: Sequence[Row], path: str | Path = ":memory:") -> Iterator[sqlite3.Connection]:
    """A database that says what the book and these rows say, sound or not."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in schema.migrations_after(0):
            connection.execute(statement)
        connection.execute("PRAGMA ignore_check_constraints = 1")
        book.dirty.accounts, book.dirty.holds = set(book.accounts), set(book.holds)
        book.dirty.rows, book.dirty.runs = list(rows), set(book.runs)
        for sql, values in schema.statements_of(book, book.take_dirty()):
            connection.execute(sql, values)
        yield connection


def both(connection: sqlite3.Connection, overdue: float | None = None) -> tuple[list[str], list[str]]:
    """What the two audits say of the same tables, sorted."""

    def query(sql: str, values: Sequence[Any]) -> list[Any]:
        return connection.execute(sql, values).fetchall()

    return sorted(audit(*book_of_tables(query), overdue)), sorted(audit_tables(connection.execute, overdue))


def test_a_sound_ledger_has_nothing_to_say() -> None:
    """No finding without a fault."""
    with tables(*a_ledger()) as connection:
        assert ([], []) == both(connection)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_by_both(fault: str) -> None:
    """The same sentences: same invariant, same account, same figures."""
    book, rows = a_ledger()
    FAULTS[fault](book, rows)
    with tables(book, rows) as connection:
        known, found = both(connection)
        assert known == found
        assert any(sentence.startswith(fault) for sentence in found)


def test_a_hold_past_its_time_is_named() -> None:
    """I8, where the caller says which instant should have been swept."""
    with tables(*a_ledger()) as connection:
        assert ([], []) == both(connection, 50.0)
        assert (["I8 c3/1 is held past its deadline"],) * 2 == both(connection, 50.1)


def test_columns_that_differ_from_their_data_are_named() -> None:
    """What the sweep looks for stands in a column, what it ends in the data: they must say the same."""
    with tables(*a_ledger()) as connection:
        connection.execute("UPDATE reservation SET state = 'void' WHERE id = 'c1/1'")
        assert ["I4 c1/1 is void by its column and settled by its data"] == list(audit_tables(connection.execute))


def test_rows_outlive_their_reservation() -> None:
    """Reservations are forgotten before their rows: what is left sums up, and is no fault."""
    with tables(*a_ledger()) as connection:
        connection.execute("DELETE FROM reservation WHERE id IN ('c1/1', 'c2/1')")
        assert ([], []) == both(connection)
        connection.execute("DELETE FROM ledger WHERE reservation = 'c1/1'")
        assert (["I3 run/R/nusd spent 130, its rows say 100"],) * 2 == both(connection)


# Two rows of kind `carried` on one account can't be made: an index forbids it.
DAMAGE = st.one_of(
    st.tuples(
        st.just("UPDATE account SET {} = {} + {} WHERE name = '{}'"),
        st.sampled_from(["spent", "held", "open", "overrun", "lowered", "in_force"]),
        st.integers(-3, 3),
        st.sampled_from(ACCOUNTS),
    ),
    st.tuples(
        st.just("UPDATE ledger SET {} = {} + {} WHERE seq = {}"),
        st.just("delta"),
        st.integers(-3, 3),
        st.integers(1, 20),
    ),
    st.tuples(st.just("DELETE FROM ledger WHERE seq = {}"), st.integers(1, 20)),
    st.tuples(st.just("DELETE FROM reservation WHERE id = 'c{}/1'"), st.integers(0, 9)),
    st.tuples(st.just("DELETE FROM account WHERE name = '{}'"), st.sampled_from(ACCOUNTS)),
    st.tuples(
        st.just("UPDATE ledger SET kind = '{}' WHERE seq = {}"),
        st.sampled_from(["settle", "void", "trueup", "correct", "limit"]),
        st.integers(1, 20),
    ),
    st.tuples(
        st.just("UPDATE ledger SET {} = '{}' WHERE seq = {}"),
        st.sampled_from(["account", "reservation"]),
        st.sampled_from([*ACCOUNTS, "c1/1", "c8/1", "zz"]),
        st.integers(1, 20),
    ),
)


@given(st.lists(DAMAGE, max_size=6))
def test_any_damage_is_found_by_both(damages: list[tuple[Any, ...]]) -> None:
    """Random changes of a ledger with three accounts and ten calls in every state."""
    book = Book("i")
    charges = (charge(ACCOUNTS[0], limit=None), charge(ACCOUNTS[1], limit=None), charge(ACCOUNTS[2], 1, limit=20))
    for number in range(10):
        engine.reserve(book, 0.0, order(f"c{number}", *charges, deadline_at=50.0))
    for number in range(4):
        settle.settle(book, 1.0, f"c{number}/1", {"nusd": 30}, exchange(f"c{number}", 30), ())
    for number in range(3, 6):
        settle.presume(book, 1.0, f"c{number}/1")
    settle.settle(book, 1.0, "c4/1", {"nusd": 7}, exchange("c4", 7), ())
    settle.void(book, 1.0, "c6/1")
    settle.correct(book, 1.0, "c0/1", -5, ("refund", "ops", "x1"))
    with tables(book, book.take_dirty().rows) as connection:
        assert ([], []) == both(connection)
        for sql, first, *more in damages:
            words = [first, *more] if sql.count("{}") < 4 else [first, first, *more]
            with suppress(sqlite3.IntegrityError):  # damage that the tables themselves refuse: a second carried row
                connection.execute(sql.format(*words))
        known, found = both(connection, 50.0)
        assert known == found


def test_what_is_kept_in_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Twenty times the calls, the same peak but for what SQLite may cache (2 MB)."""
    import tracemalloc

    peaks = []
    for calls in (100, 2000):
        book = Book("i")
        for number in range(calls):
            engine.reserve(book, 0.0, order(f"c{number:05d}", charge(limit=None)))
            settle.settle(book, 1.0, f"c{number:05d}/1", {"nusd": 30}, exchange(f"c{number}", 30), ())
        with tables(book, book.take_dirty().rows, tmp_path / f"{calls}.db") as connection:
            del book
            tracemalloc.start()
            assert [] == list(audit_tables(connection.execute))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + 20_000

"""The tables: every value comes back as it went in, many rows go in one statement, migrations are numbered."""

from __future__ import annotations

import sqlite3

import msgspec
import pytest

from gateway.core.ledger import engine, reading, runs, schema, settle
from gateway.core.ledger.book import Book
from gateway.core.types import Finding, Run
from gateway.stores.sqlite import keep
from tests.ledgers import charge, exchange, order


def a_file() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in schema.migrations_after(0):
        connection.execute(statement)
    return connection


def test_migrations_are_numbered_and_done_once() -> None:
    """A file of the latest number needs nothing; our files are told from others."""
    connection = a_file()
    assert schema.VERSION == connection.execute("PRAGMA user_version").fetchone()[0]
    assert schema.APPLICATION_ID == connection.execute("PRAGMA application_id").fetchone()[0]
    assert [] == list(schema.migrations_after(schema.VERSION))
    connection.close()


@pytest.mark.parametrize("calls", [1, 2, 63, 64, 65, 200])
def test_values_come_back_as_they_went_in(calls: int) -> None:
    """Any number of rows, in the order they were made, written twice without harm where a name is the key."""
    book = Book("i")
    for number in range(calls):
        call = f"c{number:04}"
        engine.reserve(book, 0.0, order(call, charge(f"run/r{number}/nusd"), run=f"r{number}"))
        odd = Finding(call, f"r{number}", call, 1, "loop", "warn", "observe", None, "", {}, 1.0)
        settle.settle(book, 1.0, f"{call}/1", None, exchange(call, 3, run=f"r{number}"), [odd])
    connection = a_file()
    for _ in range(2):
        for sql, values in schema.statements_of(book, book.dirty):
            connection.execute(sql, values)
        book.dirty.rows, book.dirty.journal = [], []
    accounts = {row[0]: schema.account_from(row) for row in connection.execute("SELECT * FROM account")}
    assert book.accounts == accounts
    holds = [schema.hold_from(row[0]) for row in connection.execute("SELECT data FROM reservation ORDER BY id")]
    assert list(book.holds.values()) == holds
    found = {row[0]: schema.run_from(row[1]) for row in connection.execute("SELECT key, data FROM run")}
    assert book.runs == found
    entries = [schema.entry_from(row) for row in connection.execute("SELECT * FROM journal ORDER BY seq")]
    assert [f"c{n:04}" for n in range(calls)] == [entry.call_id for entry in entries if entry.kind == "call"]
    assert [calls, calls] == [
        connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("ledger", "finding")
    ]
    connection.close()


def test_a_run_that_goes_on_is_written_beside_its_indexes() -> None:
    """A call moves its counters only; what an index has of it is written when it changes, and again after a loss."""
    book = Book("i")
    connection = a_file()

    def written() -> list[str]:
        said = []
        for sql, values in schema.statements_of(book, book.take_dirty()):
            connection.execute(sql, values)
            said.append(sql)
        return [sql for sql in said if "INTO run" in sql]

    def stands() -> object:
        return connection.execute("SELECT state, agent, last_at, data FROM run").fetchone()

    for number, indexed in enumerate([True, False, False]):
        engine.reserve(book, float(number), order(f"c{number}"))
        assert [indexed] == ["state =" in sql for sql in written()]
    runs.end(book, 3.0, "R", "paused", None, None)
    assert ["state =" in sql for sql in written()] == [True]
    run = book.runs["R"]
    assert (("paused", None, 2.0), run) == ((seen := stands())[:3], schema.run_from(seen[3]))  # type: ignore[index]
    for told in (False, True):  # a batch was thrown away: who doesn't know what stands there writes all of it
        connection.execute("UPDATE run SET agent = 'other'")
        book.drop()
        if told:
            book.keep_run(run)
        else:
            book.runs["R"] = run
        book.dirty.runs.add("R")
        assert [not told] == ["state =" in sql for sql in written()]
        assert ("other" if told else None) == stands()[1]  # type: ignore[index]
    connection.close()


def test_a_row_leaves_out_what_says_nothing_and_older_rows_are_read() -> None:
    """A run that has done nothing is a few words; one with every field spelled is read the same."""
    run = Run("R", "R", started_at=1.0, last_at=2.0, steps=3)
    data = schema.run_row(run)[7]
    assert len(data) < 80
    whole = msgspec.msgpack.encode(msgspec.structs.asdict(run))
    assert len(whole) > 300 and run == schema.run_from(whole) == schema.run_from(data)


def test_the_file_itself_refuses_nonsense() -> None:
    """I7 in the tables: a balance below zero can't be written."""
    connection = a_file()
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(
            "INSERT INTO account (name, spent, held, open, overrun, lowered) VALUES ('a', -1, 0, 0, 0, 0)"
        )
    connection.close()


def test_what_was_captured_is_found_without_a_walk() -> None:
    """The fourth migration's indexes: by the call when it is read, by the age when it is forgotten."""
    connection = a_file()
    found = {
        "journal_content": (reading._CONTENT, keep.NEXT_SAID, keep.EMPTY_SAID),
        "content_at": ("SELECT hash FROM content WHERE at < ? ORDER BY at LIMIT ?",),
    }
    for index, questions in found.items():
        for sql in questions:
            plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", ("",) * sql.count("?")).fetchall()
            assert [True] == [
                f"USING INDEX {index}" in step[3] or f"COVERING INDEX {index}" in step[3] for step in plan
            ]
    connection.close()

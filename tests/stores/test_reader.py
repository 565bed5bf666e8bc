"""The ledger read from another process: what is committed, and nothing that could be in a writer's way."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from gateway.core.errors import StoreFailed
from gateway.stores.reader import LedgerReader
from tests.fakes import FakeClock
from tests.ledgers import opened, spend, sqlite


async def test_it_sees_what_is_committed(tmp_path):
    """Entries, ends of the journal, and accounts: as the store's own reader sees them."""
    async with opened(sqlite(tmp_path, FakeClock())) as store:
        with closing(LedgerReader(tmp_path / "ledger.db")) as reading:
            assert ((0, 0), []) == (reading.ends(), reading.entries(0))
            await spend(store, "c1", 7)
            assert store.reading().entries(0) == reading.entries(0)
            assert (1, reading.entries(0)[-1].seq) == reading.ends()
            found = reading.get_run("R")
            assert found is not None and 7 == found[1].spent


async def test_it_cant_write(tmp_path):
    """The connection itself is read-only."""
    async with opened(sqlite(tmp_path, FakeClock())):
        with closing(LedgerReader(tmp_path / "ledger.db")) as reading, pytest.raises(StoreFailed, match="readonly"):
            reading._rows("DELETE FROM journal", ())


def test_no_file_is_made(tmp_path):
    """Where there is no ledger it says so."""
    with pytest.raises(StoreFailed, match=r"none\.db can't be opened"):
        LedgerReader(tmp_path / "none.db")
    assert [] == list(tmp_path.iterdir())


async def test_the_ends_are_found_without_reading_the_journal(tmp_path):
    """Asked five times a second by each projection: one step down the tree, whatever is in it."""
    async with opened(sqlite(tmp_path, FakeClock())):
        with closing(LedgerReader(tmp_path / "ledger.db")) as reading:
            asked: list[str] = []

            def query(sql: str, values: Sequence[Any]) -> list[Any]:
                asked.append(sql)
                return [(0, 0)]

            reading._query = query
            reading.ends()
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {asked[0]}")]
    assert 2 == sum(line.startswith("SEARCH journal") for line in plan), plan

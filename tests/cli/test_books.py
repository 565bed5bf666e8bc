"""The ledger's file for verbs: read at one instant, refused where it can't be trusted, written as one process more."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.cli.books import call_of, holds_of, ledger_of, reading_of, who, writing_of
from gateway.cli.options import VerbFailed
from gateway.config import Settings, load
from gateway.core.ledger import schema
from gateway.core.types import Reservation
from gateway.edge.clock import SystemClock
from gateway.stores.sqlite import SqliteStore
from tests.ledgers import charge, exchange, order


def settings(folder: Path) -> Settings:
    """A configuration whose ledger lies in this folder."""
    file = folder / "meterbox.toml"
    file.write_text(f'[stores.sqlite]\npath = "{folder}/ledger.db"\n', encoding="utf-8")
    return load(file, {})


async def fill(folder: Path, attempts: int = 1) -> None:
    """One call of as many attempts."""
    clock = SystemClock()
    store = SqliteStore(folder / "ledger.db", clock.now, clock.new_id)
    await store.open()
    for attempt in range(1, attempts + 1):
        asked = order("c1", charge("run/R/nusd", 5))
        await store.reserve(type(asked)(f"c1/{attempt}", "c1", asked.run, asked.charges, 0.0, 1e12))
        if attempt < attempts:
            await store.void(f"c1/{attempt}")
    await store.settle(f"c1/{attempts}", {"nusd": 5}, exchange("c1", 5))
    await store.correct(f"c1/{attempts}", -2, "why", "ann", "x1")
    await store.close()


def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """Neither by a reader nor by a writer."""
    known = settings(tmp_path)
    with pytest.raises(VerbFailed, match="there is no ledger"):
        ledger_of(known)

    async def write() -> None:
        async with writing_of(known):
            raise AssertionError("it was opened")

    with pytest.raises(VerbFailed, match="there is no ledger"):
        asyncio.run(write())
    assert not (tmp_path / "ledger.db").exists()


def test_a_reader_sees_one_instant(tmp_path: Path) -> None:
    """What is written meanwhile comes with the next reading, and the writer isn't held up."""
    asyncio.run(fill(tmp_path))
    known = settings(tmp_path)
    with reading_of(known) as query:
        before = query("SELECT spent FROM account WHERE name = 'run/R/nusd'", ())

        async def spend() -> None:
            async with writing_of(known) as store:
                assert isinstance(await store.reserve(order("c2", charge("run/R/nusd", 7))), Reservation)
                await store.settle("c2/1", {"nusd": 7}, exchange("c2", 7))

        asyncio.run(spend())
        assert [(3,)] == before == query("SELECT spent FROM account WHERE name = 'run/R/nusd'", ())
    with reading_of(known) as query:
        assert [(10,)] == query("SELECT spent FROM account WHERE name = 'run/R/nusd'", ())


@pytest.mark.parametrize("words", ["application_id = 7", f"user_version = {schema.VERSION + 1}"])
def test_a_file_of_somebody_else_is_named(tmp_path: Path, words: str) -> None:
    """Another program's, or a newer Meterbox's."""
    asyncio.run(fill(tmp_path))
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as line:
        line.execute(f"PRAGMA {words}")
    with pytest.raises(VerbFailed, match=r"ledger\.db"), reading_of(settings(tmp_path)):
        pass


def test_a_call_is_found_with_its_attempts(tmp_path: Path) -> None:
    """In their order, ten after nine; the call with what was learnt later; nobody else's."""
    asyncio.run(fill(tmp_path, 10))
    with reading_of(settings(tmp_path)) as query:
        holds = holds_of(query, "c1")
        assert [f"c1/{n}" for n in range(1, 11)] == [hold.id for hold in holds]
        call = call_of(query, holds[-1])
        assert call is not None and ("c1", 3) == (call.call_id, call.cost_nusd)
        assert [] == holds_of(query, "c") == holds_of(query, "c1/1") == holds_of(query, "%")


def test_who_books_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """This user's, or the operator's."""
    monkeypatch.setenv("USER", "ann")
    assert "ann" == who()
    monkeypatch.delenv("USER")
    assert "operator" == who()

"""A ledger that an earlier schema's program wrote opens, and says what that program said; a newer one is left alone.

Invariant: the fixture is what real code of the first schema left behind at a SIGKILL, and what the same code made of it
at its next start (first_schema.sql tells how). What never enters: a row that was written by hand.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.core.errors import StoreFailed
from gateway.core.ledger import schema
from gateway.core.ports import RunFilter
from gateway.core.types import Reservation
from gateway.stores.sqlite import SqliteStore
from tests.fakes import FakeClock
from tests.ledgers import charge, exchange, opened, order, sqlite

HERE = Path(__file__).parent
REOPENED_AT = 1_800_000_009.0  # when the first schema's own program opened the file again
COLUMNS = "name, spent, held, open, overrun, lowered, cap, in_force, closed, asked"
DEAD = "ins_000001"  # the instance that held when it died


@pytest.fixture
def clock() -> FakeClock:
    later = FakeClock(REOPENED_AT)
    assert DEAD == later.new_id("ins")  # so that ours is another
    return later


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with a ledger of schema 1, as its process died."""
    file = tmp_path / "ledger.db"
    file.with_suffix(".instances").mkdir()
    (file.with_suffix(".instances") / f"{DEAD}.lock").touch()
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript((HERE / "first_schema.sql").read_text())
        connection.execute("PRAGMA journal_mode=WAL")
    assert 1 == pragma(file, "user_version")
    return file.parent


def pragma(file: Path, name: str) -> int:
    with closing(sqlite3.connect(file)) as connection:
        value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
        return value


def told(store: SqliteStore) -> dict[str, Any]:
    """What first_schema.json has of a ledger, from the store's own reader and the account table."""
    reading = store.reading()
    runs, _ = reading.runs(RunFilter(sort="started_at"))
    with closing(sqlite3.connect(store.path)) as connection:
        accounts = connection.execute(f"SELECT {COLUMNS} FROM account").fetchall()
    whole = {
        "accounts": {row[0]: list(row[1:]) for row in accounts},
        "runs": spelled({run.key: run for run, _ in runs}),
        "calls": spelled({run.key: reading.calls(run.key)[0] for run, _ in runs}),
        "entries": [[e.seq, e.at, e.kind, e.run, e.call_id] for e in reading.entries(0, limit=1000)],
    }
    return json.loads(json.dumps(whole))  # type: ignore[no-any-return]  # tuples are lists there


def spelled(value: Any) -> Any:
    """Plain values with every field of every struct, also those that a row leaves out."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, dict):
        return {key: spelled(item) for key, item in value.items()}
    return [spelled(item) for item in value] if isinstance(value, list | tuple) else value


def fields_of(known: Any, found: Any) -> Any:
    """`found` with only those keys that the first schema's program knew."""
    if isinstance(known, dict) and isinstance(found, dict):
        return {key: fields_of(value, found[key]) for key, value in known.items() if key in found}
    if isinstance(known, list) and isinstance(found, list) and len(known) == len(found):
        return [fields_of(one, other) for one, other in zip(known, found, strict=True)]
    return found


async def test_a_ledger_of_the_first_schema_says_what_its_own_program_said(old: Path, clock: FakeClock) -> None:
    """Balances, gates, caps, runs, calls and the journal are those that the program of that schema gives for the same
    file at the same instant: what was held by the dead process is presumed."""
    known = json.loads((HERE / "first_schema.json").read_text())
    async with opened(sqlite(old, clock)) as store:
        found = told(store)
        assert [] == store.audit()
        assert set(known["accounts"]) == set(found["accounts"]) and set(known["runs"]) == set(found["runs"])
        for part in known:
            assert known[part] == fields_of(known[part], found[part]), part
        with closing(sqlite3.connect(store.path)) as connection:
            accounts = [schema.account_from(row) for row in connection.execute("SELECT * FROM account")]
        assert {(None, "", None)} == {(account.last, account.marks, account.ends_at) for account in accounts}
    assert schema.VERSION == pragma(old / "ledger.db", "user_version")


async def test_what_was_held_when_the_first_program_died_is_presumed_and_can_be_settled(
    old: Path, clock: FakeClock
) -> None:
    """250 and 111 were held: they are spent now, and the late facts of both calls still count."""
    async with opened(sqlite(old, clock)) as store:
        with closing(sqlite3.connect(store.path)) as connection:
            states = connection.execute("SELECT id, state FROM reservation WHERE id > 'call_2'").fetchall()
        assert [("call_20/1", "presumed"), ("call_21/1", "presumed")] == states
        late = await store.settle("call_20/1", {"nusd": 7}, exchange("call_20", 7))
        assert (7, True) == (late.charged, late.late)
        await store.true_up("resp_3", "", exchange("call_03", 11))
        purse = store.reading().account("run/R/nusd")
        assert purse is not None and (851 - 243 - 189, 0, 900) == (purse.spent, purse.held, purse.limit)
        assert [] == store.audit()


async def test_a_migrated_ledger_goes_on(old: Path, clock: FakeClock) -> None:
    """Limits, steps and kills hold on: an open run is charged, a killed one refused."""
    async with opened(sqlite(old, clock)) as store:
        got = await store.reserve(order("call_30", charge("run/P/nusd", 10, limit=5000), run="P"))
        assert isinstance(got, Reservation) and 3000 == got.balances[0].limit
        assert not isinstance(await store.reserve(order("call_31", run="K", gates=("run/K",))), Reservation)
        assert not isinstance(await store.reserve(order("call_32", charge("run/R/nusd", 50))), Reservation)
        assert [] == store.audit()


async def test_a_second_open_changes_nothing(old: Path, clock: FakeClock) -> None:
    """A migration is applied once: the schema and every row stay as the first open left them."""

    def rows() -> list[str]:
        with closing(sqlite3.connect(old / "ledger.db")) as connection:
            return [line for line in connection.iterdump() if 'INTO "instance"' not in line]

    seen = []
    for _ in range(2):
        async with opened(sqlite(old, clock)):
            pass
        seen.append(rows())
    assert seen[0] == seen[1]


async def test_a_migration_that_fails_leaves_the_first_schema(
    old: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or nothing: a step that fails takes back those before it, and a later start tries again from there."""
    with closing(sqlite3.connect(old / "ledger.db")) as connection:
        before = list(connection.iterdump())
    broken = (*schema.MIGRATIONS[:-1], f"{schema.MIGRATIONS[-1]}; ALTER TABLE nowhere ADD COLUMN x")
    with monkeypatch.context() as patched:
        patched.setattr(schema, "MIGRATIONS", broken)
        with pytest.raises(StoreFailed, match="nowhere"):
            await sqlite(old, clock).open()
    with closing(sqlite3.connect(old / "ledger.db")) as connection:
        assert before == list(connection.iterdump())
    assert 1 == pragma(old / "ledger.db", "user_version")
    async with opened(sqlite(old, clock)) as store:
        assert [] == store.audit()
    assert schema.VERSION == pragma(old / "ledger.db", "user_version")


async def test_a_newer_schema_is_left_byte_by_byte(tmp_path: Path, clock: FakeClock) -> None:
    """Refused with both numbers and what to do; neither the file nor its log is changed."""
    async with opened(sqlite(tmp_path / "a", clock)) as store:
        await store.reserve(order("c1"))
        with closing(sqlite3.connect(store.path)) as connection:
            connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("*-shm"))
    names = ("ledger.db", "ledger.db-wal")
    before = [(tmp_path / "b" / name).read_bytes() for name in names]
    assert b"" != before[1]
    with pytest.raises(StoreFailed, match=rf"schema {schema.VERSION + 1}, this one knows {schema.VERSION}"):
        await sqlite(tmp_path / "b", clock).open()
    assert before == [(tmp_path / "b" / name).read_bytes() for name in names]

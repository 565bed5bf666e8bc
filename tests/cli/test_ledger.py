"""`ledger`: audits say which invariant fails with its figures, corrections are rows, both beside a living gateway."""

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.core.ledger.schema import hold_from, hold_row
from gateway.core.types import Exchange
from gateway.edge.clock import SystemClock
from gateway.stores.sqlite import SqliteStore
from tests.ledgers import charge, exchange, killed, order


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch) -> Path:
    """A ledger with a settled call c1 ($0.5), a presumed one c2 ($0.2) and a tiny c3, beside its configuration."""
    path = tmp_path / "state" / "ledger.db"
    path.parent.mkdir()
    (tmp_path / "meterbox.toml").write_text(f'[stores.sqlite]\npath = "{path}"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    asyncio.run(_fill(path))
    return path


def opened(path: Path) -> SqliteStore:
    clock = SystemClock()
    return SqliteStore(path, clock.now, clock.new_id)


async def _fill(path: Path) -> None:
    store = opened(path)
    await store.open()
    units = [charge("run/R/nusd", 600_000_000, limit=10**10), charge("run/R/calls", 1, limit=9)]
    await store.reserve(order("c1", *units))
    await store.settle("c1/1", {"nusd": 500_000_000, "calls": 1}, exchange("c1", 500_000_000))
    await store.reserve(order("c2", charge("run/R/nusd", 200_000_000, limit=10**10)))
    await store.settle("c2/1", None, exchange("c2", 200_000_000, "presumed"))
    await store.reserve(order("c3", charge("run/R/nusd", 5, limit=10**10), charge("run/P/nusd", 5, limit=None)))
    await store.settle("c3/1", {"nusd": 5}, exchange("c3", 5))
    await store.close()


def spent(path: Path, account: str = "run/R/nusd") -> int:
    """What the file says, read by somebody else."""
    with sqlite3.connect(path) as line:
        found: int = line.execute("SELECT spent FROM account WHERE name = ?", (account,)).fetchone()[0]
    line.close()
    return found


def call_of(path: Path, call_id: str) -> Exchange:
    """A call as readers see it."""

    async def read() -> Exchange:
        store = opened(path)
        await store.open()
        (found,) = [call for call in store.reading().calls("R")[0] if call.call_id == call_id]
        await store.close()
        return found

    return asyncio.run(read())


# --------------------------------------------------------------------------- audit


def test_a_sound_ledger_says_what_was_looked_at(ledger, meterbox):
    """How much and how long, exit status 0; the file is as it was."""
    before = ledger.read_bytes()
    status, out, err = meterbox("ledger", "audit")
    assert (0, "") == (status, err)
    assert "3 accounts, 3 reservations, 5 rows, 4 journal entries, 1 run; looked through in 0." in out
    assert "sound: every balance is the sum of its rows" in out
    assert before == ledger.read_bytes()
    said = json.loads(meterbox("ledger", "audit", "--json")[1])
    assert (True, [], 3, 0) == (said["sound"], said["findings"], said["reservations"], said["held"])


@pytest.mark.parametrize(
    ("damage", "invariant", "figures"),
    [
        (
            "UPDATE account SET spent = spent - 1 WHERE name = 'run/R/nusd'",
            "I3",
            ("run/R/nusd", "700000004", "700000005"),
        ),
        ("UPDATE account SET held = 7 WHERE name = 'run/R/nusd'", "I2", ("run/R/nusd", "7")),
        ("UPDATE account SET in_force = 5 WHERE name = 'run/R/nusd'", "I1", ("run/R/nusd", "700000005", "5")),
        (
            "UPDATE ledger SET delta = delta + 3 WHERE reservation = 'c1/1' AND unit = 'nusd'",
            "I3",
            ("c1/1", "500000003"),
        ),
        ("DELETE FROM ledger WHERE reservation = 'c2/1'", "I4", ("c2/1", "0 times")),
    ],
)
def test_a_damaged_ledger_is_told_by_invariant_and_figures(ledger, meterbox, damage, invariant, figures):
    """Exit status 1; which invariant, which account, what it says and what its rows say. Nothing is repaired."""
    with sqlite3.connect(ledger) as line:
        line.execute(damage)
    line.close()
    status, out, _ = meterbox("ledger", "audit")
    assert 1 == status
    found = [text for text in out.split("\n") if text.startswith(f"{invariant} ")]
    assert any(all(figure in text for figure in figures) for text in found), out
    assert "NOT SOUND" in out and "sound: every" not in out
    status, out, _ = meterbox("ledger", "audit", "--json")
    assert (1, False) == (status, json.loads(out)["sound"])


def test_an_audit_runs_beside_a_gateway(ledger, meterbox):
    """While another instance holds and writes; what it holds is under way, and stays its own."""

    async def beside() -> Any:
        store = opened(ledger)
        await store.open()
        await store.reserve(order("c9", charge("run/R/nusd", 7, limit=10**10)))
        said = await asyncio.to_thread(meterbox, "ledger", "audit")
        await store.settle("c9/1", {"nusd": 7}, exchange("c9", 7))
        await store.close()
        return said

    status, out, err = asyncio.run(beside())
    assert (0, "") == (status, err)
    assert "1 reservation is held: under way" in out
    assert 700_000_012 == spent(ledger)


def test_a_hold_that_nobody_swept_is_told(ledger, meterbox, tmp_path):
    """I8: past its deadline while a gateway lives; without one it waits for the next start, which is no finding."""

    async def leave() -> None:
        store = opened(ledger)
        await store.open()
        await store.reserve(order("c9", charge("run/R/nusd", 7, limit=10**10), deadline_at=SystemClock().now() + 1e6))
        killed(ledger.parent, tmp_path / "left")
        await store.close()

    asyncio.run(leave())
    left = tmp_path / "left" / "ledger.db"
    shutil.move(left, ledger)
    for end in ("-wal", "-shm"):
        ledger.with_name(f"ledger.db{end}").unlink(missing_ok=True)
        if left.with_name(f"ledger.db{end}").exists():
            shutil.move(left.with_name(f"ledger.db{end}"), ledger.with_name(f"ledger.db{end}"))
    status, out, _ = meterbox("ledger", "audit")
    assert (0, True) == (status, "1 reservation is held: under way, or of a gateway that died a moment ago" in out), out
    with closing(sqlite3.connect(ledger)) as line:
        (data,) = line.execute("SELECT data FROM reservation WHERE id = 'c9/1'").fetchone()
        hold = hold_from(data)
        hold.deadline_at = 5.0
        line.execute("UPDATE reservation SET deadline_at = 5, data = ? WHERE id = 'c9/1'", (hold_row(hold)[-1],))
        line.commit()
    status, out, _ = meterbox("ledger", "audit")
    assert (1, True) == (status, "I8 c9/1 is held past its deadline" in out)
    with closing(sqlite3.connect(ledger)) as line:
        line.execute("UPDATE instance SET lease_until = 6")
        line.commit()
    status, out, _ = meterbox("ledger", "audit")
    assert (0, True) == (status, "left behind by a gateway that is gone" in out)


@pytest.mark.parametrize("content", [None, b"", b"SQLite format 3\0garbage", b"not a database at all" * 99])
def test_what_is_no_ledger_is_named(ledger, meterbox, content):
    """A file that is missing, empty or another one: its path, and nothing is made of it."""
    ledger.unlink() if content is None else ledger.write_bytes(content)
    for file in ledger.parent.glob("ledger.db-*"):
        file.unlink()
    status, out, err = meterbox("ledger", "audit")
    assert (1, "", True) == (status, out, str(ledger) in err)
    assert (content is not None) == ledger.exists() and (content is None or content == ledger.read_bytes())


# --------------------------------------------------------------------------- backup


def test_a_backup_is_a_ledger_of_its_own(ledger, meterbox, tmp_path):
    """Sound and complete; a file that is there is never replaced."""
    target = tmp_path / "copy.db"
    status, out, _ = meterbox("ledger", "backup", str(target))
    assert "-wal and -shm, and the folder projections" in out  # its cursors are those of another ledger
    assert (0, True) == (status, str(target) in out)
    assert 700_000_005 == spent(target)
    assert 2 == meterbox("ledger", "backup", str(target))[0]
    shutil.move(target, ledger)
    for file in ledger.parent.glob("ledger.db-*"):
        file.unlink()
    assert 0 == meterbox("ledger", "audit")[0]
    status, _, err = meterbox("ledger", "backup", str(tmp_path / "nowhere" / "x.db"))
    assert (2, True) == (status, "nowhere" in err)


# --------------------------------------------------------------------------- correct

CORRECT = ("ledger", "correct", "c1", "--reason", "credit note 7", "--id", "n7")


def test_a_correction_is_booked_once(ledger, meterbox):
    """On the call, its run and the sum, exact; the same id again changes nothing and says so."""
    status, out, err = meterbox(*CORRECT, "--usd", "-0.020000001", "--actor", "ann")
    assert (0, "") == (status, err)
    assert "c1 of run R: now $0.480000, before $0.50" in out
    assert (680_000_004, 479_999_999) == (spent(ledger), call_of(ledger, "c1").cost_nusd)
    said = json.loads(meterbox(*CORRECT, "--usd", "-0.02", "--json")[1])
    assert (False, "0.479999999") == (said["booked"], said["charged_usd"])
    assert "nothing was booked" in meterbox(*CORRECT, "--usd", "-0.02")[1]
    assert 680_000_004 == spent(ledger)
    with sqlite3.connect(ledger) as line:
        rows = line.execute("SELECT delta, note FROM ledger WHERE kind = 'correct'").fetchall()
    line.close()
    assert [(-20_000_001, "credit note 7 (ann, n7)")] == rows
    assert 0 == meterbox("ledger", "audit")[0]


def test_a_correction_never_goes_below_zero(ledger, meterbox):
    """It takes back at most what was charged."""
    said = json.loads(meterbox(*CORRECT, "--usd", "-0.9", "--json")[1])
    assert ("0", "-0.5", True) == (said["charged_usd"], said["delta_usd"], said["booked"])


def test_a_presumed_call_can_be_corrected_and_voided(ledger, meterbox):
    """Its doubt ends by an operator's word: charged what was presumed, and the correction on top."""
    assert 0 == meterbox("ledger", "correct", "c2", "--usd=-0.15", "--reason", "log", "--id", "a")[0]
    assert ("estimate", 50_000_000) == (call_of(ledger, "c2").cost_source, call_of(ledger, "c2").cost_nusd)
    assert 550_000_005 == spent(ledger)
    assert 0 == meterbox("ledger", "audit")[0]


def test_a_presumed_call_that_was_not_billed_costs_nothing(ledger, meterbox):
    """--void: nothing is charged, the reason stands in the journal; a repeat is a no-op, a settled call stays."""
    void = ("ledger", "correct", "c2", "--void", "--reason", "no such request", "--actor", "ann")
    assert 0 == meterbox(*void)[0]
    assert 500_000_005 == spent(ledger)
    call = call_of(ledger, "c2")
    assert (0, "refused", "not billed: no such request (ann)") == (call.cost_nusd, call.cost_source, call.reason)
    assert "nothing was booked" in meterbox(*void)[1]
    status, _, err = meterbox("ledger", "correct", "c1", "--void", "--reason", "x")
    assert (1, True) == (status, "--usd" in err)
    assert 500_000_005 == spent(ledger)
    assert 0 == meterbox("ledger", "audit")[0]


def test_a_correction_leaves_a_gateway_alone(ledger, meterbox):
    """What another instance holds stays held, and it sees the corrected balance at its next call."""

    async def beside() -> int:
        store = opened(ledger)
        await store.open()
        await store.reserve(order("c9", charge("run/R/nusd", 7, limit=10**10)))
        assert 0 == (await asyncio.to_thread(lambda: meterbox(*CORRECT, "--usd", "-0.1")))[0]
        settled = await store.settle("c9/1", {"nusd": 7}, exchange("c9", 7))
        await store.close()
        return settled.balances[0].spent

    assert 600_000_012 == asyncio.run(beside())


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["c1", "--reason", "x"], 2, "--usd AMOUNT or --void"),
        (["c1", "--usd", "1", "--void", "--reason", "x", "--id", "i"], 2, "--usd AMOUNT or --void"),
        (["c1", "--usd", "1", "--reason", "x"], 2, "needs --id"),
        (["c1", "--usd", "1", "--id", "i"], 2, "--reason"),
        (["c1", "--usd", "0.0000000001", "--reason", "x", "--id", "i"], 2, "0.0000000001"),
        (["c1", "--usd", "many", "--reason", "x", "--id", "i"], 2, "many"),
        (["nobody", "--usd", "1", "--reason", "x", "--id", "i"], 1, "no reservation of a call nobody"),
        (["c%", "--usd", "1", "--reason", "x", "--id", "i"], 1, "no reservation"),
    ],
)
def test_what_can_not_be_corrected_is_said(ledger, meterbox, words, status, says):
    """Usage errors and unknown calls; nothing is booked."""
    got, _, err = meterbox("ledger", "correct", *words)
    assert (status, True) == (got, says in err), err
    assert 700_000_005 == spent(ledger)


def test_a_call_under_way_is_not_corrected(ledger, meterbox):
    """It has no cost yet."""

    async def beside() -> Any:
        store = opened(ledger)
        await store.open()
        await store.reserve(order("c9", charge("run/R/nusd", 7, limit=10**10)))
        said = await asyncio.to_thread(meterbox, "ledger", "correct", "c9", "--usd", "1", "--reason", "x", "--id", "i")
        await store.close()
        return said

    status, _, err = asyncio.run(beside())
    assert (1, True) == (status, "under way" in err)

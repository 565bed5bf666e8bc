"""The ledger forgets in small steps, and what it still says adds up after each of them (ADR 0009).

Invariant: the audit runs after every chunk; time is a fake clock's; a kill is a transaction that never commits, a copy
of the files, or SIGKILL.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.core.ledger.audit_sql import audit_tables
from gateway.core.types import Charge, Content, Order, Reservation
from gateway.core.windows import Calendar
from gateway.stores.sqlite import SqliteStore, keep
from gateway.stores.sqlite.keep import DAY_S, Keeper
from tests.fakes import FakeClock
from tests.ledgers import charge, exchange, facts, killed, opened, sqlite

ROOT = Path(__file__).resolve().parents[3]
COUNTS = "SELECT (SELECT count(*) FROM reservation), (SELECT count(*) FROM ledger), (SELECT count(*) FROM journal)"
DAILY = Charge("agent/a/nusd", "nusd", 100, 100, limit=10_000, window=Calendar("day"))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@contextmanager
def connected(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as connection:
        yield connection


async def call(
    store: SqliteStore, clock: FakeClock, how: str, *charges: Charge, run: str = "R", within_s: float = 660
) -> str:
    """One call of 30 that ends as `how` says; its id sorts by time, as real ones do."""
    call_id = f"call_{int(clock.at):012d}{clock.new_id('')}"
    order = Order(
        f"{call_id}/1", call_id, run=facts(run), charges=charges, at=clock.at, deadline_at=clock.at + within_s,
    )  # fmt: skip
    assert isinstance(await store.reserve(order), Reservation)
    if how == "presumed":
        await store.settle(order.id, None, exchange(call_id, None, "presumed", run=run))
    elif how == "void":
        await store.settle(order.id, None, exchange(call_id, 0, "refused", run=run))
    elif how != "held":
        await store.settle(order.id, {"nusd": 30}, exchange(call_id, 30, run=run))
    return call_id


async def one_day(store: SqliteStore, clock: FakeClock, day: int) -> str:
    """Calls in every state; gives back the id of a settled one."""
    settled = await call(store, clock, "settled", charge(f"run/r{day}/nusd"), DAILY, run=f"r{day}")
    await call(store, clock, "presumed", charge("run/R/nusd", limit=None), DAILY)
    await call(store, clock, "void", charge("run/R/nusd", limit=None), DAILY)
    await store.correct(f"{settled}/1", -7, "refund", "ops", f"x{day}")
    return settled


def chunks(connection: sqlite3.Connection, keeper: Keeper, now: float) -> int:
    """Forgets all there is to forget, each chunk in a transaction of its own, audited; how many chunks that took."""
    taken = 0
    more = True
    while more:
        connection.execute("BEGIN IMMEDIATE")
        more = keeper.chore(connection.execute, now)
        connection.execute("COMMIT")
        taken += more
        assert [] == list(audit_tables(connection.execute))
    return taken


def dump(connection: sqlite3.Connection) -> list[str]:
    return [line for line in connection.iterdump() if 'INTO "meta"' not in line]


async def test_months_pass_and_every_balance_stays_explained(tmp_path: Path, clock: FakeClock) -> None:
    """Half a year, day by day: what is old goes, what was spent stays, the audit is clean after every chunk."""
    keeper = Keeper()
    for day in range(0, 180, 5):
        async with opened(sqlite(tmp_path, clock)) as store:
            await one_day(store, clock, day)
        with connected(tmp_path) as connection:
            chunks(connection, keeper, clock.at)
        clock.advance(5 * DAY_S)
    now = clock.at - 5 * DAY_S
    with connected(tmp_path) as connection:
        oldest = connection.execute(
            "SELECT (SELECT min(deadline_at) FROM reservation), (SELECT min(at) FROM ledger WHERE kind <> 'carried'),"
            " (SELECT min(at) FROM journal), (SELECT min(ends_at) FROM account)"
        ).fetchone()
        assert [now - 40 * DAY_S + 660, *[now - 90 * DAY_S] * 2] == list(oldest[:3])
        assert now - 91 * DAY_S <= oldest[3] <= now - 85 * DAY_S
        # runs and what each spent are never forgotten
        runs = connection.execute("SELECT spent FROM account WHERE name GLOB 'run/r*/nusd'").fetchall()
        assert [(23,)] * 36 == runs
        assert (36 * 100,) == connection.execute("SELECT spent FROM account WHERE name = 'run/R/nusd'").fetchone()
        assert (37,) == connection.execute("SELECT count(*) FROM run").fetchone()
        carried = connection.execute("SELECT account, delta, seq < 0 FROM ledger WHERE kind = 'carried'").fetchall()
        assert ("run/r0/nusd", 23, 1) in carried and ("run/R/nusd", 17 * 100, 1) in carried
        assert len(carried) == len({account for account, _, _ in carried})
        assert not any(account.startswith("agent/a/nusd/2027-01-15") for account, _, _ in carried)
    async with opened(sqlite(tmp_path, clock)) as store:
        purse = store.reading().account("run/R/nusd")
        assert purse is not None and 36 * 100 == purse.spent


async def test_while_nothing_is_old_one_question_a_minute_is_all(tmp_path: Path, clock: FakeClock) -> None:
    """No row is read twice, none is written, however often the chore is called."""
    async with opened(sqlite(tmp_path, clock)) as store:
        await one_day(store, clock, 0)
    keeper = Keeper()
    asked: list[str] = []
    with connected(tmp_path) as connection:
        connection.set_trace_callback(asked.append)
        before = connection.total_changes
        for _ in range(600):
            clock.advance(0.5)
            assert not keeper.chore(connection.execute, clock.at)
        assert before == connection.total_changes
        assert 5 == len(asked)
        plan = connection.execute(f"EXPLAIN QUERY PLAN {asked[0]}").fetchall()
        assert not [row for row in plan if "TEMP B-TREE" in row[3]]


async def test_what_is_held_is_never_touched(tmp_path: Path, clock: FakeClock) -> None:
    """A hold stays, whatever its age: who sweeps it decides, not who forgets."""
    async with opened(sqlite(tmp_path / "a", clock)) as store:
        held = await call(store, clock, "held", charge("run/R/nusd"), DAILY)
        await call(store, clock, "settled", charge("run/R/nusd"), DAILY)
        after = killed(tmp_path / "a", tmp_path / "b")
    with connected(after) as connection:
        chunks(connection, Keeper(), clock.at + 400 * DAY_S)
        assert [(f"{held}/1", "held")] == connection.execute("SELECT id, state FROM reservation").fetchall()
        assert 2 == connection.execute("SELECT count(*) FROM account WHERE held = 100").fetchone()[0]


async def test_a_call_can_be_corrected_for_forty_days(tmp_path: Path, clock: FakeClock) -> None:
    """On day 39 an invoice still finds the call; on day 41 it is told that nobody knows it, and nothing changes."""
    async with opened(sqlite(tmp_path, clock)) as store:
        settled = await one_day(store, clock, 0)
    for days, known in ((39, 28), (41, None)):
        with connected(tmp_path) as connection:
            chunks(connection, Keeper(), clock.at + days * DAY_S)
        async with opened(sqlite(tmp_path, clock)) as store:
            told = await store.correct(f"{settled}/1", 5, "invoice", "ops", "inv1")
            assert known == told.charged
            purse = store.reading().account("run/r0/nusd")
            assert purse is not None and 28 == purse.spent
            assert [] == store.audit()


async def test_an_account_stays_while_a_row_explains_it(tmp_path: Path, clock: FakeClock) -> None:
    """A window that ended long ago goes only once its whole balance is carried: a late row keeps it."""
    async with opened(sqlite(tmp_path, clock)) as store:
        settled = await one_day(store, clock, 0)
        clock.advance(30 * DAY_S)
        await store.correct(f"{settled}/1", 5, "invoice", "ops", "inv1")
    names = "SELECT count(*) FROM account WHERE name LIKE 'agent/a/nusd/%'"
    with connected(tmp_path) as connection:
        chunks(connection, Keeper(), clock.at + 70 * DAY_S)
        assert (1,) == connection.execute(names).fetchone()
        chunks(connection, Keeper(), clock.at + 91 * DAY_S)
        assert (0,) == connection.execute(names).fetchone()
        assert (0,) == connection.execute("SELECT count(*) FROM ledger WHERE account LIKE 'agent/%'").fetchone()


async def test_rows_stay_as_long_as_their_reservation(tmp_path: Path, clock: FakeClock) -> None:
    """A call that may take a hundred days is explained by its own rows until it is forgotten itself."""
    async with opened(sqlite(tmp_path, clock)) as store:
        await call(store, clock, "settled", charge("run/R/nusd"))
        slow = await call(store, clock, "settled", charge("run/R/nusd"), within_s=100 * DAY_S)
        await call(store, clock, "settled", charge("run/R/nusd"))
    with connected(tmp_path) as connection:
        chunks(connection, Keeper(), clock.at + 95 * DAY_S)
        kept = connection.execute("SELECT reservation, kind, delta FROM ledger ORDER BY seq").fetchall()
        assert [(None, "carried", 60), (f"{slow}/1", "settle", 30)] == kept
        chunks(connection, Keeper(), clock.at + 141 * DAY_S)
        assert [(None, "carried", 90)] == connection.execute("SELECT reservation, kind, delta FROM ledger").fetchall()


async def many(folder: Path, clock: FakeClock, calls: int) -> None:
    """A ledger with so many calls of one day, over a hundred runs."""
    async with opened(sqlite(folder, clock)) as store:
        for number in range(calls):
            run = f"r{number % 100}"
            await call(
                store, clock, ("settled", "presumed")[number % 2], charge(f"run/{run}/nusd", limit=None), run=run
            )


class Cut(Exception):
    """The process dies here."""


async def test_a_kill_in_the_middle_leaves_a_whole_ledger(tmp_path: Path, clock: FakeClock) -> None:
    """At every statement of every chunk: what began is taken back, and another process forgets the rest."""
    await many(tmp_path / "a", clock, 510)
    later = clock.at + 100 * DAY_S
    with connected(killed(tmp_path / "a", tmp_path / "whole")) as connection:
        taken = chunks(connection, Keeper(), later)
        whole = dump(connection)
    assert taken >= 2 * 3
    with connected(tmp_path / "a") as connection:
        lives = 0
        while not forget_until(connection, later, lives):
            assert [] == list(audit_tables(connection.execute))
            lives += 1
        assert lives > 5
        assert whole == dump(connection)


def forget_until(connection: sqlite3.Connection, now: float, statements: int) -> bool:
    """A process that forgets, and dies before the next statement; True if it came to its end."""
    keeper, left, more = Keeper(), iter(range(statements)), True

    def execute(sql: str, values: Sequence[Any]) -> sqlite3.Cursor:
        if next(left, None) is None:
            raise Cut
        return connection.execute(sql, values)

    try:
        while more:
            connection.execute("BEGIN IMMEDIATE")
            more = keeper.chore(execute, now)
            connection.execute("COMMIT")
    except Cut:
        connection.execute("ROLLBACK")
        return False
    return True


CHILD = """
import sqlite3, sys
from gateway.stores.sqlite import keep
keep.CHUNK = 100
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
keeper, more = keep.Keeper(), True
print("begun", flush=True)
while more:
    sys.stdin.readline()
    connection.execute("BEGIN IMMEDIATE")
    more = keeper.chore(connection.execute, float(sys.argv[2]))
    connection.execute("COMMIT")
    print("chunk", flush=True)
print("end", flush=True)
"""


async def test_sigkill_in_the_middle_leaves_a_whole_ledger(tmp_path: Path, clock: FakeClock) -> None:
    """Killed after each chunk, some time into the next: the file is sound, and the last process comes to the end."""
    await many(tmp_path, clock, 600)
    later = clock.at + 100 * DAY_S
    kills = 0
    while forget_and_die(tmp_path, later) != "end":
        kills += 1
        assert kills < 20
        with connected(tmp_path) as connection:
            assert [] == list(audit_tables(connection.execute))
    with connected(tmp_path) as connection:
        assert (0, 100, 0) == connection.execute(COUNTS).fetchone()
        assert [] == list(audit_tables(connection.execute))
    assert kills > 3


def forget_and_die(folder: Path, now: float) -> str:
    """A real process that is killed some way into its fifth chunk; its last word."""
    words = [sys.executable, "-c", CHILD, str(folder / "ledger.db"), str(now)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdin is not None
        child.stdin.write("go\n" * 6)  # the question, five chunks
        child.stdin.flush()
        said = [child.stdout.readline().strip() for _ in range(6)]
        child.send_signal(signal.SIGKILL)
    return [word for word in said if word][-1]


async def test_a_chunk_is_small_and_memory_does_not_grow(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction changes more than a chunk of rows and what they are carried in, nor has more than that in mind."""
    monkeypatch.setattr(keep, "CHUNK", 50)
    await many(tmp_path, clock, 1000)
    keeper, later, changed = Keeper(), clock.at + 100 * DAY_S, []
    with connected(tmp_path) as connection:
        tracemalloc.start()
        more = True
        while more:
            before = connection.total_changes
            connection.execute("BEGIN IMMEDIATE")
            more = keeper.chore(connection.execute, later)
            connection.execute("COMMIT")
            changed.append(connection.total_changes - before)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert 50 <= max(changed) <= 2 * 50
    assert peak < 50_000
    assert len(changed) > 60


async def test_a_store_forgets_while_it_serves(tmp_path: Path, clock: FakeClock) -> None:
    """As a chore of the real thread: what was in memory is not written back, new calls go on, nothing is lost."""
    async with opened(sqlite(tmp_path, clock)) as store:
        store.chores.append(Keeper().chore)
        settled = await one_day(store, clock, 0)
        clock.advance(100 * DAY_S)
        for turn in range(200):
            clock.advance(1)
            await call(store, clock, "settled", charge("run/R/nusd", limit=None), DAILY)
            if turn > 50 and store.reading().entries(0, limit=1)[0].at > clock.at - 90 * DAY_S:
                break
        assert None is (await store.correct(f"{settled}/1", 5, "late", "ops", "y")).charged
        assert [] == store.audit()
        purse = store.reading().account("run/R/nusd")
        assert purse is not None and 100 + 30 * (turn + 1) == purse.spent
    with connected(tmp_path) as connection:
        assert (0,) == connection.execute("SELECT count(*) FROM reservation WHERE id < ?", (settled,)).fetchone()


async def test_captured_messages_go_after_seven_days(tmp_path: Path, clock: FakeClock) -> None:
    """A text goes seven days after it was named last, an entry keeps its number and nothing else; money stays."""
    keeper = Keeper()
    async with opened(sqlite(tmp_path, clock)) as store:
        for day in range(20):
            name = await call(store, clock, "settled", charge("run/R/nusd", limit=None))
            texts = {f"day {day}": '"said"', **({"often": '"system"'} if day < 15 else {})}
            store.remember(Content(name, "R", system=("often",), input=(f"day {day}",), texts=texts), lambda: None)
            await store.run("R")
            clock.advance(DAY_S)
    with connected(tmp_path) as connection:
        before = connection.execute(COUNTS).fetchone()
        assert 1 + 1 + 1 + 2 == chunks(connection, keeper, clock.at)  # a look, texts, entries, both ranges of accounts
        assert before == connection.execute(COUNTS).fetchone(), "no row of money, and no number of the journal, is gone"
        kept = sorted(name for (name,) in connection.execute("SELECT hash FROM content"))
        assert sorted([*(f"day {day}" for day in range(13, 20)), "often"]) == kept
        said = connection.execute(
            "SELECT call_id IS NULL, data = x'80', count(*) FROM journal WHERE kind = 'content' GROUP BY 1"
        )
        assert [(0, 0, 7), (1, 1, 13)] == said.fetchall()
        assert 0 == chunks(connection, Keeper(), clock.at), "and there is nothing more to do"


async def test_many_messages_go_in_short_steps(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk looks at a bounded number of rows."""
    monkeypatch.setattr(keep, "CHUNK", 4)
    async with opened(sqlite(tmp_path, clock)) as store:
        for number in range(10):
            texts = {f"{number}": '"said"'}
            store.remember(Content(f"c{number}", "R", input=(f"{number}",), texts=texts), lambda: None)
        await store.run("R")
    with connected(tmp_path) as connection:
        assert 1 + 3 + 3 + 2 == chunks(connection, Keeper(), clock.at + keep.SAID_S + 1)
        assert (0,) == connection.execute("SELECT count(*) FROM content").fetchone()
        assert (0,) == connection.execute("SELECT count(call_id) FROM journal WHERE kind = 'content'").fetchone()

"""The driver: every entry, in order, once taken never again; pauses with an end; what went wrong is said."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import StoreFailed, UpstreamFailed
from gateway.core.ports import Reading
from gateway.core.telemetry.health import Health, State
from gateway.core.types import Entry
from gateway.edge import projector
from gateway.edge.projector import BATCH, LEAST_PAUSE_S, LOOK_S, MOST_PAUSE_S, Driver, House, Opened, drive
from gateway.stores.notebook import SqliteNotebook
from gateway.stores.reader import LedgerReader
from tests.fakes import FakeClock, RecordingProjection
from tests.ledgers import opened, spend, sqlite


class Journal:
    """As much of ports.Reading as a driver asks for."""

    def __init__(self, count: int = 0) -> None:
        self.kept: list[Entry] = []
        self.asked: list[tuple[int, int]] = []
        self.write(count)

    def write(self, count: int, size: int = 10) -> None:
        first = self.kept[-1].seq if self.kept else 0
        self.kept += [Entry(first + n, 100.0 + first + n, "call", "R", "c", b"x" * size) for n in range(1, count + 1)]

    def forget(self, up_to: int) -> None:
        self.kept = [entry for entry in self.kept if entry.seq > up_to]

    def entries(self, after_seq: int, run: str | None = None, limit: int = 100) -> list[Entry]:
        self.asked.append((after_seq, limit))
        return [entry for entry in self.kept if entry.seq > after_seq][:limit]

    def ends(self) -> tuple[int, int]:
        return (self.kept[0].seq, self.kept[-1].seq) if self.kept else (0, 0)


class Stage:
    """A driver with all that it needs; `said` has the log."""

    def __init__(self, journal: Any, chance: float = 0.0) -> None:
        self.clock = FakeClock()
        self.health = Health()
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.projection = RecordingProjection("p")
        self.opened = self.closed = 0
        self.open_fails: list[Exception] = []
        house = House(
            self.clock, lambda: chance, lambda event, fields: self.said.append((event, dict(fields))), self.health
        )
        self.journal: Reading = journal
        self.driver = Driver("p", self._opens, house)

    @contextmanager
    def _opens(self) -> Iterator[Opened]:
        if self.open_fails:
            raise self.open_fails.pop(0)
        self.opened += 1
        yield Opened(self.projection, self.journal)
        self.closed += 1

    def rounds(self, count: int) -> list[float]:
        """So many rounds, each after the pause that the one before asked for."""
        waits = []
        for _ in range(count):
            waits.append(self.driver.round())
            self.clock.advance(waits[-1])
        return waits

    def events(self) -> list[str]:
        return [event for event, _ in self.said]

    def state(self) -> State:
        return self.health.of("p")


# --------------------------------------------------------------------------- reading


def test_batches_come_in_order_until_nothing_waits():
    """Full batches follow each other at once; then it looks every LOOK_S."""
    stage = Stage(Journal(2 * BATCH + 3))
    assert [0.0, 0.0, LOOK_S] == [pytest.approx(wait, abs=1e-6) for wait in stage.rounds(3)]
    assert [BATCH, BATCH, 3] == [len(batch) for batch in stage.projection.batches]
    assert list(range(1, 2 * BATCH + 4)) == stage.projection.told
    assert [] == stage.said


def test_what_waits_is_told():
    """Entries, the age of the oldest, and bytes: before a batch is worked in, and after it."""
    journal = Journal()
    journal.write(BATCH + 20, size=10)
    stage = Stage(journal)
    stage.projection.fails = [UpstreamFailed("down")]
    stage.driver.round()
    assert (0, BATCH + 20, 101.0, (BATCH + 20) * 10) == (
        stage.state().cursor,
        stage.state().behind,
        stage.state().oldest_at,
        stage.state().behind_bytes,
    )
    stage.clock.advance(MOST_PAUSE_S)
    stage.rounds(1)
    assert (BATCH, 20, 200) == (stage.state().cursor, stage.state().behind, stage.state().behind_bytes)
    stage.rounds(2)
    assert State(cursor=BATCH + 20, last_error="down") == stage.state()


def test_a_part_of_a_batch_may_be_taken():
    """The rest comes again, from the cursor on."""
    stage = Stage(Journal(5))
    stage.projection.moves = 2
    stage.rounds(3)
    assert [[1, 2, 3, 4, 5], [3, 4, 5], [5]] == stage.projection.batches
    assert [1, 2, 3, 4, 5] == stage.projection.told


def test_a_cursor_that_stays_is_said():
    """A projection that takes a batch and doesn't move is asked again after a pause, not in a loop."""
    stage = Stage(Journal(5))
    stage.projection.moves = 0
    waits = stage.rounds(3)
    assert [LEAST_PAUSE_S, 2 * LEAST_PAUSE_S, 4 * LEAST_PAUSE_S] == [pytest.approx(wait) for wait in waits]
    assert ["projection_failed"] == stage.events() and "the cursor stayed at 0" in stage.said[0][1]["why"]


# --------------------------------------------------------------------------- what goes wrong


def test_nobody_takes_it_now():
    """UpstreamFailed: the same batch again, after pauses that double up to a limit; said once, and once when over."""
    stage, times = Stage(Journal(3)), list[float]()

    class Timed(RecordingProjection):
        def apply(self, entries: Sequence[Entry]) -> None:
            times.append(stage.clock.at)
            super().apply(entries)

    stage.projection = Timed("p")
    stage.projection.fails = [UpstreamFailed("503 from the destination") for _ in range(9)]
    stage.rounds(1)
    stage.journal.write(4)  # type: ignore[attr-defined]
    while len(times) < 9:
        stage.rounds(1)
    assert ["projection_failed"] == stage.events() and 9 == stage.state().failures
    assert "503 from the destination" == stage.state().last_error
    while not stage.projection.told:
        stage.rounds(1)
    pauses = [later - sooner for sooner, later in pairwise(times)]
    assert [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0] == [pytest.approx(pause) for pause in pauses]
    stage.rounds(1)
    assert [[1, 2, 3]] * 10 + [[4, 5, 6, 7]] == stage.projection.batches
    assert ["projection_failed", "projection_recovered"] == stage.events()
    assert {"projection": "p", "after_s": 121.5} == stage.said[1][1]
    assert (0, None) == (stage.state().failures, stage.state().failing_since)
    assert 1 == stage.opened


def test_pauses_dont_march_in_step():
    """Chance takes off at most half of a pause."""
    for chance, wait in ((0.0, LEAST_PAUSE_S), (0.5, LEAST_PAUSE_S * 0.75), (1.0, LEAST_PAUSE_S / 2)):
        stage = Stage(Journal(1), chance)
        stage.projection.fails = [UpstreamFailed("down")]
        assert [pytest.approx(wait)] == stage.rounds(1)


@pytest.mark.parametrize(("asked_s", "waits_s"), [(0.1, LEAST_PAUSE_S), (45.0, 45.0), (3_600.0, 300.0), (None, 0.5)])
def test_a_destination_is_left_alone_for_as_long_as_it_asked(asked_s, waits_s):
    """Retry-After, up to five minutes: OTLP, "OTLP/HTTP Throttling"."""
    stage = Stage(Journal(1))
    stage.projection.fails = [UpstreamFailed("HTTP 429", kind="status", wait_s=asked_s)]
    begun = told_at = stage.clock.at
    while not stage.projection.told:
        told_at = stage.clock.at
        stage.rounds(1)
    assert pytest.approx(waits_s) == told_at - begun


def test_after_a_failing_notebook_it_is_made_anew():
    """StoreFailed: what is in memory may be half of a batch, so the projection is opened again."""
    stage = Stage(Journal(3))
    stage.projection.fails = [StoreFailed("disk full"), StoreFailed("disk full")]
    stage.rounds(3)
    assert (3, 2) == (stage.opened, stage.closed)
    assert ["projection_failed", "projection_recovered"] == stage.events()
    assert [[1, 2, 3]] * 3 == stage.projection.batches


def test_a_projection_that_cant_be_opened_is_tried_again():
    """An unreadable notebook, a channel that can't be used: said once, by one of the two turns."""
    stage = Stage(Journal(3))
    stage.open_fails = [StoreFailed("no such file"), StoreFailed("no such file")]
    stage.rounds(12)
    assert [1, 2, 3] == stage.projection.told and stage.projection.ticks
    assert ["projection_failed", "projection_recovered"] == stage.events()


def test_a_defect_names_its_entry_and_skips_nothing():
    """After an exception of another kind entries come one by one: the log names the one that can't be worked in."""

    class Poisoned(RecordingProjection):
        heals = False

        def apply(self, entries: Sequence[Entry]) -> None:
            if not self.heals and any(entry.seq == 3 for entry in entries):
                self.batches.append([entry.seq for entry in entries])
                raise ValueError("a text that may quote a body")
            super().apply(entries)

    stage = Stage(Journal(5))
    stage.projection = poisoned = Poisoned("p")
    stage.rounds(12)
    assert [[1, 2, 3, 4, 5], [1], [2], [3], [3]] == poisoned.batches[:5]
    assert [1, 2] == poisoned.told
    failed = [fields for event, fields in stage.said if event == "projection_failed"]
    assert [1, 1, 2, 4] == [fields["failures"] for fields in failed][:4]
    assert [None, 3, 3] == [fields.get("entry") for fields in failed][:3]
    assert not any("may quote" in str(fields) for _, fields in stage.said)
    poisoned.heals = True
    stage.journal.write(2)  # type: ignore[attr-defined]
    stage.rounds(3)
    assert [1, 2, 3, 4, 5, 6, 7] == poisoned.told and [4, 5, 6, 7] == poisoned.batches[-1]


def test_a_failing_tick_doesnt_stop_the_reading():
    """The two turns have pauses of their own: alerts that nobody takes don't hold up what is counted."""
    stage = Stage(Journal(1))
    stage.projection.tick_fails = [UpstreamFailed("the channel is down") for _ in range(3)]
    stage.rounds(1)
    stage.journal.write(1)  # type: ignore[attr-defined]
    stage.rounds(1)
    assert [1, 2] == stage.projection.told and 1 == stage.state().failures
    stage.rounds(int(5 / LOOK_S))
    assert 4 == len(stage.projection.ticks) and ["projection_failed", "projection_recovered"] == stage.events()


def test_a_tick_comes_when_it_asked_to():
    """In its own time, within limits: never in a tight loop, never later than in a minute."""
    stage = Stage(Journal())
    began = stage.clock.at
    stage.rounds(int(25 / LOOK_S))
    assert [0.0, 10.0, 20.0] == [pytest.approx(at - began, abs=LOOK_S) for at in stage.projection.ticks]
    for asked, comes in ((0.0, projector.LEAST_TICK_S), (1e9, projector.MOST_TICK_S)):
        stage = Stage(Journal())
        stage.projection.tick_s = asked
        stage.driver.round()
        stage.clock.advance(comes - 0.01)
        stage.driver.round()
        assert 1 == len(stage.projection.ticks)
        stage.clock.advance(0.02)
        stage.driver.round()
        assert 2 == len(stage.projection.ticks)


# --------------------------------------------------------------------------- the journal's ends


def test_what_was_forgotten_before_it_was_read_is_counted():
    """The journal's retention overtook the cursor: said once, counted each time, and it goes on at the oldest."""
    journal = Journal(10)
    stage = Stage(journal)
    stage.projection.cursor = 2
    journal.forget(6)
    stage.rounds(1)
    assert [7, 8, 9, 10] == stage.projection.told and 4 == stage.state().lost
    assert ("journal_forgotten", {"projection": "p", "after": 2, "goes_on_at": 7, "entries": 4}) == stage.said[0]
    journal.write(5)
    journal.forget(12)
    stage.rounds(2)
    assert 6 == stage.state().lost and ["journal_forgotten"] == stage.events()


def test_a_new_notebook_begins_at_the_oldest_entry():
    """Nobody was promised what is older than the journal: that isn't lost."""
    journal = Journal(10)
    journal.forget(6)
    stage = Stage(journal)
    stage.rounds(1)
    assert [7, 8, 9, 10] == stage.projection.told
    assert 0 == stage.state().lost and [] == stage.said


def test_a_cursor_ahead_of_the_journal_is_said():
    """Another ledger, or an older copy of it: nothing would come for a long time, silently."""
    stage = Stage(Journal(3))
    stage.projection.cursor = 50
    stage.rounds(2)
    assert ["projection_failed"] == stage.events()
    assert "its cursor 50 is ahead of the journal's end 3" in stage.said[0][1]["why"]
    empty = Stage(Journal())
    empty.projection.cursor = 50
    empty.rounds(2)
    assert [] == empty.said  # all of it was forgotten: nothing is wrong


# --------------------------------------------------------------------------- its life


def test_at_the_end_it_tells_what_came_last():
    """What was settled in the last moment is told before the process ends, and ticked once."""
    journal = Journal()
    stage = Stage(journal)
    stop = threading.Event()
    stop.set()
    journal.write(BATCH + 1)
    stage.driver.run(stop)
    assert BATCH + 1 == len(stage.projection.told) and 1 == stage.closed


def test_at_the_end_it_doesnt_wait_for_what_nobody_takes():
    """A destination that is down ends nothing later: what is left comes at the next start."""
    stage = Stage(Journal(3))
    stage.projection.fails = [UpstreamFailed("down") for _ in range(5)]
    stop = threading.Event()
    stop.set()
    stage.driver.run(stop)
    assert [[1, 2, 3]] == stage.projection.batches and 1 == stage.closed


async def test_over_a_real_ledger_and_notebooks(tmp_path: Path):
    """Three projections over one ledger, each with its cursor in a file: all see every call once, over restarts."""

    class Kept:
        """Keeps the calls that it saw, and its cursor, in one write."""

        def __init__(self, name: str, notebook: SqliteNotebook) -> None:
            self.name = name
            self._notebook = notebook

        @property
        def cursor(self) -> int:
            return self._notebook.cursor

        def apply(self, entries: Sequence[Entry]) -> None:
            seen = {f"{entry.seq:08}": str(entry.call_id).encode() for entry in entries if entry.kind == "call"}
            self._notebook.write(seen, entries[-1].seq)

        def tick(self, now: float) -> float:
            return 1.0

    clock = FakeClock()
    house = House(clock, lambda: 0.0, lambda event, fields: None, Health())

    @contextmanager
    def opens(name: str) -> Iterator[Opened]:
        with (
            closing(SqliteNotebook(tmp_path / f"{name}.sqlite3")) as notebook,
            closing(LedgerReader(tmp_path / "ledger.db")) as reading,
        ):
            yield Opened(Kept(name, notebook), reading)

    names = ["a", "b", "c"]
    async with opened(sqlite(tmp_path, FakeClock())) as store:
        for part in range(3):
            for number in range(5):
                await spend(store, f"c{part}{number}", 7)
            stop = threading.Event()
            stop.set()
            drive([Driver(name, partial(opens, name), house) for name in names], stop, lambda *_: None)
    for name in names:
        with closing(SqliteNotebook(tmp_path / f"{name}.sqlite3", read_only=True)) as notebook:
            assert [f"c{part}{number}" for part in range(3) for number in range(5)] == [
                value.decode() for _, value in notebook.all()
            ]


def test_a_thread_that_hangs_is_left_behind(monkeypatch):
    """The end comes in bounded time, and says who was cut."""
    monkeypatch.setattr(projector, "LAST_S", 0.05)
    hang, stop, said = threading.Event(), threading.Event(), list[tuple[str, dict[str, Any]]]()
    stage = Stage(Journal(1))
    stage.projection.tick = lambda now: float(hang.wait(30) or 1.0)  # type: ignore[method-assign]
    stop.set()
    began = time.monotonic()
    drive([stage.driver], stop, lambda event, fields: said.append((event, dict(fields))))
    assert time.monotonic() - began < 3
    assert [("projections_cut", {"projections": "p"})] == said
    hang.set()

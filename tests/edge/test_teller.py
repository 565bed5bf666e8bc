"""The process of the projections: replaced when it dies, gone when its parent is, and nothing told twice for it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.core.telemetry.settings import MetricRules, Telling
from gateway.edge import teller as edge
from gateway.edge.clock import SystemClock
from gateway.edge.teller import Teller
from tests.fakes import FakeClock
from tests.ledgers import opened, spend, sqlite
from tests.play import alive
from tests.tellers import COMMAND, ROOT, counted, lives

# A process that does what its telling's version says: `die` at once, `hang` and listen to nobody, or serve.
PUPPET = """
import json, os, signal, socket, sys, time
channel = socket.socket(fileno=int(sys.argv[-1]))
told = json.loads(channel.makefile("rb").readline())
with open(told["ledger"], "a") as file:
    file.write(f"{os.getpid()} {told['version']}\\n")
if told["version"] == "die":
    sys.exit(3)
channel.sendall(b"ready\\n")
if told["version"] == "hang":
    time.sleep(60)
got = channel.recv(64)
with open(told["ledger"], "a") as file:
    file.write(f"{os.getpid()} {got.decode().strip() or 'alone'}\\n")
"""


class Stage:
    """A Teller, what it said, and what its puppets wrote down."""

    def __init__(self, folder: Path, command: tuple[str, ...] = (sys.executable, "-c", PUPPET)) -> None:
        self.file = folder / "puppets"
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.teller = Teller(SystemClock(), lambda event, fields: self.said.append((event, dict(fields))), command)

    def wants(self, version: str, **more: Any) -> None:
        self.teller.tell(Telling(str(self.file), **{"metrics": MetricRules(), "version": version, **more}))

    def heard(self) -> list[list[str]]:
        return [line.split() for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def counts(self, event: str, times: int) -> bool:
        return times == self.count(event)

    def count(self, event: str) -> int:
        return sum(said == event for said, _ in self.said)


def gone(pid: int) -> bool:
    return not alive(pid)


def until(true: Callable[[], object], seconds: float = 20) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(edge, "PAUSES_S", (0.01, 0.02, 0.3))
    made = Stage(tmp_path)
    yield made
    made.teller.close()
    for pid in {int(line[0]) for line in made.heard()}:
        until(partial(gone, pid), 5)


def test_it_is_started_handed_all_and_told_to_stop(stage: Stage) -> None:
    """One line says what is wanted; the end comes in words, so that the last calls are still told."""
    stage.wants("1")
    until(lambda: stage.count("projections_started"))
    stage.teller.close()
    pid = stage.heard()[0][0]
    assert [[pid, "1"], [pid, "stop"]] == stage.heard()
    assert [("projections_started", {"pid": int(pid), "projections": "metrics"})] == stage.said


def test_where_nothing_is_wanted_nothing_runs(stage: Stage) -> None:
    """No metrics, no alerts, no destination: no process and no thread."""
    stage.wants("1", metrics=None)
    assert stage.teller._thread is None
    stage.wants("2")
    until(lambda: stage.count("projections_started"))
    stage.wants("3", metrics=None)
    until(lambda: [line[1] for line in stage.heard()] == ["2", "stop"])


def test_the_same_again_changes_nothing_and_another_replaces_it(stage: Stage) -> None:
    """A reload that says the same leaves it alone; another is a new process, after the old one has ended."""
    stage.wants("1")
    until(lambda: stage.count("projections_started"))
    stage.wants("1")
    stage.wants("2")
    until(lambda: 2 == stage.count("projections_started"))
    assert ["1", "stop", "2"] == [line[1] for line in stage.heard()]


def test_a_dead_one_is_replaced_after_pauses_that_grow(stage: Stage) -> None:
    """However often it dies: the pauses grow up to the last one, and each death says how and for how long."""
    stage.wants("die")
    until(lambda: 5 <= stage.count("projections_died"))
    stage.teller.close()
    died = [fields for event, fields in stage.said if event == "projections_died"]
    assert [0.01, 0.02, 0.3, 0.3] == [fields["again_in_s"] for fields in died][:4]
    assert {"how": "exit status 3", "served": False} == {name: died[0][name] for name in ("how", "served")}
    assert len(stage.heard()) == len(died)


def test_one_that_lived_long_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A death after a long life begins the pauses anew."""
    monkeypatch.setattr(edge, "PAUSES_S", (0.01, 9.0))
    stage = Stage(tmp_path)
    clock = stage.teller._clock = FakeClock()
    stage.wants("1")
    for life in range(1, 4):
        until(partial(stage.counts, "projections_started", life))
        clock.advance(edge.YOUNG_S)
        os.kill(int(stage.heard()[-1][0]), signal.SIGKILL)
        until(partial(stage.counts, "projections_died", life))
    stage.teller.close()
    died = [fields for event, fields in stage.said if event == "projections_died"]
    assert [("killed by SIGKILL", True, 0.01)] * 3 == [(f["how"], f["served"], f["again_in_s"]) for f in died]


def test_one_that_hangs_is_killed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop ends in bounded time."""
    monkeypatch.setattr(edge, "STOP_S", 0.1)
    stage.wants("hang")
    until(lambda: stage.count("projections_started"))
    began = time.monotonic()
    stage.teller.close()
    assert time.monotonic() - began < 2 and not alive(int(stage.heard()[0][0]))


def test_one_that_cant_be_started_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such program, no memory: said, and tried again; whoever serves calls goes on."""
    monkeypatch.setattr(edge, "PAUSES_S", (0.01,))
    stage = Stage(tmp_path, ("/nonexistent/program",))
    stage.wants("1")
    until(lambda: 2 <= stage.count("projections_died"))
    stage.teller.close()
    assert "no process can be started (No such file or directory)" == stage.said[0][1]["how"]


# --------------------------------------------------------------------------- with the real process

PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
from gateway.core.telemetry.settings import MetricRules, Telling
from gateway.edge.clock import SystemClock
from gateway.edge.teller import Teller
from tests.tellers import COMMAND
teller = Teller(SystemClock(), lambda event, fields: print(event, fields["pid"], flush=True), COMMAND)
teller.tell(Telling(sys.argv[2], metrics=MetricRules()))
sys.stdin.read()
"""


async def test_killed_amid_its_work_it_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """kill -9 again and again while calls are settled: each call is counted once."""
    said: list[str] = []
    teller = Teller(SystemClock(), lambda event, fields: said.append(event), COMMAND)
    async with opened(sqlite(tmp_path, FakeClock())) as store:
        teller.tell(Telling(str(tmp_path / "ledger.db"), metrics=MetricRules()))
        calls = [f"c{number:04}" for number in range(600)]
        killed: set[int] = set()
        for number, call in enumerate(calls):
            await spend(store, call, 1)
            alive_now = lives(tmp_path)[-1:]
            if number % 20 == 0 and alive_now and not killed & set(alive_now) and len(killed) < 3:
                with suppress(ProcessLookupError):
                    os.kill(alive_now[0], signal.SIGKILL)
                killed |= set(alive_now)
            if number % 20 == 0:
                await asyncio.sleep(0.05)
        await asyncio.to_thread(until, lambda: lives(tmp_path) and len(calls) <= counted(tmp_path)[0])
        await asyncio.to_thread(teller.close)
    assert (len(calls), set(calls)) == counted(tmp_path)
    assert killed and len(killed) == said.count("projections_died") and len(lives(tmp_path)) > len(killed)


async def test_what_is_settled_last_is_told_before_the_end(tmp_path: Path) -> None:
    """A stop comes after the last call: it isn't left for the next start."""
    said: list[str] = []
    teller = Teller(SystemClock(), lambda event, fields: said.append(event), COMMAND)
    async with opened(sqlite(tmp_path, FakeClock())) as store:
        teller.tell(Telling(str(tmp_path / "ledger.db"), metrics=MetricRules()))
        await asyncio.to_thread(until, lambda: said)
        for number in range(50):
            await spend(store, f"c{number}", 1)
    await asyncio.to_thread(teller.close)
    assert 50 == counted(tmp_path)[0] and ["projections_started"] == said


async def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent that is killed can tell nobody: the kernel does, and the next parent's process takes over."""
    async with opened(sqlite(tmp_path, FakeClock())):
        command = [sys.executable, "-c", PARENT, str(ROOT), str(tmp_path / "ledger.db")]
        pids = []
        for _ in range(2):
            with subprocess.Popen(  # noqa: ASYNC220  nothing else runs in this loop
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as parent:
                assert parent.stdout is not None
                event, pid = (await asyncio.to_thread(parent.stdout.readline)).split()
                assert "projections_started" == event
                pids.append(int(pid))
                for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # to all of a terminal, or of a unit
                    os.kill(int(pid), ignored)
                await asyncio.sleep(0.3)
                assert alive(int(pid))
                parent.kill()
            await asyncio.to_thread(until, lambda: not alive(pids[-1]), 5)
    assert 2 == len(set(pids))


async def test_a_second_one_waits_for_the_first(tmp_path: Path) -> None:
    """Two gateways on one ledger: one process tells, the other takes over when that ends."""
    async with opened(sqlite(tmp_path, FakeClock())) as store:
        said: list[tuple[str, str]] = []

        def log(who: str, event: str, fields: dict[str, Any]) -> None:
            said.append((who, event))

        tellers = [Teller(SystemClock(), partial(log, who), COMMAND) for who in ("first", "second")]
        telling = Telling(str(tmp_path / "ledger.db"), metrics=MetricRules())
        tellers[0].tell(telling)
        await asyncio.to_thread(until, lambda: said)
        tellers[1].tell(telling)
        await spend(store, "c1", 1)
        await asyncio.to_thread(until, lambda: counted(tmp_path)[0])
        await asyncio.sleep(1.0)
        assert [("first", "projections_started")] == said and 1 == len(lives(tmp_path))
        await asyncio.to_thread(tellers[0].close)
        await asyncio.to_thread(until, lambda: ("second", "projections_started") in said)
        await spend(store, "c2", 1)
        await asyncio.to_thread(until, lambda: 2 == counted(tmp_path)[0])
        await asyncio.to_thread(tellers[1].close)

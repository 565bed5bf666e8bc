"""The composition of the projections' process: each is made over its own file, and comes when its folder is free."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.core.telemetry.health import Health
from gateway.core.telemetry.settings import AlertRules, Channel, Destination, MetricRules, Placed, Telling, Watched
from gateway.edge.clock import SystemClock
from gateway.stores.folder import METRICS_FILE, Folder
from gateway.stores.notebook import SqliteNotebook
from gateway.telling import Desk, Maker, _opened, makers, tell
from tests.fakes import FakeClock, RecordingProjection
from tests.ledgers import opened, spend, sqlite

DESTINATION = Destination("lab", "http://127.0.0.1:9", headers={"x": "y"})
CHANNEL = Channel("pager", "http://127.0.0.1:9/x", "whsec_MfKQ9r8GKYqUgNdUaBuoDqDZkD9NXDT5", local=True)


def desk(folder: Path, telling: Telling) -> Desk:
    """What makers get."""
    return Desk(telling, folder, SystemClock(), Health(), lambda *_: None)


def test_what_is_wanted_is_made_and_nothing_else(tmp_path):
    """One maker for each name that the settings have."""
    assert {} == makers(desk(tmp_path, Telling("x")))
    telling = Telling("x", (DESTINATION,), MetricRules(), AlertRules())
    assert telling.names == tuple(makers(desk(tmp_path, telling)))


async def test_each_is_made_over_its_own_notebook(tmp_path):
    """All three kinds, with everything that they are told; what they open they let go."""
    telling = Telling(
        ledger=str(tmp_path / "ledger.db"),
        destinations=(DESTINATION,),
        metrics=MetricRules("1"),
        alerts=AlertRules((CHANNEL,)),
        budgets=(Watched("day", "global", "nusd", 10, "day", "Europe/Berlin"),),
        sections={"openai": Placed("openai", "api.openai.com", 443)},
        version="1",
    )
    async with opened(sqlite(tmp_path, FakeClock())) as store:
        await spend(store, "c1", 7)
        at = desk(tmp_path / "projections", telling)
        for name, maker in makers(at).items():
            with _opened(at, name, maker) as found:
                assert (name, 0) == (found.projection.name, found.projection.cursor)
                if name == "metrics":
                    found.projection.apply(found.reading.entries(0))
                    found.projection.tick(SystemClock().now())
    assert sorted([*(f"{name}.sqlite3" for name in telling.names), METRICS_FILE]) == sorted(
        file.name for file in (tmp_path / "projections").iterdir() if not file.name.endswith(("-wal", "-shm"))
    )


def test_an_idle_process_imports_no_library_that_nothing_needs(tmp_path):
    """Metrics and alerts alone: neither pydantic nor aiohttp, asyncio, OpenTelemetry, requests or apprise."""
    code = (
        "import sys, threading\n"
        "from gateway.cli import teller\n"
        "from gateway.edge.log import Log\n"
        "from gateway.core.telemetry.settings import AlertRules, MetricRules, Telling\n"
        "from gateway.telling import tell\n"
        "stop = threading.Event()\n"
        "telling = Telling(sys.argv[1], metrics=MetricRules(), alerts=AlertRules())\n"
        "failed = []\n"
        "tell(telling, stop, stop.set, lambda event, fields: failed.append((event, fields)))\n"
        "heavy = ('pydantic', 'aiohttp', 'asyncio', 'opentelemetry', 'requests', 'apprise', 'google', 'click')\n"
        "print([name for name in heavy if name in sys.modules], failed)\n"
    )
    sqlite_file = tmp_path / "ledger.db"
    make = (
        "import asyncio, sys; from pathlib import Path; from tests.fakes import FakeClock\n"
        "from tests.ledgers import opened, sqlite\n"
        "async def one():\n"
        "    async with opened(sqlite(Path(sys.argv[1]).parent, FakeClock())): pass\n"
        "asyncio.run(one())\n"
    )
    subprocess.run([sys.executable, "-c", make, str(sqlite_file)], check=True, timeout=60)
    done = subprocess.run(
        [sys.executable, "-c", code, str(sqlite_file)], check=False, capture_output=True, text=True, timeout=60
    )
    assert ("[] []\n", "") == (done.stdout, done.stderr)


def test_a_notebook_that_cant_be_used_is_said(tmp_path):
    """It is moved aside, the projection begins anew, and the log says where the old one is."""
    said: list[tuple[str, dict[str, Any]]] = []
    (tmp_path / "p.sqlite3").write_bytes(b"not a database" * 100)
    (tmp_path / "ledger.db").touch()
    at = Desk(Telling(str(tmp_path / "ledger.db")), tmp_path, SystemClock(), Health(), lambda e, f: said.append((e, f)))
    with _opened(at, "p", lambda reading, notebook: RecordingProjection("p")):
        assert ["notebook_moved"] == [event for event, _ in said]
        assert str(tmp_path / "p.sqlite3.aside") == said[0][1]["to"]


async def test_it_waits_until_the_folder_is_free(tmp_path):
    """Ready is said once nobody else works there, and a stop is heard while it waits."""
    async with opened(sqlite(tmp_path, FakeClock())):
        other = Folder(tmp_path / "ledger.db")
        assert other.take()
        stop, ready, blocked = threading.Event(), threading.Event(), threading.Event()
        said: list[str] = []

        def log(event: str, fields: dict[str, Any]) -> None:
            said.append(f"{event}: {fields['why']}")
            blocked.set()

        def make(at: Desk) -> Mapping[str, Maker]:
            return {"p": lambda reading, notebook: RecordingProjection("p")}

        telling = Telling(str(tmp_path / "ledger.db"), metrics=MetricRules())
        thread = threading.Thread(target=tell, args=(telling, stop, ready.set, log, make))
        thread.start()
        assert blocked.wait(10) and not ready.is_set()
        other.leave()
        assert ready.wait(10)
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
        assert ["projections_blocked: another process tells of this ledger; this one goes on when that ends"] == said
        again = Folder(tmp_path / "ledger.db")
        assert again.take()
        stop.set()
        tell(telling, stop, lambda: None, log, make)  # told to stop before it could begin
        again.leave()


def test_the_notebook_is_closed_when_the_projection_cant_be_made(tmp_path):
    """A failure amid the making leaves nothing open: the next try opens it again."""
    (tmp_path / "ledger.db").touch()
    at = desk(tmp_path, Telling(str(tmp_path / "ledger.db")))
    seen: list[SqliteNotebook] = []

    def fails(reading: object, notebook: SqliteNotebook) -> RecordingProjection:
        seen.append(notebook)
        raise ValueError("cannot")

    with pytest.raises(ValueError, match="cannot"), _opened(at, "p", fails):
        pass
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        seen[0]._connection.execute("SELECT 1")

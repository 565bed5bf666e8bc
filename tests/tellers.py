"""Projections for tests, in a real process of their own: one that counts every call exactly once, as it claims.

Invariant: it keeps nothing but its notebook; the file `lives` in its folder gets a line for each time that it is made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.cli import teller
from gateway.core.errors import StoreFailed
from gateway.core.ports import Reading
from gateway.core.types import Entry
from gateway.stores.notebook import SqliteNotebook
from gateway.telling import Desk, Maker

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); import tests.tellers as t; t.main()")
NAME = "counting"


class Counting:
    """Counts calls, one entry to a write, so that a kill comes amid a batch. Implements ports.Projection."""

    def __init__(self, name: str, notebook: SqliteNotebook) -> None:
        self.name = name
        self._notebook = notebook

    @property
    def cursor(self) -> int:
        return self._notebook.cursor

    def apply(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            kept = {entry.call_id or "": b"seen"} if entry.kind == "call" else {}
            count = int(self._notebook.get("#") or b"0") + len(kept)
            self._notebook.write({**kept, "#": b"%d" % count}, entry.seq)

    def tick(self, now: float) -> float:
        return 1.0


def counting(desk: Desk) -> Mapping[str, Maker]:
    """One projection, whatever is wanted."""

    def make(reading: Reading, notebook: SqliteNotebook) -> Counting:
        with (desk.folder / "lives").open("a") as lives:
            lives.write(f"{os.getpid()}\n")
        return Counting(NAME, notebook)

    return {NAME: make}


def main() -> None:
    """The process, as gateway/cli/teller.py runs it."""
    teller.main(counting)


def lives(folder: Path) -> list[int]:
    """The processes in which it was made so far."""
    file = folder / "projections" / "lives"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def counted(folder: Path) -> tuple[int, set[str]]:
    """How many calls it counted, and which; none while there is no notebook."""
    try:
        notebook = SqliteNotebook(folder / "projections" / f"{NAME}.sqlite3", read_only=True)
    except StoreFailed:
        return 0, set()
    try:
        kept = dict(notebook.all())
        return int(kept.pop("#", b"0")), set(kept)
    finally:
        notebook.close()

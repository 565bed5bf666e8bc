"""A notebook remembers whole writes, survives a kill, and is begun anew where its file can't be used."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.core.errors import StoreFailed
from gateway.stores import notebook
from gateway.stores.notebook import SqliteNotebook
from tests.e2e.faulty import filled, small_disk

WRITER = """
import sys
from pathlib import Path
from gateway.stores import notebook
from gateway.stores.notebook import SqliteNotebook
book = SqliteNotebook(Path(sys.argv[1]))
number = book.cursor
while True:
    number += 1
    book.write({"a": str(number).encode(), "b": str(number).encode()}, number)
    print(number, flush=True)
"""


def test_what_is_written_is_there_after_a_reopening(tmp_path):
    """Keys, values and cursor; a key that is None is forgotten; keys come in order below their prefix."""
    book = SqliteNotebook(tmp_path / "sub" / "one.sqlite3")
    assert 0 == book.cursor
    book.write({"x/2": b"two", "x/1": b"one", "y": b"why", "z": b"gone"}, 7)
    book.write({"z": None, "y": b"because"})
    book.close()
    again = SqliteNotebook(tmp_path / "sub" / "one.sqlite3")
    assert 7 == again.cursor
    assert [("x/1", b"one"), ("x/2", b"two")] == list(again.all("x/"))
    assert b"because" == again.get("y")
    assert again.get("z") is None
    again.close()


def test_a_kill_leaves_whole_writes(tmp_path):
    """SIGKILL amid a stream of writes: both keys and the cursor are those of one write, none that was told is lost."""
    path = tmp_path / "one.sqlite3"
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            told = [int(writer.stdout.readline()) for _ in range(20)][-1]
            os.kill(writer.pid, signal.SIGKILL)
            told = int(([told] + [int(line) for line in writer.stdout.read().split("\n")[:-1]])[-1])
        book = SqliteNotebook(path)
        assert told <= book.cursor
        assert str(book.cursor).encode() == book.get("a") == book.get("b")
        book.close()


@pytest.mark.parametrize("junk", [b"this is no database" * 100, b"SQLite format 3\x00" + b"\x07" * 4096])
def test_a_file_that_cannot_be_used_is_put_aside(tmp_path, junk):
    """The notebook begins anew, and says where the old file went."""
    path = tmp_path / "one.sqlite3"
    path.write_bytes(junk)
    moved: list[Path] = []
    book = SqliteNotebook(path, moved=moved.append)
    assert 0 == book.cursor
    assert [tmp_path / "one.sqlite3.aside"] == moved
    assert junk == moved[0].read_bytes()
    book.write({"a": b"1"}, 1)
    book.close()


@pytest.mark.parametrize("why", ["full", "locked"])
def test_what_passes_by_puts_nothing_aside(tmp_path, monkeypatch, why):
    """A disk without room, another process that locks: a failure now, and the same notebook afterwards."""
    monkeypatch.setattr(notebook, "LOCK_WAIT_S", 0.0)
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "one.sqlite3"
        book = SqliteNotebook(path)
        book.write({"a": b"1"}, 7)
        book.close()
        other = sqlite3.connect(path, isolation_level=None)
        if why == "locked":
            other.execute("PRAGMA locking_mode=EXCLUSIVE")
            other.execute("UPDATE cursor SET seq = 8")
        filler = filled(disk) if why == "full" else None
        moved: list[Path] = []
        with pytest.raises(StoreFailed):
            SqliteNotebook(path, moved=moved.append)
        other.close()
        if filler is not None:
            filler.unlink()
        again = SqliteNotebook(path, moved=moved.append)
        assert ([], b"1", 8 if why == "locked" else 7) == (moved, again.get("a"), again.cursor)
        again.close()


def test_readers_read_what_is_committed_and_write_nothing(tmp_path):
    """Read-only: there must be a file, and a write fails."""
    with pytest.raises(StoreFailed):
        SqliteNotebook(tmp_path / "none.sqlite3", read_only=True)
    book = SqliteNotebook(tmp_path / "one.sqlite3")
    reader = SqliteNotebook(tmp_path / "one.sqlite3", read_only=True)
    book.write({"a": b"1"}, 1)
    assert b"1" == reader.get("a")
    with pytest.raises(StoreFailed):
        reader.write({"a": b"2"})
    reader.close()
    book.close()


def test_a_write_that_fails_leaves_what_was_before(tmp_path):
    """No part of it is there, and the cursor stays."""
    book = SqliteNotebook(tmp_path / "one.sqlite3")
    book.write({"a": b"1"}, 1)
    with pytest.raises(StoreFailed):
        book.write({"a": b"2", "b": object()}, 2)  # type: ignore[dict-item]
    assert (1, b"1") == (book.cursor, book.get("a"))
    book.write({"a": b"3"}, 3)
    assert (3, b"3") == (book.cursor, book.get("a"))
    book.close()

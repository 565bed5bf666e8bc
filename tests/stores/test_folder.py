"""The folder of the projections: one process at a time, one ledger."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gateway.core.errors import StoreFailed
from gateway.stores.folder import Folder, folder_of

HOLDER = """
import sys
from pathlib import Path
from gateway.stores.folder import Folder
folder = Folder(Path(sys.argv[1]))
print(folder.take(), flush=True)
sys.stdin.read()
"""


def test_it_lies_beside_the_ledger(tmp_path):
    """Made on first use, for its owner only."""
    folder = Folder(tmp_path / "state" / "ledger.sqlite3")
    assert folder.take() and tmp_path / "state" / "projections" == folder.path == folder_of(tmp_path / "state" / "x")
    assert 0o700 == folder.path.stat().st_mode & 0o777
    folder.leave()


def test_one_process_at_a_time(tmp_path):
    """Who comes second waits; the lock goes with a process that is killed."""
    ledger = tmp_path / "ledger.sqlite3"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(ledger)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and "True\n" == holder.stdout.readline()
        folder = Folder(ledger)
        assert not folder.take()
        holder.kill()
        holder.wait()
        assert folder.take()
        folder.leave()
    assert Folder(ledger).take()


def test_one_ledger(tmp_path):
    """Another ledger in the same folder would count from cursors that aren't its own."""
    mine = Folder(tmp_path / "a.sqlite3")
    assert mine.take()
    mine.leave()
    with pytest.raises(StoreFailed, match=r"has the notebooks of the ledger a\.sqlite3: give each ledger a folder"):
        Folder(tmp_path / "b.sqlite3").take()
    assert Folder(tmp_path / "a.sqlite3").take()


def test_a_folder_that_cant_be_made_is_said(tmp_path):
    """Not a traceback, but what and why."""
    (tmp_path / "projections").write_text("a file")
    with pytest.raises(StoreFailed, match="projections can't be used"):
        Folder(tmp_path / "ledger.sqlite3").take()

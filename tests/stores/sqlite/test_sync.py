"""fsync beside the writing."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from gateway.stores.sqlite.sync import Sync


def answered(sync: Sync) -> None:
    """Returns once the disk has answered."""
    pause = threading.Event()
    for _ in range(5000):
        if not sync.busy:
            return
        pause.wait(0.001)
    raise AssertionError("the disk doesn't answer")


def test_the_file_is_synced_beside_the_asker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """He goes on at once, and sees when it is done; the thread ends with its owner."""
    (tmp_path / "log").write_bytes(b"x")
    go = threading.Event()
    synced: list[int] = []

    def waits(file: int) -> None:
        go.wait(10)
        synced.append(os.fstat(file).st_ino)

    monkeypatch.setattr(os, "fsync", waits)
    sync = Sync(tmp_path / "log")
    sync.ask()
    assert (True, [], 1, 0) == (sync.busy, synced, sync.asked, sync.done)
    go.set()
    answered(sync)
    assert [(tmp_path / "log").stat().st_ino] == synced
    assert not sync.take_failed()
    sync.close()
    for thread in threading.enumerate():
        if thread.name == "ledger-sync":
            thread.join(10)
    assert "ledger-sync" not in {thread.name for thread in threading.enumerate()}


def test_a_no_of_the_disk_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a file that is gone needs no sync."""
    (tmp_path / "log").write_bytes(b"x")

    def fails(file: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "fsync", fails)
    sync = Sync(tmp_path / "log")
    sync.ask()
    answered(sync)
    assert [True, False] == [sync.take_failed(), sync.take_failed()]
    (tmp_path / "log").unlink()
    sync.ask()
    answered(sync)
    assert not sync.take_failed()
    sync.close()

"""A gateway whose disk and clock fail when a test says so: by a preloaded shim (faults.c), or on a small real disk.

Invariant: only the gateway's process and files called `ledger.db*` are hit; a fault begins and ends while it runs.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.play import Gateway

SOURCE = Path(__file__).with_name("faults.c")
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


class Faults:
    """What fails now; the gateway's process sees a change at once."""

    def __init__(self, folder: Path) -> None:
        if COMPILER is None:
            pytest.skip("cc is missing: the shim that fails on purpose can't be compiled")
        self.library = folder / "faults.so"
        words = [COMPILER, "-shared", "-fPIC", "-O2", "-o", str(self.library), str(SOURCE), "-ldl"]
        subprocess.run(words, check=True)
        self.file = folder / "faults"
        self.file.write_bytes(bytes(64))
        with self.file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), 64)

    def writes(self, errno: int) -> None:
        """Every write to the ledger fails so; 0: none does."""
        self._map[0] = errno

    def syncs(self, errno: int = 0, slower_s: float = 0.0) -> None:
        """Every sync of the ledger fails so, or takes longer."""
        self._map[1] = errno
        self._map[4:8] = struct.pack("i", round(slower_s * 1e6))

    def clock(self, ahead_s: int) -> None:
        """The wall clock is so far ahead of the real one, or behind."""
        self._map[8:16] = struct.pack("q", ahead_s)

    @property
    def synced(self) -> int:
        """How often the ledger was synced."""
        found: int = struct.unpack("q", self._map[16:24])[0]
        return found

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Processes that start in this block have the shim."""
        os.environ.update(LD_PRELOAD=str(self.library), FAULTS_FILE=str(self.file))
        try:
            yield
        finally:
            del os.environ["LD_PRELOAD"], os.environ["FAULTS_FILE"]

    def start(self, gateway: Gateway) -> Gateway:
        """Starts a gateway that these faults hit."""
        with self.loaded():
            return gateway.start()


@contextmanager
def small_disk(folder: Path, size: str = "4m") -> Iterator[Path]:
    """A real file system with so much room. Skips where nothing may be mounted."""
    folder.mkdir(exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("root is missing: a small disk can't be mounted")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"mount is missing here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def read_only(folder: Path) -> None:
    """From now on nothing may be written there."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def filled(folder: Path) -> Path:
    """Takes all the room that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler

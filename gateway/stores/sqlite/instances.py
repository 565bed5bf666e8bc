"""Which processes have the ledger open: each holds a lock file of its own, named by its instance, while it lives.

Invariant: a file that bears an instance's name is locked from the moment it appears, so whoever can take it knows that
its process is dead; it goes away once all is charged that was held in its name. What never enters: leases, money.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.stores.sqlite.lock import is_free, take

_MADE: Final = "made"


class Instances:
    """The folder of these files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._mine: tuple[Path, int] | None = None

    @property
    def made(self) -> bool:
        """The ledger beside this folder had its tables once: it is not new, even if it is empty."""
        return (self._folder / _MADE).exists()

    def enter(self, instance: str) -> None:
        """Says that this process lives. The file gets its name when it is locked."""
        (self._folder / _MADE).touch()
        place = self._folder / f"{instance}.lock"
        hidden = place.with_suffix(".new")
        lock = take(hidden)
        if lock is None:
            raise OSError(f"{hidden} is locked by another process: two processes have one name")
        hidden.rename(place)
        self._mine = (place, lock)

    def leave(self) -> None:
        """This process holds nothing any more. Else others find its file, and charge what it left."""
        if self._mine is not None:
            self._mine[0].unlink(missing_ok=True)

    def close(self) -> None:
        """Lets our own lock go."""
        if self._mine is not None:
            os.close(self._mine[1])
            self._mine = None

    def bury(self, charge: Callable[[str], bool]) -> None:
        """Calls `charge` for each instance that is dead; its file goes if that gives True. Nobody else does the same
        meanwhile."""
        for file, lock in self._others():
            try:
                if is_free(lock) and charge(file.stem):
                    file.unlink(missing_ok=True)
            finally:
                os.close(lock)

    def has_company(self) -> bool:
        """Does another process have the ledger open?"""
        found = False
        for _, lock in self._others():
            found = found or not is_free(lock)
            os.close(lock)
        return found

    def _others(self) -> Iterator[tuple[Path, int]]:
        mine = self._mine[0] if self._mine is not None else None
        for file in sorted(self._folder.glob("*.lock")):
            if file != mine:
                with suppress(FileNotFoundError):  # somebody else was quicker
                    yield file, os.open(file, os.O_RDWR | os.O_CLOEXEC)

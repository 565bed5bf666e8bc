"""Who lives: the lock file of each process that has the ledger open."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.stores.sqlite.instances import Instances
from gateway.stores.sqlite.lock import take


def entered(folder: Path, name: str) -> Instances:
    """A process that lives."""
    instances = Instances(folder)
    instances.enter(name)
    return instances


def charging(asked: list[str], done: bool) -> Callable[[str], bool]:
    """Notes who is to be charged, and says whether that was done."""

    def charge(instance: str) -> bool:
        asked.append(instance)
        return done

    return charge


def names(folder: Path) -> list[str]:
    """What lies in the folder."""
    return sorted(file.name for file in folder.iterdir())


def test_only_the_dead_are_buried(tmp_path: Path) -> None:
    """A living process keeps its file; who can't be charged now is found again; who is charged is gone."""
    one, two = entered(tmp_path, "one"), entered(tmp_path, "two")
    entered(tmp_path, "dead").close()
    asked: list[str] = []
    one.bury(charging(asked, False))
    assert (["dead"], ["dead.lock", "made", "one.lock", "two.lock"]) == (asked, names(tmp_path))
    two.bury(charging(asked, True))
    one.bury(charging(asked, True))
    assert (["dead", "dead"], ["made", "one.lock", "two.lock"]) == (asked, names(tmp_path))
    one.close()
    two.close()


def test_while_one_buries_nobody_else_does(tmp_path: Path) -> None:
    """The file stays locked as long as its instance is being charged."""
    one, two = entered(tmp_path, "one"), entered(tmp_path, "two")
    entered(tmp_path, "dead").close()
    asked: list[str] = []

    def charge(name: str) -> bool:
        two.bury(charging(asked, True))
        return True

    one.bury(charge)
    assert [] == asked
    one.close()
    two.close()


def test_a_file_is_locked_from_the_moment_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks at the wrong moment takes nobody for dead that has just begun to live."""
    seen: list[bool] = []
    rename = Path.rename

    def looks(self: Path, target: Path) -> Path:
        renamed = rename(self, target)
        seen.append(take(target) is None)
        return renamed

    monkeypatch.setattr(Path, "rename", looks)
    instances = entered(tmp_path, "one")
    assert ([True], ["made", "one.lock"]) == (seen, names(tmp_path))
    instances.leave()
    instances.close()
    assert ["made"] == names(tmp_path)


def test_two_processes_with_one_name_are_refused(tmp_path: Path) -> None:
    """Ids are unique; where they aren't, that is said."""
    lock = take(tmp_path / "one.new")
    assert lock is not None
    with pytest.raises(OSError, match="two processes have one name"):
        entered(tmp_path, "one")
    os.close(lock)


def test_company_is_seen(tmp_path: Path) -> None:
    """Of the living only; and a folder that had a ledger knows it."""
    one = Instances(tmp_path)
    assert (False, False) == (one.made, one.has_company())
    two = entered(tmp_path, "two")
    assert (True, True) == (one.made, one.has_company())
    assert not two.has_company()
    two.close()
    assert not one.has_company()

"""The lock of the ledger, between threads and between processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.stores.sqlite.lock import FairLock, take


def test_a_lock_is_held_for_a_block_only(tmp_path: Path) -> None:
    """Nobody else can take it inside; anybody can afterwards, also when the block raised."""
    lock = FairLock(tmp_path / "ledger.lock", 0.01)
    with lock.held():
        assert take(lock.file) is None
    with pytest.raises(ValueError, match="why"), lock.held():
        raise ValueError("why")
    taken = take(lock.file)
    assert taken is not None
    with pytest.raises(OSError, match=r"ledger\.lock was not free within 0\.01 s"), lock.held():
        pass
    os.close(taken)
    with lock.held():
        pass
    lock.close()

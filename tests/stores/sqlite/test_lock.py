"""The lock of the ledger, between threads and between processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.stores.sqlite.lock import FairLock, take

ROOT = Path(__file__).resolve().parents[3]

GREEDY = """
import sys, time
from pathlib import Path
from gateway.stores.sqlite.lock import FairLock
lock = FairLock(Path(sys.argv[1]), 10.0)
print("ready", flush=True)
sys.stdin.readline()
waits, ends_at = [], time.monotonic() + float(sys.argv[2])
while (begun := time.monotonic()) < ends_at:
    with lock.held():
        waits.append(time.monotonic() - begun)
        time.sleep(0.002)
print(len(waits), sorted(waits)[len(waits) * 99 // 100])
"""

HOLDER = """
import sys, time
from pathlib import Path
from gateway.stores.sqlite.lock import take
assert take(Path(sys.argv[1])) is not None
print("held", flush=True)
sys.stdin.readline()
"""


def child(code: str, *args: object) -> subprocess.Popen[str]:
    """A process that runs this text and has said its first line."""
    command = [sys.executable, "-c", code, *map(str, args)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline()
    return process


@contextmanager
def held_elsewhere(file: Path) -> Iterator[subprocess.Popen[str]]:
    """The lock in the hands of another process, until the block ends or it is killed."""
    process = child(HOLDER, file)
    try:
        yield process
    finally:
        process.communicate("\n", timeout=10)


def until_taken(file: Path) -> int:
    """Waits for the lock by asking again and again."""
    pause = threading.Event()
    for _ in range(1000):
        if (lock := take(file)) is not None:
            return lock
        pause.wait(0.005)
    raise AssertionError(f"{file} stays locked")


def test_a_lock_is_held_for_a_block_only(tmp_path: Path) -> None:
    """Nobody else can take it inside; anybody can afterwards, also when the block raised."""
    lock = FairLock(tmp_path / "ledger.lock", 0.01)
    with lock.held():
        assert take(lock.file) is None
    with pytest.raises(ValueError, match="why"), lock.held():
        raise ValueError("why")
    os.close(until_taken(lock.file))
    with lock.held():
        pass
    lock.close()


def test_each_process_gets_its_share(tmp_path: Path) -> None:
    """Four processes that want it all the time: nobody gets much more than another, nobody waits for long."""
    children = [child(GREEDY, tmp_path / "ledger.lock", 1.5) for _ in range(4)]
    for one in children:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    said = [one.communicate(timeout=30)[0].split() for one in children]
    shares = sorted(int(turns) for turns, _ in said)
    assert shares[-1] <= 2 * shares[0], shares
    assert max(float(wait) for _, wait in said) < 0.25, said


def test_a_stuck_holder_is_waited_for_only_so_long(tmp_path: Path) -> None:
    """Then it is said who is in the way; the place in the queue is kept, and serves the next try at once."""
    lock = FairLock(tmp_path / "ledger.lock", 0.05)
    with held_elsewhere(lock.file):
        for _ in range(3):
            with pytest.raises(OSError, match=r"ledger\.lock was not free within 0\.05 s"), lock.held():
                pass
        assert 1 == [thread.name for thread in threading.enumerate()].count("ledger-lock")
        lock.wait_s = 10.0
        inside = threading.Event()

        def enter() -> None:
            with lock.held():
                inside.set()

        waiting = threading.Thread(target=enter)
        waiting.start()
    assert inside.wait(10)
    waiting.join()
    lock.close()


def test_a_lock_that_comes_too_late_is_let_go(tmp_path: Path) -> None:
    """Who has given up holds nothing: others get it, and he himself again."""
    lock = FairLock(tmp_path / "ledger.lock", 0.02)
    with held_elsewhere(lock.file), pytest.raises(OSError, match="not free"), lock.held():
        pass
    os.close(until_taken(lock.file))
    lock.wait_s = 10.0
    with lock.held():
        assert take(lock.file) is None
    lock.close()


def test_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    """SIGKILL: the kernel lets go, whoever waits goes on."""
    lock = FairLock(tmp_path / "ledger.lock", 10.0)
    with held_elsewhere(lock.file) as holder:
        threading.Timer(0.05, holder.kill).start()
        with lock.held():
            pass
    lock.close()


def test_a_closed_lock_leaves_no_thread(tmp_path: Path) -> None:
    """Closed while it still waits in the queue: it lets go as soon as it gets there."""
    lock = FairLock(tmp_path / "ledger.lock", 0.02)
    with held_elsewhere(lock.file):
        with pytest.raises(OSError, match="not free"), lock.held():
            pass
        lock.close()
    for thread in threading.enumerate():
        if thread.name == "ledger-lock":
            thread.join(10)
    assert "ledger-lock" not in {thread.name for thread in threading.enumerate()}
    os.close(until_taken(lock.file))

"""The thread that writes down what calls said: bounded, never waited for, and nothing raw reaches the disk.

Invariant: a real SQLite ledger on disk; what is waited for is a condition with a bound.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.core.capture import Said
from gateway.core.types import Content
from gateway.edge import capture
from gateway.edge.capture import Capture
from gateway.stores.sqlite import SqliteStore
from tests.fakes import FakeClock
from tests.ledgers import opened, sqlite

CANARY = "sk-" + "canary" * 6
PHRASE = "a quite harmless sentence"


class Slow:
    """A store that takes contents only when it may. Implements what Capture needs of ports.Store."""

    def __init__(self, loses: bool = False) -> None:
        self.may = threading.Event()
        self.got: list[Content] = []
        self._loses = loses

    def remember(self, content: Content, lost: Callable[[], None]) -> None:
        self.may.wait(10)
        self.got.append(content)
        if self._loses:
            lost()


def said(call: str, text: str = PHRASE, answer: bytes = b"") -> Said:
    request = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    return Said(call, "r", "openai-chat", request, (answer,), False)


def made(store: Any) -> tuple[Capture, list[tuple[str, dict[str, Any]]]]:
    lines: list[tuple[str, dict[str, Any]]] = []
    return Capture(store, FakeClock(), lambda event, fields: lines.append((event, fields))), lines


async def until(true: Callable[[], bool]) -> None:
    for _ in range(2_000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("not in time")


def wal(folder: Path) -> bytes:
    return (folder / "ledger.db-wal").read_bytes()


def on_disk(folder: Path) -> bytes:
    """All that stands in the ledger's folder: the file, its log, its locks."""
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_raw_text_never_reaches_the_disk(tmp_path: Path) -> None:
    """R-083, design.md section 5: the file and its log are searched for planted secrets, and for what may be there."""
    answer = json.dumps({"choices": [{"message": {"content": f"mail joe.doe@example.com, use {CANARY}"}}]}).encode()
    async with opened(sqlite(tmp_path, FakeClock())) as store:
        ear, lines = made(store)
        ear.take(said("c1", f"{PHRASE}, 4111 1111 1111 1111, password: tulipan, {CANARY}", answer))
        await asyncio.to_thread(ear.close)
        await store.run("r")
        reading = store.reading()
        assert (reading.content("c1", "r") or {})["output"]
        assert len(wal(tmp_path)) > 0
        raw = on_disk(tmp_path)
        await ear.look()
    assert PHRASE.encode() in raw and b"[redacted:api-key]" in raw and b"[redacted:card]" in raw
    assert not [word for word in (CANARY, "joe.doe", "4111 1111", "tulipan") if word.encode() in raw]
    after = on_disk(tmp_path)
    assert PHRASE.encode() in after and CANARY.encode() not in after
    assert ([], 0) == (lines, ear.lost)


async def test_what_finds_no_room_is_dropped_counted_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue costs content, never a call: by number, and by bytes; one line says how many."""
    monkeypatch.setattr(capture, "CALLS_MOST", 3)
    store = Slow()
    ear, lines = made(store)
    ear.take(said("c0"))
    await until(lambda: ear._inbox.qsize() == 0)  # the thread has the first in hand
    for number in range(1, 6):
        ear.take(said(f"c{number}"))
    assert 2 == ear.dropped
    await ear.look()
    await ear.look()
    assert [("content_lost", {"calls": 2, "no_room": 2, "not_written": 0, "broken": 0})] == lines
    store.may.set()
    await until(lambda: len(store.got) == 4)
    assert ["c0", "c1", "c2", "c3"] == [content.call_id for content in store.got]
    await until(lambda: ear._taken - ear._done <= sum(said(f"c{n}").size for n in range(4)))
    ear.close()


async def test_bytes_have_a_bound_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers under way and calls that wait share it; what is written, or dropped, gives its part back."""
    monkeypatch.setattr(capture, "BYTES_MOST", 1_000)
    ear, _ = made(Slow())
    ear._store.may.set()  # type: ignore[attr-defined] # it is ours
    assert ear.room(900) and not ear.room(101) and ear.room(100)
    ear.take(said("c1", answer=b"x" * 1_000))
    assert (1, 0) == (ear.dropped, ear._taken - ear._done), "its request found no room: its answer is let go, too"
    assert ear.room(500)
    ear.take(said("c2", answer=b"x" * 500))
    await until(lambda: ear._taken == ear._done)
    ear.close()


async def test_large_contents_are_written_in_parts(tmp_path: Path) -> None:
    """Money goes between them; a reader finds the whole. One that is lost counts once."""
    long = [{"role": "user", "content": f"{number} " * 30_000} for number in range(10)]
    big = Said("c1", "r", "openai-chat", json.dumps({"messages": long}).encode(), (), False)
    slow = Slow(loses=True)
    slow.may.set()
    ear, _ = made(slow)
    ear.take(big)
    await asyncio.to_thread(ear.close)
    assert (3, 1) == (len(slow.got), ear.lost)
    assert [False, False, True] == [part.last for part in slow.got]
    async with opened(sqlite(tmp_path, FakeClock())) as store:
        ear, _ = made(store)
        ear.take(big)
        await asyncio.to_thread(ear.close)
        while store._aside:  # each question goes before the parts that wait
            await store.run("r")
        await store.run("r")
        found = store.reading().content("c1", "r") or {}
        assert (10, False) == (len(found["input"]), found["truncated"])
        assert ["content"] == [entry.kind for entry in store.reading().entries(0)]


async def test_what_the_store_lost_is_not_taken_for_written() -> None:
    """The next call tells its texts again, and the loss is counted."""
    store = Slow(loses=True)
    store.may.set()
    ear, lines = made(store)
    ear.take(said("c1"))
    await until(lambda: len(store.got) == 1)
    ear.take(said("c2"))
    await until(lambda: len(store.got) == 2)
    assert [1, 1] == [len(content.texts) for content in store.got]
    await until(lambda: ear.lost == 2)
    await ear.look()
    assert {"calls": 2, "no_room": 0, "not_written": 2, "broken": 0} == lines[0][1]
    ear.close()


async def test_one_broken_call_is_not_the_others_end() -> None:
    """A format that nobody reads here is counted, and the thread goes on."""
    store = Slow()
    store.may.set()
    ear, lines = made(store)
    ear.take(Said("c1", "r", "unknown", b"", (), False))
    ear.take(said("c2"))
    await until(lambda: len(store.got) == 1)
    assert (1, "c2") == (ear.lost, store.got[0].call_id)
    ear.close()
    await ear.look()
    (told,) = lines
    assert 1 == told[1]["broken"] and re.fullmatch(r"KeyError in capture\.py:\d+", told[1]["why"])


async def test_a_stop_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is written while there is time; nobody waits longer, and nothing comes in afterwards."""
    monkeypatch.setattr(capture, "CLOSE_S", 0.05)
    store = Slow()
    ear, _ = made(store)
    ear.close()  # without a thread
    ear, _ = made(store)
    ear.take(said("c1"))
    ear.close()
    assert 1 == ear.dropped  # the one in hand
    ear.take(said("c2"))
    assert 2 == ear.dropped
    store.may.set()


async def test_a_ledger_that_is_closed_says_so(tmp_path: Path) -> None:
    """A store that takes nothing more: lost, counted, no exception in a walk."""
    store: SqliteStore = sqlite(tmp_path, FakeClock())
    async with opened(store):
        pass
    ear, _ = made(store)
    ear.take(said("c1"))
    await until(lambda: ear.lost == 1)
    ear.close()


async def test_what_a_stop_has_no_time_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call in hand and those behind it: counted once, in the last line, and not begun any more."""
    monkeypatch.setattr(capture, "CLOSE_S", 0.05)
    store = Slow()
    ear, lines = made(store)
    for number in range(4):
        ear.take(said(f"c{number}"))
    await asyncio.to_thread(ear.close)
    assert [("content_lost", {"calls": 4, "no_room": 4, "not_written": 0, "broken": 0})] == lines
    store.may.set()
    await until(lambda: ear._thread is not None and not ear._thread.is_alive())
    assert 1 == len(store.got)

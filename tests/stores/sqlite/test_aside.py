"""Captured contents wait behind money, in order, bounded, a small part in each transaction."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from gateway.core.ledger import contents
from gateway.core.ledger.desk import Op
from gateway.core.types import Content
from gateway.stores.sqlite.aside import BATCH_MOST, Aside
from gateway.stores.sqlite.lock import FairLock
from tests.fakes import FakeClock
from tests.ledgers import opened, sqlite


def part(number: int, size: int = 0) -> Content:
    name = f"h{number}"
    return Content(f"c{number}", "R", input=(name,), texts={name: '"' + "x" * max(0, size - 2) + '"'})


def op(content: Content) -> Op:
    return Op(contents.keep, (content,), None, False)


def test_bounded_in_size_and_in_order() -> None:
    """What has no room is not taken, and what was taken out makes room; small ones go together, a large one ends it."""
    aside = Aside(most=200_000)
    small, large = op(part(1, 100)), op(part(2, 150_000))
    assert [True, True, False] == [aside.put(small), aside.put(large), aside.put(op(part(3, 100_000)))]
    after = op(part(4, 10_000))
    assert aside.put(after)
    assert 3 == len(aside)
    assert [small, large] == aside.take()
    assert [after] == aside.take()
    assert [] == aside.take()
    assert aside.put(op(part(3, 150_000)))
    assert aside.put(small)
    assert 2 == len(aside.take(whole=True))


async def test_money_waits_for_one_part_only(tmp_path: Path) -> None:
    """Forty large parts and then a question: the question goes with the next batch, and no batch has more than its
    share. All of them are written in the end, in order."""
    store = sqlite(tmp_path, FakeClock())
    batches: list[list[Op]] = []
    async with opened(store):
        commit = store._commit

        def seen(ops: list[Op], done: list[tuple[Any, Any]]) -> None:
            batches.append(ops)
            commit(ops, done)

        store._commit = seen  # type: ignore[method-assign]
        lock = FairLock(tmp_path / "ledger.lock")
        with lock.held(5):
            lost: list[int] = []
            for number in range(40):
                store.remember(part(number, 100_000), lambda: lost.append(1))
            asked = asyncio.ensure_future(store.run("R"))
            await asyncio.sleep(0)
        assert None is await asked
        answered = len(batches)
        lock.close()
    sizes = [sum(contents.size_of(o.args[0]) for o in ops if o.act is contents.keep) for ops in batches]
    assert answered <= 3
    assert max(sizes) < BATCH_MOST + 102_000
    kept = [o.args[0].call_id for ops in batches for o in ops if o.act is contents.keep]
    assert [f"c{number}" for number in range(40)] == kept
    assert [] == lost


async def test_what_waits_while_the_file_fails_is_lost_and_said(tmp_path: Path) -> None:
    """Nothing of it is kept for later: what is kept then is money, and a close doesn't try part by part."""
    store = sqlite(tmp_path, FakeClock())
    lost: list[int] = []
    tries: list[int] = []
    async with opened(store):
        commit = store._commit

        def full(ops: list[Op], done: list[tuple[Any, Any]]) -> None:
            if any(o.act is contents.keep for o in ops):
                tries.append(len(ops))
                raise OSError("no space left on device")
            commit(ops, done)

        store._commit = full  # type: ignore[method-assign]
        lock = FairLock(tmp_path / "ledger.lock")
        with lock.held(5):
            for number in range(40):
                store.remember(part(number, 100_000), lambda: lost.append(1))
        await store.close()
        lock.close()
    assert 40 == len(lost)
    assert 1 <= len(tries) <= 3

"""The ledger's disk, lock and clock fail under a real gateway: nothing is served unmetered, and it recovers by itself.

Invariant: the provider keeps its own bill; whatever failed, the process that was started at the beginning serves at the
end, nothing is held, and the ledger says at least what the provider billed (ledger.md sections 11 and 13, 4).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.provider import ScriptedProvider
from gateway.stores.sqlite.inspect import audit_file
from tests.e2e.faulty import Faults, filled, read_only, small_disk
from tests.e2e.spending import MESSAGES, call, chat, messages, scripted
from tests.play import Gateway, nusd

SLOW = json.dumps({"output_tokens": 120, "gap_s": 0.1})  # 30 chunks: 3 s
BUDGET = '[[budgets]]\nname = "run"\nscope = "run"\nper = "run"\nusd = 5.0\n'


@pytest.fixture
def faults(tmp_path: Path) -> Faults:
    return Faults(tmp_path)


@contextmanager
def running(gateway: Gateway, faults: Faults | None = None) -> Iterator[Gateway]:
    try:
        yield gateway.start() if faults is None else faults.start(gateway)
    finally:
        gateway.stop()


async def until(true: Callable[[], bool], seconds: float = 15) -> None:
    """Waits for a condition that nobody tells."""
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(true):
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.02)


def ready(gateway: Gateway) -> int:
    return gateway.get("/readyz").status


def is_refused(status: int, headers: dict[str, str], error: dict[str, Any]) -> None:
    """503 `store_unavailable`: the client may ask again in 2 s (http.md section 3)."""
    assert (503, "store_unavailable") == (status, error["code"])
    assert ("2", "true") == (headers["retry-after"], headers["x-should-retry"])


async def outage(
    gateway: Gateway, provider: ScriptedProvider, begin: Callable[[], object], end: Callable[[], object]
) -> None:
    """One failure with a call before it, a stream across it, calls of both dialects into it, and calls after it."""
    assert gateway.process is not None
    assert 200 == (await call(gateway, "R", chat())).status
    stream = asyncio.ensure_future(call(gateway, "R", chat(stream=True), x_scripted=SLOW))
    await until(lambda: len(provider.calls) == 2 and provider.calls[1].output_tokens > 0)
    begin()
    first = await call(gateway, "R", chat())
    is_refused(first.status, first.headers, first.json()["error"])
    assert 503 == await asyncio.to_thread(ready, gateway)
    told = await call(gateway, "R", messages(stream=False, max_tokens=200), path=MESSAGES)
    is_refused(told.status, told.headers, told.json()["error"])
    assert ("error", "overloaded_error") == (told.json()["type"], told.json()["error"]["type"])
    many = await asyncio.gather(*[call(gateway, f"R{number}", chat()) for number in range(20)])
    assert {503} == {answer.status for answer in many}
    whole = await asyncio.wait_for(stream, 20)
    assert 200 == whole.status and whole.body.rstrip().endswith(b"data: [DONE]")
    assert 2 == len(provider.calls), "a call was served while the ledger could not be written"
    end()
    await until(lambda: 200 == ready(gateway))
    for body, path in ((chat(), "/v1/chat/completions"), (messages(max_tokens=200), MESSAGES)):
        assert 200 == (await call(gateway, "R", body, path=path)).status
    assert gateway.process.poll() is None
    gateway.says("store_failed")
    gateway.says("store_recovered")
    await balanced(gateway, provider)


async def balanced(gateway: Gateway, provider: ScriptedProvider, run: str = "R") -> None:
    """Nothing is held, every call of the provider is in the ledger, at its own price, and the file is sound."""
    await asyncio.wait_for(provider.quiet(), 20)
    told = await asyncio.to_thread(gateway.quiet, run)
    calls = await asyncio.to_thread(gateway.items, f"/api/runs/{run}/calls")
    sent = [one for one in calls if one["attempts"]]
    assert 0 == nusd(told["held_usd"])
    assert len(provider.calls) == len(sent)
    assert provider.bill_nusd() == nusd(told["spent_usd"]) == sum(nusd(one["cost_usd"]) for one in sent)
    assert [] == audit_file(gateway.ledger)


# --------------------------------------------------------------------------- the disk


async def test_a_full_disk_closes_admission_until_there_is_room(tmp_path: Path, provider: ScriptedProvider) -> None:
    """A real file system without room: refused in the caller's dialect, settled later, recovered without a restart."""
    with small_disk(tmp_path / "state") as disk, running(Gateway(tmp_path, scripted(provider, BUDGET))) as gateway:
        await outage(gateway, provider, lambda: filled(disk), (disk / "filler").unlink)


async def test_workers_recover_each_by_itself(tmp_path: Path, provider: ScriptedProvider) -> None:
    """Two processes on one full disk: neither serves, neither dies, both serve again when there is room."""
    gateway = Gateway(tmp_path, scripted(provider, BUDGET), workers=2)
    with small_disk(tmp_path / "state") as disk, running(gateway):
        alive = gateway.pids()
        before = [await call(gateway, "R", chat()) for _ in range(8)]
        assert {200} == {answer.status for answer in before}
        filler = filled(disk)
        during = await asyncio.gather(*[call(gateway, "R", chat()) for _ in range(40)])
        assert {503} == {answer.status for answer in during}
        assert 8 == len(provider.calls)
        filler.unlink()
        await until(lambda: all(200 == ready(gateway) for _ in range(40)))  # each connection may meet the other one
        after = await asyncio.gather(*[call(gateway, "R", chat()) for _ in range(40)])
        assert {200} == {answer.status for answer in after}
        assert alive == gateway.pids()
        await balanced(gateway, provider)


@pytest.mark.parametrize("why", [errno.EIO, errno.EROFS], ids=errno.errorcode.get)
async def test_a_disk_that_takes_no_write_closes_admission(
    tmp_path: Path, provider: ScriptedProvider, faults: Faults, why: int
) -> None:
    """I/O errors, and a file system that turned read-only as ext4 does after them."""
    with running(Gateway(tmp_path, scripted(provider, BUDGET)), faults) as gateway:
        await outage(gateway, provider, lambda: faults.writes(why), lambda: faults.writes(0))


async def test_a_disk_that_fails_to_sync_closes_admission(
    tmp_path: Path, provider: ScriptedProvider, faults: Faults
) -> None:
    """With durability = "power_loss" no call goes out whose hold could not be synced."""
    with running(Gateway(tmp_path, f'durability = "power_loss"\n{scripted(provider, BUDGET)}'), faults) as gateway:
        before = faults.synced
        assert 200 == (await call(gateway, "S", chat())).status
        assert faults.synced >= before + 2  # reserve and settle
        provider.bill.rows.clear()
        await outage(gateway, provider, lambda: faults.syncs(errno.EIO), faults.syncs)


async def test_a_heartbeat_that_fails_closes_admission(
    tmp_path: Path, provider: ScriptedProvider, faults: Faults
) -> None:
    """One commit a second is synced: when that fails, what would be lost with the power is no longer served."""
    with running(Gateway(tmp_path, scripted(provider, BUDGET)), faults) as gateway:
        before, begun, served = faults.synced, time.monotonic(), 0
        while time.monotonic() - begun < 3:
            assert 200 == (await call(gateway, "R", chat())).status
            served += 1
        assert 2 <= faults.synced - before <= 8 + served // 10  # a beat a second, and a checkpoint now and then
        faults.syncs(errno.EIO)
        begun = time.monotonic()
        while (await call(gateway, "R", chat())).status == 200:
            assert time.monotonic() - begun < 5
        assert re.search(r"I/O error|Input/output error", gateway.says("store_failed")[0]["why"])
        faults.syncs()
        await until(lambda: 200 == ready(gateway))
        assert 200 == (await call(gateway, "R", chat())).status
        await balanced(gateway, provider)


async def test_a_slow_disk_is_waited_for(tmp_path: Path, provider: ScriptedProvider, faults: Faults) -> None:
    """Each sync takes 0.3 s: calls take longer, and are served, held and settled as ever."""
    with running(Gateway(tmp_path, f'durability = "power_loss"\n{scripted(provider, BUDGET)}'), faults) as gateway:
        assert 200 == (await call(gateway, "R", chat())).status
        faults.syncs(slower_s=0.3)
        begun = time.monotonic()
        answers = await asyncio.gather(*[call(gateway, "R", chat(stream=True)) for _ in range(10)])
        assert {200} == {answer.status for answer in answers}
        assert time.monotonic() - begun >= 0.3
        faults.syncs()
        assert not gateway.said("store_failed")
        await balanced(gateway, provider)


async def test_a_disk_that_is_read_only_at_the_start_is_said(tmp_path: Path, provider: ScriptedProvider) -> None:
    """`serve` ends at once with one sentence that names the place."""
    with small_disk(tmp_path / "state") as disk:
        read_only(disk)
        gateway = Gateway(tmp_path, scripted(provider, BUDGET))
        with pytest.raises(AssertionError, match="Read-only file system"):
            gateway.start()
        said = gateway.log.read_text()
        assert str(disk) in said and "Traceback" not in said


async def test_kill_9_in_the_midst_of_a_full_disk_loses_no_billed_call(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    """Settles that could only wait in memory are gone: their calls are presumed at their holds, never at zero."""
    with small_disk(tmp_path / "state") as disk:
        gateway = Gateway(tmp_path, scripted(provider, BUDGET)).start()
        streams = [asyncio.ensure_future(call(gateway, "R", chat(stream=True), x_scripted=SLOW)) for _ in range(5)]
        await until(lambda: len(provider.calls) == 5 and all(row.output_tokens for row in provider.calls))
        filler = filled(disk)
        assert 503 == (await call(gateway, "R", chat())).status
        await asyncio.gather(*streams)
        gateway.kill()
        filler.unlink()
        with running(Gateway(tmp_path, scripted(provider, BUDGET))) as again:
            told = await asyncio.to_thread(again.quiet, "R")
            calls = await asyncio.to_thread(again.items, "/api/runs/R/calls")
            assert ["presumed"] * 5 == [one["cost_source"] for one in calls]
            assert 0 == nusd(told["held_usd"]) and provider.bill_nusd() <= nusd(told["spent_usd"])
            assert [] == audit_file(again.ledger)


# --------------------------------------------------------------------------- the lock


async def test_a_stuck_holder_of_the_lock_closes_admission(tmp_path: Path, provider: ScriptedProvider) -> None:
    """Another process stands still with ledger.lock in its hand: 503 after 2 s, and all goes on when it lets go."""
    with running(Gateway(tmp_path, scripted(provider, BUDGET))) as gateway:
        lock = os.open(gateway.ledger.with_suffix(".lock"), os.O_RDWR)
        try:
            await outage(
                gateway,
                provider,
                lambda: fcntl.flock(lock, fcntl.LOCK_EX),
                lambda: fcntl.flock(lock, fcntl.LOCK_UN),
            )
        finally:
            os.close(lock)


# --------------------------------------------------------------------------- the clock


@pytest.mark.parametrize("jumps", [(3600,), (-3600,), (7200, -7200, 90, 0)], ids=str)
async def test_a_clock_that_jumps_loses_and_invents_nothing(
    tmp_path: Path, provider: ScriptedProvider, faults: Faults, jumps: tuple[int, ...]
) -> None:
    """Under streams in flight: whatever is presumed too early is trued up, stored time never steps back."""
    with running(Gateway(tmp_path, scripted(provider, BUDGET)), faults) as gateway:
        assert 200 == (await call(gateway, "R", chat())).status
        streams = [asyncio.ensure_future(call(gateway, "R", chat(stream=True), x_scripted=SLOW)) for _ in range(5)]
        await until(lambda: len(provider.calls) == 6 and all(row.output_tokens for row in provider.calls))
        for jump in jumps:
            faults.clock(jump)
            assert 200 == (await call(gateway, "R", chat())).status
            await asyncio.sleep(0.3)  # a sweep may come, or not
        answers = await asyncio.gather(*streams)
        assert all(answer.status == 200 and b"[DONE]" in answer.body for answer in answers)
        assert 200 == (await call(gateway, "R", messages(max_tokens=200), path=MESSAGES)).status
        await balanced(gateway, provider)
        with closing(sqlite3.connect(gateway.ledger)) as connection:
            times = [at for (at,) in connection.execute("SELECT at FROM journal ORDER BY seq")]
        assert times == sorted(times)
        assert not gateway.said("store_failed")

"""The demo's gateway: nothing of the user's, and a clear word when it doesn't start."""

import asyncio
import contextlib
from pathlib import Path

import aiohttp
import pytest

from gateway.demo.house import House, free_port


async def test_a_gateway_that_does_not_start_says_why(tmp_path):
    """Its own last words are in the error, and no process stays."""
    house = House(tmp_path, "http://127.0.0.1:1", "-5")
    async with aiohttp.ClientSession() as http:
        with pytest.raises(RuntimeError, match=r"budgets\[0\]\.usd: must be above 0"):
            await house.start(http)
    await house.stop()


async def test_it_starts_is_killed_and_starts_again(tmp_path, monkeypatch):
    """Same port, same ledger, whatever the user's environment says; nothing outlives stop."""
    monkeypatch.setenv("METERBOX_SERVER__PROT", "1")
    house = House(tmp_path, "http://127.0.0.1:1", "1.00")
    async with aiohttp.ClientSession() as http:
        await house.start(http)
        first = house._processes[-1]
        assert [] == (await house.api(http, "/runs"))["items"]
        house.kill()
        assert -9 == first.returncode
        await house.start(http)
        second = house._processes[-1]
        await house.stop()
    assert second.returncode is not None
    async with asyncio.timeout(10):  # what was killed is gone when the kernel says so
        while any(map(lives, (first.pid, second.pid))):  # noqa: ASYNC110 - other processes have no event for us
            await asyncio.sleep(0.05)


def lives(group: int) -> bool:
    """Is there a process of this group that is no zombie? Of an orphan, only init can take the status."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of, *_ = stat.read_text().rpartition(")")[2].split()
            if int(of) == group and state != "Z":
                return True
    return False


def test_what_the_log_complains_of_is_told_without_its_news(tmp_path):
    """The first lines that are more than information, and no more of them than fit a screen."""
    house = House(tmp_path, "http://127.0.0.1:1", "1.00")
    assert [] == house.complaints()
    bad = [f'{{"level":"error","event":"settle_failed","call_id":"c{n}"}}' for n in range(9)]
    (tmp_path / "serve.log").write_text("\n".join(["meterbox: ready", '{"level":"info","event":"started"}', *bad]))
    assert bad[:5] == house.complaints()


def test_free_ports_differ():
    """A port is free when it is given."""
    assert 1_024 < free_port() < 65_536

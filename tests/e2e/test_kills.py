"""SIGKILL at random moments under load: no limit is ever passed, the ledger has all that was billed (ledger.md 13.3).

How it converges: a hold is on disk before a byte leaves, so what a dead process sent is known. A living worker, or
else the next start, can take the dead one's lock; that shows it is dead, and all it held is charged (`presumed`).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from gateway.demo.provider import ScriptedProvider
from tests.e2e.chaos import Crowd, Limits, audit, calm, compare, explain, kill_something
from tests.e2e.spending import scripted
from tests.play import Gateway

LONG = bool(os.environ.get("METERBOX_TEST_LONG"))
KILLS = {1: 70, 4: 65, 8: 65} if LONG else {1: 3, 4: 4}
AGENTS_AT_WORK = 16


async def kill_often(gateway: Gateway, provider: ScriptedProvider, kills: int, limits: Limits) -> tuple[Crowd, str]:
    """A crowd at work while something is killed again and again; both bills are compared all the while."""
    chance = random.Random(kills * 1_000 + gateway.workers)
    crowd = Crowd(gateway, chance)
    agents = [asyncio.ensure_future(crowd.agent(number)) for number in range(AGENTS_AT_WORK)]
    killed: Counter[str] = Counter()
    for _ in range(kills):
        answered = crowd.statuses.total()
        for _ in range(200):  # the next kill comes under load, whatever the machine's pace
            await asyncio.sleep(0.05 + chance.random() * 0.1)
            await asyncio.to_thread(compare, gateway, provider, limits)
            if crowd.statuses.total() >= answered + AGENTS_AT_WORK:
                break
        await asyncio.sleep(chance.random() * 0.3)
        killed[await kill_something(gateway, chance)] += 1
        await asyncio.to_thread(compare, gateway, provider, limits)
    crowd.over = True
    await asyncio.gather(*agents)
    return crowd, ", ".join(f"{many} times {what}" for what, many in sorted(killed.items()))


@pytest.mark.timeout(3600 if LONG else 180)
@pytest.mark.parametrize("workers", [pytest.param(n, marks=(pytest.mark.long,) * LONG) for n in sorted(KILLS)])
async def test_kills_under_load(
    tmp_path: Path, provider: ScriptedProvider, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The provider's bill within every limit and within the ledger, at every look; then nothing held, every difference
    a row that says why, and a clean audit."""
    limits = Limits(KILLS[workers])
    with Gateway(tmp_path, scripted(provider, limits.config()), workers=workers) as gateway:
        crowd, killed = await kill_often(gateway, provider, KILLS[workers], limits)
        await calm(gateway, provider)
        await asyncio.to_thread(compare, gateway, provider, limits)
        presumed, difference = await asyncio.to_thread(explain, gateway, provider, crowd.known)
        assert {200, 402} <= set(crowd.statuses)
        assert crowd.broken > 0
        assert presumed > 0
    said = await asyncio.to_thread(audit, gateway)
    assert 0 == said.returncode, said.stdout.decode() + said.stderr.decode()
    with capsys.disabled():
        print(
            f"\n{workers} workers killed {killed}: {len(provider.calls)} calls billed, {crowd.broken} broken, "
            f"{presumed} presumed; ledger - bill = ${difference / 1e9:.6f} of ${provider.bill_nusd() / 1e9:.6f}"
        )

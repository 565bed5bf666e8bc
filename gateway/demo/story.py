"""The story that `demo` tells: what agents cost with and without a budget, by the provider's own bill and the ledger.

Invariant: every figure is counted, none is written here; a broken promise makes `ok` false. What never enters: a key,
a network beyond loopback, anything of the user's; the temporary folder goes when the story ends.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
from msgspec import Struct

from gateway.demo.agents import Client, Report, finish_task, run_away, watch_streams
from gateway.demo.bill import NUSD
from gateway.demo.house import House
from gateway.demo.provider import ScriptedProvider
from gateway.demo.script import Script

LIMIT_USD = "1.00"
AGENTS = 50
STEPS = 12  # of each sub-agent at most: what the unguarded runaway may cost is bounded by the demo itself
STREAMS = 20
_QUIET_S = 45.0  # a hold of a process that was killed may live until its lease ends (30 s, ledger.md section 7)
_SCRIPTS = {
    "sk-demo-task": Script(output_tokens=40, tool_steps=3, gap_s=0.005),
    "sk-demo-direct": Script(output_tokens=500, tool_steps=-1, first_s=0.02),
    "sk-demo-guarded": Script(output_tokens=500, tool_steps=-1, first_s=0.02),
    "sk-demo-killed": Script(output_tokens=400, gap_s=0.05),
    "sk-demo-after": Script(output_tokens=40),
}


class Lane(Struct):
    """One line of the table. Amounts in nano-dollars; None: nobody counts that there."""

    name: str
    title: str
    calls: int  # that reached the provider
    refused: int
    cut: int
    bill_nusd: int
    ledger_nusd: int | None = None
    held_nusd: int | None = None
    limit_nusd: int | None = None


class Promise(Struct):
    """A claim, and whether this run of the demo kept it."""

    claim: str
    kept: bool


class Stage(Struct):
    """What all lanes share."""

    http: aiohttp.ClientSession
    provider: ScriptedProvider
    house: House
    say: Callable[[str], None]

    def client(self, run: str | None, key: str) -> Client:
        """An agent's settings: straight to the provider, or through the gateway with the run in the path."""
        base = self.provider.origin if run is None else f"{self.house.origin}/run/{run}"
        return Client(self.http, base, key)

    async def ledger(self, run: str) -> tuple[int, int]:
        """(spent, held) of a run, by /api."""
        said = await self.house.api(self.http, f"/runs/{run}")
        return nusd(said["spent_usd"]), nusd(said["held_usd"])

    async def rest(self, run: str) -> None:
        """Waits until nothing of a run is held: a slow disk or a dead process's lease may take a while."""
        for _ in range(int(_QUIET_S / 0.1)):
            if not (await self.ledger(run))[1]:
                return
            await asyncio.sleep(0.1)

    async def lane(self, name: str, title: str, keys: tuple[str, ...], report: Report) -> Lane:
        """A lane that went through the gateway, once nothing moves any more."""
        await self.provider.quiet()
        await self.rest(name)
        spent, held = await self.ledger(name)
        bill = sum(self.provider.bill_nusd(key) for key in keys)
        calls = sum(self.provider.bill.calls(key) for key in keys)
        return Lane(name, title, calls, report.refused, report.broken, bill, spent, held, nusd(LIMIT_USD))


def nusd(usd: str) -> int:
    """Dollars as whole nano-dollars."""
    return int(Decimal(usd) * NUSD)


async def tell(say: Callable[[str], None]) -> tuple[list[Lane], list[Promise]]:
    """Plays all lanes; `say` gets a line for each step, and where a promise broke what the gateway complained of."""
    with tempfile.TemporaryDirectory(prefix="meterbox-demo-") as folder:
        provider = ScriptedProvider()
        provider.scripts = dict(_SCRIPTS)
        await provider.start()
        house = House(Path(folder), provider.origin, LIMIT_USD)
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=60)
        try:
            async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as http:
                lanes, promises = await _play(Stage(http, provider, house, say))
                for line in () if all(promise.kept for promise in promises) else house.complaints():
                    say(f"its log: {line}")
                return lanes, promises
        finally:
            await house.stop()
            await provider.stop()


async def _play(stage: Stage) -> tuple[list[Lane], list[Promise]]:
    stage.say(f"{AGENTS} sub-agents run away, straight to the provider ...")
    direct = await _direct(stage)
    stage.say("the gateway starts ...")
    await stage.house.start(stage.http)
    stage.say("an agent does its task through the gateway ...")
    report = await finish_task(stage.client("demo-task", "sk-demo-task"))
    task = await stage.lane("demo-task", "agent finishes its task", ("sk-demo-task",), report)
    finished = report.finished
    stage.say(f"the same {AGENTS} sub-agents run away through the gateway, on ${LIMIT_USD} ...")
    report = await run_away(stage.client("demo-runaway", "sk-demo-guarded"), AGENTS, STEPS)
    guarded = await stage.lane("demo-runaway", f"{AGENTS} sub-agents run away", ("sk-demo-guarded",), report)
    killed, resumed = await _killed(stage)
    limit = nusd(LIMIT_USD)
    return [task, direct, guarded, killed], [
        Promise("the agent with a task finished it", finished and not task.refused),
        Promise("its ledger equals the provider's bill to the nano-dollar", task.ledger_nusd == task.bill_nusd > 0),
        Promise("the runaway's bill stayed within its limit", 0 < guarded.bill_nusd <= limit < direct.bill_nusd),
        Promise("each sub-agent was stopped by one refusal", (guarded.refused, guarded.cut) == (AGENTS, 0)),
        Promise("the runaway's ledger equals the provider's bill", guarded.ledger_nusd == guarded.bill_nusd),
        Promise("nothing stays held", not any(lane.held_nusd for lane in (task, guarded, killed))),
        Promise("the kill came in the middle of all streams", killed.cut == STREAMS),
        Promise("after the kill the ledger covers the bill", killed.bill_nusd <= (killed.ledger_nusd or 0) <= limit),
        Promise("after the restart the same run goes on", resumed),
    ]


async def _direct(stage: Stage) -> Lane:
    report = await run_away(stage.client(None, "sk-demo-direct"), AGENTS, STEPS)
    provider = stage.provider
    bill, calls = provider.bill_nusd("sk-demo-direct"), provider.bill.calls("sk-demo-direct")
    return Lane("direct", f"{AGENTS} sub-agents run away", calls, report.refused, report.broken, bill)


async def _killed(stage: Stage) -> tuple[Lane, bool]:
    """SIGKILL in the middle of the streams, a start on the same ledger, and one more call of the same run."""
    stage.say(f"SIGKILL in the middle of {STREAMS} streams, then a new start ...")
    flowing = asyncio.Event()
    watching = asyncio.ensure_future(watch_streams(stage.client("demo-killed", "sk-demo-killed"), STREAMS, flowing))
    waiting = asyncio.ensure_future(flowing.wait())
    await asyncio.wait((watching, waiting), return_when=asyncio.FIRST_COMPLETED, timeout=20)
    waiting.cancel()
    stage.house.kill()
    report = await watching
    await stage.house.start(stage.http)
    after = await finish_task(stage.client("demo-killed", "sk-demo-after"))
    report.refused += after.refused
    keys = ("sk-demo-killed", "sk-demo-after")
    lane = await stage.lane("demo-killed", f"SIGKILL amid {STREAMS} streams", keys, report)
    return lane, after.finished


def run(say: Callable[[str], None]) -> dict[str, Any]:
    """Plays the story; all its figures, as `demo --json` prints them (amounts are decimal strings)."""
    started = time.monotonic()
    lanes, promises = asyncio.run(tell(say))
    return {
        "ok": all(promise.kept for promise in promises),
        "lanes": [_spelled(lane) for lane in lanes],
        "promises": [{"claim": promise.claim, "kept": promise.kept} for promise in promises],
        "seconds": round(time.monotonic() - started, 1),
    }


def _spelled(lane: Lane) -> dict[str, Any]:
    return {
        "name": lane.name,
        "title": lane.title,
        "through_gateway": lane.ledger_nusd is not None,
        "calls": lane.calls,
        "refused": lane.refused,
        "cut": lane.cut,
        "provider_bill_usd": _usd(lane.bill_nusd),
        "ledger_usd": _usd(lane.ledger_nusd),
        "held_after_usd": _usd(lane.held_nusd),
        "limit_usd": _usd(lane.limit_nusd),
    }


def _usd(amount: int | None) -> str | None:
    return None if amount is None else f"{Decimal(amount) / NUSD:.9f}"

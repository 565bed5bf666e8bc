"""Many agents at work while the processes under them are killed, and both bills read side by side meanwhile.

Invariant: each call has a payer of its own at the provider (`RUN.NUMBER`), so that what it was billed is known,
whatever became of its caller; balances are read from the ledger's file, not asked of the gateway.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import closing, suppress
from typing import Any

from gateway.demo.bill import Row
from gateway.demo.provider import ScriptedProvider
from tests.e2e.spending import CHAT, MODEL
from tests.play import ROOT, Answer, Gateway, alive, fetch, nusd

AGENTS = 4
BROKEN = (OSError, EOFError, TimeoutError)  # what a client sees of a dying gateway
PATIENCE_S = 30.0


class Limits:
    """What a run, an agent and everybody may use: amounts of each unit."""

    def __init__(self, kills: int) -> None:
        self.run = {"nusd": 3_000_000, "tokens": 14_000, "calls": 14}
        self.agent = {"nusd": 6_000_000 * (kills + 3)}
        self.everybody = {"nusd": 20_000_000 * (kills + 3)}

    def config(self) -> str:
        """The same as [[budgets]]."""
        per = 'per = "month"'
        return (
            f'[[budgets]]\nname = "runs"\nscope = "run"\nusd = "{self.run["nusd"] / 1e9:.9f}"\n'
            f"tokens = {self.run['tokens']}\ncalls = {self.run['calls']}\n"
            f'[[budgets]]\nname = "agents"\nscope = "agent:*"\nusd = "{self.agent["nusd"] / 1e9:.9f}"\n{per}\n'
            f'[[budgets]]\nname = "all"\nscope = "global"\nusd = "{self.everybody["nusd"] / 1e9:.9f}"\n{per}\n'
        )


class Crowd:
    """Agents that work on run after run; a broken call is tried again, as SDKs do."""

    def __init__(self, gateway: Gateway, chance: random.Random) -> None:
        self.gateway = gateway
        self.chance = chance
        self.over = False
        self.statuses: Counter[int] = Counter()
        self.broken = 0
        self.known: dict[str, str] = {}  # call id -> payer, of calls whose head came
        self._serial = 0

    async def agent(self, number: int) -> None:
        """One agent: a new run as soon as the one at hand is refused."""
        task = 0
        while not self.over:
            run = f"r{number}-{task}"
            answer = await self._call(run, f"agent{number % AGENTS}")
            if answer is None:
                self.broken += 1
                await asyncio.sleep(0.2)
            else:
                self.statuses[answer.status] += 1
                task += answer.status == 402
                await asyncio.sleep(0.2 if answer.status >= 500 else 0)

    async def _call(self, run: str, agent: str) -> Answer | None:
        chance = self.chance
        self._serial += 1
        payer = f"{run}.{self._serial}"
        stream = chance.random() < 0.6
        body: dict[str, Any] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "word " * chance.randint(10, 120)}],
            "stream": stream,
        }
        if chance.random() < 0.5:
            body["max_tokens"] = chance.randint(50, 400)
        script = {
            "output_tokens": chance.randint(20, 300), "chunk_tokens": 10, "first_s": chance.random() * 0.1,
            "gap_s": chance.random() * 0.03 if stream else 0.1, "no_usage": chance.random() < 0.05,
        }  # fmt: skip
        headers = {
            "x-meterbox-run-id": run, "x-meterbox-agent": agent, "authorization": f"Bearer {payer}",
            "x-scripted": json.dumps(script),
        }  # fmt: skip
        leave = chance.randint(1, 4000) if stream and chance.random() < 0.1 else None
        try:
            answer = await asyncio.wait_for(fetch(self.gateway.port, f"/scripted{CHAT}", body, headers, leave), 30)
        except BROKEN:
            return None
        if answer.status == 200:
            self.known[answer.headers["x-meterbox-call-id"]] = payer
        return answer


# --------------------------------------------------------------------------- killing


async def kill_something(gateway: Gateway, chance: random.Random) -> str:
    """SIGKILL for one worker, for all of them, or for the process above them; whatever doesn't come back by itself is
    started again."""
    assert gateway.process is not None
    workers = list(gateway.pids().values()) if gateway.workers > 1 else []
    draw = chance.random()
    if workers and draw < 0.6:
        victims, what = [chance.choice(workers)], "a worker"
    elif workers and draw < 0.8:
        victims, what = workers, "all workers"
    else:
        victims, what = [gateway.process.pid], "the gateway"
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if what == "the gateway":
        await asyncio.to_thread(gateway.process.wait)
        await asyncio.to_thread(_start_again, gateway, workers)
    return what


def _start_again(gateway: Gateway, workers: list[int]) -> None:
    until = time.monotonic() + PATIENCE_S
    while any(alive(pid) for pid in workers):  # they see that their supervisor is gone, and end
        assert time.monotonic() < until, "workers outlive their supervisor"
        time.sleep(0.02)
    gateway.start()


# --------------------------------------------------------------------------- the two bills


def ask(gateway: Gateway, sql: str, *values: Any) -> list[Any]:
    """What stands in the ledger's file."""
    with closing(sqlite3.connect(f"file:{gateway.ledger}?mode=ro", uri=True, timeout=30)) as connection:
        return connection.execute(sql, values).fetchall()


def run_of(row: Row) -> str:
    """The run that a row of the bill belongs to."""
    return row.tag.rpartition(".")[0]


def billed(provider: ScriptedProvider) -> dict[str, dict[str, int]]:
    """What the provider counted so far, by the ledger's names of accounts without windows."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: {"nusd": 0, "tokens": 0, "calls": 0})
    for row in provider.calls:
        run = run_of(row)
        agent = f"agent{int(run[1:].partition('-')[0]) % AGENTS}"
        for owner in (f"run/{run}", f"agent/{agent}", "global/all"):
            found[owner]["nusd"] += row.nusd
            found[owner]["tokens"] += row.input_tokens + row.output_tokens
            found[owner]["calls"] += row.input_tokens > 0
    return found


def compare(gateway: Gateway, provider: ScriptedProvider, limits: Limits) -> None:
    """At this moment: no limit is passed on the provider's bill, and the ledger has all of it. The bill is read first:
    what is billed after that may already be in the ledger, never the other way round."""
    bill = billed(provider)
    accounts = {
        name: (spent, held, limit, overrun + lowered)
        for name, spent, held, limit, overrun, lowered in ask(
            gateway, "SELECT name, spent, held, in_force, overrun, lowered FROM account WHERE in_force IS NOT NULL"
        )
    }
    for name, (spent, held, limit, above) in accounts.items():
        assert name.endswith("/seconds") or spent + held <= limit + above, f"{name}: {spent} + {held} > {limit}"
    used: Counter[tuple[str, str]] = Counter()
    for name, (spent, held, _, _) in accounts.items():
        kind, owner, unit = name.split("/")[:3]
        used[f"{kind}/{owner}", unit] += spent + held
    for owner, counted in bill.items():
        kind = owner.partition("/")[0]
        most = {"run": limits.run, "agent": limits.agent, "global": limits.everybody}[kind]
        for unit, limit in most.items():
            assert counted[unit] <= limit, f"{owner} was billed {counted[unit]} {unit} of {limit}"
            assert counted[unit] <= used[owner, unit], f"{owner}: billed {counted[unit]} {unit}, not in the ledger"


async def calm(gateway: Gateway, provider: ScriptedProvider) -> None:
    """Waits until nothing is held any more: a living worker, or the next start, charges what the dead held."""
    await asyncio.wait_for(provider.quiet(), PATIENCE_S)
    until = time.monotonic() + PATIENCE_S
    while held := await asyncio.to_thread(ask, gateway, "SELECT name, held FROM account WHERE held > 0"):
        assert time.monotonic() < until, f"still held: {held}"
        await asyncio.sleep(0.1)


def explain(gateway: Gateway, provider: ScriptedProvider, known: dict[str, str]) -> tuple[int, int]:
    """Call by call: what is told is charged as billed, and whatever is charged above its bill is a row that says why.
    Gives back how many calls are presumed, and the sum by which ledger and bill differ."""
    runs = [name for (name,) in ask(gateway, "SELECT key FROM run ORDER BY key")]
    billed_to = {row.tag: row.nusd for row in provider.calls}
    presumed, difference = 0, 0
    for run in runs:
        calls = gateway.items(f"/api/runs/{run}/calls")
        unknown = sorted((due for tag, due in billed_to.items() if tag.startswith(f"{run}.")), reverse=True)
        bounds: list[int] = []
        for one in calls:
            charged = nusd(one["cost_usd"])
            payer = known.get(one["call_id"])
            due = billed_to.get(payer, 0) if payer is not None else None
            if one["cost_source"] in ("presumed", "estimate"):
                presumed += 1
                bounds.append(charged)
                assert due is None or due <= charged, one
            elif one["cost_source"] == "refused" or one["outcome"] == "refused":
                assert 0 == charged, one
            else:
                assert charged in unknown, f"{one} was never billed"
                assert due is None or due == charged, one
                unknown.remove(charged)
        left = [amount for amount in unknown if amount]
        bounds.sort(reverse=True)
        assert len(left) <= len(bounds), f"{run}: {left} billed, only {bounds} presumed"
        assert all(due <= bound for due, bound in zip(left, bounds, strict=False)), f"{run}: {left} above {bounds}"
        difference += sum(bounds) - sum(left)
    spent = sum(amount for (amount,) in ask(gateway, "SELECT spent FROM account WHERE name LIKE 'run/%/nusd'"))
    assert difference == spent - provider.bill_nusd()
    return presumed, difference


def audit(gateway: Gateway) -> subprocess.CompletedProcess[bytes]:
    """`ledger audit` over the file."""
    command = [sys.executable, "-m", "gateway", "ledger", "audit", "--config", str(gateway.file)]
    return subprocess.run(command, capture_output=True, cwd=ROOT, check=False, timeout=120)

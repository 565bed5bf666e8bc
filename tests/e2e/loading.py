"""What a gateway sees on a busy day: recorded traffic, agents with tools, and everything that goes wrong.

Invariant: whatever a page asks about has happened at least once; the money is whatever the ledger says afterwards.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import aiohttp

from gateway.core.presets import PRESETS
from gateway.demo.provider import ScriptedProvider
from tests.e2e.observing import until
from tests.e2e.replay import RANDOM, TRAFFIC, Recorded, exchanges, request_of
from tests.e2e.spending import CHAT, call, chat
from tests.play import Gateway, fetch, nusd

SPOKEN = '["openai-chat", "openai-responses", "openai-embeddings", "openai-completions", "anthropic-messages"]'
DIALECTS = ("openai-chat", "openai-responses", "anthropic-messages", "openai-embeddings")
SECTION, SECOND = "scripted", "standby"
AGENTS = ("research", "support", "coder")
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("search", "read_page")
]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
# The shadows see all and stop nothing; only the crawler has a limit that refuses it.
BUDGETS = """
[prices]
unknown = "allow"
[[budgets]]
name = "watched"
scope = "run"
usd = 1
mode = "shadow"
[[budgets]]
name = "a-day"
scope = "global"
per = "day"
usd = 100
mode = "shadow"
[[budgets]]
name = "crawlers"
scope = "agent:crawler"
per = "day"
usd = "0.05"
"""


def recordings() -> list[dict[str, Any]]:
    """A part of the recorded exchanges; none where they are missing, the rest must do then."""
    if not TRAFFIC.is_dir():
        return []
    return [exchange for dialect in DIALECTS for exchange in list(exchanges(dialect))[::5]]


def config(provider: ScriptedProvider, recorded: Recorded, found: Sequence[dict[str, Any]]) -> str:
    """Sections for all of them, and the budgets."""
    lines = [BUDGETS]
    lines += [f'[providers.{name}]\npreset = "scripted"\nbase_url = "{provider.origin}"' for name in (SECTION, SECOND)]
    for name in sorted({exchange["provider"] for exchange in found}):
        preset = f'preset = "{name}"\n' if name in PRESETS else ""
        lines.append(f'[providers.{name}]\n{preset}base_url = "{recorded.origin}"\ndialects = {SPOKEN}')
    return "\n".join(lines)


async def replay(gateway: Gateway, recorded: Recorded, found: Sequence[dict[str, Any]]) -> None:
    """Sends each exchange once, as one of three agents."""
    recorded.known.update({exchange["id"]: exchange for exchange in found})
    gate = asyncio.Semaphore(8)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:

        async def one(number: int, exchange: dict[str, Any]) -> None:
            headers = {
                "x-replay": f"{exchange['id']} {RANDOM}",
                "x-meterbox-run-id": exchange["id"],
                "x-meterbox-agent": AGENTS[number % len(AGENTS)],
                "content-type": exchange["request_headers"].get("content-type", "application/json"),
            }
            url = f"{gateway.url}/{exchange['provider']}{exchange['path']}"
            async with gate, session.post(url, data=request_of(exchange), headers=headers) as answer:
                await answer.read()

        await asyncio.gather(*(one(number, exchange) for number, exchange in enumerate(found)))


def scripted(**knobs: Any) -> str:
    """The header that scripts one request."""
    return json.dumps(knobs)


async def work(gateway: Gateway, run: str, steps: int, *, result: str = "a page", **heads: Any) -> int:
    """An agent with tools: so many steps, then its last word; the last status."""
    history: list[dict[str, Any]] = [{"role": "user", "content": "find it out"}]
    knobs = scripted(tool_steps=steps, output_tokens=30, cached_tokens=8)
    for _ in range(steps + 1):
        body = {"model": "gpt-4o-mini", "messages": history, "tools": TOOLS, "max_tokens": 400}
        answer = await call(gateway, run, body, x_scripted=knobs, **heads)
        if answer.status != 200:
            return answer.status
        message = answer.json()["choices"][0]["message"]
        history.append(message)
        for tool in message.get("tool_calls") or []:
            history.append({"role": "tool", "tool_call_id": tool["id"], "content": result})
    return 200


async def mishaps(gateway: Gateway, provider: ScriptedProvider) -> None:
    """Everything that a page has a place for: refusals, cuts, hang-ups, errors, models without a price, kills."""
    crawler: dict[str, Any] = {"x_meterbox_agent": "crawler"}
    coder: dict[str, Any] = {"x_meterbox_agent": "coder"}
    loops = [work(gateway, f"loop-{n}", 30, x_meterbox_limit_usd="0.004", **crawler) for n in range(2)]
    fails = work(gateway, "fails", 3, result="Error: no such page", **coder)
    assert [402, 402, 200] == list(await asyncio.gather(*loops, fails))
    ignoring = scripted(output_tokens=3000, ignore_limit=True)
    await call(gateway, "over", chat(max_tokens=500), x_meterbox_limit_usd="0.0005", x_scripted=ignoring)
    streaming = scripted(output_tokens=6000, chunk_tokens=20, gap_s=0.005, ignore_limit=True)
    await call(
        gateway, "cut", chat(stream=True, max_tokens=500), x_meterbox_limit_usd="0.1", x_scripted=streaming, **coder
    )
    slow = scripted(output_tokens=4000, gap_s=0.01)
    left = chat(stream=True, max_tokens=4000)
    await call(gateway, "left", left, leave=2000, x_scripted=slow, **coder)
    await call(gateway, "errors", chat(), x_scripted=scripted(status=500), **coder)
    await call(gateway, "dropped", chat(stream=True), x_scripted=scripted(cut_after=20), **coder)
    await call(gateway, "priceless", {**chat(), "model": "nobody-knows-1"}, **coder)
    killed = asyncio.ensure_future(call(gateway, "killed", left, x_scripted=slow, **coder))
    await asyncio.to_thread(until, lambda: gateway.get("/api/runs/killed").status == 200, "the stream has begun")
    await asyncio.to_thread(gateway.post, "/api/runs/killed/kill", {"reason": "a person said so"})
    await killed


async def goals(gateway: Gateway) -> None:
    """Runs that reach their goal, within a caller's trace, and one that gives up."""
    for number in range(4):
        trace = f"00-{TRACE[:-1]}{number}-00f067aa0ba902b7-01"
        assert 200 == await work(gateway, f"goal-{number}", 3, traceparent=trace, x_meterbox_agent="research")
        outcome = "gave_up" if number == 3 else "completed"
        ended = await asyncio.to_thread(gateway.post, f"/api/runs/goal-{number}/end", {"outcome": outcome})
        assert 200 == ended.status, ended.body


async def streams(gateway: Gateway, count: int) -> None:
    """Streamed answers that end well: first tokens, and what each token after it takes."""
    for number in range(count):
        section = SECOND if number % 2 else SECTION
        headers = {"x-meterbox-run-id": f"streamed-{number}", "x-meterbox-agent": "support"}
        headers["x-scripted"] = scripted(gap_s=0.002)
        body = chat(stream=True, max_tokens=200)
        answer = await fetch(gateway.port, f"/{section}{CHAT}", body, headers)
        assert 200 == answer.status, answer.body


def held_open(gateway: Gateway) -> asyncio.Task[Any]:
    """A stream that stands still until its client leaves: something is held, somebody is live."""
    body = chat(stream=True, max_tokens=400)
    knobs = scripted(stall_after=8)
    return asyncio.ensure_future(
        call(gateway, "open", body, path=CHAT, x_scripted=knobs, x_meterbox_agent="support", x_meterbox_limit_usd="1")
    )


def ledger_nusd(gateway: Gateway) -> int:
    """What the ledger says that all runs spent."""
    return sum(nusd(run["own_spent_usd"]) for run in gateway.items("/api/runs"))

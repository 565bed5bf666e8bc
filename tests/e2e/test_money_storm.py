"""200 concurrent calls on a budget for 20, and everything goes wrong at once (ledger.md 13.5).

Cancels, stalls, resets, missing usage, many choices, thinking, a provider that throttles, and clients that try again.
"""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

from msgspec import Struct

from gateway.demo.provider import ScriptedProvider
from tests.e2e.chaos import audit, explain
from tests.e2e.spending import CHAT, CLAUDE, MESSAGES, MODEL, call, chat, dollars, scripted
from tests.play import Answer, Gateway, nusd

CALLS = 200
PAYS_FOR = 20
USUAL = {"output_tokens": 400, "chunk_tokens": 20, "gap_s": 0.005}


class Trouble(Struct, frozen=True):
    """One way to go wrong: what is asked, what the provider does, when the client hangs up."""

    body: dict[str, Any]
    script: dict[str, Any]
    path: str = CHAT
    leaves: bool = False


def troubles(chance: random.Random) -> list[Trouble]:
    """All of them, in an order of chance."""
    plain = chat(stream=True, max_tokens=400)
    whole = chat(max_tokens=400)
    thinking = {"type": "enabled", "budget_tokens": 1024}
    kinds = (
        Trouble(plain, USUAL),
        Trouble(whole, USUAL),
        Trouble(plain, USUAL, leaves=True),
        Trouble(plain, {**USUAL, "stall_after": 60}),
        Trouble(plain, {**USUAL, "cut_after": 100}),
        Trouble(whole, {**USUAL, "cut_after": 1}),
        Trouble(plain, {**USUAL, "no_usage": True}),
        Trouble(whole, {**USUAL, "no_usage": True}),
        Trouble(chat(stream=True, max_tokens=60, n=8), USUAL),
        Trouble(chat(max_tokens=60, n=128), USUAL),
        Trouble(chat(stream=True, max_tokens=400, model="gpt-5-mini"), {**USUAL, "reasoning_tokens": 200}),
        Trouble(
            {
                "model": CLAUDE, "messages": [{"role": "user", "content": "hello"}], "stream": True,
                "max_tokens": 1400, "thinking": thinking,
            },
            {**USUAL, "reasoning_tokens": 300}, MESSAGES,
        ),
        Trouble(whole, {**USUAL, "status": 429, "retry_after_s": 1}),
        Trouble(plain, {**USUAL, "status": 500}),
        Trouble(whole, {**USUAL, "status": 502, "html": True}),
    )  # fmt: skip
    found = [kinds[number % len(kinds)] for number in range(CALLS)]
    chance.shuffle(found)
    return found


async def test_everything_goes_wrong_at_once(tmp_path: Path, provider: ScriptedProvider) -> None:
    """The bill never exceeds the limit; afterwards nothing is held, the ledger has at least the bill, and what it has
    more is what presumed and estimated calls were charged above theirs, call by call."""
    chance = random.Random(20)
    limit = PAYS_FOR * ((len(json.dumps(chat(stream=True, max_tokens=400))) // 4 + 1) * 150 + 400 * 600)
    known: dict[str, str] = {}
    numbers = iter(range(10 * CALLS))

    async def attempt(trouble: Trouble) -> Answer | None:
        payer = f"r.{next(numbers)}"
        leave = chance.randint(1, 3_000) if trouble.leaves else None
        heads = {"authorization": f"Bearer {payer}", "x_api_key": payer, "x_scripted": json.dumps(trouble.script)}
        try:
            answer = await call(
                gateway, "r", trouble.body, path=trouble.path, leave=leave, x_meterbox_limit_usd=dollars(limit), **heads
            )
        except (OSError, EOFError):
            return None
        known[answer.headers["x-meterbox-call-id"]] = payer
        return answer

    async def client(trouble: Trouble) -> Answer | None:
        """As SDKs do: what broke, or was overloaded, is tried once more."""
        await asyncio.sleep(chance.random() * 0.5)
        answer = await attempt(trouble)
        again = answer is None or (answer.status >= 429 and answer.headers.get("x-should-retry") != "false")
        return await attempt(trouble) if again else answer

    timeouts = "timeouts = { gap_s = 1, first_token_s = 5 }\n"
    with Gateway(tmp_path, scripted(provider, timeouts)) as gateway:
        watching = asyncio.ensure_future(watch(provider, limit))
        answers = await asyncio.gather(*(client(trouble) for trouble in troubles(chance)))
        assert not watching.done(), watching
        watching.cancel()
        await asyncio.wait_for(provider.quiet(), 30)
        told = await asyncio.to_thread(gateway.quiet, "r", 30)
        assert 0 == nusd(told["held_usd"])
        assert 0 < provider.bill_nusd() <= limit
        assert nusd(told["spent_usd"]) <= limit
        assert {200, 402} <= {answer.status for answer in answers if answer is not None}
        presumed, difference = await asyncio.to_thread(explain, gateway, provider, known)
        assert presumed > 0
        assert difference == nusd(told["spent_usd"]) - provider.bill_nusd()
    said = await asyncio.to_thread(audit, gateway)
    assert 0 == said.returncode, said.stdout


async def watch(provider: ScriptedProvider, limit: int) -> None:
    """The bill is within the limit at every moment, not only in the end."""
    while True:
        assert provider.bill_nusd() <= limit
        await asyncio.sleep(0.02)


def test_the_storm_is_what_it_says() -> None:
    """Two hundred calls, of every kind at least ten."""
    kinds = troubles(random.Random(1))
    assert CALLS == len(kinds)
    assert MODEL in {trouble.body["model"] for trouble in kinds}
    assert all(10 <= kinds.count(kind) for kind in kinds)

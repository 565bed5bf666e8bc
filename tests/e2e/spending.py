"""What the end-to-end tests of the money share: calls as an agent sends them, and the two bills side by side.

Invariant: the payer at the provider is whoever the call's credential names, the run itself unless a test says else.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from msgspec import Struct

from gateway.demo.provider import ScriptedProvider
from tests.play import NUSD, Answer, Gateway, fetch, nusd

MODEL = "gpt-4o-mini"
CLAUDE = "claude-sonnet-4-5"
BOUNDS = {"presumed", "estimate"}
CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"


def scripted(provider: ScriptedProvider, more: str = "") -> str:
    """The configuration of a gateway in front of this provider; `more` is laid behind it."""
    return f'[providers.scripted]\npreset = "scripted"\nbase_url = "{provider.origin}"\n{more}'


def chat(stream: bool = False, words: int = 50, **more: Any) -> dict[str, Any]:
    """A small chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "hello " * words}], "stream": stream, **more}


def messages(stream: bool = True, **more: Any) -> dict[str, Any]:
    """A small Anthropic request."""
    return {"model": CLAUDE, "messages": [{"role": "user", "content": "hello"}], "stream": stream, **more}


def dollars(amount_nusd: int) -> str:
    """Nano-dollars as a header's decimal."""
    return f"{amount_nusd // NUSD}.{amount_nusd % NUSD:09d}"


async def call(
    gateway: Gateway, run: str, body: Any, *, path: str = CHAT, leave: int | None = None, **heads: Any
) -> Answer:
    """One call of a run; its payer at the provider is the run itself. Underscores in header names are hyphens."""
    headers = {"x-meterbox-run-id": run, "authorization": f"Bearer {run}"}
    headers |= {name.replace("_", "-"): str(value) for name, value in heads.items()}
    return await fetch(gateway.port, f"/scripted{path}", body, headers, leave)


async def settled(gateway: Gateway, provider: ScriptedProvider, run: str) -> tuple[dict[str, Any], int]:
    """The run once nothing is held, and the provider's bill for it; checks that the difference is explained."""
    await asyncio.wait_for(provider.quiet(), 20)
    told = await asyncio.to_thread(gateway.quiet, run)
    bill, ledger = provider.bill_nusd(run), nusd(told["spent_usd"])
    calls = await asyncio.to_thread(gateway.items, f"/api/runs/{run}/calls")
    assert 0 == nusd(told["held_usd"])
    assert bill <= ledger
    assert ledger == sum(nusd(one["cost_usd"]) for one in calls)
    if not any(one["cost_source"] in BOUNDS for one in calls):
        assert bill == ledger
    return told, bill


class Storm(Struct):
    """What came of many calls at once; seconds."""

    answers: list[Answer]
    each_s: list[float]
    usual_s: float  # what such a call takes at the median in the same storm where money is no matter

    @property
    def served(self) -> int:
        """Calls that were answered."""
        return sum(answer.status == 200 for answer in self.answers)

    def waits(self) -> list[float]:
        """How long each served call took beyond what is usual, ascending."""
        return sorted(
            max(0.0, each - self.usual_s)
            for each, answer in zip(self.each_s, self.answers, strict=True)
            if answer.status == 200
        )


async def storm(gateway: Gateway, body: Any, calls: int, limit_nusd: int, path: str = CHAT) -> Storm:
    """So many equal calls at the same moment on a run that may spend so much; the same first on one that has plenty."""
    rich, each = await _burst(gateway, body, calls, "rich", path)
    assert {200} == {answer.status for answer in rich}
    answers, each_s = await _burst(gateway, body, calls, "r", path, x_meterbox_limit_usd=dollars(limit_nusd))
    return Storm(answers, each_s, statistics.median(each))


async def _burst(
    gateway: Gateway, body: Any, calls: int, run: str, path: str, **heads: Any
) -> tuple[list[Answer], list[float]]:
    async def one() -> tuple[Answer, float]:
        begun = time.monotonic()
        answer = await call(gateway, run, body, path=path, **heads)
        return answer, time.monotonic() - begun

    made = await asyncio.gather(*(one() for _ in range(calls)))
    return [answer for answer, _ in made], [each for _, each in made]
